//! `/clients`: the register of the bus's clients, for operators.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::audit::About;
use super::body::{BodyKind, body_kind, form_pairs, parse_json};
use super::token::iso_time;
use super::{ApiError, Caller, ErrorBody, Monitor, Operator, Registrar, Services};
use crate::auth::Secret;
use crate::bus::{ClientPatch, ClientRecord, NewClient, grace};

/// A client's record as JSON is far smaller; a tree of parsed values is far larger than its text, bytes.
const RECORD_BYTES_MAX: usize = 1024 * 1024;

/// The fields that the audit names when they are changed.
const FIELDS: [&str; 9] = [
    "client_name",
    "subscription",
    "subscriptions",
    "exclude_own",
    "disabled",
    "webhook_url",
    "webhook",
    "push_url",
    "callback_url",
];

/// A client. With `secret` and `api` it is a complete configuration file for the client's side.
#[derive(Serialize, ToSchema)]
pub struct ClientBody {
    /// Names the client, its login and its queues.
    client_id: String,
    /// For people.
    client_name: String,
    /// The first pattern, empty when there is none.
    subscription: String,
    /// The topic patterns whose messages reach the inbox: `*` is one word, `#` any number of words.
    subscriptions: Vec<String>,
    /// Whether the client's own messages stay out of its inbox.
    exclude_own: bool,
    /// Whether it may not log in. Its inbox is filled all the same.
    disabled: bool,
    /// Kept for the client; messages are not pushed there by this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url: Option<String>,
    /// Until when the secret before counts too, if it does: ISO 8601 with offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    old_secret_expires_at: Option<String>,
    /// Shown only when it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// The address that the request came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<String>,
}

/// What may be said of a client; others are ignored.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "documentation: the fields are read one by one, with their aliases"
)]
struct ClientFields {
    /// Made of the name if missing; cannot be changed later.
    #[schema(min_length = 1, max_length = 100, pattern = "^[A-Za-z0-9._-]+$")]
    client_id: Option<String>,
    /// For people; at most 255 bytes.
    client_name: Option<String>,
    /// A topic pattern: `*` is one word, `#` any number of words; at most 255 bytes. Empty: none.
    subscription: Option<String>,
    /// At most 100 patterns, instead of the one.
    subscriptions: Option<Vec<String>>,
    /// Whether the client's own messages stay out of its inbox.
    exclude_own: Option<bool>,
    /// Whether it may not log in. Its connections end; its inbox is filled all the same.
    disabled: Option<bool>,
    /// Kept for the client, begins with http:// or https://. Also `webhook`, `push_url`, `callback_url`.
    webhook_url: Option<String>,
}

/// How a secret is to be changed.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
struct RotationFields {
    /// How long the old secret counts yet, seconds. Without it, not at all.
    #[schema(minimum = 0, maximum = 604_800)]
    grace_s: Option<u64>,
}

impl ClientBody {
    fn of(record: &ClientRecord) -> Self {
        let old = record.login.old_secret.as_ref();
        let old = old.filter(|old| old.left().is_some());
        Self {
            client_id: record.client_id.clone(),
            client_name: record.client_name.clone(),
            subscription: record.subscription().to_owned(),
            subscriptions: record.subscriptions.clone(),
            exclude_own: record.exclude_own,
            disabled: record.login.disabled,
            webhook_url: record.webhook_url.clone(),
            old_secret_expires_at: old.and_then(|old| iso_time(old.ends_s)),
            secret: None,
            api: None,
        }
    }

    fn with_secret(record: &ClientRecord, secret: &Secret, api: String) -> Self {
        Self {
            secret: Some(secret.expose().to_owned()),
            api: Some(api),
            ..Self::of(record)
        }
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/clients")
                .route(web::post().to(create))
                .route(web::get().to(list)),
        )
        .service(
            web::resource("/clients/{client_id}")
                .route(web::get().to(show))
                .route(web::put().to(change))
                .route(web::patch().to(update))
                .route(web::delete().to(remove)),
        )
        .service(web::resource("/clients/{client_id}/secret").route(web::post().to(rotate)));
}

