//! A peer that talks to a [`Session`] in frames that were made before.

use std::hint::black_box;
use std::sync::Arc;

use backbone_broker::access::Access;
use backbone_broker::out::OutBuf;
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::queue::Bell;
use backbone_broker::session::{Session, Settings, State};
use backbone_broker::vhost::Vhost;
use backbone_log::Arena;
use backbone_wire::ShortStr;
use backbone_wire::content::write_body;
use backbone_wire::method::{basic, channel, confirm, queue};
use backbone_wire::properties::{ContentHeader, Properties};
use backbone_wire::table::{Table, TableBuf};
use parking_lot::Mutex;

/// The only channel that peers use.
pub const CHANNEL: u16 = 1;
/// Largest frame in bytes.
pub const FRAME_MAX: u32 = 131_072;
/// The date of all messages, in Unix milliseconds.
pub const NOW_MS: u64 = 1_700_000_000_123;
const SETTINGS: Settings = Settings {
    frame_max: FRAME_MAX as usize,
    channel_max: 16,
    message_bytes_max: 1 << 27,
    unacked_max: 1 << 20,
    out_bytes_max: 1 << 20,
    cancel_notify: false,
};

/// Keeps the keys that it was rung with.
#[derive(Default)]
pub struct Rung(Mutex<Vec<u64>>);

impl Bell for Rung {
    fn ring(&self, key: u64) {
        self.0.lock().push(key);
    }

    fn cancelled(&self, _key: u64) {}
}

/// A vhost without queues.
pub fn vhost() -> Arc<Vhost> {
    Arc::new(Vhost::new("/", 7, Arc::new(Arena::new())))
}

/// A connection with one open channel.
pub struct Peer {
    session: Session,
    bell: Arc<Rung>,
    rung: Vec<u64>,
    out: OutBuf,
    /// Bytes that the session has sent.
    pub sent_bytes: usize,
}

impl Peer {
    pub fn new(vhost: &Arc<Vhost>, conn: u64) -> Self {
        let bell = Arc::<Rung>::default();
        let origin = Origin {
            user: "guest".into(),
            access: Access::Full,
        };
        let publisher = Publisher::new(Arc::clone(vhost), origin);
        let session = Session::new(publisher, conn, Arc::<Rung>::clone(&bell), SETTINGS);
        let mut peer = Self {
            session,
            bell,
            rung: Vec::new(),
            out: OutBuf::new(),
            sent_bytes: 0,
        };
        peer.say(|bytes| channel::Open {}.write(CHANNEL, bytes));
        peer
    }

    /// Declares a queue that nobody consumes from.
    pub fn declare(&mut self, name: &str) {
        self.declare_with(name, &TableBuf::new());
    }

    /// Declares a queue with arguments.
    pub fn declare_with(&mut self, name: &str, arguments: &TableBuf) {
        let declare = queue::Declare {
            queue: short(name),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: arguments.as_table(),
        };
        self.say(|bytes| declare.write(CHANNEL, bytes));
    }

    /// Binds a queue.
    pub fn bind(&mut self, name: &str, exchange: &str, key: &str) {
        self.bind_with(name, exchange, key, &TableBuf::new());
    }

    /// Binds a queue with arguments.
    pub fn bind_with(&mut self, name: &str, exchange: &str, key: &str, arguments: &TableBuf) {
        let bind = queue::Bind {
            queue: short(name),
            exchange: short(exchange),
            routing_key: short(key),
            no_wait: false,
            arguments: arguments.as_table(),
        };
        self.say(|bytes| bind.write(CHANNEL, bytes));
    }

    /// Consumes from a queue.
    pub fn consume(&mut self, name: &str, no_ack: bool) {
        self.consume_as("ctag-1", name, no_ack);
    }

    /// Consumes from a queue: one of several consumers, which differ by `tag`.
    pub fn consume_as(&mut self, tag: &str, name: &str, no_ack: bool) {
        let consume = basic::Consume {
            queue: short(name),
            consumer_tag: short(tag),
            no_local: false,
            no_ack,
            exclusive: false,
            no_wait: false,
            arguments: Table::EMPTY,
        };
        self.say(|bytes| consume.write(CHANNEL, bytes));
    }

    /// Asks for confirms.
    pub fn confirms(&mut self) {
        self.say(|bytes| confirm::Select { no_wait: false }.write(CHANNEL, bytes));
    }

    /// Sends one method, which must be answered.
    fn say(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        let before = self.sent_bytes;
        self.receive(&bytes);
        assert!(self.sent_bytes > before, "no answer");
    }

    /// The session gets whole frames: one read of a socket.
    pub fn receive(&mut self, input: &[u8]) {
        let mut at = 0;
        while at < input.len() {
            let used = self.session.receive(&input[at..], NOW_MS, &mut self.out);
            assert!(used > 0, "the session takes whole frames");
            at += used;
            self.write();
        }
        self.session.end_of_batch(&mut self.out);
        self.write();
        assert!(self.session.state() == State::Open);
    }

    /// The session hears that the log has come further.
    pub fn progressed(&mut self) {
        self.session.progressed(&mut self.out);
        self.write();
    }

    /// The session delivers all that it was rung for.
    pub fn deliver(&mut self) {
        std::mem::swap(&mut *self.bell.0.lock(), &mut self.rung);
        for key in self.rung.drain(..) {
            self.session.rung(key);
        }
        while self.session.deliver(&mut self.out) {
            self.write();
        }
        self.write();
    }

    /// A socket that takes everything.
    fn write(&mut self) {
        while !self.out.is_empty() {
            let written = self.out.slices().iter().map(|piece| piece.len()).sum();
            self.sent_bytes += written;
            black_box(&self.out.bytes);
            self.out.advance(written);
        }
    }
}

/// Frames of one publish.
pub fn publish(
    exchange: &str,
    key: &str,
    properties: Properties<'_>,
    body: &[u8],
    bytes: &mut Vec<u8>,
) {
    let publish = basic::Publish {
        exchange: short(exchange),
        routing_key: short(key),
        mandatory: false,
        immediate: false,
    };
    publish.write(CHANNEL, bytes);
    let header = ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: body.len() as u64,
        properties,
    };
    header.write(CHANNEL, bytes);
    write_body(CHANNEL, body, FRAME_MAX, bytes);
}

/// Frames of an acknowledgement of everything up to `tag`.
pub fn ack(tag: u64, bytes: &mut Vec<u8>) {
    let ack = basic::Ack {
        delivery_tag: tag,
        multiple: true,
    };
    ack.write(CHANNEL, bytes);
}

fn short(name: &str) -> ShortStr<'_> {
    ShortStr::new(name.as_bytes()).expect("names of workloads are short")
}
