//! The one shape of errors: JSON with `error` (stable code), `message` (what to do) and `field` where one
//! is to blame.

use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::TokenError;

/// The management interface's code for what a known caller may not do; its status is 401 all the same.
pub(super) const NOT_AUTHORISED: &str = "not_authorised";
/// OAuth's code for a grant that is not offered.
pub(super) const UNSUPPORTED_GRANT: &str = "unsupported_grant_type";

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after_s: Option<u32>,
    /// A token was refused; the message can stand in a header.
    is_bad_token: bool,
}

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Stable code, for programs.
    error: String,
    /// What is wrong and what to do, for people.
    message: String,
    /// The field, parameter or header that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// The message again, under the name that RabbitMQ's tools look for, below `/api`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reason: Option<Box<str>>,
    /// The message again, under the name that OAuth's clients look for, at `/token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    error_description: Option<Box<str>>,
}

impl ApiError {
    /// An error with a status, a stable code and a message.
    pub fn new(status: StatusCode, error: impl Into<String>, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            error: error.into(),
            message: message.into(),
            field: None,
            reason: None,
            error_description: None,
        };
        Self {
            status,
            body,
            retry_after_s: None,
            is_bad_token: false,
        }
    }

    /// An error in the words of RabbitMQ's management interface.
    pub fn management(status: StatusCode, error: &str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let mut made = Self::new(status, error, reason.clone());
        made.body.reason = Some(reason.into());
        made
    }

    /// 400: a field is missing or has a value that does not fit.
    pub fn invalid_field(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_field", message).with_field(field)
    }

    /// 401: credentials are missing or wrong.
    pub fn unauthorized(error: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, error, message)
    }

    /// 403: the caller is known and may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 409: it is there already.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 413; the connection is closed, because the rest of the body is not read.
    pub fn too_large(limit_bytes: u64) -> Self {
        let message = format!("the body is larger than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 429 with `Retry-After`.
    pub fn too_many(error: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry_after_s: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, error, message)
        }
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(message: impl Into<String>, retry_after_s: u32) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Self {
            retry_after_s: Some(retry_after_s),
            ..error
        }
    }

    /// 500; the cause goes to the log, not to the caller.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        let message = "the server failed; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The same, but whoever could not log in is told so in the words of RabbitMQ's management interface.
    pub(super) fn in_management(self) -> Self {
        match self.status {
            StatusCode::UNAUTHORIZED => {
                let made = Self::management(self.status, "not_authorized", "Login failed");
                let is_bad_token = self.is_bad_token;
                let made = made.with_message(self.body.message);
                Self {
                    is_bad_token,
                    ..made
                }
            }
            _ => self,
        }
    }

    /// The same with the codes of OAuth's token endpoint (RFC 6749 §5.2).
    pub(super) fn in_oauth(mut self) -> Self {
        let code = match self.status {
            StatusCode::UNAUTHORIZED => Some("invalid_client"),
            StatusCode::BAD_REQUEST if self.body.error != UNSUPPORTED_GRANT => {
                Some("invalid_request")
            }
            _ => None,
        };
        if let Some(code) = code {
            self.body.error = code.to_owned();
        }
        self.body.error_description = Some(self.body.message.as_str().into());
        self
    }

    /// Says more than the reason that RabbitMQ gives.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.body.message = message.into();
        self
    }

    /// The body as a JSON object.
    pub(super) fn as_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.body).unwrap_or_default()
    }

    /// The same of message number `index`, from 0, of several.
    #[must_use]
    pub(super) fn in_message(mut self, index: usize) -> Self {
        self.body.message = format!("message {index}: {}", self.body.message);
        self.body.field = Some(match self.body.field {
            Some(field) => format!("[{index}].{field}"),
            None => format!("[{index}]"),
        });
        self
    }

    /// Names the field to blame.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.body.field = Some(field.into());
        self
    }
}

/// RFC 6750 §3.1, with a code for each reason.
impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Malformed => "token_malformed",
            TokenError::Expired => "token_expired",
            TokenError::Revoked => "token_revoked",
            TokenError::Elsewhere => "token_not_local",
        };
        let made = Self::unauthorized(code, error.to_string()).with_field("Authorization");
        Self {
            is_bad_token: true,
            ..made
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.body.error, self.body.message)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        // Who is known and may not do something need not say again who it is.
        if self.status == StatusCode::UNAUTHORIZED && self.body.error != NOT_AUTHORISED {
            let basic = "Basic realm=\"backbone\", charset=\"UTF-8\"";
            let bearer = match self.is_bad_token {
                true => format!(
                    "Bearer realm=\"backbone\", error=\"invalid_token\", error_description=\"{}\"",
                    self.body.message
                ),
                false => "Bearer realm=\"backbone\"".to_owned(),
            };
            response.append_header((header::WWW_AUTHENTICATE, basic));
            response.append_header((header::WWW_AUTHENTICATE, bearer));
        }
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            response.force_close();
        }
        response.json(&self.body)
    }
}
