//! Declare arguments: which of them must be the same at a redeclare, and how a difference is told.

use std::fmt;

use backbone_wire::table::{Table, Value};

use crate::error::Error;

/// Arguments of queues that make a redeclare differ; others are kept and ignored.
pub const QUEUE_ARGUMENTS: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-priority",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-delivery-limit",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
];

/// Compares the `names` in the arguments of a redeclare with those of the first declare. `of`
/// says what is declared: `queue 'q' in vhost '/'`.
pub fn check_equivalent(
    names: &[&str],
    received: Table<'_>,
    current: Table<'_>,
    of: &str,
) -> Result<(), Error> {
    for name in names {
        let difference = match (received.get(name), current.get(name)) {
            (None, None) => continue,
            (Some(new), Some(old)) if equivalent(&new, &old) => continue,
            (Some(new), Some(old)) => {
                format!("received '{}' but current is '{}'", Shown(&new), Shown(&old))
            }
            (None, Some(old)) => format!(
                "received none but current is the value '{}' of type '{}'",
                Shown(&old),
                old.type_name()
            ),
            (Some(new), None) => format!(
                "received the value '{}' of type '{}' but current is none",
                Shown(&new),
                new.type_name()
            ),
        };
        return Err(Error::precondition_failed(format!(
            "inequivalent arg '{name}' for {of}: {difference}"
        )));
    }
    Ok(())
}

/// The same number is the same in each integer width.
fn equivalent(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A value as error texts show it.
struct Shown<'a>(&'a Value<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::LongStr(bytes) | Value::Bytes(bytes) => {
                f.write_str(&String::from_utf8_lossy(bytes))
            }
            Value::Bool(value) => value.fmt(f),
            Value::F32(value) => value.fmt(f),
            Value::F64(value) => value.fmt(f),
            Value::Timestamp(value) => value.fmt(f),
            Value::Void => f.write_str("undefined"),
            other => match other.as_i64() {
                Some(number) => number.fmt(f),
                None => f.write_str(other.type_name()),
            },
        }
    }
}
