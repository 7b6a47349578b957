//! How a client proves who it is on a websocket: with the request (the header `Authorization`, or the query), or with its first frame,
//! since browsers can set no header.
//!
//! The first frame is `Bearer …` or `Basic …`, as the header would be, or JSON with that, or a bare token, under one of [`KEYS`], at the
//! top or below `headers` or `body`; or JSON with `client_id` and `secret`.

use std::sync::Arc;

use actix_web::HttpRequest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::body::form_value;
use super::{ApiError, Services, credentials};
use crate::auth::{Identity, IdentityKind};
use crate::bus::ClientRecord;

/// Where a token or a whole header may stand.
const KEYS: [&str; 4] = ["Authorization", "authorization", "token", "access_token"];
/// Below which fields it may stand.
const PLACES: [&str; 2] = ["headers", "body"];

/// Who the request is from; `None` if it does not say.
pub(super) async fn by_request(request: &HttpRequest) -> Result<Option<Identity>, ApiError> {
    if let Some(identity) = credentials::outside(request).await? {
        return Ok(Some(identity));
    }
    match form_value(request.query_string(), "token") {
        Some(token) => by_value(request, &token).await.map(Some),
        None => Ok(None),
    }
}

/// Who the first frame is from.
pub(super) async fn by_frame(request: &HttpRequest, frame: &str) -> Result<Identity, ApiError> {
    let frame = frame.trim();
    let Ok(Value::Object(fields)) = serde_json::from_str(frame) else {
        let plain = serde_json::from_str::<String>(frame);
        return by_value(request, plain.as_deref().unwrap_or(frame)).await;
    };
    let below = PLACES
        .iter()
        .filter_map(|place| fields.get(*place)?.as_object());
    let mut places = std::iter::once(&fields).chain(below);
    let found = places.find_map(|fields| value_in(request, fields));
    let value = found.ok_or_else(|| {
        let message = "the first message has to be Bearer and a token, or Basic and base64 of id:secret, or JSON with \
                       that under 'Authorization'";
        ApiError::unauthorized("missing_credentials", message)
    })?;
    let identity = by_value(request, &value).await?;
    let named = fields.get("client_id");
    match named.is_none_or(|named| named.as_str() == Some(&*identity.name)) {
        true => Ok(identity),
        false => Err(
            ApiError::forbidden("client_id differs from the credentials").with_field("client_id"),
        ),
    }
}

/// The client that it is; users have no inbox.
pub(super) fn client(
    services: &Services,
    identity: Identity,
) -> Result<Arc<ClientRecord>, ApiError> {
    match identity.kind {
        IdentityKind::Client => Ok(services.bus.client(&identity.name)?),
        IdentityKind::User(_) => Err(ApiError::forbidden(
            "a user has no outbox and no inbox; call as a client",
        )),
    }
}

/// The value of a header, or a bare token.
async fn by_value(request: &HttpRequest, value: &str) -> Result<Identity, ApiError> {
    let value = value.trim();
    match value.contains(' ') {
        true => credentials::by_authorization(request, value).await,
        false => credentials::by_authorization(request, &format!("Bearer {value}")).await,
    }
}

/// What says in an object who sends it.
fn value_in(request: &HttpRequest, fields: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| fields.get(key)?.as_str();
    if let Some(value) = KEYS.iter().find_map(|key| text(key)) {
        return Some(value.to_owned());
    }
    if !credentials::may_be_inline(request) {
        return None;
    }
    let secret = text("secret").or_else(|| text("client_secret"))?;
    let pair = format!("{}:{secret}", text("client_id")?);
    Some(format!("Basic {}", STANDARD.encode(pair)))
}
