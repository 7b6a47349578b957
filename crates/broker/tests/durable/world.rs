//! Random operations on a node, each with what has to come of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_broker::durable::Reason;
use backbone_broker::flow::{Flow, Mover};
use backbone_broker::publisher::Publisher;
use backbone_broker::queue::{DeleteIf, Fetch, Wakes};
use backbone_broker::record::Entry;

use crate::model::{Consumer, Held, Model, Pending, Way};
use crate::node::{self, FANOUT, Node, OUTBOX, QUEUES, Rung, spec};
use crate::support::Rng;

struct Sender {
    publisher: Publisher,
    pending: Vec<Pending>,
}

pub struct World {
    pub node: Node,
    /// All queues that ever were.
    pub models: Vec<Model>,
    /// Those of [`QUEUES`].
    pub current: [usize; 5],
    senders: Vec<Sender>,
    flow: Arc<Flow>,
    mover: Mover,
    mover_bell: Arc<Rung>,
    mover_told: bool,
    bell: Arc<Rung>,
    keys: u64,
}

impl World {
    pub fn new(node: Node) -> Self {
        let mut models = Vec::new();
        for (which, (name, _)) in QUEUES.iter().enumerate() {
            let known = node.vhost.topology().queue(name).is_some();
            let (queue, defined) = node.declare(which);
            let defined = if known { 0 } else { defined };
            models.push(Model::new(queue, defined));
        }
        let [dead_letters, outbox] = [3, OUTBOX].map(|at| Arc::clone(&models[at].queue));
        let flow = node.install_flow(&outbox, dead_letters);
        let mover = Mover::new(Arc::clone(&node.vhost), outbox).unwrap();
        let sender = |_| Sender {
            publisher: node.publisher(),
            pending: Vec::new(),
        };
        Self {
            senders: (0..2).map(sender).collect(),
            node,
            models,
            current: [0, 1, 2, 3, 4],
            flow,
            mover,
            mover_bell: Arc::default(),
            mover_told: false,
            bell: Arc::default(),
            keys: 0,
        }
    }

    pub fn step(&mut self, rng: &mut Rng) {
        let at = self.current[rng.below(QUEUES.len())];
        let op = rng.below(32);
        match op {
            0..=6 => self.publish(rng),
            7..=10 => self.commit(rng.below(2)),
            11..=14 => self.node.log_step(rng),
            15..=17 => self.node.page_in_asked(rng),
            18 => self.page_out(at, rng),
            19 => self.consume(at, rng),
            20 | 21 => self.fetch(at, rng),
            22 | 23 => self.settle(at, rng),
            24 => self.requeue(at, rng),
            25 => self.take(at, 1 + rng.below(4)),
            26 if rng.once_in(3) => self.cancel(at),
            27 if rng.once_in(8) => self.purge(at),
            28 if rng.once_in(12) => self.delete(rng.below(OUTBOX)),
            29 if rng.once_in(4) => self.fill_disk(rng),
            30 => self.move_on(rng),
            31 => self.page_in_any(at),
            _ => {}
        }
        self.check();
    }

    fn publish(&mut self, rng: &mut Rng) {
        let who = rng.below(2);
        for _ in 0..=rng.below(6) {
            if self.senders[who].publisher.is_stalled() {
                return;
            }
            let before = self.before();
            let sender = &mut self.senders[who];
            let fanout: Vec<usize> = FANOUT.iter().map(|at| self.current[*at]).collect();
            let which = rng.below(QUEUES.len() + 1);
            let (exchange, key, way) = match which {
                5 => ("amq.fanout", "", Way::Queues(fanout)),
                OUTBOX => ("", QUEUES[which].0, Way::Flow(fanout)),
                _ => ("", QUEUES[which].0, Way::Queues(vec![self.current[which]])),
            };
            let persistent = !rng.once_in(4);
            let publisher = &mut sender.publisher;
            let (number, committed) = self.node.publish(publisher, exchange, key, persistent, rng);
            sender.pending.push(Pending {
                number,
                persistent,
                way,
            });
            if committed {
                self.committed(who, &before);
            }
        }
    }

    fn commit(&mut self, who: usize) {
        let before = self.before();
        self.senders[who].publisher.commit();
        self.committed(who, &before);
    }

    fn before(&self) -> Before {
        let moves = !self.mover.is_paused();
        Before::of(&self.node, &self.flow, &self.models[OUTBOX], moves)
    }

