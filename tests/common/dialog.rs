//! Questions and answers on a raw connection: methods that are refused, messages with all that comes with them.

#![allow(dead_code, clippy::unwrap_used)]

use backbone_wire::frame::FrameKind;
use backbone_wire::method::{Method, basic, channel, exchange, queue};
use backbone_wire::properties::{ContentHeader, Properties, PropertiesBuilder};
use backbone_wire::table::{Table, TableBuf, Value};
use backbone_wire::{ShortStr, content};

use super::raw::{FRAME_MAX, Raw, short};

/// Arguments of a method.
pub fn table(entries: &[(&str, Value<'_>)]) -> TableBuf {
    let mut table = TableBuf::new();
    for (key, value) in entries {
        table.put(key, value);
    }
    table
}

/// A message as it came: by a delivery, a get or a return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub channel: u16,
    /// Of the consumer; empty for others.
    pub consumer: String,
    /// 0 for a return.
    pub tag: u64,
    pub redelivered: bool,
    pub exchange: String,
    pub key: String,
    pub body: Vec<u8>,
    properties: Vec<u8>,
}

impl Message {
    pub fn properties(&self) -> Properties<'_> {
        Properties::from_bytes(&self.properties).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn text(raw: ShortStr<'_>) -> String {
    raw.as_str().unwrap().to_owned()
}

impl Raw {
    /// Sends a method that is to be refused with the channel; opens that again. The code and the text.
    pub fn refused(&mut self, id: u16, method: &Method<'_>) -> (u16, String) {
        self.method(id, method);
        self.closed(id)
    }

    /// The channel is to be closed by the server; opens it again. The code and the text.
    pub fn closed(&mut self, id: u16) -> (u16, String) {
        let payload = self.expect("channel.close");
        let Method::ChannelClose(close) = Method::decode(&payload).unwrap() else {
            unreachable!("the name was checked");
        };
        let why = (close.reply_code, text(close.reply_text));
        self.method(id, &Method::ChannelCloseOk(channel::CloseOk));
        self.method(id, &Method::ChannelOpen(channel::Open));
        self.expect("channel.open-ok");
        why
    }

    /// The connection is to be closed by the server. The code and the text.
    pub fn ended(&mut self) -> (u16, String) {
        let payload = self.expect("connection.close");
        let Method::ConnectionClose(close) = Method::decode(&payload).unwrap() else {
            unreachable!("the name was checked");
        };
        (close.reply_code, text(close.reply_text))
    }

    /// Opens another channel.
    pub fn open_channel(&mut self, id: u16) {
        self.method(id, &Method::ChannelOpen(channel::Open));
        self.expect("channel.open-ok");
    }

    /// Closes a channel.
    pub fn close_channel(&mut self, id: u16) {
        self.method(id, &Method::ChannelClose(channel::Close::default()));
        self.expect("channel.close-ok");
    }

    /// Declares a queue on channel 1.
    pub fn declare_with(&mut self, name: &str, durable: bool, arguments: &[(&str, Value<'_>)]) {
        self.method(
            1,
            &Method::QueueDeclare(declare(name, durable, table(arguments).as_table())),
        );
        self.expect("queue.declare-ok");
    }

    /// Consumes on channel `id`, with tag `tag`.
    pub fn consume_with(
        &mut self,
        id: u16,
        name: &str,
        tag: &str,
        no_ack: bool,
        arguments: &[(&str, Value<'_>)],
    ) {
        let arguments = table(arguments);
        let consume = consume(name, tag, no_ack, arguments.as_table());
        self.method(id, &Method::BasicConsume(consume));
        self.expect("basic.consume-ok");
    }

    /// Sets the prefetch of channel `id`.
    pub fn prefetch(&mut self, id: u16, prefetch_count: u16, global: bool) {
        let qos = basic::Qos {
            prefetch_size: 0,
            prefetch_count,
            global,
        };
        self.method(id, &Method::BasicQos(qos));
        self.expect("basic.qos-ok");
    }

    pub fn ack(&mut self, id: u16, delivery_tag: u64) {
        let ack = basic::Ack {
            delivery_tag,
            multiple: false,
        };
        self.method(id, &Method::BasicAck(ack));
    }

    pub fn requeue(&mut self, id: u16, delivery_tag: u64) {
        let reject = basic::Reject {
            delivery_tag,
            requeue: true,
        };
        self.method(id, &Method::BasicReject(reject));
    }

    pub fn cancel(&mut self, id: u16, tag: &str) {
        let cancel = basic::Cancel {
            consumer_tag: short(tag),
            no_wait: false,
        };
        self.method(id, &Method::BasicCancel(cancel));
        self.expect("basic.cancel-ok");
    }

    /// Publishes on channel `id`.
    pub fn publish_with(
        &mut self,
        id: u16,
        (exchange, key, mandatory): (&str, &str, bool),
        properties: &PropertiesBuilder<'_>,
        body: &[u8],
    ) {
        let mut out = Vec::new();
        let publish = basic::Publish {
            exchange: short(exchange),
            routing_key: short(key),
            mandatory,
            ..basic::Publish::default()
        };
        publish.write(id, &mut out);
        let properties = properties.build();
        let header = ContentHeader {
            class_id: 60,
            weight: 0,
            body_size: body.len() as u64,
            properties: Properties::from_bytes(&properties).unwrap(),
        };
        header.write(id, &mut out);
        content::write_body(id, body, FRAME_MAX, &mut out);
        self.send(&out);
    }

    /// Turns confirms on.
    pub fn confirms(&mut self, id: u16) {
        let select = backbone_wire::method::confirm::Select { no_wait: false };
        self.method(id, &Method::ConfirmSelect(select));
        self.expect("confirm.select-ok");
    }

    /// Waits for the confirms up to `tag`.
    pub fn confirmed(&mut self, tag: u64) {
        loop {
            let payload = self.expect("basic.ack");
            if let Method::BasicAck(ack) = Method::decode(&payload).unwrap()
                && ack.delivery_tag == tag
            {
                return;
            }
        }
    }

    /// The next method, which has to bring a message.
    pub fn message(&mut self) -> Message {
        let (kind, id, payload) = self.frame().expect("the connection ended");
        assert_eq!(kind, FrameKind::Method);
        let method = Method::decode(&payload).unwrap();
        let name = method.name();
        let mut message = match method {
            Method::BasicDeliver(it) => Message {
                consumer: text(it.consumer_tag),
                tag: it.delivery_tag,
                redelivered: it.redelivered,
                ..of(id, it.exchange, it.routing_key)
            },
            Method::BasicGetOk(it) => Message {
                tag: it.delivery_tag,
                redelivered: it.redelivered,
                ..of(id, it.exchange, it.routing_key)
            },
            Method::BasicReturn(it) => {
                assert_eq!(
                    (it.reply_code, text(it.reply_text)),
                    (312, "NO_ROUTE".into())
                );
                of(id, it.exchange, it.routing_key)
            }
            _ => panic!("{name} where a message is due"),
        };
        let (_, _, header) = self.frame().unwrap();
        let header = ContentHeader::decode(&header).unwrap();
        message.properties = header.properties.as_bytes().to_vec();
        while message.body.len() < header.body_size as usize {
            message.body.extend_from_slice(&self.frame().unwrap().2);
        }
        message
    }

    /// Takes a message out of a queue for good; `None` when there is none.
    pub fn take(&mut self, name: &str) -> Option<Message> {
        let get = basic::Get {
            queue: short(name),
            no_ack: true,
        };
        self.method(1, &Method::BasicGet(get));
        // A look ahead: what is there instead of a message is the empty answer.
        if self.peek_is("basic.get-empty") {
            self.expect("basic.get-empty");
            return None;
        }
        Some(self.message())
    }

    /// Takes all out of a queue: the bodies as texts.
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        std::iter::from_fn(|| self.take(name).map(|message| message.text().to_owned())).collect()
    }
}

fn of(channel: u16, exchange: ShortStr<'_>, key: ShortStr<'_>) -> Message {
    Message {
        channel,
        consumer: String::new(),
        tag: 0,
        redelivered: false,
        exchange: text(exchange),
        key: text(key),
        body: Vec::new(),
        properties: Vec::new(),
    }
}

/// A `queue.declare`.
pub fn declare<'a>(name: &'a str, durable: bool, arguments: Table<'a>) -> queue::Declare<'a> {
    queue::Declare {
        queue: short(name),
        durable,
        arguments,
        ..queue::Declare::default()
    }
}

/// A `basic.consume`.
pub fn consume<'a>(
    name: &'a str,
    tag: &'a str,
    no_ack: bool,
    arguments: Table<'a>,
) -> basic::Consume<'a> {
    basic::Consume {
        queue: short(name),
        consumer_tag: short(tag),
        no_ack,
        arguments,
        ..basic::Consume::default()
    }
}

/// No properties at all.
pub fn plain() -> PropertiesBuilder<'static> {
    PropertiesBuilder::default()
}

/// A durable `exchange.declare`.
pub fn exchange<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare {
        exchange: short(name),
        type_: short(kind),
        durable: true,
        ..exchange::Declare::default()
    }
}

/// Declares a durable exchange.
pub fn declare_exchange(peer: &mut Raw, name: &str, kind: &str, arguments: &[(&str, Value<'_>)]) {
    let arguments = table(arguments);
    let declare = exchange::Declare {
        arguments: arguments.as_table(),
        ..exchange(name, kind)
    };
    peer.method(1, &Method::ExchangeDeclare(declare));
    peer.expect("exchange.declare-ok");
}

/// A `queue.bind`.
pub fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> Method<'a> {
    Method::QueueBind(queue::Bind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Bind::default()
    })
}

/// Declares durable queues `names` and binds them with the keys beside them.
pub fn bind_all(peer: &mut Raw, exchange: &str, queues: &[(&str, &str)]) {
    for (name, key) in queues {
        peer.declare_with(name, true, &[]);
        peer.method(1, &bind(name, exchange, key));
        peer.expect("queue.bind-ok");
    }
}
