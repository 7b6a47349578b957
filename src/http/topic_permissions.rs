//! `/api/topic-permissions`: with which routing keys users may use topic exchanges, in the shape of RabbitMQ's
//! management interface.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::management::{Administrator, check_vhost, not_found, required};
use super::permissions::{check_both, forget_if_gone};
use super::{ApiError, ErrorBody, Services, parse_query};
use crate::auth::TopicPermission;

/// With which routing keys a user may use a topic exchange.
#[derive(Serialize, ToSchema)]
pub struct TopicPermissionBody {
    /// The user.
    user: String,
    /// The vhost.
    vhost: String,
    /// The exchange.
    exchange: String,
    /// What may be published.
    write: String,
    /// What may be bound.
    read: String,
}

/// The patterns; `{username}` and `{vhost}` stand for the user and the vhost.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct TopicPermissionFields {
    exchange: String,
    write: String,
    read: String,
}

/// Of which exchange.
#[derive(Deserialize)]
struct OfExchange {
    exchange: Option<String>,
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/topic-permissions").route(web::get().to(list_all)))
        .service(
            web::resource("/api/topic-permissions/{vhost}/{user}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        )
        .service(
            web::resource("/api/vhosts/{vhost}/topic-permissions").route(web::get().to(of_vhost)),
        )
        .service(
            web::resource("/api/users/{user}/topic-permissions").route(web::get().to(of_user)),
        );
}

/// All topic permissions that `wanted` wants, by vhost, user and exchange.
fn listed(services: &Services, wanted: impl Fn(&str, &str) -> bool) -> Vec<TopicPermissionBody> {
    let mut bodies = Vec::new();
    for (vhost, user, grant) in services.auth.users().grants() {
        if !wanted(&vhost, &user) {
            continue;
        }
        bodies.extend(grant.topics.into_iter().map(|topic| TopicPermissionBody {
            user: user.clone(),
            vhost: vhost.clone(),
            exchange: topic.exchange,
            write: topic.write,
            read: topic.read,
        }));
    }
    bodies
}

/// All topic permissions.
#[utoipa::path(get, path = "/api/topic-permissions", tag = "permissions", security(("basic" = [])),
    responses((status = 200, body = Vec<TopicPermissionBody>), (status = 401, body = ErrorBody)))]
async fn list_all(services: web::Data<Services>, _: Administrator) -> HttpResponse {
    HttpResponse::Ok().json(listed(&services, |_, _| true))
}

/// Those of a vhost.
#[utoipa::path(get, path = "/api/vhosts/{vhost}/topic-permissions", tag = "permissions", security(("basic" = [])),
    params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<TopicPermissionBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_vhost(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    check_vhost(&services, &vhost)?;
    Ok(HttpResponse::Ok().json(listed(&services, |it, _| *it == **vhost)))
}

/// Those of a user.
#[utoipa::path(get, path = "/api/users/{user}/topic-permissions", tag = "permissions", security(("basic" = [])),
    params(("user" = String, Path)),
    responses((status = 200, body = Vec<TopicPermissionBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_user(
    services: web::Data<Services>,
    user: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    services.auth.users().get(&user).ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(listed(&services, |_, it| *it == **user)))
}

/// Those of a user in a vhost.
#[utoipa::path(get, path = "/api/topic-permissions/{vhost}/{user}", tag = "permissions", security(("basic" = [])),
    params(("vhost" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = Vec<TopicPermissionBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let bodies = listed(&services, |vhost, user| *vhost == path.0 && *user == path.1);
    match bodies.is_empty() {
        true => Err(not_found()),
        false => Ok(HttpResponse::Ok().json(bodies)),
    }
}

/// Says with which routing keys a user may use a topic exchange; without that, all. Connections follow at once.
#[utoipa::path(put, path = "/api/topic-permissions/{vhost}/{user}", tag = "permissions", security(("basic" = [])),
    request_body = TopicPermissionFields, params(("vhost" = String, Path), ("user" = String, Path)),
    responses((status = 201, description = "The user had none here"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, user) = path.into_inner();
    check_both(&services, &vhost, &user)?;
    let fields = manager.fields()?;
    let topic = TopicPermission {
        // An empty name is that of the default exchange.
        exchange: required(&fields, "exchange")?,
        write: required(&fields, "write")?,
        read: required(&fields, "read")?,
    };
    let users = services.auth.users();
    let had_any = users
        .grant(&user, &vhost)
        .is_some_and(|it| !it.topics.is_empty());
    users.permit_topic(&user, &vhost, topic).await?;
    forget_if_gone(&services, &vhost).await?;
    match had_any {
        false => Ok(HttpResponse::Created().finish()),
        true => Ok(HttpResponse::NoContent().finish()),
    }
}

/// Takes back what was said of a user's routing keys in a vhost.
#[utoipa::path(delete, path = "/api/topic-permissions/{vhost}/{user}", tag = "permissions", security(("basic" = [])),
    params(("vhost" = String, Path), ("user" = String, Path), ("exchange" = Option<String>, Query, description = "One exchange only")),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, user) = path.into_inner();
    let users = services.auth.users();
    users.get(&user).ok_or_else(not_found)?;
    let of: OfExchange = parse_query(&request)?;
    let exchange = of.exchange.as_deref();
    match users.forget_topics(&user, &vhost, exchange).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, of_vhost, of_user, show, put, remove))]
pub(super) struct Api;
