//! Behaviour of a whole topology, row by row of the specification.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backbone_wire::error::ReplyCode;
use backbone_wire::table::{TableBuf, Value};

use super::*;

/// The handle of a queue is its name here.
type Names = Topology<&'static str>;

const NO_ARGUMENTS: Table<'static> = Table::EMPTY;

fn spec<'a>(name: &'a str, kind: &'a str) -> ExchangeSpec<'a> {
    ExchangeSpec {
        name,
        kind,
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: NO_ARGUMENTS,
    }
}

fn alternate(name: &str) -> TableBuf {
    let mut arguments = TableBuf::new();
    arguments.put("alternate-exchange", &Value::from(name));
    arguments
}

/// A vhost `/` with the given queues, numbered from 1, and exchanges.
fn topology(queues: &[&'static str], exchanges: &[(&str, &str)]) -> Names {
    let topology = Names::new("/");
    for (index, queue) in queues.iter().enumerate() {
        topology.add_queue(queue, index as u64 + 1, queue);
    }
    for (name, kind) in exchanges {
        topology.declare_exchange(&spec(name, kind)).unwrap();
    }
    topology
}

impl Names {
    fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.bind_queue(queue, exchange, key.as_bytes(), NO_ARGUMENTS)
            .unwrap();
    }

    fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        self.unbind_queue(queue, exchange, key.as_bytes(), NO_ARGUMENTS)
            .unwrap();
    }

    fn link(&self, destination: &str, source: &str, key: &str) {
        self.bind_exchange(destination, source, key.as_bytes(), NO_ARGUMENTS)
            .unwrap();
    }

    /// The queues of a message, in the order of the answer.
    fn to(&self, exchange: &str, key: &str) -> Vec<&'static str> {
        self.try_to(exchange, key).unwrap()
    }

    fn try_to(&self, exchange: &str, key: &str) -> Result<Vec<&'static str>, Error> {
        let mut out = Targets::new();
        self.route(exchange.as_bytes(), key.as_bytes(), None, &mut out)?;
        Ok(out.into_iter().map(|(_, name)| name).collect())
    }

    fn exists(&self, exchange: &str) -> bool {
        self.declare_exchange(&ExchangeSpec {
            passive: true,
            ..spec(exchange, "")
        })
        .is_ok()
    }
}

#[track_caller]
fn refused<R: std::fmt::Debug>(result: Result<R, Error>, code: ReplyCode, text: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.code, &*error.text), (code, text));
}

#[test]
fn every_vhost_has_the_system_exchanges() {
    let topology = Names::new("/");
    let exchanges = topology.list_exchanges();
    let shown: Vec<_> = exchanges
        .iter()
        .map(|it| (&*it.name, it.kind.name(), it.internal))
        .collect();
    assert_eq!(
        shown,
        [
            ("", "direct", false),
            ("amq.direct", "direct", false),
            ("amq.fanout", "fanout", false),
            ("amq.headers", "headers", false),
            ("amq.match", "headers", false),
            ("amq.rabbitmq.trace", "topic", true),
            ("amq.topic", "topic", false),
        ]
    );
    assert!(exchanges.iter().all(|it| it.durable && !it.auto_delete));
    let again = ExchangeSpec {
        durable: true,
        ..spec("amq.direct", "direct")
    };
    assert_eq!(topology.declare_exchange(&again), Ok(()));
}

