//! A node on a simulated disk whose parts are stepped by hand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use backbone_broker::access::Access;
use backbone_broker::definitions::SHADOW;
use backbone_broker::durable::{Durable, Level};
use backbone_broker::flow::{Flow, FlowCounters};
use backbone_broker::pager::{Limits, Pager};
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::queue::{Bell, ConsumerSpec, Queue, Room, Wakes};
use backbone_broker::record::{self, Content, Entry, Record};
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_log::{Arena, Config, Listener, Log, LogError, SimDisk};
use backbone_wire::table::{Table, TableBuf, Value};
use parking_lot::Mutex;

use crate::support::Rng;

/// Queues and their levels. The last one has a flow to all that are bound to the fanout exchange.
pub const QUEUES: [(&str, &str); 5] = [
    ("synced", "synced"),
    ("written", "written"),
    ("memory", "memory"),
    ("other", "synced"),
    ("outbox", "synced"),
];
pub const OUTBOX: usize = 4;
/// Those that are bound to the fanout exchange.
pub const FANOUT: [usize; 3] = [0, 1, 2];
/// Segments for when the disk is full: enough for the settlements of a case.
pub const RESERVE: usize = 6;
pub const TIGHT_BYTES: usize = 12_000;

/// Tells the disk what was promised.
struct Promises(Arc<AtomicU64>);

impl Listener for Promises {
    fn progressed(&self, _written: u64, synced: u64) {
        self.0.fetch_max(synced, Ordering::SeqCst);
    }
}

/// Keeps what was rung.
#[derive(Default)]
pub struct Rung {
    pub keys: Mutex<Vec<u64>>,
    pub progressed: AtomicBool,
}

impl Bell for Rung {
    fn ring(&self, key: u64) {
        self.keys.lock().push(key);
    }

    fn cancelled(&self, _key: u64) {}

    fn progressed(&self) {
        self.progressed.store(true, Ordering::SeqCst);
    }
}

type Asked = Arc<Mutex<Vec<Weak<Queue>>>>;

pub struct Node {
    pub disk: SimDisk,
    pub log: Log,
    pub durable: Arc<Durable>,
    pub arena: Arc<Arena>,
    pub pager: Arc<Pager>,
    pub vhost: Arc<Vhost>,
    /// Queues that want a page.
    pub asked: Asked,
    /// The last batch that the log had when it was opened.
    pub last: u64,
    sizes: BTreeMap<u64, usize>,
}

/// Small limits, so that everything happens often.
fn config() -> Config {
    Config {
        segment_bytes: 32 << 10,
        tail_bytes: 4 << 10,
        waiting_bytes_max: 8 << 10,
        cached_blocks_max: 2,
        block_bytes: 2 << 10,
        reserve_segments: RESERVE,
        spare_segments_max: RESERVE,
        copy_below_percent: 45,
        copy_bytes_a_step: 2 << 10,
        batch_bytes_max: 1 << 20,
    }
}

fn room(messages: usize, bytes: usize) -> Room {
    Room { messages, bytes }
}

impl Node {
    pub fn open(disk: SimDisk, promised: u64, sizes: BTreeMap<u64, usize>) -> Self {
        let promised = Arc::new(AtomicU64::new(promised));
        disk.record(Arc::clone(&promised));
        let (log, recovered) = Log::open(Arc::new(disk.clone()), config(), |_| ()).unwrap();
        assert!(recovered.damages.is_empty(), "a crash is no damage");
        assert!(recovered.last >= promised.load(Ordering::SeqCst));
        log.listen(Arc::new(Promises(promised)));
        let durable = Arc::new(Durable::new(log.clone()));
        let arena = Arc::new(Arena::new());
        let asked = Asked::default();
        let asking = Arc::clone(&asked);
        let ask = move |queue| asking.lock().push(queue);
        let limits = Limits {
            resident: room(12, 2500),
            tight: room(4, 900),
            hard: room(2, 200),
        };
        let pager = Pager::new(Arc::clone(&arena), Arc::clone(&durable), TIGHT_BYTES, ask);
        let pager = Arc::new(pager.with_limits(limits));
        let vhost = Vhost::new("/", 1, Arc::clone(&arena)).with_log(
            Arc::clone(&durable),
            Arc::clone(&pager),
            Level::Synced,
        );
        vhost.restore(true).unwrap();
        Self {
            disk,
            log,
            durable,
            arena,
            pager,
            vhost: Arc::new(vhost),
            asked,
            last: recovered.last,
            sizes,
        }
    }

