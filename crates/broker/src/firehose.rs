//! The firehose: while a vhost is traced, a copy of each message that clients publish or get goes to `amq.rabbitmq.trace`, with the key
//! `publish.<exchange>` or `deliver.<queue>`, and in its headers what it was and who did it.
//!
//! Off, it costs a look at a flag whenever a connection has its turn ([`crate::session`]). What was itself published to
//! `amq.rabbitmq.trace` is not traced. That a vhost is traced is not stored: a restart ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{ArrayBuf, Table, TableBuf, Value};
use parking_lot::Mutex;

use crate::delay::further_keys;
use crate::publisher::{Going, Publisher, Transfer, bury};
use crate::queue::{Queue, Wakes};
use crate::record::{self, Content, Entry, HEADER_FIXED_LEN, Record};
use crate::topology::Targets;
use crate::vhost::Vhost;

/// Where traced messages go.
const EXCHANGE: &str = "amq.rabbitmq.trace";
/// The longest name of a queue, and routing key, in bytes.
const SHORT_MAX: usize = 255;

/// Whether a vhost is traced.
#[derive(Default)]
pub(crate) struct Firehose {
    is_on: AtomicBool,
    /// The node's name, as traced messages tell it.
    node: Mutex<Arc<str>>,
}

/// Who published a message, or got it.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// The connection's name; empty: none.
    pub connection: &'a str,
    /// The channel's number.
    pub channel: u16,
    /// The user.
    pub user: &'a str,
}

/// A message as it is told, but for its body.
struct Traced {
    names: Vec<u8>,
    header: Vec<u8>,
}

impl Vhost {
    /// Traces messages from now on, on the node of this name; or not any more.
    pub fn trace(&self, on: Option<&str>) {
        if let Some(node) = on {
            *self.firehose.node.lock() = node.into();
        }
        self.firehose.is_on.store(on.is_some(), Ordering::Relaxed);
    }

    /// Whether messages are traced.
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.firehose.is_on.load(Ordering::Relaxed)
    }

    /// Tells of messages of a queue that are about to be delivered.
    pub fn trace_deliveries(&self, by: Party<'_>, queue: &Queue, entries: &[Entry], now_ms: u64) {
        let mut transfer = Transfer::default();
        for run in entries.chunk_by(|a, b| a.segment == b.segment) {
            let segment = self.arena().segment(run[0].segment);
            for entry in run {
                let message = Record::read(&segment, entry.offset);
                if message.exchange() == EXCHANGE.as_bytes() {
                    continue;
                }
                let properties = message.properties();
                let keys = keys(message.routing_key(), properties);
                let mut headers = self.headers(message.exchange(), &keys, properties);
                headers.put("redelivered", &Value::I32(entry.redelivered().into()));
                self.sign(&mut headers, by);
                let queue = queue.name().as_bytes();
                let traced = Traced::new(b"deliver.", queue, &headers, message.body);
                self.add_traced(&mut transfer, &traced, message.body, now_ms);
                if transfer.is_full() {
                    self.send_traced(std::mem::take(&mut transfer), now_ms);
                }
            }
        }
        self.send_traced(transfer, now_ms);
    }

    /// What is told of any message.
    fn headers(&self, exchange: &[u8], keys: &[&[u8]], properties: Properties<'_>) -> TableBuf {
        let mut all = ArrayBuf::new();
        keys.iter().for_each(|key| {
            all.push(&Value::LongStr(key));
        });
        let node = Arc::clone(&self.firehose.node.lock());
        let mut headers = TableBuf::new();
        headers
            .put("exchange_name", &Value::LongStr(exchange))
            .put("routing_keys", &Value::Array(all.as_array()))
            .put("properties", &Value::Table(listed(properties).as_table()))
            .put("node", &Value::from(&*node));
        headers
    }

    /// Who it was.
    fn sign(&self, headers: &mut TableBuf, by: Party<'_>) {
        headers
            .put("vhost", &Value::from(&**self.name()))
            .put("connection", &Value::from(by.connection))
            .put("channel", &Value::I32(by.channel.into()))
            .put("user", &Value::from(by.user));
    }

    fn add_traced(&self, transfer: &mut Transfer, traced: &Traced, body: &[u8], now_ms: u64) {
        let content = Content {
            names: &traced.names,
            header: &traced.header,
            body,
        };
        let (exchange, key) = content.exchange_and_key();
        let properties = Properties::assume_checked(&traced.header[HEADER_FIXED_LEN..]);
        let mut targets = Targets::new();
        // Every vhost has the exchange, until it is deleted.
        let _ = self
            .topology()
            .route_on(exchange, (key, &[]), properties, false, &mut targets);
        // What a flow takes in has to be published to it.
        targets.retain(|(_, queue)| queue.flow().is_none());
        if targets.is_empty() {
            return;
        }
        let going = Going {
            source: None,
            content,
            expiration: None,
        };
        transfer.add(self, &going, targets, now_ms);
    }

    /// What the log refuses is lost.
    fn send_traced(&self, transfer: Transfer, now_ms: u64) {
        let (mut dead, mut wakes) = (Vec::new(), Wakes::default());
        transfer.send(self, &mut dead, &mut wakes);
        bury(self, &mut dead, now_ms, &mut wakes);
        wakes.ring();
    }
}

