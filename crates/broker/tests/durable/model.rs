//! What queues should have: every copy of every message, where it is, and what the log was told of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use backbone_broker::durable::Level;
use backbone_broker::queue::{ConsumerId, Queue};
use backbone_broker::record::Entry;

/// A message in one queue.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Which message.
    pub number: u64,
    /// The batch of the log that brought it, if any did.
    pub added: Option<u64>,
    /// The batch that settled it.
    pub gone: Option<u64>,
}

/// A copy that is out with somebody.
pub struct Held {
    pub at: usize,
    pub entry: Entry,
    pub consumer: Option<ConsumerId>,
}

pub struct Consumer {
    pub id: ConsumerId,
    pub key: u64,
    pub prefetch: usize,
    pub no_ack: bool,
    /// Its bell rang, or it knows that there is more.
    pub told: bool,
}

/// One queue, from its declaration on.
pub struct Model {
    pub queue: Arc<Queue>,
    /// Its copies, in the order in which they came.
    pub copies: Vec<Copy>,
    pub waiting: BTreeSet<usize>,
    pub held: Vec<Held>,
    pub consumer: Option<Consumer>,
    /// Batches that defined it and removed it.
    pub defined: u64,
    pub removed: Option<u64>,
}

impl Model {
    pub fn new(queue: Arc<Queue>, defined: u64) -> Self {
        Self {
            queue,
            copies: Vec::new(),
            waiting: BTreeSet::new(),
            held: Vec::new(),
            consumer: None,
            defined,
            removed: None,
        }
    }

    pub fn is_alive(&self) -> bool {
        self.removed.is_none()
    }

    pub fn logs(&self) -> bool {
        self.queue.level() != Level::Memory
    }

    pub fn add(&mut self, number: u64, added: Option<u64>) {
        self.waiting.insert(self.copies.len());
        let gone = None;
        self.copies.push(Copy {
            number,
            added,
            gone,
        });
    }

    /// Takes the next one out.
    pub fn next(&mut self) -> Option<usize> {
        self.waiting.pop_first()
    }

    pub fn held_by(&self, consumer: ConsumerId) -> usize {
        let held = self.held.iter();
        held.filter(|held| held.consumer == Some(consumer)).count()
    }

    /// The messages that are to be there when the log ends with batch `last`.
    pub fn after(&self, last: u64) -> Vec<u64> {
        let there = |batch: &Option<u64>| batch.is_some_and(|batch| batch <= last);
        let left = self.copies.iter();
        let left = left.filter(|copy| there(&copy.added) && !there(&copy.gone));
        left.map(|copy| copy.number).collect()
    }

    /// Whether it is there when the log ends with batch `last`.
    pub fn exists_after(&self, last: u64) -> bool {
        self.defined <= last && self.removed.is_none_or(|removed| removed > last)
    }
}

/// Where a message was published to.
#[derive(Debug, Clone)]
pub enum Way {
    /// These queues.
    Queues(Vec<usize>),
    /// A flow, and the queues that its exchange named then.
    Flow(Vec<usize>),
}

/// A message that its publisher has not committed.
#[derive(Debug, Clone)]
pub struct Pending {
    pub number: u64,
    pub persistent: bool,
    pub way: Way,
}
