//! The log's numbers for whoever watches it: read without waiting for anything that takes long.
//!
//! Counting what is alive looks at all segments and queues, and waits for housekeeping. So housekeeping
//! leaves a copy of its numbers now and then, and a scrape reads that, with the counters of this moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::log::{Health, Log};
use crate::maintain::Stats;

/// Upper bounds of the classes of sync durations, in microseconds. One more class has no bound.
const BOUNDS_US: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// What a log looks like from outside.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Its numbers; of segments, space and housekeeping as they were a moment ago, the rest of now.
    pub stats: Stats,
    /// Damaged places known.
    pub damages: usize,
    /// What it can do.
    pub health: Health,
    /// How long syncs took.
    pub syncs: SyncTimes,
}

/// How long syncs took since the log was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncTimes {
    /// Upper bounds and how many were not above them, growing.
    pub up_to: Vec<(Duration, u64)>,
    /// All.
    pub count: u64,
    /// All together.
    pub sum: Duration,
}

/// Counts durations. Whoever reads while another counts may miss the last one in a part.
#[derive(Default)]
pub(crate) struct Histogram {
    classes: [AtomicU64; BOUNDS_US.len() + 1],
    nanos: AtomicU64,
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let class = BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < took);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn read(&self) -> SyncTimes {
        let mut count = 0;
        let mut up_to = Vec::with_capacity(BOUNDS_US.len());
        for (class, bound) in self.classes.iter().zip(BOUNDS_US) {
            count += class.load(Ordering::Relaxed);
            up_to.push((Duration::from_micros(bound), count));
        }
        SyncTimes {
            up_to,
            count: count + self.classes[BOUNDS_US.len()].load(Ordering::Relaxed),
            sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

impl Log {
    /// The log's numbers, without waiting for housekeeping or the disk.
    pub fn observe(&self) -> Observed {
        let shared = &*self.shared;
        let known = *shared.observed.lock();
        Observed {
            stats: Stats {
                appended: self.appended(),
                written: self.written(),
                synced: self.synced(),
                waiting_bytes: self.waiting_bytes(),
                ..known
            },
            damages: shared.damages.lock().len(),
            health: self.health(),
            syncs: shared.syncs.read(),
        }
    }

    /// Leaves a copy of the numbers of now for [`Log::observe`].
    pub(crate) fn leave_numbers(&self) {
        let stats = self.stats();
        *self.shared.observed.lock() = stats;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_class() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 1_000_000, 1_000_001, 90_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let read = histogram.read();
        assert_eq!(
            (read.count, read.sum),
            (6, Duration::from_micros(92_000_102))
        );
        assert_eq!(read.up_to[0], (Duration::from_micros(50), 2));
        assert_eq!(read.up_to[1].1, 3);
        assert_eq!(read.up_to.last(), Some(&(Duration::from_secs(1), 4)));
    }
}