#[test]
fn names_that_may_not_be_declared_or_deleted() {
    let topology = topology(&["q"], &[("x", "direct")]);
    let not_default = "operation not permitted on the default exchange";
    let denied = ReplyCode::AccessRefused;
    refused(
        topology.declare_exchange(&spec("amq.foo", "direct")),
        denied,
        "exchange name 'amq.foo' contains reserved prefix 'amq.*'",
    );
    refused(
        topology.declare_exchange(&spec("", "direct")),
        denied,
        not_default,
    );
    let passive = ExchangeSpec {
        passive: true,
        ..spec("", "direct")
    };
    refused(topology.declare_exchange(&passive), denied, not_default);
    refused(topology.delete_exchange("", false), denied, not_default);
    refused(
        topology.bind_queue("q", "", b"k", NO_ARGUMENTS),
        denied,
        not_default,
    );
    refused(
        topology.unbind_queue("q", "", b"k", NO_ARGUMENTS),
        denied,
        not_default,
    );
    for (destination, source) in [("", "x"), ("x", "")] {
        refused(
            topology.bind_exchange(destination, source, b"k", NO_ARGUMENTS),
            denied,
            not_default,
        );
        refused(
            topology.unbind_exchange(destination, source, b"k", NO_ARGUMENTS),
            denied,
            not_default,
        );
    }
    for name in ["amq.direct", "amq.nope"] {
        let text = format!("deletion of system exchange '{name}' in vhost '/' not allowed");
        refused(topology.delete_exchange(name, false), denied, &text);
    }
    let unknown = topology.declare_exchange(&spec("y", "zzz"));
    refused(
        unknown,
        ReplyCode::CommandInvalid,
        "unknown exchange type 'zzz'",
    );
    assert!(!topology.exists("y"));
}

#[test]
fn passive_declaration_asks_for_the_name_only() {
    let topology = topology(&[], &[("x", "direct")]);
    let passive = |name| ExchangeSpec {
        passive: true,
        durable: true,
        ..spec(name, "fanout")
    };
    assert_eq!(topology.declare_exchange(&passive("x")), Ok(()));
    refused(
        topology.declare_exchange(&passive("y")),
        ReplyCode::NotFound,
        "no exchange 'y' in vhost '/'",
    );
}

#[test]
fn redeclaration_must_be_equivalent() {
    let topology = topology(&[], &[("x", "direct")]);
    let generation = topology.generation();
    assert_eq!(topology.declare_exchange(&spec("x", "direct")), Ok(()));
    let one = alternate("q");
    let x = spec("x", "direct");
    let cases = [
        (
            ExchangeSpec {
                kind: "fanout",
                durable: true,
                ..x
            },
            "'type'",
            "'fanout'",
            "'direct'",
        ),
        (
            ExchangeSpec {
                durable: true,
                auto_delete: true,
                ..x
            },
            "'durable'",
            "'true'",
            "'false'",
        ),
        (
            ExchangeSpec {
                auto_delete: true,
                internal: true,
                ..x
            },
            "'auto_delete'",
            "'true'",
            "'false'",
        ),
        (
            ExchangeSpec {
                internal: true,
                arguments: one.as_table(),
                ..x
            },
            "'internal'",
            "'true'",
            "'false'",
        ),
        (
            ExchangeSpec {
                arguments: one.as_table(),
                ..x
            },
            "'alternate-exchange'",
            "the value 'q' of type 'longstr'",
            "none",
        ),
    ];
    for (again, what, received, current) in cases {
        let text = format!(
            "inequivalent arg {what} for exchange 'x' in vhost '/': received {received} but current is {current}"
        );
        refused(
            topology.declare_exchange(&again),
            ReplyCode::PreconditionFailed,
            &text,
        );
    }
    let other = alternate("r");
    topology
        .declare_exchange(&ExchangeSpec {
            arguments: one.as_table(),
            ..spec("y", "topic")
        })
        .unwrap();
    refused(
        topology.declare_exchange(&ExchangeSpec {
            arguments: other.as_table(),
            ..spec("y", "topic")
        }),
        ReplyCode::PreconditionFailed,
        "inequivalent arg 'alternate-exchange' for exchange 'y' in vhost '/': received 'r' but current is 'q'",
    );
    assert_eq!(topology.generation(), generation + 1, "only y was new");
}

