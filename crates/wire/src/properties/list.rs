//! The properties of class `basic`. Generated from `spec/amqp-0-9-1.txt`: change that, or the generator, not this file.

use super::{Kind, Properties};
use crate::codec;
use crate::short_str::ShortStr;
use crate::table::Table;

/// Layouts, from the highest flag downwards.
pub(super) const KINDS: [Kind; 14] = [
    Kind::ShortStr,
    Kind::ShortStr,
    Kind::Table,
    Kind::Octet,
    Kind::Octet,
    Kind::ShortStr,
    Kind::ShortStr,
    Kind::ShortStr,
    Kind::ShortStr,
    Kind::Timestamp,
    Kind::ShortStr,
    Kind::ShortStr,
    Kind::ShortStr,
    Kind::ShortStr,
];

pub(super) const KNOWN_FLAGS: u16 = 0xfffc;
pub(super) const CONTENT_TYPE: u16 = 0x8000;
pub(super) const CONTENT_ENCODING: u16 = 0x4000;
pub(super) const HEADERS: u16 = 0x2000;
pub(super) const DELIVERY_MODE: u16 = 0x1000;
pub(super) const PRIORITY: u16 = 0x0800;
pub(super) const CORRELATION_ID: u16 = 0x0400;
pub(super) const REPLY_TO: u16 = 0x0200;
pub(super) const EXPIRATION: u16 = 0x0100;
pub(super) const MESSAGE_ID: u16 = 0x0080;
pub(super) const TIMESTAMP: u16 = 0x0040;
pub(super) const TYPE: u16 = 0x0020;
pub(super) const USER_ID: u16 = 0x0010;
pub(super) const APP_ID: u16 = 0x0008;
pub(super) const CLUSTER_ID: u16 = 0x0004;

impl<'a> Properties<'a> {
    /// The property `content-type`, if it is set.
    #[inline]
    pub fn content_type(&self) -> Option<ShortStr<'a>> {
        self.short_str(CONTENT_TYPE)
    }

    /// The property `content-encoding`, if it is set.
    #[inline]
    pub fn content_encoding(&self) -> Option<ShortStr<'a>> {
        self.short_str(CONTENT_ENCODING)
    }

    /// The property `headers`, if it is set.
    #[inline]
    pub fn headers(&self) -> Option<Table<'a>> {
        self.table(HEADERS)
    }

    /// The property `delivery-mode`, if it is set.
    #[inline]
    pub fn delivery_mode(&self) -> Option<u8> {
        self.octet(DELIVERY_MODE)
    }

    /// The property `priority`, if it is set.
    #[inline]
    pub fn priority(&self) -> Option<u8> {
        self.octet(PRIORITY)
    }

    /// The property `correlation-id`, if it is set.
    #[inline]
    pub fn correlation_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(CORRELATION_ID)
    }

    /// The property `reply-to`, if it is set.
    #[inline]
    pub fn reply_to(&self) -> Option<ShortStr<'a>> {
        self.short_str(REPLY_TO)
    }

    /// The property `expiration`, if it is set.
    #[inline]
    pub fn expiration(&self) -> Option<ShortStr<'a>> {
        self.short_str(EXPIRATION)
    }

    /// The property `message-id`, if it is set.
    #[inline]
    pub fn message_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(MESSAGE_ID)
    }

    /// The property `timestamp`, if it is set.
    #[inline]
    pub fn timestamp(&self) -> Option<u64> {
        self.timestamp_value(TIMESTAMP)
    }

    /// The property `type`, if it is set.
    #[inline]
    pub fn type_(&self) -> Option<ShortStr<'a>> {
        self.short_str(TYPE)
    }

    /// The property `user-id`, if it is set.
    #[inline]
    pub fn user_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(USER_ID)
    }

    /// The property `app-id`, if it is set.
    #[inline]
    pub fn app_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(APP_ID)
    }

    /// The property `cluster-id`, if it is set.
    #[inline]
    pub fn cluster_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(CLUSTER_ID)
    }
}

