//! `/api/connections`: who is connected, in the shape of RabbitMQ's management interface.
//!
//! Who may not monitor sees its own connections. Each connection is asked when a page wants to know: what it says is of that
//! moment.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::listing::{Listed, Listing};
use super::management::{Manager, not_authorised, not_found};
use super::{ApiError, ErrorBody, Services};
use crate::amqp::{About, Report};
use crate::engine::object_of;
use crate::runtime::node_name;

/// Why connections are closed over this interface, unless the caller says why.
const REASON: &str = "Closed via management plugin";
/// The header in which it does.
const REASON_HEADER: &str = "X-Reason";

/// A connection.
#[derive(Serialize, ToSchema)]
pub struct ConnectionBody {
    /// Both ends: `127.0.0.1:50722 -> 127.0.0.1:5672`.
    name: String,
    /// The name that the client gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_provided_name: Option<String>,
    user: String,
    #[schema(value_type = String)]
    vhost: Arc<str>,
    /// `running`, or `blocked`: publishing is held back.
    state: &'static str,
    /// How many channels are open; not there if it did not answer in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<usize>,
    channel_max: u16,
    /// Bytes.
    frame_max: u32,
    /// Seconds between heartbeats; 0: none.
    timeout: u16,
    /// In ms of Unix time.
    connected_at: u64,
    /// What the client says of itself.
    #[schema(value_type = Object)]
    client_properties: Map<String, Value>,
    /// The path of a UNIX socket.
    peer_host: String,
    /// 0 over a UNIX socket.
    peer_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    protocol: &'static str,
    auth_mechanism: String,
    ssl: bool,
    ssl_protocol: Option<String>,
    ssl_cipher: Option<String>,
    /// Bytes that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    recv_oct: Option<u64>,
    /// Bytes that went.
    #[serde(skip_serializing_if = "Option::is_none")]
    send_oct: Option<u64>,
    node: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl ConnectionBody {
    fn of(about: &About, report: Option<&Report>) -> Self {
        let client_properties = object_of(&about.client_properties);
        let given = client_properties.get("connection_name");
        let [ssl_protocol, ssl_cipher] = match &about.tls {
            Some([version, cipher]) => [Some(version.clone()), Some(cipher.clone())],
            None => [None, None],
        };
        let (host, port) = about.ends.local().unzip();
        Self {
            name: about.name(),
            user_provided_name: given.and_then(Value::as_str).map(str::to_owned),
            user: about.user.to_string(),
            vhost: Arc::clone(&about.vhost),
            state: match report {
                Some(report) if report.blocked => "blocked",
                _ => "running",
            },
            channels: report.map(|it| it.channels.len()),
            channel_max: about.channel_max,
            frame_max: about.frame_max,
            timeout: about.heartbeat_s,
            connected_at: about.connected_at_ms,
            client_properties,
            peer_host: about.ends.peer_host(),
            peer_port: about.ends.peer_port(),
            host,
            port,
            protocol: "AMQP 0-9-1",
            auth_mechanism: about.mechanism.clone(),
            ssl: about.tls.is_some(),
            ssl_protocol,
            ssl_cipher,
            recv_oct: report.map(|it| it.received_bytes),
            send_oct: report.map(|it| it.sent_bytes),
            node: node_name(),
            kind: "network",
        }
    }
}

impl Listed for ConnectionBody {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/connections").route(web::get().to(list_all)))
        .service(
            web::resource("/api/connections/username/{user}")
                .route(web::get().to(of_user))
                .route(web::delete().to(close_user)),
        )
        .service(
            web::resource("/api/connections/{name}")
                .route(web::get().to(show))
                .route(web::delete().to(close)),
        )
        .service(web::resource("/api/vhosts/{vhost}/connections").route(web::get().to(of_vhost)));
}

/// The connections that the caller sees and that are `wanted`.
pub(super) fn seen(
    services: &Services,
    manager: &Manager,
    wanted: impl Fn(&About) -> bool,
) -> Vec<Arc<About>> {
    let all = manager.identity.tags().may_monitor();
    let mut list = services.connections.list();
    list.retain(|it| (all || *it.user == *manager.identity.name) && wanted(it));
    list
}

/// The connection of that name, which the caller sees.
pub(super) fn named(
    services: &Services,
    manager: &Manager,
    name: &str,
) -> Result<Arc<About>, ApiError> {
    let list = services.connections.list().into_iter();
    let mut found = list.filter(|it| it.name() == name);
    let about = found.next().ok_or_else(not_found)?;
    let own = *about.user == *manager.identity.name;
    match own || manager.identity.tags().may_monitor() {
        true => Ok(about),
        false => Err(not_of_caller()),
    }
}

fn not_of_caller() -> ApiError {
    not_authorised("User not authorised to access object")
}

async fn listed(
    services: &Services,
    request: &HttpRequest,
    list: &[Arc<About>],
) -> Result<HttpResponse, ApiError> {
    let listing = Listing::of(request)?;
    let reports = services.connections.ask(list).await;
    let both = list.iter().zip(&reports);
    let bodies = both.map(|(about, report)| ConnectionBody::of(about, report.as_ref()));
    listing.answer(bodies.collect())
}

/// The connections that the caller sees, in the order in which they came; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/connections", tag = "connections", security(("basic" = [])),
    responses((status = 200, body = Vec<ConnectionBody>), (status = 401, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let list = seen(&services, &manager, |_| true);
    listed(&services, &request, &list).await
}

/// The connections to a vhost.
#[utoipa::path(get, path = "/api/vhosts/{vhost}/connections", tag = "connections", security(("basic" = [])),
    params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<ConnectionBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_vhost(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    let list = seen(&services, &manager, |it| *it.vhost == **vhost);
    listed(&services, &request, &list).await
}

/// The connections of a user: name, user, vhost and node of each.
#[utoipa::path(get, path = "/api/connections/username/{user}", tag = "connections", security(("basic" = [])),
    params(("user" = String, Path)),
    responses((status = 200), (status = 401, body = ErrorBody)))]
