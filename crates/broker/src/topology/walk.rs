//! The way of one message through the exchanges: from the one it was published to, over bindings between exchanges and
//! alternate exchanges, to the queues.
//!
//! Each exchange is visited once, so circles end; each queue is found once.

use std::cell::OnceCell;
use std::sync::Arc;

use ahash::AHashSet;
use smallvec::SmallVec;

use super::Targets;
use super::exchange::Slot;
use super::headers::Headers;
use super::pick::Message;
use super::snapshot::{Destination, Routes, Selection};
use super::trie::Matched;
use crate::delay;

/// Up to so many identities are searched one by one; more go into a set.
const FEW: usize = 32;

/// A message on its way.
pub(super) struct Walk<'a, T> {
    message: Message<'a>,
    /// Made from the message's when the first headers exchange is met.
    headers: OnceCell<Headers<'a>>,
    out: &'a mut Targets<T>,
    /// The queues in `out`, as soon as one might come a second time.
    queues: Option<Seen>,
    exchanges: Seen,
    /// Exchanges to visit.
    pub(super) pending: SmallVec<[Arc<str>; 4]>,
    /// Whether the way depends on no more than exchange and routing key.
    pub(super) cacheable: bool,
}

impl<'a, T: Clone> Walk<'a, T> {
    /// Begins with the targets of other routes of the same message in `out`, if there are any.
    pub(super) fn new(message: Message<'a>, out: &'a mut Targets<T>) -> Self {
        Self {
            message,
            headers: OnceCell::new(),
            out,
            queues: None,
            exchanges: Seen::default(),
            pending: SmallVec::new(),
            cacheable: true,
        }
    }

    /// Whether an exchange is to be visited now; false from the second time on.
    pub(super) fn enter(&mut self, slot: &Slot<T>) -> bool {
        self.exchanges.insert(slot.id)
    }

    /// Whether the message waits at an exchange for its time: then it goes into the exchange's store, and no further.
    pub(super) fn rests_at(&mut self, slot: &Slot<T>) -> bool {
        let Some(store) = &slot.store else {
            return false;
        };
        self.cacheable = false;
        let waits = !self.message.waited && delay::is_wanted(self.message.headers);
        if waits {
            self.put(store.id, &store.handle);
        }
        waits
    }

    fn put(&mut self, id: u64, handle: &T) {
        if self.out.iter().all(|(other, _)| *other != id) {
            self.out.push((id, handle.clone()));
        }
    }

    /// Takes what the exchange matches: queues into `out`, exchanges to the pending ones. If its bindings
    /// match nothing at all, neither queue nor exchange, by any of the keys, the alternate exchange is next.
    pub(super) fn visit(&mut self, slot: &Slot<T>, routes: &Routes<T>) {
        self.cacheable &= !routes.depend_on_more();
        let mut found_any = self.take_matches(routes);
        if !self.message.further.is_empty() && routes.look_at_keys() {
            let own = self.message;
            for key in own.further {
                self.message.key = key;
                found_any |= self.take_matches(routes);
            }
            self.message = own;
        }
        if !found_any && let Some(alternate) = slot.alternate() {
            self.pending.push(alternate);
        }
    }

    /// The same by the message's own key alone. False: nothing matches.
    fn take_matches(&mut self, routes: &Routes<T>) -> bool {
        let mut scratch = Matched::new();
        let table = self.message.headers;
        let headers = std::mem::take(&mut self.headers);
        let selection = routes.select(
            &self.message,
            || headers.get_or_init(|| Headers::new(table)),
            &mut scratch,
        );
        let found_any = match selection {
            Selection::All => {
                self.take(routes.destinations.iter(), routes.destinations.len());
                !routes.destinations.is_empty()
            }
            Selection::Some(indices) => {
                let chosen = indices
                    .iter()
                    .map(|index| &routes.destinations[*index as usize]);
                self.take(chosen, indices.len());
                !indices.is_empty()
            }
        };
        self.headers = headers;
        found_any
    }

    /// Takes the destinations of one exchange, which are different from each other.
    fn take<'d>(&mut self, destinations: impl Iterator<Item = &'d Destination<T>>, count: usize)
    where
        T: 'd,
    {
        if self.queues.is_none() && !self.out.is_empty() {
            let mut queues = Seen::default();
            for (id, _) in self.out.iter() {
                queues.insert(*id);
            }
            self.queues = Some(queues);
        }
        self.out.reserve(count);
        for destination in destinations {
            match destination {
                Destination::Exchange(name) => self.pending.push(name.clone()),
                Destination::Queue { id, handle } => {
                    if self.queues.as_mut().is_none_or(|queues| queues.insert(*id)) {
                        self.out.push((*id, handle.clone()));
                    }
                }
            }
        }
    }
}

/// Identities seen before.
#[derive(Default)]
struct Seen {
    few: SmallVec<[u64; FEW]>,
    many: Option<AHashSet<u64>>,
}

impl Seen {
    /// False if it was there.
    fn insert(&mut self, id: u64) -> bool {
        if let Some(many) = &mut self.many {
            return many.insert(id);
        }
        if self.few.contains(&id) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(id);
        } else {
            let mut many: AHashSet<u64> = self.few.iter().copied().collect();
            many.insert(id);
            self.many = Some(many);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_seen_once_however_many() {
        let mut seen = Seen::default();
        for round in 0..3 {
            for id in 0..1_000 {
                assert_eq!(seen.insert(id * 7), round == 0, "{id} in round {round}");
            }
        }
    }
}
