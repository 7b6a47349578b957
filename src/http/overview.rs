//! `/api/overview`, `/api/nodes` and other pages of the whole server, in the shape of RabbitMQ's management interface.
//!
//! What is not measured is left out. There are no rates: counts are since the start, and who wants a rate asks twice, or reads
//! `/metrics`.

use std::net::SocketAddr;
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};

use super::connections::seen;
use super::listing::Listing;
use super::management::{Manager, not_authorised, not_found};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{Counts, Totals};
use crate::runtime::{memory_limit_bytes, node_name};
use crate::telemetry::ProcessNumbers;

/// The release of RabbitMQ whose interface this is; clients switch on it.
const RABBITMQ_VERSION: &str = "3.10.8";
/// The cluster's name, which clients are told too.
const CLUSTER_NAME: &str = "backbone";

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// RabbitMQ's name of the protocol: `amqp`, `amqp/ssl`, `http`.
    pub protocol: &'static str,
    /// The address.
    pub address: SocketAddr,
}

impl Serialize for Listener {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = json!({
            "node": node_name(), "protocol": self.protocol,
            "ip_address": self.address.ip().to_string(), "port": self.address.port(),
        });
        shown.serialize(serializer)
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    // A start is what uptime counts from.
    started();
    config
        .service(web::resource("/api/overview").route(web::get().to(overview)))
        .service(web::resource("/api/nodes").route(web::get().to(nodes)))
        .service(web::resource("/api/nodes/{name}").route(web::get().to(node)))
        .service(web::resource("/api/cluster-name").route(web::get().to(cluster_name)))
        .service(
            web::resource(["/api/extensions", "/api/feature-flags"]).route(web::get().to(nothing)),
        )
        .service(web::resource("/api/auth").route(web::get().to(auth)));
}

fn started() -> Instant {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

/// The server at a glance: what there is in the vhosts that the caller sees; with the tag monitoring also what happened since the
/// start, and where the server listens.
#[utoipa::path(get, path = "/api/overview", tag = "server", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn overview(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let totals = services.engine.totals(|it| manager.sees(&services, it));
    let counts = services.engine.counts();
    let may_monitor = manager.identity.tags().may_monitor();
    let types = services.engine.exchange_types();
    let connections = seen(&services, &manager, |_| true);
    let channels = match may_monitor {
        true => counts
            .channels_opened
            .saturating_sub(counts.channels_closed),
        false => {
            let reports = services.connections.ask(&connections).await;
            let open = reports.iter().flatten().map(|it| it.channels.len() as u64);
            open.sum()
        }
    };
    let mut page = json!({
        "management_version": RABBITMQ_VERSION,
        "rabbitmq_version": RABBITMQ_VERSION,
        "product_name": "Backbone",
        "product_version": env!("CARGO_PKG_VERSION"),
        "cluster_name": CLUSTER_NAME,
        "node": node_name(),
        "rates_mode": "none",
        "disable_stats": false,
        "enable_queue_totals": false,
        "statistics_db_event_queue": 0,
        "exchange_types": types.map(|name| json!({"name": name, "enabled": true})).collect::<Vec<_>>(),
        "queue_totals": queue_totals(&totals),
        "object_totals": {
            "channels": channels,
            "connections": connections.len(),
            "consumers": totals.consumers,
            "exchanges": totals.exchanges,
            "queues": totals.queues,
        },
    });
    if may_monitor {
        page["message_stats"] = message_stats(&counts);
        page["churn_rates"] = churn(&services, &counts);
        page["listeners"] = json!(services.listeners);
        page["contexts"] = contexts(&services);
    }
    Ok(Listing::of(&request)?.one(&page))
}

/// Where these pages are: clients look here for the name of the node, among other things.
fn contexts(services: &Services) -> Value {
    let served = services.listeners.iter();
    let served = served.filter(|it| it.protocol.starts_with("http"));
    let shown = served.map(|it| {
        json!({
            "node": node_name(), "description": "RabbitMQ Management", "path": "/",
            "ip": it.address.ip().to_string(), "port": it.address.port().to_string(),
            "ssl_opts": [], "cowboy_opts": "[]",
        })
    });
    shown.collect()
}

fn queue_totals(totals: &Totals) -> Value {
    json!({
        "messages": totals.ready + totals.unacked,
        "messages_ready": totals.ready,
        "messages_unacknowledged": totals.unacked,
    })
}

