//! `/api/queues`: what waits in the queues of vhosts that the caller sees, in the shape of RabbitMQ's management interface.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::management::Manager;
use super::{ApiError, ErrorBody, Services};
use crate::engine::QueueInfo;

/// A queue: the fields that RabbitMQ has too, and `durability`.
#[derive(Serialize, ToSchema)]
pub struct QueueBody {
    /// Its name.
    #[schema(value_type = String)]
    name: Arc<str>,
    /// The vhost that it is in.
    #[schema(value_type = String)]
    vhost: Arc<str>,
    /// Survives a restart.
    durable: bool,
    /// Goes when its last consumer goes.
    auto_delete: bool,
    /// Belongs to one connection, and goes with it.
    exclusive: bool,
    /// What it was declared with.
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
    /// The policy that counts for it.
    policy: Option<String>,
    /// The operators' policy that counts for it.
    operator_policy: Option<String>,
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
}

/// Counts of a queue since the start of the server.
#[derive(Serialize, ToSchema)]
struct MessageStats {
    /// Messages put into it.
    publish: u64,
}

impl From<QueueInfo> for QueueBody {
    fn from(info: QueueInfo) -> Self {
        let stats = info.stats;
        Self {
            name: info.name,
            vhost: info.vhost,
            durable: info.durable,
            auto_delete: info.auto_delete,
            exclusive: info.exclusive,
            arguments: info.arguments,
            policy: info.policy,
            operator_policy: info.operator_policy,
            durability: info.durability,
            messages: stats.ready + stats.unsettled,
            messages_ready: stats.ready,
            messages_unacknowledged: stats.unsettled,
            messages_paged_out: stats.paged_out,
            consumers: stats.consumers,
            message_stats: MessageStats {
                publish: stats.published,
            },
        }
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/queues").route(web::get().to(list_all)))
        .service(web::resource("/api/queues/{vhost}").route(web::get().to(list)))
        .service(web::resource("/api/queues/{vhost}/{name}").route(web::get().to(show)));
}

/// All queues that the caller sees, by vhost and name.
#[utoipa::path(get, path = "/api/queues", tag = "queues", security(("basic" = [])),
    responses((status = 200, body = Vec<QueueBody>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn list_all(services: web::Data<Services>, manager: Manager) -> HttpResponse {
    let mut infos = services.engine.queue_infos(None).unwrap_or_default();
    infos.retain(|info| manager.sees(&services, &info.vhost));
    answer(infos)
}

/// The queues of a vhost, by name.
#[utoipa::path(get, path = "/api/queues/{vhost}", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path, description = "A vhost; `/` is written %2F", example = "/")),
    responses((status = 200, body = Vec<QueueBody>), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn list(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    check_sees(&services, &manager, &vhost)?;
    let infos = services.engine.queue_infos(Some(&vhost));
    infos
        .map(answer)
        .ok_or_else(|| ApiError::not_found(format!("there is no vhost '{vhost}'")))
}

/// One queue.
#[utoipa::path(get, path = "/api/queues/{vhost}/{name}", tag = "queues", security(("basic" = [])),
    params(("vhost" = String, Path, description = "A vhost; `/` is written %2F", example = "/"),
        ("name" = String, Path, description = "A queue's name or alias", example = "soar-publish")),
    responses((status = 200, body = QueueBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    check_sees(&services, &manager, &vhost)?;
    let info = services.engine.queue_info(&vhost, &name);
    let info = info.ok_or_else(|| {
        ApiError::not_found(format!("there is no queue '{name}' in vhost '{vhost}'"))
    })?;
    Ok(HttpResponse::Ok().json(QueueBody::from(info)))
}

/// That it sees what is in `vhost`, if there is one of that name.
fn check_sees(services: &Services, manager: &Manager, vhost: &str) -> Result<(), ApiError> {
    match services.engine.has_vhost(vhost) {
        true => manager.check_sees(services, vhost),
        false => Ok(()),
    }
}

fn answer(infos: Vec<QueueInfo>) -> HttpResponse {
    let queues: Vec<_> = infos.into_iter().map(QueueBody::from).collect();
    HttpResponse::Ok().json(queues)
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, list, show))]
pub(super) struct Api;
