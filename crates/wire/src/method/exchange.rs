//! Class `exchange` (40). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;
use crate::table::Table;

/// `exchange.declare`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declare<'a> {
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `type`
    pub type_: ShortStr<'a>,
    /// `passive`
    pub passive: bool,
    /// `durable`
    pub durable: bool,
    /// `auto-delete`
    pub auto_delete: bool,
    /// `internal`
    pub internal: bool,
    /// `no-wait`
    pub no_wait: bool,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Declare<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 9;
        len += self.exchange.len();
        len += self.type_.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.type_);
        let mut bits = u8::from(self.passive);
        bits |= u8::from(self.durable) << 1;
        bits |= u8::from(self.auto_delete) << 2;
        bits |= u8::from(self.internal) << 3;
        bits |= u8::from(self.no_wait) << 4;
        out.push(bits);
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let exchange = reader.short_str()?;
        let type_ = reader.short_str()?;
        let bits = reader.octet()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            exchange,
            type_,
            passive: bits & 0x01 != 0,
            durable: bits & 0x02 != 0,
            auto_delete: bits & 0x04 != 0,
            internal: bits & 0x08 != 0,
            no_wait: bits & 0x10 != 0,
            arguments,
        })
    }
}

/// `exchange.declare-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeclareOk;

impl DeclareOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
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

/// `exchange.delete`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delete<'a> {
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `if-unused`
    pub if_unused: bool,
    /// `no-wait`
    pub no_wait: bool,
}

impl<'a> Delete<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
    /// The method in its class.
    pub const METHOD_ID: u16 = 20;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 4;
        len += self.exchange.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.exchange);
        let mut bits = u8::from(self.if_unused);
        bits |= u8::from(self.no_wait) << 1;
        out.push(bits);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let exchange = reader.short_str()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            exchange,
            if_unused: bits & 0x01 != 0,
            no_wait: bits & 0x02 != 0,
        })
    }
}

/// `exchange.delete-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOk;

impl DeleteOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
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

/// `exchange.bind`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind<'a> {
    /// `destination`
    pub destination: ShortStr<'a>,
    /// `source`
    pub source: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
    /// `no-wait`
    pub no_wait: bool,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Bind<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
    /// The method in its class.
    pub const METHOD_ID: u16 = 30;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 10;
        len += self.destination.len();
        len += self.source.len();
        len += self.routing_key.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.destination);
        codec::put_short_str(out, self.source);
        codec::put_short_str(out, self.routing_key);
        out.push(u8::from(self.no_wait));
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let destination = reader.short_str()?;
        let source = reader.short_str()?;
        let routing_key = reader.short_str()?;
        let bits = reader.octet()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            destination,
            source,
            routing_key,
            no_wait: bits & 0x01 != 0,
            arguments,
        })
    }
}

/// `exchange.bind-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindOk;

impl BindOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
    /// The method in its class.
    pub const METHOD_ID: u16 = 31;

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

/// `exchange.unbind`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unbind<'a> {
    /// `destination`
    pub destination: ShortStr<'a>,
    /// `source`
    pub source: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
    /// `no-wait`
    pub no_wait: bool,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Unbind<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
    /// The method in its class.
    pub const METHOD_ID: u16 = 40;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 10;
        len += self.destination.len();
        len += self.source.len();
        len += self.routing_key.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.destination);
        codec::put_short_str(out, self.source);
        codec::put_short_str(out, self.routing_key);
        out.push(u8::from(self.no_wait));
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let destination = reader.short_str()?;
        let source = reader.short_str()?;
        let routing_key = reader.short_str()?;
        let bits = reader.octet()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            destination,
            source,
            routing_key,
            no_wait: bits & 0x01 != 0,
            arguments,
        })
    }
}

/// `exchange.unbind-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnbindOk;

impl UnbindOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 40;
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
