//! Flows: rules, as data, that move a queue's messages on.
//!
//! `x-outbox` → (`soar-publish`) → topic exchange → inboxes, and the same for broadcasts through
//! a fanout exchange. A message is *accepted* once, when it is published to a queue with a flow:
//! its topic is found, and topic, sender, id and time are added to its record. From there it is
//! either *fused*, that is routed straight to the inboxes by the publisher's commit
//! ([`crate::publisher`]), or it waits in the queue and is moved by [`Mover::step`]. Both come
//! to the same inboxes in the same order: fused only while nothing waits on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ahash::AHashMap;
use backbone_log::{Arena, Segment};

use crate::counters::add;
use crate::durable::{Level, Promise};
use crate::publisher::{Dead, Lists, Plan, Spare, bury, push};
use crate::queue::{Bell, ConsumerId, ConsumerSpec, Fetch, Queue, Refused, Wakes};
use crate::record::{self, Entry, Record};
use crate::topology::Targets;
use crate::vhost::Vhost;

/// What a flow does with the messages of its queue.
#[derive(Debug)]
pub struct Flow {
    /// The queue that they pass on their way, if not the exchange directly.
    pub via: Option<Arc<Queue>>,
    /// The exchange that they end at, with their topic as routing key.
    pub exchange: Arc<str>,
    /// A message without a topic goes to the dead letters; otherwise its topic is empty.
    pub needs_topic: bool,
    /// The client whose messages these are; goes into the header `sender`.
    pub sender: Option<Arc<str>>,
    /// Where messages go that cannot be moved on.
    pub dead_letters: Arc<Queue>,
    /// The sender does not get its own messages.
    pub exclude_own: AtomicBool,
    /// Identity of the sender's inbox, for `exclude_own`.
    pub own_inbox: u64,
    /// What happened.
    pub counters: FlowCounters,
}

/// Messages counted hop by hop.
#[derive(Debug, Default)]
pub struct FlowCounters {
    /// Accepted with a topic.
    pub accepted: AtomicU64,
    /// Of these, routed straight to the inboxes.
    pub fused: AtomicU64,
    /// Moved on to the next queue of the way (fused ones count as well).
    pub forwarded: AtomicU64,
    /// Routed by the exchange (fused ones count as well).
    pub published: AtomicU64,
    /// Copies put into inboxes.
    pub delivered: AtomicU64,
    /// Routed to nobody.
    pub unrouted: AtomicU64,
    /// Sent to the dead letters.
    pub dead_lettered: AtomicU64,
}

impl Flow {
    /// Whether a message of `sender_inbox` may go to `target`.
    pub(crate) fn excludes(&self, target: &Queue) -> bool {
        target.id() == self.own_inbox && self.exclude_own.load(Ordering::Relaxed)
    }
}

/// Moves messages that could not be fused. Its owner calls [`Mover::step`] when the bell rings.
pub struct Mover {
    vhost: Arc<Vhost>,
    queue: Arc<Queue>,
    flow: Arc<Flow>,
    consumer: Option<ConsumerId>,
    /// Fetched and not settled yet; empty between steps.
    batch: Vec<Entry>,
    /// The batch has gone on.
    moved: bool,
    /// Told when there is something to move.
    bell: Option<Arc<dyn Bell>>,
    wakes: Wakes,
}

/// Messages that one step moves at most, so that its thread serves others between.
const STEP_MESSAGES_MAX: usize = 512;
/// Bytes after which a step ends.
const STEP_BYTES_MAX: usize = 4 << 20;

impl Mover {
    /// The mover of `queue`'s flow, paused. The flow must be installed.
    pub fn new(vhost: Arc<Vhost>, queue: Arc<Queue>) -> Option<Self> {
        let flow = queue.flow()?;
        Some(Self {
            vhost,
            queue,
            flow,
            consumer: None,
            batch: Vec::new(),
            moved: false,
            bell: None,
            wakes: Wakes::default(),
        })
    }

    /// Starts moving: the bell in `spec` rings when something waits. Nothing when it runs already.
    pub fn resume(&mut self, spec: ConsumerSpec) -> Result<(), Refused> {
        if self.consumer.is_none() {
            self.bell = Some(Arc::clone(&spec.bell));
            let id = self.queue.attach_mover(spec, &mut self.wakes)?;
            self.consumer = Some(id);
            self.wakes.ring();
        }
        Ok(())
    }

    /// Stops moving: messages wait in the queue.
    pub fn pause(&mut self) {
        if let Some(id) = self.consumer.take() {
            self.queue.cancel(id, &mut self.wakes);
            self.wakes.ring();
        }
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.consumer.is_none()
    }

