//! The control plane's state: exchanges, queues and the bindings between them, both ways.
//!
//! One instance for each vhost, behind its lock. Every change of what leads from an exchange drops the exchange's compiled
//! routes. Invariants:
//!
//! - A binding is held by its source, under a number that grows; its destination knows the number and the source. Neither
//!   outlives the other.
//! - A binding's identity is (source, destination, key, arguments by value).
//! - An auto-delete exchange that has lost its last binding is gone before the change returns, and so are
//!   those that it leaves without a binding in turn.
//! - A removal returns everything that it took out. [`State::put_back`] makes as if it had never been, which is what
//!   happens when the log does not take the change.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ahash::AHashMap;
use backbone_wire::table::Table;

use super::exchange::{Declared, Slot, Store};
use super::plain::{PlainTable, plain_table};
use super::snapshot::{Destination, Routes};
use crate::definitions::BindingKey;

/// The far end of a binding, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Queue(Arc<str>),
    Exchange(Arc<str>),
}

/// One binding of an exchange. Equality is identity among the bindings of one source.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) target: Target,
    pub(super) key: Box<[u8]>,
    pub(super) arguments: PlainTable,
    /// The arguments as they came.
    pub(super) arguments_raw: Box<[u8]>,
    /// Both ends are durable: the log has it. Not part of its identity.
    pub(super) kept: bool,
}

impl Binding {
    pub(super) fn new(target: Target, key: &[u8], arguments: Table<'_>) -> Self {
        Self {
            target,
            key: key.into(),
            arguments: plain_table(arguments),
            arguments_raw: arguments.as_bytes().into(),
            kept: false,
        }
    }

    /// What the log knows it by.
    pub(super) fn key_from<'a>(&'a self, source: &'a str) -> BindingKey<'a> {
        let (destination, to_exchange) = match &self.target {
            Target::Queue(name) => (name, false),
            Target::Exchange(name) => (name, true),
        };
        BindingKey {
            source,
            to_exchange,
            destination,
            key: &self.key,
            arguments: &self.arguments_raw,
        }
    }
}

impl PartialEq for Binding {
    fn eq(&self, other: &Self) -> bool {
        self.target == other.target && self.key == other.key && self.arguments == other.arguments
    }
}

impl Eq for Binding {}

impl Hash for Binding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.target, &self.key, &self.arguments).hash(state);
    }
}

/// An exchange, with the bindings that lead from it.
#[derive(Debug)]
pub(super) struct Exchange<T> {
    pub(super) declared: Declared,
    pub(super) slot: Arc<Slot<T>>,
    /// By number, which is the order in which they were made.
    pub(super) bindings: BTreeMap<u64, Arc<Binding>>,
    numbers: AHashMap<Arc<Binding>, u64>,
    pub(super) incoming: Incoming,
}

/// A queue, as far as routing goes.
#[derive(Debug)]
pub(super) struct Queue<T> {
    pub(super) id: u64,
    pub(super) handle: T,
    pub(super) aliases: Names,
    /// It is durable: the log has it.
    pub(super) kept: bool,
    incoming: Incoming,
}

/// Bindings that lead to something: number → source.
pub(super) type Incoming = BTreeMap<u64, Arc<str>>;

/// Names of queues or exchanges.
pub(super) type Names = Vec<Arc<str>>;

/// What a removal took out. Exchanges and queue are without their bindings, which are apart.
#[derive(Debug)]
pub(super) struct Removed<T> {
    pub(super) queue: Option<(Arc<str>, Queue<T>)>,
    pub(super) exchanges: Vec<(Arc<str>, Exchange<T>)>,
    /// Number, source, binding.
    pub(super) bindings: Vec<(u64, Arc<str>, Arc<Binding>)>,
}

impl<T> Removed<T> {
    fn nothing() -> Self {
        Self {
            queue: None,
            exchanges: Vec::new(),
            bindings: Vec::new(),
        }
    }
}

/// All exchanges and queues of a vhost.
#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) exchanges: AHashMap<Arc<str>, Exchange<T>>,
    pub(super) queues: AHashMap<Arc<str>, Queue<T>>,
    next_exchange: u64,
    next_binding: u64,
}

