//! Messages that are in memory alone, when memory is short: they go to the log, come back in order, and leave nothing there.

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_broker::durable::Reason;
use backbone_broker::publisher::Publisher;
use backbone_broker::queue::{DeleteIf, Queue, Wakes};
use backbone_log::{LogError, SimDisk};

use crate::node::{Node, QUEUES, TIGHT_BYTES};
use crate::support::Rng;

/// Bytes above `TIGHT_BYTES` that a batch takes before anybody can make room.
const BATCH_BYTES: usize = 60_000;

/// A node, and a publisher whose messages nobody consumes.
struct Flood {
    node: Node,
    publisher: Publisher,
    rng: Rng,
    /// The log refused messages once, for want of room.
    was_full: bool,
}

impl Flood {
    fn new() -> (Self, Vec<Arc<Queue>>) {
        let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
        let queues = (0..3).map(|at| node.declare(at).0).collect();
        let publisher = node.publisher();
        let flood = Self {
            node,
            publisher,
            rng: Rng(1),
            was_full: false,
        };
        (flood, queues)
    }

    /// Publishes a batch to the queue at `which` of [`QUEUES`], and has the pager look.
    fn batch(&mut self, which: usize, persistent: impl Fn(u64) -> bool) -> Vec<u64> {
        self.batch_of(20, which, persistent)
    }

    fn batch_of(
        &mut self,
        count: usize,
        which: usize,
        persistent: impl Fn(u64) -> bool,
    ) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let persistent = persistent(self.node.sizes().len() as u64);
            let (publisher, rng) = (&mut self.publisher, &mut self.rng);
            let key = QUEUES[which].0;
            let published = self.node.publish(publisher, "", key, persistent, rng);
            numbers.push(published.0);
        }
        self.publisher.commit();
        let queues = self.node.vhost.topology().queues();
        while self.node.pager.relieve(&queues) {
            self.sync();
        }
        self.was_full |= self.node.durable.trouble().is_some();
        self.sync();
        numbers
    }

    fn sync(&self) {
        let log = &self.node.log;
        for done in [log.write_step(), log.sync_step(), log.maintain()] {
            assert!(matches!(done, Ok(_) | Err(LogError::Full)), "{done:?}");
        }
    }

    /// Takes and settles everything.
    fn drain(&self, queue: &Arc<Queue>) -> Vec<u64> {
        self.drain_some(queue, usize::MAX)
    }

    /// Takes and settles so many, or all, a few at a time.
    fn drain_some(&self, queue: &Arc<Queue>, count: usize) -> Vec<u64> {
        let vhost = &self.node.vhost;
        let (mut numbers, mut left) = (Vec::new(), 1);
        while left > 0 && numbers.len() < count {
            let mut got = Vec::new();
            left = vhost.take(queue, 5, usize::MAX, &mut got);
            numbers.extend(got.iter().map(|entry| self.node.number(entry)));
            vhost.settle_entries(queue, &got, Reason::Ack);
            queue.settle(None, got.len() as u32, &mut Wakes::default());
            for entry in got {
                self.node.arena.release(entry.segment, 1);
            }
        }
        numbers
    }

    /// Nothing is left, neither in memory nor in the log.
    fn ends(self) {
        assert_eq!(
            (self.node.arena.segments(), self.node.arena.bytes()),
            (0, 0)
        );
        for _ in 0..200 {
            self.sync();
        }
        let alive = |info: &backbone_log::QueueInfo| info.low < u64::MAX && info.live > 0;
        let left: Vec<_> = self.node.log.queues().into_iter().filter(alive).collect();
        assert!(left.is_empty(), "{left:?}");
        let stats = self.node.log.stats();
        assert!(stats.segments < 5, "{} segments stay", stats.segments);
    }
}

#[test]
fn a_queue_without_consumers_takes_many_times_the_memory_that_there_is() {
    for which in [0, 2] {
        let (mut flood, queues) = Flood::new();
        let mut published = Vec::new();
        for _ in 0..100 {
            published.extend(flood.batch(which, |_| false));
            let bytes = flood.node.arena.bytes();
            assert!(bytes <= TIGHT_BYTES, "{bytes} bytes stay in memory");
        }
        let bytes: usize = flood.node.sizes().values().sum();
        assert!(bytes > 30 * TIGHT_BYTES, "{bytes} bytes were published");
        let stats = queues[which].stats();
        assert_eq!(stats.ready, 2000);
        assert!(stats.paged_out > 1900, "{} paged out", stats.paged_out);
        assert_eq!(flood.drain(&queues[which]), published);
        flood.ends();
    }
}

