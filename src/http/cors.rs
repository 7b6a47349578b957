//! Cross-origin requests, for clients that run in browsers. Browsers ask (a preflight) without
//! credentials; the answer depends on `http.cors_origins` alone.

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderValue};

/// Stands for every origin.
const ANY: &str = "*";
/// How long a browser may remember a preflight's answer, seconds.
const REMEMBER_S: &str = "600";

/// The value of `Access-Control-Allow-Origin` for this request; `None` when it has no origin or one that is
/// not allowed.
pub(super) fn allowed_origin(allowed: &[String], request: &ServiceRequest) -> Option<HeaderValue> {
    let origin = request.headers().get(header::ORIGIN)?;
    if allowed.iter().any(|allowed| allowed == ANY) {
        return Some(HeaderValue::from_static(ANY));
    }
    allowed
        .iter()
        .any(|allowed| allowed.as_bytes() == origin.as_bytes())
        .then(|| origin.clone())
}

/// Whether a browser asks if it may send another request.
pub(super) fn is_preflight(request: &ServiceRequest) -> bool {
    request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets the origin read the answer and send any method of ours with credentials in the header.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let fixed = [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, HEAD, POST, PUT, PATCH, DELETE",
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Topic",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, REMEMBER_S),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // An answer that names one origin must not be given to another by a cache.
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
