//! What can be wrong with bytes from a peer, and the reply codes to say so.
//!
//! [`FrameError`] belongs to the framing layer, [`DecodeError`] to what is inside a frame. Both know
//! their [`ReplyCode`]; `DecodeError` also knows the class and method to blame when those four bytes
//! could be read, so that a `connection.close` can carry them.

use std::fmt;

use thiserror::Error;

use crate::method;

/// The longest reply-text: it travels as a short string.
pub const REPLY_TEXT_BYTES_MAX: usize = 255;
/// What ends a text that was cut.
const CUT: &str = "...";

/// A frame that cannot be accepted. The connection cannot go on: where the next frame starts is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The first octet of a frame is none of 1, 2, 3 and 8.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The size field says more than was allowed. Known from the seven header octets alone.
    #[error("frame payload of {size} bytes is larger than the allowed {max}")]
    TooLarge {
        /// Payload size that the peer announced, in bytes.
        size: usize,
        /// Largest payload allowed, in bytes.
        max: usize,
    },
    /// The octet after the payload is not [`crate::frame::END`].
    #[error("frame ends with octet {0:#04x} instead of 0xce")]
    BadEnd(u8),
}

impl FrameError {
    /// The code to close the connection with: always 501.
    pub fn reply_code(&self) -> ReplyCode {
        ReplyCode::FrameError
    }
}

/// What is wrong inside a method, a property list or a field table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A value, or a length that a value announces, runs past the end of what holds it.
    #[error("value runs past the end")]
    Truncated,
    /// Bytes are left over after the last value.
    #[error("bytes left over after the last value")]
    Trailing,
    /// A field value has a type octet that RabbitMQ does not know.
    #[error("unknown field type octet {0:#04x}")]
    UnknownTag(u8),
    /// Tables and arrays are nested deeper than [`crate::table::LEVELS_MAX`].
    #[error("tables nested too deeply")]
    TooDeep,
    /// The flags of a property list name properties that class `basic` does not have.
    #[error("unknown property flags {0:#06x}")]
    UnknownPropertyFlags(u16),
    /// A short string that has to be text is not UTF-8.
    #[error("Malformed UTF-8 in shortstr")]
    Utf8,
}

/// A payload that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Malformed bytes where no method is known: a method frame without its four octets of class and
    /// method, a content header, a table, a string.
    Malformed(Malformed),
    /// The arguments of a known method are malformed.
    Arguments {
        /// Class of the method.
        class_id: u16,
        /// The method in its class.
        method_id: u16,
        /// What is wrong.
        malformed: Malformed,
    },
    /// No such class, or no such method in the class.
    UnknownMethod {
        /// Class as received.
        class_id: u16,
        /// Method as received.
        method_id: u16,
    },
}

impl DecodeError {
    /// Class to name in `connection.close`, 0 if it is not known.
    pub fn class_id(&self) -> u16 {
        self.ids().0
    }

    /// Method to name in `connection.close`, 0 if it is not known.
    pub fn method_id(&self) -> u16 {
        self.ids().1
    }

    /// The code to close the connection with: 503 for an unknown method, 501 for all else.
    pub fn reply_code(&self) -> ReplyCode {
        match self {
            Self::UnknownMethod { .. } => ReplyCode::CommandInvalid,
            Self::Malformed(_) | Self::Arguments { .. } => ReplyCode::FrameError,
        }
    }

    fn ids(&self) -> (u16, u16) {
        match *self {
            Self::Malformed(_) => (0, 0),
            Self::Arguments {
                class_id,
                method_id,
                ..
            }
            | Self::UnknownMethod {
                class_id,
                method_id,
            } => (class_id, method_id),
        }
    }
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Arguments {
                class_id,
                method_id,
                malformed,
            } => {
                let name = method::name(class_id, method_id).unwrap_or("unknown method");
                write!(f, "cannot decode {name}: {malformed}")
            }
            Self::UnknownMethod {
                class_id,
                method_id,
            } => {
                write!(f, "unknown method {method_id} of class {class_id}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// A string of more than 255 bytes where the protocol has a short string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{length} bytes are too long for a short string of at most 255")]
pub struct TooLong {
    /// Length of what was offered, in bytes.
    pub length: usize,
}

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $name:literal $scope:ident,)*) => {
        /// The reply codes of AMQP 0-9-1, as `connection.close`, `channel.close` and `basic.return` carry them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ReplyCode {
            $($(#[$doc])* $variant = $code,)*
        }

        impl ReplyCode {
            /// Every code, in numerical order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name that a reply-text starts with, such as `NOT_FOUND`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// True if the error closes a channel only, or rides on a `basic.return`; false if it closes the connection.
            pub fn is_channel_error(self) -> bool {
                match self {
                    $(Self::$variant => reply_codes!(@$scope),)*
                }
            }
        }
    };
    (@channel) => { true };
    (@connection) => { false };
}

