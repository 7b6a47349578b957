//! `/health/live`, `/health/ready`, `/health`: for probes, without credentials.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiError, ErrorBody, Services};
use crate::runtime::Phase;

/// The body of a good answer.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    status: &'static str,
    /// What is so short that publishers wait, but for the disk, which answers 503.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<&'static str>,
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    let ready_or_not = |path: &str| {
        web::resource(path)
            .route(web::get().to(ready))
            .route(web::head().to(ready))
    };
    config
        .service(
            web::resource("/health/live")
                .route(web::get().to(live))
                .route(web::head().to(live)),
        )
        .service(ready_or_not("/health/ready"))
        .service(ready_or_not("/health"));
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Health)))]
async fn live() -> HttpResponse {
    ok(Vec::new())
}

fn ok(alarms: Vec<&'static str>) -> HttpResponse {
    let status = "ok";
    HttpResponse::Ok().json(Health { status, alarms })
}

/// Everything listens, nothing drains, and the log takes messages; otherwise the reason is in `message`. `/health` is the same.
#[utoipa::path(get, path = "/health/ready", tag = "health",
    responses((status = 200, body = Health), (status = 503, body = ErrorBody)))]
async fn ready(services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    match services.lifecycle.phase() {
        Phase::Ready if let Some(reason) = services.engine.storage_trouble() => {
            Err(ApiError::unavailable(reason, 5))
        }
        Phase::Ready => Ok(ok(services.engine.alarms())),
        Phase::Starting => Err(ApiError::unavailable("the server is starting", 1)),
        Phase::Draining => Err(ApiError::unavailable("the server is shutting down", 1)),
    }
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(live, ready))]
pub(super) struct Api;

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::test::{TestRequest, call_service, init_service};

    use super::*;
    use crate::http::testing::services;

    #[actix_web::test]
    async fn ready_only_between_starting_and_draining_but_always_alive() {
        let services = services(|_| ()).await;
        let app = init_service(App::new().app_data(services.clone()).configure(configure)).await;
        let mut seen = Vec::new();
        for phase in [Phase::Starting, Phase::Ready, Phase::Draining] {
            services.lifecycle.advance(phase);
            for path in ["/health/ready", "/health", "/health/live"] {
                let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
                seen.push((
                    answer.status().as_u16(),
                    answer.headers().contains_key("retry-after"),
                ));
            }
        }
        let (ok, busy) = ((200, false), (503, true));
        assert_eq!(seen, [busy, busy, ok, ok, ok, ok, busy, busy, ok]);
    }
}
