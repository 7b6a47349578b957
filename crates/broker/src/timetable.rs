//! When queues want to be looked at: one entry a queue, however many of its messages expire.
//!
//! It has no thread and no clock: whoever has one calls [`crate::vhost::Vhost::tick`], which says when it wants to be called
//! next, and is told ([`Timetable::on_change`]) when that has come nearer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::queue::{Bell, Queue};

/// Entries that the table holds before it looks for those that no longer count.
const FULL_MIN: usize = 1024;

/// The timetable of a vhost.
#[derive(Default, Clone)]
pub struct Timetable(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Mutex<Entries>,
    /// The node's.
    changed: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

#[derive(Default)]
struct Entries {
    /// With so many entries those that no longer count are thrown out.
    full: usize,
    /// Time in ms, a number that sorts those of one time, and the queue.
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

struct Entry {
    time: u64,
    number: u64,
    queue: Weak<Queue>,
}

impl Timetable {
    /// That of another vhost of the same node: whoever listens hears of both.
    pub(crate) fn beside(&self) -> Self {
        Self(Arc::new(Inner {
            changed: Arc::clone(&self.0.changed),
            ..Inner::default()
        }))
    }

    /// Has `changed` called, under no lock, whenever the next time has come nearer. It must not block. Set once.
    pub fn on_change(&self, changed: impl Fn() + Send + Sync + 'static) {
        // A second one is a bug that a test would see: nothing would ever be due.
        let set = self.0.changed.set(Box::new(changed));
        assert!(set.is_ok(), "somebody listens already");
    }

    /// What a queue rings with a time, to be looked at then.
    pub(crate) fn clock(&self, queue: &Arc<Queue>) -> Arc<dyn Bell> {
        Arc::new(Clock {
            queue: Arc::downgrade(queue),
            table: Arc::clone(&self.0),
        })
    }

    /// Enters a queue once more.
    pub(crate) fn enter(&self, time: u64, queue: &Arc<Queue>) {
        self.0.enter(time, Arc::downgrade(queue));
    }

    /// The next queue whose time has come, and that time.
    pub(crate) fn due(&self, now: u64) -> Option<(u64, Arc<Queue>)> {
        let mut entries = self.0.entries.lock();
        while entries
            .heap
            .peek()
            .is_some_and(|Reverse(first)| first.time <= now)
        {
            let Reverse(first) = entries.heap.pop()?;
            if let Some(queue) = first.queue.upgrade() {
                return Some((first.time, queue));
            }
        }
        None
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<u64> {
        let entries = self.0.entries.lock();
        entries.heap.peek().map(|Reverse(first)| first.time)
    }
}

impl Inner {
    fn enter(&self, time: u64, queue: Weak<Queue>) {
        let nearer = {
            let mut entries = self.entries.lock();
            let before = entries
                .heap
                .peek()
                .map_or(u64::MAX, |Reverse(first)| first.time);
            entries.number += 1;
            let number = entries.number;
            if entries.heap.len() >= entries.full {
                // An entry counts no more if its queue has an earlier one, or had one since.
                entries.heap.retain(|Reverse(entry)| {
                    let queue = entry.queue.upgrade();
                    queue.is_some_and(|queue| queue.booked() == entry.time)
                });
                entries.full = FULL_MIN.max(2 * entries.heap.len());
            }
            entries.heap.push(Reverse(Entry {
                time,
                number,
                queue,
            }));
            time < before
        };
        if let (true, Some(changed)) = (nearer, self.changed.get()) {
            changed();
        }
    }
}

struct Clock {
    queue: Weak<Queue>,
    table: Arc<Inner>,
}

impl Bell for Clock {
    fn ring(&self, time: u64) {
        self.table.enter(time, Weak::clone(&self.queue));
    }

    fn cancelled(&self, _key: u64) {}
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::queue::QueueOptions;

    #[test]
    fn entries_that_no_longer_count_are_thrown_out() {
        let table = Timetable::default();
        let queue = Arc::new(Queue::new("q", 0, QueueOptions::default()));
        let clock = table.clock(&queue);
        for time in (0..20_000).rev() {
            clock.ring(time);
            assert!(table.0.entries.lock().heap.len() <= FULL_MIN);
        }
    }

    #[test]
    fn queues_are_due_in_the_order_of_their_times_and_those_that_are_gone_are_not() {
        let table = Timetable::default();
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        table.on_change(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let queue = |id| Arc::new(Queue::new("q", id, QueueOptions::default()));
        let queues = [queue(0), queue(1), queue(2)];
        for (queue, time) in queues.iter().zip([30, 10, 20]) {
            table.clock(queue).ring(time);
        }
        table.clock(&queue(3)).ring(5);
        assert_eq!(told.load(Ordering::Relaxed), 3, "20 is behind 10");
        assert!(table.due(9).is_none() && table.next() == Some(10));
        let due: Vec<_> = std::iter::from_fn(|| table.due(30).map(|(_, queue)| queue))
            .map(|q| q.id())
            .collect();
        assert_eq!(due, [1, 2, 0]);
        assert_eq!(table.next(), None);
    }
}