    /// After a commit: where everything is.
    fn committed(&mut self, who: usize, before: &Before) {
        let sender = &mut self.senders[who];
        let (stalled, promise) = (sender.publisher.is_stalled(), sender.publisher.promise());
        let pending = std::mem::take(&mut sender.pending);
        let is_flow = |it: &&Pending| matches!(it.way, Way::Flow(_));
        let for_flow = pending.iter().filter(is_flow).count() as u64;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let accepted = count(&self.flow.counters.accepted) - before.accepted;
        let fused = count(&self.flow.counters.fused) - before.fused;
        let mut lsn = before.lsn;
        if accepted > 0 {
            assert_eq!(accepted, for_flow, "a flow accepts all or nothing");
            let due = if before.way_is_free { accepted } else { 0 };
            assert_eq!(fused, due, "fused exactly while nothing waits");
            lsn += u64::from(self.accepted(&pending, lsn + 1, fused > 0));
        }
        if !stalled {
            assert_eq!(accepted, for_flow);
            lsn += u64::from(self.routed(&pending, lsn + 1));
        }
        assert_eq!(lsn, self.node.log.appended(), "batches that were appended");
        if lsn > before.lsn {
            let promised = promise.written.max(promise.synced);
            assert_eq!(promised, lsn, "the promise is for all that was appended");
        }
        if stalled {
            assert!(
                self.node.durable.trouble().is_some(),
                "refused without reason"
            );
            let left = pending
                .into_iter()
                .filter(|it| accepted == 0 || !is_flow(&it));
            self.senders[who].pending = left.collect();
        }
    }

    /// What a flow accepted went where it belongs. Says whether anything of it is logged.
    fn accepted(&mut self, pending: &[Pending], lsn: u64, fused: bool) -> bool {
        let mut logged = false;
        for message in pending {
            let Way::Flow(fanout) = &message.way else {
                continue;
            };
            let targets = if fused { &fanout[..] } else { &[OUTBOX] };
            logged |= add(&mut self.models, targets, message.number, true, lsn);
        }
        logged
    }

    fn routed(&mut self, pending: &[Pending], lsn: u64) -> bool {
        let mut logged = false;
        for message in pending {
            if let Way::Queues(targets) = &message.way {
                let (number, persistent) = (message.number, message.persistent);
                logged |= add(&mut self.models, targets, number, persistent, lsn);
            }
        }
        logged
    }

    fn consume(&mut self, at: usize, rng: &mut Rng) {
        if at == OUTBOX || self.models[at].consumer.is_some() {
            return;
        }
        let no_ack = rng.once_in(3);
        let prefetch = if no_ack { 0 } else { rng.pick(&[0, 1, 3]) };
        self.keys += 1;
        let key = self.keys;
        let mut wakes = Wakes::default();
        let spec = spec(&self.bell, key, prefetch, no_ack);
        let id = self.models[at].queue.consume(spec, &mut wakes).unwrap();
        self.models[at].consumer = Some(Consumer {
            id,
            key,
            prefetch,
            no_ack,
            told: false,
        });
        wakes.ring();
    }

    fn cancel(&mut self, at: usize) {
        let Some(consumer) = self.models[at].consumer.take() else {
            return;
        };
        let mut wakes = Wakes::default();
        self.models[at].queue.cancel(consumer.id, &mut wakes);
        wakes.ring();
    }

    fn fetch(&mut self, at: usize, rng: &mut Rng) {
        let model = &mut self.models[at];
        let Some(consumer) = &mut model.consumer else {
            return;
        };
        let (id, no_ack) = (consumer.id, consumer.no_ack);
        let (mut got, mut wakes) = (Vec::new(), Wakes::default());
        let count = 1 + rng.below(10);
        let end = model
            .queue
            .fetch(id, count, usize::MAX, &mut got, &mut wakes);
        wakes.ring();
        consumer.told = end == Fetch::More;
        let taken = self.taken(at, got, Some(id));
        let held = &self.models[at].held;
        let prefetch = self.models[at].consumer.as_ref().map_or(0, |c| c.prefetch);
        assert!(prefetch == 0 || self.models[at].held_by(id) <= prefetch);
        if no_ack {
            let first = held.len() - taken;
            self.settle_held(at, first, false);
        }
    }

    /// Takes account of what was handed out.
    fn taken(
        &mut self,
        at: usize,
        got: Vec<Entry>,
        consumer: Option<backbone_broker::queue::ConsumerId>,
    ) -> usize {
        let count = got.len();
        for entry in got {
            let number = self.node.number(&entry);
            let model = &mut self.models[at];
            let next = model.next().expect("it came out of nowhere");
            let copy = &model.copies[next];
            assert_eq!(
                number,
                copy.number,
                "out of order in {}",
                model.queue.name()
            );
            assert_eq!(
                entry.is_logged(),
                copy.added.is_some(),
                "whether it is logged"
            );
            model.held.push(Held {
                at: next,
                entry,
                consumer,
            });
        }
        count
    }

