//! Class `channel` (20). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;

/// `channel.open`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open;

impl Open {
    /// Class of the method.
    pub const CLASS_ID: u16 = 20;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 1;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(0);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short_str()?;
        reader.finish()?;
        Ok(Self)
    }
}

/// `channel.open-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOk;

impl OpenOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 20;
    /// The method in its class.
    pub const METHOD_ID: u16 = 11;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 4;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long(out, 0);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.long_str()?;
        reader.finish()?;
        Ok(Self)
    }
}

/// `channel.flow`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// `active`
    pub active: bool,
}

impl Flow {
    /// Class of the method.
    pub const CLASS_ID: u16 = 20;
    /// The method in its class.
    pub const METHOD_ID: u16 = 20;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 1;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(u8::from(self.active));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            active: bits & 0x01 != 0,
        })
    }
}

/// `channel.flow-ok`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowOk {
    /// `active`
    pub active: bool,
}

impl FlowOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 20;
    /// The method in its class.
    pub const METHOD_ID: u16 = 21;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 1;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(u8::from(self.active));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            active: bits & 0x01 != 0,
        })
    }
}

/// `channel.close`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Close<'a> {
    /// `reply-code`
    pub reply_code: u16,
    /// `reply-text`
    pub reply_text: ShortStr<'a>,
    /// `class-id`
    pub class_id: u16,
    /// `method-id`
    pub method_id: u16,
}

impl<'a> Close<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 20;
    /// The method in its class.
    pub const METHOD_ID: u16 = 40;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 7;
        len += self.reply_text.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, self.reply_code);
        codec::put_short_str(out, self.reply_text);
        codec::put_short(out, self.class_id);
        codec::put_short(out, self.method_id);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let reply_code = reader.short()?;
        let reply_text = reader.short_str()?;
        let class_id = reader.short()?;
        let method_id = reader.short()?;
        reader.finish()?;
        Ok(Self {
            reply_code,
            reply_text,
            class_id,
            method_id,
        })
    }
}

/// `channel.close-ok`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseOk;

impl CloseOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 20;
    /// The method in its class.
    pub const METHOD_ID: u16 = 41;

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
