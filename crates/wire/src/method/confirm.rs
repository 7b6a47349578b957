//! Class `confirm` (85). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;

/// `confirm.select`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Select {
    /// `no-wait`
    pub no_wait: bool,
}

impl Select {
    /// Class of the method.
    pub const CLASS_ID: u16 = 85;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 1;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(u8::from(self.no_wait));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            no_wait: bits & 0x01 != 0,
        })
    }
}

/// `confirm.select-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelectOk;

impl SelectOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 85;
    /// The method in its class.
    pub const METHOD_ID: u16 = 11;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 0;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let reader = Reader::new(arguments);
        reader.finish()?;
        Ok(Self)
    }
}
