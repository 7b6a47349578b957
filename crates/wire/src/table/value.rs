//! Typed values of tables and arrays.

use super::{Array, Table};
use crate::codec::{Reader, put_long, put_long_long, put_long_str, put_short};
use crate::error::Malformed;

/// A field value with the type that it has on the wire, whose octet is named beside each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `t`; any octet but 0 is true.
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` / 10^`scale`.
    Decimal {
        /// Digits after the decimal point.
        scale: u8,
        /// The number without its point.
        value: i32,
    },
    /// `S`: bytes, most often UTF-8.
    LongStr(&'a [u8]),
    /// `x`
    Bytes(&'a [u8]),
    /// `A`
    Array(Array<'a>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(Table<'a>),
    /// `V`: there, without a value.
    Void,
}

impl<'a> Value<'a> {
    /// An integer of any width and sign. Timestamps are no integers.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Self::I8(value) => value.into(),
            Self::U8(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I64(value) => value,
            _ => return None,
        })
    }

    /// A long string that is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Self::LongStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A nested table.
    pub fn as_table(&self) -> Option<Table<'a>> {
        match *self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// A nested array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, as its error texts say it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Bytes(_) => "binary",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }

    /// The type octet on the wire.
    pub fn tag(&self) -> u8 {
        match self {
            Self::Bool(_) => b't',
            Self::I8(_) => b'b',
            Self::U8(_) => b'B',
            Self::I16(_) => b's',
            Self::U16(_) => b'u',
            Self::I32(_) => b'I',
            Self::U32(_) => b'i',
            Self::I64(_) => b'l',
            Self::F32(_) => b'f',
            Self::F64(_) => b'd',
            Self::Decimal { .. } => b'D',
            Self::LongStr(_) => b'S',
            Self::Bytes(_) => b'x',
            Self::Array(_) => b'A',
            Self::Timestamp(_) => b'T',
            Self::Table(_) => b'F',
            Self::Void => b'V',
        }
    }

    /// Appends type octet and value.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.tag());
        match *self {
            Self::Bool(value) => out.push(u8::from(value)),
            Self::I8(value) => out.push(value as u8),
            Self::U8(value) => out.push(value),
            Self::I16(value) => put_short(out, value as u16),
            Self::U16(value) => put_short(out, value),
            Self::I32(value) => put_long(out, value as u32),
            Self::U32(value) => put_long(out, value),
            Self::I64(value) => put_long_long(out, value as u64),
            Self::F32(value) => put_long(out, value.to_bits()),
            Self::F64(value) => put_long_long(out, value.to_bits()),
            Self::Decimal { scale, value } => {
                out.push(scale);
                put_long(out, value as u32);
            }
            Self::LongStr(bytes) | Self::Bytes(bytes) => put_long_str(out, bytes),
            Self::Array(array) => put_long_str(out, array.as_bytes()),
            Self::Timestamp(value) => put_long_long(out, value),
            Self::Table(table) => put_long_str(out, table.as_bytes()),
            Self::Void => {}
        }
    }

    /// Reads type octet and value. What is nested in the value is not looked at.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match reader.octet()? {
            b't' => Self::Bool(reader.octet()? != 0),
            b'b' => Self::I8(reader.octet()? as i8),
            b'B' => Self::U8(reader.octet()?),
            b's' => Self::I16(reader.short()? as i16),
            b'u' => Self::U16(reader.short()?),
            b'I' => Self::I32(reader.long()? as i32),
            b'i' => Self::U32(reader.long()?),
            b'l' => Self::I64(reader.long_long()? as i64),
            b'f' => Self::F32(f32::from_bits(reader.long()?)),
            b'd' => Self::F64(f64::from_bits(reader.long_long()?)),
            b'D' => Self::Decimal {
                scale: reader.octet()?,
                value: reader.long()? as i32,
            },
            b'S' => Self::LongStr(reader.long_str()?),
            b'x' => Self::Bytes(reader.long_str()?),
            b'A' => Self::Array(Array::assume_checked(reader.long_str()?)),
            b'T' => Self::Timestamp(reader.long_long()?),
            b'F' => Self::Table(Table::assume_checked(reader.long_str()?)),
            b'V' => Self::Void,
            other => return Err(Malformed::UnknownTag(other)),
        })
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::LongStr(text.as_bytes())
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl<'a> From<Table<'a>> for Value<'a> {
    fn from(table: Table<'a>) -> Self {
        Self::Table(table)
    }
}

impl<'a> From<Array<'a>> for Value<'a> {
    fn from(array: Array<'a>) -> Self {
        Self::Array(array)
    }
}
