//! `/api/users` and `/api/whoami`: the users, in the shape of RabbitMQ's management interface.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::management::{Administrator, Manager, bad_request, list, not_found, text};
use super::{ApiError, ErrorBody, Services};
use crate::auth::{PasswordHash, Secret, User, UserUpdate, hash_password};

/// A user.
#[derive(Serialize, ToSchema)]
pub struct UserBody {
    /// Its name.
    name: String,
    /// What is stored of its password; empty: it cannot log in.
    password_hash: String,
    /// How that is made.
    hashing_algorithm: &'static str,
    /// What it may do beside AMQP.
    tags: Vec<String>,
    /// `max-connections` and `max-channels`, where there are any.
    #[schema(value_type = Object)]
    limits: Value,
}

/// Who is calling.
#[derive(Serialize, ToSchema)]
struct WhoamiBody {
    name: String,
    tags: Vec<String>,
}

/// A user as it is to be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct UserFields {
    /// Any of administrator, operator, monitoring, policymaker, management, impersonator; others mean nothing. Also one text with commas.
    tags: Vec<String>,
    /// Its password. Without it and `password_hash` the user cannot log in.
    password: Option<String>,
    /// The base64 of salt and hash, instead of the password. Empty: it cannot log in.
    password_hash: Option<String>,
    /// `rabbit_password_hashing_sha256` unless said otherwise, or `rabbit_password_hashing_sha512`.
    hashing_algorithm: Option<String>,
}

/// The names of users.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
struct UserNames {
    users: Vec<String>,
}

impl UserBody {
    fn of(user: &User) -> Self {
        let (password_hash, hashing_algorithm) = user.password_hash().unwrap_or_default();
        Self {
            name: user.name.to_string(),
            password_hash,
            hashing_algorithm,
            tags: user.tag_names.clone(),
            limits: serde_json::to_value(user.limits).unwrap_or_default(),
        }
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/whoami").route(web::get().to(whoami)))
        .service(web::resource("/api/users").route(web::get().to(list_all)))
        .service(web::resource("/api/users/bulk-delete").route(web::post().to(bulk_delete)))
        .service(
            web::resource("/api/users/without-permissions")
                .route(web::get().to(without_permissions)),
        )
        .service(
            web::resource("/api/users/{user}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        );
}

/// Who is calling, with which tags.
#[utoipa::path(get, path = "/api/whoami", tag = "users", security(("basic" = [])),
    responses((status = 200, body = WhoamiBody), (status = 401, body = ErrorBody)))]
async fn whoami(services: web::Data<Services>, manager: Manager) -> HttpResponse {
    let name = &*manager.identity.name;
    let user = services.auth.users().get(name);
    HttpResponse::Ok().json(WhoamiBody {
        name: name.to_owned(),
        tags: user.map_or_else(Vec::new, |user| user.tag_names.clone()),
    })
}

/// All users, by name.
#[utoipa::path(get, path = "/api/users", tag = "users", security(("basic" = [])),
    responses((status = 200, body = Vec<UserBody>), (status = 401, body = ErrorBody)))]
async fn list_all(services: web::Data<Services>, _: Administrator) -> HttpResponse {
    let users = services.auth.users().list();
    let users: Vec<_> = users.iter().map(|it| UserBody::of(it)).collect();
    HttpResponse::Ok().json(users)
}

/// The users who may enter no vhost.
#[utoipa::path(get, path = "/api/users/without-permissions", tag = "users", security(("basic" = [])),
    responses((status = 200, body = Vec<UserBody>), (status = 401, body = ErrorBody)))]
async fn without_permissions(services: web::Data<Services>, _: Administrator) -> HttpResponse {
    let users = services.auth.users();
    let mut grants = users.grants();
    grants.retain(|(_, _, grant)| grant.permission.is_some());
    let has_any = |user: &User| grants.iter().any(|(_, name, _)| **name == *user.name);
    let users = users.list().into_iter().filter(|user| !has_any(user));
    let users: Vec<_> = users.map(|it| UserBody::of(&it)).collect();
    HttpResponse::Ok().json(users)
}

/// One user.
#[utoipa::path(get, path = "/api/users/{user}", tag = "users", security(("basic" = [])), params(("user" = String, Path)),
    responses((status = 200, body = UserBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    user: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let user = services.auth.users().get(&user).ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(UserBody::of(&user)))
}

/// Creates or changes a user.
#[utoipa::path(put, path = "/api/users/{user}", tag = "users", security(("basic" = [])), request_body = UserFields,
    params(("user" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    user: web::Path<String>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let fields = manager.fields()?;
    if services.auth.is_client(&user) {
        let reason = format!("'{user}' is a client of the bus, and logs in with its own secret");
        return Err(bad_request(reason));
    }
    let update = UserUpdate {
        tags: Some(list(&fields, "tags")?.ok_or_else(|| bad_request("tags_not_present"))?),
        password: Some(password(&fields).await?),
        limits: None,
    };
    match services.auth.users().put(&user, update).await? {
        true => Ok(HttpResponse::Created().finish()),
        false => Ok(HttpResponse::NoContent().finish()),
    }
}

/// The password that a body gives; none: the user cannot log in.
async fn password(fields: &Map<String, Value>) -> Result<Option<PasswordHash>, ApiError> {
    match (text(fields, "password")?, text(fields, "password_hash")?) {
        (Some(_), Some(_)) => Err(bad_request("both_password_and_password_hash_are_provided")),
        (Some(chosen), None) if chosen.is_empty() => Ok(None),
        (Some(chosen), None) => {
            let hash = hash_password(Secret::new(chosen)).await;
            hash.map(Some).map_err(|error| ApiError::internal(&error))
        }
        (None, Some(hash)) if hash.is_empty() => Ok(None),
        (None, Some(hash)) => {
            let algorithm = text(fields, "hashing_algorithm")?;
            let hash = PasswordHash::import(&hash, algorithm.as_deref());
            hash.map(Some)
                .map_err(|error| bad_request(error.to_string()))
        }
        (None, None) => Ok(None),
    }
}

/// Deletes a user with its permissions. Its connections are closed.
#[utoipa::path(delete, path = "/api/users/{user}", tag = "users", security(("basic" = [])), params(("user" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    user: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let names = [user.into_inner()];
    match services.auth.users().delete(&names).await? {
        None => Ok(HttpResponse::NoContent().finish()),
        Some(_) => Err(not_found()),
    }
}

/// Deletes several users, or none of them.
#[utoipa::path(post, path = "/api/users/bulk-delete", tag = "users", security(("basic" = [])), request_body = UserNames,
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn bulk_delete(
    services: web::Data<Services>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let names = list(&manager.fields()?, "users")?;
    let names = names.ok_or_else(|| bad_request("[{key_missing,users}]"))?;
    match services.auth.users().delete(&names).await? {
        None => Ok(HttpResponse::NoContent().finish()),
        Some(missing) => Err(bad_request(format!("no_such_user: {missing}"))),
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(whoami, list_all, without_permissions, show, put, remove, bulk_delete))]
pub(super) struct Api;
