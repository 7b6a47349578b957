//! `POST /send` and `POST /notify` (also `/broadcast`): a client's messages into the bus.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::body::{BodyKind, body_kind, form_value};
use super::several::{self, is_several};
use super::{ApiError, Caller, ClientIdentity, ErrorBody, Services};
use crate::bus::envelope::{BodyError, PAYLOAD_KEYS, SendBody, destination};
use crate::bus::{Message as BusMessage, Payload, check_topic};

/// The content type of bytes that came without one.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// Longest content type of bytes, bytes: AMQP's limit.
const TYPE_BYTES_MAX: usize = 255;
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

/// Several messages were accepted.
#[derive(Serialize, ToSchema)]
pub struct AcceptedAll {
    /// Always `accepted`.
    message: &'static str,
    /// The messages' ids, in their order.
    ids: Vec<String>,
}

/// The answer to one message, or to several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "documentation")]
enum Answer {
    One(Accepted),
    Several(AcceptedAll),
}

/// One message, or a list of at most 10,000.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "documentation")]
enum Messages {
    One(Message),
    Several(Vec<Message>),
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
///
/// Several messages, 10,000 at most, come as a JSON array of such objects, or as lines of them (`application/x-ndjson`). They are
/// sent in their order, and if one of them is not valid, none is; the answer has their ids.
#[utoipa::path(post, path = "/send", tag = "messages", security(("basic" = [])),
    params(("topic" = Option<String>, Query, description = "The topic, if the body has none"),
        ("X-Topic" = Option<String>, Header, description = "The topic, if neither body nor query has one")),
    request_body(content((Messages = "application/json",
        example = json!({"topic": "soar.noc.slocum.s1.status", "body": {"battery": 64}})), (String = "application/x-ndjson"))),
    responses((status = 200, body = Answer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn send(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    check_encoding(&request)?;
    let client = &caller.identity.name;
    if is_several(&request, &caller.body) {
        let submissions = read_several(&request, &caller, true)?;
        let messages = messages(&submissions);
        let ids = services.bus.send_all(client, &messages).await?;
        return Ok(accepted_all(ids));
    }
    let submission = read(&request, &caller.body)?.with_topic()?;
    let topic = submission.topic.as_deref().unwrap_or_default();
    let id = services
        .bus
        .send(client, topic, submission.payload())
        .await?;
    Ok(accepted(id, submission.topic))
}

/// Sends a message to every client, whatever its patterns. The body is that of `/send`; a topic is not
/// needed and is passed on as information. There may be several, as for `/send`. `/broadcast` is the same.
#[utoipa::path(post, path = "/notify", tag = "messages", security(("basic" = [])),
    params(("topic" = Option<String>, Query, description = "The topic, if the body has none")),
    request_body(content((Messages = "application/json", example = json!({"body": "all stop"})), (String = "application/x-ndjson"))),
    responses((status = 200, body = Answer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn notify(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    check_encoding(&request)?;
    let client = &caller.identity.name;
    if is_several(&request, &caller.body) {
        let submissions = read_several(&request, &caller, false)?;
        let messages = messages(&submissions);
        let ids = services.bus.notify_all(client, &messages).await?;
        return Ok(accepted_all(ids));
    }
    let submission = read(&request, &caller.body)?;
    let topic = submission.topic.as_deref();
    let id = services
        .bus
        .notify(client, topic, submission.payload())
        .await?;
    Ok(accepted(id, submission.topic))
}

fn accepted_all(ids: Vec<String>) -> HttpResponse {
    HttpResponse::Ok().json(AcceptedAll {
        message: "accepted",
        ids,
    })
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

    /// The same, with the topic that its payload names if nothing else does.
    fn with_topic(mut self) -> Result<Self, ApiError> {
        let named = |payload| match payload {
            Payload::Json(value) => destination(value),
            Payload::Raw { .. } => None,
        };
        self.topic = self.topic.take().or_else(|| named(self.payload()));
        match self.topic {
            Some(_) => Ok(self),
            None => Err(ApiError::invalid_field(
                TOPIC,
                "a topic is needed: in the body as 'topic', in the query, or in the header X-Topic",
            )),
        }
    }
}

fn messages<'a>(submissions: &'a [Submission<'a>]) -> Vec<BusMessage<'a>> {
    let message = |submission: &'a Submission<'a>| BusMessage {
        topic: submission.topic.as_deref(),
        payload: submission.payload(),
    };
    submissions.iter().map(message).collect()
}

/// Finds topics and payloads of several messages; the topic of the request is that of messages without one.
fn read_several<'a>(
    request: &HttpRequest,
    caller: &'a Caller,
    topic_needed: bool,
) -> Result<Vec<Submission<'a>>, ApiError> {
    let common = outer_topic(request)?;
    let read = |json: &'a [u8]| {
        let parsed = SendBody::parse(json)?;
        if let Some(named) = parsed.client_id {
            several::check_same_client(&caller.identity, named)?;
        }
        let mut submission = Submission {
            topic: parsed.topic.or_else(|| common.clone()),
            payload: Content::Json(parsed.payload),
        };
        if topic_needed {
            submission = submission.with_topic()?;
        }
        submission.topic.as_deref().map(check_topic).transpose()?;
        Ok(submission)
    };
    let parts = several::parts(request, &caller.body)?;
    let all = parts.into_iter().enumerate();
    all.map(|(index, json)| read(json).map_err(|error: ApiError| error.in_message(index)))
        .collect()
}

/// Finds topic and payload in a request.
fn read<'a>(request: &'a HttpRequest, body: &'a [u8]) -> Result<Submission<'a>, ApiError> {
    let (topic, payload) = match body_kind(request, body) {
        BodyKind::Json => {
            let parsed = SendBody::parse(body)?;
            (parsed.topic, Content::Json(parsed.payload))
        }
        BodyKind::Form => read_form(body)?,
        // Lines are several messages, and not read here.
        BodyKind::Raw | BodyKind::Lines => (None, Content::Raw(body, raw_type(request)?)),
    };
    let topic = match topic {
        Some(topic) => Some(topic),
        None => outer_topic(request)?,
    };
    Ok(Submission { topic, payload })
}

/// The content type of a body that is the payload.
fn raw_type(request: &HttpRequest) -> Result<&str, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or(UNKNOWN_TYPE);
    match content_type.len() <= TYPE_BYTES_MAX {
        true => Ok(content_type),
        false => {
            let message = format!("the content type is longer than {TYPE_BYTES_MAX} bytes");
            Err(ApiError::invalid_field("Content-Type", message))
        }
    }
}

/// Readers could not be told of a coding of the whole body, so that there is none.
fn check_encoding(request: &HttpRequest) -> Result<(), ApiError> {
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match encoding.is_none_or(is_plain) {
        true => Ok(()),
        false => {
            let message = "bodies are taken as they are: send this one without a Content-Encoding";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(ApiError::new(status, "unsupported_encoding", message)
                .with_field("Content-Encoding"))
        }
    }
}

/// The topic in the query or in a header.
fn outer_topic(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    if let Some(topic) = form_value(request.query_string(), TOPIC) {
        return Ok(Some(topic));
    }
    let Some(value) = request.headers().get(TOPIC_HEADER) else {
        return Ok(None);
    };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(topic) => Ok(Some(topic.to_owned())),
        Err(_) => Err(ApiError::invalid_field(
            TOPIC_HEADER,
            "the header X-Topic is not UTF-8",
        )),
    }
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

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(send, notify))]
pub(super) struct Api;
