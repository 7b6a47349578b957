//! Class `connection` (10). Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use crate::codec::{self, Reader};
use crate::error::Malformed;
use crate::frame;
use crate::short_str::ShortStr;
use crate::table::Table;

/// `connection.start`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start<'a> {
    /// `version-major`
    pub version_major: u8,
    /// `version-minor`
    pub version_minor: u8,
    /// `server-properties`
    pub server_properties: Table<'a>,
    /// `mechanisms`
    pub mechanisms: &'a [u8],
    /// `locales`
    pub locales: &'a [u8],
}

impl<'a> Start<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 10;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 14;
        len += self.server_properties.as_bytes().len();
        len += self.mechanisms.len();
        len += self.locales.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        out.push(self.version_major);
        out.push(self.version_minor);
        codec::put_long_str(out, self.server_properties.as_bytes());
        codec::put_long_str(out, self.mechanisms);
        codec::put_long_str(out, self.locales);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let version_major = reader.octet()?;
        let version_minor = reader.octet()?;
        let server_properties = reader.table()?;
        let mechanisms = reader.long_str()?;
        let locales = reader.long_str()?;
        reader.finish()?;
        Ok(Self {
            version_major,
            version_minor,
            server_properties,
            mechanisms,
            locales,
        })
    }
}

/// `connection.start-ok`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartOk<'a> {
    /// `client-properties`
    pub client_properties: Table<'a>,
    /// `mechanism`
    pub mechanism: ShortStr<'a>,
    /// `response`
    pub response: &'a [u8],
    /// `locale`
    pub locale: ShortStr<'a>,
}

impl<'a> StartOk<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 11;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 10;
        len += self.client_properties.as_bytes().len();
        len += self.mechanism.len();
        len += self.response.len();
        len += self.locale.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_str(out, self.client_properties.as_bytes());
        codec::put_short_str(out, self.mechanism);
        codec::put_long_str(out, self.response);
        codec::put_short_str(out, self.locale);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let client_properties = reader.table()?;
        let mechanism = reader.short_str()?;
        let response = reader.long_str()?;
        let locale = reader.short_str()?;
        reader.finish()?;
        Ok(Self {
            client_properties,
            mechanism,
            response,
            locale,
        })
    }
}

/// `connection.secure`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secure<'a> {
    /// `challenge`
    pub challenge: &'a [u8],
}

impl<'a> Secure<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 20;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 4;
        len += self.challenge.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_str(out, self.challenge);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let challenge = reader.long_str()?;
        reader.finish()?;
        Ok(Self { challenge })
    }
}

/// `connection.secure-ok`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecureOk<'a> {
    /// `response`
    pub response: &'a [u8],
}

impl<'a> SecureOk<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 21;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 4;
        len += self.response.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_str(out, self.response);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let response = reader.long_str()?;
        reader.finish()?;
        Ok(Self { response })
    }
}

/// `connection.tune`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tune {
    /// `channel-max`
    pub channel_max: u16,
    /// `frame-max`
    pub frame_max: u32,
    /// `heartbeat`
    pub heartbeat: u16,
}

impl Tune {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 30;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 8;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, self.channel_max);
        codec::put_long(out, self.frame_max);
        codec::put_short(out, self.heartbeat);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let channel_max = reader.short()?;
        let frame_max = reader.long()?;
        let heartbeat = reader.short()?;
        reader.finish()?;
        Ok(Self {
            channel_max,
            frame_max,
            heartbeat,
        })
    }
}

/// `connection.tune-ok`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TuneOk {
    /// `channel-max`
    pub channel_max: u16,
    /// `frame-max`
    pub frame_max: u32,
    /// `heartbeat`
    pub heartbeat: u16,
}

impl TuneOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 31;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let len = 8;
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short(out, self.channel_max);
        codec::put_long(out, self.frame_max);
        codec::put_short(out, self.heartbeat);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let channel_max = reader.short()?;
        let frame_max = reader.long()?;
        let heartbeat = reader.short()?;
        reader.finish()?;
        Ok(Self {
            channel_max,
            frame_max,
            heartbeat,
        })
    }
}

/// `connection.open`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open<'a> {
    /// `virtual-host`
    pub virtual_host: ShortStr<'a>,
}

impl<'a> Open<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 40;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 3;
        len += self.virtual_host.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.virtual_host);
        out.push(0);
        out.push(0);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let virtual_host = reader.short_str()?;
        reader.short_str()?;
        reader.octet()?;
        reader.finish()?;
        Ok(Self { virtual_host })
    }
}

/// `connection.open-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOk;

impl OpenOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 41;

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

/// `connection.close`, sent by both sides.
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
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 50;

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

/// `connection.close-ok`, sent by both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloseOk;

impl CloseOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
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

/// `connection.blocked`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocked<'a> {
    /// `reason`
    pub reason: ShortStr<'a>,
}

impl<'a> Blocked<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 60;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 1;
        len += self.reason.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_short_str(out, self.reason);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let reason = reader.short_str()?;
        reader.finish()?;
        Ok(Self { reason })
    }
}

/// `connection.unblocked`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unblocked;

impl Unblocked {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 61;

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

/// `connection.update-secret`, sent by clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateSecret<'a> {
    /// `new-secret`
    pub new_secret: &'a [u8],
    /// `reason`
    pub reason: ShortStr<'a>,
}

impl<'a> UpdateSecret<'a> {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 70;

    /// Appends the whole method frame to `out`.
    #[inline]
    pub fn write(&self, channel: u16, out: &mut Vec<u8>) {
        let mut len = 5;
        len += self.new_secret.len();
        len += self.reason.len();
        codec::begin_method(out, channel, Self::CLASS_ID, Self::METHOD_ID, len);
        codec::put_long_str(out, self.new_secret);
        codec::put_short_str(out, self.reason);
        out.push(frame::END);
    }

    pub(super) fn decode(arguments: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(arguments);
        let new_secret = reader.long_str()?;
        let reason = reader.short_str()?;
        reader.finish()?;
        Ok(Self { new_secret, reason })
    }
}

/// `connection.update-secret-ok`, sent by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateSecretOk;

impl UpdateSecretOk {
    /// Class of the method.
    pub const CLASS_ID: u16 = 10;
    /// The method in its class.
    pub const METHOD_ID: u16 = 71;

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