    /// Moves one batch. True when more may wait: call again. `now_ms` is Unix time.
    pub fn step(&mut self, now_ms: u64) -> bool {
        let Some(id) = self.consumer else {
            return false;
        };
        let (count, bytes) = (STEP_MESSAGES_MAX, STEP_BYTES_MAX);
        let end = self
            .queue
            .fetch(id, count, bytes, &mut self.batch, &mut self.wakes);
        let mut refused = false;
        if !self.batch.is_empty() {
            let mut load = self.route();
            refused = !self.log(&mut load);
            if refused {
                self.abandon();
                refused = !self.may_try_again();
            } else {
                let mut dead = self.deliver(load, now_ms);
                let count = self.batch.len() as u32;
                self.forget_batch();
                self.queue.settle(Some(id), count, &mut self.wakes);
                bury(&self.vhost, &mut dead, now_ms, &mut self.wakes);
            }
        }
        self.wakes.ring();
        end == Fetch::More && !refused
    }

    /// Finds out where each message of the batch goes.
    fn route(&self) -> Load {
        let arena = self.vhost.arena();
        let mut load = Load::default();
        let (mut targets, mut spare) = (Targets::new(), Spare::default());
        for entry in &self.batch {
            let segment = load
                .segments
                .entry(entry.segment)
                .or_insert_with(|| arena.segment(entry.segment));
            self.targets(segment, entry, &mut targets);
            load.unrouted += u64::from(targets.is_empty());
            let logged = entry.is_logged();
            let logs = |queue: &Arc<Queue>| queue.level() != Level::Memory;
            if logged || targets.iter().any(|(_, queue)| logs(queue)) {
                load.plan.add(entry, logged.then_some(entry.seq));
            }
            for (_, queue) in &targets {
                let queue = &queue.home(Record::read(segment, entry.offset).header);
                let index = load.lists.of(queue, None, &mut spare);
                let list = load.lists.get_mut(index);
                let mut flags = entry.flags & (Entry::TIMED | Entry::AT_ONCE);
                if flags != 0 {
                    queue.expect_timed();
                }
                if logs(queue) {
                    load.plan.target(index, list);
                    flags |= Entry::LOGGED;
                }
                list.entries.push(Entry { flags, ..*entry });
            }
        }
        load
    }

    /// The queues that `entry` goes to.
    fn targets(&self, segment: &Segment, entry: &Entry, targets: &mut Targets<Arc<Queue>>) {
        targets.clear();
        if let Some(via) = &self.flow.via {
            return targets.push((via.id(), Arc::clone(via)));
        }
        let message = Record::read(segment, entry.offset);
        let (exchange, key) = (self.flow.exchange.as_bytes(), message.routing_key());
        let topology = self.vhost.topology();
        if topology
            .route_internal(exchange, key, None, targets)
            .is_err()
        {
            targets.clear();
        }
        targets.retain(|(_, queue)| queue.flow().is_none());
        if message.flags & record::EXCLUDE_OWN != 0 {
            let own = self.vhost.own_inbox(&message);
            targets.retain(|(id, _)| Some(*id) != own);
        }
    }

    /// Has the log take the messages from where they are to where they go, in one batch. False when it refuses.
    fn log(&mut self, load: &mut Load) -> bool {
        if load.plan.is_empty() {
            return true;
        }
        let durable = self.vhost.durable().expect("only a log logs");
        let (from, segments) = (self.queue.id(), &load.segments);
        let segment = |id| &*segments[&id];
        let lists = load.lists.all();
        let logged = load
            .plan
            .append(durable, lists, from, None, segment, &mut self.wakes);
        logged.is_ok()
    }

    /// After the log refused: whether it takes messages again. If not, the bell rings when that may have changed.
    fn may_try_again(&self) -> bool {
        let (Some(durable), Some(bell)) = (self.vhost.durable(), &self.bell) else {
            return false;
        };
        // No batch has this number: the bell rings when the log's state changes.
        let never = Promise::new(u64::MAX, Level::Written);
        durable.wait(never, bell);
        // Asked after the bell was left: a change before that rang for nobody.
        durable.trouble().is_none()
    }

    /// Pushes the messages to where they go; returns what they push out.
    fn deliver(&mut self, mut load: Load, now_ms: u64) -> Vec<Dead> {
        let arena = self.vhost.arena();
        let mut lists = load.lists.take();
        for list in &lists {
            for run in list.entries.chunk_by(|a, b| a.segment == b.segment) {
                arena.retain(&load.segments[&run[0].segment], run.len() as u64);
            }
        }
        self.moved = true;
        let mut dead = Vec::new();
        let delivered: u64 = lists
            .drain(..)
            .map(|list| push(&self.vhost, &list, now_ms, &mut dead, &mut self.wakes))
            .sum();
        if let Some(durable) = self.vhost.durable() {
            durable.log().write_soon();
        }
        let (count, counters) = (self.batch.len() as u64, &self.flow.counters);
        if self.flow.via.is_some() {
            add(&counters.forwarded, count);
        } else {
            add(&counters.published, count);
            add(&counters.delivered, delivered);
            add(&counters.unrouted, load.unrouted);
        }
        dead
    }

