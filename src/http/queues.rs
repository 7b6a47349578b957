//! `/api/queues`: the queues of vhosts that the caller sees, in the shape of RabbitMQ's management interface.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::channels::{ConnectionDetails, ConsumerBody, consumers_of_queue};
use super::exchanges::says;
use super::listing::{Listed, Listing};
use super::management::{Manager, flag, not_found, object};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{NewQueue, QueueInfo};
use crate::runtime::node_name;

/// A queue: the fields that RabbitMQ has too, and `durability`.
#[derive(Serialize, ToSchema)]
pub struct QueueBody {
    /// Its name.
    #[schema(value_type = String)]
    name: Arc<str>,
    /// The vhost that it is in.
    #[schema(value_type = String)]
    vhost: Arc<str>,
    /// classic, quorum or stream.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Survives a restart.
    durable: bool,
    /// Goes when its last consumer goes.
    auto_delete: bool,
    /// Belongs to one connection, and goes with it.
    exclusive: bool,
    /// What it was declared with.
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
    /// `running`, or `paused`: it takes messages and hands out none.
    #[schema(value_type = String, pattern = "^(running|paused)$")]
    state: &'static str,
    /// The server that it is on.
    node: &'static str,
    /// Of quorum queues and streams: the servers that have it, of which there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<[&'static str; 1]>,
    /// Those of them that run.
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<[&'static str; 1]>,
    /// The one of them that leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'static str>,
    /// The policy that counts for it.
    policy: Option<String>,
    /// The operators' policy that counts for it.
    operator_policy: Option<String>,
    /// What these set.
    #[schema(value_type = Object)]
    effective_policy_definition: Map<String, Value>,
    /// How safe a persistent message in it is before it is confirmed: in memory, in the page cache (survives the end
    /// of the process), on the disk (survives a power loss).
    #[schema(value_type = String, pattern = "^(memory|written|synced)$")]
    durability: &'static str,
    /// Ready or unacknowledged.
    messages: u64,
    /// Wait to be delivered.
    messages_ready: u64,
    /// Are delivered and not acknowledged.
    messages_unacknowledged: u64,
    /// Those of the ready ones that wait in the log alone, because memory is for others.
    messages_paged_out: u64,
    /// Consumers, the bus's own not counted.
    consumers: u32,
    /// Counts since the start of the server.
    message_stats: MessageStats,
    /// In the page of one queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer_details: Option<Vec<ConsumerBody>>,
    /// In the page of one exclusive queue: whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_pid_details: Option<ConnectionDetails>,
}

/// Counts of a queue since the start of the server.
#[derive(Serialize, ToSchema)]
struct MessageStats {
    /// Messages put into it.
    publish: u64,
    /// Of a queue that drops messages that came before: how many it dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup: Option<u64>,
}

/// A queue as it is to be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct QueueFields {
    /// No unless said otherwise.
    durable: Option<bool>,
    /// No unless said otherwise.
    auto_delete: Option<bool>,
    /// None unless said otherwise.
    #[schema(value_type = Object)]
    arguments: Option<Map<String, Value>>,
}

impl From<QueueInfo> for QueueBody {
    fn from(info: QueueInfo) -> Self {
        let stats = info.stats;
        let replicated = (info.kind != "classic").then(node_name);
        Self {
            members: replicated.map(|node| [node]),
            online: replicated.map(|node| [node]),
            leader: replicated,
            name: info.name,
            vhost: info.vhost,
            kind: info.kind,
            durable: info.durable,
            auto_delete: info.auto_delete,
            exclusive: info.owner.is_some(),
            arguments: info.arguments,
            state: if stats.paused { "paused" } else { "running" },
            node: node_name(),
            policy: info.policy,
            operator_policy: info.operator_policy,
            effective_policy_definition: info.policy_definition,
            durability: info.durability,
            messages: stats.ready + stats.unsettled,
            messages_ready: stats.ready,
            messages_unacknowledged: stats.unsettled,
            messages_paged_out: stats.paged_out,
            consumers: stats.consumers,
            message_stats: MessageStats {
                publish: stats.published,
                dedup: info.deduplication.map(|it| it.repeats),
            },
            consumer_details: None,
            owner_pid_details: None,
        }
    }
}

