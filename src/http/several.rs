//! Several messages in one body: a JSON array, or lines of JSON.

use std::fmt;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use serde::Deserializer;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::ApiError;
use super::body::{BodyKind, body_kind};
use crate::bus::BATCH_MESSAGES_MAX;

/// Whether a body holds several messages.
pub(super) fn is_several(request: &HttpRequest, body: &[u8]) -> bool {
    match body_kind(request, body) {
        BodyKind::Lines => true,
        BodyKind::Json => body.trim_ascii_start().starts_with(b"["),
        BodyKind::Form | BodyKind::Raw => false,
    }
}

/// The messages of such a body, each as JSON that may not be an object; lines need not be JSON at all.
///
/// # Errors
/// 400 if the array is not JSON, 413 if there are too many.
pub(super) fn parts<'a>(request: &HttpRequest, body: &'a [u8]) -> Result<Vec<&'a [u8]>, ApiError> {
    if body_kind(request, body) == BodyKind::Lines {
        return lines(body);
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let found = json.deserialize_seq(Parts).and_then(|parts| {
        json.end()?;
        Ok(parts)
    });
    let found = found.map_err(|error| {
        let message = format!("the body is not JSON: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", message)
    })?;
    found.ok_or_else(too_many)
}

/// A message that names another client is refused, as a body of one message is.
pub(super) fn check_same_client(client_id: &str, named: &RawValue) -> Result<(), ApiError> {
    let named: Option<String> = serde_json::from_str(named.get()).ok();
    match named.as_deref() == Some(client_id) {
        true => Ok(()),
        false => Err(
            ApiError::forbidden("client_id differs from the credentials").with_field("client_id"),
        ),
    }
}

/// Empty lines are none.
fn lines(body: &[u8]) -> Result<Vec<&[u8]>, ApiError> {
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut found = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        if found.len() == BATCH_MESSAGES_MAX {
            return Err(too_many());
        }
        found.push(line);
    }
    Ok(found)
}

fn too_many() -> ApiError {
    let message =
        format!("the body has more than {BATCH_MESSAGES_MAX} messages: send them in parts");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_messages", message)
}

/// The elements of an array as they stand there; `None` if there are more than there may be.
struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Option<Vec<&'de [u8]>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(part) = array.next_element::<&RawValue>()? {
            if found.len() == BATCH_MESSAGES_MAX {
                while array.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            found.push(part.get().as_bytes());
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn request(content_type: &str) -> HttpRequest {
        let request = TestRequest::default().insert_header(("content-type", content_type));
        request.to_http_request()
    }

    fn texts(content_type: &str, body: &str) -> Result<Vec<String>, ApiError> {
        let parts = parts(&request(content_type), body.as_bytes())?;
        let text = |part: &[u8]| String::from_utf8(part.to_vec()).unwrap();
        Ok(parts.into_iter().map(text).collect())
    }

    #[test]
    fn arrays_and_lines_come_apart_byte_for_byte() {
        let array = " [ {\"a\": 1.50} ,[2],\n\"x\\u00e4\", null ] ";
        let parts = ["{\"a\": 1.50}", "[2]", "\"x\\u00e4\"", "null"];
        assert_eq!(texts("application/json", array).unwrap(), parts);
        let lines = "{\"a\": 1.50}\r\n\n  [2]\n\"x\\u00e4\"\nnull";
        assert_eq!(texts("application/x-ndjson", lines).unwrap(), parts);
        assert!(texts("application/json", "[]").unwrap().is_empty());
        assert!(texts("application/x-ndjson", "\n").unwrap().is_empty());
    }

    #[test]
    fn only_arrays_and_lines_are_several() {
        for (content_type, body, several) in [
            ("application/json", " [1]", true),
            ("application/json", "{}", false),
            ("application/x-www-form-urlencoded", "[1]", true),
            ("application/x-ndjson", "{}", true),
            ("text/plain", "[1]", false),
        ] {
            let found = is_several(&request(content_type), body.as_bytes());
            assert_eq!(found, several, "{content_type} {body}");
        }
    }

    #[test]
    fn what_is_no_array_says_where_and_the_limit_is_inclusive() {
        let error = texts("application/json", "[1,\n 2")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 2 column"), "{error}");
        assert!(texts("application/json", "[1] 2").is_err());
        let array = |count| format!("[{}]", vec!["1"; count].join(","));
        let lines = |count: usize| "1\n".repeat(count);
        let max = BATCH_MESSAGES_MAX;
        assert_eq!(texts("application/json", &array(max)).unwrap().len(), max);
        assert_eq!(
            texts("application/x-ndjson", &lines(max)).unwrap().len(),
            max
        );
        for error in [
            texts("application/json", &array(max + 1)),
            texts("application/x-ndjson", &lines(max + 1)),
        ] {
            assert!(
                error
                    .unwrap_err()
                    .to_string()
                    .starts_with("too_many_messages")
            );
        }
    }
}
