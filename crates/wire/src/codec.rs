//! Reading and writing of the elementary values that methods, properties and tables are made of.
//!
//! A [`Reader`] borrows and never looks back: it either yields a value that lies wholly within its bytes or
//! says what is malformed. The `put_*` functions append.

use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;
use crate::table::Table;

/// Octets of a method frame before its arguments: frame header, class, method.
const METHOD_PREFIX_LEN: usize = frame::HEADER_LEN + 4;

/// Reads values from the front of a slice.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Fails if anything is left.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }

    #[inline]
    pub(crate) fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*chunk)
    }

    #[inline]
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(crate) fn octet(&mut self) -> Result<u8, Malformed> {
        self.chunk().map(u8::from_be_bytes)
    }

    #[inline]
    pub(crate) fn short(&mut self) -> Result<u16, Malformed> {
        self.chunk().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<u32, Malformed> {
        self.chunk().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn long_long(&mut self) -> Result<u64, Malformed> {
        self.chunk().map(u64::from_be_bytes)
    }

    #[inline]
    pub(crate) fn short_str(&mut self) -> Result<ShortStr<'a>, Malformed> {
        let length = usize::from(self.octet()?);
        let bytes = self.bytes(length)?;
        Ok(ShortStr::new(bytes).expect("a length octet is at most 255"))
    }

    #[inline]
    pub(crate) fn long_str(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.long()? as usize;
        self.bytes(length)
    }

    /// A table, checked to its last byte.
    #[inline]
    pub(crate) fn table(&mut self) -> Result<Table<'a>, Malformed> {
        Table::checked(self.long_str()?)
    }
}

/// Starts a method frame whose arguments take `arguments_len` bytes, and makes room for all of it.
/// The caller appends exactly that many bytes and then [`frame::END`].
#[inline]
pub(crate) fn begin_method(
    out: &mut Vec<u8>,
    channel: u16,
    class_id: u16,
    method_id: u16,
    arguments_len: usize,
) {
    let size = u32::try_from(4 + arguments_len).expect("a method's arguments fit 32 bits");
    out.reserve(METHOD_PREFIX_LEN + arguments_len + 1);
    let mut prefix = [0; METHOD_PREFIX_LEN];
    prefix[..7].copy_from_slice(&frame::header(frame::FrameKind::Method, channel, size));
    prefix[7..9].copy_from_slice(&class_id.to_be_bytes());
    prefix[9..].copy_from_slice(&method_id.to_be_bytes());
    out.extend_from_slice(&prefix);
}

#[inline]
pub(crate) fn put_short(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub(crate) fn put_long(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub(crate) fn put_long_long(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub(crate) fn put_short_str(out: &mut Vec<u8>, value: ShortStr<'_>) {
    out.push(value.len() as u8);
    out.extend_from_slice(value.as_bytes());
}

#[inline]
pub(crate) fn put_long_str(out: &mut Vec<u8>, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("a long string fits 32 bits");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}
