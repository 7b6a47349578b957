//! How often somebody may guess: failed logins of one user from one address.
//!
//! A fixed table of cells, found by a hash that nobody outside can compute; two pairs that share a cell share its
//! allowance. So memory is bounded whatever is tried. Each cell is a generic cell rate algorithm in one number: the time
//! at which all failures so far would be forgiven.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Cells of the table: 64 KiB.
const CELLS: usize = 8192;
/// In which time the allowance comes back.
const WINDOW: Duration = Duration::from_secs(60);

/// Counts failed logins.
pub(super) struct Throttle {
    began: Instant,
    hasher: RandomState,
    /// Nanoseconds since `began`.
    cells: Box<[AtomicU64]>,
    /// What one failure costs, nanoseconds; 0: nothing is counted.
    cost: u64,
}

impl Throttle {
    /// Lets so many logins of a user from an address fail in a minute; 0: any number.
    pub(super) fn new(failures_a_minute: u32) -> Self {
        Self {
            began: Instant::now(),
            hasher: RandomState::new(),
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            cost: (WINDOW.as_nanos() as u64)
                .checked_div(failures_a_minute.into())
                .unwrap_or(0),
        }
    }

    /// Whether a login may be tried now.
    pub(super) fn allows(&self, address: IpAddr, user: &str) -> bool {
        self.allows_at(self.now(), address, user)
    }

    /// Takes note of a login that failed.
    pub(super) fn failed(&self, address: IpAddr, user: &str) {
        self.failed_at(self.now(), address, user);
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn allows_at(&self, now: u64, address: IpAddr, user: &str) -> bool {
        let forgiven = self.cell(address, user).load(Ordering::Relaxed);
        forgiven.saturating_sub(now) + self.cost <= WINDOW.as_nanos() as u64
    }

    fn failed_at(&self, now: u64, address: IpAddr, user: &str) {
        let later = |forgiven: u64| Some(forgiven.max(now) + self.cost);
        let cell = self.cell(address, user);
        // The closure always gives a value.
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    fn cell(&self, address: IpAddr, user: &str) -> &AtomicU64 {
        let hash = self.hasher.hash_one((address.to_canonical(), user));
        &self.cells[hash as usize % CELLS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn so_many_failures_pass_and_are_forgiven_one_after_the_other() {
        let throttle = Throttle::new(6);
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for failure in 0..6 {
            assert!(throttle.allows_at(0, here, "u"), "{failure}");
            throttle.failed_at(0, here, "u");
        }
        assert!(!throttle.allows_at(0, here, "u"));
        assert!(!throttle.allows_at(9 * SECOND, here, "u"));
        assert!(throttle.allows_at(10 * SECOND, here, "u"));
        throttle.failed_at(10 * SECOND, here, "u");
        assert!(!throttle.allows_at(10 * SECOND, here, "u"));
        // Others are not concerned, unless they share a cell by chance.
        let others = (0..8).filter(|n| throttle.allows_at(0, there, &n.to_string()));
        assert!(others.count() >= 7);
        assert!(throttle.allows_at(3600 * SECOND, here, "u"));
    }

    #[test]
    fn zero_counts_nothing() {
        let throttle = Throttle::new(0);
        let here = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..1000 {
            throttle.failed_at(0, here, "u");
        }
        assert!(throttle.allows_at(0, here, "u"));
    }
}
