//! `/api/bindings`, and the bindings of an exchange or a queue, in the shape of RabbitMQ's management interface.
//!
//! A binding is known by its two ends and its *properties key*: the routing key as in a form, and, if there are arguments, `~` and
//! a number that stands for these.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::listing::Listing;
use super::management::{Manager, not_found, object, text};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{BindingFilter, BindingInfo, Ends};

/// A binding.
#[derive(Serialize, ToSchema)]
pub struct BindingBody {
    /// The exchange that it leads from, empty for the default exchange.
    source: String,
    /// The vhost that it is in.
    #[schema(value_type = String)]
    vhost: Arc<str>,
    /// Where it leads.
    destination: String,
    /// `queue` or `exchange`.
    destination_type: &'static str,
    /// Routing key or pattern.
    routing_key: String,
    /// Its arguments.
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
    /// What tells it from others between the same ends.
    properties_key: String,
}

/// A binding as it is to be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct BindingFields {
    /// Empty unless said otherwise.
    routing_key: Option<String>,
    /// None unless said otherwise.
    #[schema(value_type = Object)]
    arguments: Option<Map<String, Value>>,
}

impl From<BindingInfo> for BindingBody {
    fn from(info: BindingInfo) -> Self {
        Self {
            properties_key: properties_key(&info),
            vhost: info.vhost,
            source: info.source,
            destination: info.destination,
            destination_type: if info.to_exchange {
                "exchange"
            } else {
                "queue"
            },
            routing_key: String::from_utf8_lossy(&info.key).into_owned(),
            arguments: info.arguments,
        }
    }
}

/// What stands for the default exchange in a path.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// The name of an exchange that a path names.
pub(super) fn exchange_name(in_path: &str) -> &str {
    match in_path {
        DEFAULT_EXCHANGE => "",
        name => name,
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    let between = |path: &str| {
        web::resource(path)
            .route(web::get().to(list_between))
            .route(web::post().to(bind))
    };
    let one = |path: &str| {
        web::resource(path)
            .route(web::get().to(show))
            .route(web::delete().to(unbind))
    };
    config
        .service(web::resource("/api/bindings").route(web::get().to(list_all)))
        .service(web::resource("/api/bindings/{vhost}").route(web::get().to(list)))
        .service(between(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}",
        ))
        .service(one(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}",
        ))
        .service(
            web::resource("/api/exchanges/{vhost}/{name}/bindings/source")
                .route(web::get().to(from_exchange)),
        )
        .service(
            web::resource("/api/exchanges/{vhost}/{name}/bindings/destination")
                .route(web::get().to(to_exchange)),
        )
        .service(
            web::resource("/api/queues/{vhost}/{name}/bindings").route(web::get().to(to_queue)),
        );
}

/// The bindings of a vhost that the caller sees.
fn listed(
    services: &Services,
    request: &HttpRequest,
    manager: &Manager,
    vhost: &str,
    filter: BindingFilter<'_>,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(services, vhost)?;
    let infos = services.engine.binding_infos(Some(vhost), filter);
    Ok(answer(&Listing::of(request)?, infos.ok_or_else(not_found)?))
}

fn answer(listing: &Listing, infos: Vec<BindingInfo>) -> HttpResponse {
    listing.all(infos.into_iter().map(BindingBody::from).collect::<Vec<_>>())
}

/// All bindings that the caller sees, those of the default exchange too.
#[utoipa::path(get, path = "/api/bindings", tag = "bindings", security(("basic" = [])),
    responses((status = 200, body = Vec<BindingBody>), (status = 401, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let infos = services
        .engine
        .binding_infos(None, BindingFilter::default());
    let mut infos = infos.unwrap_or_default();
    infos.retain(|info| manager.sees(&services, &info.vhost));
    Ok(answer(&Listing::of(&request)?, infos))
}

/// The bindings of a vhost.
#[utoipa::path(get, path = "/api/bindings/{vhost}", tag = "bindings", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<BindingBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    listed(
        &services,
        &request,
        &manager,
        &vhost,
        BindingFilter::default(),
    )
}

