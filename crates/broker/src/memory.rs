//! The memory alarm: above its bound, publishers are told and not read any more, until enough
//! was consumed. Consumers go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backbone_log::Arena;

/// Whether publishers may go on.
pub struct MemoryGate {
    arena: Arc<Arena>,
    limit: usize,
    raised: AtomicBool,
}

impl MemoryGate {
    /// A gate that closes when messages take more than `limit_bytes`, and opens again below
    /// 80 % of that.
    pub fn new(arena: Arc<Arena>, limit_bytes: usize) -> Self {
        Self {
            arena,
            limit: limit_bytes,
            raised: AtomicBool::new(false),
        }
    }

    /// Whether publishers have to wait.
    pub fn is_raised(&self) -> bool {
        let bytes = self.arena.bytes();
        let raised = if self.raised.load(Ordering::Relaxed) {
            bytes > self.limit / 5 * 4
        } else {
            bytes > self.limit
        };
        self.raised.store(raised, Ordering::Relaxed);
        raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_above_the_limit_and_falls_well_below() {
        let arena = Arc::new(Arena::new());
        let gate = MemoryGate::new(Arc::clone(&arena), 1000);
        let first = arena.adopt(Vec::with_capacity(900), 1);
        assert!(!gate.is_raised());
        let second = arena.adopt(Vec::with_capacity(200), 1);
        assert!(gate.is_raised());
        arena.release_held(second, 1);
        assert!(gate.is_raised(), "900 is above 80 %");
        arena.release_held(first, 1);
        assert!(!gate.is_raised());
    }
}
