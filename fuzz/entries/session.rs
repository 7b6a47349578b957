//! What the fuzz target of the connection state machine runs: frames in any order, most of them well-formed, on two
//! connections of one vhost. `crates/broker` runs the same on the checked-in corpus, on a stable compiler.
//!
//! Nothing panics; all that comes out is whole frames; a session never writes beyond its bound but for the one answer that
//! reaches it; and when both connections are gone, nothing is left of their channels or messages.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backbone_broker::access::Access;
use backbone_broker::out::OutBuf;
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::queue::{Bell, DeleteIf};
use backbone_broker::session::{Session, Settings, State};
use backbone_broker::vhost::Vhost;
use backbone_log::Arena;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, channel, confirm, connection, exchange, queue, tx};
use backbone_wire::properties::{ContentHeader, Properties, PropertiesBuilder};
use backbone_wire::table::{ArrayBuf, TableBuf, Value};
use backbone_wire::{ShortStr, content};
use parking_lot::Mutex;

const SETTINGS: Settings = Settings {
    frame_max: 4096,
    channel_max: 5,
    message_bytes_max: 20_000,
    unacked_max: 50,
    out_bytes_max: 10_000,
    cancel_notify: true,
    timeout_closes_channel: false,
};
/// More than one turn of answers and one message may add to the bound.
const OUT_BYTES_SLACK: usize = 64 * 1024;

const QUEUES: [&str; 8] = [
    "",
    "a",
    "b",
    "amq.rabbitmq.reply-to",
    "amq.rabbitmq.reply-to.x",
    "amq.q",
    "c",
    "d",
];
const EXCHANGES: [&str; 8] = [
    "",
    "amq.topic",
    "amq.fanout",
    "x",
    "y",
    "none",
    "amq.headers",
    "z",
];
const KINDS: [&str; 8] = [
    "direct",
    "fanout",
    "topic",
    "headers",
    "x-consistent-hash",
    "x-random",
    "x-modulus-hash",
    "unknown",
];
const KEYS: [&str; 8] = ["a", "b", "1", "a.b", "#", "", "c", "-1"];

