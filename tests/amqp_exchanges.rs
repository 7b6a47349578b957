//! Exchanges: those that pick one destination for each message, by a hash or at random, alternate ones, and names.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use backbone_wire::ShortStr;
use backbone_wire::method::{Method, basic, exchange, queue};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{ArrayBuf, Table, TableBuf, Value};
use common::Server;
use common::dialog::{bind, bind_all, declare_exchange, exchange, plain, table};
use common::raw::{Raw, publish_with, short};

/// Publishes 300 keys; which keys each of the queues has then, which are emptied.
fn spread(peer: &mut Raw, exchange: &str, queues: &[(&str, &str)]) -> Vec<Vec<String>> {
    for number in 0..300 {
        let key = format!("key-{number}");
        peer.publish_with(1, (exchange, &key, false), &plain(), key.as_bytes());
    }
    let each = queues.iter().map(|(name, _)| peer.take_all(name));
    let spread: Vec<Vec<String>> = each.collect();
    assert_eq!(
        spread.iter().map(Vec::len).sum::<usize>(),
        300,
        "each key once"
    );
    spread
}

const THREE: &[(&str, &str)] = &[("a", "1"), ("b", "1"), ("c", "2")];

#[actix_web::test]
async fn a_consistent_hash_keeps_keys_where_they_are_as_far_as_it_can_also_after_a_crash() {
    let mut server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    declare_exchange(&mut peer, "x", "x-consistent-hash", &[]);
    bind_all(&mut peer, "x", THREE);
    let before = spread(&mut peer, "x", THREE);
    assert!(before.iter().all(|keys| keys.len() > 30), "{before:?}");
    assert!(before[2].len() > before[0].len() && before[2].len() > before[1].len());
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    assert_eq!(spread(&mut peer, "x", THREE), before);
    // One more takes keys from the others, and gives them back.
    bind_all(&mut peer, "x", &[("d", "1")]);
    let four = [THREE, &[("d", "1")]].concat();
    let with_d = spread(&mut peer, "x", &four);
    assert!(with_d[3].len() > 20);
    for (old, new) in before.iter().zip(&with_d) {
        assert!(new.iter().all(|key| old.contains(key)));
    }
    let delete = queue::Delete {
        queue: short("d"),
        ..queue::Delete::default()
    };
    peer.method(1, &Method::QueueDelete(delete));
    peer.expect("queue.delete-ok");
    assert_eq!(spread(&mut peer, "x", THREE), before);
}

#[actix_web::test]
async fn a_consistent_hash_may_be_of_a_header_or_a_property() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let header = [("hash-header", Value::from("h"))];
    declare_exchange(&mut peer, "header", "x-consistent-hash", &header);
    for property in ["message_id", "correlation_id", "timestamp"] {
        let arguments = [("hash-property", Value::from(property))];
        declare_exchange(&mut peer, property, "x-consistent-hash", &arguments);
    }
    let queues = [("a", "1"), ("b", "1")];
    for exchange in ["header", "message_id", "correlation_id", "timestamp"] {
        bind_all(&mut peer, exchange, &queues);
        let mut homes = Vec::new();
        for round in 0..2 {
            for number in 0..40u64 {
                let id = number.to_string();
                let headers = table(&[("h", Value::from(&*id)), ("other", Value::I64(round))]);
                let properties = PropertiesBuilder {
                    headers: Some(headers.as_table()),
                    message_id: Some(short(&id)),
                    correlation_id: Some(short(&id)),
                    timestamp: Some(number),
                    ..plain()
                };
                let key = format!("{round}-{number}");
                peer.publish_with(1, (exchange, &key, false), &properties, id.as_bytes());
            }
            homes.push([peer.take_all("a"), peer.take_all("b")]);
        }
        assert!(homes[0].iter().all(|home| home.len() > 5), "{exchange}");
        assert_eq!(homes[0], homes[1], "{exchange}: the key does not matter");
        // Without it, all go together.
        for number in 0..20 {
            peer.publish_with(1, (exchange, &number.to_string(), false), &plain(), b"x");
        }
        let counts = ["a", "b"].map(|name| peer.take_all(name).len());
        assert_eq!(counts.iter().max(), Some(&20), "{exchange}");
    }
}