#[test]
fn arguments_of_exchanges_are_kept_and_only_the_known_one_is_checked() {
    let topology = topology(&[], &[]);
    let mut arguments = TableBuf::new();
    arguments.put("x-whatever", &Value::I32(1));
    let with = ExchangeSpec {
        arguments: arguments.as_table(),
        ..spec("x", "direct")
    };
    assert_eq!(topology.declare_exchange(&with), Ok(()));
    assert_eq!(
        topology.declare_exchange(&spec("x", "direct")),
        Ok(()),
        "others are not compared"
    );
    let listed = topology
        .list_exchanges()
        .into_iter()
        .find(|it| it.name == "x")
        .unwrap();
    assert_eq!(listed.arguments, arguments.as_table().as_bytes());
    let mut bad = TableBuf::new();
    bad.put("alternate-exchange", &Value::I32(1));
    refused(
        topology.declare_exchange(&ExchangeSpec {
            arguments: bad.as_table(),
            ..spec("y", "direct")
        }),
        ReplyCode::PreconditionFailed,
        "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'y' in vhost '/'",
    );
}

#[test]
fn line_ends_are_taken_out_of_names() {
    let topology = topology(&["q"], &[("a\r\nb", "fanout")]);
    assert_eq!(clean_name("a\r\nb"), "ab");
    assert!(topology.exists("ab") && topology.exists("a\nb"));
    topology.bind("q", "a\r\nb", "");
    assert_eq!(topology.to("ab", ""), ["q"]);
    topology.unbind("q\n", "ab\r", "");
    topology.delete_exchange("a\rb", true).unwrap();
    assert!(!topology.exists("ab"));
}

#[test]
fn publishing_to_missing_and_internal_exchanges_is_refused() {
    let topology = topology(&["q"], &[("front", "fanout")]);
    topology
        .declare_exchange(&ExchangeSpec {
            internal: true,
            ..spec("inner", "fanout")
        })
        .unwrap();
    topology.bind("q", "inner", "");
    refused(
        topology.try_to("nope", "k"),
        ReplyCode::NotFound,
        "no exchange 'nope' in vhost '/'",
    );
    let text = "cannot publish to internal exchange 'inner' in vhost '/'";
    refused(
        topology.try_to("inner", "k"),
        ReplyCode::AccessRefused,
        text,
    );
    topology.link("inner", "front", "");
    assert_eq!(topology.to("front", "k"), ["q"], "others may lead there");
    let mut out = Targets::new();
    topology
        .route_internal(b"inner", b"k", None, &mut out)
        .unwrap();
    assert_eq!(out[..], [(1, "q")]);
    assert!(
        topology
            .route_internal(b"nope", b"k", None, &mut out)
            .is_err()
    );
}

#[test]
fn binding_needs_both_ends_and_unbinding_none() {
    let topology = topology(&["q"], &[("x", "direct")]);
    let missing = ReplyCode::NotFound;
    let (no_exchange, no_queue) = (
        "no exchange 'nope' in vhost '/'",
        "no queue 'nope' in vhost '/'",
    );
    refused(
        topology.bind_queue("q", "nope", b"", NO_ARGUMENTS),
        missing,
        no_exchange,
    );
    refused(
        topology.bind_queue("nope", "x", b"", NO_ARGUMENTS),
        missing,
        no_queue,
    );
    refused(
        topology.bind_queue("nope", "nope", b"", NO_ARGUMENTS),
        missing,
        no_exchange,
    );
    refused(
        topology.bind_exchange("x", "nope", b"", NO_ARGUMENTS),
        missing,
        no_exchange,
    );
    refused(
        topology.bind_exchange("nope", "x", b"", NO_ARGUMENTS),
        missing,
        no_exchange,
    );
    let generation = topology.generation();
    for (queue, exchange) in [("q", "x"), ("nope", "x"), ("q", "nope")] {
        assert_eq!(
            topology.unbind_queue(queue, exchange, b"k", NO_ARGUMENTS),
            Ok(())
        );
        assert_eq!(
            topology.unbind_exchange(queue, exchange, b"k", NO_ARGUMENTS),
            Ok(())
        );
    }
    assert_eq!(topology.generation(), generation, "nothing has changed");
}

