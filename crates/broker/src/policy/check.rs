//! Which settings a policy may have, and which values these; refusals in RabbitMQ's words.

use serde_json::{Map, Value};

use super::Author;
use crate::pattern::BadPattern;

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Its pattern is not understood.
    #[error("pattern should be regular expression but is invalid: {0}")]
    Pattern(BadPattern),
    /// It says nothing.
    #[error("no policy provided")]
    Empty,
    /// A setting that nobody knows, or that an operator cannot make.
    #[error("[{{{name},{value}}}] are not recognised policy settings")]
    Unknown {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// A value that a setting cannot have.
    #[error("{value} is not a valid {what}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
}

/// What a setting's value has to be.
type Check = fn(&Value) -> bool;

/// The settings: name, whether operators have them, what values are called, and which there are.
const SETTINGS: &[(&str, bool, &str, Check)] = &[
    ("message-ttl", true, "message TTL", is_count),
    ("expires", true, "queue expiry", is_positive),
    ("max-length", true, "maximum length", is_count),
    (
        "max-length-bytes",
        true,
        "maximum length in bytes",
        is_count,
    ),
    (
        "max-in-memory-length",
        true,
        "maximum memory in messages",
        is_count,
    ),
    (
        "max-in-memory-bytes",
        true,
        "maximum memory in bytes",
        is_count,
    ),
    ("delivery-limit", true, "delivery limit", is_count),
    ("overflow", false, "overflow value", is_overflow),
    (
        "dead-letter-exchange",
        false,
        "dead letter exchange name",
        Value::is_string,
    ),
    (
        "dead-letter-routing-key",
        false,
        "dead letter routing key",
        Value::is_string,
    ),
    (
        "dead-letter-strategy",
        false,
        "dead letter strategy",
        Value::is_string,
    ),
    (
        "alternate-exchange",
        false,
        "alternate exchange name",
        Value::is_string,
    ),
    ("queue-mode", false, "queue-mode value", is_mode),
    ("queue-version", false, "queue version", is_positive),
    ("max-age", false, "max age", Value::is_string),
    (
        "stream-max-segment-size-bytes",
        false,
        "segment size",
        is_positive,
    ),
    ("consumer-timeout", false, "consumer timeout", is_positive),
    // Taken, so that definitions of clusters can be brought here; they mean nothing.
    (
        "queue-leader-locator",
        false,
        "queue leader locator",
        Value::is_string,
    ),
    (
        "queue-master-locator",
        false,
        "queue master locator",
        Value::is_string,
    ),
    ("initial-cluster-size", false, "cluster size", is_positive),
    ("federation-upstream", false, "upstream", Value::is_string),
    (
        "federation-upstream-set",
        false,
        "upstream set",
        Value::is_string,
    ),
    ("ha-mode", false, "ha-mode", Value::is_string),
    ("ha-params", false, "ha-params", is_anything),
    ("ha-sync-mode", false, "ha-sync-mode", Value::is_string),
    ("ha-sync-batch-size", false, "ha-sync-batch-size", is_count),
    (
        "ha-promote-on-shutdown",
        false,
        "ha-promote-on-shutdown",
        Value::is_string,
    ),
    (
        "ha-promote-on-failure",
        false,
        "ha-promote-on-failure",
        Value::is_string,
    ),
];

/// Checks all settings of a policy.
pub(super) fn check(author: Author, settings: &Map<String, Value>) -> Result<(), PolicyError> {
    if settings.is_empty() {
        return Err(PolicyError::Empty);
    }
    for (name, value) in settings {
        let known = SETTINGS.iter().find(|(known, ..)| known == name);
        let known = known.filter(|(_, operator, ..)| *operator || author == Author::User);
        let Some((_, _, what, fits)) = known else {
            return Err(PolicyError::Unknown {
                name: name.clone(),
                value: value.to_string(),
            });
        };
        if !fits(value) {
            return Err(PolicyError::Value {
                what,
                value: value.to_string(),
            });
        }
    }
    Ok(())
}

fn is_count(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| number >= 0)
}

fn is_positive(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| number > 0)
}

fn is_overflow(value: &Value) -> bool {
    matches!(
        value.as_str(),
        Some("drop-head" | "reject-publish" | "reject-publish-dlx")
    )
}

fn is_mode(value: &Value) -> bool {
    matches!(value.as_str(), Some("default" | "lazy"))
}

fn is_anything(_: &Value) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_checked_as_rabbitmq_checks_them() {
        let told = |author, settings: Value| {
            let settings = settings.as_object().cloned().expect("an object");
            check(author, &settings).err().map(|it| it.to_string())
        };
        for (settings, refusal) in [
            (json!({}), "no policy provided"),
            (
                json!({"foo": 1}),
                "[{foo,1}] are not recognised policy settings",
            ),
            (
                json!({"max-length": "a"}),
                "\"a\" is not a valid maximum length",
            ),
            (
                json!({"max-length-bytes": -1}),
                "-1 is not a valid maximum length in bytes",
            ),
            (json!({"expires": 0}), "0 is not a valid queue expiry"),
            (json!({"message-ttl": -1}), "-1 is not a valid message TTL"),
            (
                json!({"delivery-limit": -1}),
                "-1 is not a valid delivery limit",
            ),
            (
                json!({"overflow": "zz"}),
                "\"zz\" is not a valid overflow value",
            ),
            (
                json!({"queue-mode": "zz"}),
                "\"zz\" is not a valid queue-mode value",
            ),
            (
                json!({"dead-letter-exchange": 1}),
                "1 is not a valid dead letter exchange name",
            ),
            (
                json!({"alternate-exchange": 1}),
                "1 is not a valid alternate exchange name",
            ),
        ] {
            assert_eq!(told(Author::User, settings).as_deref(), Some(refusal));
        }
        let alternate = json!({"alternate-exchange": "x"});
        assert_eq!(told(Author::User, alternate.clone()), None);
        assert!(told(Author::Operator, alternate).is_some());
        assert_eq!(
            told(Author::Operator, json!({"max-length": 0, "message-ttl": 0})),
            None
        );
        assert_eq!(
            told(Author::User, json!({"ha-mode": "all", "ha-params": 2})),
            None
        );
    }
}
