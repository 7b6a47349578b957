//! `POST /ack` and `POST /nack`: what became of messages that `/receive?ack=explicit` handed out.

use actix_web::{HttpResponse, web};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::body::parse_json;
use super::{ApiError, ClientIdentity, ErrorBody, Services};
use crate::bus::{AckId, Acknowledged};

/// Ids of all messages that a client may have are fewer, bytes.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What became of the messages.
#[derive(Serialize, ToSchema)]
struct AckAnswer {
    /// How many messages the client had of those that it named.
    count: usize,
    /// The other ids: acknowledged or given back before, or the lease was over. Such a message comes again.
    unknown: Vec<String>,
}

/// Messages that the client has dealt with.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
struct AckFields {
    /// What stands under `ack` in the items of `/receive?ack=explicit`.
    ids: Vec<String>,
}

/// Messages that the client could not deal with.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
struct NackFields {
    /// What stands under `ack` in the items of `/receive?ack=explicit`.
    ids: Vec<String>,
    /// Whether they go back to their places, which is the default. Without it they are dead letters, if a policy of the inbox says
    /// where these go, and else they are gone.
    requeue: Option<bool>,
}

/// The fields as they stand there: each is read by itself, so that the one to blame can be named.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    ids: &'a RawValue,
    #[serde(borrow)]
    requeue: Option<&'a RawValue>,
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/ack").route(web::post().to(ack)))
        .service(web::resource("/nack").route(web::post().to(nack)));
}

/// Acknowledges messages that `/receive?ack=explicit` handed out: they are gone for good.
#[utoipa::path(post, path = "/ack", tag = "messages", security(("basic" = ["client"])),
    request_body(content = AckFields, content_type = "application/json", example = json!({"ids": ["c0ffee00c0ffee00-0"]})),
    responses((status = 200, body = AckAnswer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody)))]
async fn ack(
    services: web::Data<Services>,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let ids = field("ids", fields(&caller.body)?.ids)?;
    let acknowledged = services.bus.acknowledge(&caller.identity.name, ids);
    Ok(answer(acknowledged))
}

/// Gives messages back that `/receive?ack=explicit` handed out: they come again, in their old places.
#[utoipa::path(post, path = "/nack", tag = "messages", security(("basic" = ["client"])),
    request_body(content = NackFields, content_type = "application/json", example = json!({"ids": ["c0ffee00c0ffee00-0"]})),
    responses((status = 200, body = AckAnswer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody)))]
async fn nack(
    services: web::Data<Services>,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let fields = fields(&caller.body)?;
    let requeue: Option<bool> = match fields.requeue {
        Some(requeue) => field("requeue", requeue)?,
        None => None,
    };
    let ids = field("ids", fields.ids)?;
    let requeue = requeue.unwrap_or(true);
    let rejected = services.bus.reject(&caller.identity.name, ids, requeue);
    Ok(answer(rejected))
}

fn answer(acknowledged: Acknowledged) -> HttpResponse {
    HttpResponse::Ok().json(AckAnswer {
        count: acknowledged.count,
        unknown: acknowledged.unknown.iter().map(AckId::to_string).collect(),
    })
}

fn fields(body: &[u8]) -> Result<Fields<'_>, ApiError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(ApiError::too_large(BODY_BYTES_MAX as u64));
    }
    // serde would take an array for the fields in their order.
    match body.trim_ascii_start().first() {
        Some(b'[') => Err(ApiError::invalid_field(
            "ids",
            "the body must be an object with 'ids'",
        )),
        _ => parse_json(body),
    }
}

fn field<T: DeserializeOwned>(name: &'static str, value: &RawValue) -> Result<T, ApiError> {
    serde_json::from_str(value.get())
        .map_err(|error| ApiError::invalid_field(name, format!("{name}: {error}")))
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(ack, nack))]
pub(super) struct Api;