    /// Declares a queue; gives the batch that defined it, if it was not there.
    pub fn declare(&self, which: usize) -> (Arc<Queue>, u64) {
        let (name, level) = QUEUES[which];
        let mut arguments = TableBuf::new();
        arguments.put("x-durability", &Value::from(level));
        let declare = QueueDeclare {
            name,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: arguments.as_table(),
            protected: false,
            lenient: true,
        };
        let queue = self.vhost.declare_queue(declare, 0).unwrap();
        let defined = self.log.appended();
        if FANOUT.contains(&which) {
            let topology = self.vhost.topology();
            let bound = topology.bind_queue(name, "amq.fanout", b"", Table::EMPTY);
            bound.unwrap();
        }
        (queue, defined)
    }

    pub fn install_flow(&self, outbox: &Queue, dead_letters: Arc<Queue>) -> Arc<Flow> {
        let flow = Arc::new(Flow {
            via: None,
            exchange: "amq.fanout".into(),
            needs_topic: false,
            sender: None,
            dead_letters,
            exclude_own: AtomicBool::new(false),
            own_inbox: 0,
            counters: FlowCounters::default(),
        });
        self.vhost.install_flow(outbox, Some(Arc::clone(&flow)));
        flow
    }

    pub fn publisher(&self) -> Publisher {
        let origin = Origin {
            user: "test".into(),
            access: Access::Full,
        };
        Publisher::new(Arc::clone(&self.vhost), origin)
    }

    /// Publishes a new message; gives its number, and whether its size had everything committed.
    pub fn publish(
        &mut self,
        publisher: &mut Publisher,
        exchange: &str,
        key: &str,
        persistent: bool,
        rng: &mut Rng,
    ) -> (u64, bool) {
        let number = self.sizes.len() as u64;
        let size = match rng.below(60) {
            0 => 50_000,
            1..=3 => 3000,
            _ => 8 + rng.below(300),
        };
        self.sizes.insert(number, size);
        let body = body(number, size);
        let (mut names, mut header) = (Vec::new(), Vec::new());
        record::write_names(&mut names, exchange.as_bytes(), key.as_bytes());
        let mode = if persistent { 2 } else { 1 };
        record::write_header(&mut header, size, &[0x10, 0, mode]);
        let content = Content {
            names: &names,
            header: &header,
            body: &body,
        };
        if rng.once_in(3) {
            let mut stored = Vec::new();
            record::write(&mut stored, 0, content);
            publisher.publish_record(stored, 0).unwrap();
        } else {
            publisher.publish(content, 0).unwrap();
        }
        (number, size >= 50_000)
    }

    /// Which message it is; it has to be as it was published.
    pub fn number(&self, entry: &Entry) -> u64 {
        let segment = self.arena.segment(entry.segment);
        let found = Record::read(&segment, entry.offset).body;
        let number = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert!(
            found == body(number, self.sizes[&number]),
            "body of {number}"
        );
        number
    }

    /// Shadows of queues that the log has heard of.
    pub fn shadows(&self) -> u64 {
        let shadows = self.log.queues().into_iter();
        shadows.filter(|info| info.queue & SHADOW != 0).count() as u64
    }

    pub fn sizes(&self) -> &BTreeMap<u64, usize> {
        &self.sizes
    }

    /// Whether somebody was asked for a page of the queue.
    pub fn is_asked(&self, queue: &Arc<Queue>) -> bool {
        let asked = self.asked.lock();
        asked.iter().any(|it| it.as_ptr() == Arc::as_ptr(queue))
    }

    /// Brings in what was asked for first. Sometimes the disk cannot be read, and it is tried again.
    pub fn page_in_asked(&self, rng: &mut Rng) {
        let Some(wanted) = self.asked.lock().pop() else {
            return;
        };
        let Some(queue) = wanted.upgrade() else {
            return;
        };
        let mut wakes = Wakes::default();
        self.disk.fail_opens(u32::from(rng.once_in(8)));
        if self.pager.page_in(&queue, &mut wakes).is_err() {
            self.asked.lock().push(wanted);
        }
        self.disk.fail_opens(0);
        wakes.ring();
    }

    pub fn log_step(&self, rng: &mut Rng) {
        let done = match rng.below(4) {
            0 => self.log.write_step(),
            1 => self.log.sync_step(),
            2 => self.log.write_step().and_then(|_| self.log.sync_step()),
            _ => self.log.maintain(),
        };
        assert!(matches!(done, Ok(_) | Err(LogError::Full)), "{done:?}");
    }

    /// Bytes on the disk.
    pub fn used(&self) -> u64 {
        use backbone_log::Disk;
        self.disk.set_capacity(u64::MAX);
        u64::MAX - self.disk.free_bytes().unwrap()
    }
}

pub fn body(number: u64, size: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(size, number as u8);
    body
}

pub fn spec(bell: &Arc<Rung>, key: u64, prefetch: usize, no_ack: bool) -> ConsumerSpec {
    ConsumerSpec {
        bell: Arc::clone(bell) as Arc<dyn Bell>,
        key,
        prefetch: prefetch as u32,
        shared: None,
        no_ack,
        exclusive: false,
        priority: 0,
    }
}