#[test]
fn default_exchange_routes_by_queue_name() {
    let topology = topology(&["q", "amq.gen-x"], &[]);
    assert_eq!(topology.to("", "q"), ["q"]);
    assert_eq!(topology.to("", "amq.gen-x"), ["amq.gen-x"]);
    assert!(topology.to("", "r").is_empty() && topology.to("", "").is_empty());
    assert_eq!(topology.queue("q"), Some("q"));
    topology.remove_queue("q");
    assert!(topology.to("", "q").is_empty());
    assert_eq!(topology.queue("q"), None);
}

#[test]
fn an_alias_is_a_second_name_of_the_queue() {
    let topology = topology(&["c-notify", "other"], &[("x", "direct")]);
    assert!(topology.alias_queue("c-broadcast", "c-notify"));
    assert!(!topology.alias_queue("c-broadcast", "other"), "taken");
    assert!(
        !topology.alias_queue("other", "c-notify"),
        "a queue has this name"
    );
    assert!(!topology.alias_queue("a", "nope"), "no such queue");
    assert_eq!(topology.to("", "c-broadcast"), ["c-notify"]);
    topology.bind("c-broadcast", "x", "k");
    topology.bind("c-notify", "x", "k");
    assert_eq!(topology.counts().bindings, 1, "one and the same binding");
    assert_eq!(topology.list_bindings()[0].destination, "c-notify");
    topology.unbind("c-broadcast", "x", "k");
    assert!(topology.to("x", "k").is_empty());
    topology.remove_queue("c-broadcast");
    assert_eq!(
        topology.to("", "c-broadcast"),
        ["c-notify"],
        "only the queue itself can go"
    );
    topology.remove_queue("c-notify");
    assert!(
        topology.to("", "c-broadcast").is_empty(),
        "and the alias goes with it"
    );
}

#[test]
fn a_queue_named_like_an_alias_takes_the_name_for_good() {
    let topology = topology(&["a"], &[]);
    assert!(topology.alias_queue("b", "a"));
    topology.add_queue("b", 9, "b");
    assert_eq!(topology.to("", "b"), ["b"]);
    topology.remove_queue("a");
    assert_eq!(topology.to("", "b"), ["b"]);
}

#[test]
fn a_queue_added_again_keeps_bindings_and_gets_the_new_handle() {
    let topology = topology(&["q"], &[]);
    topology.bind("q", "amq.fanout", "");
    topology.alias_queue("alias", "q");
    assert_eq!(topology.to("amq.fanout", ""), ["q"]);
    topology.add_queue("q", 77, "new");
    for (exchange, key) in [("amq.fanout", ""), ("", "q"), ("", "alias")] {
        assert_eq!(topology.to(exchange, key), ["new"]);
    }
}

#[test]
fn direct_fanout_and_topic_route_by_key() {
    let topology = topology(&["a", "b", "c"], &[]);
    topology.bind("a", "amq.direct", "k");
    topology.bind("b", "amq.direct", "k");
    topology.bind("c", "amq.direct", "other");
    assert_eq!(topology.to("amq.direct", "k"), ["a", "b"]);
    assert!(topology.to("amq.direct", "K").is_empty());
    topology.bind("b", "amq.fanout", "ignored");
    topology.bind("a", "amq.fanout", "");
    assert_eq!(
        topology.to("amq.fanout", "any"),
        ["b", "a"],
        "in the order of the bindings"
    );
    topology.bind("a", "amq.topic", "*.error");
    topology.bind("b", "amq.topic", "#.error.#");
    topology.bind("c", "amq.topic", "app.error");
    assert_eq!(topology.to("amq.topic", "app.error"), ["a", "b", "c"]);
    assert_eq!(topology.to("amq.topic", "error"), ["b"]);
    assert!(topology.to("amq.topic", "").is_empty());
}

