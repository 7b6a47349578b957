//! Exchanges that pick one destination for each message: by a hash, or at random.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use backbone_wire::method::{Method, exchange, queue};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::Value;
use common::Server;
use common::dialog::{plain, table};
use common::raw::{Raw, short};

fn exchange<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare {
        exchange: short(name),
        type_: short(kind),
        durable: true,
        ..exchange::Declare::default()
    }
}

fn declare(peer: &mut Raw, name: &str, kind: &str, arguments: &[(&str, Value<'_>)]) {
    let arguments = table(arguments);
    let declare = exchange::Declare {
        arguments: arguments.as_table(),
        ..exchange(name, kind)
    };
    peer.method(1, &Method::ExchangeDeclare(declare));
    peer.expect("exchange.declare-ok");
}

fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> Method<'a> {
    Method::QueueBind(queue::Bind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Bind::default()
    })
}

/// Declares durable queues `names` and binds them with the keys beside them.
fn bind_all(peer: &mut Raw, exchange: &str, queues: &[(&str, &str)]) {
    for (name, key) in queues {
        peer.declare_with(name, true, &[]);
        peer.method(1, &bind(name, exchange, key));
        peer.expect("queue.bind-ok");
    }
}

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
    declare(&mut peer, "x", "x-consistent-hash", &[]);
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
    declare(&mut peer, "header", "x-consistent-hash", &header);
    for property in ["message_id", "correlation_id", "timestamp"] {
        let arguments = [("hash-property", Value::from(property))];
        declare(&mut peer, property, "x-consistent-hash", &arguments);
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
    declare(&mut peer, "x", "x-consistent-hash", &[]);
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
    declare(&mut peer, "modulus", "x-modulus-hash", &[]);
    declare(&mut peer, "random", "x-random", &[]);
    let queues = [("a", ""), ("b", "any"), ("c", "")];
    for exchange in ["modulus", "random"] {
        bind_all(&mut peer, exchange, &queues);
        let first = spread(&mut peer, exchange, &queues);
        assert!(first.iter().all(|keys| keys.len() > 60), "{first:?}");
        let second = spread(&mut peer, exchange, &queues);
        assert_eq!(first == second, exchange == "modulus", "{exchange}");
    }
}