#[actix_web::test]
async fn what_a_consistent_hash_cannot_be_is_refused() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    declare_exchange(&mut peer, "x", "x-consistent-hash", &[]);
    peer.declare("q");
    for (key, text) in [
        ("abc", "The binding key must be an integer: <<\"abc\">>"),
        (" 1", "The binding key must be an integer: <<\" 1\">>"),
        ("0", "The binding key must be greater than 0"),
        ("-1", "The binding key must be greater than 0"),
    ] {
        let text = format!("PRECONDITION_FAILED - {text}");
        assert_eq!(peer.refused(1, &bind("q", "x", key)), (406, text));
    }
    let both = [
        ("hash-header", Value::from("a")),
        ("hash-property", Value::from("message_id")),
    ];
    let unknown = [("hash-property", Value::from("foo"))];
    for (arguments, text) in [
        (
            &both[..],
            "hash-header and hash-property are mutually exclusive",
        ),
        (&unknown[..], "Unsupported property: foo"),
    ] {
        let arguments = table(arguments);
        let declare = exchange::Declare {
            arguments: arguments.as_table(),
            ..exchange("y", "x-consistent-hash")
        };
        let text = format!("PRECONDITION_FAILED - {text}");
        assert_eq!(
            peer.refused(1, &Method::ExchangeDeclare(declare)),
            (406, text)
        );
    }
    // A key that is no weight is none of another exchange's.
    peer.method(1, &Method::ExchangeDeclare(exchange("y", "no-such-type")));
    let text = "COMMAND_INVALID - unknown exchange type 'no-such-type'".to_owned();
    assert_eq!(peer.ended(), (503, text));
}

#[actix_web::test]
async fn a_modulus_hash_and_a_random_exchange_pick_one_queue_each_time() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    declare_exchange(&mut peer, "modulus", "x-modulus-hash", &[]);
    declare_exchange(&mut peer, "random", "x-random", &[]);
    let queues = [("a", ""), ("b", "any"), ("c", "")];
    for exchange in ["modulus", "random"] {
        bind_all(&mut peer, exchange, &queues);
        let first = spread(&mut peer, exchange, &queues);
        assert!(first.iter().all(|keys| keys.len() > 60), "{first:?}");
        let second = spread(&mut peer, exchange, &queues);
        assert_eq!(first == second, exchange == "modulus", "{exchange}");
    }
}

type List = &'static [&'static str];

fn headers<'a>(entries: Table<'a>) -> PropertiesBuilder<'a> {
    PropertiesBuilder {
        headers: Some(entries),
        ..plain()
    }
}

/// Headers with further keys: those in `CC`, and those in `BCC`.
fn further(copies: &[&str], blind: &[&str]) -> TableBuf {
    let mut entries = TableBuf::new();
    for (name, keys) in [("CC", copies), ("BCC", blind)] {
        let mut list = ArrayBuf::new();
        for key in keys {
            list.push(&Value::from(*key));
        }
        if !keys.is_empty() {
            entries.put(name, &Value::Array(list.as_array()));
        }
    }
    entries
}

fn delete(peer: &mut Raw, name: &str) {
    let delete = exchange::Delete {
        exchange: short(name),
        ..exchange::Delete::default()
    };
    peer.ask(&Method::ExchangeDelete(delete), "exchange.delete-ok");
}

/// `x`, whose alternate exchange `other` leads to the queue `rest`.
fn with_alternate(peer: &mut Raw) {
    declare_exchange(peer, "other", "fanout", &[]);
    declare_exchange(
        peer,
        "x",
        "direct",
        &[("alternate-exchange", Value::from("other"))],
    );
    bind_all(peer, "other", &[("rest", "")]);
}

