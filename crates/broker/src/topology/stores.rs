//! What exchanges have of their own: queues, which stand in no directory, so that nobody can publish to one, bind it or consume from it;
//! and keys of messages, of those that drop repeats.

use std::sync::Arc;

use super::Topology;
use super::bindings::Exchange;
use crate::dedup::Dedup;

impl<T: Clone> Topology<T> {
    /// The stores of all exchanges that have one, with the exchanges' names.
    pub(crate) fn stores(&self) -> Vec<(Arc<str>, T)> {
        let state = self.state.lock();
        let slots = state.exchanges.values().map(|exchange| &exchange.slot);
        let stores = slots.filter_map(|slot| {
            let store = slot.store.as_ref()?;
            Some((slot.name.clone(), store.handle.clone()))
        });
        stores.collect()
    }

    /// The store of an exchange that has one.
    pub(crate) fn store(&self, exchange: &str) -> Option<T> {
        let found = self.exchanges.find(exchange.as_bytes());
        let store = found.get(exchange.as_bytes())?.store.as_ref()?;
        Some(store.handle.clone())
    }

    /// What an exchange that drops repeats remembers.
    pub(crate) fn dedup(&self, exchange: &[u8]) -> Option<Arc<Dedup>> {
        let found = self.exchanges.find(exchange);
        found.get(exchange)?.dedup.clone()
    }

    /// The same of all.
    pub(crate) fn dedups(&self) -> Vec<Arc<Dedup>> {
        let state = self.state.lock();
        let slots = state.exchanges.values().map(|exchange| &exchange.slot);
        slots.filter_map(|slot| slot.dedup.clone()).collect()
    }

    /// The stores of exchanges that went since the last call: they are nobody's now.
    pub(crate) fn take_orphans(&self) -> Vec<T> {
        std::mem::take(&mut *self.orphans.lock())
    }

    /// Takes note of the stores of exchanges that are gone.
    pub(super) fn orphan<'a>(&self, exchanges: impl Iterator<Item = &'a Exchange<T>>)
    where
        T: 'a,
    {
        let stores = exchanges.filter_map(|exchange| exchange.slot.store.as_ref());
        let handles = stores.map(|store| store.handle.clone());
        self.orphans.lock().extend(handles);
    }
}
