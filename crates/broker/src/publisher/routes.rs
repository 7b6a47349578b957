//! The routes that a publisher used last.

use std::sync::Arc;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::flow::Flow;
use crate::queue::Queue;
use crate::topology::Targets;

/// Routes kept; a power of two.
const ROUTES: usize = 64;

/// A queue that a route ends in.
#[derive(Clone)]
pub(super) struct Target {
    pub queue: Arc<Queue>,
    pub flow: Option<Arc<Flow>>,
}

/// Where messages with some exchange and key go.
pub(super) struct Route {
    names: Vec<u8>,
    generation: u64,
    /// The queues.
    pub targets: Arc<[Target]>,
    /// The batch in which `pending` is valid.
    pub epoch: u64,
    /// Index of each target's entries in the batch.
    pub pending: SmallVec<[u32; 4]>,
}

/// The last routes by (exchange, key), one in each slot; each valid under one generation of the
/// topology.
pub(super) struct RouteCache {
    slots: Vec<Option<Route>>,
    last: usize,
    hasher: RandomState,
}

impl RouteCache {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            last: 0,
            hasher: RandomState::new(),
        }
    }

    /// The slot of the route for `names` under `generation`, if it is here.
    #[inline]
    pub fn find(&mut self, names: &[u8], generation: u64) -> Option<usize> {
        let fits = |route: &Option<Route>| {
            route
                .as_ref()
                .is_some_and(|r| r.generation == generation && r.names == names)
        };
        if self.slots.get(self.last).is_some_and(fits) {
            return Some(self.last);
        }
        let slot = self.slot(names);
        if self.slots.get(slot).is_some_and(fits) {
            self.last = slot;
            return Some(slot);
        }
        None
    }

    /// Keeps a route; `generation` 0 is never found again.
    pub fn insert(
        &mut self,
        names: &[u8],
        generation: u64,
        targets: &Targets<Arc<Queue>>,
    ) -> usize {
        if self.slots.is_empty() {
            self.slots.resize_with(ROUTES, || None);
        }
        let slot = self.slot(names);
        let targets = targets.iter().map(|(_, queue)| Target {
            queue: Arc::clone(queue),
            flow: queue.flow(),
        });
        self.slots[slot] = Some(Route {
            names: names.to_vec(),
            generation,
            targets: targets.collect(),
            epoch: 0,
            pending: SmallVec::new(),
        });
        self.last = slot;
        slot
    }

    /// The route in `slot`, which [`RouteCache::find`] or [`RouteCache::insert`] named.
    #[inline]
    pub fn get(&mut self, slot: usize) -> &mut Route {
        self.slots[slot].as_mut().expect("the slot was just named")
    }

    fn slot(&self, names: &[u8]) -> usize {
        self.hasher.hash_one(names) as usize & (ROUTES - 1)
    }
}
