//! The gate of the publishers: when messages take more memory than they may, or the log takes none, publishers
//! are told why and not read any more, until enough was consumed or the log goes on. Consumers go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backbone_log::Arena;

use crate::durable::{Durable, Trouble};
use crate::pager::Pager;

/// Whether publishers may go on.
pub struct Gate {
    arena: Arc<Arena>,
    durable: Option<Arc<Durable>>,
    /// Called for help before it comes so far.
    pager: Option<Arc<Pager>>,
    limit: usize,
    raised: AtomicBool,
}

impl Gate {
    /// A gate that closes when messages take more than `limit_bytes`, and opens again below
    /// 80 % of that; and when the log takes no messages.
    pub fn new(arena: Arc<Arena>, durable: Option<Arc<Durable>>, limit_bytes: usize) -> Self {
        Self {
            arena,
            durable,
            pager: None,
            limit: limit_bytes,
            raised: AtomicBool::new(false),
        }
    }

    /// The same with a pager, which hears of it when memory is tight.
    pub fn with_pager(self, pager: Arc<Pager>) -> Self {
        let pager = Some(pager);
        Self { pager, ..self }
    }

    /// Why publishers have to wait, if they have to.
    pub fn trouble(&self) -> Option<Trouble> {
        if let Some(pager) = &self.pager {
            pager.call_if_tight();
        }
        let of_log = self.durable.as_ref().and_then(|durable| durable.trouble());
        of_log.or_else(|| self.is_short_of_memory().then_some(Trouble::Memory))
    }

    /// Whether messages take more memory than they may.
    pub fn is_short_of_memory(&self) -> bool {
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
        let gate = Gate::new(Arc::clone(&arena), None, 1000);
        let first = arena.adopt(Vec::with_capacity(900), 1);
        assert!(!gate.is_short_of_memory());
        let second = arena.adopt(Vec::with_capacity(200), 1);
        assert!(gate.is_short_of_memory());
        arena.release_held(second, 1);
        assert!(gate.is_short_of_memory(), "900 is above 80 %");
        arena.release_held(first, 1);
        assert!(!gate.is_short_of_memory());
    }
}
