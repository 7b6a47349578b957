//! `/api/exchanges`: the exchanges of vhosts that the caller sees, in the shape of RabbitMQ's management interface.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::bindings::exchange_name;
use super::body::form_value;
use super::listing::{Listed, Listing};
use super::management::{Manager, flag, not_found, object, text};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{ExchangeInfo, NewExchange};

/// An exchange.
#[derive(Serialize, ToSchema)]
pub struct ExchangeBody {
    /// Its name, empty for the default exchange.
    name: String,
    /// The vhost that it is in.
    #[schema(value_type = String)]
    vhost: Arc<str>,
    /// direct, fanout, topic, headers, or one of those by plugin.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Survives a restart.
    durable: bool,
    /// Goes with the last binding from it.
    auto_delete: bool,
    /// Clients cannot publish to it.
    internal: bool,
    /// What it was declared with.
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
    /// The policy that counts for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// Messages that wait for their time, at an exchange of type `x-delayed-message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_delayed: Option<u64>,
    /// Of an exchange that drops messages that came before.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_stats: Option<MessageStats>,
}

/// Counts of an exchange since the start of the server.
#[derive(Serialize, ToSchema)]
#[schema(as = ExchangeMessageStats)]
struct MessageStats {
    /// Messages that it dropped because they came before.
    dedup: u64,
}

/// An exchange as it is to be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct ExchangeFields {
    /// `direct` unless said otherwise.
    r#type: Option<String>,
    /// No unless said otherwise.
    durable: Option<bool>,
    /// No unless said otherwise.
    auto_delete: Option<bool>,
    /// No unless said otherwise.
    internal: Option<bool>,
    /// None unless said otherwise.
    #[schema(value_type = Object)]
    arguments: Option<Map<String, Value>>,
}

impl From<ExchangeInfo> for ExchangeBody {
    fn from(info: ExchangeInfo) -> Self {
        Self {
            name: info.name,
            vhost: info.vhost,
            kind: info.kind,
            durable: info.durable,
            auto_delete: info.auto_delete,
            internal: info.internal,
            arguments: info.arguments,
            policy: info.policy,
            messages_delayed: info.messages_delayed,
            message_stats: info
                .deduplication
                .map(|it| MessageStats { dedup: it.repeats }),
        }
    }
}

impl Listed for ExchangeBody {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/exchanges").route(web::get().to(list_all)))
        .service(web::resource("/api/exchanges/{vhost}").route(web::get().to(list)))
        .service(
            web::resource("/api/exchanges/{vhost}/{name}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        );
}

fn answer(listing: &Listing, infos: Vec<ExchangeInfo>) -> Result<HttpResponse, ApiError> {
    listing.answer(infos.into_iter().map(ExchangeBody::from).collect())
}

/// All exchanges that the caller sees, by vhost and name; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/exchanges", tag = "exchanges", security(("basic" = [])),
    responses((status = 200, body = Vec<ExchangeBody>), (status = 401, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let mut infos = services.engine.exchange_infos(None).unwrap_or_default();
    infos.retain(|info| manager.sees(&services, &info.vhost));
    answer(&Listing::of(&request)?, infos)
}

/// The exchanges of a vhost, by name; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/exchanges/{vhost}", tag = "exchanges", security(("basic" = [])),
    params(("vhost" = String, Path, description = "A vhost; `/` is written %2F", example = "/")),
    responses((status = 200, body = Vec<ExchangeBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    let infos = services.engine.exchange_infos(Some(&vhost));
    answer(&Listing::of(&request)?, infos.ok_or_else(not_found)?)
}

/// One exchange.
#[utoipa::path(get, path = "/api/exchanges/{vhost}/{name}", tag = "exchanges", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path, description = "amq.default is the default exchange")),
    responses((status = 200, body = ExchangeBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    manager.check_sees(&services, &vhost)?;
    let info = services.engine.exchange_info(&vhost, exchange_name(&name));
    let body = ExchangeBody::from(info.ok_or_else(not_found)?);
    Ok(Listing::of(&request)?.one(&body))
}

/// Declares an exchange.
#[utoipa::path(put, path = "/api/exchanges/{vhost}/{name}", tag = "exchanges", security(("basic" = [])),
    request_body = ExchangeFields, params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204, description = "It was there alike"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let acting = manager.acting(&services, &vhost)?;
    let fields = manager.fields()?;
    let new = NewExchange {
        kind: text(&fields, "type")?.unwrap_or_else(|| "direct".to_owned()),
        durable: flag(&fields, "durable")?,
        auto_delete: flag(&fields, "auto_delete")?,
        internal: flag(&fields, "internal")?,
        arguments: object(&fields, "arguments")?,
    };
    match acting.put_exchange(exchange_name(&name), &new).await? {
        true => Ok(HttpResponse::Created().finish()),
        false => Ok(HttpResponse::NoContent().finish()),
    }
}

/// Deletes an exchange; with `if-unused=true` only if no binding leads from it.
#[utoipa::path(delete, path = "/api/exchanges/{vhost}/{name}", tag = "exchanges", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path), ("if-unused" = Option<bool>, Query)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let acting = manager.acting(&services, &vhost)?;
    let if_unused = says(&request, "if-unused");
    let deleted = acting.delete_exchange(exchange_name(&name), if_unused);
    match deleted.await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// Whether the query says yes to something.
pub(super) fn says(request: &HttpRequest, name: &str) -> bool {
    form_value(request.query_string(), name).as_deref() == Some("true")
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, list, show, put, remove))]
pub(super) struct Api;
