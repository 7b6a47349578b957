//! The one error type of the broker: what a client did wrong, in AMQP's own words.
//!
//! The reply code decides what the error closes, a channel or the whole connection
//! ([`ReplyCode::is_channel_error`]); the text is the explanation that clients see, and some match on.

use std::fmt;

use backbone_wire::error::ReplyCode;

/// An AMQP error. Displays as the reply-text, `NOT_FOUND - no queue 'x' in vhost '/'`, uncut;
/// [`ReplyCode::reply_text`] cuts it to what fits on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} - {text}", code.name())]
pub struct Error {
    /// What kind of error it is, and with it what it closes.
    pub code: ReplyCode,
    /// The explanation, without the code's name.
    pub text: String,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $code:ident,)*) => {
        impl Error {
            $($(#[$doc])*
            pub fn $name(text: impl Into<String>) -> Self {
                Self::new(ReplyCode::$code, text)
            })*
        }
    };
}

constructors! {
    /// 403, closes the channel: permission, reserved name, default exchange.
    access_refused = AccessRefused,
    /// 404, closes the channel. See also [`Error::no_exchange`] and [`Error::no_queue`].
    not_found = NotFound,
    /// 405, closes the channel: another connection's exclusive queue.
    resource_locked = ResourceLocked,
    /// 406, closes the channel: inequivalent redeclaration, bad argument, in use, not empty.
    precondition_failed = PreconditionFailed,
    /// 503, closes the connection: what a client may not ask for.
    command_invalid = CommandInvalid,
    /// 504, closes the connection: a channel that is not open, or open already.
    channel_error = ChannelError,
    /// 505, closes the connection: content out of order.
    unexpected_frame = UnexpectedFrame,
    /// 530, closes the connection: limits, reused consumer tag.
    not_allowed = NotAllowed,
    /// 540, closes the connection: what the broker does not do.
    not_implemented = NotImplemented,
    /// 541, closes the connection: a bug of ours, or the log takes nothing any more.
    internal_error = InternalError,
}

impl Error {
    /// An error with any code.
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// 320 `vhost 'v' is deleted`, closes the connection.
    pub fn vhost_deleted(vhost: &str) -> Self {
        Self::new(
            ReplyCode::ConnectionForced,
            format!("vhost '{vhost}' is deleted"),
        )
    }

    /// 404 `no exchange 'x' in vhost '/'`.
    pub fn no_exchange(name: &str, vhost: &str) -> Self {
        Self::not_found(format!("no {}", Resource::exchange(name, vhost)))
    }

    /// 404 `no queue 'x' in vhost '/'`.
    pub fn no_queue(name: &str, vhost: &str) -> Self {
        Self::not_found(format!("no {}", Resource::queue(name, vhost)))
    }
}

/// An exchange or a queue as error texts name it: `queue 'x' in vhost '/'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    kind: &'static str,
    name: &'a str,
    vhost: &'a str,
}

impl<'a> Resource<'a> {
    /// `exchange 'x' in vhost '/'`.
    pub fn exchange(name: &'a str, vhost: &'a str) -> Self {
        Self {
            kind: "exchange",
            name,
            vhost,
        }
    }

    /// `queue 'x' in vhost '/'`.
    pub fn queue(name: &'a str, vhost: &'a str) -> Self {
        Self {
            kind: "queue",
            name,
            vhost,
        }
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_clients_expect() {
        let error = Error::no_queue("x", "/");
        assert_eq!(error.to_string(), "NOT_FOUND - no queue 'x' in vhost '/'");
        assert!(error.code.is_channel_error());
        let error = Error::command_invalid("unknown exchange type 'zzz'");
        assert_eq!(
            error.to_string(),
            "COMMAND_INVALID - unknown exchange type 'zzz'"
        );
        assert!(!error.code.is_channel_error());
    }
}
