//! Class `basic` (60). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;
use crate::table::Table;

/// `basic.qos`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qos {
    /// `prefetch-size`
    pub prefetch_size: u32,
    /// `prefetch-count`
    pub prefetch_count: u16,
    /// `global`
    pub global: bool,
}

impl Qos {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 7;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long(out, self.prefetch_size);
        codec::put_short(out, self.prefetch_count);
        out.push(u8::from(self.global));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let prefetch_size = reader.long()?;
        let prefetch_count = reader.short()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            prefetch_size,
            prefetch_count,
            global: bits & 0x01 != 0,
        })
    }
}

/// `basic.qos-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QosOk;

impl QosOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
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

/// `basic.consume`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consume<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `consumer-tag`
    pub consumer_tag: ShortStr<'a>,
    /// `no-local`
    pub no_local: bool,
    /// `no-ack`
    pub no_ack: bool,
    /// `exclusive`
    pub exclusive: bool,
    /// `no-wait`
    pub no_wait: bool,
    /// `arguments`
    pub arguments: Table<'a>,
}

impl<'a> Consume<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 20;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 9;
        len += self.queue.len();
        len += self.consumer_tag.len();
        len += self.arguments.as_bytes().len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        codec::put_short_str(out, self.consumer_tag);
        let mut bits = u8::from(self.no_local);
        bits |= u8::from(self.no_ack) << 1;
        bits |= u8::from(self.exclusive) << 2;
        bits |= u8::from(self.no_wait) << 3;
        out.push(bits);
        codec::put_long_str(out, self.arguments.as_bytes());
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let queue = reader.short_str()?;
        let consumer_tag = reader.short_str()?;
        let bits = reader.octet()?;
        let arguments = reader.table()?;
        reader.finish()?;
        Ok(Self {
            queue,
            consumer_tag,
            no_local: bits & 0x01 != 0,
            no_ack: bits & 0x02 != 0,
            exclusive: bits & 0x04 != 0,
            no_wait: bits & 0x08 != 0,
            arguments,
        })
    }
}

/// `basic.consume-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumeOk<'a> {
    /// `consumer-tag`
    pub consumer_tag: ShortStr<'a>,
}

impl<'a> ConsumeOk<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 21;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 1;
        len += self.consumer_tag.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.consumer_tag);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let consumer_tag = reader.short_str()?;
        reader.finish()?;
        Ok(Self { consumer_tag })
    }
}

/// `basic.cancel`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancel<'a> {
    /// `consumer-tag`
    pub consumer_tag: ShortStr<'a>,
    /// `no-wait`
    pub no_wait: bool,
}

impl<'a> Cancel<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 30;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 2;
        len += self.consumer_tag.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.consumer_tag);
        out.push(u8::from(self.no_wait));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let consumer_tag = reader.short_str()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            consumer_tag,
            no_wait: bits & 0x01 != 0,
        })
    }
}

/// `basic.cancel-ok`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CancelOk<'a> {
    /// `consumer-tag`
    pub consumer_tag: ShortStr<'a>,
}

impl<'a> CancelOk<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 31;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 1;
        len += self.consumer_tag.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.consumer_tag);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let consumer_tag = reader.short_str()?;
        reader.finish()?;
        Ok(Self { consumer_tag })
    }
}

/// `basic.publish`, sent by clients, with content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
    /// `mandatory`
    pub mandatory: bool,
    /// `immediate`
    pub immediate: bool,
}

impl<'a> Publish<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 40;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 5;
        len += self.exchange.len();
        len += self.routing_key.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.routing_key);
        let mut bits = u8::from(self.mandatory);
        bits |= u8::from(self.immediate) << 1;
        out.push(bits);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        reader.short()?;
        let exchange = reader.short_str()?;
        let routing_key = reader.short_str()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            exchange,
            routing_key,
            mandatory: bits & 0x01 != 0,
            immediate: bits & 0x02 != 0,
        })
    }
}

/// `basic.return`, sent by the server, with content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Return<'a> {
    /// `reply-code`
    pub reply_code: u16,
    /// `reply-text`
    pub reply_text: ShortStr<'a>,
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
}

impl<'a> Return<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 50;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 5;
        len += self.reply_text.len();
        len += self.exchange.len();
        len += self.routing_key.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, self.reply_code);
        codec::put_short_str(out, self.reply_text);
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.routing_key);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let reply_code = reader.short()?;
        let reply_text = reader.short_str()?;
        let exchange = reader.short_str()?;
        let routing_key = reader.short_str()?;
        reader.finish()?;
        Ok(Self {
            reply_code,
            reply_text,
            exchange,
            routing_key,
        })
    }
}

