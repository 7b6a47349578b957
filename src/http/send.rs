//! `POST /send` and `POST /notify` (also `/broadcast`): a client's messages into the bus.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::body::{BodyKind, body_kind, form_value};
use super::several::{self, is_several};
use super::{ApiError, Caller, ClientIdentity, ErrorBody, Services};
use crate::bus::envelope::{BodyError, PAYLOAD_KEYS, SendBody, destination};
use crate::bus::{KEY_BYTES_MAX, Message as BusMessage, Payload, Turn, check_topic, fingerprint};

/// The content type of bytes that came without one.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// Longest content type of bytes, bytes: AMQP's limit.
const TYPE_BYTES_MAX: usize = 255;
/// Header in which a topic may stand.
const TOPIC_HEADER: &str = "X-Topic";
const TOPIC: &str = "topic";
/// Header with a key under which a call is made once.
const KEY_HEADER: &str = "Idempotency-Key";
/// Header of answers to repeats of such calls.
const REPLAYED_HEADER: HeaderName = HeaderName::from_static("idempotency-replayed");
const ACCEPTED: &str = "accepted";

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

/// Which of the two ways a message takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To those who subscribe to its topic.
    Publish,
    /// To everybody.
    Broadcast,
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
///
/// With the header `Idempotency-Key` a call that may have been made already can be made again: for a while, the same key with the
/// same body is answered as the first time, and nothing is sent again.
#[utoipa::path(post, path = "/send", tag = "messages", security(("basic" = ["client"])),
    params(("topic" = Option<String>, Query, description = "The topic, if the body has none"),
        ("X-Topic" = Option<String>, Header, description = "The topic, if neither body nor query has one"),
        ("Idempotency-Key" = Option<String>, Header, description = "The call is made once under this key, 1 to 255 characters")),
    request_body(content((Messages = "application/json",
        example = json!({"topic": "soar.noc.slocum.s1.status", "body": {"battery": 64}})), (String = "application/x-ndjson"))),
    responses((status = 200, body = Answer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn send(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    answer(services, request, caller, Way::Publish).await
}

/// Sends a message to every client, whatever its patterns. The body is that of `/send`; a topic is not
/// needed and is passed on as information. There may be several, as for `/send`. `/broadcast` is the same.
#[utoipa::path(post, path = "/notify", tag = "messages", security(("basic" = ["client"])),
    params(("topic" = Option<String>, Query, description = "The topic, if the body has none"),
        ("Idempotency-Key" = Option<String>, Header, description = "The call is made once under this key, 1 to 255 characters")),
    request_body(content((Messages = "application/json", example = json!({"body": "all stop"})), (String = "application/x-ndjson"))),
    responses((status = 200, body = Answer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn notify(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    answer(services, request, caller, Way::Broadcast).await
}

/// Makes the call, or answers as before if it was made under the same key.
async fn answer(
    services: web::Data<Services>,
    request: HttpRequest,
    caller: Caller,
    way: Way,
) -> Result<HttpResponse, ApiError> {
    let Some(key) = idempotency_key(&request)? else {
        return Ok(json(accept(&services, &request, &caller, way).await?));
    };
    // Whoever goes away before the answer must not take along what is known of the call.
    let call = async move { once(&services, &request, &caller, way, &key).await };
    let made = actix_web::rt::spawn(call).await;
    made.map_err(|error| ApiError::internal(&error))?
}

/// Makes a call that has a key, unless it was made.
async fn once(
    services: &Services,
    request: &HttpRequest,
    caller: &Caller,
    way: Way,
    key: &str,
) -> Result<HttpResponse, ApiError> {
    let topic = outer_topic(request)?.unwrap_or_default();
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let parts = [way.name(), topic.as_bytes(), content_type, &caller.body];
    let client = &caller.identity.name;
    let keys = services.bus.idempotency();
    match keys.turn(client, key, &fingerprint(&parts)).await {
        Ok(Turn::First(claim)) => {
            let answer = accept(services, request, caller, way).await?;
            claim.answer(&answer);
            Ok(json(answer))
        }
        Ok(Turn::Repeat(answer)) => {
            let mut answer = json(answer.to_string());
            let replayed = HeaderValue::from_static("true");
            answer.headers_mut().insert(REPLAYED_HEADER, replayed);
            Ok(answer)
        }
        Err(other) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Err(ApiError::new(status, "key_reused", other.to_string()).with_field(KEY_HEADER))
        }
    }
}

/// The key of the call, if it has one.
fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let mut given = request.headers().get_all(KEY_HEADER);
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let key = key.to_str().ok().filter(|_| given.next().is_none());
    match key {
        Some(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let message =
                format!("there must be one key of 1 to {KEY_BYTES_MAX} visible characters");
            Err(ApiError::invalid_field(KEY_HEADER, message))
        }
    }
}

/// Takes one message or several; returns the body of the answer.
async fn accept(
    services: &Services,
    request: &HttpRequest,
    caller: &Caller,
    way: Way,
) -> Result<String, ApiError> {
    check_encoding(request)?;
    let (bus, client) = (&services.bus, &caller.identity.name);
    if is_several(request, &caller.body) {
        let submissions = read_several(request, caller, way)?;
        let messages = messages(&submissions);
        let ids = match way {
            Way::Publish => bus.send_all(client, &messages).await?,
            Way::Broadcast => bus.notify_all(client, &messages).await?,
        };
        return text(&AcceptedAll {
            message: ACCEPTED,
            ids,
        });
    }
    let submission = read(request, &caller.body)?.on(way)?;
    let id = accept_one(services, client, way, &submission).await?;
    text(&Accepted {
        message: ACCEPTED,
        id,
        topic: submission.topic,
    })
}

/// Takes a message that came in a frame of a websocket; returns its id and its topic.
pub(super) async fn accept_frame(
    services: &Services,
    client_id: &str,
    way: Way,
    frame: &[u8],
) -> Result<(String, Option<String>), ApiError> {
    let parsed = SendBody::parse(frame)?;
    if let Some(named) = parsed.client_id {
        several::check_same_client(client_id, named)?;
    }
    let submission = Submission {
        topic: parsed.topic,
        payload: Content::Json(parsed.payload),
    };
    let submission = submission.on(way)?;
    let id = accept_one(services, client_id, way, &submission).await?;
    Ok((id, submission.topic))
}

async fn accept_one(
    services: &Services,
    client_id: &str,
    way: Way,
    submission: &Submission<'_>,
) -> Result<String, ApiError> {
    let (topic, payload) = (submission.topic.as_deref(), submission.payload());
    let bus = &services.bus;
    Ok(match way {
        Way::Publish => {
            bus.send(client_id, topic.unwrap_or_default(), payload)
                .await?
        }
        Way::Broadcast => bus.notify(client_id, topic, payload).await?,
    })
}

fn text(answer: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(answer).map_err(|error| ApiError::internal(&error))
}

fn json(answer: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .body(answer)
}

impl Way {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Publish => b"publish",
            Self::Broadcast => b"broadcast",
        }
    }
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

    /// The same, with the topic that its payload names if it needs one and nothing else does.
    fn on(mut self, way: Way) -> Result<Self, ApiError> {
        if way == Way::Broadcast || self.topic.is_some() {
            return Ok(self);
        }
        self.topic = match self.payload() {
            Payload::Json(value) => destination(value),
            Payload::Raw { .. } => None,
        };
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
    way: Way,
) -> Result<Vec<Submission<'a>>, ApiError> {
    let common = outer_topic(request)?;
    let read = |json: &'a [u8]| {
        let parsed = SendBody::parse(json)?;
        if let Some(named) = parsed.client_id {
            several::check_same_client(&caller.identity.name, named)?;
        }
        let submission = Submission {
            topic: parsed.topic.or_else(|| common.clone()),
            payload: Content::Json(parsed.payload),
        };
        let submission = submission.on(way)?;
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
