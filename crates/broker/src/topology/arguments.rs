//! Arguments of declarations: are two of them equivalent, and how error texts show a value.
//!
//! Texts follow RabbitMQ, which prints values as Erlang terms.

use std::fmt::{self, Display as _, Write as _};

use backbone_wire::table::Value;

use super::plain::Plain;
use crate::error::{Error, Resource};

/// Checks one argument of a redeclaration against the first declaration. Integers of different widths are equal.
///
/// # Errors
/// 406 `inequivalent arg 'x-expires' for queue 'q' in vhost '/': received '2' but current is '1'`, or with
/// `none` and `the value '1' of type 'signedint'` where one of the two is missing.
pub fn check_equivalent(
    key: &str,
    resource: Resource<'_>,
    current: Option<Value<'_>>,
    received: Option<Value<'_>>,
) -> Result<(), Error> {
    let (received, current) = match (received, current) {
        (None, None) => return Ok(()),
        (Some(received), Some(current)) if Plain::from(current).equals(&received) => return Ok(()),
        (Some(received), Some(current)) => (
            format!("'{}'", Text(&received)),
            format!("'{}'", Text(&current)),
        ),
        (received, current) => (alone(received), alone(current)),
    };
    Err(inequivalent(key, resource, &received, &current))
}

/// Checks a property of a redeclaration, such as `durable`, against the first declaration.
///
/// # Errors
/// 406 `inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'`.
pub fn check_same<V: PartialEq + fmt::Display>(
    property: &str,
    resource: Resource<'_>,
    current: V,
    received: V,
) -> Result<(), Error> {
    if current == received {
        return Ok(());
    }
    Err(inequivalent(
        property,
        resource,
        &format!("'{received}'"),
        &format!("'{current}'"),
    ))
}

fn inequivalent(key: &str, resource: Resource<'_>, received: &str, current: &str) -> Error {
    Error::precondition_failed(format!(
        "inequivalent arg '{key}' for {resource}: received {received} but current is {current}"
    ))
}

/// How a value reads when there is nothing to compare it with.
fn alone(value: Option<Value<'_>>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => format!(
            "the value '{}' of type '{}'",
            Text(&value),
            value.type_name()
        ),
    }
}

/// A value as text: strings as they are, all else as a term.
struct Text<'a>(&'a Value<'a>);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::LongStr(bytes) | Value::Bytes(bytes) => {
                f.write_str(&String::from_utf8_lossy(bytes))
            }
            other => Term(other).fmt(f),
        }
    }
}

/// A value as an Erlang term: `3`, `<<"foo">>`, `[{longstr,<<"a">>}]`.
pub struct Term<'a>(pub &'a Value<'a>);

impl fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Value::Bool(value) => value.fmt(f),
            Value::I8(_) | Value::U8(_) | Value::I16(_) | Value::U16(_) => self.integer(f),
            Value::I32(_) | Value::U32(_) | Value::I64(_) => self.integer(f),
            Value::F32(value) => write!(f, "{:?}", f64::from(value)),
            Value::F64(value) => write!(f, "{value:?}"),
            Value::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            Value::LongStr(bytes) | Value::Bytes(bytes) => binary(bytes, f),
            Value::Timestamp(seconds) => seconds.fmt(f),
            Value::Void => f.write_str("undefined"),
            Value::Array(array) => list(f, array.iter().flatten(), |f, value| {
                write!(f, "{{{},{}}}", value.type_name(), Term(&value))
            }),
            Value::Table(table) => list(f, table.iter().flatten(), |f, (key, value)| {
                f.write_char('{')?;
                binary(key, f)?;
                write!(f, ",{},{}}}", value.type_name(), Term(&value))
            }),
        }
    }
}

impl Term<'_> {
    fn integer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_i64().unwrap_or_default().fmt(f)
    }
}

fn binary(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("<<")?;
    if bytes.is_empty() || bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        if !bytes.is_empty() {
            f.write_char('"')?;
            for &byte in bytes {
                if matches!(byte, b'"' | b'\\') {
                    f.write_char('\\')?;
                }
                f.write_char(char::from(byte))?;
            }
            f.write_char('"')?;
        }
    } else {
        for (index, byte) in bytes.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{byte}")?;
        }
    }
    f.write_str(">>")
}

fn list<V>(
    f: &mut fmt::Formatter<'_>,
    values: impl Iterator<Item = V>,
    write: impl Fn(&mut fmt::Formatter<'_>, V) -> fmt::Result,
) -> fmt::Result {
    f.write_char('[')?;
    for (index, value) in values.enumerate() {
        if index > 0 {
            f.write_char(',')?;
        }
        write(f, value)?;
    }
    f.write_char(']')
}

#[cfg(test)]
mod tests {
    use super::*;
    use backbone_wire::table::{ArrayBuf, TableBuf};

    fn text(current: Option<Value<'_>>, received: Option<Value<'_>>) -> String {
        check_equivalent("k", Resource::queue("q", "/"), current, received)
            .unwrap_err()
            .text
    }

    #[test]
    fn arguments_are_compared_by_value() {
        let resource = Resource::queue("q", "/");
        let same = |a, b| check_equivalent("k", resource, a, b).is_ok();
        assert!(same(None, None));
        assert!(same(Some(Value::I32(1)), Some(Value::I64(1))));
        assert!(same(Some(Value::from("a")), Some(Value::from("a"))));
        assert_eq!(
            text(Some(Value::I32(100)), Some(Value::I32(200))),
            "inequivalent arg 'k' for queue 'q' in vhost '/': received '200' but current is '100'"
        );
        assert!(
            text(Some(Value::I32(100)), None)
                .ends_with("received none but current is the value '100' of type 'signedint'")
        );
        assert!(
            text(None, Some(Value::from("x")))
                .ends_with("received the value 'x' of type 'longstr' but current is none")
        );
        assert!(
            text(Some(Value::I32(1)), Some(Value::from("1")))
                .ends_with("received '1' but current is '1'")
        );
    }

    #[test]
    fn properties_are_shown_in_quotes() {
        let error = check_same("durable", Resource::exchange("x", "v"), true, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost 'v': \
             received 'false' but current is 'true'"
        );
    }

    #[test]
    fn terms_read_as_in_erlang() {
        let mut array = ArrayBuf::new();
        array.push(&Value::I32(1)).push(&Value::from("a"));
        let mut table = TableBuf::new();
        table
            .put("k", &Value::Array(array.as_array()))
            .put("v", &Value::Void);
        let shown: &[(Value<'_>, &str)] = &[
            (Value::U8(255), "255"),
            (Value::I64(-3), "-3"),
            (Value::Bool(true), "true"),
            (Value::F32(1.5), "1.5"),
            (Value::F64(2.0), "2.0"),
            (
                Value::Decimal {
                    scale: 2,
                    value: 314,
                },
                "{2,314}",
            ),
            (Value::from("foo"), "<<\"foo\">>"),
            (Value::from("a\"b"), "<<\"a\\\"b\">>"),
            (Value::LongStr(b""), "<<>>"),
            (Value::Bytes(b"\x00\xff"), "<<0,255>>"),
            (Value::Timestamp(7), "7"),
            (Value::Void, "undefined"),
            (
                Value::Table(table.as_table()),
                "[{<<\"k\">>,array,[{signedint,1},{longstr,<<\"a\">>}]},{<<\"v\">>,void,undefined}]",
            ),
        ];
        for (value, expected) in shown {
            assert_eq!(Term(value).to_string(), *expected);
        }
    }
}