#[test]
fn whoever_sees_that_memory_is_tight_calls_once() {
    let (mut flood, queues) = Flood::new();
    let calls = |node: &Node| {
        (0..3).for_each(|_| node.pager.call_if_tight());
        node.asked.lock().len()
    };
    assert_eq!(calls(&flood.node), 0);
    for _ in 0..40 {
        let (publisher, rng) = (&mut flood.publisher, &mut flood.rng);
        flood.node.publish(publisher, "", QUEUES[2].0, false, rng);
    }
    flood.publisher.commit();
    assert_eq!(calls(&flood.node), 1);
    flood.node.pager.heard_call();
    assert_eq!(calls(&flood.node), 2);
    assert_eq!(flood.drain(&queues[2]).len(), 40);
    flood.ends();
}

#[test]
fn what_is_persistent_and_what_is_not_keep_their_order() {
    for part in 2..5 {
        let (mut flood, queues) = Flood::new();
        let mut published = Vec::new();
        for _ in 0..60 {
            published.extend(flood.batch(0, |number| number % part == 0));
            let bytes = flood.node.arena.bytes();
            assert!(bytes <= TIGHT_BYTES + BATCH_BYTES, "{bytes} bytes");
        }
        assert_eq!(flood.drain(&queues[0]), published);
        flood.ends();
    }
}

#[test]
fn a_purge_and_a_delete_leave_nothing_in_the_log() {
    let (mut flood, queues) = Flood::new();
    for which in [0, 2] {
        for _ in 0..20 {
            flood.batch(which, |number| number % 3 == 0);
        }
        let queue = &queues[which];
        assert_eq!(flood.node.vhost.purge(queue), 400);
        let again = flood.batch(which, |_| false);
        assert_eq!(flood.drain(queue), again);
        for _ in 0..20 {
            flood.batch(which, |_| false);
        }
        let removed = flood.node.vhost.remove_queue(queue, DeleteIf::default());
        assert_eq!(removed, Ok(400));
    }
    flood.ends();
}

#[test]
fn the_longest_queue_gives_room_to_the_others() {
    let (mut flood, queues) = Flood::new();
    // More than a queue keeps when memory is tight, but little.
    let short = flood.batch_of(8, 2, |_| false);
    let kept = queues[2].stats();
    let mut long = Vec::new();
    for _ in 0..20 {
        long.extend(flood.batch(1, |_| false));
    }
    assert_eq!(queues[2].stats(), kept);
    assert!(queues[1].stats().paged_out > 350);
    assert_eq!(flood.drain(&queues[2]), short);
    assert_eq!(flood.drain(&queues[1]), long);
    flood.ends();
}

#[test]
fn a_full_disk_takes_nothing_and_loses_nothing() {
    let (mut flood, queues) = Flood::new();
    let mut published = flood.batch(2, |_| false);
    while flood.node.log.maintain().unwrap() {}
    let used = flood.node.used();
    flood.node.disk.set_capacity(used);
    for _ in 0..20 {
        published.extend(flood.batch(2, |_| false));
    }
    assert!(flood.was_full && flood.node.pager.is_tight());
    let first = flood.drain_some(&queues[2], 100);
    flood.node.disk.set_capacity(u64::MAX);
    for _ in 0..40 {
        flood.sync();
    }
    assert!(flood.node.durable.trouble().is_none());
    published.extend(flood.batch(2, |_| false));
    assert!(!flood.node.pager.is_tight());
    let all: Vec<u64> = first.into_iter().chain(flood.drain(&queues[2])).collect();
    assert_eq!(all, published);
    flood.ends();
}

#[test]
fn a_restart_forgets_them_and_their_numbers_are_not_used_again() {
    let (mut flood, queues) = Flood::new();
    for _ in 0..20 {
        flood.batch(0, |number| number % 2 == 0);
    }
    let ready = queues[0].stats().ready;
    let some = flood.drain_some(&queues[0], 100);
    flood.sync();
    let disk = flood.node.disk.after_power_loss(1);
    let node = Node::open(disk, 0, flood.node.sizes().clone());
    let publisher = node.publisher();
    let queue = node.vhost.topology().queue(QUEUES[0].0).unwrap();
    let mut after = Flood {
        node,
        publisher,
        rng: Rng(2),
        was_full: false,
    };
    let published: Vec<u64> = (0..20).flat_map(|_| after.batch(0, |_| false)).collect();
    let mut due: Vec<u64> = (0..ready).filter(|number| number % 2 == 0).collect();
    due.retain(|number| !some.contains(number));
    due.extend(published);
    assert_eq!(after.drain(&queue), due);
}

#[test]
fn nothing_more_goes_to_a_disk_that_is_short_of_room() {
    let (mut flood, queues) = Flood::new();
    flood.node.pager.tell_disk(true);
    let mut published = Vec::new();
    for _ in 0..10 {
        published.extend(flood.batch(2, |_| false));
    }
    assert_eq!(queues[2].stats().paged_out, 0);
    assert!(flood.node.pager.is_tight() && flood.node.shadows() == 0);
    flood.node.pager.tell_disk(false);
    published.extend(flood.batch(2, |_| false));
    assert!(!flood.node.pager.is_tight());
    assert_eq!(flood.drain(&queues[2]), published);
    flood.ends();
}