/// The bindings that lead from an exchange.
#[utoipa::path(get, path = "/api/exchanges/{vhost}/{name}/bindings/source", tag = "bindings", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<BindingBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn from_exchange(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let filter = BindingFilter {
        source: Some(exchange_name(&name)),
        ..BindingFilter::default()
    };
    listed(&services, &request, &manager, &vhost, filter)
}

/// The bindings that lead to an exchange.
#[utoipa::path(get, path = "/api/exchanges/{vhost}/{name}/bindings/destination", tag = "bindings", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<BindingBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn to_exchange(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let filter = BindingFilter {
        destination: Some(exchange_name(&name)),
        to_exchange: Some(true),
        ..BindingFilter::default()
    };
    listed(&services, &request, &manager, &vhost, filter)
}

/// The bindings that lead to a queue.
#[utoipa::path(get, path = "/api/queues/{vhost}/{name}/bindings", tag = "bindings", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Vec<BindingBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn to_queue(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    let filter = BindingFilter {
        destination: Some(&name),
        to_exchange: Some(false),
        ..BindingFilter::default()
    };
    listed(&services, &request, &manager, &vhost, filter)
}

/// What stands in the path of a binding: vhost, source, `e` or `q`, destination.
type Between = (String, String, String, String);

fn ends((_, source, kind, destination): &Between) -> Result<Ends<'_>, ApiError> {
    let to_exchange = match kind.as_str() {
        "e" => true,
        "q" => false,
        _ => return Err(not_found()),
    };
    Ok(Ends {
        source: exchange_name(source),
        destination: exchange_name(destination),
        to_exchange,
    })
}