    fn take(&mut self, at: usize, count: usize) {
        let queue = Arc::clone(&self.models[at].queue);
        let mut got = Vec::new();
        let left = self.node.vhost.take(&queue, count, usize::MAX, &mut got);
        self.taken(at, got, None);
        assert_eq!(left, self.models[at].waiting.len() as u64);
    }

    fn settle(&mut self, at: usize, rng: &mut Rng) {
        // Perhaps of a queue that is gone.
        let at = if rng.once_in(6) {
            rng.below(self.models.len())
        } else {
            at
        };
        let held = self.models[at].held.len();
        if held > 0 {
            self.settle_held(at, rng.below(held), true);
        }
    }

    /// Settles what is held from `first` on.
    fn settle_held(&mut self, at: usize, first: usize, counts: bool) {
        let model = &mut self.models[at];
        let gone = model.held.split_off(first);
        let entries: Vec<Entry> = gone.iter().map(|held| held.entry).collect();
        let before = self.node.log.appended();
        let vhost = &self.node.vhost;
        vhost.settle_entries(&model.queue, &entries, Reason::Ack);
        let lsn = self.node.log.appended();
        let logged = entries.iter().any(Entry::is_logged);
        let heard = lsn > before || !logged || !model.is_alive();
        assert!(heard, "the log did not hear of it");
        let mut wakes = Wakes::default();
        for held in &gone {
            if lsn > before && held.entry.is_logged() {
                model.copies[held.at].gone = Some(lsn);
            }
            if counts {
                model.queue.settle(held.consumer, 1, &mut wakes);
            }
            self.node.arena.release(held.entry.segment, 1);
        }
        wakes.ring();
    }

    fn requeue(&mut self, at: usize, rng: &mut Rng) {
        let model = &mut self.models[at];
        if model.held.is_empty() {
            return;
        }
        let mut wakes = Wakes::default();
        for held in model.held.split_off(rng.below(model.held.len())) {
            let entries = [held.entry];
            assert!(model.queue.requeue(held.consumer, &entries, &mut wakes));
            model.waiting.insert(held.at);
        }
        wakes.ring();
    }

    fn purge(&mut self, at: usize) {
        let model = &mut self.models[at];
        let before = self.node.log.appended();
        let count = self.node.vhost.purge(&model.queue);
        assert_eq!(count, model.waiting.len() as u64);
        let lsn = self.node.log.appended();
        for at in std::mem::take(&mut model.waiting) {
            let copy = &mut model.copies[at];
            if copy.added.is_some() {
                assert!(lsn > before, "the log did not hear of it");
                copy.gone = Some(lsn);
            }
        }
    }

    /// Deletes a queue, and declares another one of its name.
    fn delete(&mut self, which: usize) {
        let model = &mut self.models[self.current[which]];
        if self.node.durable.trouble().is_some() || which == 3 {
            return;
        }
        let before = self.node.log.appended();
        let removed = self
            .node
            .vhost
            .remove_queue(&model.queue, DeleteIf::default());
        assert_eq!(removed, Ok(model.waiting.len() as u64));
        model.removed = Some(before + 1);
        model.waiting.clear();
        model.consumer = None;
        let (queue, defined) = self.node.declare(which);
        self.current[which] = self.models.len();
        self.models.push(Model::new(queue, defined));
    }

    fn page_out(&mut self, at: usize, rng: &mut Rng) {
        match rng.below(3) {
            0 => {
                let queues = self.node.vhost.topology().queues();
                self.node.pager.relieve(&queues);
            }
            _ => self.node.pager.page_out(&self.models[at].queue),
        }
    }

    /// As somebody who is in no way asked for it.
    fn page_in_any(&mut self, at: usize) {
        let mut wakes = Wakes::default();
        let queue = &self.models[at].queue;
        self.node.pager.page_in(queue, &mut wakes).unwrap();
        wakes.ring();
    }

    fn fill_disk(&mut self, rng: &mut Rng) {
        self.node.disk.set_capacity(u64::MAX);
        // With its reserve complete, so that settlements go on.
        while self.node.log.maintain().unwrap() {}
        let used = self.node.used();
        if rng.once_in(2) && self.node.log.stats().spares >= node::RESERVE {
            self.node.disk.set_capacity(used);
        }
    }

    fn move_on(&mut self, rng: &mut Rng) {
        match rng.below(6) {
            0 => {
                self.mover.pause();
                self.mover_bell.keys.lock().clear();
                self.mover_told = false;
            }
            1 => self.resume(),
            _ => drop(self.move_one()),
        }
    }

    fn resume(&mut self) {
        let spec = spec(&self.mover_bell, 0, 0, false);
        self.mover.resume(spec).unwrap();
    }