impl<T: Clone> State<T> {
    pub(super) fn new() -> Self {
        Self {
            exchanges: AHashMap::new(),
            queues: AHashMap::new(),
            next_exchange: 0,
            next_binding: 0,
        }
    }

    /// Adds an exchange that is not there.
    pub(super) fn add_exchange(
        &mut self,
        name: &str,
        declared: Declared,
        store: Option<Store<T>>,
    ) -> Arc<Slot<T>> {
        let name: Arc<str> = name.into();
        let slot = Slot::new(self.next_exchange, name.clone(), &declared, store);
        let slot = Arc::new(slot);
        self.next_exchange += 1;
        let exchange = Exchange {
            declared,
            slot: slot.clone(),
            bindings: BTreeMap::new(),
            numbers: AHashMap::new(),
            incoming: Incoming::new(),
        };
        self.exchanges.insert(name, exchange);
        slot
    }

    /// Deletes an exchange with its bindings both ways. `None`: there is none.
    pub(super) fn remove_exchange(&mut self, name: &str) -> Option<Removed<T>> {
        let name = self.exchanges.get(name)?.slot.name.clone();
        let mut removed = Removed::nothing();
        self.remove_exchanges(vec![name], &mut removed);
        Some(removed)
    }

    /// Adds a queue, or gives one that is there a new identity; its bindings stay.
    pub(super) fn add_queue(&mut self, name: &Arc<str>, id: u64, handle: T, kept: bool) {
        let Some(queue) = self.queues.get_mut(name) else {
            let queue = Queue {
                id,
                handle,
                aliases: Vec::new(),
                kept,
                incoming: Incoming::new(),
            };
            self.queues.insert(name.clone(), queue);
            return;
        };
        queue.id = id;
        queue.handle = handle;
        for source in queue.incoming.values() {
            if let Some(exchange) = self.exchanges.get(source) {
                exchange.slot.invalidate();
            }
        }
    }

    /// Removes a queue with its bindings. `None`: there is none.
    pub(super) fn remove_queue(&mut self, name: &str) -> Option<Removed<T>> {
        let (name, mut queue) = self.queues.remove_entry(name)?;
        let mut removed = Removed::nothing();
        let doomed = self.take_bindings(std::mem::take(&mut queue.incoming), &mut removed);
        removed.queue = Some((name, queue));
        self.remove_exchanges(doomed, &mut removed);
        Some(removed)
    }

    /// A binding between ends that are there, with its number, not added yet. `None`: it was added before.
    pub(super) fn new_binding(&self, source: &str, binding: Binding) -> Option<(u64, Binding)> {
        let exchange = self.exchanges.get(source)?;
        if exchange.numbers.contains_key(&binding) {
            return None;
        }
        let target_kept = match &binding.target {
            Target::Queue(name) => self.queues.get(name).is_some_and(|queue| queue.kept),
            Target::Exchange(name) => {
                let target = self.exchanges.get(name);
                target.is_some_and(|exchange| exchange.declared.durable)
            }
        };
        let kept = exchange.declared.durable && target_kept;
        Some((self.next_binding, Binding { kept, ..binding }))
    }

    /// Adds what [`State::new_binding`] gave.
    pub(super) fn add_binding(&mut self, source: &str, number: u64, binding: Binding) {
        if let Some(exchange) = self.exchanges.get(source) {
            let source = exchange.slot.name.clone();
            self.link(source, number, Arc::new(binding));
            self.next_binding = self.next_binding.max(number + 1);
        }
    }

    /// Removes a binding. `None`: there was none.
    pub(super) fn remove_binding(&mut self, source: &str, binding: &Binding) -> Option<Removed<T>> {
        let exchange = self.exchanges.get(source)?;
        let number = *exchange.numbers.get(binding)?;
        let source = exchange.slot.name.clone();
        if let Some(incoming) = self.incoming(&binding.target) {
            incoming.remove(&number);
        }
        let mut removed = Removed::nothing();
        let doomed = self.take_bindings(Incoming::from([(number, source)]), &mut removed);
        self.remove_exchanges(doomed, &mut removed);
        Some(removed)
    }