/// The octets that decide what happens; zeros after the last.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn pick(&mut self, from: &[&'static str; 8]) -> &'static str {
        from[usize::from(self.next() % 8)]
    }

    fn short(&mut self, from: &[&'static str; 8]) -> ShortStr<'static> {
        ShortStr::lit(self.pick(from))
    }
}

#[derive(Default)]
struct Rung {
    rung: Mutex<Vec<u64>>,
    cancelled: Mutex<Vec<u64>>,
}

impl Bell for Rung {
    fn ring(&self, key: u64) {
        self.rung.lock().push(key);
    }

    fn cancelled(&self, key: u64) {
        self.cancelled.lock().push(key);
    }
}

struct Peer {
    session: Session,
    bell: Arc<Rung>,
    input: Vec<u8>,
    out: OutBuf,
    /// The name under which it was given answers last.
    address: String,
    /// The bytes of a frame that is not whole.
    written: Vec<u8>,
}

/// Lets `data` decide what two connections do.
pub fn session(data: &[u8]) {
    let arena = Arc::new(Arena::new());
    let vhost = Arc::new(Vhost::new("/", 1, Arc::clone(&arena)));
    let numbers = AtomicU64::new(1);
    let mut peers = [Peer::new(&vhost, &numbers), Peer::new(&vhost, &numbers)];
    let mut choices = Choices(data);
    while !choices.0.is_empty() {
        let what = choices.next();
        let which = usize::from(what >> 7);
        if what % 32 == 31 {
            peers[which] = Peer::new(&vhost, &numbers);
            continue;
        }
        let id = u16::from(choices.next() % 8);
        let address = peers[1 - which].address.clone();
        let peer = &mut peers[which];
        peer.act(what % 32, id, &address, &mut choices);
        peer.read();
        if peer.session.state() == State::Closed {
            peers[which] = Peer::new(&vhost, &numbers);
        }
        if what & 0x40 != 0 {
            peers.iter_mut().for_each(Peer::serve);
        }
    }
    peers.iter_mut().for_each(Peer::serve);
    drop(peers);
    let counters = vhost.counters();
    let (opened, closed) = (&counters.channels_opened, &counters.channels_closed);
    assert_eq!(
        opened.load(Ordering::Relaxed),
        closed.load(Ordering::Relaxed),
        "channels leak"
    );
    for queue in vhost.topology().queues() {
        let stats = queue.stats();
        assert_eq!((stats.unsettled, stats.consumers), (0, 0), "{queue:?}");
        let removed = vhost.remove_queue(&queue, DeleteIf::default());
        assert_eq!(removed, Ok(stats.ready));
    }
    assert_eq!((arena.segments(), arena.bytes()), (0, 0), "messages leak");
}

impl Peer {
    fn new(vhost: &Arc<Vhost>, numbers: &AtomicU64) -> Self {
        let bell = Arc::<Rung>::default();
        let origin = Origin {
            user: "guest".into(),
            access: Access::Full,
        };
        let publisher = Publisher::new(Arc::clone(vhost), origin);
        let conn = numbers.fetch_add(1, Ordering::Relaxed);
        let told = Arc::clone(&bell) as Arc<dyn Bell>;
        let mut peer = Self {
            session: Session::new(publisher, conn, told, SETTINGS),
            bell,
            input: Vec::new(),
            out: OutBuf::new(),
            address: String::new(),
            written: Vec::new(),
        };
        channel::Open.write(1, &mut peer.input);
        peer.read();
        peer
    }

    /// Lets the session look at what was sent.
    fn read(&mut self) {
        loop {
            let used = self
                .session
                .receive(&self.input, 1_700_000_000_000, &mut self.out);
            self.input.drain(..used);
            assert!(self.out.pending() < SETTINGS.out_bytes_max + OUT_BYTES_SLACK);
            let full = self.out.pending() >= SETTINGS.out_bytes_max;
            self.drain();
            if !full {
                break;
            }
        }
        assert!(
            self.input.len() < SETTINGS.frame_max,
            "a whole frame is left lying"
        );
    }

    /// Ends the batch, and delivers all that there is.
    fn serve(&mut self) {
        self.session.end_of_batch(&mut self.out);
        for key in std::mem::take(&mut *self.bell.cancelled.lock()) {
            self.session.cancelled(key, &mut self.out);
        }
        loop {
            for key in std::mem::take(&mut *self.bell.rung.lock()) {
                self.session.rung(key);
            }
            let more = self.session.deliver(&mut self.out);
            assert!(self.out.pending() < SETTINGS.out_bytes_max + OUT_BYTES_SLACK);
            self.drain();
            if !more && self.bell.rung.lock().is_empty() {
                return;
            }
        }
    }

    /// Takes out what was written, which must be whole frames by and by.
    fn drain(&mut self) {
        while !self.out.is_empty() {
            let mut count = 0;
            for piece in self.out.slices() {
                self.written.extend_from_slice(&piece);
                count += piece.len();
            }
            self.out.advance(count);
        }
        let max = SETTINGS.frame_max - frame::OVERHEAD;
        let mut at = 0;
        while let Some((frame, used)) = frame::parse(&self.written[at..], max).expect("a frame") {
            at += used;
            if frame.kind != FrameKind::Header {
                continue;
            }
            let header = ContentHeader::decode(frame.payload).expect("a header");
            if let Some(address) = header.properties.reply_to() {
                self.address = address.as_str().unwrap_or_default().to_owned();
            }
        }
        self.written.drain(..at);
        assert!(self.written.is_empty(), "half a frame was written");
    }

    fn act(&mut self, what: u8, id: u16, address: &str, choices: &mut Choices<'_>) {
        match what {
            0..=2 => self.channel_method(what, id, choices),
            3..=7 => self.queue_method(what, id, choices),
            8..=10 => self.exchange_method(what, id, choices),
            11..=18 => self.basic_method(what, id, choices),
            19..=24 => self.content(what, id, address, choices),
            25 | 26 => self.mode(what, id, choices),
            27 => self.raw(id, choices),
            28 | 29 => self.serve(),
            _ => self.connection_method(choices),
        }
    }

    fn send(&mut self, id: u16, method: &Method<'_>) {
        method.write(id, &mut self.input);
    }

    fn channel_method(&mut self, what: u8, id: u16, choices: &mut Choices<'_>) {
        let method = match what {
            0 => Method::ChannelOpen(channel::Open),
            1 => Method::ChannelClose(channel::Close::default()),
            _ if choices.next().is_multiple_of(4) => {
                let active = !choices.next().is_multiple_of(4);
                Method::ChannelFlow(channel::Flow { active })
            }
            _ => Method::ChannelCloseOk(channel::CloseOk),
        };
        self.send(id, &method);
    }

    fn queue_method(&mut self, what: u8, id: u16, choices: &mut Choices<'_>) {
        let queue = choices.short(&QUEUES);
        let flags = choices.next();
        let bit = |number: u8| flags >> number & 1 == 1;
        let arguments = arguments(choices);
        let arguments = arguments.as_table();
        let no_wait = bit(0);
        let method = match what {
            3 => Method::QueueDeclare(queue::Declare {
                queue,
                passive: flags & 0x30 == 0x30,
                durable: bit(1),
                exclusive: bit(2),
                auto_delete: bit(3),
                no_wait,
                arguments,
            }),
            4 => Method::QueueBind(queue::Bind {
                queue,
                exchange: choices.short(&EXCHANGES),
                routing_key: choices.short(&KEYS),
                no_wait,
                arguments,
            }),
            5 => Method::QueueUnbind(queue::Unbind {
                queue,
                exchange: choices.short(&EXCHANGES),
                routing_key: choices.short(&KEYS),
                arguments,
            }),
            6 => Method::QueuePurge(queue::Purge { queue, no_wait }),
            _ => Method::QueueDelete(queue::Delete {
                queue,
                if_unused: bit(1),
                if_empty: bit(2),
                no_wait,
            }),
        };
        self.send(id, &method);
    }

    fn exchange_method(&mut self, what: u8, id: u16, choices: &mut Choices<'_>) {
        let flags = choices.next();
        let bit = |number: u8| flags >> number & 1 == 1;
        let exchange = choices.short(&EXCHANGES);
        let arguments = arguments(choices);
        let arguments = arguments.as_table();
        let no_wait = bit(0);
        let method = match what {
            8 => Method::ExchangeDeclare(exchange::Declare {
                exchange,
                type_: choices.short(&KINDS),
                passive: flags & 0x30 == 0x30,
                durable: bit(1),
                auto_delete: bit(2),
                internal: bit(3),
                no_wait,
                arguments,
            }),
            9 => Method::ExchangeDelete(exchange::Delete {
                exchange,
                if_unused: bit(1),
                no_wait,
            }),
            _ if bit(1) => Method::ExchangeUnbind(exchange::Unbind {
                destination: exchange,
                source: choices.short(&EXCHANGES),
                routing_key: choices.short(&KEYS),
                no_wait,
                arguments,
            }),
            _ => Method::ExchangeBind(exchange::Bind {
                destination: exchange,
                source: choices.short(&EXCHANGES),
                routing_key: choices.short(&KEYS),
                no_wait,
                arguments,
            }),
        };
        self.send(id, &method);
    }

    fn basic_method(&mut self, what: u8, id: u16, choices: &mut Choices<'_>) {
        let flags = choices.next();
        let bit = |number: u8| flags >> number & 1 == 1;
        let delivery_tag = u64::from(flags >> 2);
        let method = match what {
            11 => {
                let arguments = arguments(choices);
                let consume = basic::Consume {
                    queue: choices.short(&QUEUES),
                    consumer_tag: choices.short(&KEYS),
                    no_local: bit(3),
                    no_ack: bit(0),
                    exclusive: flags & 0x30 == 0x30,
                    no_wait: bit(1),
                    arguments: arguments.as_table(),
                };
                return self.send(id, &Method::BasicConsume(consume));
            }
            12 => Method::BasicCancel(basic::Cancel {
                consumer_tag: choices.short(&KEYS),
                no_wait: bit(0),
            }),
            13 => Method::BasicGet(basic::Get {
                queue: choices.short(&QUEUES),
                no_ack: bit(0),
            }),
            14 => Method::BasicAck(basic::Ack {
                delivery_tag,
                multiple: bit(0),
            }),
            15 => Method::BasicNack(basic::Nack {
                delivery_tag,
                multiple: bit(0),
                requeue: bit(1),
            }),
            16 => Method::BasicReject(basic::Reject {
                delivery_tag,
                requeue: bit(1),
            }),
            17 => Method::BasicRecover(basic::Recover {
                requeue: !flags.is_multiple_of(16),
            }),
            _ => Method::BasicQos(basic::Qos {
                prefetch_size: u32::from(flags == 255),
                prefetch_count: u16::from(flags >> 1) % 20,
                global: bit(0),
            }),
        };
        self.send(id, &method);
    }

    /// A whole publish, or parts of one.
    fn content(&mut self, what: u8, id: u16, address: &str, choices: &mut Choices<'_>) {
        let flags = choices.next();
        let key = match flags & 0x30 {
            0x30 => ShortStr::new(address.as_bytes()).unwrap_or(ShortStr::lit("")),
            _ => choices.short(&KEYS),
        };
        let publish = basic::Publish {
            exchange: choices.short(&EXCHANGES),
            routing_key: key,
            mandatory: flags & 1 == 1,
            immediate: flags == 2,
        };
        let size = match choices.next() {
            small @ 0..=199 => usize::from(small),
            large => (usize::from(large) - 199) * 400,
        };
        let body = vec![flags; size];
        let properties = properties(choices);
        let header = ContentHeader {
            class_id: if what == 24 && flags == 3 { 50 } else { 60 },
            weight: 0,
            body_size: size as u64,
            properties: Properties::from_bytes(&properties).expect("it was built so"),
        };
        let (publishes, heads, bodies) = match what {
            22 => (true, false, false),
            23 => (false, true, false),
            24 => (false, false, true),
            _ => (true, true, true),
        };
        if publishes {
            publish.write(id, &mut self.input);
        }
        if heads {
            header.write(id, &mut self.input);
        }
        if bodies {
            content::write_body(id, &body, SETTINGS.frame_max as u32, &mut self.input);
        }
    }

    fn mode(&mut self, what: u8, id: u16, choices: &mut Choices<'_>) {
        let no_wait = choices.next() % 2 == 1;
        let method = match (what, choices.next() % 4) {
            (25, _) => Method::ConfirmSelect(confirm::Select { no_wait }),
            (_, 0) => Method::TxSelect(tx::Select),
            (_, 1) => Method::TxRollback(tx::Rollback),
            _ => Method::TxCommit(tx::Commit),
        };
        self.send(id, &method);
    }

    /// A frame of any kind with anything in it, or no frame at all.
    fn raw(&mut self, id: u16, choices: &mut Choices<'_>) {
        let (kind, size) = (choices.next() % 10, usize::from(choices.next() % 64));
        let size = size.min(choices.0.len());
        let (payload, rest) = choices.0.split_at(size);
        choices.0 = rest;
        self.input.push(kind);
        self.input.extend_from_slice(&id.to_be_bytes());
        self.input.extend_from_slice(&(size as u32).to_be_bytes());
        self.input.extend_from_slice(payload);
        self.input.push(frame::END);
    }

    fn connection_method(&mut self, choices: &mut Choices<'_>) {
        let method = match choices.next() % 8 {
            0 => Method::ConnectionClose(connection::Close::default()),
            1 | 2 => Method::ConnectionCloseOk(connection::CloseOk),
            3 => Method::ConnectionUpdateSecret(connection::UpdateSecret {
                new_secret: b"s",
                reason: ShortStr::lit("r"),
            }),
            _ => {
                return self
                    .input
                    .extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, frame::END]);
            }
        };
        self.send(0, &method);
    }
}

