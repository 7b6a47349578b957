//! Generated, do not edit: the properties of class basic.

use super::{Kind, Properties};
use crate::codec::{put_long_long, put_long_str, put_short, put_short_str};
use crate::short_str::ShortStr;
use crate::table::Table;

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
pub(super) const CONTENT_TYPE: u16 = 1 << 15;
pub(super) const CONTENT_ENCODING: u16 = 1 << 14;
pub(super) const HEADERS: u16 = 1 << 13;
pub(super) const DELIVERY_MODE: u16 = 1 << 12;
pub(super) const PRIORITY: u16 = 1 << 11;
pub(super) const CORRELATION_ID: u16 = 1 << 10;
pub(super) const REPLY_TO: u16 = 1 << 9;
pub(super) const EXPIRATION: u16 = 1 << 8;
pub(super) const MESSAGE_ID: u16 = 1 << 7;
pub(super) const TIMESTAMP: u16 = 1 << 6;
pub(super) const TYPE: u16 = 1 << 5;
pub(super) const USER_ID: u16 = 1 << 4;
pub(super) const APP_ID: u16 = 1 << 3;
pub(super) const CLUSTER_ID: u16 = 1 << 2;

impl<'a> Properties<'a> {
    /// The property `content-type`, if it is set.
    pub fn content_type(&self) -> Option<ShortStr<'a>> {
        self.short_str(CONTENT_TYPE)
    }

    /// The property `content-encoding`, if it is set.
    pub fn content_encoding(&self) -> Option<ShortStr<'a>> {
        self.short_str(CONTENT_ENCODING)
    }

    /// The property `headers`, if it is set.
    pub fn headers(&self) -> Option<Table<'a>> {
        self.table(HEADERS)
    }

    /// The property `delivery-mode`, if it is set.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.octet(DELIVERY_MODE)
    }

    /// The property `priority`, if it is set.
    pub fn priority(&self) -> Option<u8> {
        self.octet(PRIORITY)
    }

    /// The property `correlation-id`, if it is set.
    pub fn correlation_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(CORRELATION_ID)
    }

    /// The property `reply-to`, if it is set.
    pub fn reply_to(&self) -> Option<ShortStr<'a>> {
        self.short_str(REPLY_TO)
    }

    /// The property `expiration`, if it is set.
    pub fn expiration(&self) -> Option<ShortStr<'a>> {
        self.short_str(EXPIRATION)
    }

    /// The property `message-id`, if it is set.
    pub fn message_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(MESSAGE_ID)
    }

    /// The property `timestamp`, if it is set.
    pub fn timestamp(&self) -> Option<u64> {
        self.timestamp_value(TIMESTAMP)
    }

    /// The property `type`, if it is set.
    pub fn type_(&self) -> Option<ShortStr<'a>> {
        self.short_str(TYPE)
    }

    /// The property `user-id`, if it is set.
    pub fn user_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(USER_ID)
    }

    /// The property `app-id`, if it is set.
    pub fn app_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(APP_ID)
    }

    /// The property `cluster-id`, if it is set.
    pub fn cluster_id(&self) -> Option<ShortStr<'a>> {
        self.short_str(CLUSTER_ID)
    }
}

/// Values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PropertiesBuilder<'a> {
    /// The property `content-type`.
    pub content_type: Option<ShortStr<'a>>,
    /// The property `content-encoding`.
    pub content_encoding: Option<ShortStr<'a>>,
    /// The property `headers`.
    pub headers: Option<Table<'a>>,
    /// The property `delivery-mode`.
    pub delivery_mode: Option<u8>,
    /// The property `priority`.
    pub priority: Option<u8>,
    /// The property `correlation-id`.
    pub correlation_id: Option<ShortStr<'a>>,
    /// The property `reply-to`.
    pub reply_to: Option<ShortStr<'a>>,
    /// The property `expiration`.
    pub expiration: Option<ShortStr<'a>>,
    /// The property `message-id`.
    pub message_id: Option<ShortStr<'a>>,
    /// The property `timestamp`.
    pub timestamp: Option<u64>,
    /// The property `type`.
    pub type_: Option<ShortStr<'a>>,
    /// The property `user-id`.
    pub user_id: Option<ShortStr<'a>>,
    /// The property `app-id`.
    pub app_id: Option<ShortStr<'a>>,
    /// The property `cluster-id`.
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
    /// Appends flag word and values.
    pub fn write(&self, out: &mut Vec<u8>) {
        put_short(out, self.flags());
        if let Some(value) = self.content_type {
            put_short_str(out, value);
        }
        if let Some(value) = self.content_encoding {
            put_short_str(out, value);
        }
        if let Some(value) = self.headers {
            put_long_str(out, value.as_bytes());
        }
        if let Some(value) = self.delivery_mode {
            out.push(value);
        }
        if let Some(value) = self.priority {
            out.push(value);
        }
        if let Some(value) = self.correlation_id {
            put_short_str(out, value);
        }
        if let Some(value) = self.reply_to {
            put_short_str(out, value);
        }
        if let Some(value) = self.expiration {
            put_short_str(out, value);
        }
        if let Some(value) = self.message_id {
            put_short_str(out, value);
        }
        if let Some(value) = self.timestamp {
            put_long_long(out, value);
        }
        if let Some(value) = self.type_ {
            put_short_str(out, value);
        }
        if let Some(value) = self.user_id {
            put_short_str(out, value);
        }
        if let Some(value) = self.app_id {
            put_short_str(out, value);
        }
        if let Some(value) = self.cluster_id {
            put_short_str(out, value);
        }
    }
    /// bytes
    pub fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn flags(&self) -> u16 {
        [
            (self.content_type.is_some(), CONTENT_TYPE),
            (self.content_encoding.is_some(), CONTENT_ENCODING),
            (self.headers.is_some(), HEADERS),
            (self.delivery_mode.is_some(), DELIVERY_MODE),
            (self.priority.is_some(), PRIORITY),
            (self.correlation_id.is_some(), CORRELATION_ID),
            (self.reply_to.is_some(), REPLY_TO),
            (self.expiration.is_some(), EXPIRATION),
            (self.message_id.is_some(), MESSAGE_ID),
            (self.timestamp.is_some(), TIMESTAMP),
            (self.type_.is_some(), TYPE),
            (self.user_id.is_some(), USER_ID),
            (self.app_id.is_some(), APP_ID),
            (self.cluster_id.is_some(), CLUSTER_ID),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, flag)| flag)
        .sum()
    }
}
