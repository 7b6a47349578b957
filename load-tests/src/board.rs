//! What the threads of a run share.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// The time of a run, in nanoseconds since it was set up.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Nanoseconds since the run was set up.
    #[inline]
    pub fn ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// The state shared by the threads of a run. Counters are touched once a read, never per message.
#[derive(Debug)]
pub struct Board {
    /// The time.
    pub clock: Clock,
    /// Where all threads wait for each other before the first publish.
    pub start: Barrier,
    queues: Vec<QueueCount>,
    abort: AtomicBool,
}

#[derive(Debug)]
struct QueueCount {
    /// Deliveries to expect; `u64::MAX` until that is known.
    due: AtomicU64,
    delivered: AtomicU64,
}

impl Board {
    /// For so many threads and queues.
    pub fn new(threads: usize, queues: usize) -> Self {
        Board {
            clock: Clock(Instant::now()),
            start: Barrier::new(threads),
            queues: (0..queues)
                .map(|_| QueueCount {
                    due: AtomicU64::new(u64::MAX),
                    delivered: AtomicU64::new(0),
                })
                .collect(),
            abort: AtomicBool::new(false),
        }
    }

    /// Says how many deliveries a queue will have.
    pub fn set_due(&self, queue: usize, due: u64) {
        self.queues[queue].due.store(due, Ordering::Release);
    }

    /// Whether the number of deliveries of a queue is known by now.
    pub fn due_is_known(&self, queue: usize) -> bool {
        self.queues[queue].due.load(Ordering::Acquire) != u64::MAX
    }

    /// Counts deliveries of a queue.
    pub fn add_delivered(&self, queue: usize, n: u64) {
        self.queues[queue].delivered.fetch_add(n, Ordering::AcqRel);
    }

    /// Whether a queue has delivered all that it will have.
    pub fn is_drained(&self, queue: usize) -> bool {
        let count = &self.queues[queue];
        count.delivered.load(Ordering::Acquire) >= count.due.load(Ordering::Acquire)
    }

    /// Ends the run early, because a thread has failed.
    pub fn abort(&self) {
        self.abort.store(true, Ordering::Release);
    }

    /// Whether a thread has failed.
    pub fn aborted(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }
}
