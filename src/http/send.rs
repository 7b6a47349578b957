//! `POST /send` and `POST /notify` (also `/broadcast`): a client's messages into the bus.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::body::{BodyKind, body_kind, form_value};
use super::{ApiError, ClientIdentity, ErrorBody, Services};
use crate::bus::Payload;
use crate::bus::envelope::{BodyError, PAYLOAD_KEYS, SendBody, destination};

/// The content type of bytes that came without one.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// Header in which a topic may stand.
const TOPIC_HEADER: &str = "X-Topic";
const TOPIC: &str = "topic";

/// A message was accepted.
#[derive(Serialize, ToSchema)]
pub struct Accepted {
    /// Always `accepted`.
    message: &'static str,
    /// The message's id, the same that its readers see.
    id: String,
    /// The topic, null for a broadcast without one.
    topic: Option<String>,
}

/// A message: exactly one of `body`, `message`, `payload` and `data`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the payload is never taken apart")]
struct Message {
    /// What it is about, 1 to 255 bytes.
    topic: Option<String>,
    /// The payload, any JSON.
    body: Option<Value>,
    /// The same under another name.
    message: Option<Value>,
    /// The same under another name.
    payload: Option<Value>,
    /// The same under another name.
    data: Option<Value>,
}

/// What a request asks to be sent.
struct Submission<'a> {
    topic: Option<String>,
    payload: Content<'a>,
}

enum Content<'a> {
    Json(&'a RawValue),
    FormText(Box<RawValue>),
    Raw(&'a [u8], &'a str),
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/send").route(web::post().to(send)))
        .service(web::resource(["/notify", "/broadcast"]).route(web::post().to(notify)));
}

/// Publishes a message: it reaches every client with a pattern that matches its topic.
///
/// A JSON body is an object with `topic` and exactly one of `body`, `message`, `payload` or `data`, which
/// may be any JSON value, nested 500 levels at most, and is handed out byte for byte. A topic that is not there is looked for in the
/// query, in the header `X-Topic`, and in the payload's `header.destination`. A body of another content
/// type is the payload itself. The answer comes once the message is in the outbox.
#[utoipa::path(post, path = "/send", tag = "messages", security(("basic" = ["client"])),
    params(("topic" = Option<String>, Query, description = "The topic, if the body has none"),
        ("X-Topic" = Option<String>, Header, description = "The topic, if neither body nor query has one")),
    request_body(content = Message, content_type = "application/json",
        example = json!({"topic": "soar.noc.slocum.s1.status", "body": {"battery": 64}})),
    responses((status = 200, body = Accepted), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn send(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let submission = read(&request, &caller.body)?;
    let topic = submission.topic_or_destination().ok_or_else(|| {
        let message =
            "a topic is needed: in the body as 'topic', in the query, or in the header X-Topic";
        ApiError::invalid_field(TOPIC, message)
    })?;
    let id = services
        .bus
        .send(&caller.identity.name, &topic, submission.payload())
        .await?;
    Ok(accepted(id, Some(topic)))
}

/// Sends a message to every client, whatever its patterns. The body is that of `/send`; a topic is not
/// needed and is passed on as information. `/broadcast` is the same.
#[utoipa::path(post, path = "/notify", tag = "messages", security(("basic" = ["client"])),
    params(("topic" = Option<String>, Query, description = "The topic, if the body has none")),
    request_body(content = Message, content_type = "application/json", example = json!({"body": "all stop"})),
    responses((status = 200, body = Accepted), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn notify(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let submission = read(&request, &caller.body)?;
    let topic = submission.topic.as_deref();
    let id = services
        .bus
        .notify(&caller.identity.name, topic, submission.payload())
        .await?;
    Ok(accepted(id, submission.topic))
}

fn accepted(id: String, topic: Option<String>) -> HttpResponse {
    HttpResponse::Ok().json(Accepted {
        message: "accepted",
        id,
        topic,
    })
}

impl Submission<'_> {
    fn payload(&self) -> Payload<'_> {
        match &self.payload {
            Content::Json(value) => Payload::Json(value),
            Content::FormText(value) => Payload::Json(value),
            Content::Raw(bytes, content_type) => Payload::Raw {
                bytes,
                content_type,
            },
        }
    }

    fn topic_or_destination(&self) -> Option<String> {
        let named = || match self.payload() {
            Payload::Json(value) => destination(value),
            Payload::Raw { .. } => None,
        };
        self.topic.clone().or_else(named)
    }
}

/// Finds topic and payload in a request.
fn read<'a>(request: &'a HttpRequest, body: &'a [u8]) -> Result<Submission<'a>, ApiError> {
    let (topic, payload) = match body_kind(request, body) {
        BodyKind::Json => {
            let parsed = SendBody::parse(body)?;
            (parsed.topic, Content::Json(parsed.payload))
        }
        BodyKind::Form => read_form(body)?,
        BodyKind::Raw => {
            let content_type = request.headers().get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            (
                None,
                Content::Raw(body, content_type.unwrap_or(UNKNOWN_TYPE)),
            )
        }
    };
    let topic = topic
        .or_else(|| form_value(request.query_string(), TOPIC))
        .or_else(|| topic_header(request));
    Ok(Submission { topic, payload })
}

/// A form's payload is a text.
fn read_form<'a>(body: &[u8]) -> Result<(Option<String>, Content<'a>), ApiError> {
    let form = std::str::from_utf8(body).unwrap_or_default();
    let mut given = PAYLOAD_KEYS.iter().filter_map(|key| form_value(form, key));
    let text = given.next().ok_or(BodyError::NoPayload)?;
    if given.next().is_some() {
        return Err(BodyError::ManyPayloads.into());
    }
    let text = to_raw_value(&text).map_err(|error| ApiError::internal(&error))?;
    Ok((form_value(form, TOPIC), Content::FormText(text)))
}

fn topic_header(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(TOPIC_HEADER)?;
    std::str::from_utf8(value.as_bytes())
        .ok()
        .map(str::to_owned)
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(send, notify))]
pub(super) struct Api;
