//! A vhost with a log on a simulated disk, or without; one sender; and the time.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use backbone_broker::Error;
use backbone_broker::access::Access;
use backbone_broker::durable::{Durable, Level, Reason};
use backbone_broker::pager::{Limits, Pager};
use backbone_broker::publisher::{Origin, Publisher, Routed};
use backbone_broker::queue::{Queue, Room, Wakes};
use backbone_broker::record::{self, Content, Entry, Record};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_log::{Arena, Config, Log, SimDisk};
use backbone_wire::ShortStr;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, TableBuf, Value};

/// A queue of the log that is nobody's, with what fills the disk.
const FILLER: u64 = 1 << 40;
pub const START: u64 = 1_800_000_000_000;

/// A message to be published.
pub struct Message {
    exchange: String,
    key: String,
    body: String,
    headers: TableBuf,
    expiration: Option<String>,
    mode: u8,
}

impl Message {
    pub fn to(exchange: &str, key: &str, body: &str) -> Self {
        Self {
            exchange: exchange.into(),
            key: key.into(),
            body: body.into(),
            headers: TableBuf::new(),
            expiration: None,
            mode: 2,
        }
    }

    pub fn with(mut self, name: &str, value: Value<'_>) -> Self {
        self.headers.put(name, &value);
        self
    }

    pub fn expires(mut self, ms: &str) -> Self {
        self.expiration = Some(ms.into());
        self
    }

    pub fn transient(mut self) -> Self {
        self.mode = 1;
        self
    }
}

pub struct World {
    pub disk: SimDisk,
    log: Option<Log>,
    pub vhost: Arc<Vhost>,
    publisher: Publisher,
    pub now: u64,
}

fn config() -> Config {
    Config {
        segment_bytes: 256 << 10,
        tail_bytes: 16 << 10,
        waiting_bytes_max: 1 << 20,
        cached_blocks_max: 4,
        block_bytes: 8 << 10,
        reserve_segments: 2,
        spare_segments_max: 2,
        copy_below_percent: 45,
        copy_bytes_a_step: 8 << 10,
        batch_bytes_max: 1 << 20,
    }
}

fn open(disk: &SimDisk) -> (Log, Arc<Vhost>) {
    disk.record(Arc::new(AtomicU64::new(0)));
    let (log, recovered) = Log::open(Arc::new(disk.clone()), config(), |_| ()).unwrap();
    assert!(recovered.damages.is_empty());
    let durable = Arc::new(Durable::new(log.clone()));
    let arena = Arc::new(Arena::new());
    let resident = Room {
        messages: 32,
        bytes: 8000,
    };
    let limits = Limits {
        resident,
        tight: resident,
        hard: resident,
    };
    let pager = Pager::new(Arc::clone(&arena), Arc::clone(&durable), 1 << 20, |_| ());
    let pager = Arc::new(pager.with_limits(limits));
    let vhost = Vhost::new("/", 1, arena).with_log(durable, pager, Level::Synced);
    vhost.restore(true).unwrap();
    (log, Arc::new(vhost))
}

fn publisher(vhost: &Arc<Vhost>) -> Publisher {
    let origin = Origin {
        user: "test".into(),
        access: Access::Full,
    };
    Publisher::new(Arc::clone(vhost), origin)
}

impl World {
    pub fn new() -> Self {
        let disk = SimDisk::new();
        let (log, vhost) = open(&disk);
        Self {
            disk,
            log: Some(log),
            publisher: publisher(&vhost),
            vhost,
            now: START,
        }
    }

    pub fn in_memory() -> Self {
        let vhost = Arc::new(Vhost::new("/", 1, Arc::default()));
        Self {
            disk: SimDisk::new(),
            log: None,
            publisher: publisher(&vhost),
            vhost,
            now: START,
        }
    }

    pub fn write(&self) {
        if let Some(log) = &self.log {
            while log.write_step().unwrap() {}
        }
    }

    pub fn sync(&self) {
        self.write();
        if let Some(log) = &self.log {
            log.sync_step().unwrap();
        }
    }

    /// The process ends, with everything written, and another one begins.
    pub fn restart(&mut self) {
        self.write();
        self.reopen(self.disk.after_kill());
    }

    /// The power goes: what was not synced may be lost.
    pub fn lose_power(&mut self, seed: u64) {
        self.reopen(self.disk.after_power_loss(seed));
    }

    fn reopen(&mut self, disk: SimDisk) {
        let (log, vhost) = open(&disk);
        self.publisher = publisher(&vhost);
        (self.disk, self.log, self.vhost) = (disk, Some(log), vhost);
    }

    pub fn fill_disk(&self) {
        self.write();
        self.disk.set_capacity(self.disk.used_bytes());
        // What is preallocated is used up first.
        let full = || self.vhost.durable().unwrap().trouble().is_some();
        let mut batch = backbone_log::Batch::new();
        while !full() {
            let target = backbone_log::Target {
                queue: FILLER,
                seq: 0,
            };
            batch.publish(&[target], true, |out| out.resize(out.len() + 1000, 0));
            let refused = self.log.as_ref().unwrap().append(&mut batch).is_err();
            self.write();
            if refused {
                break;
            }
        }
    }

    pub fn empty_disk(&self) {
        self.disk.set_capacity(u64::MAX);
        let _ = self.log.as_ref().unwrap().maintain();
    }

