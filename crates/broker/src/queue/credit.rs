//! What the consumers of a channel may hold together.

use super::sync::{AtomicU32, Ordering};

/// The limit of `basic.qos(global=true)`: one for all consumers of a channel.
#[derive(Debug, Default)]
pub struct SharedCredit {
    limit: AtomicU32,
    used: AtomicU32,
}

impl SharedCredit {
    /// Sets the number of unsettled messages that the channel may hold; 0 = no limit.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.limit.load(Ordering::Relaxed) > 0
    }

    /// The number of unsettled messages that the channel may hold; 0 = no limit.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes room for one message, if there is any.
    pub(super) fn take(&self) -> bool {
        let limit = match self.limit.load(Ordering::Relaxed) {
            0 => u32::MAX,
            limit => limit,
        };
        let free = |used| (used < limit).then_some(used + 1);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, free)
            .is_ok()
    }

    pub(super) fn has_room(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit == 0 || self.used.load(Ordering::Acquire) < limit
    }

    /// Takes room for `count` messages that are out already, whatever the limit.
    pub(super) fn force(&self, count: u32) {
        self.used.fetch_add(count, Ordering::AcqRel);
    }

    /// Gives back the room of `count` settled messages.
    pub fn give(&self, count: u32) {
        let before = self.used.fetch_sub(count, Ordering::AcqRel);
        assert!(
            before >= count,
            "gave back more shared credit than was taken"
        );
    }
}
