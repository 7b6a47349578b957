//! Who takes messages from a queue, and how much it may have.

use std::collections::VecDeque;
use std::sync::Arc;

use super::credit::SharedCredit;
use crate::record::Entry;

/// Where a consumer is told that something waits for it. Called outside the queues' locks, but
/// `cancelled` under the vhost's control lock: it must neither block nor call back.
pub trait Bell: Send + Sync {
    /// Messages wait for the consumer that its owner knows as `key`.
    fn ring(&self, key: u64);
    /// The same of several.
    fn ring_all(&self, keys: &mut dyn Iterator<Item = u64>) {
        keys.for_each(|key| self.ring(key));
    }
    /// The queue of the consumer `key` is gone: nothing more will come.
    fn cancelled(&self, key: u64);
    /// Something that its owner waits for in the durable log has come, or may never come. Called by the log's
    /// threads, under no lock; must not block.
    fn progressed(&self) {}
}

/// What a consumer asks for when it joins a queue.
pub struct ConsumerSpec {
    /// Told when messages wait.
    pub bell: Arc<dyn Bell>,
    /// The consumer's name towards its bell.
    pub key: u64,
    /// Messages that it may hold unsettled; 0 = no limit.
    pub prefetch: u32,
    /// A limit that it shares with the other consumers of its channel.
    pub shared: Option<Arc<SharedCredit>>,
    /// It settles nothing: messages are gone when handed out.
    pub no_ack: bool,
    /// It wants to be the only consumer.
    pub exclusive: bool,
    /// Consumers with a higher one get everything while they have room.
    pub priority: i64,
}

/// A consumer's state, kept under its queue's lock.
pub(super) struct Consumer {
    /// Tells it from others that had its slot.
    pub serial: u64,
    pub spec: ConsumerSpec,
    /// Messages that it may still take; `u32::MAX` = no limit.
    pub credit: u32,
    /// Assigned in its turn and not yet fetched. At most [`ASSIGNED_MAX`].
    pub assigned: VecDeque<Entry>,
    /// It found nothing and waits for the bell.
    pub armed: bool,
    /// It stands in the rotation.
    pub in_turn: bool,
}

/// Messages that a consumer may have assigned and not fetched: what a stuck one can hold back
/// beyond its prefetch.
pub(super) const ASSIGNED_MAX: usize = 128;

impl Consumer {
    pub fn new(spec: ConsumerSpec) -> Self {
        Self {
            credit: match spec.prefetch {
                0 => u32::MAX,
                limit => limit,
            },
            serial: 0,
            spec,
            assigned: VecDeque::new(),
            armed: true,
            in_turn: false,
        }
    }

    /// Whether it could take one more message now.
    pub fn has_room(&self) -> bool {
        self.credit > 0
            && self.assigned.len() < ASSIGNED_MAX
            && self.spec.shared.as_ref().is_none_or(|s| s.has_room())
    }

    /// How many more messages it could take; `without_limit` if nothing limits that.
    pub fn room(&self, without_limit: usize) -> usize {
        if self.spec.shared.as_ref().is_some_and(|s| !s.has_room()) {
            return 0;
        }
        match self.credit {
            u32::MAX => without_limit,
            credit => credit as usize,
        }
    }

    /// Takes the credit for up to `count_max` messages; returns for how many there was some.
    pub fn take_credits(&mut self, count_max: usize) -> usize {
        let own = count_max.min(self.credit as usize);
        let count = match &self.spec.shared {
            None => own,
            Some(shared) => (0..own).take_while(|_| shared.take()).count(),
        };
        if self.credit != u32::MAX {
            self.credit -= count as u32;
        }
        count
    }

    /// Takes the credit for one message; false when there is none.
    pub fn take_credit(&mut self) -> bool {
        self.take_credits(1) == 1
    }

    /// Gives back credit that was taken for `count` messages and not used.
    pub fn give_unused(&mut self, count: u32) {
        self.give_credit(count);
        if let Some(shared) = &self.spec.shared {
            shared.give(count);
        }
    }

    /// Gives back its own credit of `count` messages; the shared one is its channel's affair.
    pub fn give_credit(&mut self, count: u32) {
        if self.credit != u32::MAX {
            self.credit += count;
            assert!(
                self.credit <= self.spec.prefetch,
                "more credit than prefetch"
            );
        }
    }
}