#[test]
fn a_queue_is_reached_once_however_many_bindings_match() {
    let topology = topology(&["a", "b"], &[]);
    for key in ["#", "k.*", "*.k", "k.k", "#.k"] {
        topology.bind("a", "amq.topic", key);
    }
    topology.bind("b", "amq.topic", "k.#");
    topology.link("amq.topic", "amq.fanout", "");
    topology.bind("b", "amq.fanout", "1");
    topology.bind("b", "amq.fanout", "2");
    assert_eq!(topology.to("amq.topic", "k.k"), ["a", "b"]);
    assert_eq!(topology.to("amq.fanout", "k.k"), ["b", "a"]);
    // A further key of the same message (CC) adds what is not there yet.
    let mut out = Targets::new();
    for (exchange, key) in [
        ("", "b"),
        ("", "b"),
        ("amq.topic", "k.k"),
        ("amq.fanout", "k"),
        ("", "a"),
    ] {
        topology
            .route(exchange.as_bytes(), key.as_bytes(), None, &mut out)
            .unwrap();
    }
    assert_eq!(out[..], [(2, "b"), (1, "a")]);
}

#[test]
fn wide_fanouts_stay_unique() {
    let topology = topology(&[], &[("x", "fanout"), ("y", "fanout")]);
    for id in 0..500u64 {
        let name = format!("q{id}");
        topology.add_queue(&name, id, "q");
        topology.bind(&name, "x", "");
        topology.bind(&name, "y", "");
    }
    topology.link("y", "x", "");
    topology.add_queue("extra", 1_000, "q");
    topology.bind("extra", "y", "");
    let mut out = Targets::new();
    topology.route(b"x", b"", None, &mut out).unwrap();
    let ids: Vec<u64> = out.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (0..500).chain([1_000]).collect::<Vec<_>>());
}

