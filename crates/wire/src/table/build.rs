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

    /// A table without entries, with room for so many bytes of them.
    pub fn with_capacity(bytes: usize) -> Self {
        let bytes = Vec::with_capacity(bytes);
        Self { bytes }
    }

    /// Appends the entries of another table of which `keeps` says so by their names, as they are.
    pub fn put_some(&mut self, entries: Table<'_>, keeps: impl Fn(&[u8]) -> bool) -> &mut Self {
        let (mut raw, mut start) = (entries.raw_entries(), 0);
        while let Some(entry) = raw.next() {
            let end = raw.offset();
            if keeps(entry.name) {
                self.bytes
                    .extend_from_slice(&entries.as_bytes()[start..end]);
            }
            start = end;
        }
        self
    }

    /// Appends an array, which `fill` writes in its place: without a buffer of its own. What `fill` gets is to be pushed to, not
    /// read.
    ///
    /// # Panics
    /// If `key` has more than 255 bytes.
    pub fn put_array(&mut self, key: &str, fill: impl FnOnce(&mut ArrayBuf)) -> &mut Self {
        let key = ShortStr::new(key.as_bytes()).expect("a field name fits 255 bytes");
        put_short_str(&mut self.bytes, key);
        nest(&mut self.bytes, b'A', |bytes| {
            let mut array = ArrayBuf { bytes };
            fill(&mut array);
            array.bytes
        });
        self
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

    /// Appends a table, which `fill` writes in its place. What `fill` gets is to be put into, not read.
    pub fn push_table(&mut self, fill: impl FnOnce(&mut TableBuf)) -> &mut Self {
        nest(&mut self.bytes, b'F', |bytes| {
            let mut table = TableBuf { bytes };
            fill(&mut table);
            table.bytes
        });
        self
    }

    /// What has been pushed so far.
    pub fn as_array(&self) -> Array<'_> {
        Array::assume_checked(&self.bytes)
    }
}

/// Appends a value of type `tag` that begins with its length; `fill` appends what is behind that.
fn nest(bytes: &mut Vec<u8>, tag: u8, fill: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    bytes.extend_from_slice(&[tag, 0, 0, 0, 0]);
    let start = bytes.len();
    *bytes = fill(std::mem::take(bytes));
    let len = (bytes.len() - start) as u32;
    bytes[start - 4..start].copy_from_slice(&len.to_be_bytes());
}
