//! `/api/vhost-limits` and `/api/user-limits`, in the shape of RabbitMQ's management interface. A negative limit is
//! none.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::management::{Administrator, Manager, bad_request, not_found};
use super::{ApiError, ErrorBody, Services};
use crate::auth::{UserLimits, UserUpdate};
use crate::engine::VhostLimits;

/// Limits of a vhost.
#[derive(Serialize, ToSchema)]
pub struct VhostLimitsBody {
    /// The vhost.
    vhost: String,
    /// `max-connections` and `max-queues`, where there are any.
    #[schema(value_type = Object)]
    value: VhostLimits,
}

/// Limits of a user.
#[derive(Serialize, ToSchema)]
pub struct UserLimitsBody {
    /// The user.
    user: String,
    /// `max-connections` and `max-channels`, where there are any.
    #[schema(value_type = Object)]
    value: UserLimits,
}

/// A limit; a negative one is none.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
struct LimitFields {
    value: i64,
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/vhost-limits").route(web::get().to(all_vhosts)))
        .service(web::resource("/api/vhost-limits/{vhost}").route(web::get().to(one_vhost)))
        .service(
            web::resource("/api/vhost-limits/{vhost}/{limit}")
                .route(web::put().to(put_vhost))
                .route(web::delete().to(remove_vhost)),
        )
        .service(web::resource("/api/user-limits").route(web::get().to(all_users)))
        .service(web::resource("/api/user-limits/{user}").route(web::get().to(one_user)))
        .service(
            web::resource("/api/user-limits/{user}/{limit}")
                .route(web::put().to(put_user))
                .route(web::delete().to(remove_user)),
        );
}

/// The limits of all vhosts that have any and that the caller sees.
#[utoipa::path(get, path = "/api/vhost-limits", tag = "limits", security(("basic" = [])),
    responses((status = 200, body = Vec<VhostLimitsBody>), (status = 401, body = ErrorBody)))]
async fn all_vhosts(services: web::Data<Services>, manager: Manager) -> HttpResponse {
    HttpResponse::Ok().json(of_vhosts(&services, |it| manager.sees(&services, it)))
}

/// The limits of a vhost: a list of one, or empty.
#[utoipa::path(get, path = "/api/vhost-limits/{vhost}", tag = "limits", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<VhostLimitsBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn one_vhost(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    Ok(HttpResponse::Ok().json(of_vhosts(&services, |it| *it == **vhost)))
}

fn of_vhosts(services: &Services, wanted: impl Fn(&str) -> bool) -> Vec<VhostLimitsBody> {
    let vhosts = services.engine.vhosts().into_iter();
    let limited = vhosts.filter(|it| it.definition.limits != VhostLimits::default());
    limited
        .filter(|it| wanted(&it.definition.name))
        .map(|it| VhostLimitsBody {
            vhost: it.definition.name.clone(),
            value: it.definition.limits,
        })
        .collect()
}

/// Sets `max-connections` or `max-queues` of a vhost.
#[utoipa::path(put, path = "/api/vhost-limits/{vhost}/{limit}", tag = "limits", security(("basic" = [])), request_body = LimitFields,
    params(("vhost" = String, Path), ("limit" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn put_vhost(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    limit_vhost(&services, &vhost, &name, Some(value(&manager, &name)?)).await
}

/// Takes a limit of a vhost away.
#[utoipa::path(delete, path = "/api/vhost-limits/{vhost}/{limit}", tag = "limits", security(("basic" = [])),
    params(("vhost" = String, Path), ("limit" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove_vhost(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    limit_vhost(&services, &vhost, &name, None).await
}

async fn limit_vhost(
    services: &Services,
    vhost: &str,
    name: &str,
    max: Option<i64>,
) -> Result<HttpResponse, ApiError> {
    let field: fn(&mut VhostLimits) -> &mut Option<i64> = match name {
        "max-connections" => |limits| &mut limits.max_connections,
        "max-queues" => |limits| &mut limits.max_queues,
        other => return Err(unknown(other)),
    };
    let edit = |limits: &mut VhostLimits| *field(limits) = max;
    match services.engine.limit_vhost(vhost, edit).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// The limits of all users that have any.
#[utoipa::path(get, path = "/api/user-limits", tag = "limits", security(("basic" = [])),
    responses((status = 200, body = Vec<UserLimitsBody>), (status = 401, body = ErrorBody)))]
async fn all_users(services: web::Data<Services>, manager: Manager) -> HttpResponse {
    let sees_all = manager.identity.is_administrator();
    let sees = |user: &str| sees_all || user == &*manager.identity.name;
    HttpResponse::Ok().json(of_users(&services, sees))
}

/// The limits of a user: a list of one, or empty.
#[utoipa::path(get, path = "/api/user-limits/{user}", tag = "limits", security(("basic" = [])), params(("user" = String, Path)),
    responses((status = 200, body = Vec<UserLimitsBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn one_user(
    services: web::Data<Services>,
    user: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    services.auth.users().get(&user).ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(of_users(&services, |it| *it == **user)))
}

fn of_users(services: &Services, wanted: impl Fn(&str) -> bool) -> Vec<UserLimitsBody> {
    let users = services.auth.users().list().into_iter();
    let limited = users.filter(|it| it.limits != UserLimits::default());
    limited
        .filter(|it| wanted(&it.name))
        .map(|it| UserLimitsBody {
            user: it.name.to_string(),
            value: it.limits,
        })
        .collect()
}

/// Sets `max-connections` or `max-channels` of a user.
#[utoipa::path(put, path = "/api/user-limits/{user}/{limit}", tag = "limits", security(("basic" = [])), request_body = LimitFields,
    params(("user" = String, Path), ("limit" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn put_user(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let (user, name) = path.into_inner();
    limit_user(&services, &user, &name, Some(value(&manager, &name)?)).await
}

/// Takes a limit of a user away.
#[utoipa::path(delete, path = "/api/user-limits/{user}/{limit}", tag = "limits", security(("basic" = [])),
    params(("user" = String, Path), ("limit" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn remove_user(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (user, name) = path.into_inner();
    limit_user(&services, &user, &name, None).await
}

async fn limit_user(
    services: &Services,
    user: &str,
    name: &str,
    max: Option<i64>,
) -> Result<HttpResponse, ApiError> {
    let users = services.auth.users();
    let Some(known) = users.get(user) else {
        return Err(bad_request(format!("no_such_user: {user}")));
    };
    let mut limits = known.limits;
    match name {
        "max-connections" => limits.max_connections = max,
        "max-channels" => limits.max_channels = max,
        other => return Err(unknown(other)),
    }
    let update = UserUpdate {
        limits: Some(limits),
        ..UserUpdate::default()
    };
    users.put(user, update).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn value(manager: &Manager, limit: &str) -> Result<i64, ApiError> {
    match manager.fields()?.get("value") {
        None => Err(bad_request("[{key_missing,value}]")),
        Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64().unwrap_or(-1)),
        Some(other) => Err(bad_request(format!(
            "{limit} should be a number, actually was {other}"
        ))),
    }
}

fn unknown(limit: &str) -> ApiError {
    bad_request(format!("Unrecognised terms [{limit}] in limits"))
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    all_vhosts,
    one_vhost,
    put_vhost,
    remove_vhost,
    all_users,
    one_user,
    put_user,
    remove_user
))]
pub(super) struct Api;
