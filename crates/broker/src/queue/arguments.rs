//! What `queue.declare` says of a queue's arguments: which ones a type of queue has, and which values they may have.
//!
//! The order of the checks and all texts are RabbitMQ's, which prints what is wrong as Erlang terms.

use backbone_wire::table::{Table, Value};

use crate::dedup;
use crate::error::{Error, Resource};

/// The longest time in ms that a message or an idle queue may be given: ten years.
pub const TTL_MS_MAX: u64 = 315_360_000_000;

/// What kind of queue it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QueueType {
    /// The usual one.
    #[default]
    Classic,
    /// Durable and shared; counts deliveries.
    Quorum,
    /// Its arguments are checked; it behaves as a classic one.
    Stream,
}

impl QueueType {
    /// The type that the arguments ask for; classic if they do not say, or not what a declare would take.
    pub fn of(arguments: Table<'_>) -> Self {
        match arguments.get(TYPE) {
            Some(Value::LongStr(b"quorum")) => Self::Quorum,
            Some(Value::LongStr(b"stream")) => Self::Stream,
            _ => Self::Classic,
        }
    }

    /// Its name, as `x-queue-type` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// RabbitMQ's module for it, which its texts name.
    fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }

    fn letter(self) -> u8 {
        match self {
            Self::Classic => b'c',
            Self::Quorum => b'q',
            Self::Stream => b's',
        }
    }
}

/// What a queue is declared as, besides its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Properties {
    /// Survives a restart.
    pub durable: bool,
    /// Belongs to a connection.
    pub exclusive: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
}

/// The argument that names the type.
pub const TYPE: &str = "x-queue-type";
const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";

/// Says what is wrong with a value, as RabbitMQ does.
type Check = fn(&Value<'_>, Table<'_>) -> Result<(), String>;

/// The arguments that are looked at, in the order in which they are: name, types of queues that have it (classic,
/// quorum, stream), check.
const ARGUMENTS: &[(&str, &str, Check)] = &[
    ("x-expires", "cq", |value, _| {
        let number = integer(value)?;
        if number == 0 {
            return Err("{value_zero,0}".into());
        }
        time(number)
    }),
    ("x-message-ttl", "cq", |value, _| time(integer(value)?)),
    ("x-consumer-timeout", "cqs", |value, _| {
        let number = integer(value)?;
        if number == 0 {
            return Err("{value_zero,0}".into());
        }
        time(number)
    }),
    (DEAD_LETTER_EXCHANGE, "cq", |value, _| text(value).map(drop)),
    ("x-dead-letter-routing-key", "cq", |value, all| {
        text(value)?;
        let alone = all.get(DEAD_LETTER_EXCHANGE).is_none();
        fail_if(alone, || "routing_key_but_no_dlx_defined".into())
    }),
    ("x-dead-letter-strategy", "q", |value, _| {
        let known = [&b"at-most-once"[..], b"at-least-once"];
        one_of(value, &known, |_| "invalid_dlx_strategy".into())
    }),
    ("x-max-length", "cq", |value, _| not_negative(value)),
    ("x-max-length-bytes", "cqs", |value, _| not_negative(value)),
    ("x-max-in-memory-length", "q", |value, _| {
        not_negative(value)
    }),
    ("x-max-in-memory-bytes", "q", |value, _| not_negative(value)),
    ("x-max-priority", "c", |value, _| {
        not_negative(value)?;
        let number = integer(value)?;
        fail_if(number > 255, || format!("{{max_value_exceeded,{number}}}"))
    }),
    ("x-overflow", "cq", |value, _| {
        let known = [&b"drop-head"[..], b"reject-publish", b"reject-publish-dlx"];
        one_of(value, &known, |_| "invalid_overflow".into())
    }),
    ("x-queue-mode", "c", |value, _| {
        let known = [&b"default"[..], b"lazy"];
        one_of(value, &known, |mode| unsupported("mode", mode))
    }),
    ("x-queue-version", "c", |value, _| {
        not_negative(value)?;
        let number = integer(value)?;
        let known = matches!(number, 1 | 2);
        fail_if(!known, || unsupported("version", &number.to_string()))
    }),
    ("x-single-active-consumer", "cq", |value, _| boolean(value)),
    ("x-delivery-limit", "q", |_, _| Ok(())),
    ("x-quorum-initial-group-size", "q", |value, _| size(value)),
    ("x-max-age", "s", |value, _| {
        let age = text(value)?;
        let fits = age.split_last().is_some_and(|(unit, digits)| {
            let numeric = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            numeric && b"YMDhms".contains(unit)
        });
        fail_if(!fits, || "invalid_max_age".into())
    }),
    ("x-stream-max-segment-size-bytes", "s", |value, _| {
        not_negative(value)
    }),
    ("x-initial-cluster-size", "s", |value, _| size(value)),
    ("x-queue-leader-locator", "qs", |value, _| {
        let known = [
            &b"client-local"[..],
            b"balanced",
            b"random",
            b"least-leaders",
        ];
        one_of(value, &known, |_| "invalid_queue_locator_arg".into())
    }),
    ("x-queue-master-locator", "c", |_, _| Ok(())),
    (dedup::ENABLED, "cq", |value, _| boolean(value)),
    (dedup::SIZE, "cq", |value, _| size(value)),
    (dedup::TTL, "cq", |value, _| time(integer(value)?)),
    (dedup::HEADER, "cq", |value, _| text(value).map(drop)),
];

