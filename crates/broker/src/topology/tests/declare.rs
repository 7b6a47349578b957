//! Declaring, binding, unbinding and deleting: what is refused, in which words, and what goes along.

use super::*;

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
