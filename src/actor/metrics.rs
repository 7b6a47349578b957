//! Counters per kind of actor, summed over all actors of the kind for the life of the process.
//!
//! Written by the host and the handles, read at scrape time through [`snapshot`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

/// Counters of one kind; each counts since the process started, except `depth`, which is a gauge.
#[derive(Debug, Default)]
pub struct KindMetrics {
    pub(super) started: AtomicU64,
    pub(super) stopped: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) restarts: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) wakes: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) ask_timeouts: AtomicU64,
    pub(super) depth: AtomicU64,
}

/// The values of [`KindMetrics`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindSnapshot {
    /// Actors that were started (restarts not counted).
    pub started: u64,
    /// Actors whose life ended, in order or given up.
    pub stopped: u64,
    /// Panics that were caught.
    pub panics: u64,
    /// Lives that began after a panic.
    pub restarts: u64,
    /// Actors that panicked too often and were given up.
    pub given_up: u64,
    /// Messages handled.
    pub messages: u64,
    /// Wakes handled.
    pub wakes: u64,
    /// Sends and questions refused because the mailbox stayed full.
    pub refused_full: u64,
    /// Questions whose answer did not come in time.
    pub ask_timeouts: u64,
    /// Messages that now wait in mailboxes.
    pub depth: u64,
}

impl KindMetrics {
    /// The values now.
    pub fn snapshot(&self) -> KindSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        KindSnapshot {
            started: read(&self.started),
            stopped: read(&self.stopped),
            panics: read(&self.panics),
            restarts: read(&self.restarts),
            given_up: read(&self.given_up),
            messages: read(&self.messages),
            wakes: read(&self.wakes),
            refused_full: read(&self.refused_full),
            ask_timeouts: read(&self.ask_timeouts),
            depth: read(&self.depth),
        }
    }
}

/// The kinds of actors that were ever started in this process, with their counters.
pub fn kinds() -> Vec<(&'static str, KindSnapshot)> {
    let mut kinds: Vec<_> = registry()
        .iter()
        .map(|entry| (*entry.key(), entry.value().snapshot()))
        .collect();
    kinds.sort_unstable_by_key(|(kind, _)| *kind);
    kinds
}

/// The counters of one kind; zeros when no such actor was ever started.
pub fn snapshot(kind: &str) -> KindSnapshot {
    registry()
        .get(kind)
        .map(|metrics| metrics.snapshot())
        .unwrap_or_default()
}

/// The counters to write to for `kind`.
pub(super) fn of(kind: &'static str) -> Arc<KindMetrics> {
    Arc::clone(&registry().entry(kind).or_default())
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn registry() -> &'static DashMap<&'static str, Arc<KindMetrics>> {
    static REGISTRY: OnceLock<DashMap<&'static str, Arc<KindMetrics>>> = OnceLock::new();
    REGISTRY.get_or_init(DashMap::new)
}
