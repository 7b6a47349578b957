//! What a queue that drops repeats remembers: see [`crate::dedup`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rules::rule;
use super::{Dedup, Deduplication, Queue};

impl Queue {
    /// The same queue, not used yet, which drops what `dedup` remembers.
    pub(super) fn with_dedup(self, dedup: Option<Arc<Dedup>>) -> Self {
        if dedup.is_some() {
            self.rules.fetch_or(rule::DEDUP, Ordering::Release);
        }
        Self { dedup, ..self }
    }

    /// What it remembers, if it drops repeats.
    pub(crate) fn dedup(&self) -> Option<&Arc<Dedup>> {
        self.dedup.as_ref()
    }

    /// The same in numbers.
    pub fn deduplication(&self) -> Option<Deduplication> {
        self.dedup.as_ref().map(|dedup| dedup.stats())
    }
}
