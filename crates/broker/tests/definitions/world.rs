//! A vhost on a simulated disk, changed at random, and what was durable of it after each batch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backbone_broker::durable::{Durable, Level};
use backbone_broker::pager::Pager;
use backbone_broker::queue::{DeleteIf, Queue};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_log::{Arena, Batch, Config, Listener, Log, SimDisk, Target};
use backbone_wire::table::{Table, TableBuf, Value};

use crate::support::Rng;

const EXCHANGES: [&str; 5] = ["a", "b", "c\0q", "d\0", "amq.topic"];
const QUEUES: [&str; 5] = ["p", "q", "r\0", "s\0q\0a", "t"];
const KEYS: [&str; 4] = ["", "k", "k\0", "#"];
const KINDS: [&str; 4] = ["direct", "fanout", "topic", "headers"];
/// The bit of what pages out.
const SHADOW: u64 = 1 << 63;

/// Name, kind, auto-delete, internal, arguments.
type Exchange = (String, String, bool, bool, Vec<u8>);
/// Name, id, auto-delete, protected, paused, arguments, level.
type Named = (String, u64, bool, bool, bool, Vec<u8>, Level);
/// Source, destination, whether that is an exchange, key, arguments.
type Binding = (String, String, bool, Vec<u8>, Vec<u8>);

/// What is durable of a vhost, from its listings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durables {
    pub exchanges: BTreeSet<Exchange>,
    pub queues: BTreeSet<Named>,
    pub bindings: BTreeSet<Binding>,
}

impl Durables {
    pub fn of(vhost: &Vhost) -> Self {
        let mut durables = Self::default();
        let is_own = |name: &str| name.is_empty() || name.starts_with("amq.");
        for it in vhost.topology().list_exchanges() {
            if it.durable && !is_own(&it.name) {
                let kind = it.kind.name().to_owned();
                let exchange = (it.name, kind, it.auto_delete, it.internal, it.arguments);
                durables.exchanges.insert(exchange);
            }
        }
        for queue in vhost.topology().queues() {
            let options = queue.options();
            if options.durable && options.owner.is_none() {
                durables.queues.insert((
                    queue.name().to_string(),
                    queue.id(),
                    options.auto_delete,
                    options.protected,
                    queue.is_paused(),
                    options.arguments.clone(),
                    options.level,
                ));
            }
        }
        for it in vhost.topology().list_bindings() {
            let exchange = |name: &str| {
                is_own(name) || durables.exchanges.iter().any(|exchange| exchange.0 == name)
            };
            let queue = |name: &str| durables.queues.iter().any(|queue| queue.0 == name);
            let end_is_durable = match it.to_exchange {
                true => exchange(&it.destination),
                false => queue(&it.destination),
            };
            if exchange(&it.source) && end_is_durable {
                let ends = (it.source, it.destination, it.to_exchange);
                let binding = (ends.0, ends.1, ends.2, it.key, it.arguments);
                durables.bindings.insert(binding);
            }
        }
        durables
    }
}

/// Tells the disk what was promised.
struct Promises(Arc<AtomicU64>);

impl Listener for Promises {
    fn progressed(&self, _written: u64, synced: u64) {
        self.0.fetch_max(synced, Ordering::SeqCst);
    }
}

/// A node: disk, log, vhost, and what was.
pub struct World {
    pub disk: SimDisk,
    pub log: Log,
    pub vhost: Arc<Vhost>,
    promised: Arc<AtomicU64>,
    /// Number of the last batch, and what was durable then; and the highest id that was handed out.
    history: Vec<(u64, Durables, u64)>,
    highest_id: u64,
    next_seq: u64,
}

/// A vhost on a log, with nothing in it yet.
pub fn vhost_on(log: &Log) -> Vhost {
    let durable = Arc::new(Durable::new(log.clone()));
    let arena = Arc::new(Arena::new());
    let pager = Pager::new(Arc::clone(&arena), Arc::clone(&durable), usize::MAX, |_| ());
    Vhost::new("/", 1, arena).with_log(durable, Arc::new(pager), Level::Synced)
}

/// Tiny limits, so that everything happens often.
pub fn config() -> Config {
    Config {
        segment_bytes: 16 << 10,
        tail_bytes: 4 << 10,
        waiting_bytes_max: 8 << 10,
        cached_blocks_max: 2,
        block_bytes: 2 << 10,
        reserve_segments: 1,
        spare_segments_max: 2,
        copy_below_percent: 45,
        copy_bytes_a_step: 2 << 10,
        batch_bytes_max: 1 << 20,
    }
}

impl World {
    /// On an empty disk, every call of which is kept.
    pub fn new() -> Self {
        Self::on(SimDisk::new(), 0, Durables::default(), 0)
    }

