//! `/api/definitions`: everything but messages as one document, in the shape of RabbitMQ's management interface.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde_json::Value;

use super::body::form_value;
use super::management::{Administrator, bad_request, not_found};
use super::multipart::part;
use super::policies::invalid;
use super::{ApiError, ErrorBody, Services};
use crate::definitions::{DefinitionsError, ParameterError};

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/api/definitions")
                .route(web::get().to(export))
                .route(web::post().to(import)),
        )
        .service(
            web::resource("/api/definitions/{vhost}")
                .route(web::get().to(export_vhost))
                .route(web::post().to(import_vhost)),
        );
}

/// Everything but messages, and what is the bus's. With `download` in the query it is for a file of that name.
#[utoipa::path(get, path = "/api/definitions", tag = "definitions", security(("basic" = [])),
    params(("download" = Option<String>, Query, description = "Name of a file to save it as")),
    responses((status = 200, body = Object), (status = 401, body = ErrorBody)))]
async fn export(
    services: web::Data<Services>,
    request: HttpRequest,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    Ok(document(&request, &services.definitions.export().await?))
}

/// What belongs to a vhost; the items do not name it.
#[utoipa::path(get, path = "/api/definitions/{vhost}", tag = "definitions", security(("basic" = [])), params(("vhost" = String, Path)),
    responses((status = 200, body = Object), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn export_vhost(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    _: Administrator,
) -> Result<HttpResponse, ApiError> {
    let all = services.definitions.export_vhost(&vhost);
    Ok(document(&request, &all.ok_or_else(not_found)?))
}

/// Brings a document in: adds and changes, deletes nothing. The body is the document, or a form with it as its part `file`.
#[utoipa::path(post, path = "/api/definitions", tag = "definitions", security(("basic" = [])), request_body = Object,
    responses((status = 204, description = "All of it is there, and safe"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
async fn import(
    services: web::Data<Services>,
    request: HttpRequest,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    bring_in(&services, &request, &manager.body, None).await
}

/// The same into one vhost, whatever vhost the items name. What belongs to no vhost is left out.
#[utoipa::path(post, path = "/api/definitions/{vhost}", tag = "definitions", security(("basic" = [])), request_body = Object,
    params(("vhost" = String, Path)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn import_vhost(
    services: web::Data<Services>,
    request: HttpRequest,
    vhost: web::Path<String>,
    Administrator(manager): Administrator,
) -> Result<HttpResponse, ApiError> {
    bring_in(&services, &request, &manager.body, Some(&vhost)).await
}

async fn bring_in(
    services: &Services,
    request: &HttpRequest,
    body: &Bytes,
    vhost: Option<&str>,
) -> Result<HttpResponse, ApiError> {
    let header = request.headers().get(CONTENT_TYPE);
    let content_type = header.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let is_form = content_type.to_ascii_lowercase().starts_with("multipart/");
    let json = match is_form {
        false => body.clone(),
        true => {
            let file = part(content_type, body, "file");
            body.slice_ref(file.ok_or_else(|| bad_request("the form has no part 'file'"))?)
        }
    };
    let imported = services.definitions.import(json, vhost).await?;
    imported.log("the management interface");
    let redirect = part(content_type, body, "redirect").filter(|_| is_form);
    Ok(match redirect.map(String::from_utf8_lossy) {
        Some(target) if !target.contains(char::is_control) => HttpResponse::SeeOther()
            .insert_header((LOCATION, target.as_ref()))
            .finish(),
        _ => HttpResponse::NoContent().finish(),
    })
}

fn document(request: &HttpRequest, all: &Value) -> HttpResponse {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    let name = form_value(request.query_string(), "download");
    let mut answer = HttpResponse::Ok();
    if let Some(name) = name.filter(|name| !name.is_empty() && name.chars().all(plain)) {
        let disposition = format!("attachment; filename=\"{name}\"");
        answer.insert_header((CONTENT_DISPOSITION, disposition));
    }
    answer.json(all)
}

impl From<DefinitionsError> for ApiError {
    fn from(error: DefinitionsError) -> Self {
        match error {
            DefinitionsError::NotJson(problem) => {
                bad_request(format!("failed_to_parse_json: {problem}"))
            }
            DefinitionsError::Wrong(problem) => bad_request(problem),
            DefinitionsError::Parameter(ParameterError::IsPolicy) => {
                bad_request(ParameterError::IsPolicy.to_string())
            }
            DefinitionsError::Parameter(problem) => invalid(problem),
            DefinitionsError::NoVhost(_) => {
                Self::management(StatusCode::NOT_FOUND, "not_found", "vhost_not_found")
            }
            DefinitionsError::Engine(error) => error.into(),
            DefinitionsError::Users(error) => error.into(),
            DefinitionsError::State(_)
            | DefinitionsError::Cancelled
            | DefinitionsError::File { .. } => Self::internal(&error),
        }
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(export, export_vhost, import, import_vhost))]
pub(super) struct Api;