#[actix_web::test]
async fn an_alternate_exchange_gets_what_none_of_the_keys_finds_a_way_for() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    with_alternate(&mut peer);
    declare_exchange(
        &mut peer,
        "inner",
        "direct",
        &[("alternate-exchange", Value::from("other"))],
    );
    bind_all(&mut peer, "x", &[("q", "a")]);
    bind_all(&mut peer, "inner", &[("deep", "b")]);
    let to_inner = exchange::Bind {
        destination: short("inner"),
        source: short("x"),
        routing_key: short("inner"),
        ..exchange::Bind::default()
    };
    peer.ask(&Method::ExchangeBind(to_inner), "exchange.bind-ok");
    // The key, CC, BCC, and the queues that get it.
    let cases: [(&str, List, List, List); 6] = [
        ("nowhere", &["a"], &[], &["q"]),
        ("nowhere", &[], &["a"], &["q"]),
        ("nowhere", &["no"], &["none"], &["rest"]),
        ("a", &["nowhere"], &[], &["q"]),
        // Every exchange on the way looks at all keys.
        ("inner", &["b"], &[], &["deep"]),
        ("inner", &["no"], &["a"], &["q", "rest"]),
    ];
    for (key, copies, blind, expected) in cases {
        let entries = further(copies, blind);
        peer.publish_with(1, ("x", key, false), &headers(entries.as_table()), b"x");
        let got = ["q", "deep", "rest"].into_iter();
        let got: Vec<&str> = got.filter(|name| !peer.take_all(name).is_empty()).collect();
        assert_eq!(got, expected, "{key} {copies:?} {blind:?}");
    }
}

#[actix_web::test]
async fn a_mandatory_message_is_returned_if_the_alternate_exchange_has_no_queue_either() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    with_alternate(&mut peer);
    peer.confirms(1);
    peer.publish_with(1, ("x", "k", true), &plain(), b"taken");
    peer.confirmed(1);
    assert_eq!(peer.take_all("rest"), ["taken"]);
    // What comes back is what was sent, but for the blind copies; and it comes before the confirm.
    delete(&mut peer, "other");
    let entries = further(&["c"], &["secret"]);
    peer.publish_with(1, ("x", "k", true), &headers(entries.as_table()), b"back");
    let returned = peer.message();
    assert_eq!(
        (returned.exchange.as_str(), returned.key.as_str()),
        ("x", "k")
    );
    assert_eq!(returned.text(), "back");
    let shown = further(&["c"], &[]);
    assert_eq!(returned.properties().headers(), Some(shown.as_table()));
    peer.confirmed(2);
    // A further key that finds a queue is a way.
    let entries = further(&["rest"], &[]);
    peer.publish_with(
        1,
        ("", "nowhere", true),
        &headers(entries.as_table()),
        b"copy",
    );
    peer.confirmed(3);
    assert_eq!(peer.take_all("rest"), ["copy"]);
    // The alternate exchange may come later.
    declare_exchange(&mut peer, "other", "fanout", &[]);
    bind_all(&mut peer, "other", &[("rest", "")]);
    peer.publish_with(1, ("x", "k", true), &plain(), b"taken again");
    peer.confirmed(4);
    assert_eq!(peer.take_all("rest"), ["taken again"]);
}

#[actix_web::test]
async fn an_exchange_that_picks_a_queue_picks_one_for_all_keys() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let names = ["a", "b", "c", "d"];
    for kind in ["x-consistent-hash", "x-modulus-hash", "x-random"] {
        declare_exchange(&mut peer, kind, kind, &[]);
        bind_all(&mut peer, kind, &names.map(|name| (name, "1")));
        let keys: Vec<String> = (0..16).map(|n| format!("key-{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let entries = further(&keys, &[]);
        for key in &keys {
            peer.publish_with(1, (kind, key, false), &headers(entries.as_table()), b"x");
        }
        let found: usize = names.iter().map(|name| peer.take_all(name).len()).sum();
        assert_eq!(found, keys.len(), "{kind}");
    }
}

#[actix_web::test]
async fn what_is_published_meets_what_was_declared_before_it_though_all_comes_at_once() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    declare_exchange(&mut peer, "x", "fanout", &[]);
    bind_all(&mut peer, "x", &[("q", "")]);
    let unbind = queue::Unbind {
        queue: short("q"),
        exchange: short("x"),
        ..queue::Unbind::default()
    };
    let gone = exchange::Delete {
        exchange: short("x"),
        no_wait: true,
        ..exchange::Delete::default()
    };
    // One segment: published, unbound, published, bound, published, deleted, published twice.
    let mut out = publish_with("x", "", &[0, 0], b"1");
    Method::QueueUnbind(unbind).write(1, &mut out);
    out.extend(publish_with("x", "", &[0, 0], b"2"));
    bind("q", "x", "").write(1, &mut out);
    out.extend(publish_with("x", "", &[0, 0], b"3"));
    Method::ExchangeDelete(gone).write(1, &mut out);
    out.extend(publish_with("x", "", &[0, 0], b"4"));
    out.extend(publish_with("x", "", &[0, 0], b"5"));
    peer.send(&out);
    peer.expect("queue.unbind-ok");
    peer.expect("queue.bind-ok");
    let text = "NOT_FOUND - no exchange 'x' in vhost '/'".to_owned();
    assert_eq!(peer.closed(1), (404, text));
    assert_eq!(peer.take_all("q"), ["1", "3"]);
}

