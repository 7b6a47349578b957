//! `/metrics` in Prometheus' text format; for users who may monitor, or for anybody under `metrics.public`.

use actix_web::http::header::ContentType;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};

use super::{ApiError, ErrorBody, Monitor, Services};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Registers the route.
pub fn configure(config: &mut web::ServiceConfig) {
    config.service(
        web::resource("/metrics")
            .route(web::get().to(metrics))
            .route(web::head().to(metrics)),
    );
}

/// All metrics.
#[utoipa::path(get, path = "/metrics", tag = "operations", security(("basic" = ["monitor"])),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
async fn metrics(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    if !services.config.metrics.public {
        Monitor::from_request(&request, &mut payload.into_inner()).await?;
    }
    let text = services
        .telemetry
        .render()
        .map_err(|error| ApiError::internal(&error))?;
    let content_type = CONTENT_TYPE
        .parse()
        .map_or_else(|_| ContentType::plaintext(), ContentType);
    Ok(HttpResponse::Ok().insert_header(content_type).body(text))
}

/// The route's documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(metrics))]
pub(super) struct Api;
