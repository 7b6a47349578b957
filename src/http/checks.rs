//! `/api/health/checks`, `/api/aliveness-test` and `/api/healthchecks`: whether the server does what is expected of it, in the
//! shape of RabbitMQ's management interface. What is well is 200 `{"status": "ok"}`, what is not is 503 with the reason.

use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

use super::management::{Manager, bad_request, not_authorised, not_found};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{Afterwards, NewQueue, Refusal};
use crate::runtime::certificate_expiry_s;
use crate::runtime::node_name;

/// The queue of the aliveness test, as RabbitMQ names it.
const ALIVENESS_QUEUE: &str = "aliveness-test";
const DAY_S: u64 = 24 * 3600;

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    let check = |path: &str| web::resource(format!("/api/health/checks/{path}"));
    let alone = || web::get().to(no_other_node);
    config
        .service(check("alarms").route(web::get().to(alarms)))
        .service(check("local-alarms").route(web::get().to(local_alarms)))
        .service(check("virtual-hosts").route(web::get().to(virtual_hosts)))
        .service(check("port-listener/{port}").route(web::get().to(port_listener)))
        .service(check("protocol-listener/{protocol}").route(web::get().to(protocol_listener)))
        .service(check("node-is-quorum-critical").route(alone()))
        .service(check("node-is-mirror-sync-critical").route(alone()))
        .service(check("certificate-expiration/{within}/{unit}").route(web::get().to(certificates)))
        .service(
            web::resource(["/api/healthchecks/node", "/api/healthchecks/node/{name}"])
                .route(web::get().to(alarms)),
        )
        .service(web::resource("/api/aliveness-test/{vhost}").route(web::get().to(aliveness)));
}

fn ok() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

fn failed(reason: &str, mut details: Value) -> HttpResponse {
    details["status"] = "failed".into();
    details["reason"] = reason.into();
    HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE).json(details)
}

fn no_alarms(services: &Services, reason: &str) -> HttpResponse {
    let alarms = services.engine.alarms();
    if alarms.is_empty() {
        return ok();
    }
    let of_node = |resource| json!({"node": node_name(), "resource": resource});
    let alarms: Vec<Value> = alarms.into_iter().map(of_node).collect();
    failed(reason, json!({"alarms": alarms}))
}

/// No publisher is held back for want of memory or disk.
#[utoipa::path(get, path = "/api/health/checks/alarms", tag = "health", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody), (status = 503)))]
async fn alarms(services: web::Data<Services>, _: Manager) -> HttpResponse {
    no_alarms(&services, "There are alarms in effect in the cluster")
}

/// The same.
#[utoipa::path(get, path = "/api/health/checks/local-alarms", tag = "health", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody), (status = 503)))]
async fn local_alarms(services: web::Data<Services>, _: Manager) -> HttpResponse {
    no_alarms(&services, "There are alarms in effect on the node")
}

/// All vhosts run. Here a vhost that is there does.
#[utoipa::path(get, path = "/api/health/checks/virtual-hosts", tag = "health", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn virtual_hosts(_: Manager) -> HttpResponse {
    ok()
}

/// Something listens on a port.
#[utoipa::path(get, path = "/api/health/checks/port-listener/{port}", tag = "health", security(("basic" = [])),
    params(("port" = u16, Path)),
    responses((status = 200), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 503)))]
async fn port_listener(
    services: web::Data<Services>,
    port: web::Path<String>,
    _: Manager,
) -> Result<HttpResponse, ApiError> {
    let port: u16 = port.parse().map_err(|_| bad_request("Invalid port"))?;
    let listeners = services.listeners.iter();
    let ports: Vec<u16> = listeners.map(|it| it.address.port()).collect();
    if ports.contains(&port) {
        return Ok(HttpResponse::Ok().json(json!({"status": "ok", "port": port})));
    }
    let details = json!({"missing": port, "ports": ports});
    Ok(failed("No active listener", details))
}