async fn of_user(
    services: web::Data<Services>,
    request: HttpRequest,
    user: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let list = seen(&services, &manager, |it| *it.user == **user);
    let short = list.iter().map(
        |it| json!({"name": it.name(), "user": it.user, "vhost": it.vhost, "node": node_name()}),
    );
    Ok(Listing::of(&request)?.all(short.collect::<Vec<_>>()))
}

/// One connection.
#[utoipa::path(get, path = "/api/connections/{name}", tag = "connections", security(("basic" = [])), params(("name" = String, Path)),
    responses((status = 200, body = ConnectionBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    request: HttpRequest,
    name: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let about = named(&services, &manager, &name)?;
    let reports = services.connections.ask(&[Arc::clone(&about)]).await;
    let report = reports.into_iter().next().flatten();
    let body = ConnectionBody::of(&about, report.as_ref());
    Ok(Listing::of(&request)?.one(&body))
}

/// Closes a connection. The client is told 320 with the reason in the header `X-Reason`.
#[utoipa::path(delete, path = "/api/connections/{name}", tag = "connections", security(("basic" = [])),
    params(("name" = String, Path), ("X-Reason" = Option<String>, Header)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn close(
    services: web::Data<Services>,
    request: HttpRequest,
    name: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let about = named(&services, &manager, &name)?;
    check_may_close(&manager, &about.user)?;
    services.connections.close_one(about.id, reason(&request));
    Ok(HttpResponse::NoContent().finish())
}

/// Closes all connections of a user, as one is closed.
#[utoipa::path(delete, path = "/api/connections/username/{user}", tag = "connections", security(("basic" = [])),
    params(("user" = String, Path), ("X-Reason" = Option<String>, Header)),
    responses((status = 204), (status = 401, body = ErrorBody)))]
async fn close_user(
    services: web::Data<Services>,
    request: HttpRequest,
    user: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    check_may_close(&manager, &user)?;
    services.connections.close_user(&user, reason(&request));
    Ok(HttpResponse::NoContent().finish())
}

/// Its own connections are a user's to close; all others are an administrator's.
fn check_may_close(manager: &Manager, user: &str) -> Result<(), ApiError> {
    match *user == *manager.identity.name || manager.identity.is_administrator() {
        true => Ok(()),
        false => Err(not_of_caller()),
    }
}

fn reason(request: &HttpRequest) -> &str {
    let header = request.headers().get(REASON_HEADER);
    let given = header.and_then(|reason| reason.to_str().ok());
    given.unwrap_or(REASON)
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, of_vhost, of_user, show, close, close_user))]
pub(super) struct Api;
