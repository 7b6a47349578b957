//! The compiled routes of one exchange: immutable, shared by all publishers.
//!
//! Made from the bindings by the first publisher after a change, in time proportional to their number, and never
//! changed: the next change drops it. Destinations are numbered in the order of their first binding, so that
//! the order of a message's targets is the same every time.

use std::sync::Arc;

use ahash::AHashMap;
use smallvec::SmallVec;

use super::bindings::Binding;
use super::exchange::{Declared, ExchangeKind};
use super::headers::{Headers, Match};
use super::pick::{Message, Pick};
use super::trie::{Matched, Trie};

/// The routes of an exchange.
#[derive(Debug)]
pub(super) struct Routes<T> {
    /// Each once, in the order of their first binding.
    pub(super) destinations: Vec<Destination<T>>,
    table: Table,
}

/// Where a binding leads.
#[derive(Debug)]
pub(super) enum Destination<T> {
    Queue {
        id: u64,
        handle: T,
    },
    /// By name: holding each other, exchanges bound in a circle would never be freed.
    Exchange(Arc<str>),
}

/// From a message to indices into the destinations.
#[derive(Debug)]
enum Table {
    Direct(AHashMap<Box<[u8]>, SmallVec<[u32; 2]>>),
    Fanout,
    Topic(Trie),
    Headers(Vec<HeadersRule>),
    One(Pick),
}

#[derive(Debug)]
struct HeadersRule {
    how: Match,
    binding: Arc<Binding>,
    destination: u32,
}

/// What a message matched: indices into the destinations, each once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selection<'a> {
    All,
    Some(&'a [u32]),
}

impl<T> Routes<T> {
    /// Compiles bindings, which come in their order, each with the number of its destination.
    pub(super) fn new(
        declared: &Declared,
        destinations: Vec<Destination<T>>,
        bindings: impl Iterator<Item = (Arc<Binding>, u32)>,
    ) -> Self {
        let kind = declared.routes_as();
        let table = match kind {
            ExchangeKind::Direct => Table::Direct(direct(bindings)),
            // A delayed exchange routes as something else.
            ExchangeKind::Fanout
            | ExchangeKind::RecentHistory
            | ExchangeKind::Deduplication
            | ExchangeKind::Delayed => Table::Fanout,
            ExchangeKind::Topic => Table::Topic(topic(bindings)),
            ExchangeKind::Headers => {
                let default_match = declared.default_match();
                let rules = bindings.map(|(binding, destination)| HeadersRule {
                    how: Match::of(&binding.arguments).unwrap_or(default_match),
                    binding,
                    destination,
                });
                Table::Headers(rules.collect())
            }
            ExchangeKind::ConsistentHash | ExchangeKind::ModulusHash | ExchangeKind::Random => {
                let hash_by = declared.hash_by();
                Table::One(Pick::new(kind, hash_by, bindings))
            }
        };
        Self {
            destinations,
            table,
        }
    }

    /// Whether the routes depend on more than the routing key.
    pub(super) fn depend_on_more(&self) -> bool {
        match &self.table {
            Table::Headers(_) => true,
            Table::One(pick) => pick.depends_on_more(),
            _ => false,
        }
    }

    /// Whether each key of a message finds its own destinations.
    pub(super) fn look_at_keys(&self) -> bool {
        matches!(self.table, Table::Direct(_) | Table::Topic(_))
    }

    /// The destinations of a message by its own key. `headers` is called for a headers exchange only; `scratch` is room to answer from.
    pub(super) fn select<'s, 'h: 's>(
        &'s self,
        message: &Message<'_>,
        headers: impl FnOnce() -> &'s Headers<'h>,
        scratch: &'s mut Matched,
    ) -> Selection<'s> {
        scratch.clear();
        let key = message.key;
        match &self.table {
            Table::Fanout => return Selection::All,
            Table::Direct(keys) => return Selection::Some(keys.get(key).map_or(&[], |list| list)),
            Table::Topic(trie) => {
                trie.matches(key, scratch);
            }
            Table::Headers(rules) => {
                let headers = headers();
                let hit = |rule: &&HeadersRule| rule.how.matches(&rule.binding.arguments, headers);
                scratch.extend(rules.iter().filter(hit).map(|rule| rule.destination));
            }
            Table::One(pick) => scratch.extend(pick.of(message)),
        }
        unique(scratch);
        Selection::Some(scratch)
    }
}

fn direct(
    bindings: impl Iterator<Item = (Arc<Binding>, u32)>,
) -> AHashMap<Box<[u8]>, SmallVec<[u32; 2]>> {
    let mut keys: AHashMap<Box<[u8]>, SmallVec<[u32; 2]>> = AHashMap::new();
    for (binding, destination) in bindings {
        match keys.get_mut(&binding.key) {
            Some(list) => list.push(destination),
            None => {
                keys.insert(binding.key.clone(), SmallVec::from_slice(&[destination]));
            }
        }
    }
    for list in keys.values_mut() {
        unique(list);
    }
    keys
}

fn topic(bindings: impl Iterator<Item = (Arc<Binding>, u32)>) -> Trie {
    let mut trie = Trie::new();
    for (binding, destination) in bindings {
        trie.insert(&binding.key, destination);
    }
    trie.finish();
    trie
}

/// Sorts and removes repeats.
fn unique<A: smallvec::Array<Item = u32>>(list: &mut SmallVec<A>) {
    if list.len() > 1 {
        list.sort_unstable();
        list.dedup();
    }
}
