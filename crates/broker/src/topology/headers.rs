//! Matching of message headers against the arguments of a binding: the headers exchange.
//!
//! A message's headers are sorted once for each route ([`Headers`]), whatever the number of bindings. Bindings are
//! then tried one after the other: a headers exchange costs in proportion to its bindings, unlike the other types.

use std::cell::OnceCell;

use backbone_wire::table::{Table, Value};

use super::arguments::Term;
use super::plain::Plain;
use crate::error::Error;

/// The binding argument that says how to match.
pub(super) const X_MATCH: &str = "x-match";

/// How a binding of a headers exchange matches: its `x-match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Match {
    /// Every argument must match; those beginning `x-` do not count. No arguments match everything.
    #[default]
    All,
    /// One argument must match; those beginning `x-` do not count. No arguments match nothing.
    Any,
    /// Every argument must match, but `x-match`.
    AllWithX,
    /// One argument must match, `x-match` does not count.
    AnyWithX,
}

impl Match {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"all" => Some(Self::All),
            b"any" => Some(Self::Any),
            b"all-with-x" => Some(Self::AllWithX),
            b"any-with-x" => Some(Self::AnyWithX),
            _ => None,
        }
    }

    /// What the arguments of a binding or of an exchange say; `None` if they say nothing, or nothing that means something.
    pub(super) fn of(arguments: &[(Box<[u8]>, Plain)]) -> Option<Self> {
        let (_, value) = arguments
            .iter()
            .find(|(key, _)| **key == *X_MATCH.as_bytes())?;
        match value {
            Plain::String(text) => Self::parse(text),
            _ => None,
        }
    }

    /// Checks the `x-match` of a new binding.
    ///
    /// # Errors
    /// 406 `Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x`, or
    /// `Invalid x-match field type signedint (value 3); expected longstr`.
    pub(super) fn check(arguments: Table<'_>) -> Result<(), Error> {
        match arguments.get(X_MATCH) {
            None => Ok(()),
            Some(Value::LongStr(text)) if Self::parse(text).is_some() => Ok(()),
            Some(value @ Value::LongStr(_)) => Err(Error::precondition_failed(format!(
                "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
                Term(&value)
            ))),
            Some(value) => Err(Error::precondition_failed(format!(
                "Invalid x-match field type {} (value {}); expected longstr",
                value.type_name(),
                Term(&value)
            ))),
        }
    }

    /// Whether a message with `headers` takes a binding with `arguments`.
    pub(super) fn matches(self, arguments: &[(Box<[u8]>, Plain)], headers: &Headers<'_>) -> bool {
        let with_x = matches!(self, Self::AllWithX | Self::AnyWithX);
        let mut counted = arguments.iter().filter(|(key, _)| {
            if with_x {
                **key != *X_MATCH.as_bytes()
            } else {
                !key.starts_with(b"x-")
            }
        });
        let hit = |(key, pattern): &(Box<[u8]>, Plain)| headers.has(key, pattern);
        match self {
            Self::All | Self::AllWithX => counted.all(hit),
            Self::Any | Self::AnyWithX => counted.any(hit),
        }
    }
}

/// The headers of one message, ready for look-ups.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    /// In the order of their names; of equal names the first is meant.
    sorted: Vec<Header<'a>>,
}

#[derive(Debug)]
struct Header<'a> {
    key: &'a [u8],
    value: Value<'a>,
    /// The normalised form, made when an array or a table is first compared, so that many bindings do not repeat the work.
    plain: OnceCell<Plain>,
}

impl<'a> Headers<'a> {
    pub(super) fn new(table: Option<Table<'a>>) -> Self {
        let entries = table.unwrap_or_default().iter().flatten();
        let mut sorted: Vec<Header<'a>> = entries
            .map(|(key, value)| Header {
                key,
                value,
                plain: OnceCell::new(),
            })
            .collect();
        sorted.sort_by(|a, b| a.key.cmp(b.key));
        Self { sorted }
    }