#[test]
fn a_binding_is_source_destination_key_and_arguments_by_value() {
    let topology = topology(&["q"], &[("x", "headers")]);
    let table = |entries: &[(&str, Value<'_>)]| {
        let mut table = TableBuf::new();
        for (key, value) in entries {
            table.put(key, value);
        }
        table
    };
    let (a, b) = (("a", Value::I32(1)), ("b", Value::from("2")));
    let (ab, ba, only_a) = (
        table(&[a, b]),
        table(&[b, ("a", Value::I64(1))]),
        table(&[a]),
    );
    let bind = |arguments: &TableBuf| {
        topology
            .bind_queue("q", "x", b"k", arguments.as_table())
            .unwrap()
    };
    bind(&ab);
    let generation = topology.generation();
    bind(&ba);
    assert_eq!(
        (topology.counts().bindings, topology.generation()),
        (1, generation),
        "the same binding"
    );
    bind(&only_a);
    topology
        .bind_queue("q", "x", b"other", ab.as_table())
        .unwrap();
    topology.bind("q", "x", "k");
    assert_eq!(topology.counts().bindings, 4);
    assert_eq!(
        topology.list_bindings()[0].arguments,
        ab.as_table().as_bytes(),
        "kept as they came"
    );
    topology
        .unbind_queue("q", "x", b"k", ba.as_table())
        .unwrap();
    assert_eq!(topology.counts().bindings, 3);
    topology
        .unbind_queue("q", "x", b"k", ab.as_table())
        .unwrap();
    assert_eq!(topology.counts().bindings, 3, "not bound any more");
}

#[test]
fn headers_exchanges_look_at_headers() {
    let topology = topology(&["all", "any", "every"], &[]);
    let bind = |queue: &str, how: &str| {
        let mut arguments = TableBuf::new();
        arguments
            .put("x-match", &Value::from(how))
            .put("a", &Value::I32(1))
            .put("b", &Value::Void);
        topology
            .bind_queue(queue, "amq.headers", b"", arguments.as_table())
            .unwrap();
    };
    bind("all", "all");
    bind("any", "any");
    topology.bind("every", "amq.headers", "");
    let to = |headers: &TableBuf| {
        let mut out = Targets::new();
        let route = topology
            .route(b"amq.headers", b"k", Some(headers.as_table()), &mut out)
            .unwrap();
        assert!(!route.cacheable);
        out.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    let mut headers = TableBuf::new();
    assert_eq!(to(&headers), ["every"]);
    headers.put("a", &Value::I64(1));
    assert_eq!(to(&headers), ["any", "every"]);
    headers.put("b", &Value::from("anything"));
    assert_eq!(to(&headers), ["all", "any", "every"]);
    assert_eq!(
        topology.to("amq.headers", "k"),
        ["every"],
        "no headers at all"
    );
    let mut bad = TableBuf::new();
    bad.put("x-match", &Value::from("foo"));
    refused(
        topology.bind_queue("all", "amq.headers", b"", bad.as_table()),
        ReplyCode::PreconditionFailed,
        "Invalid x-match field value <<\"foo\">>; expected all, any, all-with-x, or any-with-x",
    );
    assert_eq!(
        topology.bind_queue("all", "amq.direct", b"", bad.as_table()),
        Ok(()),
        "means nothing there"
    );
}

#[test]
fn x_match_may_come_from_the_exchange() {
    let topology = topology(&["q"], &[]);
    let mut any = TableBuf::new();
    any.put("x-match", &Value::from("any"));
    topology
        .declare_exchange(&ExchangeSpec {
            arguments: any.as_table(),
            ..spec("x", "headers")
        })
        .unwrap();
    let mut arguments = TableBuf::new();
    arguments.put("a", &Value::I32(1)).put("b", &Value::I32(2));
    topology
        .bind_queue("q", "x", b"", arguments.as_table())
        .unwrap();
    let mut headers = TableBuf::new();
    headers.put("b", &Value::I32(2));
    let mut out = Targets::new();
    topology
        .route(b"x", b"", Some(headers.as_table()), &mut out)
        .unwrap();
    assert_eq!(out.len(), 1);
}

#[test]
fn exchanges_lead_to_exchanges_and_circles_end() {
    let topology = topology(
        &["qa", "qb", "qc"],
        &[("a", "fanout"), ("b", "topic"), ("c", "direct")],
    );
    topology.bind("qa", "a", "");
    topology.bind("qb", "b", "k.*");
    topology.bind("qc", "c", "k.1");
    topology.link("b", "a", "");
    topology.link("c", "b", "#");
    topology.link("a", "c", "k.1");
    topology.link("a", "a", "");
    for start in ["a", "b", "c"] {
        assert_eq!(topology.to(start, "k.1").len(), 3, "from {start}");
    }
    assert_eq!(topology.to("a", "k.2"), ["qa", "qb"]);
    topology
        .unbind_exchange("c", "b", b"#", NO_ARGUMENTS)
        .unwrap();
    assert_eq!(topology.to("a", "k.1"), ["qa", "qb"]);
    topology.delete_exchange("b", false).unwrap();
    assert_eq!(topology.to("a", "k.1"), ["qa"]);
    let mut out = Targets::new();
    assert!(
        topology
            .route(b"a", b"k", None, &mut out)
            .unwrap()
            .cacheable
    );
    topology.link("amq.headers", "a", "");
    assert!(
        !topology
            .route(b"a", b"k", None, &mut out)
            .unwrap()
            .cacheable
    );
}

#[test]
fn a_long_chain_of_exchanges_neither_recurses_nor_stays() {
    let topology = topology(&["q"], &[]);
    const LENGTH: usize = 20_000;
    for n in 0..LENGTH {
        let name = format!("x{n}");
        topology
            .declare_exchange(&ExchangeSpec {
                auto_delete: true,
                ..spec(&name, "fanout")
            })
            .unwrap();
        if n > 0 {
            topology.link(&name, &format!("x{}", n - 1), "");
        }
    }
    topology.bind("q", &format!("x{}", LENGTH - 1), "");
    assert_eq!(topology.to("x0", "k"), ["q"]);
    topology.remove_queue("q");
    assert_eq!(
        topology.counts(),
        Counts {
            compilations: LENGTH as u64,
            ..Names::new("/").counts()
        }
    );
}

#[test]
fn what_matches_nothing_goes_to_the_alternate_exchange() {
    let topology = topology(&["direct", "first", "last"], &[("last", "fanout")]);
    let declare = |name: &str, kind: &str, to: &str| {
        let arguments = alternate(to);
        topology
            .declare_exchange(&ExchangeSpec {
                arguments: arguments.as_table(),
                ..spec(name, kind)
            })
            .unwrap();
    };
    declare("x", "direct", "y");
    assert!(topology.to("x", "k").is_empty(), "a missing one drops");
    declare("y", "topic", "last");
    topology.bind("direct", "x", "k");
    topology.bind("first", "y", "a.#");
    topology.bind("last", "last", "");
    assert_eq!(topology.to("x", "k"), ["direct"]);
    assert_eq!(topology.to("x", "a.b"), ["first"], "with its own key");
    assert_eq!(topology.to("x", "b"), ["last"], "a chain");
    declare("circle", "direct", "elcric");
    declare("elcric", "direct", "circle");
    assert!(topology.to("circle", "k").is_empty());
    declare("to-default", "direct", "");
    assert!(topology.to("to-default", "direct").is_empty());
    // A binding to an exchange is a match, even if that one routes nowhere.
    topology.link("elcric", "x", "nowhere");
    assert!(topology.to("x", "nowhere").is_empty());
}

#[test]
fn deleting_an_exchange_takes_bindings_both_ways() {
    let topology = topology(&["q"], &[("a", "fanout"), ("b", "fanout"), ("c", "fanout")]);
    topology.link("b", "a", "");
    topology.link("c", "b", "");
    topology.link("b", "b", "");
    topology.bind("q", "b", "");
    topology.bind("q", "c", "");
    assert_eq!(topology.to("a", ""), ["q"]);
    refused(
        topology.delete_exchange("b", true),
        ReplyCode::PreconditionFailed,
        "exchange 'b' in vhost '/' in use",
    );
    topology.delete_exchange("b", false).unwrap();
    assert_eq!(
        topology.delete_exchange("b", true),
        Ok(()),
        "missing is fine"
    );
    assert!(topology.to("a", "").is_empty());
    assert_eq!(topology.counts().bindings, 1);
    assert!(topology.try_to("b", "").is_err());
    topology.declare_exchange(&spec("b", "fanout")).unwrap();
    assert!(topology.to("b", "").is_empty(), "a new one starts empty");
    assert!(topology.to("a", "").is_empty());
    topology.link("a", "c", "");
    topology.link("a", "b", "");
    topology.unbind("q", "c", "");
    assert_eq!(
        topology.delete_exchange("a", true),
        Ok(()),
        "being a destination is no use"
    );
}

#[test]
fn auto_delete_exchanges_go_with_their_last_binding() {
    let topology = topology(&["q", "r"], &[("plain", "fanout")]);
    let declare = |name: &str| {
        topology
            .declare_exchange(&ExchangeSpec {
                auto_delete: true,
                ..spec(name, "direct")
            })
            .unwrap();
    };
    declare("x");
    topology.unbind("q", "x", "never");
    topology.link("x", "plain", "");
    topology
        .unbind_exchange("x", "plain", b"", NO_ARGUMENTS)
        .unwrap();
    assert!(
        topology.exists("x"),
        "not before there was one, and bindings to it do not count"
    );
    topology.bind("q", "x", "1");
    topology.bind("r", "x", "2");
    topology.unbind("q", "x", "1");
    assert!(topology.exists("x"));
    topology.unbind("r", "x", "2");
    assert!(!topology.exists("x"));
    declare("by-queue");
    topology.bind("q", "by-queue", "1");
    topology.bind("q", "by-queue", "2");
    topology.remove_queue("q");
    assert!(!topology.exists("by-queue"));
    declare("first");
    declare("second");
    topology.link("second", "first", "");
    topology.link("plain", "second", "");
    topology.delete_exchange("plain", false).unwrap();
    assert!(
        !topology.exists("second") && !topology.exists("first"),
        "one takes the other along"
    );
}

#[test]
fn ten_thousand_binds_compile_nothing_and_one_message_compiles_once() {
    let topology = topology(&["q", "r"], &[("busy", "topic"), ("other", "direct")]);
    topology.bind("r", "other", "k");
    assert_eq!(topology.to("other", "k"), ["r"]);
    let before = topology.counts().compilations;
    for n in 0..10_000 {
        topology.bind("q", "busy", &format!("w{n}.*"));
    }
    assert_eq!(topology.counts().compilations, before);
    for n in 0..100 {
        assert_eq!(topology.to("busy", &format!("w{n}.x")), ["q"]);
        assert_eq!(topology.to("other", "k"), ["r"], "is not compiled again");
    }
    assert_eq!(topology.counts().compilations, before + 1);
    topology.remove_queue("q");
    assert!(topology.to("busy", "w1.x").is_empty());
    assert_eq!(topology.counts().compilations, before + 2);
}

#[test]
fn generation_grows_with_every_change_that_may_alter_a_route() {
    let topology = Names::new("/");
    let mut last = topology.generation();
    let mut grew = |what: &str| {
        let now = topology.generation();
        assert!(now > last, "{what}");
        last = now;
    };
    topology.add_queue("q", 1, "q");
    grew("a queue added");
    topology.alias_queue("p", "q");
    grew("an alias");
    topology.declare_exchange(&spec("x", "fanout")).unwrap();
    grew("an exchange declared");
    topology.bind("q", "x", "");
    grew("a binding");
    topology.unbind("q", "x", "");
    grew("an unbinding");
    topology.link("x", "amq.fanout", "");
    grew("a binding between exchanges");
    topology.delete_exchange("x", false).unwrap();
    grew("an exchange deleted");
    topology.remove_queue("q");
    grew("a queue removed");
    topology.remove_queue("q");
    topology.delete_exchange("x", false).unwrap();
    topology.unbind("q", "amq.fanout", "");
    assert_eq!(topology.generation(), last, "nothing was there");
}

#[test]
fn queue_handles_are_let_go_at_once() {
    let topology: Topology<Arc<()>> = Topology::new("/");
    let handle = Arc::new(());
    topology.add_queue("q", 1, handle.clone());
    topology
        .bind_queue("q", "amq.fanout", b"", NO_ARGUMENTS)
        .unwrap();
    topology
        .bind_exchange("amq.fanout", "amq.topic", b"#", NO_ARGUMENTS)
        .unwrap();
    let mut out = Targets::new();
    topology.route(b"amq.topic", b"k", None, &mut out).unwrap();
    assert_eq!(out.len(), 1);
    drop(out);
    topology.remove_queue("q");
    assert_eq!(Arc::strong_count(&handle), 1, "no compiled route holds it");
}

#[test]
fn publishers_see_whole_changes_while_others_bind() {
    let topology = topology(&["fixed"], &[("x", "topic")]);
    topology.bind("fixed", "x", "fixed.*");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                // What a connection does: keep the answer while the generation is the same.
                let mut kept: Option<(Route, usize)> = None;
                while !done.load(Ordering::Acquire) {
                    assert_eq!(topology.to("x", "fixed.1"), ["fixed"]);
                    let valid = kept.filter(|(route, _)| route.generation == topology.generation());
                    let count = valid.map_or_else(
                        || {
                            let mut out = Targets::new();
                            let route = topology.route(b"x", b"new", None, &mut out).unwrap();
                            kept = Some((route, out.len()));
                            out.len()
                        },
                        |(_, count)| count,
                    );
                    assert!(count >= seen, "bindings are only added");
                    seen = count;
                }
            });
        }
        let _stop = Stop(&done);
        let mut ids = BTreeSet::new();
        for n in 0..300u64 {
            let name = format!("q{n}");
            topology.add_queue(&name, 100 + n, "new");
            topology.bind(&name, "x", "new");
            ids.insert(100 + n);
            let mut out = Targets::new();
            topology.route(b"x", b"new", None, &mut out).unwrap();
            let found: BTreeSet<u64> = out.iter().map(|(id, _)| *id).collect();
            assert_eq!(found, ids, "a change is seen as soon as it returns");
        }
    });
}

/// Ends the other threads, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