/// Something listens for a protocol: `amqp` (also `amqp091`), `amqp/ssl` (also `amqps` and `amqp-ssl`) or `http`.
#[utoipa::path(get, path = "/api/health/checks/protocol-listener/{protocol}", tag = "health", security(("basic" = [])),
    params(("protocol" = String, Path)),
    responses((status = 200), (status = 401, body = ErrorBody), (status = 503)))]
async fn protocol_listener(
    services: web::Data<Services>,
    protocol: web::Path<String>,
    _: Manager,
) -> HttpResponse {
    let asked = match protocol.as_str() {
        "amqp091" | "amqp10" => "amqp",
        "amqps" | "amqp-ssl" => "amqp/ssl",
        other => other,
    };
    let mut protocols: Vec<_> = services.listeners.iter().map(|it| it.protocol).collect();
    protocols.sort_unstable();
    protocols.dedup();
    if protocols.contains(&asked) {
        return HttpResponse::Ok().json(json!({"status": "ok", "protocol": asked}));
    }
    let details = json!({"missing": protocol.as_str(), "protocols": protocols});
    failed("No active listener", details)
}

/// The end of this node would take nothing from others: there are none.
#[utoipa::path(get, path = "/api/health/checks/node-is-quorum-critical", tag = "health", security(("basic" = [])),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn no_other_node(_: Manager) -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok", "reason": "single node cluster"}))
}

/// The certificates in use are good for longer than that.
#[utoipa::path(get, path = "/api/health/checks/certificate-expiration/{within}/{unit}", tag = "health", security(("basic" = [])),
    params(("within" = u32, Path), ("unit" = String, Path, description = "days, weeks, months or years")),
    responses((status = 200), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 503)))]
async fn certificates(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Manager,
) -> Result<HttpResponse, ApiError> {
    let (within, unit) = path.into_inner();
    let days = match &*unit {
        "days" => 1,
        "weeks" => 7,
        "months" => 30,
        "years" => 365,
        _ => {
            let reason = "Time unit not recognised. Supported units: days, weeks, months, years.";
            return Err(bad_request(reason));
        }
    };
    let within: u32 = within
        .parse()
        .map_err(|_| bad_request("Invalid expiration"))?;
    if services.config.amqp.tls_bind.is_empty() {
        return Ok(ok());
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let until = since_1970.unwrap_or_default().as_secs() + u64::from(within) * days * DAY_S;
    let expiry = certificate_expiry_s(&services.config.tls);
    match expiry.map_err(|error| ApiError::internal(&error))? {
        expiry if expiry > until => Ok(ok()),
        expiry => {
            let file = services.config.tls.certificate_file.display().to_string();
            let expired =
                json!([{"node": node_name(), "certfile": file, "certfile_expires_on": expiry}]);
            Ok(failed("Certificates expiring", json!({"expired": expired})))
        }
    }
}

/// A queue of the vhost can be declared, published to and read from, by the caller.
#[utoipa::path(get, path = "/api/aliveness-test/{vhost}", tag = "health", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn aliveness(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    if !services.engine.has_vhost(&vhost) {
        return Err(not_found());
    }
    let acting = manager.acting(&services, &vhost)?;
    let test = async {
        let new = NewQueue::default();
        acting.put_queue(ALIVENESS_QUEUE, &new).await?;
        let body = b"test_message";
        acting
            .publish("", ALIVENESS_QUEUE, &Map::new(), body)
            .await?;
        acting.get(ALIVENESS_QUEUE, 1, 0, Afterwards::Done)
    };
    match test.await {
        // If there is none, somebody else took it first: it came through all the same.
        Ok(_) => Ok(ok()),
        Err(refusal @ Refusal::Access(_)) => Err(not_authorised(&refusal.to_string())),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    alarms,
    local_alarms,
    virtual_hosts,
    port_listener,
    protocol_listener,
    no_other_node,
    certificates,
    aliveness
))]
pub(super) struct Api;