/// Whether queues of a type have an argument, as far as this list says.
pub fn is_for(kind: QueueType, name: &str) -> bool {
    let mut known = ARGUMENTS.iter();
    let found = known.find(|(other, ..)| *other == name);
    found.is_none_or(|(_, types, _)| types.as_bytes().contains(&kind.letter()))
}

/// Checks the arguments of a new queue.
///
/// # Errors
/// 406, with RabbitMQ's texts.
pub fn check(of: Resource<'_>, arguments: Table<'_>, declared: Properties) -> Result<(), Error> {
    if let Some(value) = arguments.get(DEAD_LETTER_EXCHANGE)
        && !matches!(value, Value::LongStr(_))
    {
        let kind = value.type_name();
        return Err(Error::precondition_failed(format!(
            "invalid type '{kind}' for arg '{DEAD_LETTER_EXCHANGE}' in {of}"
        )));
    }
    let invalid = |name: &str, why: &str| {
        Error::precondition_failed(format!("invalid arg '{name}' for {of}{why}"))
    };
    let wrong = |name: &str, why: String| invalid(name, &format!(": {why}"));
    if let Some(value) = arguments.get(TYPE) {
        let known = [&b"classic"[..], b"quorum", b"stream"];
        one_of(&value, &known, |kind| unsupported("type", kind)).map_err(|why| wrong(TYPE, why))?;
    }
    let kind = QueueType::of(arguments);
    for (name, types, _) in ARGUMENTS {
        if !types.as_bytes().contains(&kind.letter()) && arguments.get(name).is_some() {
            return Err(invalid(name, &format!(" of queue type {}", kind.module())));
        }
    }
    for (name, _, check) in ARGUMENTS {
        if let Some(value) = arguments.get(name) {
            check(&value, arguments).map_err(|why| wrong(name, why))?;
        }
    }
    if kind == QueueType::Classic {
        return Ok(());
    }
    let bad = match declared {
        Properties {
            auto_delete: true, ..
        } => "auto-delete",
        Properties {
            exclusive: true, ..
        } => "exclusive-owner",
        Properties { durable: false, .. } => "non-durable",
        _ => return Ok(()),
    };
    Err(Error::precondition_failed(format!(
        "invalid property '{bad}' for {of}"
    )))
}

/// Checks what the arguments of a new exchange say of repeats.
///
/// # Errors
/// 406 `invalid arg 'x-cache-size' for exchange 'x' in vhost '/': {value_zero,0}`.
pub(crate) fn check_dedup(of: Resource<'_>, arguments: Table<'_>) -> Result<(), Error> {
    for (name, _, check) in ARGUMENTS
        .iter()
        .filter(|(name, ..)| dedup::ALL.contains(name))
    {
        if let Some(value) = arguments.get(name) {
            check(&value, arguments).map_err(|why| {
                Error::precondition_failed(format!("invalid arg '{name}' for {of}: {why}"))
            })?;
        }
    }
    Ok(())
}