/// The values of a property list, to be set one by one; `None` is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PropertiesBuilder<'a> {
    /// `content-type`
    pub content_type: Option<ShortStr<'a>>,
    /// `content-encoding`
    pub content_encoding: Option<ShortStr<'a>>,
    /// `headers`
    pub headers: Option<Table<'a>>,
    /// `delivery-mode`
    pub delivery_mode: Option<u8>,
    /// `priority`
    pub priority: Option<u8>,
    /// `correlation-id`
    pub correlation_id: Option<ShortStr<'a>>,
    /// `reply-to`
    pub reply_to: Option<ShortStr<'a>>,
    /// `expiration`
    pub expiration: Option<ShortStr<'a>>,
    /// `message-id`
    pub message_id: Option<ShortStr<'a>>,
    /// `timestamp`
    pub timestamp: Option<u64>,
    /// `type`
    pub type_: Option<ShortStr<'a>>,
    /// `user-id`
    pub user_id: Option<ShortStr<'a>>,
    /// `app-id`
    pub app_id: Option<ShortStr<'a>>,
    /// `cluster-id`
    pub cluster_id: Option<ShortStr<'a>>,
}

impl<'a> From<Properties<'a>> for PropertiesBuilder<'a> {
    fn from(list: Properties<'a>) -> Self {
        Self {
            content_type: list.content_type(),
            content_encoding: list.content_encoding(),
            headers: list.headers(),
            delivery_mode: list.delivery_mode(),
            priority: list.priority(),
            correlation_id: list.correlation_id(),
            reply_to: list.reply_to(),
            expiration: list.expiration(),
            message_id: list.message_id(),
            timestamp: list.timestamp(),
            type_: list.type_(),
            user_id: list.user_id(),
            app_id: list.app_id(),
            cluster_id: list.cluster_id(),
        }
    }
}

impl PropertiesBuilder<'_> {
    /// The list as bytes, flag word first.
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Appends the list, flag word first.
    pub fn write(&self, out: &mut Vec<u8>) {
        codec::put_short(out, self.flags());
        if let Some(value) = self.content_type {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.content_encoding {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.headers {
            codec::put_long_str(out, value.as_bytes());
        }
        if let Some(value) = self.delivery_mode {
            out.push(value);
        }
        if let Some(value) = self.priority {
            out.push(value);
        }
        if let Some(value) = self.correlation_id {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.reply_to {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.expiration {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.message_id {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.timestamp {
            codec::put_long_long(out, value);
        }
        if let Some(value) = self.type_ {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.user_id {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.app_id {
            codec::put_short_str(out, value);
        }
        if let Some(value) = self.cluster_id {
            codec::put_short_str(out, value);
        }
    }

    fn flags(&self) -> u16 {
        let mut flags = 0;
        if self.content_type.is_some() {
            flags |= CONTENT_TYPE;
        }
        if self.content_encoding.is_some() {
            flags |= CONTENT_ENCODING;
        }
        if self.headers.is_some() {
            flags |= HEADERS;
        }
        if self.delivery_mode.is_some() {
            flags |= DELIVERY_MODE;
        }
        if self.priority.is_some() {
            flags |= PRIORITY;
        }
        if self.correlation_id.is_some() {
            flags |= CORRELATION_ID;
        }
        if self.reply_to.is_some() {
            flags |= REPLY_TO;
        }
        if self.expiration.is_some() {
            flags |= EXPIRATION;
        }
        if self.message_id.is_some() {
            flags |= MESSAGE_ID;
        }
        if self.timestamp.is_some() {
            flags |= TIMESTAMP;
        }
        if self.type_.is_some() {
            flags |= TYPE;
        }
        if self.user_id.is_some() {
            flags |= USER_ID;
        }
        if self.app_id.is_some() {
            flags |= APP_ID;
        }
        if self.cluster_id.is_some() {
            flags |= CLUSTER_ID;
        }
        flags
    }
}