fn message_stats(counts: &Counts) -> Value {
    let delivered = counts.deliver + counts.deliver_no_ack + counts.get + counts.get_no_ack;
    json!({
        "publish": counts.publish, "confirm": counts.confirm, "return_unroutable": counts.return_unroutable,
        "drop_unroutable": counts.drop_unroutable, "deliver": counts.deliver, "deliver_no_ack": counts.deliver_no_ack,
        "get": counts.get, "get_no_ack": counts.get_no_ack, "get_empty": counts.get_empty, "deliver_get": delivered,
        "redeliver": counts.redeliver, "ack": counts.ack,
    })
}

fn churn(services: &Services, counts: &Counts) -> Value {
    let [opened, closed] = services.telemetry.connection_churn();
    json!({
        "connection_created": opened, "connection_closed": closed,
        "channel_created": counts.channels_opened, "channel_closed": counts.channels_closed,
        "queue_created": counts.queues_declared, "queue_deleted": counts.queues_deleted,
    })
}

fn check_may_monitor(manager: &Manager) -> Result<(), ApiError> {
    match manager.identity.tags().may_monitor() {
        true => Ok(()),
        false => Err(not_authorised("Not monitor user")),
    }
}

/// The server as the only node of its cluster. What the system does not tell is left out.
#[utoipa::path(get, path = "/api/nodes", tag = "server", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn nodes(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    check_may_monitor(&manager)?;
    Ok(Listing::of(&request)?.all(vec![describe(&services)]))
}

/// The server, by the name that it has among others.
#[utoipa::path(get, path = "/api/nodes/{name}", tag = "server", security(("basic" = [])), params(("name" = String, Path)),
    responses((status = 200), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn node(
    services: web::Data<Services>,
    request: HttpRequest,
    name: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    check_may_monitor(&manager)?;
    match **name == *node_name() {
        true => Ok(Listing::of(&request)?.one(&describe(&services))),
        false => Err(not_found()),
    }
}

fn describe(services: &Services) -> Value {
    let config = &services.config;
    let alarms = services.engine.alarms();
    let types = services.engine.exchange_types();
    let mechanisms = ["PLAIN", "AMQPLAIN", "EXTERNAL"];
    let mechanisms = mechanisms.map(|name| json!({"name": name, "enabled": true}));
    let mut node = json!({
        "name": node_name(), "type": "disc", "running": true, "being_drained": false,
        "os_pid": std::process::id().to_string(),
        "uptime": started().elapsed().as_millis() as u64,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "db_dir": config.data_dir.display().to_string(),
        "rates_mode": "none",
        "mem_limit": memory_limit_bytes(config.limits.memory_bytes),
        "mem_alarm": alarms.contains(&"memory"),
        "disk_free_alarm": alarms.contains(&"disk"),
        "disk_free_limit": config.limits.disk_free_bytes,
        "sockets_used": services.connections.count(),
        "sockets_total": config.limits.connections,
        "partitions": [], "cluster_links": [], "applications": [], "contexts": contexts(services), "enabled_plugins": [],
        "exchange_types": types.map(|name| json!({"name": name, "enabled": true})).collect::<Vec<_>>(),
        "auth_mechanisms": mechanisms,
    });
    let numbers = ProcessNumbers::now(&config.data_dir);
    for (name, number) in [
        ("mem_used", numbers.resident_bytes),
        ("disk_free", numbers.disk_free_bytes),
        ("fd_used", numbers.open_fds),
        ("fd_total", numbers.max_fds),
        ("proc_used", numbers.threads),
    ] {
        if let Some(number) = number {
            node[name] = number.into();
        }
    }
    node
}

/// The cluster's name, which clients are told too.
#[utoipa::path(get, path = "/api/cluster-name", tag = "server", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn cluster_name(_: Manager) -> HttpResponse {
    HttpResponse::Ok().json(json!({"name": CLUSTER_NAME}))
}

/// Extensions of the management interface's pages, and features that could be switched: there are none.
#[utoipa::path(get, path = "/api/extensions", tag = "server", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn nothing(_: Manager) -> HttpResponse {
    HttpResponse::Ok().json(json!([]))
}

/// How pages log in: with a name and a password.
#[utoipa::path(get, path = "/api/auth", tag = "server", responses((status = 200)))]
async fn auth() -> HttpResponse {
    HttpResponse::Ok().json(json!({"enable_uaa": false, "uaa_client_id": "", "uaa_location": ""}))
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(overview, nodes, node, cluster_name, nothing, auth))]
pub(super) struct Api;