impl Listed for QueueBody {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/queues").route(web::get().to(list_all)))
        .service(web::resource("/api/queues/{vhost}").route(web::get().to(list)))
        .service(
            web::resource("/api/queues/{vhost}/{name}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        )
        .service(web::resource("/api/queues/{vhost}/{name}/pause").route(web::put().to(pause)))
        .service(web::resource("/api/queues/{vhost}/{name}/resume").route(web::put().to(resume)))
        .service(
            web::resource("/api/queues/{vhost}/{name}/contents").route(web::delete().to(purge)),
        );
}

/// All queues that the caller sees, by vhost and name; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/queues", tag = "queues", security(("basic" = [])),
    responses((status = 200, body = Vec<QueueBody>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let mut infos = services.engine.queue_infos(None).unwrap_or_default();
    infos.retain(|info| manager.sees(&services, &info.vhost));
    answer(&Listing::of(&request)?, infos)
}

/// The queues of a vhost, by name; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/queues/{vhost}", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path, description = "A vhost; `/` is written %2F", example = "/")),
    responses((status = 200, body = Vec<QueueBody>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn list(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    let infos = services.engine.queue_infos(Some(&vhost));
    answer(&Listing::of(&request)?, infos.ok_or_else(not_found)?)
}

fn answer(listing: &Listing, infos: Vec<QueueInfo>) -> Result<HttpResponse, ApiError> {
    listing.answer(infos.into_iter().map(QueueBody::from).collect())
}

/// One queue, with its consumers and whose it is.
#[utoipa::path(get, path = "/api/queues/{vhost}/{name}", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path, description = "A vhost; `/` is written %2F", example = "/"),
        ("name" = String, Path, description = "A queue's name or alias", example = "soar-publish")),
    responses((status = 200, body = QueueBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    manager.check_sees(&services, &vhost)?;
    let listing = Listing::of(&request)?;
    let info = services.engine.queue_info(&vhost, &name);
    let info = info.ok_or_else(not_found)?;
    let owner = info.owner.and_then(|id| services.connections.get(id));
    let mut body = QueueBody::from(info);
    body.owner_pid_details = owner.map(|it| ConnectionDetails::of(&it));
    // Connections are asked only if there may be consumers among them.
    body.consumer_details = Some(match body.consumers {
        0 => Vec::new(),
        _ => consumers_of_queue(&services, &vhost, &body.name).await,
    });
    Ok(listing.one(&body))
}

/// Declares a queue.
#[utoipa::path(put, path = "/api/queues/{vhost}/{name}", tag = "queues", security(("basic" = [])),
    request_body = QueueFields, params(("vhost" = String, Path), ("name" = String, Path)),
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
    let new = NewQueue {
        durable: flag(&fields, "durable")?,
        auto_delete: flag(&fields, "auto_delete")?,
        arguments: object(&fields, "arguments")?,
    };
    match acting.put_queue(&name, &new).await? {
        true => Ok(HttpResponse::Created().finish()),
        false => Ok(HttpResponse::NoContent().finish()),
    }
}

/// Deletes a queue with what is in it; with `if-unused=true` only if it has no consumers, with `if-empty=true` only if
/// nothing is ready.
#[utoipa::path(delete, path = "/api/queues/{vhost}/{name}", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path), ("if-unused" = Option<bool>, Query), ("if-empty" = Option<bool>, Query)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let acting = manager.acting(&services, &vhost)?;
    let (if_unused, if_empty) = (says(&request, "if-unused"), says(&request, "if-empty"));
    match acting.delete_queue(&name, if_unused, if_empty).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// Drops the messages of a queue that are ready.
#[utoipa::path(delete, path = "/api/queues/{vhost}/{name}/contents", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn purge(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let acting = manager.acting(&services, &vhost)?;
    if !acting.has_queue(&name) {
        return Err(not_found());
    }
    acting.purge(&name).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Pauses a queue: it goes on taking messages and hands out none, until it is resumed. A durable queue stays so through
/// restarts.
#[utoipa::path(put, path = "/api/queues/{vhost}/{name}/pause", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn pause(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    set_paused(&services, &path, &manager, true).await
}

/// Has a paused queue hand out messages again.
#[utoipa::path(put, path = "/api/queues/{vhost}/{name}/resume", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn resume(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    set_paused(&services, &path, &manager, false).await
}

async fn set_paused(
    services: &Services,
    (vhost, name): &(String, String),
    manager: &Manager,
    paused: bool,
) -> Result<HttpResponse, ApiError> {
    let acting = manager.acting(services, vhost)?;
    acting.pause_queue(name, paused).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, list, show, put, remove, pause, resume, purge))]
pub(super) struct Api;
