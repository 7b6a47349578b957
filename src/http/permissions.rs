//! `/api/permissions`: what users may do in vhosts, in the shape of RabbitMQ's management interface.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::management::{Administrator, bad_request, check_vhost, not_found, required};
use super::{ApiError, ErrorBody, Services};
use crate::auth::Permission;

/// What a user may do in a vhost: patterns of the names of exchanges and queues.
#[derive(Serialize, ToSchema)]
pub struct PermissionBody {
    /// The user.
    user: String,
    /// The vhost.
    vhost: String,
    /// What may be declared and deleted.
    configure: String,
    /// What may be published to and bound to something.
    write: String,
    /// What may be consumed from and bound from.
    read: String,
}

/// The patterns; an empty one is found in no name.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct PermissionFields {
    configure: String,
    write: String,
    read: String,
}

impl PermissionBody {
    fn new(user: String, vhost: String, permission: Permission) -> Self {
        Self {
            user,
            vhost,
            configure: permission.configure,
            write: permission.write,
            read: permission.read,
        }
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/permissions").route(web::get().to(list_all)))
        .service(
            web::resource("/api/permissions/{vhost}/{user}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        )
        .service(web::resource("/api/vhosts/{vhost}/permissions").route(web::get().to(of_vhost)))
        .service(web::resource("/api/users/{user}/permissions").route(web::get().to(of_user)));
}

/// All permissions that `wanted` wants, by vhost and user.
fn listed(services: &Services, wanted: impl Fn(&str, &str) -> bool) -> HttpResponse {
    let grants = services.auth.users().grants().into_iter();
    let grants = grants.filter(|(vhost, user, _)| wanted(vhost, user));
    let permissions = grants.filter_map(|(vhost, user, grant)| {
        let permission = grant.permission?;
        Some(PermissionBody::new(user, vhost, permission))
    });
    HttpResponse::Ok().json(permissions.collect::<Vec<_>>())
}

/// All permissions.
#[utoipa::path(get, path = "/api/permissions", tag = "permissions", security(("basic" = [])),
    responses((status = 200, body = Vec<PermissionBody>), (status = 401, body = ErrorBody)))]
async fn list_all(services: web::Data<Services>, _: Administrator) -> HttpResponse {
    listed(&services, |_, _| true)
}

/// What users may do in a vhost.
#[utoipa::path(get, path = "/api/vhosts/{vhost}/permissions", tag = "permissions", security(("basic" = [])),
    params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<PermissionBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_vhost(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    check_vhost(&services, &vhost)?;
    Ok(listed(&services, |it, _| *it == **vhost))
}

/// What a user may do in which vhost.
#[utoipa::path(get, path = "/api/users/{user}/permissions", tag = "permissions", security(("basic" = [])),
    params(("user" = String, Path)),
    responses((status = 200, body = Vec<PermissionBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_user(
    services: web::Data<Services>,
    user: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    services.auth.users().get(&user).ok_or_else(not_found)?;
    Ok(listed(&services, |_, it| *it == **user))
}

/// What a user may do in a vhost.
#[utoipa::path(get, path = "/api/permissions/{vhost}/{user}", tag = "permissions", security(("basic" = [])),
    params(("vhost" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = PermissionBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, user) = path.into_inner();
    let grant = services.auth.users().grant(&user, &vhost);
    let permission = grant.and_then(|it| it.permission).ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(PermissionBody::new(user, vhost, permission)))
}

/// Lets a user do in a vhost what the patterns say. Connections that are open follow at once.
#[utoipa::path(put, path = "/api/permissions/{vhost}/{user}", tag = "permissions", security(("basic" = [])),
    request_body = PermissionFields, params(("vhost" = String, Path), ("user" = String, Path)),
    responses((status = 201, description = "There was none"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, user) = path.into_inner();
    check_both(&services, &vhost, &user)?;
    let fields = manager.fields()?;
    let permission = Permission {
        configure: required(&fields, "configure")?,
        write: required(&fields, "write")?,
        read: required(&fields, "read")?,
    };
    let new = services
        .auth
        .users()
        .permit(&user, &vhost, permission)
        .await?;
    forget_if_gone(&services, &vhost).await?;
    match new {
        true => Ok(HttpResponse::Created().finish()),
        false => Ok(HttpResponse::NoContent().finish()),
    }
}

/// Lets a user not enter a vhost any more. Connections that are open may do nothing from then on.
#[utoipa::path(delete, path = "/api/permissions/{vhost}/{user}", tag = "permissions", security(("basic" = [])),
    params(("vhost" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, user) = path.into_inner();
    let users = services.auth.users();
    users.get(&user).ok_or_else(not_found)?;
    match users.forbid(&user, &vhost).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// That vhost and user are there.
pub(super) fn check_both(services: &Services, vhost: &str, user: &str) -> Result<(), ApiError> {
    match services.engine.has_vhost(vhost) && services.auth.users().get(user).is_some() {
        true => Ok(()),
        false => Err(bad_request("vhost_or_user_not_found")),
    }
}

/// Takes back what was granted in a vhost that was deleted meanwhile.
pub(super) async fn forget_if_gone(services: &Services, vhost: &str) -> Result<(), ApiError> {
    if !services.engine.has_vhost(vhost) {
        services.auth.users().keep_vhosts(|it| it != vhost).await?;
    }
    Ok(())
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, of_vhost, of_user, show, put, remove))]
pub(super) struct Api;
