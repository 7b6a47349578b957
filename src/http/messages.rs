//! `POST /api/exchanges/{vhost}/{name}/publish` and `POST /api/queues/{vhost}/{name}/get`: single messages for people and their
//! tools, in the shape of RabbitMQ's management interface.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::bindings::exchange_name;
use super::management::{Manager, bad_request, not_authorised, object, required};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{Afterwards, Got, Refusal};

/// A message to be published.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct PublishFields {
    /// The properties under their names in AMQP, with `_`.
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
    routing_key: String,
    /// The body.
    payload: String,
    /// How the body is written: `string` or `base64`.
    payload_encoding: String,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
struct Published {
    /// At least one queue took it.
    routed: bool,
}

/// Which messages are wanted.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct GetFields {
    /// How many at most; one answer has 10,000 and 64 MiB at most.
    count: u64,
    /// `ack_requeue_true` and `reject_requeue_true` leave them in the queue, `ack_requeue_false` takes them out,
    /// `reject_requeue_false` makes dead letters of them.
    ackmode: String,
    /// `auto`: bodies that are text are shown as such; `base64`: none are.
    encoding: String,
    /// Bytes that are shown of a body.
    truncate: Option<u64>,
}

/// A message.
#[derive(Serialize, ToSchema)]
struct MessageBody {
    /// How long the body is, bytes.
    payload_bytes: usize,
    redelivered: bool,
    /// The exchange that brought it, empty for the default exchange.
    exchange: String,
    routing_key: String,
    /// Messages that were ready behind it.
    message_count: u64,
    /// Those that are set.
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
    /// The body, or the beginning of it.
    payload: String,
    /// `string` or `base64`.
    payload_encoding: &'static str,
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/api/exchanges/{vhost}/{name}/publish").route(web::post().to(publish)),
        )
        .service(web::resource("/api/queues/{vhost}/{name}/get").route(web::post().to(get)));
}

/// Publishes a message, and waits until it is as safe as its queues want it.
#[utoipa::path(post, path = "/api/exchanges/{vhost}/{name}/publish", tag = "messages", security(("basic" = [])),
    request_body = PublishFields,
    params(("vhost" = String, Path), ("name" = String, Path, description = "amq.default is the default exchange")),
    responses((status = 200, body = Published), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn publish(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let acting = manager.acting(&services, &vhost)?;
    let fields = manager.fields()?;
    if !fields.contains_key("properties") {
        return Err(bad_request("[{key_missing,properties}]"));
    }
    let key = required(&fields, "routing_key")?;
    let properties = object(&fields, "properties")?;
    let payload = required(&fields, "payload")?;
    let body = match &*required(&fields, "payload_encoding")? {
        "string" => payload.into_bytes(),
        "base64" => {
            let decoded = STANDARD.decode(payload.trim());
            decoded.map_err(|_| bad_request("not_base64: payload"))?
        }
        other => return Err(bad_request(format!("unsupported_encoding: {other}"))),
    };
    let published = acting.publish(exchange_name(&name), &key, &properties, &body);
    match published.await {
        Ok(routed) => Ok(HttpResponse::Ok().json(Published { routed })),
        Err(refusal) => Err(not_published(refusal)),
    }
}

/// RabbitMQ says why with AMQP's code.
fn not_published(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Access(_) | Refusal::NotFound(_) => {
            let code = refusal.code().unwrap_or_default();
            bad_request(format!("{code} {refusal}"))
        }
        Refusal::Other(..) | Refusal::Values(_) => bad_request(refusal.to_string()),
        Refusal::Engine(error) => error.into(),
    }
}

/// Shows messages of a queue, the oldest first, and leaves them there or takes them out.
#[utoipa::path(post, path = "/api/queues/{vhost}/{name}/get", tag = "messages", security(("basic" = [])),
    request_body = GetFields, params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<MessageBody>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn get(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let acting = manager.acting(&services, &vhost)?;
    let fields = manager.fields()?;
    let missing = |name: &str| bad_request(format!("[{{key_missing,{name}}}]"));
    let afterwards = match &*required(&fields, "ackmode")? {
        "ack_requeue_true" | "reject_requeue_true" => Afterwards::Requeue,
        "ack_requeue_false" => Afterwards::Done,
        "reject_requeue_false" => Afterwards::Reject,
        other => return Err(bad_request(format!("unsupported ackmode: {other}"))),
    };
    let count = number(&fields, "count")?.ok_or_else(|| missing("count"))?;
    let as_text = match &*required(&fields, "encoding")? {
        "auto" => true,
        "base64" => false,
        _ => {
            let reason = "Unsupported encoding. Please use auto or base64.";
            return Err(bad_request(reason));
        }
    };
    let body_max = number(&fields, "truncate")?.unwrap_or(usize::MAX);
    let got = acting.get(&name, count, body_max, afterwards);
    let got = got.map_err(not_got)?.into_iter();
    let messages: Vec<_> = got.map(|it| MessageBody::of(it, as_text)).collect();
    Ok(HttpResponse::Ok().json(messages))
}

fn not_got(refusal: Refusal) -> ApiError {
    let said = refusal.to_string();
    match refusal {
        Refusal::Access(_) => not_authorised(&said),
        Refusal::NotFound(_) => ApiError::management(StatusCode::NOT_FOUND, "not_found", said),
        Refusal::Other(..) | Refusal::Values(_) => bad_request(said),
        Refusal::Engine(error) => error.into(),
    }
}

/// A number among the fields of a body, also as a text.
fn number(fields: &Map<String, Value>, name: &str) -> Result<Option<usize>, ApiError> {
    let number = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64().map(|number| number as usize),
    };
    number
        .map(Some)
        .ok_or_else(|| bad_request(format!("not_int: {name}")))
}

impl MessageBody {
    fn of(got: Got, as_text: bool) -> Self {
        let text = match as_text {
            true => String::from_utf8(got.body).map_err(|error| error.into_bytes()),
            false => Err(got.body),
        };
        let (payload, payload_encoding) = match text {
            Ok(text) => (text, "string"),
            Err(bytes) => (STANDARD.encode(bytes), "base64"),
        };
        Self {
            payload_bytes: got.body_len,
            redelivered: got.redelivered,
            exchange: got.exchange,
            routing_key: got.routing_key,
            message_count: got.left,
            properties: got.properties,
            payload,
            payload_encoding,
        }
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(publish, get))]
pub(super) struct Api;