#[actix_web::test]
async fn names_have_up_to_255_bytes_of_any_language_and_no_line_breaks() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let long = format!("x{}", "é".repeat(127));
    declare_exchange(&mut peer, &long, "topic", &[]);
    bind_all(&mut peer, &long, &[(&long, &long)]);
    peer.publish_with(1, (&long, &long, true), &plain(), b"x");
    let message = peer.take(&long).unwrap();
    assert_eq!((message.exchange, message.key), (long.clone(), long));
    // Declared, bound and deleted are they without; published to and taken from as they are.
    declare_exchange(&mut peer, "a\r\nb", "fanout", &[]);
    let broken = queue::Declare {
        queue: short("q\r\nr"),
        ..queue::Declare::default()
    };
    let payload = peer.ask(&Method::QueueDeclare(broken), "queue.declare-ok");
    assert!(matches!(
        Method::decode(&payload).unwrap(),
        Method::QueueDeclareOk(ok) if ok.queue.as_bytes() == b"qr"
    ));
    peer.ask(&bind("q\rr", "a\nb", ""), "queue.bind-ok");
    peer.publish_with(1, ("ab", "", true), &plain(), b"x");
    peer.publish_with(1, ("a\nb", "", true), &plain(), b"x");
    let text = "NOT_FOUND - no exchange 'a\nb' in vhost '/'".to_owned();
    assert_eq!(peer.closed(1), (404, text));
    let get = basic::Get {
        queue: short("q\nr"),
        no_ack: true,
    };
    let text = "NOT_FOUND - no queue 'q\nr' in vhost '/'".to_owned();
    assert_eq!(peer.refused(1, &Method::BasicGet(get)), (404, text));
    let gone = queue::Delete {
        queue: short("q\r\nr"),
        ..queue::Delete::default()
    };
    let payload = peer.ask(&Method::QueueDelete(gone), "queue.delete-ok");
    let deleted = queue::DeleteOk { message_count: 1 };
    let method = Method::decode(&payload).unwrap();
    assert_eq!(method, Method::QueueDeleteOk(deleted));
    delete(&mut peer, "a\nb");
    let text = "NOT_FOUND - no exchange 'ab' in vhost '/'".to_owned();
    assert_eq!(peer.refused(1, &bind("q", "ab", "")), (404, text));
}

#[actix_web::test]
async fn names_and_binding_keys_are_utf8_and_routing_keys_need_not_be() {
    let server = Server::start().await;
    let no_text = ShortStr::new(b"\xff\xfe").unwrap();
    let cases = [
        Method::QueueBind(queue::Bind {
            queue: short("q"),
            exchange: short("amq.direct"),
            routing_key: no_text,
            ..queue::Bind::default()
        }),
        Method::ExchangeBind(exchange::Bind {
            destination: short("amq.fanout"),
            source: short("amq.direct"),
            routing_key: no_text,
            ..exchange::Bind::default()
        }),
        Method::BasicCancel(basic::Cancel {
            consumer_tag: no_text,
            no_wait: false,
        }),
        Method::BasicConsume(basic::Consume {
            queue: short("q"),
            consumer_tag: no_text,
            ..basic::Consume::default()
        }),
        Method::QueueDeclare(queue::Declare {
            queue: no_text,
            ..queue::Declare::default()
        }),
    ];
    for method in cases {
        let mut peer = Raw::open(server.amqp[0], 0);
        peer.declare("q");
        peer.method(1, &method);
        let text = "FRAME_ERROR - Malformed UTF-8 in shortstr".to_owned();
        assert_eq!(peer.ended(), (501, text), "{method:?}");
    }
}
