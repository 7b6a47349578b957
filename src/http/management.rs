//! What the pages below `/api` have in common: who may look and change, and RabbitMQ's words for refusals.
//!
//! A user's tags decide. `management` opens the interface; whoever has it sees the vhosts that it may enter.
//! `policymaker` makes policies there, `monitoring` sees all vhosts, `administrator` may do everything. A client of the
//! bus has no business here.

use std::future::Future;
use std::pin::Pin;

use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpRequest, dev};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::error::NOT_AUTHORISED;
use super::policies::invalid;
use super::{ApiError, Caller, Services};
use crate::auth::{Identity, IdentityKind, UserError};
use crate::engine::{Acting, EngineError, Refusal};

/// A user to whom the interface is open.
#[derive(Debug)]
pub(super) struct Manager {
    pub identity: Identity,
    pub body: Bytes,
}

/// A user with the tag `administrator`.
#[derive(Debug)]
pub(super) struct Administrator(pub Manager);

type Extraction<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

impl FromRequest for Manager {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let caller = Caller::from_request(request, payload);
        Box::pin(async move {
            let Caller { identity, body } = caller.await.map_err(ApiError::in_management)?;
            match identity.kind {
                IdentityKind::Client => {
                    let message = "a client of the bus cannot look at the broker";
                    Err(ApiError::forbidden(message))
                }
                IdentityKind::User(tags) if tags.may_manage() => Ok(Self { identity, body }),
                IdentityKind::User(_) => Err(not_authorised("Not management user")),
            }
        })
    }
}

impl FromRequest for Administrator {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let manager = Manager::from_request(request, payload);
        Box::pin(async move {
            let manager = manager.await?;
            match manager.identity.is_administrator() {
                true => Ok(Self(manager)),
                false => Err(not_authorised("Not administrator user")),
            }
        })
    }
}

impl Manager {
    /// Whether it sees what is in `vhost`.
    pub fn sees(&self, services: &Services, vhost: &str) -> bool {
        self.identity.tags().may_monitor() || self.may_enter(services, vhost)
    }

    fn may_enter(&self, services: &Services, vhost: &str) -> bool {
        services.auth.users().may_enter(&self.identity.name, vhost)
    }

    /// That `vhost` is there and it sees what is in it.
    pub fn check_sees(&self, services: &Services, vhost: &str) -> Result<(), ApiError> {
        check_vhost(services, vhost)?;
        match self.sees(services, vhost) {
            true => Ok(()),
            false => Err(no_access()),
        }
    }

    /// It at work in `vhost`, where it may do what its permissions say, whatever its tags.
    pub fn acting(&self, services: &Services, vhost: &str) -> Result<Acting, ApiError> {
        let gone = || {
            let reason = "vhost_not_found";
            ApiError::management(StatusCode::NOT_FOUND, "not_found", reason)
        };
        if !services.engine.has_vhost(vhost) {
            return Err(gone());
        }
        let access = services.auth.access(&self.identity, vhost);
        let access = access.ok_or_else(no_access)?;
        let acting = services.engine.acting(vhost, &self.identity.name, access);
        acting.ok_or_else(gone)
    }

    /// The fields of its body.
    pub fn fields(&self) -> Result<Map<String, Value>, ApiError> {
        if self.body.is_empty() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&self.body).map_err(|_| bad_request("not_json"))
    }
}

/// A text among the fields of a body; none: it is not there.
pub(super) fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad_request(format!("{name} should be a text"))),
    }
}

/// Yes or no among the fields of a body, in JSON or as a text; no if it is not there.
pub(super) fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(is)) => Ok(*is),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(_) => Err(bad_request(format!("not_boolean: {name}"))),
    }
}

/// An object among the fields of a body; empty if it is not there.
pub(super) fn object(
    fields: &Map<String, Value>,
    name: &str,
) -> Result<Map<String, Value>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object.clone()),
        // How RabbitMQ writes an empty one.
        Some(Value::Array(items)) if items.is_empty() => Ok(Map::new()),
        Some(_) => Err(bad_request(format!("{name} should be an object"))),
    }
}

/// A text that has to be there.
pub(super) fn required(fields: &Map<String, Value>, name: &str) -> Result<String, ApiError> {
    text(fields, name)?.ok_or_else(|| bad_request(format!("[{{key_missing,{name}}}]")))
}

/// A list of texts, which may also be one text with commas; none: it is not there.
pub(super) fn list(
    fields: &Map<String, Value>,
    name: &str,
) -> Result<Option<Vec<String>>, ApiError> {
    let refused = || bad_request(format!("{name} should be a list of texts"));
    let items: Vec<String> = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.split(',').map(|it| it.trim().to_owned()).collect(),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|it| it.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or_else(refused)?
        }
        Some(_) => return Err(refused()),
    };
    Ok(Some(
        items.into_iter().filter(|it| !it.is_empty()).collect(),
    ))
}

/// That there is a vhost of that name.
pub(super) fn check_vhost(services: &Services, vhost: &str) -> Result<(), ApiError> {
    match services.engine.has_vhost(vhost) {
        true => Ok(()),
        false => Err(not_found()),
    }
}

/// 401: it may not enter the vhost.
fn no_access() -> ApiError {
    not_authorised("User not authorised to access virtual host")
}

/// 401: the user is known and may not do this.
pub(super) fn not_authorised(reason: &str) -> ApiError {
    ApiError::management(StatusCode::UNAUTHORIZED, NOT_AUTHORISED, reason)
}

/// 404.
pub(super) fn not_found() -> ApiError {
    ApiError::management(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
}

/// 400.
pub(super) fn bad_request(reason: impl Into<String>) -> ApiError {
    ApiError::management(StatusCode::BAD_REQUEST, "bad_request", reason)
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Paused(_) => Self::unavailable(error.to_string(), 1),
            EngineError::Vhost(error) => bad_request(error.to_string()),
            EngineError::Policy(error) => invalid(error),
            EngineError::NoVhost(_) => not_found(),
            EngineError::Argument(error) => bad_request(error.to_string()),
            EngineError::NoQueue(_) | EngineError::QueueFull(_) | EngineError::Broker(_) => {
                Self::internal(&error)
            }
        }
    }
}

/// What the broker refuses to declare, bind or delete.
impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Access(text) => not_authorised("Access refused.").with_message(text),
            Refusal::NotFound(text) => Self::management(StatusCode::NOT_FOUND, "not_found", text),
            Refusal::Other(..) | Refusal::Values(_) => bad_request(refusal.text()),
            Refusal::Engine(error) => error.into(),
        }
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::State(error) => Self::internal(&error),
            refused => bad_request(refused.to_string()),
        }
    }
}
