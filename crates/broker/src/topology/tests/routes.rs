//! Where messages go.

use super::*;

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