    fn on(disk: SimDisk, promised: u64, before: Durables, highest_id: u64) -> Self {
        let promised = Arc::new(AtomicU64::new(promised));
        disk.record(Arc::clone(&promised));
        let (log, found) = Log::open(Arc::new(disk.clone()), config(), |_| ()).unwrap();
        assert!(found.damages.is_empty(), "a crash is no damage");
        log.listen(Arc::new(Promises(Arc::clone(&promised))));
        let vhost = vhost_on(&log);
        let restored = vhost.restore(true).unwrap();
        assert_eq!(
            (restored.damaged, restored.unknown),
            (Vec::new(), Vec::new())
        );
        let after = Durables::of(&vhost);
        assert_eq!(
            (restored.exchanges, restored.queues, restored.bindings),
            (
                after.exchanges.len(),
                after.queues.len(),
                after.bindings.len()
            )
        );
        Self {
            disk,
            history: vec![(found.last, before, highest_id)],
            log,
            vhost: Arc::new(vhost),
            promised,
            highest_id,
            next_seq: 0,
        }
    }

    /// What is durable now.
    pub fn now(&self) -> Durables {
        Durables::of(&self.vhost)
    }

    /// What a power loss left of the disk has to be what was durable after the last batch that survived.
    pub fn recover(&self, disk: SimDisk, promised: u64, context: &str) -> Self {
        let (log, found) = Log::open(Arc::new(disk.clone()), config(), |_| ()).unwrap();
        drop(log);
        let last = found.last;
        assert!(last >= promised, "{context}: {last} of {promised} promised");
        // That was the first start after the crash, and ended at once: a kill leaves what was written.
        let disk = disk.after_kill();
        let after = self.history.partition_point(|(lsn, ..)| *lsn <= last);
        let (at, before, highest_id) = match self.history[..after].last() {
            Some((lsn, durables, id)) => (*lsn, durables.clone(), *id),
            None => (0, Durables::default(), 0),
        };
        let mut again = Self::on(disk, last, before, highest_id);
        // Some steps are two batches: a deletion, and the settling of what was in it. Between the two it is there
        // already.
        if let Some((_, durables, _)) = self.history.get(after)
            && at < last
            && again.now() == *durables
        {
            again.history[0].1 = durables.clone();
        }
        assert_eq!(again.now(), again.history[0].1, "{context}");
        again.check_messages(context);
        again.check_ids(context);
        again
    }

    /// The process ends and another starts.
    pub fn restart_cleanly(&self, context: &str) {
        while self.log.write_step().unwrap() {}
        self.log.checkpoint().unwrap();
        let again = self.recover(self.disk.after_kill(), self.log.appended(), context);
        assert_eq!(again.now(), self.now(), "{context}");
    }

    /// Goes on after a crash, and crashes once more; returns how often.
    pub fn live_on(&mut self, rng: &mut Rng, context: &str) -> u64 {
        for _ in 0..12 {
            self.step(rng);
        }
        let snapshots = self.disk.take_snapshots();
        let count = snapshots.len().min(3);
        for _ in 0..count {
            let snapshot = &snapshots[rng.below(snapshots.len())];
            let disk = snapshot.after_power_loss(rng.next());
            self.recover(disk, snapshot.promised, &format!("{context}, second life"));
        }
        count as u64
    }

    /// The log has messages only of queues that are there.
    fn check_messages(&self, context: &str) {
        let now = self.now();
        let mut live = self.log.queues();
        live.retain(|info| info.low < u64::MAX && info.live > 0);
        for info in live {
            let there = now.queues.iter().any(|queue| queue.1 == info.queue);
            assert!(there, "{context}: {info:?} belongs to nobody");
        }
    }

    /// A new queue has an id that none had before.
    fn check_ids(&self, context: &str) {
        let queue = self.declare("new", true, false, None).unwrap();
        let (id, used) = (queue.id(), self.highest_id);
        assert!(id > used, "{context}: {id} was used, as far as {used}");
        self.vhost
            .delete_queue("new", 1, DeleteIf::default())
            .unwrap();
    }

    /// Makes one change, or lets the disk get on.
    pub fn step(&mut self, rng: &mut Rng) {
        match rng.below(32) {
            0..4 => self.declare_exchange(rng),
            4 if rng.once_in(2) => {
                let topology = self.vhost.topology();
                drop(topology.delete_exchange(rng.pick(&EXCHANGES), rng.once_in(2)));
            }
            4..10 => self.declare_queue(rng),
            10 => self.delete_queue(rng),
            11 => self.pause_queue(rng),
            12..22 => self.bind(rng),
            22..24 => self.unbind(rng),
            24 => self.publish(rng),
            25..28 => drop(self.log.write_step().unwrap()),
            28..30 => drop(self.log.sync_step().unwrap()),
            _ => drop(self.log.maintain().unwrap()),
        }
        self.remember();
        assert!(self.promised.load(Ordering::SeqCst) <= self.log.appended());
    }

