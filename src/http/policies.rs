//! `/api/policies` and `/api/operator-policies`, in the shape of RabbitMQ's management interface.
//!
//! Policymakers make policies in vhosts that they may enter; operators' are an administrator's.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::management::{Administrator, Manager, bad_request, not_authorised, not_found, required};
use super::{ApiError, ErrorBody, Services};
use crate::engine::{ApplyTo, Author, Policy, PolicyDefinition};

/// A policy.
#[derive(Serialize, ToSchema)]
pub struct PolicyBody {
    /// Its vhost.
    vhost: String,
    /// Its name.
    name: String,
    /// What names of queues and exchanges have to have in them.
    pattern: String,
    /// all, queues, exchanges, classic_queues, quorum_queues or streams.
    #[serde(rename = "apply-to")]
    #[schema(value_type = String)]
    apply_to: ApplyTo,
    /// The settings, as a declare's arguments without the `x-`.
    #[schema(value_type = Object)]
    definition: Map<String, Value>,
    /// Of those that fit, the highest one counts.
    priority: i64,
}

/// A policy as it is to be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct PolicyFields {
    /// A regular expression.
    pattern: String,
    /// The settings.
    #[schema(value_type = Object)]
    definition: Map<String, Value>,
    /// 0 unless said otherwise.
    priority: Option<i64>,
    /// `all` unless said otherwise.
    #[schema(rename = "apply-to")]
    apply_to: Option<String>,
}

impl PolicyBody {
    fn of(policy: &Policy) -> Self {
        let it = policy.definition.clone();
        Self {
            vhost: it.vhost,
            name: it.name,
            pattern: it.pattern,
            apply_to: it.apply_to,
            definition: it.definition,
            priority: it.priority,
        }
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/policies").route(web::get().to(list_all)))
        .service(web::resource("/api/policies/{vhost}").route(web::get().to(of_vhost)))
        .service(
            web::resource("/api/policies/{vhost}/{name}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        )
        .service(web::resource("/api/operator-policies").route(web::get().to(list_operators)))
        .service(
            web::resource("/api/operator-policies/{vhost}")
                .route(web::get().to(operators_of_vhost)),
        )
        .service(
            web::resource("/api/operator-policies/{vhost}/{name}")
                .route(web::get().to(show_operator))
                .route(web::put().to(put_operator))
                .route(web::delete().to(remove_operator)),
        );
}

/// The policies that `wanted` wants, by vhost and name.
fn listed(services: &Services, author: Author, wanted: impl Fn(&str) -> bool) -> HttpResponse {
    let mut policies = services.engine.policies(author);
    policies.retain(|it| wanted(&it.definition.vhost));
    let policies: Vec<_> = policies.iter().map(|it| PolicyBody::of(it)).collect();
    HttpResponse::Ok().json(policies)
}

fn shown(
    services: &Services,
    author: Author,
    vhost: &str,
    name: &str,
) -> Result<HttpResponse, ApiError> {
    let policies = services.engine.policies(author);
    let is_it = |it: &Policy| it.definition.vhost == vhost && it.definition.name == name;
    let policy = policies.iter().find(|it| is_it(it)).ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(PolicyBody::of(policy)))
}

/// The policies of the vhosts that the caller sees.
#[utoipa::path(get, path = "/api/policies", tag = "policies", security(("basic" = [])),
    responses((status = 200, body = Vec<PolicyBody>), (status = 401, body = ErrorBody)))]
async fn list_all(services: web::Data<Services>, manager: Manager) -> HttpResponse {
    listed(&services, Author::User, |it| manager.sees(&services, it))
}

/// The policies of a vhost.
#[utoipa::path(get, path = "/api/policies/{vhost}", tag = "policies", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<PolicyBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_vhost(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    Ok(listed(&services, Author::User, |it| *it == **vhost))
}

/// One policy.
#[utoipa::path(get, path = "/api/policies/{vhost}/{name}", tag = "policies", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = PolicyBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    manager.check_sees(&services, &vhost)?;
    shown(&services, Author::User, &vhost, &name)
}

/// Makes or changes a policy. It counts at once, for what is there too.
#[utoipa::path(put, path = "/api/policies/{vhost}/{name}", tag = "policies", security(("basic" = [])), request_body = PolicyFields,
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    check_maker(&services, &manager, &vhost)?;
    store(&services, Author::User, &manager, vhost, name).await
}

