//! Field values without their wire form: owned, comparable, hashable.
//!
//! Binding arguments are kept in this form. Two values are equal when RabbitMQ takes them for equal: integers whatever
//! their width, floats whatever theirs, tables whatever the order of their entries; values of different classes
//! (a string and a byte array, a timestamp and an integer) never are. A header matches by value alone, as there.

use backbone_wire::table::{Table, Value};

/// A field value, normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Plain {
    Bool(bool),
    Integer(i64),
    /// The bits of the number as `f64`, with one zero.
    Float(u64),
    Decimal {
        scale: u8,
        value: i32,
    },
    String(Box<[u8]>),
    Bytes(Box<[u8]>),
    Array(Box<[Plain]>),
    Timestamp(u64),
    Table(PlainTable),
    Void,
}

/// Entries in the order of their names; equal names stay in the order they came in.
pub(super) type PlainTable = Box<[(Box<[u8]>, Plain)]>;

/// Normalises a table. Entries that cannot be read are left out: the wire layer has checked them before.
pub(super) fn plain_table(table: Table<'_>) -> PlainTable {
    let mut entries: Vec<(Box<[u8]>, Plain)> = table
        .iter()
        .flatten()
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.into()
}

impl From<Value<'_>> for Plain {
    /// Recurses into nested values, as deep as the wire layer lets them be nested.
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(value),
            Value::I8(value) => Self::Integer(value.into()),
            Value::U8(value) => Self::Integer(value.into()),
            Value::I16(value) => Self::Integer(value.into()),
            Value::U16(value) => Self::Integer(value.into()),
            Value::I32(value) => Self::Integer(value.into()),
            Value::U32(value) => Self::Integer(value.into()),
            Value::I64(value) => Self::Integer(value),
            Value::F32(value) => Self::Float(float_bits(value.into())),
            Value::F64(value) => Self::Float(float_bits(value)),
            Value::Decimal { scale, value } => Self::Decimal { scale, value },
            Value::LongStr(bytes) => Self::String(bytes.into()),
            Value::Bytes(bytes) => Self::Bytes(bytes.into()),
            Value::Array(array) => Self::Array(array.iter().flatten().map(Self::from).collect()),
            Value::Timestamp(seconds) => Self::Timestamp(seconds),
            Value::Table(table) => Self::Table(plain_table(table)),
            Value::Void => Self::Void,
        }
    }
}

impl Plain {
    /// Whether `value` would normalise to this one. Allocates for arrays and tables only.
    pub(super) fn equals(&self, value: &Value<'_>) -> bool {
        match (self, *value) {
            (Self::String(own), Value::LongStr(bytes))
            | (Self::Bytes(own), Value::Bytes(bytes)) => **own == *bytes,
            (_, Value::LongStr(_) | Value::Bytes(_)) => false,
            (Self::Array(_), Value::Array(_)) | (Self::Table(_), Value::Table(_)) => {
                *self == Self::from(*value)
            }
            (_, Value::Array(_) | Value::Table(_)) => false,
            (_, flat) => *self == Self::from(flat),
        }
    }
}

impl Plain {
    /// Whether a header of this value matches it: numbers and times by their value, strings and byte arrays by their bytes.
    pub(super) fn matches(&self, value: &Value<'_>) -> bool {
        match (self, *value) {
            (Self::String(own) | Self::Bytes(own), Value::LongStr(bytes) | Value::Bytes(bytes)) => {
                **own == *bytes
            }
            (_, Value::LongStr(_) | Value::Bytes(_) | Value::Array(_) | Value::Table(_)) => {
                self.equals(value)
            }
            (_, flat) => {
                let other = Self::from(flat);
                let whole = self.whole_number();
                *self == other || (whole.is_some() && whole == other.whole_number())
            }
        }
    }

    /// The integer that it is, whatever it is written as.
    fn whole_number(&self) -> Option<i64> {
        const INTEGERS: std::ops::Range<f64> = i64::MIN as f64..i64::MAX as f64;
        match self {
            Self::Integer(number) => Some(*number),
            Self::Timestamp(seconds) => i64::try_from(*seconds).ok(),
            Self::Float(bits) => Some(f64::from_bits(*bits))
                .filter(|number| number.fract() == 0.0 && INTEGERS.contains(number))
                .map(|number| number as i64),
            _ => None,
        }
    }
}

fn float_bits(value: f64) -> u64 {
    // Minus zero equals zero, and adding zero makes it so.
    (value + 0.0).to_bits()
}
