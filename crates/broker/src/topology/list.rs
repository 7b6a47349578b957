//! What there is, for metrics and management: owned descriptions, made under the control plane's lock.

use std::sync::atomic::Ordering;

use super::bindings::{Exchange, Target};
use super::{ExchangeKind, Topology};

/// An exchange as it was declared, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeInfo {
    /// Empty for the default exchange.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with the last binding from it.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// The declaration's arguments: a table's bytes.
    pub arguments: Vec<u8>,
    /// Bindings that lead from it.
    pub bindings_out: usize,
    /// Bindings that lead to it.
    pub bindings_in: usize,
}

/// A binding, for listings. The default exchange's, one for each queue, are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingInfo {
    /// The exchange it leads from.
    pub source: String,
    /// The queue or exchange it leads to.
    pub destination: String,
    /// Whether the destination is an exchange.
    pub to_exchange: bool,
    /// Routing key or pattern.
    pub key: Vec<u8>,
    /// The arguments as they came: a table's bytes.
    pub arguments: Vec<u8>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Exchanges, the predeclared ones included.
    pub exchanges: usize,
    /// Queues; aliases do not count.
    pub queues: usize,
    /// Bindings, without those of the default exchange.
    pub bindings: usize,
    /// How often routes have been compiled since the start.
    pub compilations: u64,
}

impl ExchangeInfo {
    fn of<T>(name: &str, exchange: &Exchange<T>) -> Self {
        Self {
            name: name.to_owned(),
            kind: exchange.declared.kind,
            durable: exchange.declared.durable,
            auto_delete: exchange.declared.auto_delete,
            internal: exchange.declared.internal,
            arguments: exchange.declared.arguments.to_vec(),
            bindings_out: exchange.bindings.len(),
            bindings_in: exchange.incoming.len(),
        }
    }
}

fn bindings_of<T>(source: &str, exchange: &Exchange<T>, out: &mut Vec<BindingInfo>) {
    for binding in exchange.bindings.values() {
        let (destination, to_exchange) = match &binding.target {
            Target::Queue(name) => (name, false),
            Target::Exchange(name) => (name, true),
        };
        out.push(BindingInfo {
            source: source.to_owned(),
            destination: destination.to_string(),
            to_exchange,
            key: binding.key.to_vec(),
            arguments: binding.arguments_raw.to_vec(),
        });
    }
}

impl<T: Clone> Topology<T> {
    /// All exchanges, by name.
    pub fn list_exchanges(&self) -> Vec<ExchangeInfo> {
        let state = self.state.lock();
        let exchanges = state.exchanges.iter();
        let mut exchanges: Vec<_> = exchanges
            .map(|(name, exchange)| ExchangeInfo::of(name, exchange))
            .collect();
        drop(state);
        exchanges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        exchanges
    }

    /// One exchange.
    pub fn exchange(&self, name: &str) -> Option<ExchangeInfo> {
        let state = self.state.lock();
        let exchange = state.exchanges.get(name)?;
        Some(ExchangeInfo::of(name, exchange))
    }

    /// All bindings, by source and then in the order in which they were made.
    pub fn list_bindings(&self) -> Vec<BindingInfo> {
        let state = self.state.lock();
        let mut bindings = Vec::new();
        for (source, exchange) in &state.exchanges {
            bindings_of(source, exchange, &mut bindings);
        }
        drop(state);
        // Stable: keeps the order inside a source.
        bindings.sort_by(|a, b| a.source.cmp(&b.source));
        bindings
    }

    /// The bindings that lead from an exchange, in the order in which they were made.
    pub fn list_bindings_from(&self, source: &str) -> Vec<BindingInfo> {
        let state = self.state.lock();
        let mut bindings = Vec::new();
        if let Some(exchange) = state.exchanges.get(source) {
            bindings_of(source, exchange, &mut bindings);
        }
        bindings
    }

    /// How many queues there are; aliases do not count.
    pub fn queue_count(&self) -> usize {
        self.state.lock().queues.len()
    }

    /// How many exchanges, queues and bindings there are.
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts {
            exchanges: state.exchanges.len(),
            queues: state.queues.len(),
            bindings: state
                .exchanges
                .values()
                .map(|exchange| exchange.bindings.len())
                .sum(),
            compilations: self.compilations.load(Ordering::Relaxed),
        }
    }
}