    /// Makes as if a removal had not been. Nothing else may have changed since.
    pub(super) fn put_back(&mut self, removed: Removed<T>) {
        self.queues.extend(removed.queue);
        self.exchanges.extend(removed.exchanges);
        for (number, source, binding) in removed.bindings {
            self.link(source, number, binding);
        }
    }

    /// The routes of an exchange as it is now; none if it is gone, whatever has its name now.
    pub(super) fn compile(&self, slot: &Slot<T>) -> Option<Routes<T>> {
        let exchange = self
            .exchanges
            .get(&slot.name)
            .filter(|exchange| exchange.slot.id == slot.id)?;
        let mut numbers: AHashMap<&Target, u32> = AHashMap::new();
        let mut destinations = Vec::new();
        let mut numbered = Vec::with_capacity(exchange.bindings.len());
        for binding in exchange.bindings.values() {
            let number = match numbers.get(&binding.target) {
                Some(&number) => number,
                None => {
                    let Some(destination) = self.destination(&binding.target) else {
                        continue;
                    };
                    let number = destinations.len() as u32;
                    destinations.push(destination);
                    numbers.insert(&binding.target, number);
                    number
                }
            };
            numbered.push((binding.clone(), number));
        }
        Some(Routes::new(
            &exchange.declared,
            destinations,
            numbered.into_iter(),
        ))
    }

    fn destination(&self, target: &Target) -> Option<Destination<T>> {
        Some(match target {
            Target::Queue(name) => {
                let queue = self.queues.get(name)?;
                Destination::Queue {
                    id: queue.id,
                    handle: queue.handle.clone(),
                }
            }
            Target::Exchange(name) => Destination::Exchange(name.clone()),
        })
    }

    fn incoming(&mut self, target: &Target) -> Option<&mut Incoming> {
        match target {
            Target::Queue(name) => self.queues.get_mut(name).map(|queue| &mut queue.incoming),
            Target::Exchange(name) => self
                .exchanges
                .get_mut(name)
                .map(|exchange| &mut exchange.incoming),
        }
    }

    /// Lets both ends of a binding know it.
    fn link(&mut self, source: Arc<str>, number: u64, binding: Arc<Binding>) {
        if let Some(exchange) = self.exchanges.get_mut(&source) {
            exchange.numbers.insert(binding.clone(), number);
            exchange.bindings.insert(number, binding.clone());
            exchange.slot.invalidate();
        }
        if let Some(incoming) = self.incoming(&binding.target) {
            incoming.insert(number, source);
        }
    }

    /// Takes bindings from their sources. Returns the sources that have to go because of it.
    fn take_bindings(&mut self, bindings: Incoming, removed: &mut Removed<T>) -> Names {
        let mut doomed = Vec::new();
        for (number, source) in bindings {
            let Some(exchange) = self.exchanges.get_mut(&source) else {
                continue;
            };
            if let Some(binding) = exchange.bindings.remove(&number) {
                exchange.numbers.remove(&binding);
                exchange.slot.invalidate();
                if exchange.declared.auto_delete && exchange.bindings.is_empty() {
                    doomed.push(source.clone());
                }
                removed.bindings.push((number, source, binding));
            }
        }
        doomed
    }

    /// Removes exchanges, and those that have to go because of it. A loop and not a recursion: chains are as
    /// long as clients make them.
    fn remove_exchanges(&mut self, mut doomed: Names, removed: &mut Removed<T>) {
        while let Some(name) = doomed.pop() {
            let Some(mut exchange) = self.exchanges.remove(&name) else {
                continue;
            };
            exchange.slot.invalidate();
            exchange.numbers.clear();
            for (number, binding) in std::mem::take(&mut exchange.bindings) {
                if let Some(incoming) = self.incoming(&binding.target) {
                    incoming.remove(&number);
                }
                removed.bindings.push((number, name.clone(), binding));
            }
            let incoming = std::mem::take(&mut exchange.incoming);
            doomed.extend(self.take_bindings(incoming, removed));
            removed.exchanges.push((name, exchange));
        }
    }
}
