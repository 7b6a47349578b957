//! `/api/vhosts`: the vhosts, in the shape of RabbitMQ's management interface.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::listing::{Listed, Listing};
use super::management::{Administrator, Manager, flag, list, not_found, text};
use super::{ApiError, ErrorBody, Services};
use crate::auth::Permission;
use crate::engine::{VhostInfo, VhostUpdate};

/// A vhost.
#[derive(Serialize, ToSchema)]
pub struct VhostBody {
    /// Its name.
    name: String,
    /// For people.
    description: String,
    /// For tools.
    tags: Vec<String>,
    /// Both of these again.
    metadata: Metadata,
    /// Copies of its messages go to `amq.rabbitmq.trace`.
    tracing: bool,
    /// How safe its queues are unless they say it themselves.
    durability: &'static str,
    /// Ready or unacknowledged.
    messages: u64,
    /// Wait to be delivered.
    messages_ready: u64,
    /// Are delivered and not acknowledged.
    messages_unacknowledged: u64,
}

/// What is said of a vhost.
#[derive(Serialize, ToSchema)]
struct Metadata {
    description: String,
    tags: Vec<String>,
}

/// What may be said of a vhost; what is not given stays.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct VhostFields {
    /// For people.
    description: Option<String>,
    /// For tools; also one text with commas.
    tags: Option<Vec<String>>,
    /// Whether copies of its messages go to `amq.rabbitmq.trace`, until the server ends.
    tracing: Option<bool>,
}

impl From<VhostInfo> for VhostBody {
    fn from(info: VhostInfo) -> Self {
        let about = &info.definition;
        Self {
            name: about.name.clone(),
            description: about.description.clone(),
            tags: about.tags.clone(),
            metadata: Metadata {
                description: about.description.clone(),
                tags: about.tags.clone(),
            },
            tracing: info.tracing,
            durability: info.durability,
            messages: info.ready + info.unacked,
            messages_ready: info.ready,
            messages_unacknowledged: info.unacked,
        }
    }
}

impl Listed for VhostBody {
    fn name(&self) -> &str {
        &self.name
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/api/vhosts").route(web::get().to(list_all)))
        .service(
            web::resource("/api/vhosts/{vhost}")
                .route(web::get().to(show))
                .route(web::put().to(put))
                .route(web::delete().to(remove)),
        );
}

/// The vhosts that the caller sees, by name; in pages where the query asks for them.
#[utoipa::path(get, path = "/api/vhosts", tag = "vhosts", security(("basic" = [])),
    responses((status = 200, body = Vec<VhostBody>), (status = 401, body = ErrorBody)))]
async fn list_all(
    services: web::Data<Services>,
    request: HttpRequest,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    let mut vhosts = services.engine.vhosts();
    vhosts.retain(|it| manager.sees(&services, &it.definition.name));
    let vhosts: Vec<_> = vhosts.into_iter().map(VhostBody::from).collect();
    Listing::of(&request)?.answer(vhosts)
}

/// One vhost.
#[utoipa::path(get, path = "/api/vhosts/{vhost}", tag = "vhosts", security(("basic" = [])),
    params(("vhost" = String, Path, description = "A vhost; `/` is written %2F", example = "/")),
    responses((status = 200, body = VhostBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn show(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    manager: Manager,
) -> Result<HttpResponse, ApiError> {
    manager.check_sees(&services, &vhost)?;
    let info = services.engine.vhost(&vhost).ok_or_else(not_found)?;
    Ok(HttpResponse::Ok().json(VhostBody::from(info)))
}

/// Creates a vhost, in which the caller gets all rights, or changes what is said of one.
#[utoipa::path(put, path = "/api/vhosts/{vhost}", tag = "vhosts", security(("basic" = [])), request_body = VhostFields,
    params(("vhost" = String, Path)),
    responses((status = 201, description = "It is new"), (status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn put(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    let fields = manager.fields()?;
    let update = VhostUpdate {
        description: text(&fields, "description")?,
        tags: list(&fields, "tags")?,
        tracing: match fields.get("tracing") {
            None | Some(Value::Null) => None,
            Some(_) => Some(flag(&fields, "tracing")?),
        },
    };
    let users = services.auth.users();
    if !services.engine.has_vhost(&vhost) {
        // What was granted in one of that name before, if forgetting it was cut short.
        users.keep_vhosts(|it| *it != **vhost).await?;
    }
    if !services.engine.put_vhost(&vhost, update).await? {
        return Ok(HttpResponse::NoContent().finish());
    }
    let all = Permission::full();
    users.permit(&manager.identity.name, &vhost, all).await?;
    Ok(HttpResponse::Created().finish())
}

/// Deletes a vhost with all that is in it. Its connections are closed.
#[utoipa::path(delete, path = "/api/vhosts/{vhost}", tag = "vhosts", security(("basic" = [])),
    params(("vhost" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn remove(
    services: web::Data<Services>,
    vhost: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let deleted = services.engine.delete_vhost(&vhost).await;
    // Gone is gone, even if it may come back after a crash.
    if !services.engine.has_vhost(&vhost) {
        services.connections.close_vhost(&vhost);
        let users = services.auth.users();
        users.keep_vhosts(|it| *it != **vhost).await?;
    }
    match deleted? {
        true => Ok(HttpResponse::NoContent().finish()),
        false => Err(not_found()),
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(list_all, show, put, remove))]
pub(super) struct Api;