    fn forget_batch(&mut self) {
        release(self.vhost.arena(), &self.batch);
        self.batch.clear();
        self.moved = false;
    }

    /// Puts back what a step that did not come to its end has left in the batch.
    fn abandon(&mut self) {
        if self.moved {
            let count = self.batch.len() as u32;
            self.queue.settle(self.consumer, count, &mut self.wakes);
            return self.forget_batch();
        }
        if self
            .queue
            .requeue(self.consumer, &self.batch, &mut self.wakes)
        {
            self.batch.clear();
        } else {
            self.forget_batch();
        }
    }
}

/// A step's messages on their way.
#[derive(Default)]
struct Load {
    lists: Lists,
    plan: Plan,
    segments: AHashMap<u32, Arc<Segment>>,
    unrouted: u64,
}

impl Drop for Mover {
    fn drop(&mut self) {
        // A panic within a step: nothing that was fetched may be lost with the mover.
        if !self.batch.is_empty() {
            self.abandon();
        }
        self.pause();
    }
}

/// Gives back the copies that `entries` own, in runs of one segment.
pub(crate) fn release(arena: &Arena, entries: &[Entry]) {
    for run in entries.chunk_by(|a, b| a.segment == b.segment) {
        if !run[0].is_away() {
            arena.release(run[0].segment, run.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use backbone_wire::table::Table;

    use super::*;
    use crate::access::Access;
    use crate::publisher::{Origin, Publisher};
    use crate::queue::Bell;
    use crate::vhost::QueueDeclare;

    struct Silent;

    impl Bell for Silent {
        fn ring(&self, _key: u64) {}
        fn cancelled(&self, _key: u64) {}
    }

    fn declare(vhost: &Vhost, name: &str) -> Arc<Queue> {
        let declare = QueueDeclare {
            name,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: Table::EMPTY,
            protected: true,
            lenient: true,
        };
        vhost.declare_queue(declare, 0).unwrap()
    }

    fn put(vhost: &Arc<Vhost>, queue: &str, body: &[u8]) {
        let (mut names, mut header) = (Vec::new(), Vec::new());
        record::write_names(&mut names, b"", queue.as_bytes());
        record::write_header(&mut header, body.len(), &[0, 0]);
        let content = record::Content {
            names: &names,
            header: &header,
            body,
        };
        let origin = Origin {
            user: "test".into(),
            access: Access::Full,
        };
        let mut publisher = Publisher::new(Arc::clone(vhost), origin);
        publisher.publish(content, 0).unwrap();
        publisher.commit();
    }

    #[test]
    fn a_mover_that_goes_in_the_middle_of_a_step_loses_and_doubles_nothing() {
        let vhost = Arc::new(Vhost::new("/", 1, Arc::default()));
        let (from, to) = (declare(&vhost, "from"), declare(&vhost, "to"));
        let dead_letters = declare(&vhost, "dead");
        let bound = vhost
            .topology()
            .bind_queue("to", "amq.fanout", b"", Table::EMPTY);
        bound.unwrap();
        let flow = Flow {
            via: None,
            exchange: "amq.fanout".into(),
            needs_topic: false,
            sender: None,
            dead_letters,
            exclude_own: AtomicBool::new(false),
            own_inbox: 0,
            counters: FlowCounters::default(),
        };
        vhost.install_flow(&from, Some(Arc::new(flow)));
        (0..3u8).for_each(|n| put(&vhost, "from", &[n]));
        let mover = || {
            let mut mover = Mover::new(Arc::clone(&vhost), Arc::clone(&from)).unwrap();
            let spec = ConsumerSpec {
                bell: Arc::new(Silent),
                key: 0,
                prefetch: 0,
                shared: None,
                no_ack: false,
                exclusive: false,
                priority: 0,
            };
            mover.resume(spec).unwrap();
            mover
        };
        let mut cut_short = mover();
        let id = cut_short.consumer.unwrap();
        from.fetch(id, 9, 9999, &mut cut_short.batch, &mut cut_short.wakes);
        assert_eq!((cut_short.batch.len(), from.stats().unsettled), (3, 3));
        drop(cut_short);
        assert_eq!((from.stats().ready, from.stats().unsettled), (3, 0));
        mover().step(0);
        assert_eq!((from.stats().ready, from.stats().unsettled), (0, 0));
        let mut arrived = Vec::new();
        to.take(9, 9999, &mut arrived);
        let body = |entry: &Entry| {
            let segment = vhost.arena().segment(entry.segment);
            Record::read(&segment, entry.offset).body.to_vec()
        };
        let bodies: Vec<_> = arrived.iter().map(body).collect();
        assert_eq!(bodies, [[0], [1], [2]]);
    }
}