    /// One step of the mover, if it has reason for one.
    fn move_one(&mut self) -> bool {
        self.hear();
        if !self.mover_told {
            return false;
        }
        let queue = Arc::clone(&self.models[OUTBOX].queue);
        let (before, ready) = (self.node.log.appended(), queue.stats().ready);
        self.mover_told = self.mover.step(0);
        let moved = ready - queue.stats().ready;
        let lsn = self.node.log.appended();
        assert_eq!(lsn - before, u64::from(moved > 0), "one batch a step");
        let fanout = FANOUT.map(|at| self.current[at]);
        for _ in 0..moved {
            let at = self.models[OUTBOX].next().unwrap();
            let copy = &mut self.models[OUTBOX].copies[at];
            copy.gone = Some(lsn);
            let number = copy.number;
            add(&mut self.models, &fanout, number, true, lsn);
        }
        true
    }

    fn hear(&mut self) {
        for key in std::mem::take(&mut *self.bell.keys.lock()) {
            let consumers = self.models.iter_mut().filter_map(|it| it.consumer.as_mut());
            if let Some(consumer) = consumers.into_iter().find(|it| it.key == key) {
                consumer.told = true;
            }
        }
        let rung = !std::mem::take(&mut *self.mover_bell.keys.lock()).is_empty();
        let progressed = self.mover_bell.progressed.swap(false, Ordering::SeqCst);
        self.mover_told |= rung || (progressed && !self.mover.is_paused());
    }

    /// Numbers are right, and nobody sleeps who should not.
    fn check(&mut self) {
        self.hear();
        let trouble = self.node.durable.trouble().is_some();
        for (at, model) in self.models.iter().enumerate() {
            let stats = model.queue.stats();
            let name = model.queue.name();
            let counts = (model.waiting.len() as u64, model.held.len() as u64);
            assert_eq!((stats.ready, stats.unsettled), counts, "of {name}");
            let asleep = match &model.consumer {
                Some(consumer) => {
                    let room =
                        consumer.prefetch == 0 || model.held_by(consumer.id) < consumer.prefetch;
                    room && !consumer.told
                }
                None => at == OUTBOX && !self.mover.is_paused() && !self.mover_told && !trouble,
            };
            assert!(
                !asleep || model.waiting.is_empty() || self.node.is_asked(&model.queue),
                "the consumer of {name} sleeps"
            );
        }
    }

    /// Lets everything come to its end.
    pub fn finish(mut self, rng: &mut Rng) {
        self.node.disk.set_capacity(u64::MAX);
        for _ in 0..40 {
            self.node.log.write_step().unwrap();
            self.node.log.sync_step().unwrap();
            self.node.log.maintain().unwrap();
        }
        for who in 0..2 {
            self.commit(who);
            assert!(!self.senders[who].publisher.is_stalled(), "there is room");
        }
        self.resume();
        while !self.models[OUTBOX].waiting.is_empty() {
            self.check();
            if !self.move_one() {
                self.node.page_in_asked(rng);
            }
        }
        self.senders.clear();
        for at in 0..self.models.len() {
            self.cancel(at);
            self.settle_held(at, 0, true);
            if self.models[at].is_alive() {
                self.take(at, usize::MAX);
                self.settle_held(at, 0, true);
            }
        }
        self.check();
        let arena = &self.node.arena;
        assert_eq!((arena.segments(), arena.bytes()), (0, 0), "copies are left");
        let left = |info: &backbone_log::QueueInfo| info.low < u64::MAX && info.live > 0;
        let queues = self.node.log.queues();
        let left: Vec<_> = queues.iter().filter(|info| left(info)).collect();
        assert!(left.is_empty(), "left in the log: {left:?}");
    }
}

/// What a commit is measured against.
struct Before {
    lsn: u64,
    accepted: u64,
    fused: u64,
    way_is_free: bool,
}

impl Before {
    fn of(node: &Node, flow: &Flow, outbox: &Model, moves: bool) -> Self {
        let stats = outbox.queue.stats();
        let free = (stats.ready, stats.unsettled) == (0, 0);
        Self {
            lsn: node.log.appended(),
            accepted: flow.counters.accepted.load(Ordering::Relaxed),
            fused: flow.counters.fused.load(Ordering::Relaxed),
            way_is_free: free && moves,
        }
    }
}

/// Adds a message to those of the queues that are there; says whether it is logged for any.
fn add(models: &mut [Model], targets: &[usize], number: u64, persistent: bool, lsn: u64) -> bool {
    let mut logged = false;
    for target in targets {
        let model = &mut models[*target];
        if model.is_alive() {
            let logs = persistent && model.logs();
            logged |= logs;
            model.add(number, logs.then_some(lsn));
        }
    }
    logged
}
