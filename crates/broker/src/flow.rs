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

use backbone_log::Arena;

use crate::counters::add;
use crate::queue::{ConsumerId, ConsumerSpec, Fetch, Queue, Refused, Wakes};
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
    batch: Vec<Entry>,
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
            wakes: Wakes::default(),
        })
    }

    /// Starts moving: the bell in `spec` rings when something waits. Nothing when it runs already.
    pub fn resume(&mut self, spec: ConsumerSpec) -> Result<(), Refused> {
        if self.consumer.is_none() {
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

    /// Moves one batch. True when more may wait: call again.
    pub fn step(&mut self) -> bool {
        let Some(id) = self.consumer else {
            return false;
        };
        self.batch.clear();
        let (count, bytes) = (STEP_MESSAGES_MAX, STEP_BYTES_MAX);
        let end = self
            .queue
            .fetch(id, count, bytes, &mut self.batch, &mut self.wakes);
        if !self.batch.is_empty() {
            match self.flow.via.clone() {
                Some(via) => self.forward(&via),
                None => publish(&self.vhost, &self.flow, &self.batch, &mut self.wakes),
            }
            let count = self.batch.len() as u32;
            self.queue.settle(Some(id), count, &mut self.wakes);
        }
        self.wakes.ring();
        end == Fetch::More
    }

    fn forward(&mut self, via: &Arc<Queue>) {
        add(&self.flow.counters.forwarded, self.batch.len() as u64);
        if !via.push(&self.batch, &mut self.wakes) {
            release(self.vhost.arena(), &self.batch);
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.pause();
    }
}

/// Routes entries by their topics. Their copies become the inboxes'.
fn publish(vhost: &Vhost, flow: &Flow, batch: &[Entry], wakes: &mut Wakes) {
    let arena = vhost.arena();
    let mut targets = Targets::new();
    let (mut delivered, mut unrouted) = (0, 0);
    for entry in batch {
        let segment = arena.segment(entry.segment);
        let message = Record::read(&segment, entry.offset);
        targets.clear();
        let routed = vhost.topology().route_internal(
            flow.exchange.as_bytes(),
            message.routing_key(),
            None,
            &mut targets,
        );
        if routed.is_err() {
            targets.clear();
        }
        targets.retain(|(_, queue)| queue.flow().is_none());
        if message.flags & record::EXCLUDE_OWN != 0 {
            let own = vhost.own_inbox(&message);
            targets.retain(|(id, _)| Some(*id) != own);
        }
        if targets.is_empty() {
            unrouted += 1;
            arena.release_held(segment, 1);
            continue;
        }
        arena.retain(&segment, targets.len() as u64);
        for (_, queue) in &targets {
            if queue.push(&[Entry { flags: 0, ..*entry }], wakes) {
                delivered += 1;
            } else {
                arena.release(entry.segment, 1);
            }
        }
        arena.release_held(segment, 1);
    }
    add(&flow.counters.published, batch.len() as u64);
    add(&flow.counters.delivered, delivered);
    add(&flow.counters.unrouted, unrouted);
}

/// Gives back the copies that `entries` own, in runs of one segment.
pub(crate) fn release(arena: &Arena, entries: &[Entry]) {
    for run in entries.chunk_by(|a, b| a.segment == b.segment) {
        arena.release(run[0].segment, run.len() as u64);
    }
}