    /// Takes note of what is durable after the last batch.
    pub fn remember(&mut self) {
        let entry = (self.log.appended(), self.now(), self.highest_id);
        self.history.push(entry);
    }

    fn declare_exchange(&self, rng: &mut Rng) {
        let mut arguments = TableBuf::new();
        if rng.once_in(3) {
            arguments.put("alternate-exchange", &Value::from("a"));
        }
        // It may be there as another one.
        drop(self.vhost.topology().declare_exchange(&ExchangeSpec {
            name: rng.pick(&EXCHANGES),
            kind: rng.pick(&KINDS),
            passive: false,
            durable: !rng.once_in(4),
            auto_delete: rng.once_in(2),
            internal: rng.once_in(4),
            arguments: arguments.as_table(),
        }));
    }

    fn declare(
        &self,
        name: &str,
        durable: bool,
        exclusive: bool,
        level: Option<&str>,
    ) -> Option<Arc<Queue>> {
        let mut arguments = TableBuf::new();
        if let Some(level) = level {
            arguments.put("x-durability", &Value::from(level));
        }
        let declare = QueueDeclare {
            name,
            passive: false,
            durable,
            exclusive,
            auto_delete: name == "t",
            arguments: arguments.as_table(),
            protected: name == "p",
            lenient: name == "p",
        };
        self.vhost.declare_queue(declare, 1).ok()
    }

    fn declare_queue(&mut self, rng: &mut Rng) {
        let level = rng.pick(&[None, Some("memory"), Some("written"), Some("synced")]);
        let (durable, exclusive) = (!rng.once_in(4), rng.once_in(5));
        if let Some(queue) = self.declare(rng.pick(&QUEUES), durable, exclusive, level) {
            self.highest_id = self.highest_id.max(queue.id());
        }
    }

    fn delete_queue(&mut self, rng: &mut Rng) {
        let (name, before) = (rng.pick(&QUEUES), self.log.appended());
        if rng.once_in(2) {
            let deleted = self.vhost.delete_queue(name, 1, DeleteIf::default());
            deleted.unwrap();
        } else if let Some(queue) = self.vhost.topology().queue(name) {
            let removed = self.vhost.remove_queue(&queue, DeleteIf::default());
            removed.unwrap();
        }
        if self.log.appended() > before {
            // The first batch takes it out, another one its messages: a crash may come between.
            let entry = (before + 1, self.now(), self.highest_id);
            self.history.push(entry);
        }
    }

    fn pause_queue(&self, rng: &mut Rng) {
        if let Some(queue) = self.vhost.topology().queue(rng.pick(&QUEUES)) {
            let paused = self.vhost.pause_queue(&queue, rng.once_in(2));
            paused.unwrap();
        }
    }

    /// Whether both ends are there or not; arguments that are the same in another order, now and then.
    fn bind(&self, rng: &mut Rng) {
        let (source, key) = (rng.pick(&EXCHANGES), rng.pick(&KEYS).as_bytes());
        let arguments = arguments(rng);
        let table = arguments.as_table();
        let topology = self.vhost.topology();
        drop(match rng.below(3) {
            0 => topology.bind_exchange(rng.pick(&EXCHANGES), source, key, table),
            _ => topology.bind_queue(rng.pick(&QUEUES), source, key, table),
        });
    }

    fn unbind(&self, rng: &mut Rng) {
        let bindings = self.vhost.topology().list_bindings();
        if bindings.is_empty() {
            return;
        }
        let it = &bindings[rng.below(bindings.len())];
        let table = Table::from_bytes(&it.arguments).unwrap();
        let topology = self.vhost.topology();
        let unbound = match it.to_exchange {
            true => topology.unbind_exchange(&it.destination, &it.source, &it.key, table),
            false => topology.unbind_queue(&it.destination, &it.source, &it.key, table),
        };
        unbound.unwrap();
    }

    /// Appends what a publisher and the pager would.
    fn publish(&mut self, rng: &mut Rng) {
        let queues = self.vhost.topology().queues();
        if queues.is_empty() {
            return;
        }
        let queue = &queues[rng.below(queues.len())];
        let transient = queue.level() == Level::Memory;
        let shadow = if transient { SHADOW } else { 0 };
        let mut batch = Batch::new();
        self.next_seq += 1;
        let target = Target {
            queue: queue.id() | shadow,
            seq: self.next_seq,
        };
        batch.publish(&[target], transient, |out| {
            out.extend_from_slice(&[7; 300]);
        });
        self.log.append(&mut batch).unwrap();
    }
}

fn arguments(rng: &mut Rng) -> TableBuf {
    let mut entries = vec![("h", Value::I32(1)), ("x-match", Value::from("any"))];
    if rng.once_in(2) {
        entries.reverse();
    }
    entries.truncate(rng.below(3));
    let mut table = TableBuf::new();
    for (key, value) in &entries {
        table.put(key, value);
    }
    table
}