/// Reads the property `expiration` of a message: decimal ms.
///
/// # Errors
/// 406 `invalid expiration 'abc': no_integer`.
pub fn expiration(raw: &[u8]) -> Result<u64, Error> {
    let bad = |why: String| {
        let shown = String::from_utf8_lossy(raw);
        Error::precondition_failed(format!("invalid expiration '{shown}': {why}"))
    };
    let sign = usize::from(matches!(raw.first(), Some(b'+' | b'-')));
    let digits = raw[sign..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits == 0 {
        return Err(bad("no_integer".into()));
    }
    let (number, rest) = raw.split_at(sign + digits);
    if !rest.is_empty() {
        let rest = String::from_utf8_lossy(rest);
        return Err(bad(format!("{{leftover_string,\"{rest}\"}}")));
    }
    let text = std::str::from_utf8(number).unwrap_or_default();
    let shown = text.trim_start_matches('+');
    match text.parse::<i64>() {
        Ok(number) => time(number).map(|()| number as u64).map_err(bad),
        Err(_) if text.starts_with('-') => Err(bad(format!("{{value_negative,{shown}}}"))),
        Err(_) => Err(bad(format!("{{value_too_large,{shown}}}"))),
    }
}

fn time(number: i64) -> Result<(), String> {
    fail_if(number < 0, || format!("{{value_negative,{number}}}"))?;
    let large = number.unsigned_abs() > TTL_MS_MAX;
    fail_if(large, || format!("{{value_too_large,{number}}}"))
}

fn not_negative(value: &Value<'_>) -> Result<(), String> {
    let number = integer(value)?;
    fail_if(number < 0, || format!("{{value_negative,{number}}}"))
}

fn size(value: &Value<'_>) -> Result<(), String> {
    not_negative(value)?;
    fail_if(integer(value)? == 0, || "{value_zero,0}".into())
}

fn integer(value: &Value<'_>) -> Result<i64, String> {
    let kind = value.type_name();
    value
        .as_i64()
        .ok_or_else(|| format!("\"expected integer, got {kind}\""))
}

fn boolean(value: &Value<'_>) -> Result<(), String> {
    match value {
        Value::Bool(_) => Ok(()),
        other => Err(unacceptable(other)),
    }
}

fn text<'a>(value: &Value<'a>) -> Result<&'a [u8], String> {
    match *value {
        Value::LongStr(text) => Ok(text),
        _ => Err(unacceptable(value)),
    }
}

fn one_of(
    value: &Value<'_>,
    known: &[&[u8]],
    why: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    let text = text(value)?;
    fail_if(!known.contains(&text), || {
        why(&String::from_utf8_lossy(text))
    })
}

fn unsupported(what: &str, value: &str) -> String {
    format!("\"unsupported queue {what} '{value}'\"")
}

fn unacceptable(value: &Value<'_>) -> String {
    format!("{{unacceptable_type,{}}}", value.type_name())
}