/// The arguments of a declare, a bind or a consume.
fn arguments(choices: &mut Choices<'_>) -> TableBuf {
    let mut table = TableBuf::new();
    match choices.next() % 16 {
        0 => table.put("x-max-priority", &Value::U8(choices.next())),
        1 => table.put("x-single-active-consumer", &Value::Bool(true)),
        2 => table.put("x-priority", &Value::I8(choices.next() as i8)),
        3 => table.put("alternate-exchange", &Value::from("amq.fanout")),
        4 => table.put("x-match", &Value::from("any")),
        5 => table.put("hash-header", &Value::from("h")),
        6 => table.put("x-max-priority", &Value::from("x")),
        _ => &mut table,
    };
    table
}

/// The properties of a message, as bytes.
fn properties(choices: &mut Choices<'_>) -> Vec<u8> {
    let what = choices.next();
    let mut keys = ArrayBuf::new();
    keys.push(&Value::from("a")).push(&Value::from("b"));
    let mut headers = TableBuf::new();
    match what % 8 {
        0 => headers.put("CC", &Value::Array(keys.as_array())),
        1 => headers.put("BCC", &Value::Array(keys.as_array())),
        2 => headers.put("CC", &Value::I32(1)),
        _ => headers.put("h", &Value::U8(what)),
    };
    let bit = |number: u8| what >> number & 1 == 1;
    let properties = PropertiesBuilder {
        headers: bit(3).then_some(headers.as_table()),
        delivery_mode: bit(4).then_some(2),
        priority: bit(5).then(|| choices.next()),
        reply_to: bit(6).then_some(ShortStr::lit("amq.rabbitmq.reply-to")),
        user_id: (what == 0x80).then_some(ShortStr::lit("somebody")),
        ..PropertiesBuilder::default()
    };
    properties.build()
}
