//! The way of one message through the exchanges: from the one it was published to, over bindings between exchanges and
//! alternate exchanges, to the queues.
//!
//! Each exchange is visited once, so circles end; each queue is found once.

use std::cell::OnceCell;
use std::sync::Arc;

use ahash::AHashSet;
use smallvec::SmallVec;

use super::Targets;
use super::exchange::{ExchangeKind, Slot};
use super::headers::Headers;
use super::pick::Message;
use super::snapshot::{Destination, Routes, Selection};
use super::trie::Matched;
use crate::{delay, history};

/// Up to so many identities are searched one by one; more go into a set.
const FEW: usize = 32;

/// A message on its way.
pub(super) struct Walk<'a, T> {
    message: &'a Message<'a>,
    /// Made from the message's when the first headers exchange is met.
    headers: OnceCell<Headers<'a>>,
    exchanges: Seen,
    pub(super) found: Found<'a, T>,
    /// Whether the way depends on no more than exchange and routing key.
    pub(super) cacheable: bool,
}

/// Where the message goes.
pub(super) struct Found<'a, T> {
    out: &'a mut Targets<T>,
    /// The queues in `out`, as soon as one might come a second time.
    queues: Option<Seen>,
    /// Exchanges to visit.
    pub(super) pending: SmallVec<[Arc<str>; 4]>,
}

impl<'a, T: Clone> Walk<'a, T> {
    /// Begins with the targets of other routes of the same message in `out`, if there are any.
    pub(super) fn new(message: &'a Message<'a>, out: &'a mut Targets<T>) -> Self {
        let found = Found {
            out,
            queues: None,
            pending: SmallVec::new(),
        };
        Self {
            message,
            headers: OnceCell::new(),
            exchanges: Seen::default(),
            found,
            cacheable: true,
        }
    }

    /// Whether an exchange is to be visited now; false from the second time on.
    pub(super) fn enter(&mut self, slot: &Slot<T>) -> bool {
        self.exchanges.insert(slot.id)
    }

    /// Puts the message into the store of an exchange that has one, if it is to be kept or to wait. True if it waits for its time: then
    /// it goes no further.
    pub(super) fn rests_at(&mut self, slot: &Slot<T>) -> bool {
        let Some(store) = &slot.store else {
            return false;
        };
        self.cacheable = false;
        if slot.kind == ExchangeKind::RecentHistory {
            if history::is_wanted(self.message.headers) {
                self.found.put(store.id, &store.handle);
            }
            return false;
        }
        let waits = !self.message.waited && delay::is_wanted(self.message.headers);
        if waits {
            self.found.put(store.id, &store.handle);
        }
        waits
    }

    /// Takes what the exchange matches: queues into `out`, exchanges to the pending ones. If its bindings
    /// match nothing at all, neither queue nor exchange, by any of the keys, the alternate exchange is next.
    pub(super) fn visit(&mut self, slot: &Slot<T>, routes: &Routes<T>) {
        self.cacheable &= !routes.depend_on_more();
        let own = self.message;
        let mut found_any = self.take_matches(own, routes);
        if !own.further.is_empty() && routes.look_at_keys() {
            found_any |= self.take_further(routes);
        }
        if !found_any && let Some(alternate) = slot.alternate() {
            self.found.pending.push(alternate);
        }
    }

    /// Takes what the exchange matches by the further keys. False: nothing.
    #[cold]
    fn take_further(&mut self, routes: &Routes<T>) -> bool {
        let (own, mut found_any) = (self.message, false);
        for key in own.further {
            found_any |= self.take_matches(&Message { key, ..*own }, routes);
        }
        found_any
    }

    /// The same by the one key of `message`.
    #[inline(always)]
    fn take_matches(&mut self, message: &Message<'_>, routes: &Routes<T>) -> bool {
        let mut scratch = Matched::new();
        let (table, headers, found) = (self.message.headers, &self.headers, &mut self.found);
        let selection = routes.select(
            message,
            || headers.get_or_init(|| Headers::new(table)),
            &mut scratch,
        );
        match selection {
            Selection::All => {
                found.take(routes.destinations.iter(), routes.destinations.len());
                !routes.destinations.is_empty()
            }
            Selection::Some(indices) => {
                let chosen = indices
                    .iter()
                    .map(|index| &routes.destinations[*index as usize]);
                found.take(chosen, indices.len());
                !indices.is_empty()
            }
        }
    }
}

impl<T: Clone> Found<'_, T> {
    fn put(&mut self, id: u64, handle: &T) {
        if self.out.iter().all(|(other, _)| *other != id) {
            self.out.push((id, handle.clone()));
        }
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