fn fail_if(wrong: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if wrong { Err(why()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use backbone_wire::table::TableBuf;

    use super::*;

    const PLAIN: Properties = Properties {
        durable: true,
        exclusive: false,
        auto_delete: false,
    };

    fn outcome(arguments: &[(&str, Value<'_>)], declared: Properties) -> String {
        let mut table = TableBuf::new();
        for (name, value) in arguments {
            table.put(name, value);
        }
        match check(Resource::queue("q", "/"), table.as_table(), declared) {
            Ok(()) => String::new(),
            Err(error) => error.text,
        }
    }

    /// The part of the text that differs, of an argument on its own.
    fn why(name: &str, value: Value<'_>) -> String {
        let text = outcome(&[(name, value)], PLAIN);
        let start = format!("invalid arg '{name}' for queue 'q' in vhost '/'");
        text.strip_prefix(&start).unwrap_or(&text).to_owned()
    }

    #[test]
    fn bad_values_are_refused_with_the_texts_of_rabbitmq() {
        let int = |number: i64| Value::I64(number);
        let cases = [
            ("x-message-ttl", int(-1), ": {value_negative,-1}"),
            (
                "x-message-ttl",
                Value::from("a"),
                ": \"expected integer, got longstr\"",
            ),
            (
                "x-message-ttl",
                Value::Bool(true),
                ": \"expected integer, got bool\"",
            ),
            (
                "x-message-ttl",
                int(315_360_000_001),
                ": {value_too_large,315360000001}",
            ),
            ("x-message-ttl", int(315_360_000_000), ""),
            ("x-message-ttl", int(0), ""),
            ("x-expires", int(0), ": {value_zero,0}"),
            ("x-expires", int(-1), ": {value_negative,-1}"),
            (
                "x-expires",
                int(315_360_000_001),
                ": {value_too_large,315360000001}",
            ),
            ("x-max-length", int(-1), ": {value_negative,-1}"),
            ("x-max-length", int(1 << 40), ""),
            (
                "x-max-length-bytes",
                Value::from("x"),
                ": \"expected integer, got longstr\"",
            ),
            ("x-overflow", Value::from("foo"), ": invalid_overflow"),
            (
                "x-overflow",
                Value::I32(3),
                ": {unacceptable_type,signedint}",
            ),
            ("x-overflow", Value::from("reject-publish-dlx"), ""),
            (
                "x-dead-letter-routing-key",
                Value::from("k"),
                ": routing_key_but_no_dlx_defined",
            ),
            ("x-max-priority", int(256), ": {max_value_exceeded,256}"),
            ("x-max-priority", int(-1), ": {value_negative,-1}"),
            (
                "x-queue-mode",
                Value::from("foo"),
                ": \"unsupported queue mode 'foo'\"",
            ),
            (
                "x-queue-version",
                int(3),
                ": \"unsupported queue version '3'\"",
            ),
            ("x-queue-version", int(-1), ": {value_negative,-1}"),
            (
                "x-queue-type",
                Value::from("foo"),
                ": \"unsupported queue type 'foo'\"",
            ),
            (
                "x-queue-type",
                Value::I32(3),
                ": {unacceptable_type,signedint}",
            ),
            (
                "x-single-active-consumer",
                Value::from("a"),
                ": {unacceptable_type,longstr}",
            ),
            (
                "x-delivery-limit",
                int(3),
                " of queue type rabbit_classic_queue",
            ),
            (
                "x-max-age",
                Value::from("foo"),
                " of queue type rabbit_classic_queue",
            ),
            (
                "x-dead-letter-strategy",
                Value::from("at-most-once"),
                " of queue type rabbit_classic_queue",
            ),
            ("x-cache-size", int(0), ": {value_zero,0}"),
            ("x-cache-size", int(1 << 40), ""),
            ("x-cache-ttl", int(0), ""),
            (
                "x-message-deduplication",
                int(1),
                ": {unacceptable_type,long}",
            ),
            ("x-unknown", Value::Void, ""),
        ];
        for (name, value, expected) in cases {
            assert_eq!(why(name, value), expected, "{name} {value:?}");
        }
        assert_eq!(
            outcome(&[("x-dead-letter-exchange", Value::I32(3))], PLAIN),
            "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"
        );
    }

    #[test]
    fn the_type_decides_which_arguments_and_properties_a_queue_may_have() {
        let quorum = ("x-queue-type", Value::from("quorum"));
        let stream = ("x-queue-type", Value::from("stream"));
        let with = |name, value| outcome(&[quorum, (name, value)], PLAIN);
        assert_eq!(with("x-delivery-limit", Value::I32(3)), "");
        assert_eq!(with("x-message-ttl", Value::I32(3)), "");
        assert_eq!(
            with("x-max-priority", Value::I32(-5)),
            "invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue"
        );
        assert!(
            with("x-dead-letter-strategy", Value::from("foo")).ends_with(": invalid_dlx_strategy")
        );
        assert!(
            outcome(&[stream, ("x-message-ttl", Value::I32(1))], PLAIN)
                .ends_with("of queue type rabbit_stream_queue")
        );
        assert_eq!(
            outcome(&[stream, ("x-max-age", Value::from("7D"))], PLAIN),
            ""
        );
        for (durable, exclusive, auto_delete, bad) in [
            (false, false, false, "non-durable"),
            (true, true, false, "exclusive-owner"),
            (true, false, true, "auto-delete"),
        ] {
            let declared = Properties {
                durable,
                exclusive,
                auto_delete,
            };
            let expected = format!("invalid property '{bad}' for queue 'q' in vhost '/'");
            assert_eq!(outcome(&[quorum], declared), expected);
            assert_eq!(outcome(&[], declared), "");
        }
    }

    #[test]
    fn an_expiration_is_a_decimal_number_of_milliseconds() {
        let why = |raw: &str| expiration(raw.as_bytes()).map_err(|error| error.text);
        for (raw, number) in [("0", 0), ("+1", 1), ("01", 1), ("315360000000", TTL_MS_MAX)] {
            assert_eq!(why(raw), Ok(number));
        }
        for (raw, expected) in [
            ("abc", "no_integer"),
            ("", "no_integer"),
            (" 1", "no_integer"),
            ("-1", "{value_negative,-1}"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("1 ", "{leftover_string,\" \"}"),
            ("315360000001", "{value_too_large,315360000001}"),
            (
                "99999999999999999999",
                "{value_too_large,99999999999999999999}",
            ),
        ] {
            let text = format!("invalid expiration '{raw}': {expected}");
            assert_eq!(why(raw), Err(text));
        }
    }
}