/// `basic.deliver`, sent by the server, with content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// `consumer-tag`
    pub consumer_tag: ShortStr<'a>,
    /// `delivery-tag`
    pub delivery_tag: u64,
    /// `redelivered`
    pub redelivered: bool,
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
}

impl<'a> Deliver<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 60;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 12;
        len += self.consumer_tag.len();
        len += self.exchange.len();
        len += self.routing_key.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.consumer_tag);
        codec::put_long_long(out, self.delivery_tag);
        out.push(u8::from(self.redelivered));
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.routing_key);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let consumer_tag = reader.short_str()?;
        let delivery_tag = reader.long_long()?;
        let bits = reader.octet()?;
        let exchange = reader.short_str()?;
        let routing_key = reader.short_str()?;
        reader.finish()?;
        Ok(Self {
            consumer_tag,
            delivery_tag,
            redelivered: bits & 0x01 != 0,
            exchange,
            routing_key,
        })
    }
}

/// `basic.get`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Get<'a> {
    /// `queue`
    pub queue: ShortStr<'a>,
    /// `no-ack`
    pub no_ack: bool,
}

impl<'a> Get<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 70;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 4;
        len += self.queue.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, 0);
        codec::put_short_str(out, self.queue);
        out.push(u8::from(self.no_ack));
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
            no_ack: bits & 0x01 != 0,
        })
    }
}

/// `basic.get-ok`, sent by the server, with content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetOk<'a> {
    /// `delivery-tag`
    pub delivery_tag: u64,
    /// `redelivered`
    pub redelivered: bool,
    /// `exchange`
    pub exchange: ShortStr<'a>,
    /// `routing-key`
    pub routing_key: ShortStr<'a>,
    /// `message-count`
    pub message_count: u32,
}

impl<'a> GetOk<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 71;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 15;
        len += self.exchange.len();
        len += self.routing_key.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_long(out, self.delivery_tag);
        out.push(u8::from(self.redelivered));
        codec::put_short_str(out, self.exchange);
        codec::put_short_str(out, self.routing_key);
        codec::put_long(out, self.message_count);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let delivery_tag = reader.long_long()?;
        let bits = reader.octet()?;
        let exchange = reader.short_str()?;
        let routing_key = reader.short_str()?;
        let message_count = reader.long()?;
        reader.finish()?;
        Ok(Self {
            delivery_tag,
            redelivered: bits & 0x01 != 0,
            exchange,
            routing_key,
            message_count,
        })
    }
}

/// `basic.get-empty`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetEmpty;

impl GetEmpty {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 72;

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

/// `basic.ack`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// `delivery-tag`
    pub delivery_tag: u64,
    /// `multiple`
    pub multiple: bool,
}

impl Ack {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 80;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 9;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_long(out, self.delivery_tag);
        out.push(u8::from(self.multiple));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let delivery_tag = reader.long_long()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            delivery_tag,
            multiple: bits & 0x01 != 0,
        })
    }
}

/// `basic.reject`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reject {
    /// `delivery-tag`
    pub delivery_tag: u64,
    /// `requeue`
    pub requeue: bool,
}

impl Reject {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 90;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 9;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_long(out, self.delivery_tag);
        out.push(u8::from(self.requeue));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let delivery_tag = reader.long_long()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            delivery_tag,
            requeue: bits & 0x01 != 0,
        })
    }
}

/// `basic.recover-async`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverAsync {
    /// `requeue`
    pub requeue: bool,
}

impl RecoverAsync {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 100;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 1;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(u8::from(self.requeue));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            requeue: bits & 0x01 != 0,
        })
    }
}

/// `basic.recover`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recover {
    /// `requeue`
    pub requeue: bool,
}

impl Recover {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 110;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 1;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(u8::from(self.requeue));
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            requeue: bits & 0x01 != 0,
        })
    }
}

/// `basic.recover-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverOk;

impl RecoverOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 111;

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

/// `basic.nack`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    /// `delivery-tag`
    pub delivery_tag: u64,
    /// `multiple`
    pub multiple: bool,
    /// `requeue`
    pub requeue: bool,
}

impl Nack {
    /// Class of the method.
    pub const CLASS_ID: u16 = 60;
    /// The method in its class.
    pub const METHOD_ID: u16 = 120;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 9;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_long(out, self.delivery_tag);
        let mut bits = u8::from(self.multiple);
        bits |= u8::from(self.requeue) << 1;
        out.push(bits);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let delivery_tag = reader.long_long()?;
        let bits = reader.octet()?;
        reader.finish()?;
        Ok(Self {
            delivery_tag,
            multiple: bits & 0x01 != 0,
            requeue: bits & 0x02 != 0,
        })
    }
}