fn filter(ends: Ends<'_>) -> BindingFilter<'_> {
    BindingFilter {
        source: Some(ends.source),
        destination: Some(ends.destination),
        to_exchange: Some(ends.to_exchange),
    }
}

/// The bindings from an exchange to a queue (`q`) or another exchange (`e`).
#[utoipa::path(get, path = "/api/bindings/{vhost}/e/{source}/{kind}/{destination}", tag = "bindings", security(("basic" = [])),
    params(("vhost" = String, Path), ("source" = String, Path), ("kind" = String, Path), ("destination" = String, Path)),
    responses((status = 200, body = Vec<BindingBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn list_between(
    services: web::Data<Services>,
    request: HttpRequest,
    path: web::Path<Between>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    listed(&services, &request, &manager, &path.0, filter(ends(&path)?))
}

/// Binds a queue (`q`) or an exchange (`e`) to an exchange. The new binding's place is in the header `Location`.
#[utoipa::path(post, path = "/api/bindings/{vhost}/e/{source}/{kind}/{destination}", tag = "bindings", security(("basic" = [])),
    request_body = BindingFields,
    params(("vhost" = String, Path), ("source" = String, Path), ("kind" = String, Path), ("destination" = String, Path)),
    responses((status = 201), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn bind(
    services: web::Data<Services>,
    path: web::Path<Between>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let acting = manager.acting(&services, &path.0)?;
    let fields = manager.fields()?;
    let key = text(&fields, "routing_key")?.unwrap_or_default();
    let arguments = object(&fields, "arguments")?;
    let made = acting.bind(ends(&path)?, &key, &arguments).await?;
    let (destination, key) = (&made.destination, properties_key(&made));
    let place = format!("{}/{key}", quoted(destination.as_bytes()));
    let mut answer = HttpResponse::Created();
    Ok(answer.insert_header((header::LOCATION, place)).finish())
}

/// A binding as a path names it.
fn find(
    services: &Services,
    (vhost, source, kind, destination, key): (String, String, String, String, String),
) -> Result<BindingInfo, ApiError> {
    let between = (vhost, source, kind, destination);
    let filter = filter(ends(&between)?);
    let infos = services.engine.binding_infos(Some(&between.0), filter);
    let mut infos = infos.unwrap_or_default();
    let exact = infos.iter().position(|info| properties_key(info) == key);
    let place = exact.or_else(|| infos.iter().position(|info| is_unquoted_key(info, &key)));
    place
        .map(|index| infos.swap_remove(index))
        .ok_or_else(not_found)
}

/// One binding.
#[utoipa::path(get, path = "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}", tag = "bindings", security(("basic" = [])),
    params(("vhost" = String, Path), ("source" = String, Path), ("kind" = String, Path), ("destination" = String, Path),
        ("key" = String, Path, description = "Its properties_key")),
    responses((status = 200, body = BindingBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    path: web::Path<(String, String, String, String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &path.0)?;
    let found = find(&services, path.into_inner())?;
    Ok(HttpResponse::Ok().json(BindingBody::from(found)))
}

/// Ends a binding.
#[utoipa::path(delete, path = "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{key}", tag = "bindings", security(("basic" = [])),
    params(("vhost" = String, Path), ("source" = String, Path), ("kind" = String, Path), ("destination" = String, Path),
        ("key" = String, Path, description = "Its properties_key")),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn unbind(
    services: web::Data<Services>,
    path: web::Path<(String, String, String, String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let acting = manager.acting(&services, &path.0)?;
    let found = find(&services, path.into_inner())?;
    acting.unbind(&found).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What tells a binding from others between the same ends.
fn properties_key(info: &BindingInfo) -> String {
    let key = quoted(&info.key);
    match (key.is_empty(), info.arguments.is_empty()) {
        (true, true) => "~".to_owned(),
        (false, true) => key,
        (_, false) => format!("{key}~{}", arguments_hash(&info.arguments)),
    }
}

/// Whether somebody means this binding who has written its key without the quoting.
fn is_unquoted_key(info: &BindingInfo, key: &str) -> bool {
    let quoted = match key.rsplit_once('~') {
        Some((key, hash)) if !info.arguments.is_empty() => {
            format!("{}~{hash}", quoted(key.as_bytes()))
        }
        _ => quoted(key.as_bytes()),
    };
    quoted == properties_key(info)
}

/// As in a form, and `~` too.
fn quoted(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                quoted.push(char::from(*byte));
            }
            b' ' => quoted.push('+'),
            other => quoted.push_str(&format!("%{other:02X}")),
        }
    }
    quoted
}

/// A number (FNV-1a) for arguments, whatever their order, as text.
fn arguments_hash(arguments: &Map<String, Value>) -> String {
    let sorted: BTreeMap<_, _> = arguments.iter().collect();
    let text = serde_json::to_string(&sorted).unwrap_or_default();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    URL_SAFE_NO_PAD.encode(hash.to_be_bytes())
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list_all,
    list,
    from_exchange,
    to_exchange,
    to_queue,
    list_between,
    bind,
    show,
    unbind
))]
pub(super) struct Api;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(key: &str, arguments: &Value) -> BindingInfo {
        BindingInfo::for_tests(key, arguments.as_object().unwrap())
    }

    #[test]
    fn a_properties_key_is_quoted_and_tells_arguments_apart() {
        let key = |key: &str, arguments: Value| properties_key(&binding(key, &arguments));
        assert_eq!(key("", json!({})), "~");
        assert_eq!(key("a.b", json!({})), "a.b");
        assert_eq!(key("a/b~c d%é#*", json!({})), "a%2Fb%7Ec+d%25%C3%A9%23%2A");
        let one = key("", json!({"k": 1, "l": 2}));
        assert!(one.starts_with('~') && one.len() == 12, "{one}");
        assert_eq!(one, key("", json!({"l": 2, "k": 1})));
        assert_ne!(one, key("", json!({"k": 1, "l": 3})));
    }

    #[test]
    fn a_key_may_be_written_without_the_quoting() {
        let plain = binding("a/b~c d", &json!({}));
        assert!(is_unquoted_key(&plain, "a/b~c d"));
        assert!(!is_unquoted_key(&plain, "a/b") && !is_unquoted_key(&plain, "~"));
        let with = binding("a/b~c d", &json!({"k": 1}));
        let hash = arguments_hash(&with.arguments);
        assert!(is_unquoted_key(&with, &format!("a/b~c d~{hash}")));
        assert!(!is_unquoted_key(&with, "a/b~c d"));
    }
}
