//! Building of tables and arrays, front to back.

use super::{Array, Table, Value};
use crate::codec::put_short_str;
use crate::error::TooLong;
use crate::short_str::ShortStr;

/// A table under construction. Nested ones are built first and put as a value:
/// `outer.put("capabilities", &Value::Table(inner.as_table()))`.
///
/// Nothing keeps the same name from being put twice, nor more than [`super::LEVELS_MAX`] levels from being
/// nested, which peers would refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableBuf {
    bytes: Vec<u8>,
}

impl TableBuf {
    /// A table without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// If `key` has more than 255 bytes. For names that come from outside there is [`Self::try_put`].
    pub fn put(&mut self, key: &str, value: &Value<'_>) -> &mut Self {
        self.try_put(key.as_bytes(), value)
            .expect("a field name fits 255 bytes")
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// If `key` has more than 255 bytes; the table stays as it was.
    pub fn try_put(&mut self, key: &[u8], value: &Value<'_>) -> Result<&mut Self, TooLong> {
        put_short_str(&mut self.bytes, ShortStr::new(key)?);
        value.write(&mut self.bytes);
        Ok(self)
    }

    /// What has been put so far.
    pub fn as_table(&self) -> Table<'_> {
        Table::assume_checked(&self.bytes)
    }

    /// The bytes, without the 4-byte length.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// An array under construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayBuf {
    bytes: Vec<u8>,
}

impl ArrayBuf {
    /// An array without values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value.
    pub fn push(&mut self, value: &Value<'_>) -> &mut Self {
        value.write(&mut self.bytes);
        self
    }

    /// What has been pushed so far.
    pub fn as_array(&self) -> Array<'_> {
        Array::assume_checked(&self.bytes)
    }
}
