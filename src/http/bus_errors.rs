//! What the bus's refusals are in HTTP.

use actix_web::http::StatusCode;

use super::ApiError;
use crate::bus::envelope::BodyError;
use crate::bus::{BusError, RETRY_AFTER_S};

/// Seconds after which registering is worth another try when there are too many clients.
const TOO_MANY_RETRY_S: u32 = 60;

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        let message = error.to_string();
        match error {
            BusError::Invalid { field, .. } => Self::invalid_field(field, message),
            BusError::NoClient(_) => Self::not_found(message),
            BusError::Disabled(_) => Self::forbidden(message),
            BusError::Conflict(_) => Self::conflict(message),
            BusError::TooManyClients => Self::unavailable(message, TOO_MANY_RETRY_S),
            BusError::TooManyLeased => Self::too_many("too_many_unacknowledged", message),
            BusError::Unavailable(_) => Self::unavailable(message, RETRY_AFTER_S),
            BusError::State(_) | BusError::Broker(_) => Self::internal(&message),
        }
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        let bad = |code| Self::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            BodyError::Syntax(_) => bad("malformed_json"),
            BodyError::NotAnObject => bad("invalid_body"),
            BodyError::NoPayload | BodyError::ManyPayloads | BodyError::TooDeep => {
                Self::invalid_field("body", message)
            }
            BodyError::Topic => Self::invalid_field("topic", message),
            BodyError::Repeated(field) => Self::invalid_field(field, message),
        }
    }
}
