//! The content header of a message and its property list.
//!
//! A [`Properties`] is the bytes of the wire: flag word and values, as they follow class, weight and body
//! size in a content-header frame. They are checked once and looked into lazily; a message is stored,
//! routed and delivered with the very bytes that it came with, so what was set stays set and what was not
//! stays absent. [`with_additions`] and [`PropertiesBuilder`] make new lists.

mod edit;
mod list;

use std::fmt;

pub use edit::{Cut, with_additions};
pub use list::PropertiesBuilder;
use list::{DELIVERY_MODE, KINDS, KNOWN_FLAGS};

use crate::codec::{Reader, put_long_long, put_short};
use crate::error::{DecodeError, Malformed};
use crate::frame::{self, FrameKind};
use crate::short_str::ShortStr;
use crate::table::Table;

/// Class of the only methods that carry content.
pub const BASIC_CLASS_ID: u16 = 60;
/// Octets of a content header before the property list: class, weight, body size.
pub const FIXED_LEN: usize = 12;

/// The property list of a message, borrowed: 2-byte flag word and values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// The list in which nothing is set.
    pub const EMPTY: Self = Self(&[0, 0]);

    /// Checks that `bytes` are a well-formed list to the last byte, the headers table included.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`].
    #[inline]
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::checked(bytes).map_err(DecodeError::from)
    }

    /// Takes bytes that passed the check before, such as a stored message's. Should they be malformed after
    /// all, the getters yield nothing.
    #[inline]
    pub const fn assume_checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing set and only the delivery mode set, which is what most messages have, cost two comparisons.
    #[inline(always)]
    pub(crate) fn checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (flags, values) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
        match (u16::from_be_bytes(*flags), values.len()) {
            (0, 0) | (DELIVERY_MODE, 1) => {}
            (flags, _) => check_values(flags, values)?,
        }
        Ok(Self(bytes))
    }

    /// The bytes, flag word included.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// True if nothing is set.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.flags() == 0
    }

    #[inline]
    fn flags(&self) -> u16 {
        self.0
            .first_chunk()
            .map_or(0, |flags| u16::from_be_bytes(*flags))
    }

    /// A reader at the value of the property with this flag, if that is set.
    #[inline]
    fn find(&self, flag: u16) -> Option<Reader<'a>> {
        let flags = self.flags();
        if flags & flag == 0 {
            return None;
        }
        let mut reader = Reader::new(self.0.get(2..)?);
        skip(&mut reader, flags & above(flag)).ok()?;
        Some(reader)
    }

    #[inline]
    fn octet(&self, flag: u16) -> Option<u8> {
        self.find(flag)?.octet().ok()
    }

    #[inline]
    fn timestamp_value(&self, flag: u16) -> Option<u64> {
        self.find(flag)?.long_long().ok()
    }

    #[inline]
    fn short_str(&self, flag: u16) -> Option<ShortStr<'a>> {
        self.find(flag)?.short_str().ok()
    }

    #[inline]
    fn table(&self, flag: u16) -> Option<Table<'a>> {
        self.find(flag)?.long_str().ok().map(Table::assume_checked)
    }
}

impl Default for Properties<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PropertiesBuilder::from(*self).fmt(f)
    }
}

/// What a content-header frame says about the body that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// Class of the method that the content belongs to; anything but [`BASIC_CLASS_ID`] is out of order.
    pub class_id: u16,
    /// Has to be 0; the receiver decides what to say if it is not.
    pub weight: u16,
    /// Length of the whole body, in bytes.
    pub body_size: u64,
    /// The properties; empty for another class than `basic`, whose properties nobody knows.
    pub properties: Properties<'a>,
}

impl<'a> ContentHeader<'a> {
    /// Decodes the payload of a header frame.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] if it is too short, or class is `basic` and the property list is malformed.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let class_id = reader.short()?;
        let weight = reader.short()?;
        let body_size = reader.long_long()?;
        let properties = match class_id {
            BASIC_CLASS_ID => Properties::checked(reader.rest())?,
            _ if reader.rest().len() < 2 => return Err(Malformed::Truncated.into()),
            _ => Properties::EMPTY,
        };
        Ok(Self {
            class_id,
            weight,
            body_size,
            properties,
        })
    }

    /// Appends the payload of a header frame.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        out.reserve(FIXED_LEN + self.properties.0.len() + 1);
        put_short(out, self.class_id);
        put_short(out, self.weight);
        put_long_long(out, self.body_size);
        out.extend_from_slice(self.properties.0);
    }

    /// Appends the whole header frame.
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mark = frame::begin(out, FrameKind::Header, channel);
        self.encode_payload(out);
        frame::finish(out, mark);
    }
}

/// How a property's value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ShortStr,
    Table,
    Octet,
    Timestamp,
}

/// The flags of the properties that come before the one with `flag`.
#[inline]
const fn above(flag: u16) -> u16 {
    !(flag | (flag - 1))
}

/// Skips the values of the properties in `flags`, which are the next ones in the reader.
#[inline]
fn skip(reader: &mut Reader<'_>, mut flags: u16) -> Result<(), Malformed> {
    while flags != 0 {
        let index = flags.leading_zeros();
        flags ^= 0x8000 >> index;
        match KINDS[index as usize] {
            Kind::ShortStr => {
                let length = usize::from(reader.octet()?);
                reader.bytes(length)?;
            }
            Kind::Table => {
                reader.long_str()?;
            }
            Kind::Octet => {
                reader.octet()?;
            }
            Kind::Timestamp => {
                reader.long_long()?;
            }
        }
    }
    Ok(())
}

#[inline(never)]
fn check_values(flags: u16, values: &[u8]) -> Result<(), Malformed> {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Malformed::UnknownPropertyFlags(flags));
    }
    let mut reader = Reader::new(values);
    skip(&mut reader, flags & above(list::HEADERS))?;
    if flags & list::HEADERS != 0 {
        reader.table()?;
    }
    skip(&mut reader, flags & (list::HEADERS - 1))?;
    reader.finish()
}

#[cfg(test)]
mod tests;
