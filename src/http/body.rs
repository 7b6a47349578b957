//! Request bodies and queries: read within a bound, parsed with errors that say where.

use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, dev, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ApiError;

/// How long a peer may pause within a body.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// What is set aside at once for a body whose length is announced; more only as it arrives.
const BODY_RESERVE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the whole body; above `limit_bytes` the rest is not read.
pub(super) async fn read(
    request: &HttpRequest,
    payload: &mut dev::Payload,
    limit_bytes: u64,
) -> Result<Bytes, ApiError> {
    let announced = announced_bytes(request).unwrap_or(0);
    if announced > limit_bytes {
        return Err(ApiError::too_large(limit_bytes));
    }
    let mut body = BytesMut::with_capacity(announced.min(BODY_RESERVE_BYTES_MAX) as usize);
    loop {
        let next = tokio::time::timeout(BODY_PAUSE_MAX, payload.next()).await;
        let chunk = match next {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => {
                return Err(ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "incomplete_body",
                    error.to_string(),
                ));
            }
            Err(_) => {
                let message = format!("the body paused for {} s", BODY_PAUSE_MAX.as_secs());
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "slow_body",
                    message,
                ));
            }
        };
        if (body.len() + chunk.len()) as u64 > limit_bytes {
            return Err(ApiError::too_large(limit_bytes));
        }
        body.extend_from_slice(&chunk);
    }
}

/// The length of the body as the headers tell it; `None` when only its end will.
pub(super) fn announced_bytes(request: &HttpRequest) -> Option<u64> {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    let length = headers.get(header::CONTENT_LENGTH);
    length.map_or(Some(0), |length| length.to_str().ok()?.parse().ok())
}

/// Parses a JSON body.
///
/// # Errors
/// 400 with line and column: `malformed_json` when it is not JSON, `invalid_body` when it is JSON of
/// another shape; `field` is named when one is missing or unknown.
pub fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = error.to_string();
        if !error.is_data() {
            let message = format!("the body is not JSON: {what}");
            return ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", message);
        }
        let field = ["missing field `", "unknown field `", "duplicate field `"];
        let field = field
            .iter()
            .find_map(|start| what.strip_prefix(start)?.split('`').next());
        let invalid = ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_body",
            format!("the body does not fit: {what}"),
        );
        match field {
            Some(field) => invalid.with_field(field),
            None => invalid,
        }
    })
}

/// Parses the query string.
///
/// # Errors
/// 400 `invalid_query`.
pub fn parse_query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    web::Query::<T>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_query",
                format!("the query does not fit: {error}"),
            )
        })
}

/// What a body claims to be, as far as it matters for finding fields in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON, by its type or because it looks like an object and its type is missing or curl's default.
    Json,
    /// Lines of JSON: `application/x-ndjson`.
    Lines,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Anything else.
    Raw,
}

/// Tells what the body is, by `Content-Type` and, for clients that leave curl's default, by its first byte.
pub fn body_kind(request: &HttpRequest, body: &[u8]) -> BodyKind {
    let content_type = request.content_type().to_ascii_lowercase();
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let looks_like_json = matches!(first, Some(b'{' | b'['));
    match content_type.as_str() {
        "application/x-www-form-urlencoded" if !looks_like_json => BodyKind::Form,
        "application/x-www-form-urlencoded" | "" if looks_like_json => BodyKind::Json,
        "application/json" | "text/json" => BodyKind::Json,
        "application/x-ndjson" | "application/ndjson" => BodyKind::Lines,
        other if other.ends_with("+json") => BodyKind::Json,
        _ => BodyKind::Raw,
    }
}

/// The first value of `name` in a query or form.
pub(super) fn form_value(encoded: &str, name: &str) -> Option<String> {
    form_values(encoded, name).into_iter().next()
}

/// All values of `name` in a query or form.
pub(super) fn form_values(encoded: &str, name: &str) -> Vec<String> {
    let pairs = form_pairs(encoded).into_iter();
    let named = pairs.filter(|(key, _)| key == name);
    named.map(|(_, value)| value).collect()
}

/// All names and values of a query or form.
pub(super) fn form_pairs(encoded: &str) -> Vec<(String, String)> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(encoded);
    pairs.map(web::Query::into_inner).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;
    use actix_web::test::TestRequest;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Shape {
        topic: String,
    }

    #[test]
    fn json_errors_name_line_column_and_field() {
        let error = parse_json::<Shape>(b"{\n  \"topic\": nope}").unwrap_err();
        assert_eq!(error.status_code(), StatusCode::BAD_REQUEST);
        let text = error.to_string();
        assert!(
            text.starts_with("malformed_json") && text.contains("line 2 column 13"),
            "{text}"
        );
        let missing = parse_json::<Shape>(b"{}").unwrap_err();
        assert_eq!(missing.clone(), missing.with_field("topic"));
        let unknown = parse_json::<Shape>(b"{\"topik\":1}").unwrap_err();
        assert_eq!(unknown.clone(), unknown.with_field("topik"));
    }

    #[test]
    fn a_json_object_sent_with_curls_default_type_is_json() {
        let kind = |content_type: &str, body: &[u8]| {
            let request = TestRequest::default();
            let request = match content_type {
                "" => request,
                content_type => request.insert_header(("content-type", content_type)),
            };
            body_kind(&request.to_http_request(), body)
        };
        assert_eq!(
            kind("application/x-www-form-urlencoded", b" {\"a\":1}"),
            BodyKind::Json
        );
        assert_eq!(
            kind("application/x-www-form-urlencoded", b"a=1"),
            BodyKind::Form
        );
        assert_eq!(
            kind("application/json; charset=utf-8", b"1"),
            BodyKind::Json
        );
        assert_eq!(kind("application/problem+json", b"1"), BodyKind::Json);
        assert_eq!(kind("", b"{}"), BodyKind::Json);
        assert_eq!(kind("application/x-ndjson", b"{}"), BodyKind::Lines);
        assert_eq!(kind("text/plain", b"{}"), BodyKind::Raw);
    }

    #[test]
    fn form_values_are_decoded() {
        assert_eq!(
            form_value("a=1&client_id=n%20c+x&client_id=2", "client_id").as_deref(),
            Some("n c x")
        );
        assert_eq!(form_value("", "client_id"), None);
    }
}
