//! Class `access` (30). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;

/// `access.request`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// `realm`
    pub realm: ShortStr<'a>,
    /// `exclusive`
    pub exclusive: bool,
    /// `passive`
    pub passive: bool,
    /// `active`
    pub active: bool,
    /// `write`
    pub write: bool,
    /// `read`
    pub read: bool,
}

impl<'a> Request<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 30;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 2;
        len += self.realm.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.realm);
        let mut bits = u8::from(self.exclusive);
        bits |= u8::from(self.passive) << 1;
        bits |= u8::from(self.active) << 2;
        bits |= u8::from(self.write) << 3;
        bits |= u8::from(self.read) << 4;
        out.push(bits);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let realm = reader.short_str()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            realm,
            exclusive: bits & 0x01 != 0,
            passive: bits & 0x02 != 0,
            active: bits & 0x04 != 0,
            write: bits & 0x08 != 0,
            read: bits & 0x10 != 0,
        })
    }
}

/// `access.request-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestOk {
    /// `ticket`
    pub ticket: u16,
}

impl RequestOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 30;
    /// The method in its class.
    pub const METHOD_ID: u16 = 11;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 2;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, self.ticket);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let ticket = reader.short()?;
        reader.finish()?;
        Ok(Self { ticket })
    }
}
