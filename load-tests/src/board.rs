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
    groups: Vec<GroupCount>,
    /// When each publisher has started, for those that keep a rate.
    starts_ns: Vec<AtomicU64>,
    end: AtomicBool,
    abort: AtomicBool,
}

/// The deliveries of queues that are read together.
#[derive(Debug)]
struct GroupCount {
    /// Deliveries to expect; `u64::MAX` until that is known.
    due: AtomicU64,
    delivered: AtomicU64,
}

impl Board {
    /// For so many threads, publishers and sets of queues.
    pub fn new(threads: usize, publishers: usize, groups: usize) -> Self {
        Board {
            clock: Clock(Instant::now()),
            start: Barrier::new(threads),
            groups: (0..groups)
                .map(|_| GroupCount {
                    due: AtomicU64::new(u64::MAX),
                    delivered: AtomicU64::new(0),
                })
                .collect(),
            starts_ns: (0..publishers).map(|_| AtomicU64::new(0)).collect(),
            end: AtomicBool::new(false),
            abort: AtomicBool::new(false),
        }
    }

    /// Says how many deliveries a set of queues will have.
    pub fn set_due(&self, group: usize, due: u64) {
        self.groups[group].due.store(due, Ordering::Release);
    }

    /// Whether the number of deliveries of a set of queues is known by now.
    pub fn due_is_known(&self, group: usize) -> bool {
        self.groups[group].due.load(Ordering::Acquire) != u64::MAX
    }

    /// Counts deliveries of a set of queues.
    pub fn add_delivered(&self, group: usize, n: u64) {
        self.groups[group].delivered.fetch_add(n, Ordering::AcqRel);
    }

    /// Deliveries of a set of queues so far.
    pub fn delivered(&self, group: usize) -> u64 {
        self.groups[group].delivered.load(Ordering::Acquire)
    }

    /// Whether a set of queues has delivered all that it will have.
    pub fn is_drained(&self, group: usize) -> bool {
        let count = &self.groups[group];
        count.delivered.load(Ordering::Acquire) >= count.due.load(Ordering::Acquire)
    }

    /// Says when a publisher's schedule starts, before it writes anything.
    pub fn set_start(&self, publisher: usize, ns: u64) {
        self.starts_ns[publisher].store(ns, Ordering::Release);
    }

    /// When a publisher's schedule has started.
    pub fn start_ns(&self, publisher: usize) -> u64 {
        self.starts_ns[publisher].load(Ordering::Acquire)
    }

    /// Ends publishing in order: what was published is still confirmed.
    pub fn end(&self) {
        self.end.store(true, Ordering::Release);
    }

    /// Whether publishing shall end.
    pub fn ended(&self) -> bool {
        self.end.load(Ordering::Acquire)
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