reply_codes! {
    /// An ordinary close.
    ReplySuccess = 200 "REPLY_SUCCESS" connection,
    /// Kept by the protocol; RabbitMQ reports an oversized message as 406.
    ContentTooLarge = 311 "CONTENT_TOO_LARGE" channel,
    /// A mandatory message that no queue took comes back with this.
    NoRoute = 312 "NO_ROUTE" channel,
    /// Kept by the protocol for `immediate`, which is not implemented.
    NoConsumers = 313 "NO_CONSUMERS" channel,
    /// Closed by an operator, a shutdown, or the deletion of the vhost or user.
    ConnectionForced = 320 "CONNECTION_FORCED" connection,
    /// Kept by the protocol; a missing vhost is 530.
    InvalidPath = 402 "INVALID_PATH" connection,
    /// Permission refused. Closes the connection when it happens at login.
    AccessRefused = 403 "ACCESS_REFUSED" channel,
    /// No such queue or exchange.
    NotFound = 404 "NOT_FOUND" channel,
    /// Another connection's exclusive queue.
    ResourceLocked = 405 "RESOURCE_LOCKED" channel,
    /// Inequivalent redeclaration, bad argument, unknown delivery tag, in use, not empty.
    PreconditionFailed = 406 "PRECONDITION_FAILED" channel,
    /// Malformed frame, undecodable method, bad UTF-8 in a name, frame too large.
    FrameError = 501 "FRAME_ERROR" connection,
    /// Malformed values at login.
    SyntaxError = 502 "SYNTAX_ERROR" connection,
    /// A method that a client may not send.
    CommandInvalid = 503 "COMMAND_INVALID" connection,
    /// Channel not open or opened twice; method in the wrong connection state.
    ChannelError = 504 "CHANNEL_ERROR" connection,
    /// Content header or body out of order.
    UnexpectedFrame = 505 "UNEXPECTED_FRAME" connection,
    /// Out of resources.
    ResourceError = 506 "RESOURCE_ERROR" connection,
    /// Vhost refused, limits, reused consumer tag, failed negotiation.
    NotAllowed = 530 "NOT_ALLOWED" connection,
    /// What the broker does not do.
    NotImplemented = 540 "NOT_IMPLEMENTED" connection,
    /// Anything else.
    InternalError = 541 "INTERNAL_ERROR" connection,
}

impl ReplyCode {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The code with this number, if there is one.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }

    /// The reply-text as clients expect it, `NOT_FOUND - no queue 'x' in vhost '/'`, cut at a character
    /// to the 255 bytes that fit; `...` says that.
    pub fn reply_text(self, explanation: impl fmt::Display) -> String {
        let mut text = format!("{} - {explanation}", self.name());
        if text.len() > REPLY_TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(REPLY_TEXT_BYTES_MAX - CUT.len()));
            text.push_str(CUT);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_scope_of_the_specification() {
        let channel: Vec<u16> = ReplyCode::ALL
            .iter()
            .filter(|code| code.is_channel_error())
            .map(|code| code.code())
            .collect();
        assert_eq!(channel, [311, 312, 313, 403, 404, 405, 406]);
        assert_eq!(ReplyCode::ALL.len(), 19);
    }

    #[test]
    fn codes_are_found_by_number() {
        for code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(ReplyCode::from_code(0), None);
        assert_eq!(ReplyCode::from_code(507), None);
    }

    #[test]
    fn reply_text_is_cut_at_a_character() {
        assert_eq!(
            ReplyCode::NotFound.reply_text("no queue 'x' in vhost '/'"),
            "NOT_FOUND - no queue 'x' in vhost '/'"
        );
        let exact = ReplyCode::NotFound.reply_text("x".repeat(255 - "NOT_FOUND - ".len()));
        assert_eq!(exact.len(), 255);
        let cut = ReplyCode::NotFound.reply_text("ä".repeat(200));
        assert!(cut.len() <= 255 && cut.len() >= 254, "{}", cut.len());
        assert!(cut.ends_with("ä..."));
    }

    #[test]
    fn decode_errors_name_the_method() {
        let error = DecodeError::Arguments {
            class_id: 60,
            method_id: 40,
            malformed: Malformed::Truncated,
        };
        assert_eq!((error.class_id(), error.method_id()), (60, 40));
        assert_eq!(error.reply_code(), ReplyCode::FrameError);
        assert_eq!(
            error.to_string(),
            "cannot decode basic.publish: value runs past the end"
        );
        let unknown = DecodeError::UnknownMethod {
            class_id: 61,
            method_id: 1,
        };
        assert_eq!((unknown.class_id(), unknown.method_id()), (61, 1));
        assert_eq!(unknown.reply_code(), ReplyCode::CommandInvalid);
        let nameless = DecodeError::from(Malformed::Utf8);
        assert_eq!((nameless.class_id(), nameless.method_id()), (0, 0));
    }
}
