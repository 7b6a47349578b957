//! `/api/parameters` and `/api/global-parameters`, in the shape of RabbitMQ's management interface.
//!
//! Policymakers see the parameters of vhosts that they see; setting and removing is an administrator's.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::management::{Administrator, Manager, bad_request, not_authorised, not_found};
use super::{ApiError, ErrorBody, Services};
use crate::definitions::{Parameter, ParameterChange};

/// A parameter of a vhost.
#[derive(Serialize, ToSchema)]
pub struct ParameterBody {
    /// Its vhost.
    vhost: String,
    /// What it is for.
    component: String,
    /// Its name.
    name: String,
    /// Its value.
    value: Value,
}

/// A parameter of the node.
#[derive(Serialize, ToSchema)]
struct GlobalParameterBody {
    name: String,
    value: Value,
}

/// A parameter as it is to be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the field is read as it is")]
struct ParameterFields {
    /// Anything that the component takes.
    value: Value,
}

impl From<Parameter> for ParameterBody {
    fn from(it: Parameter) -> Self {
        Self {
            vhost: it.vhost,
            component: it.component,
            name: it.name,
            value: it.value,
        }
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/parameters").route(web::get().to(list_all)))
        .service(web::resource("/api/parameters/{component}").route(web::get().to(of_component)))
        .service(
            web::resource("/api/parameters/{component}/{vhost}").route(web::get().to(of_vhost)),
        )
        .service(
            web::resource("/api/parameters/{component}/{vhost}/{name}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        )
        .service(web::resource("/api/global-parameters").route(web::get().to(list_globals)))
        .service(
            web::resource("/api/global-parameters/{name}")
                .route(web::get().to(show_global))
                .route(web::put().to(put_global))
                .route(web::delete().to(remove_global)),
        );
}

/// The parameters that the caller sees and `wanted` wants.
fn listed(
    services: &Services,
    manager: &Manager,
    wanted: impl Fn(&Parameter) -> bool,
) -> Result<HttpResponse, ApiError> {
    check_policymaker(manager)?;
    let all = services.definitions.parameters().into_iter();
    let seen = all.filter(|it| wanted(it) && manager.sees(services, &it.vhost));
    let bodies: Vec<_> = seen.map(ParameterBody::from).collect();
    Ok(HttpResponse::Ok().json(bodies))
}

fn check_policymaker(manager: &Manager) -> Result<(), ApiError> {
    match manager.identity.tags().may_make_policies() {
        true => Ok(()),
        false => Err(not_authorised("User not authorised to access object")),
    }
}

/// The parameters of the vhosts that the caller sees.
#[utoipa::path(get, path = "/api/parameters", tag = "parameters", security(("basic" = [])),
    responses((status = 200, body = Vec<ParameterBody>), (status = 401, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    listed(&services, &manager, |_| true)
}

/// Those of one component.
#[utoipa::path(get, path = "/api/parameters/{component}", tag = "parameters", security(("basic" = [])), params(("component" = String, Path)),
    responses((status = 200, body = Vec<ParameterBody>), (status = 401, body = ErrorBody)))]
async fn of_component(
    services: web::Data<Services>,
    component: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    listed(&services, &manager, |it| it.component == *component)
}

/// Those of one component in one vhost.
#[utoipa::path(get, path = "/api/parameters/{component}/{vhost}", tag = "parameters", security(("basic" = [])),
    params(("component" = String, Path), ("vhost" = String, Path)),
    responses((status = 200, body = Vec<ParameterBody>), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn of_vhost(
    services: web::Data<Services>,
    path: web::Path<(String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (component, vhost) = path.into_inner();
    manager.check_sees(&services, &vhost)?;
    listed(&services, &manager, |it| {
        it.component == component && it.vhost == vhost
    })
}

/// One parameter.
#[utoipa::path(get, path = "/api/parameters/{component}/{vhost}/{name}", tag = "parameters", security(("basic" = [])),
    params(("component" = String, Path), ("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ParameterBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    path: web::Path<(String, String, String)>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let (component, vhost, name) = path.into_inner();
    manager.check_sees(&services, &vhost)?;
    check_policymaker(&manager)?;
    let mut all = services.definitions.parameters().into_iter();
    let found = all.find(|it| it.component == component && it.vhost == vhost && it.name == name);
    let found = found.ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(ParameterBody::from(found)))
}

/// Sets a vhost's limits (component `vhost-limits`, name `limits`) or an operator policy (`operator_policy`).
#[utoipa::path(put, path = "/api/parameters/{component}/{vhost}/{name}", tag = "parameters", security(("basic" = [])),
    request_body = ParameterFields,
    params(("component" = String, Path), ("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    path: web::Path<(String, String, String)>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let (component, vhost, name) = path.into_inner();
    let parameter = Parameter {
        component,
        vhost,
        name,
        value: value(&manager)?,
    };
    let put = services.definitions.put_parameter(parameter).await?;
    Ok(answer(put))
}

/// Removes a parameter.
#[utoipa::path(delete, path = "/api/parameters/{component}/{vhost}/{name}", tag = "parameters", security(("basic" = [])),
    params(("component" = String, Path), ("vhost" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    path: web::Path<(String, String, String)>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let (component, vhost, name) = path.into_inner();
    let definitions = &services.definitions;
    removed(
        definitions
            .remove_parameter(&component, &vhost, &name)
            .await?,
    )
}

/// The global parameters.
#[utoipa::path(get, path = "/api/global-parameters", tag = "parameters", security(("basic" = [])),
    responses((status = 200, body = Vec<GlobalParameterBody>), (status = 401, body = ErrorBody)))]
async fn list_globals(
    services: web::Data<Services>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    check_policymaker(&manager)?;
    let all = services.definitions.globals().await?.into_iter();
    let bodies: Vec<_> = all
        .map(|(name, value)| GlobalParameterBody { name, value })
        .collect();
    Ok(HttpResponse::Ok().json(bodies))
}

/// One of them.
#[utoipa::path(get, path = "/api/global-parameters/{name}", tag = "parameters", security(("basic" = [])), params(("name" = String, Path)),
    responses((status = 200, body = GlobalParameterBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show_global(
    services: web::Data<Services>,
    name: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    check_policymaker(&manager)?;
    let value = services.definitions.global(&name).await?;
    Ok(HttpResponse::Ok().json(GlobalParameterBody {
        value: value.ok_or_else(not_found)?,
        name: name.into_inner(),
    }))
}

/// Sets a global parameter, to anything.
#[utoipa::path(put, path = "/api/global-parameters/{name}", tag = "parameters", security(("basic" = [])), request_body = ParameterFields,
    params(("name" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn put_global(
    services: web::Data<Services>,
    name: web::Path<String>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let value = value(&manager)?;
    let put = services.definitions.put_global(&name, &value).await?;
    Ok(answer(put))
}

/// Removes a global parameter.
#[utoipa::path(delete, path = "/api/global-parameters/{name}", tag = "parameters", security(("basic" = [])), params(("name" = String, Path)),
    responses((status = 204), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove_global(
    services: web::Data<Services>,
    name: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    removed(services.definitions.remove_global(&name).await?)
}

fn value(manager: &Manager) -> Result<Value, ApiError> {
    let value = manager.fields()?.remove("value");
    value.ok_or_else(|| bad_request("[{key_missing,value}]"))
}

fn answer(put: ParameterChange) -> HttpResponse {
    match put {
        ParameterChange::New => HttpResponse::Created().finish(),
        ParameterChange::Changed => HttpResponse::NoContent().finish(),
    }
}

fn removed(was_there: bool) -> Result<HttpResponse, ApiError> {
    match was_there {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    list_all,
    of_component,
    of_vhost,
    show,
    put,
    remove,
    list_globals,
    show_global,
    put_global,
    remove_global
))]
pub(super) struct Api;