/// Removes a policy. What it set ends at once.
#[utoipa::path(delete, path = "/api/policies/{vhost}/{name}", tag = "policies", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    check_maker(&services, &manager, &vhost)?;
    forget(&services, Author::User, &vhost, &name).await
}

/// The operator policies of the vhosts that the caller sees.
#[utoipa::path(get, path = "/api/operator-policies", tag = "policies", security(("basic" = [])),
    responses((status = 200, body = Vec<PolicyBody>), (status = 401, body = ErrorBody)))]
async fn list_operators(services: web::Data<Services>, manager: Manager) -> HttpResponse {
    listed(&services, Author::Operator, |it| {
        manager.sees(&services, it)
    })
}

/// The operator policies of a vhost.
#[utoipa::path(get, path = "/api/operator-policies/{vhost}", tag = "policies", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Vec<PolicyBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn operators_of_vhost(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    Ok(listed(&services, Author::Operator, |it| *it == **vhost))
}

/// One operator policy.
#[utoipa::path(get, path = "/api/operator-policies/{vhost}/{name}", tag = "policies", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = PolicyBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_operator(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    manager.check_sees(&services, &vhost)?;
    shown(&services, Author::Operator, &vhost, &name)
}

/// Makes or changes an operator policy: limits that hold whatever others say.
#[utoipa::path(put, path = "/api/operator-policies/{vhost}/{name}", tag = "policies", security(("basic" = [])), request_body = PolicyFields,
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn put_operator(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    store(&services, Author::Operator, &manager, vhost, name).await
}

/// Removes an operator policy.
#[utoipa::path(delete, path = "/api/operator-policies/{vhost}/{name}", tag = "policies", security(("basic" = [])),
    params(("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove_operator(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (vhost, name) = path.into_inner();
    forget(&services, Author::Operator, &vhost, &name).await
}

/// That the caller makes policies in `vhost`.
fn check_maker(services: &Services, manager: &Manager, vhost: &str) -> Result<(), ApiError> {
    let identity = &manager.identity;
    let enters = services.auth.users().may_enter(&identity.name, vhost);
    match identity.is_administrator() || (identity.tags().may_make_policies() && enters) {
        true => Ok(()),
        false => Err(not_authorised("User not authorised to access object")),
    }
}

async fn store(
    services: &Services,
    author: Author,
    manager: &Manager,
    vhost: String,
    name: String,
) -> Result<HttpResponse, ApiError> {
    let fields = manager.fields()?;
    let definition = PolicyDefinition {
        vhost,
        name,
        pattern: required(&fields, "pattern")?,
        apply_to: apply_to(&fields)?,
        definition: match fields.get("definition") {
            Some(Value::Object(settings)) => settings.clone(),
            Some(_) => return Err(bad_request("definition should be an object")),
            None => return Err(bad_request("[{key_missing,definition}]")),
        },
        priority: match fields.get("priority") {
            None | Some(Value::Null) => 0,
            Some(given) => given.as_i64().ok_or_else(|| {
                invalid(format!("priority should be a number, actually was {given}"))
            })?,
        },
    };
    match services.engine.put_policy(author, definition).await? {
        Some(true) => Ok(HttpResponse::Created().finish()),
        Some(false) => Ok(HttpResponse::NoContent().finish()),
        None => {
            let missing =
                ApiError::management(StatusCode::NOT_FOUND, "not_found", "vhost_not_found");
            Err(missing)
        }
    }
}

async fn forget(
    services: &Services,
    author: Author,
    vhost: &str,
    name: &str,
) -> Result<HttpResponse, ApiError> {
    match services.engine.remove_policy(author, vhost, name).await? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

fn apply_to(fields: &Map<String, Value>) -> Result<ApplyTo, ApiError> {
    let given = match fields.get("apply-to") {
        None | Some(Value::Null) => return Ok(ApplyTo::default()),
        Some(given) => given,
    };
    let shown = given
        .as_str()
        .map_or_else(|| given.to_string(), str::to_owned);
    serde_json::from_value(given.clone()).map_err(|_| {
        invalid(format!(
            "apply-to '{shown}' unrecognised; should be 'queues', 'exchanges' or 'all'"
        ))
    })
}

/// 400, as RabbitMQ words what is wrong with a policy.
pub(super) fn invalid(reason: impl std::fmt::Display) -> ApiError {
    bad_request(format!("Validation failed\n\n{reason}\n"))
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list_all,
    of_vhost,
    show,
    put,
    remove,
    list_operators,
    operators_of_vhost,
    show_operator,
    put_operator,
    remove_operator
))]
pub(super) struct Api;
