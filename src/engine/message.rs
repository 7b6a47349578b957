//! A message on its way in, and as it is found in a queue.

use backbone_broker::record::{self, Record};
use backbone_wire::ShortStr;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{TableBuf, Value};

/// The header that says whether a body is an envelope.
const ENVELOPE: &str = "x-backbone-envelope";
const TOPIC: &str = "topic";
const SENDER: &str = "sender";
/// AMQP's delivery-mode for messages that survive a restart of a durable broker.
const PERSISTENT: u8 = 2;

/// A message to be published, persistent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// The body.
    pub body: &'a [u8],
    /// Its type; at most 255 bytes.
    pub content_type: &'a str,
    /// Its id; at most 255 bytes.
    pub id: &'a str,
    /// What it is about.
    pub topic: Option<&'a str>,
    /// Whether the body is the bus's envelope around the payload or the payload itself.
    pub is_envelope: bool,
}

impl Outgoing<'_> {
    /// Appends the content header.
    pub(super) fn write_header(&self, timestamp_s: u64, out: &mut Vec<u8>) {
        let mut headers = TableBuf::new();
        if let Some(topic) = self.topic {
            headers.put(TOPIC, &Value::LongStr(topic.as_bytes()));
        }
        headers.put(ENVELOPE, &Value::Bool(self.is_envelope));
        let properties = PropertiesBuilder {
            content_type: ShortStr::new(self.content_type.as_bytes()).ok(),
            headers: Some(headers.as_table()),
            delivery_mode: Some(PERSISTENT),
            message_id: ShortStr::new(self.id.as_bytes()).ok(),
            timestamp: Some(timestamp_s),
            ..PropertiesBuilder::default()
        };
        record::write_header(out, self.body.len(), &properties.build());
    }
}

/// A message in a queue, in place. What is not text is not there.
#[derive(Debug, Clone, Copy)]
pub struct StoredMessage<'a> {
    /// The body.
    pub body: &'a [u8],
    /// The exchange that brought it, empty for the default exchange.
    pub exchange: &'a str,
    /// The body's type.
    pub content_type: Option<&'a str>,
    /// The header `topic`, or else the routing key of what did not come through the default exchange.
    pub topic: Option<&'a str>,
    /// The header `sender`.
    pub sender: Option<&'a str>,
    /// The message's id.
    pub id: Option<&'a str>,
    /// Its timestamp, seconds since 1970.
    pub timestamp_s: Option<u64>,
    /// The header that tells envelopes, if it is there.
    pub is_envelope: Option<bool>,
}

impl<'a> StoredMessage<'a> {
    pub(super) fn of(record: &Record<'a>) -> Self {
        let properties = record.properties();
        let headers = properties.headers();
        let header = |name| headers.and_then(|headers| headers.get(name));
        let text = |name| header(name).and_then(|value| value.as_str());
        let short = |value: Option<ShortStr<'a>>| value.and_then(|value| value.as_str().ok());
        let exchange = std::str::from_utf8(record.exchange()).unwrap_or_default();
        let key = std::str::from_utf8(record.routing_key()).ok();
        let key = key.filter(|key| !exchange.is_empty() && !key.is_empty());
        Self {
            body: record.body,
            exchange,
            content_type: short(properties.content_type()),
            topic: text(TOPIC).or(key),
            sender: text(SENDER),
            id: short(properties.message_id()),
            timestamp_s: properties.timestamp(),
            is_envelope: header(ENVELOPE).and_then(|value| value.as_bool()),
        }
    }
}
