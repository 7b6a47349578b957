//! What surrounds every request: path repair, answers to browsers' questions about origins, JSON for errors
//! that no handler made, and closing connections while the process drains.

use std::net::TcpListener;

use actix_web::body::{BodySize, BoxBody, MessageBody, to_bytes_limited};
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::{Next, NormalizePath, from_fn};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, ResponseError, web};
use rustls::ServerConfig;

use super::{ApiError, Services, audit, configure, cors, management};
use crate::runtime::{OpenFiles, Phase};

/// Connections of one thread; the framework's own default.
const CONNECTIONS_MAX: usize = 25_600;
/// The text of a framework's own error that is carried into our shape, bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Serves all routes on `listeners`, and with TLS on those that are `secured`, until the returned server's handle stops it.
///
/// # Errors
/// A listener that the system does not let us use.
pub fn start(
    services: Services,
    listeners: Vec<TcpListener>,
    secured: Option<(ServerConfig, Vec<TcpListener>)>,
) -> std::io::Result<Server> {
    // Whole seconds, rounded up: the exact bound is whoever stops the server.
    let drain_s = services.config.shutdown.drain_ms.div_ceil(1000);
    let workers = usize::from(services.config.runtime.arbiters);
    let prefix = services.config.http.path_prefix.clone();
    let services = web::Data::new(services);
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(services.clone())
            .wrap(from_fn(finish))
            .wrap(NormalizePath::trim())
            .service(web::scope(&prefix).configure(configure))
            .default_service(web::to(no_such_path))
    })
    .disable_signals()
    .shutdown_timeout(drain_s);
    if workers > 0 {
        server = server.workers(workers);
    }
    // Further ones wait, in the system's queue, until others end.
    let threads = match workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let connections = OpenFiles::allowed().for_http() / threads;
    server = server.max_connections(connections.clamp(1, CONNECTIONS_MAX));
    for listener in listeners {
        server = server.listen(listener)?;
    }
    if let Some((config, listeners)) = secured {
        for listener in listeners {
            server = server.listen_rustls_0_23(listener, config.clone())?;
        }
    }
    Ok(server.run())
}

async fn no_such_path(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let message = "there is no such path; /openapi.json lists all";
    match request.path().contains("/api/") {
        true => Err(management::not_found().with_message(message)),
        false => Err(ApiError::not_found(message)),
    }
}

/// Runs around every request.
async fn finish(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let services = request.app_data::<web::Data<Services>>().cloned();
    let allowed = services
        .as_ref()
        .and_then(|services| cors::allowed_origin(&services.config.http.cors_origins, &request));
    let mut response = match &allowed {
        Some(_) if cors::is_preflight(&request) => {
            request.into_response(HttpResponse::NoContent().finish())
        }
        _ => match &services {
            Some(services) if audit::may_change(services, &request) => {
                // What is done for a connection is dropped with it; a change has to be entered all the same.
                let entered = entered(services.clone(), request, next);
                let entered = actix_web::rt::spawn(entered).await;
                entered.map_err(|error| ApiError::internal(&error))??
            }
            _ => next.call(request).await?.map_into_boxed_body(),
        },
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        response = as_json(response).await;
    }
    let headers = response.headers_mut();
    if let Some(origin) = allowed {
        cors::allow(headers, origin);
    }
    // Kept-alive connections would hold the drain until its bound.
    if services.is_some_and(|services| services.lifecycle.phase() == Phase::Draining) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Answers a request and enters into the audit what it did.
async fn entered(
    services: web::Data<Services>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    audit::enter(&services, &response).await;
    Ok(response)
}

/// Gives an error that the framework made (wrong method, unusable parameter) the shape of ours; its headers,
/// such as `Allow`, stay.
async fn as_json(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    if response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(json)
    {
        return response;
    }
    let (request, response) = response.into_parts();
    let status = response.status();
    let empty = matches!(response.body().size(), BodySize::None | BodySize::Sized(0));
    let (head, body) = response.into_parts();
    let text = match empty {
        true => None,
        false => to_bytes_limited(body, MESSAGE_BYTES_MAX)
            .await
            .ok()
            .and_then(Result::ok),
    };
    let message = text.map_or_else(
        || describe(status),
        |text| String::from_utf8_lossy(&text).into_owned(),
    );
    let error = ApiError::new(status, code(status), message);
    let mut shaped = error.error_response();
    for (name, value) in head.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            shaped.headers_mut().insert(name.clone(), value.clone());
        }
    }
    ServiceResponse::new(request, shaped)
}

fn code(status: StatusCode) -> String {
    status
        .canonical_reason()
        .unwrap_or("error")
        .to_ascii_lowercase()
        .replace(' ', "_")
}

fn describe(status: StatusCode) -> String {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            "this path does not have this method; the header Allow lists those that it has".into()
        }
        other => other
            .canonical_reason()
            .unwrap_or("the request failed")
            .to_owned(),
    }
}
