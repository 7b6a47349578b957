//! The topology against a model: the same random operations on both, and brute-force routing over a plain list of
//! bindings after each.

use std::collections::{BTreeMap, BTreeSet};

use backbone_wire::table::{Table, TableBuf, Value};
use proptest::prelude::*;
use proptest::sample::select;

use super::trie::tests::naive;
use super::{ExchangeSpec, Route, Targets, Topology};

/// The exchanges that clients make; `amq.topic` is always there beside them.
const EXCHANGES: [&str; 4] = ["a", "b", "c", "amq.topic"];
const QUEUES: [&str; 4] = ["p", "q", "r", "s"];
const KINDS: [&str; 4] = ["direct", "fanout", "topic", "headers"];
const KEYS: [&str; 8] = ["", "k", "k.l", "k.", "#", "k.*", "*", "#.l"];

/// Arguments of a binding or headers of a message: `x-match` and what `h` and `i` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fields {
    any: bool,
    h: Option<i64>,
    i: Option<i64>,
    /// The order and width on the wire, which must not matter.
    turned: bool,
}

#[derive(Debug, Clone)]
struct Ends {
    source: &'static str,
    target: Target,
    key: &'static str,
    fields: Fields,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Queue(&'static str),
    Exchange(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Declared {
    kind: &'static str,
    auto_delete: bool,
    internal: bool,
    alternate: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Operation {
    Declare(&'static str, Declared),
    Delete {
        exchange: &'static str,
        if_unused: bool,
    },
    AddQueue(&'static str),
    RemoveQueue(&'static str),
    Bind(Ends),
    Unbind(Ends),
    /// Bindings that there are go more often than at random: the n-th of them.
    UnbindNth(usize),
}

#[derive(Debug, Default)]
struct Model {
    exchanges: BTreeMap<&'static str, Declared>,
    queues: BTreeMap<&'static str, u64>,
    bindings: Vec<Ends>,
    next_id: u64,
}

impl Fields {
    fn table(&self) -> TableBuf {
        let mut table = TableBuf::new();
        let how = if self.any { "any" } else { "all" };
        let number = |value| {
            if self.turned {
                Value::I64(value)
            } else {
                Value::I32(value as i32)
            }
        };
        let mut entries = vec![("x-match", Some(Value::from(how)))];
        entries.push(("h", self.h.map(number)));
        entries.push(("i", self.i.map(number)));
        if self.turned {
            entries.reverse();
        }
        for (key, value) in entries {
            if let Some(value) = value {
                table.put(key, &value);
            }
        }
        table
    }

    fn same(&self, other: &Self) -> bool {
        (self.any, self.h, self.i) == (other.any, other.h, other.i)
    }

    /// Whether a binding with these arguments takes a message with those headers.
    fn take(&self, headers: &Self) -> bool {
        let asked = [(self.h, headers.h), (self.i, headers.i)];
        let mut asked = asked.iter().filter(|(pattern, _)| pattern.is_some());
        if self.any {
            asked.any(|(p, v)| p == v)
        } else {
            asked.all(|(p, v)| p == v)
        }
    }
}

impl Ends {
    fn same(&self, other: &Self) -> bool {
        self.source == other.source
            && self.target == other.target
            && self.key == other.key
            && self.fields.same(&other.fields)
    }
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        let topic = Declared {
            kind: "topic",
            auto_delete: false,
            internal: false,
            alternate: None,
        };
        model.exchanges.insert("amq.topic", topic);
        model
    }

    /// Removes the bindings that `gone` names, and all that goes because of it.
    fn unbind_all(&mut self, gone: impl Fn(&Ends) -> bool) {
        let sources: Vec<_> = self
            .bindings
            .iter()
            .filter(|it| gone(it))
            .map(|it| it.source)
            .collect();
        self.bindings.retain(|it| !gone(it));
        for source in sources {
            let unused = !self.bindings.iter().any(|it| it.source == source);
            if unused && self.exchanges.get(source).is_some_and(|it| it.auto_delete) {
                self.delete(source);
            }
        }
    }

    fn delete(&mut self, exchange: &'static str) {
        if self.exchanges.remove(exchange).is_some() {
            self.bindings.retain(|it| it.source != exchange);
            self.unbind_all(|it| it.target == Target::Exchange(exchange));
        }
    }

    fn there(&self, ends: &Ends) -> bool {
        self.exchanges.contains_key(ends.source)
            && match ends.target {
                Target::Queue(name) => self.queues.contains_key(name),
                Target::Exchange(name) => self.exchanges.contains_key(name),
            }
    }

    fn route(&self, exchange: &'static str, key: &str, headers: &Fields) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut pending = vec![exchange];
        while let Some(name) = pending.pop() {
            let Some(declared) = self.exchanges.get(name) else {
                continue;
            };
            if !seen.insert(name) {
                continue;
            }
            let mut matched = false;
            for binding in self.bindings.iter().filter(|it| it.source == name) {
                let hit = match declared.kind {
                    "direct" => binding.key == key,
                    "fanout" => true,
                    "topic" => naive(binding.key.as_bytes(), key.as_bytes()),
                    _ => binding.fields.take(headers),
                };
                if hit {
                    matched = true;
                    match binding.target {
                        Target::Queue(name) => drop(found.insert(self.queues[name])),
                        Target::Exchange(name) => pending.push(name),
                    }
                }
            }
            if !matched {
                pending.extend(declared.alternate);
            }
        }
        found
    }
}

/// The model and the real thing, doing the same.
struct Pair {
    model: Model,
    real: Topology<u64>,
    /// What a publisher would remember: (exchange, key) → answer.
    kept: BTreeMap<(&'static str, &'static str), (Route, BTreeSet<u64>)>,
}

impl Pair {
    fn new() -> Self {
        Self {
            model: Model::new(),
            real: Topology::new("/"),
            kept: BTreeMap::new(),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Declare(name, declared) => self.declare(name, *declared),
            Operation::Delete {
                exchange,
                if_unused,
            } => {
                let used = self.model.bindings.iter().any(|it| it.source == *exchange);
                let refused = exchange.starts_with("amq.") || (*if_unused && used);
                assert_eq!(
                    self.real.delete_exchange(exchange, *if_unused).is_err(),
                    refused
                );
                if !refused {
                    self.model.delete(exchange);
                }
            }
            Operation::AddQueue(name) => {
                if !self.model.queues.contains_key(name) {
                    self.model.next_id += 1;
                    self.model.queues.insert(name, self.model.next_id);
                    self.real
                        .add_queue(name, self.model.next_id, self.model.next_id);
                }
            }
            Operation::RemoveQueue(name) => {
                self.real.remove_queue(name);
                self.model.queues.remove(name);
                self.model.unbind_all(|it| it.target == Target::Queue(name));
            }
            Operation::Bind(ends) => {
                let there = self.model.there(ends);
                let table = ends.fields.table();
                let (key, arguments) = (ends.key.as_bytes(), table.as_table());
                let bound = match ends.target {
                    Target::Queue(name) => self.real.bind_queue(name, ends.source, key, arguments),
                    Target::Exchange(name) => {
                        self.real.bind_exchange(name, ends.source, key, arguments)
                    }
                };
                assert_eq!(bound.is_ok(), there);
                if there && !self.model.bindings.iter().any(|it| it.same(ends)) {
                    self.model.bindings.push(ends.clone());
                }
            }
            Operation::Unbind(ends) => self.unbind(ends),
            Operation::UnbindNth(n) => {
                let count = self.model.bindings.len();
                if count > 0 {
                    let mut ends = self.model.bindings[n % count].clone();
                    ends.fields.turned = !ends.fields.turned;
                    self.unbind(&ends);
                }
            }
        }
    }

    fn declare(&mut self, name: &'static str, declared: Declared) {
        let mut arguments = TableBuf::new();
        if let Some(alternate) = declared.alternate {
            arguments.put("alternate-exchange", &Value::from(alternate));
        }
        let spec = ExchangeSpec {
            name,
            kind: declared.kind,
            passive: false,
            durable: false,
            auto_delete: declared.auto_delete,
            internal: declared.internal,
            arguments: arguments.as_table(),
        };
        let result = self.real.declare_exchange(&spec);
        if !self.model.exchanges.contains_key(name) {
            result.unwrap();
            self.model.exchanges.insert(name, declared);
        }
    }

    fn unbind(&mut self, ends: &Ends) {
        let table = ends.fields.table();
        let (key, arguments) = (ends.key.as_bytes(), table.as_table());
        match ends.target {
            Target::Queue(name) => self.real.unbind_queue(name, ends.source, key, arguments),
            Target::Exchange(name) => self.real.unbind_exchange(name, ends.source, key, arguments),
        }
        .unwrap();
        self.model.unbind_all(|it| it.same(ends));
    }

    /// Compares everything that can be seen from outside.
    fn compare(&mut self, headers: &Fields) {
        let counts = self.real.counts();
        assert_eq!(counts.bindings, self.model.bindings.len());
        assert_eq!(counts.queues, self.model.queues.len());
        // All but amq.topic, which is in both, and the other six.
        assert_eq!(counts.exchanges, self.model.exchanges.len() + 6);
        for listed in self.real.list_exchanges() {
            let out = self
                .model
                .bindings
                .iter()
                .filter(|it| it.source == listed.name)
                .count();
            let to_it =
                |it: &&Ends| matches!(it.target, Target::Exchange(name) if name == listed.name);
            let into = self.model.bindings.iter().filter(to_it).count();
            assert_eq!(
                (listed.bindings_out, listed.bindings_in),
                (out, into),
                "{}",
                listed.name
            );
        }
        let table = headers.table();
        for exchange in EXCHANGES {
            for key in KEYS {
                let mut out = Targets::new();
                let answer = self.real.route_internal(
                    exchange.as_bytes(),
                    key.as_bytes(),
                    Some(table.as_table()),
                    &mut out,
                );
                assert_eq!(answer.is_ok(), self.model.exchanges.contains_key(exchange));
                let found: BTreeSet<u64> = out.iter().map(|(id, _)| *id).collect();
                assert_eq!(found.len(), out.len(), "each queue once");
                let expected = self.model.route(exchange, key, headers);
                assert_eq!(found, expected, "{exchange:?} {key:?} {headers:?}");
                self.compare_kept(exchange, key, &expected);
                if let Ok(route) = answer.as_ref().copied() {
                    self.kept.insert((exchange, key), (route, found));
                }
                let internal = self
                    .model
                    .exchanges
                    .get(exchange)
                    .is_some_and(|it| it.internal);
                let published = self.real.route(
                    exchange.as_bytes(),
                    key.as_bytes(),
                    None,
                    &mut Targets::new(),
                );
                assert_eq!(published.is_ok(), answer.is_ok() && !internal);
            }
        }
        for queue in QUEUES {
            let mut out = Targets::new();
            self.real
                .route(b"", queue.as_bytes(), None, &mut out)
                .unwrap();
            let expected: Vec<u64> = self.model.queues.get(queue).copied().into_iter().collect();
            assert_eq!(out.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected);
        }
    }

    /// An answer that was kept must still be right while its generation is the current one.
    fn compare_kept(&self, exchange: &'static str, key: &'static str, expected: &BTreeSet<u64>) {
        if let Some((route, found)) = self.kept.get(&(exchange, key))
            && route.cacheable
            && route.generation == self.real.generation()
        {
            assert_eq!(found, expected, "kept answer for {exchange:?} {key:?}");
        }
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    let number = || prop::option::of(0..2i64);
    (any::<bool>(), number(), number(), any::<bool>()).prop_map(|(any, h, i, turned)| Fields {
        any,
        h,
        i,
        turned,
    })
}

fn declared() -> impl Strategy<Value = Declared> {
    let alternate = prop::option::of(select(&EXCHANGES[..]));
    (
        select(&KINDS[..]),
        any::<bool>(),
        prop::bool::weighted(0.2),
        alternate,
    )
        .prop_map(|(kind, auto_delete, internal, alternate)| Declared {
            kind,
            auto_delete,
            internal,
            alternate,
        })
}

fn ends() -> impl Strategy<Value = Ends> {
    let target = prop_oneof![
        2 => select(&QUEUES[..]).prop_map(Target::Queue),
        1 => select(&EXCHANGES[..]).prop_map(Target::Exchange),
    ];
    (select(&EXCHANGES[..]), target, select(&KEYS[..]), fields()).prop_map(
        |(source, target, key, fields)| Ends {
            source,
            target,
            key,
            fields,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (select(&EXCHANGES[..3]), declared()).prop_map(|(name, it)| Operation::Declare(name, it)),
        1 => (select(&EXCHANGES[..]), any::<bool>())
            .prop_map(|(exchange, if_unused)| Operation::Delete { exchange, if_unused }),
        4 => select(&QUEUES[..]).prop_map(Operation::AddQueue),
        1 => select(&QUEUES[..]).prop_map(Operation::RemoveQueue),
        12 => ends().prop_map(Operation::Bind),
        2 => ends().prop_map(Operation::Unbind),
        3 => any::<usize>().prop_map(Operation::UnbindNth),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec((operation(), fields(), any::<bool>()), 1..60)) {
        let mut pair = Pair::new();
        for (operation, headers, look) in steps {
            pair.apply(&operation);
            // Not after every operation, so that several changes meet one compilation.
            if look {
                pair.compare(&headers);
            }
        }
        pair.compare(&Fields { any: false, h: None, i: None, turned: false });
    }
}

#[test]
fn the_models_tables_are_well_formed() {
    let fields = Fields {
        any: true,
        h: Some(1),
        i: None,
        turned: true,
    };
    let table = fields.table();
    assert!(Table::from_bytes(table.as_table().as_bytes()).is_ok());
    assert_eq!(table.as_table().iter().count(), 2);
}
