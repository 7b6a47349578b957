//! Entries as they lie on the wire: found, and not decoded. The check of a table and the one pass of a broker
//! over a message's headers go this way.

use super::Table;
use crate::error::Malformed;

/// An entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Type octet of the value.
    pub tag: u8,
    /// The value: of strings, arrays and tables what is behind their length.
    pub value: &'a [u8],
}

/// Entries of a table in their order; ends before what is malformed.
#[derive(Clone)]
pub struct RawEntries<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Table<'a> {
    /// The entries as they lie on the wire, duplicates included.
    #[inline]
    pub fn raw_entries(&self) -> RawEntries<'a> {
        let rest = self.as_bytes();
        RawEntries {
            rest,
            len: rest.len(),
        }
    }
}

impl<'a> RawEntries<'a> {
    /// Offset in the table's bytes of the entry that comes next.
    #[inline]
    pub fn offset(&self) -> usize {
        self.len - self.rest.len()
    }
}

impl<'a> Iterator for RawEntries<'a> {
    type Item = RawEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawEntry<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (entry, rest) = cut_entry(self.rest).ok()?;
        self.rest = rest;
        Some(entry)
    }
}

/// The entry at the front of `bytes`, and what follows it.
// Once a header of each message: a call more is measured (benches/instructions.txt).
#[inline(always)]
pub(super) fn cut_entry(bytes: &[u8]) -> Result<(RawEntry<'_>, &[u8]), Malformed> {
    let (&name_len, rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
    let (name, rest) = rest
        .split_at_checked(usize::from(name_len))
        .ok_or(Malformed::Truncated)?;
    let (tag, value, rest) = cut_value(rest)?;
    Ok((RawEntry { name, tag, value }, rest))
}

/// Type octet and value at the front of `bytes`, and what follows them.
#[inline(always)]
pub(super) fn cut_value(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Malformed> {
    let (&tag, rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
    let (len, rest) = match tag {
        b'S' | b'x' | b'A' | b'F' => {
            let (len, rest) = rest.split_first_chunk().ok_or(Malformed::Truncated)?;
            (u32::from_be_bytes(*len) as usize, rest)
        }
        _ => (fixed_len(tag)?, rest),
    };
    let (value, rest) = rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
    Ok((tag, value, rest))
}

/// Octets of a value whose type has a fixed length.
#[inline]
fn fixed_len(tag: u8) -> Result<usize, Malformed> {
    Ok(match tag {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'd' | b'T' => 8,
        other => return Err(Malformed::UnknownTag(other)),
    })
}