    pub fn try_declare(
        &self,
        exchange: &str,
        arguments: &[(&str, Value<'_>)],
    ) -> Result<(), Error> {
        self.declare_exchange(exchange, false, arguments)
    }

    fn declare_exchange(
        &self,
        exchange: &str,
        auto_delete: bool,
        arguments: &[(&str, Value<'_>)],
    ) -> Result<(), Error> {
        let mut table = TableBuf::new();
        for (name, value) in arguments {
            table.put(name, value);
        }
        self.vhost.declare_exchange(&ExchangeSpec {
            name: exchange,
            kind: "x-delayed-message",
            passive: false,
            durable: true,
            auto_delete,
            internal: false,
            arguments: table.as_table(),
        })
    }

    pub fn declare(&self, exchange: &str, kind: &str) {
        self.declare_with(exchange, kind, &[]);
    }

    pub fn declare_auto_delete(&self, exchange: &str, kind: &str) {
        let kind = ("x-delayed-type", Value::from(kind));
        self.declare_exchange(exchange, true, &[kind]).unwrap();
    }

    pub fn declare_with(&self, exchange: &str, kind: &str, arguments: &[(&str, Value<'_>)]) {
        let mut all = vec![("x-delayed-type", Value::from(kind))];
        all.extend(arguments);
        self.try_declare(exchange, &all).unwrap();
    }

    pub fn delete_exchange(&self, exchange: &str) {
        let topology = self.vhost.topology();
        topology.delete_exchange(exchange, false).unwrap();
        self.vhost.tick(self.now);
    }

    /// Declares a durable queue that is bound with its name.
    pub fn queue(&self, name: &str, exchange: &str) -> Arc<Queue> {
        self.queue_with(name, exchange, &[])
    }

    pub fn queue_with(
        &self,
        name: &str,
        exchange: &str,
        arguments: &[(&str, Value<'_>)],
    ) -> Arc<Queue> {
        let mut table = TableBuf::new();
        for (name, value) in arguments {
            table.put(name, value);
        }
        let declare = QueueDeclare {
            name,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: table.as_table(),
            protected: false,
            lenient: false,
        };
        let queue = self.vhost.declare_queue(declare, 0).unwrap();
        self.bind(name, exchange, name);
        queue
    }

    pub fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let topology = self.vhost.topology();
        let bound = topology.bind_queue(queue, exchange, key.as_bytes(), Table::EMPTY);
        bound.unwrap();
    }

    pub fn publish(&mut self, message: &Message) -> Routed {
        let properties = PropertiesBuilder {
            headers: Some(message.headers.as_table()),
            expiration: message
                .expiration
                .as_ref()
                .map(|text| ShortStr::new(text.as_bytes()).unwrap()),
            delivery_mode: Some(message.mode),
            ..PropertiesBuilder::default()
        };
        let (mut names, mut header) = (Vec::new(), Vec::new());
        record::write_names(
            &mut names,
            message.exchange.as_bytes(),
            message.key.as_bytes(),
        );
        record::write_header(&mut header, message.body.len(), &properties.build());
        let content = Content {
            names: &names,
            header: &header,
            body: message.body.as_bytes(),
        };
        let routed = self.publisher.publish(content, self.now).unwrap();
        self.publisher.commit();
        self.write();
        routed
    }

    /// Lets time pass and looks at the clock, as often as somebody wants that.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(next) = self.vhost.tick(self.now) {
            if next > end {
                break;
            }
            self.now = next.max(self.now);
        }
        self.now = end;
    }

    fn take(&self, queue: &Arc<Queue>, max: usize) -> Vec<Entry> {
        self.vhost.tell_time(self.now);
        let mut taken = Vec::new();
        self.vhost.take(queue, max, usize::MAX, &mut taken);
        taken
    }

    fn settle(&self, queue: &Arc<Queue>, taken: &[Entry]) {
        queue.settle(None, taken.len() as u32, &mut Wakes::default());
        self.vhost.settle_entries(queue, taken, Reason::Ack);
        for entry in taken {
            self.vhost.arena().release(entry.segment, 1);
        }
    }

    /// Takes everything, for good; the bodies.
    pub fn drain(&self, queue: &Arc<Queue>) -> Vec<String> {
        let taken = self.take(queue, usize::MAX);
        let body = |entry: &Entry| {
            let segment = self.vhost.arena().segment(entry.segment);
            String::from_utf8(Record::read(&segment, entry.offset).body.to_vec()).unwrap()
        };
        let bodies = taken.iter().map(body).collect();
        self.settle(queue, &taken);
        bodies
    }

    /// Takes the next message for good: exchange and routing key, and the bytes of its headers.
    pub fn take_one(&self, queue: &Arc<Queue>) -> ((String, String), Vec<u8>) {
        let taken = self.take(queue, 1);
        let segment = self.vhost.arena().segment(taken[0].segment);
        let message = Record::read(&segment, taken[0].offset);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let names = (text(message.exchange()), text(message.routing_key()));
        let headers = message.properties().headers().unwrap();
        let headers = headers.as_bytes().to_vec();
        self.settle(queue, &taken);
        (names, headers)
    }

    /// Messages that the log has, of whatever queue.
    pub fn live_in_log(&self) -> u64 {
        let queues = self.log.as_ref().unwrap().queues();
        let queues = queues.iter().filter(|info| info.queue != FILLER);
        queues.map(|info| info.live).sum()
    }

    /// Nothing is left in memory or, of what was durable, in the log.
    pub fn assert_empty(&self) {
        assert_eq!(self.vhost.arena().segments(), 0, "copies are left behind");
        if self.log.is_some() {
            assert_eq!(self.live_in_log(), 0);
        }
    }
}
