//! Field tables: ordered lists of (name, typed value), as message headers and method arguments carry them.
//!
//! A [`Table`] is the bytes of the wire, without the 4-byte length before them. They are checked once, when
//! a method or a property list is decoded, and looked into lazily from then on; value and type octet stay
//! exactly as they came. [`TableBuf`] and [`ArrayBuf`] build new ones.
//!
//! Names may repeat; [`Table::get`] finds the first, as RabbitMQ does.

mod build;
mod raw;
mod value;

use std::fmt;

pub use build::{ArrayBuf, TableBuf};
pub use raw::{RawEntries, RawEntry};
use raw::{cut_entry, cut_value};
pub use value::Value;

use crate::codec::Reader;
use crate::error::{DecodeError, Malformed};

/// Most levels of tables and arrays, the outermost table counted. Bounds the stack that a peer can make us use.
pub const LEVELS_MAX: usize = 128;

/// A field table, borrowed: its bytes without the 4-byte length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    /// The table without entries.
    pub const EMPTY: Self = Self(b"");

    /// Checks that `bytes` are a well-formed table to the last byte, all nested values included.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`], also for more than [`LEVELS_MAX`] levels.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::checked(bytes).map_err(DecodeError::from)
    }

    /// Takes bytes that passed the check before, such as a stored message's. Should they be malformed after
    /// all, [`Self::iter`] yields an error and [`Self::get`] nothing.
    #[inline]
    pub const fn assume_checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    #[inline]
    pub(crate) fn checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if !bytes.is_empty() {
            check_table(bytes, LEVELS_MAX - 1)?;
        }
        Ok(Self(bytes))
    }

    /// The bytes, without the 4-byte length.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// True if there are no entries.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in their order on the wire, duplicates included.
    #[inline]
    pub fn iter(&self) -> TableIter<'a> {
        TableIter(Reader::new(self.0))
    }

    /// The value of the first entry with this name.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let mut reader = Reader::new(self.0);
        while !reader.rest().is_empty() {
            if reader.short_str().ok()?.as_bytes() == key.as_bytes() {
                return Value::read(&mut reader).ok();
            }
            Value::read(&mut reader).ok()?;
        }
        None
    }
}

impl<'a> IntoIterator for Table<'a> {
    type Item = Result<(&'a [u8], Value<'a>), DecodeError>;
    type IntoIter = TableIter<'a>;

    fn into_iter(self) -> TableIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.iter().flatten();
        let shown = entries.map(|(key, value)| (String::from_utf8_lossy(key), value));
        f.debug_map().entries(shown).finish()
    }
}

/// Entries of a [`Table`]; ends after the first error.
#[derive(Clone)]
pub struct TableIter<'a>(Reader<'a>);

impl<'a> TableIter<'a> {
    fn read(&mut self) -> Result<(&'a [u8], Value<'a>), Malformed> {
        let key = self.0.short_str()?.as_bytes();
        Ok((key, Value::read(&mut self.0)?))
    }
}

impl<'a> Iterator for TableIter<'a> {
    type Item = Result<(&'a [u8], Value<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest().is_empty() {
            return None;
        }
        let entry = self.read();
        if entry.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(entry.map_err(DecodeError::from))
    }
}

/// A field array, borrowed: its bytes without the 4-byte length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Array<'a> {
    /// The array without values.
    pub const EMPTY: Self = Self(b"");

    #[inline]
    pub(crate) const fn assume_checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes, without the 4-byte length.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// True if there are no values.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values in order.
    #[inline]
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter(Reader::new(self.0))
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Result<Value<'a>, DecodeError>;
    type IntoIter = ArrayIter<'a>;

    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().flatten()).finish()
    }
}

/// Values of an [`Array`]; ends after the first error.
#[derive(Clone)]
pub struct ArrayIter<'a>(Reader<'a>);

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Result<Value<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest().is_empty() {
            return None;
        }
        let value = Value::read(&mut self.0);
        if value.is_err() {
            self.0 = Reader::new(&[]);
        }
        Some(value.map_err(DecodeError::from))
    }
}

/// Checks the entries of a table in which `levels_left` more levels may be nested. The recursion through
/// [`check_nested`] is as deep as the nesting, hence at most [`LEVELS_MAX`].
fn check_table(mut bytes: &[u8], levels_left: usize) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let (entry, rest) = cut_entry(bytes)?;
        check_nested(entry.tag, entry.value, levels_left)?;
        bytes = rest;
    }
    Ok(())
}

fn check_array(mut bytes: &[u8], levels_left: usize) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let (tag, value, rest) = cut_value(bytes)?;
        check_nested(tag, value, levels_left)?;
        bytes = rest;
    }
    Ok(())
}

#[inline]
fn check_nested(tag: u8, value: &[u8], levels_left: usize) -> Result<(), Malformed> {
    let check = match tag {
        b'F' => check_table,
        b'A' => check_array,
        _ => return Ok(()),
    };
    let levels_left = levels_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
    check(value, levels_left)
}

#[cfg(test)]
mod tests;
