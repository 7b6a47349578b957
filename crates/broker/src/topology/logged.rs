//! The part of a topology that outlives a restart: how durable changes get into the log, and back from there.

use std::sync::Arc;

use backbone_wire::table::Table;

use super::bindings::{Binding, Removed, State, Target};
use super::exchange::{Declared, ExchangeKind, Store, check_new};
use super::{Topology, is_predeclared};
use crate::definitions::{BindingKey, Change, ExchangeDefinition, Journal, QueueDefinition};
use crate::error::Error;

/// What becomes of a removal that the log does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlogged {
    /// Whoever asked for it is told, and nothing changes.
    Undo,
    /// It happens all the same, since nobody is there to be told. It comes back with the next start.
    GoOn,
}

impl<T: Clone> Topology<T> {
    /// The same, whose durable changes go to `journal`.
    pub(crate) fn with_journal(self, journal: Arc<Journal>) -> Self {
        Self {
            journal: Some(journal),
            ..self
        }
    }

    /// As [`Topology::add_queue`], for a queue that outlives a restart.
    ///
    /// # Errors
    /// 541: the log does not take it.
    pub(crate) fn add_durable_queue(
        &self,
        definition: &QueueDefinition,
        handle: T,
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        self.record(|change| change.define_queue(definition))?;
        self.insert_queue(&mut state, &definition.name, definition.id, handle, true);
        Ok(())
    }

    /// As [`Topology::remove_queue`], unless the log does not take it and that is a reason.
    ///
    /// # Errors
    /// 541: the log does not take it, and that is no reason to go on.
    pub(crate) fn forget_queue(&self, name: &str, unlogged: Unlogged) -> Result<(), Error> {
        let mut state = self.state.lock();
        match state.remove_queue(name) {
            Some(removed) => self.end_removal(&mut state, removed, unlogged),
            None => Ok(()),
        }
    }

    /// Takes out everything, and lets the log forget it together with the vhost. No durable change is taken any more.
    ///
    /// # Errors
    /// 541: the log does not take it, and nothing changes.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        self.record(|change| {
            for (name, _) in state.queues.iter().filter(|(_, queue)| queue.kept) {
                change.remove_queue(name);
            }
            for (name, exchange) in &state.exchanges {
                let kept = exchange.bindings.values().filter(|binding| binding.kept);
                for binding in kept {
                    change.remove_binding(&binding.key_from(name));
                }
                if exchange.declared.durable && !is_predeclared(name) {
                    change.remove_exchange(name);
                }
            }
            for (author, name) in self.policies.load().names() {
                change.remove_policy(author, name);
            }
            change.remove_vhost();
        })?;
        if let Some(journal) = &self.journal {
            journal.close();
        }
        let gone = std::mem::replace(&mut *state, State::new());
        for name in gone.exchanges.keys() {
            self.exchanges.remove(name);
        }
        self.orphan(gone.exchanges.values());
        self.queues.clear();
        self.changed();
        Ok(())
    }

    /// Brings back an exchange. False: it cannot be what was declared, or its name is taken.
    pub(crate) fn restore_exchange(
        &self,
        definition: &ExchangeDefinition,
        store: Option<Store<T>>,
    ) -> bool {
        let Ok(kind) = ExchangeKind::parse(&definition.kind) else {
            return false;
        };
        let Ok(arguments) = Table::from_bytes(&definition.arguments) else {
            return false;
        };
        let name = &*definition.name;
        let mut state = self.state.lock();
        let checked = check_new(name, kind, arguments, &self.vhost);
        if state.exchanges.contains_key(name) || checked.is_err() {
            return false;
        }
        let declared = Declared {
            kind,
            durable: true,
            auto_delete: definition.auto_delete,
            internal: definition.internal,
            arguments: arguments.as_bytes().into(),
        };
        self.enter(&mut state, name, declared, store);
        true
    }

    /// Brings back a queue.
    pub(crate) fn restore_queue(&self, definition: &QueueDefinition, handle: T) {
        let (name, id) = (&definition.name, definition.id);
        self.insert_queue(&mut self.state.lock(), name, id, handle, true);
    }

    /// Brings back a binding. False: an end of it is missing or not durable, or it cannot be what was bound.
    pub(crate) fn restore_binding(&self, key: &BindingKey<'_>, number: u64) -> bool {
        let Ok(arguments) = Table::from_bytes(key.arguments) else {
            return false;
        };
        let mut state = self.state.lock();
        let source = state.exchanges.get(key.source);
        if source.is_some_and(|it| it.declared.check_binding(key.key, arguments).is_err()) {
            return false;
        }
        let target = match key.to_exchange {
            true => Target::Exchange(key.destination.into()),
            false => Target::Queue(key.destination.into()),
        };
        let binding = Binding::new(target, key.key, arguments);
        match state.new_binding(key.source, binding) {
            Some((_, binding)) if binding.kept => {
                state.add_binding(key.source, number, binding);
                self.changed();
                true
            }
            _ => false,
        }
    }

    /// Appends to the log what a removal took out of it, and lets publishers see the removal; or undoes it.
    pub(super) fn end_removal(
        &self,
        state: &mut State<T>,
        removed: Removed<T>,
        unlogged: Unlogged,
    ) -> Result<(), Error> {
        let recorded = self.record(|change| {
            if let Some((name, _)) = removed.queue.as_ref().filter(|(_, queue)| queue.kept) {
                change.remove_queue(name);
            }
            for (_, source, binding) in removed.bindings.iter().filter(|(_, _, it)| it.kept) {
                change.remove_binding(&binding.key_from(source));
            }
            let exchanges = removed.exchanges.iter();
            for (name, _) in exchanges.filter(|(_, exchange)| exchange.declared.durable) {
                change.remove_exchange(name);
            }
        });
        if recorded.is_err() && unlogged == Unlogged::Undo {
            state.put_back(removed);
            return recorded;
        }
        if let Some((name, queue)) = &removed.queue {
            self.queues.remove(name.as_bytes());
            for alias in &queue.aliases {
                self.queues.remove(alias.as_bytes());
            }
        }
        for (name, _) in &removed.exchanges {
            self.exchanges.remove(name);
        }
        self.orphan(removed.exchanges.iter().map(|(_, exchange)| exchange));
        self.changed();
        Ok(())
    }

    /// Appends a change to the log, if there is one.
    pub(super) fn record(&self, fill: impl FnOnce(&mut Change<'_>)) -> Result<(), Error> {
        let journal = self.journal.as_ref();
        journal.map_or(Ok(()), |journal| journal.change(fill))
    }
}