/// Registers a client: it works at once. The secret is in this answer and never again.
#[utoipa::path(post, path = "/clients", tag = "clients", security(("basic" = ["operator"])),
    request_body(content = ClientFields, content_type = "application/json",
        example = json!({"client_id": "noc-c2", "client_name": "NocC2", "subscription": "soar.noc.#"})),
    responses((status = 201, body = ClientBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
async fn create(
    services: web::Data<Services>,
    request: HttpRequest,
    registrar: Registrar,
) -> Result<HttpResponse, ApiError> {
    let new = NewClient::from_json(&object(&request, &registrar.body)?)?;
    let (record, secret) = services.bus.create_client(new).await?;
    request.extensions_mut().insert(About {
        client: Some(record.client_id.clone()),
        fields: Vec::new(),
    });
    let client = ClientBody::with_secret(&record, &secret, api(&services, &request));
    Ok(secret_answer(StatusCode::CREATED, &client))
}

/// All clients, by id, without secrets.
#[utoipa::path(get, path = "/clients", tag = "clients", security(("basic" = ["monitor"])),
    responses((status = 200, body = Vec<ClientBody>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn list(services: web::Data<Services>, _: Monitor) -> HttpResponse {
    let records = services.bus.clients();
    let clients: Vec<_> = records
        .iter()
        .map(|record| ClientBody::of(record))
        .collect();
    HttpResponse::Ok().json(clients)
}

/// One client, without its secret.
#[utoipa::path(get, path = "/clients/{client_id}", tag = "clients", security(("basic" = ["monitor"])),
    params(("client_id" = String, Path)),
    responses((status = 200, body = ClientBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    client_id: web::Path<String>,
    _: Monitor,
) -> Result<HttpResponse, ApiError> {
    let record = services.bus.client(&client_id)?;
    Ok(HttpResponse::Ok().json(ClientBody::of(&record)))
}

/// Changes a client; what is not given stays. Subscriptions are in force at once, and messages for
/// patterns that stay are neither lost nor doubled. A client that is `disabled` cannot log in, and its tokens and AMQP
/// connections end; messages for it are kept in its inbox.
#[utoipa::path(patch, path = "/clients/{client_id}", tag = "clients", security(("basic" = ["operator"])),
    params(("client_id" = String, Path)),
    request_body(content = ClientFields, content_type = "application/json", example = json!({"subscription": "soar.#"})),
    responses((status = 200, body = ClientBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn update(
    services: web::Data<Services>,
    request: HttpRequest,
    client_id: web::Path<String>,
    Operator(caller): Operator,
) -> Result<HttpResponse, ApiError> {
    let fields = object(&request, &caller.body)?;
    let named = fields.get("client_id");
    if named.is_some_and(|named| named.as_str() != Some(client_id.as_str())) {
        let message = "client_id cannot be changed: it names the client's queues";
        return Err(ApiError::invalid_field("client_id", message));
    }
    let patch = ClientPatch::from_json(&fields)?;
    let given = FIELDS.into_iter().filter(|it| fields.contains_key(*it));
    request.extensions_mut().insert(About {
        client: None,
        fields: given.map(str::to_owned).collect(),
    });
    let record = services.bus.update_client(&client_id, patch).await?;
    Ok(HttpResponse::Ok().json(ClientBody::of(&record)))
}

/// The same as PATCH: what is not given stays.
#[utoipa::path(put, path = "/clients/{client_id}", tag = "clients", security(("basic" = ["operator"])),
    params(("client_id" = String, Path)),
    request_body(content = ClientFields, content_type = "application/json", example = json!({"subscription": "soar.#"})),
    responses((status = 200, body = ClientBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn change(
    services: web::Data<Services>,
    request: HttpRequest,
    client_id: web::Path<String>,
    operator: Operator,
) -> Result<HttpResponse, ApiError> {
    update(services, request, client_id, operator).await
}

/// Removes a client with its queues, messages, bindings and rights; its connections are closed.
#[utoipa::path(delete, path = "/clients/{client_id}", tag = "clients", security(("basic" = ["operator"])),
    params(("client_id" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    client_id: web::Path<String>,
    _: Operator,
) -> Result<HttpResponse, ApiError> {
    services.bus.delete_client(&client_id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Makes a new secret, for an operator or the client itself. The old one ends after `grace_s` seconds, at once without it, and
/// with it the tokens and AMQP connections that were made with it. One from before that ends at once. The new one is in
/// this answer and never again.
#[utoipa::path(post, path = "/clients/{client_id}/secret", tag = "clients", security(("basic" = ["operator"])),
    params(("client_id" = String, Path)),
    request_body(content = Option<RotationFields>, content_type = "application/json", example = json!({"grace_s": 3600})),
    responses((status = 200, body = ClientBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn rotate(
    services: web::Data<Services>,
    request: HttpRequest,
    client_id: web::Path<String>,
    caller: Caller,
) -> Result<HttpResponse, ApiError> {
    let identity = &caller.identity;
    if !identity.tags().may_operate() && *identity.name != **client_id {
        return Err(ApiError::forbidden("a client changes its own secret only"));
    }
    let grace = match caller.body.is_empty() {
        true => Duration::ZERO,
        false => grace(&object(&request, &caller.body)?)?,
    };
    let (record, secret) = services.bus.rotate_secret(&client_id, grace).await?;
    let client = ClientBody::with_secret(&record, &secret, api(&services, &request));
    Ok(secret_answer(StatusCode::OK, &client))
}

/// An answer that nobody between here and the caller may keep.
fn secret_answer(status: StatusCode, client: &ClientBody) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(client)
}

/// The fields of a body: of a JSON object, or of a form.
fn object(request: &HttpRequest, body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.len() > RECORD_BYTES_MAX {
        return Err(ApiError::too_large(RECORD_BYTES_MAX as u64));
    }
    if body_kind(request, body) == BodyKind::Form {
        let form = std::str::from_utf8(body).unwrap_or_default();
        let pairs = form_pairs(form);
        let fields = pairs
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)));
        return Ok(fields.collect());
    }
    match parse_json(body)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_body",
            "the body must be a JSON object",
        )),
    }
}

/// The address under which the caller reached us.
fn api(services: &Services, request: &HttpRequest) -> String {
    let connection = request.connection_info();
    let prefix = services.config.http.path_prefix.trim_end_matches('/');
    format!("{}://{}{prefix}", connection.scheme(), connection.host())
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(create, list, show, update, change, remove, rotate))]
pub(super) struct Api;