    /// Whether there is a header `key` that matches `pattern`; a void pattern asks for the key only.
    fn has(&self, key: &[u8], pattern: &Plain) -> bool {
        let first = self.sorted.partition_point(|header| header.key < key);
        let Some(header) = self.sorted.get(first).filter(|header| header.key == key) else {
            return false;
        };
        match (pattern, header.value) {
            (Plain::Void, _) => true,
            (Plain::Array(_), Value::Array(_)) | (Plain::Table(_), Value::Table(_)) => {
                pattern == header.plain.get_or_init(|| header.value.into())
            }
            (_, value) => pattern.matches(&value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plain::plain_table;
    use super::*;
    use backbone_wire::table::{ArrayBuf, TableBuf};

    fn table(entries: &[(&str, Value<'_>)]) -> TableBuf {
        let mut table = TableBuf::new();
        for (key, value) in entries {
            table.put(key, value);
        }
        table
    }

    fn matches(arguments: &[(&str, Value<'_>)], headers: &[(&str, Value<'_>)]) -> bool {
        let (arguments, headers) = (table(arguments), table(headers));
        Match::check(arguments.as_table()).unwrap();
        let arguments = plain_table(arguments.as_table());
        let headers = Headers::new(Some(headers.as_table()));
        Match::of(&arguments)
            .unwrap_or_default()
            .matches(&arguments, &headers)
    }

    fn s(text: &str) -> Value<'_> {
        Value::from(text)
    }

    #[test]
    fn all_and_any_and_their_edges() {
        let (all, any) = (("x-match", s("all")), ("x-match", s("any")));
        let (a, b, c) = (("a", s("1")), ("b", s("2")), ("c", s("3")));
        let wrong = ("a", s("2"));
        assert!(matches(&[all, a, b], &[c, b, a]));
        assert!(!matches(&[all, a, b], &[a, c]));
        assert!(!matches(&[all, a, b], &[wrong, b]));
        assert!(matches(&[a, b], &[b, a]), "all is the default");
        assert!(!matches(&[a, b], &[a]));
        assert!(matches(&[any, a, b], &[c, b]));
        assert!(matches(&[any, a, b], &[wrong, b]));
        assert!(!matches(&[any, a, b], &[wrong, c]));
        assert!(!matches(&[any, a, b], &[]));
        assert!(matches(&[all], &[]) && matches(&[all], &[a]) && matches(&[], &[a]));
        assert!(!matches(&[any], &[]) && !matches(&[any], &[a]));
    }

    #[test]
    fn keys_beginning_x_count_when_asked_to() {
        let (xa, xb, a) = (("x-a", s("1")), ("x-b", s("2")), ("a", s("1")));
        assert!(matches(&[("x-match", s("all")), xa, a], &[a]));
        assert!(
            !matches(&[("x-match", s("any")), xa], &[xa]),
            "no key counts"
        );
        assert!(matches(&[("x-match", s("all")), xa], &[]), "no key counts");
        assert!(!matches(&[("x-match", s("all-with-x")), xa, a], &[a]));
        assert!(matches(&[("x-match", s("all-with-x")), xa, a], &[a, xa]));
        assert!(matches(&[("x-match", s("any-with-x")), xa, xb], &[xb]));
        assert!(!matches(&[("x-match", s("any-with-x")), xa], &[a]));
        let itself = [("x-match", s("any-with-x"))];
        assert!(!matches(&itself, &itself), "x-match never counts");
    }

    #[test]
    fn values_match_what_is_equal_to_them_and_nothing_else() {
        let mut array = ArrayBuf::new();
        array.push(&Value::I32(1)).push(&s("x"));
        let inner = table(&[("k", Value::I32(1)), ("l", s("v"))]);
        let values = [
            Value::Bool(true),
            Value::I32(1),
            Value::F64(1.0),
            Value::Decimal { scale: 0, value: 1 },
            s("1"),
            Value::Bytes(b"1"),
            Value::Array(array.as_array()),
            Value::Timestamp(1),
            Value::Table(inner.as_table()),
        ];
        for (i, pattern) in values.iter().enumerate() {
            for (j, value) in values.iter().enumerate() {
                let equal = i == j
                    || [[1, 2, 7].as_slice(), &[4, 5]]
                        .iter()
                        .any(|alike| alike.contains(&i) && alike.contains(&j));
                assert_eq!(
                    matches(&[("h", *pattern)], &[("h", *value)]),
                    equal,
                    "{pattern:?} {value:?}"
                );
            }
            assert!(
                matches(&[("h", Value::Void)], &[("h", *pattern)]),
                "void asks for the key only"
            );
            assert!(!matches(&[("h", *pattern)], &[("h", Value::Void)]));
            assert!(!matches(&[("h", *pattern)], &[]));
        }
        assert!(matches(&[("h", Value::Void)], &[("h", Value::Void)]));
        assert!(!matches(&[("h", Value::Void)], &[("g", Value::Void)]));
        assert!(!matches(
            &[(
                "h",
                Value::Decimal {
                    scale: 1,
                    value: 10
                }
            )],
            &[("h", values[3])]
        ));
    }

    #[test]
    fn numbers_match_across_widths() {
        let ones = [
            Value::I8(1),
            Value::U8(1),
            Value::I16(1),
            Value::U16(1),
            Value::I32(1),
            Value::U32(1),
            Value::I64(1),
        ];
        for a in ones {
            for b in ones {
                assert!(matches(&[("h", a)], &[("h", b)]), "{a:?} {b:?}");
            }
            assert!(!matches(&[("h", a)], &[("h", Value::I64(2))]));
            assert!(!matches(&[("h", a)], &[("h", s("1"))]));
        }
        assert!(matches(
            &[("h", Value::F32(0.5))],
            &[("h", Value::F64(0.5))]
        ));
        assert!(matches(
            &[("h", Value::F64(0.0))],
            &[("h", Value::F32(-0.0))]
        ));
        assert!(matches(
            &[("h", Value::U32(u32::MAX))],
            &[("h", Value::I64(u32::MAX.into()))]
        ));
        assert!(!matches(
            &[("h", Value::U32(u32::MAX))],
            &[("h", Value::I32(-1))]
        ));
    }

    #[test]
    fn nested_tables_match_in_any_order_and_arrays_in_theirs() {
        let (one, two) = (("a", Value::I32(1)), ("b", s("2")));
        let (ab, ba, b) = (
            table(&[one, two]),
            table(&[two, ("a", Value::I64(1))]),
            table(&[two]),
        );
        let nested = |table: &TableBuf| -> TableBuf {
            self::table(&[("in", Value::Table(table.as_table()))])
        };
        let (nested_ab, nested_ba, nested_b) = (nested(&ab), nested(&ba), nested(&b));
        let value = |table: &TableBuf, headers: &TableBuf| {
            matches(
                &[("h", Value::Table(table.as_table()))],
                &[("h", Value::Table(headers.as_table()))],
            )
        };
        assert!(value(&ab, &ba) && value(&nested_ab, &nested_ba));
        assert!(!value(&ab, &b) && !value(&b, &ab) && !value(&nested_ab, &nested_b));
        let (mut first, mut second) = (ArrayBuf::new(), ArrayBuf::new());
        first.push(&Value::I32(1)).push(&Value::I32(2));
        second.push(&Value::I32(2)).push(&Value::I32(1));
        let (first, second) = (
            Value::Array(first.as_array()),
            Value::Array(second.as_array()),
        );
        assert!(matches(&[("h", first)], &[("h", first)]));
        assert!(!matches(&[("h", first)], &[("h", second)]));
    }

    #[test]
    fn of_equal_names_the_first_header_is_meant() {
        assert!(matches(
            &[("h", s("1"))],
            &[("h", s("1")), ("a", s("x")), ("h", s("2"))]
        ));
        assert!(!matches(
            &[("h", s("2"))],
            &[("h", s("1")), ("a", s("x")), ("h", s("2"))]
        ));
    }

    #[test]
    fn bad_x_match_is_refused() {
        let refused = |value| {
            Match::check(table(&[("x-match", value)]).as_table())
                .unwrap_err()
                .text
        };
        assert_eq!(
            refused(s("foo")),
            "Invalid x-match field value <<\"foo\">>; expected all, any, all-with-x, or any-with-x"
        );
        assert_eq!(
            refused(Value::I32(3)),
            "Invalid x-match field type signedint (value 3); expected longstr"
        );
    }
}