impl Publisher {
    /// Tells of the message that was just published by `by`.
    pub fn trace_published(&self, by: Party<'_>, content: Content<'_>, now_ms: u64) {
        let (exchange, key) = content.exchange_and_key();
        if exchange == EXCHANGE.as_bytes() {
            return;
        }
        let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
        let mut routed = ArrayBuf::new();
        for queue in self.routed_to().filter(|queue| !queue.is_store()) {
            routed.push(&Value::from(&**queue.name()));
        }
        let vhost = self.vhost();
        let mut headers = vhost.headers(exchange, &keys(key, properties), properties);
        vhost.sign(&mut headers, by);
        headers.put("routed_queues", &Value::Array(routed.as_array()));
        let traced = Traced::new(b"publish.", exchange, &headers, content.body);
        let mut transfer = Transfer::default();
        vhost.add_traced(&mut transfer, &traced, content.body, now_ms);
        vhost.send_traced(transfer, now_ms);
    }
}

impl Traced {
    fn new(what: &[u8], whose: &[u8], headers: &TableBuf, body: &[u8]) -> Self {
        let key = [what, whose].concat();
        let mut names = Vec::new();
        record::write_names(
            &mut names,
            EXCHANGE.as_bytes(),
            &key[..key.len().min(SHORT_MAX)],
        );
        let properties = PropertiesBuilder {
            headers: Some(headers.as_table()),
            ..PropertiesBuilder::default()
        };
        let mut header = Vec::new();
        record::write_header(&mut header, body.len(), &properties.build());
        Self { names, header }
    }
}

/// All routing keys of a message.
fn keys<'a>(own: &'a [u8], properties: Properties<'a>) -> Vec<&'a [u8]> {
    let further = properties.headers().map(further_keys);
    let further = further.unwrap_or_default();
    std::iter::once(own).chain(further).collect()
}

/// The properties that are set, as RabbitMQ names and types them. `BCC` is not shown.
fn listed(properties: Properties<'_>) -> TableBuf {
    let mut table = TableBuf::new();
    for (name, text) in [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.type_()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ] {
        if let Some(text) = text {
            table.put(name, &Value::LongStr(text.as_bytes()));
        }
    }
    for (name, number) in [
        ("delivery_mode", properties.delivery_mode()),
        ("priority", properties.priority()),
    ] {
        if let Some(number) = number {
            table.put(name, &Value::I32(number.into()));
        }
    }
    if let Some(seconds) = properties.timestamp() {
        table.put("timestamp", &Value::I64(seconds as i64));
    }
    if let Some(headers) = properties.headers() {
        table.put("headers", &Value::Table(without_bcc(headers).as_table()));
    }
    table
}

fn without_bcc(headers: Table<'_>) -> TableBuf {
    let mut shown = TableBuf::new();
    shown.put_some(headers, |name| name != b"BCC");
    shown
}
