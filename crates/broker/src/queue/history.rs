//! The last messages that came to an exchange of the type `x-recent-history`: the exchange's own queue, which hands out nothing.
//!
//! Whatever is pushed into it is copied, so that a small message does not hold a large segment of the arena. It is in memory alone, within
//! [`HISTORY_BYTES_MAX`] for each exchange and [`HISTORIES_BYTES_MAX`] for all of a node: beyond that the oldest go, whatever number is asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rules::rule;
use super::{Queue, QueueOptions, Rules};

/// Bytes of records that one exchange remembers: 16 MiB.
pub(crate) const HISTORY_BYTES_MAX: usize = 16 << 20;
/// Bytes of records that all exchanges of a node remember together: 256 MiB.
pub(crate) const HISTORIES_BYTES_MAX: usize = 256 << 20;
/// What a record takes besides its bytes.
const OVERHEAD_BYTES: usize = 48;

/// What is remembered.
pub(super) struct History {
    /// Records, the oldest first.
    records: VecDeque<Arc<[u8]>>,
    /// So many at most.
    messages_max: u64,
    /// What they take.
    bytes: usize,
    /// What all of the node's take.
    all_bytes: Arc<AtomicUsize>,
}

impl History {
    fn add(&mut self, record: &[u8]) {
        let size = record.len() + OVERHEAD_BYTES;
        while self.records.len() as u64 >= self.messages_max || !self.has_room(size) {
            if !self.forget_oldest() {
                // There is no room even for it alone.
                return;
            }
        }
        self.bytes += size;
        self.all_bytes.fetch_add(size, Ordering::Relaxed);
        self.records.push_back(record.into());
    }

    fn has_room(&self, size: usize) -> bool {
        self.bytes + size <= HISTORY_BYTES_MAX
            && self.all_bytes.load(Ordering::Relaxed) + size <= HISTORIES_BYTES_MAX
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(record) = self.records.pop_front() else {
            return false;
        };
        let size = record.len() + OVERHEAD_BYTES;
        self.bytes -= size;
        self.all_bytes.fetch_sub(size, Ordering::Relaxed);
        true
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Queue {
    /// The own queue of the exchange `name`, which remembers `messages_max` messages. `all_bytes` counts what all such queues hold.
    pub(crate) fn history(
        name: &str,
        id: u64,
        messages_max: u64,
        all_bytes: &Arc<AtomicUsize>,
    ) -> Self {
        let options = QueueOptions {
            protected: true,
            ..QueueOptions::default()
        };
        let mut queue = Self::new(name, id, options);
        queue.rules.store(rule::HISTORY, Ordering::Release);
        let history = History {
            messages_max,
            all_bytes: Arc::clone(all_bytes),
            records: VecDeque::new(),
            bytes: 0,
        };
        queue.state.get_mut().rules = Some(Box::new(Rules {
            history: Some(history),
            ..Rules::default()
        }));
        queue
    }

    /// Whether it only remembers what comes.
    #[inline]
    pub(crate) fn is_history(&self) -> bool {
        self.has_rule(rule::HISTORY)
    }

    /// Remembers records, the oldest first.
    pub(crate) fn remember<'a>(&self, records: impl Iterator<Item = &'a [u8]>) {
        let mut state = self.state.lock();
        let rules = state.rules.as_mut();
        if let Some(history) = rules.and_then(|rules| rules.history.as_mut()) {
            records.for_each(|record| history.add(record));
        }
    }

    /// What it remembers, the oldest first.
    pub(crate) fn remembered(&self) -> Vec<Arc<[u8]>> {
        let state = self.state.lock();
        let rules = state.rules.as_ref();
        let history = rules.and_then(|rules| rules.history.as_ref());
        history.map_or_else(Vec::new, |it| it.records.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(queue: &Queue) -> Vec<usize> {
        queue.remembered().iter().map(|it| it.len()).collect()
    }

    fn remember(queue: &Queue, size: usize) {
        queue.remember(std::iter::once(&*vec![7; size]));
    }

    #[test]
    fn the_oldest_go_when_there_are_more_than_asked_for() {
        let all = Arc::default();
        let queue = Queue::history("x", 1, 3, &all);
        (1..=5).for_each(|size| remember(&queue, size));
        assert_eq!(sizes(&queue), [3, 4, 5]);
        assert_eq!(all.load(Ordering::Relaxed), 12 + 3 * OVERHEAD_BYTES);
        drop(queue);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_exchange_remembers_no_more_than_its_bytes() {
        let all = Arc::default();
        let queue = Queue::history("x", 1, u64::MAX, &all);
        let third = HISTORY_BYTES_MAX / 3 - OVERHEAD_BYTES;
        for size in [third, third - 1, third - 2, third - 3] {
            remember(&queue, size);
        }
        assert_eq!(sizes(&queue), [third - 1, third - 2, third - 3]);
        remember(&queue, HISTORY_BYTES_MAX);
        assert!(sizes(&queue).is_empty(), "what is too large pushes all out");
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_exchanges_together_remember_no_more_than_theirs() {
        let all = Arc::new(AtomicUsize::new(HISTORIES_BYTES_MAX - 1000));
        let queue = Queue::history("x", 1, 10, &all);
        for size in [400, 401, 402] {
            remember(&queue, size);
        }
        assert_eq!(sizes(&queue), [401, 402]);
        remember(&queue, 953);
        assert!(sizes(&queue).is_empty());
        assert_eq!(all.load(Ordering::Relaxed), HISTORIES_BYTES_MAX - 1000);
    }
}
