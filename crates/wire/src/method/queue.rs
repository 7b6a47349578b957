//! Class `queue` (50). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;
use crate::table::Table;

/// `queue.declare`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declare<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `passive`
    pub passive: bool,
    /// `durable`
    pub durable: bool,
    /// `exclusive`
    pub exclusive: bool,
    /// `auto-delete`
    pub auto_delete: bool,
    /// `no-wait`
    pub no_wait: bool,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Declare<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 8;
        len += self.queue.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        let mut bits = u8::from(self.passive);
        bits |= u8::from(self.durable) << 1;
        bits |= u8::from(self.exclusive) << 2;
        bits |= u8::from(self.auto_delete) << 3;
        bits |= u8::from(self.no_wait) << 4;
        out.push(bits);
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let queue = reader.short_str()?;
        let bits = reader.octet()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            queue,
            passive: bits & 0x01 != 0,
            durable: bits & 0x02 != 0,
            exclusive: bits & 0x04 != 0,
            auto_delete: bits & 0x08 != 0,
            no_wait: bits & 0x10 != 0,
            arguments,
        })
    }
}

/// `queue.declare-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeclareOk<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `message-count`
    pub message_count: u32,
    /// `consumer-count`
    pub consumer_count: u32,
}

impl<'a> DeclareOk<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 11;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 9;
        len += self.queue.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.queue);
        codec::put_long(out, self.message_count);
        codec::put_long(out, self.consumer_count);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let queue = reader.short_str()?;
        let message_count = reader.long()?;
        let consumer_count = reader.long()?;
        reader.finish()?;
        Ok(Self {
            queue,
            message_count,
            consumer_count,
        })
    }
}

/// `queue.bind`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
    /// `no-wait`
    pub no_wait: bool,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Bind<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 20;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 10;
        len += self.queue.len();
        len += self.exchange.len();
        len += self.routing_key.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.routing_key);
        out.push(u8::from(self.no_wait));
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let queue = reader.short_str()?;
        let exchange = reader.short_str()?;
        let routing_key = reader.short_str()?;
        let bits = reader.octet()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            queue,
            exchange,
            routing_key,
            no_wait: bits & 0x01 != 0,
            arguments,
        })
    }
}

/// `queue.bind-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindOk;

impl BindOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 21;

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

/// `queue.purge`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purge<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `no-wait`
    pub no_wait: bool,
}

impl<'a> Purge<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 30;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 4;
        len += self.queue.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        out.push(u8::from(self.no_wait));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let queue = reader.short_str()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            queue,
            no_wait: bits & 0x01 != 0,
        })
    }
}

/// `queue.purge-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeOk {
    /// `message-count`
    pub message_count: u32,
}

impl PurgeOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 31;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 4;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long(out, self.message_count);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let message_count = reader.long()?;
        reader.finish()?;
        Ok(Self { message_count })
    }
}

/// `queue.delete`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delete<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `if-unused`
    pub if_unused: bool,
    /// `if-empty`
    pub if_empty: bool,
    /// `no-wait`
    pub no_wait: bool,
}

impl<'a> Delete<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 40;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 4;
        len += self.queue.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        let mut bits = u8::from(self.if_unused);
        bits |= u8::from(self.if_empty) << 1;
        bits |= u8::from(self.no_wait) << 2;
        out.push(bits);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let queue = reader.short_str()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            queue,
            if_unused: bits & 0x01 != 0,
            if_empty: bits & 0x02 != 0,
            no_wait: bits & 0x04 != 0,
        })
    }
}

/// `queue.delete-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOk {
    /// `message-count`
    pub message_count: u32,
}

impl DeleteOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 41;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 4;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long(out, self.message_count);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let message_count = reader.long()?;
        reader.finish()?;
        Ok(Self { message_count })
    }
}

/// `queue.unbind`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unbind<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Unbind<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 50;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 9;
        len += self.queue.len();
        len += self.exchange.len();
        len += self.routing_key.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.routing_key);
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let queue = reader.short_str()?;
        let exchange = reader.short_str()?;
        let routing_key = reader.short_str()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            queue,
            exchange,
            routing_key,
            arguments,
        })
    }
}

/// `queue.unbind-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnbindOk;

impl UnbindOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 50;
    /// The method in its class.
    pub const METHOD_ID: u16 = 51;

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
