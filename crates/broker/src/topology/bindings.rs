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

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ahash::AHashMap;
use backbone_wire::table::Table;

use super::exchange::{Declared, ExchangeKind, Slot};
use super::plain::{PlainTable, plain_table};
use super::snapshot::{Destination, Routes};

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
}

impl Binding {
    pub(super) fn new(target: Target, key: &[u8], arguments: Table<'_>) -> Self {
        Self {
            target,
            key: key.into(),
            arguments: plain_table(arguments),
            arguments_raw: arguments.as_bytes().into(),
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
    incoming: Incoming,
}

/// Bindings that lead to something: number → source.
pub(super) type Incoming = BTreeMap<u64, Arc<str>>;

/// Names of queues or exchanges.
pub(super) type Names = Vec<Arc<str>>;

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
    pub(super) fn add_exchange(&mut self, name: &str, declared: Declared) -> Arc<Slot<T>> {
        let name: Arc<str> = name.into();
        let slot = Arc::new(Slot::new(self.next_exchange, name.clone(), &declared));
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

    /// Deletes an exchange with its bindings both ways. Returns the names of all exchanges that are gone.
    pub(super) fn remove_exchange(&mut self, name: &str) -> Names {
        match self.exchanges.get(name) {
            Some(exchange) => self.remove_exchanges(vec![exchange.slot.name.clone()]),
            None => Vec::new(),
        }
    }

    /// Adds a queue, or gives one that is there a new identity; its bindings stay.
    pub(super) fn add_queue(&mut self, name: &Arc<str>, id: u64, handle: T) {
        let Some(queue) = self.queues.get_mut(name) else {
            let queue = Queue {
                id,
                handle,
                aliases: Vec::new(),
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

    /// Removes a queue with its bindings. Returns its aliases and the names of the exchanges that went with the bindings.
    pub(super) fn remove_queue(&mut self, name: &str) -> Option<(Names, Names)> {
        let queue = self.queues.remove(name)?;
        let doomed = self.take_bindings(queue.incoming);
        Some((queue.aliases, self.remove_exchanges(doomed)))
    }

    /// Adds a binding between ends that are there. False: it was there before.
    pub(super) fn add_binding(&mut self, source: &str, binding: Binding) -> bool {
        let number = self.next_binding;
        let Some(exchange) = self.exchanges.get_mut(source) else {
            return false;
        };
        let binding = Arc::new(binding);
        if exchange.numbers.contains_key(&binding) {
            return false;
        }
        exchange.numbers.insert(binding.clone(), number);
        exchange.bindings.insert(number, binding.clone());
        exchange.slot.invalidate();
        let source = exchange.slot.name.clone();
        if let Some(incoming) = self.incoming(&binding.target) {
            incoming.insert(number, source);
        }
        self.next_binding += 1;
        true
    }

    /// Removes a binding. `None`: there was none; else the names of the exchanges that went with it.
    pub(super) fn remove_binding(&mut self, source: &str, binding: &Binding) -> Option<Names> {
        let exchange = self.exchanges.get(source)?;
        let number = *exchange.numbers.get(binding)?;
        let source = exchange.slot.name.clone();
        if let Some(incoming) = self.incoming(&binding.target) {
            incoming.remove(&number);
        }
        let doomed = self.take_bindings(Incoming::from([(number, source)]));
        Some(self.remove_exchanges(doomed))
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
        let default_match = match exchange.declared.kind {
            ExchangeKind::Headers => exchange.declared.default_match(),
            _ => Default::default(),
        };
        Some(Routes::new(
            exchange.declared.kind,
            default_match,
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

    /// Takes bindings from their sources. Returns the sources that have to go because of it.
    fn take_bindings(&mut self, bindings: Incoming) -> Names {
        let mut doomed = Vec::new();
        for (number, source) in bindings {
            let Some(exchange) = self.exchanges.get_mut(&source) else {
                continue;
            };
            if let Some(binding) = exchange.bindings.remove(&number) {
                exchange.numbers.remove(&binding);
                exchange.slot.invalidate();
                if exchange.declared.auto_delete && exchange.bindings.is_empty() {
                    doomed.push(source);
                }
            }
        }
        doomed
    }

    /// Removes exchanges, and those that have to go because of it. A loop and not a recursion: chains are as
    /// long as clients make them.
    fn remove_exchanges(&mut self, mut doomed: Names) -> Names {
        let mut removed = Vec::new();
        while let Some(name) = doomed.pop() {
            let Some(exchange) = self.exchanges.remove(&name) else {
                continue;
            };
            exchange.slot.invalidate();
            for (number, binding) in exchange.bindings {
                if let Some(incoming) = self.incoming(&binding.target) {
                    incoming.remove(&number);
                }
            }
            doomed.extend(self.take_bindings(exchange.incoming));
            removed.push(name);
        }
        removed
    }
}
