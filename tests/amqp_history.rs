//! Exchanges that keep their last messages, and send them to whoever is newly bound.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::sync::atomic::{AtomicBool, Ordering};

use backbone_wire::method::{Method, exchange, queue};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::Value;
use common::Server;
use common::admin::Admin;
use common::dialog::{bind, bind_all, declare_exchange, exchange, plain, table};
use common::raw::{Raw, publish_with, short};
use serde_json::json;

/// Publishes `bodies` to `exchange`, with the key `k`, and waits until they are routed.
fn publish_all(peer: &mut Raw, exchange: &str, bodies: &[&str]) {
    for body in bodies {
        peer.publish_with(1, (exchange, "k", false), &plain(), body.as_bytes());
    }
    peer.declare("known");
}

fn bind_exchange(peer: &mut Raw, destination: &str, source: &str) {
    let bind = exchange::Bind {
        destination: short(destination),
        source: short(source),
        ..exchange::Bind::default()
    };
    peer.method(1, &Method::ExchangeBind(bind));
    peer.expect("exchange.bind-ok");
}

/// Binds a new queue to `exchange`; what is in it then.
fn join(peer: &mut Raw, exchange: &str) -> Vec<String> {
    let name = format!("joins-{exchange}");
    bind_all(peer, exchange, &[(&name, "any")]);
    let found = peer.take_all(&name);
    let delete = queue::Delete {
        queue: short(&name),
        ..queue::Delete::default()
    };
    peer.method(1, &Method::QueueDelete(delete));
    peer.expect("queue.delete-ok");
    found
}

#[actix_web::test]
async fn a_recent_history_exchange_sends_its_last_messages_to_each_new_queue() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let three = [("x-recent-history-length", Value::I32(3))];
    declare_exchange(&mut peer, "h", "x-recent-history", &three);
    bind_all(&mut peer, "h", &[("before", "")]);
    publish_all(&mut peer, "h", &["1", "2", "3", "4", "5"]);
    assert_eq!(peer.take_all("before"), ["1", "2", "3", "4", "5"]);
    bind_all(&mut peer, "h", &[("q", "first")]);
    let message = peer.take("q").unwrap();
    assert_eq!(
        (&*message.exchange, &*message.key, message.redelivered),
        ("h", "k", false)
    );
    assert_eq!(peer.take_all("q"), ["4", "5"]);
    // Only a new binding counts, and any that is new.
    bind_all(&mut peer, "h", &[("q", "first")]);
    assert!(peer.take_all("q").is_empty());
    bind_all(&mut peer, "h", &[("q", "second")]);
    assert_eq!(peer.take_all("q"), ["3", "4", "5"]);
    publish_all(&mut peer, "h", &["6"]);
    assert_eq!(peer.take_all("q"), ["6"], "bound twice, sent once");
    assert_eq!(join(&mut peer, "h"), ["4", "5", "6"]);
    // A message that was taken, purged or lost elsewhere is kept all the same; one whose exchange is gone is not.
    let delete = exchange::Delete {
        exchange: short("h"),
        ..exchange::Delete::default()
    };
    peer.method(1, &Method::ExchangeDelete(delete));
    peer.expect("exchange.delete-ok");
    declare_exchange(&mut peer, "h", "x-recent-history", &[]);
    assert!(join(&mut peer, "h").is_empty());
    let many: Vec<String> = (0..25).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(|body| &**body).collect();
    publish_all(&mut peer, "h", &many);
    assert_eq!(
        join(&mut peer, "h"),
        many[5..],
        "20 unless it says otherwise"
    );
}

#[actix_web::test]
async fn a_history_keeps_what_comes_by_any_way_but_what_says_no_store() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for name in ["h", "behind"] {
        declare_exchange(&mut peer, name, "x-recent-history", &[]);
    }
    declare_exchange(&mut peer, "fan", "fanout", &[]);
    bind_exchange(&mut peer, "h", "fan");
    publish_all(&mut peer, "fan", &["from another exchange"]);
    let letters = [
        ("x-dead-letter-exchange", Value::from("h")),
        ("x-message-ttl", Value::I32(0)),
    ];
    peer.declare_with("grave", false, &letters);
    peer.publish_with(1, ("", "grave", false), &plain(), b"dead");
    peer.declare("known");
    let expiring = PropertiesBuilder {
        expiration: Some(short("3600000")),
        delivery_mode: Some(2),
        ..plain()
    };
    peer.publish_with(1, ("h", "", false), &expiring, b"expires");
    for (value, body) in [
        (Value::Bool(true), &b"not kept"[..]),
        (Value::Bool(false), b"kept"),
        (Value::I32(1), b"kept, too"),
    ] {
        let headers = table(&[("x-recent-history-no-store", value)]);
        let properties = PropertiesBuilder {
            headers: Some(headers.as_table()),
            ..plain()
        };
        peer.publish_with(1, ("h", "", false), &properties, body);
    }
    let all = [
        "from another exchange",
        "dead",
        "expires",
        "kept",
        "kept, too",
    ];
    assert_eq!(join(&mut peer, "h"), all);
    // An exchange that is bound routes it on, the oldest first, and may keep it itself.
    bind_exchange(&mut peer, "behind", "h");
    assert_eq!(join(&mut peer, "behind"), all);
    declare_exchange(&mut peer, "topic", "topic", &[]);
    bind_all(&mut peer, "topic", &[("only dead", "grave")]);
    bind_exchange(&mut peer, "topic", "h");
    assert_eq!(peer.take_all("only dead"), ["dead"]);
    // Nobody took it, although it is kept.
    peer.publish_with(1, ("behind", "", true), &plain(), b"returned");
    peer.expect("basic.return");
    peer.frame();
    peer.frame();
    assert_eq!(join(&mut peer, "behind").last().unwrap(), "returned");
}

#[actix_web::test]
async fn a_history_goes_with_a_restart_and_its_exchange_stays() {
    let mut server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let two = [("x-recent-history-length", Value::I64(2))];
    declare_exchange(&mut peer, "h", "x-recent-history", &two);
    bind_all(&mut peer, "h", &[("stays", "")]);
    publish_all(&mut peer, "h", &["1", "2", "3"]);
    assert_eq!(join(&mut peer, "h"), ["2", "3"]);
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    declare_exchange(&mut peer, "h", "x-recent-history", &two);
    assert!(join(&mut peer, "h").is_empty());
    publish_all(&mut peer, "h", &["4", "5", "6"]);
    assert_eq!(peer.take_all("stays").last().unwrap(), "6");
    assert_eq!(join(&mut peer, "h"), ["5", "6"]);
    let admin = Admin::of(&server);
    let (_, overview) = admin.get("/api/overview").await;
    let types = overview["exchange_types"].as_array().unwrap();
    assert!(types.iter().any(|it| it["name"] == "x-recent-history"));
    let metrics = admin.text("/metrics").await;
    let kept = metrics
        .lines()
        .find_map(|line| line.strip_prefix("backbone_exchange_history_bytes "));
    assert!(kept.unwrap().parse::<u32>().unwrap() > 0);
    let (_, shown) = admin.get("/api/exchanges/%2F/h").await;
    assert_eq!(shown["arguments"], json!({"x-recent-history-length": 2}));
    let path = "/api/bindings/%2F/e/h/q/known";
    peer.declare("known");
    let (status, _) = admin.post(path, json!({"routing_key": ""})).await;
    assert_eq!(
        (status, peer.take_all("known")),
        (201, vec!["5".into(), "6".into()])
    );
}

#[actix_web::test]
async fn a_history_has_a_positive_length() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for (value, shown) in [
        (Value::I32(0), "0"),
        (Value::I64(-1), "-1"),
        (Value::from("3"), "<<\"3\">>"),
        (Value::Bool(true), "true"),
        (Value::F64(2.0), "2.0"),
        (Value::Void, "undefined"),
    ] {
        let arguments = table(&[("x-recent-history-length", value)]);
        let declare = exchange::Declare {
            arguments: arguments.as_table(),
            ..exchange("h", "x-recent-history")
        };
        let text = format!(
            "PRECONDITION_FAILED - Invalid argument {shown}, 'x-recent-history-length' must be a positive integer"
        );
        assert_eq!(
            peer.refused(1, &Method::ExchangeDeclare(declare)),
            (406, text)
        );
    }
    // Of one that is there, it is not compared.
    declare_exchange(&mut peer, "h", "x-recent-history", &[]);
    let other = [("x-recent-history-length", Value::I32(-7))];
    declare_exchange(&mut peer, "h", "x-recent-history", &other);
}

/// How many messages have to come to who joined before the next one does.
const BETWEEN_JOINS: usize = 500;

#[actix_web::test]
async fn who_is_bound_while_others_publish_misses_nothing_and_gets_nothing_twice() {
    let server = Server::start().await;
    let address = server.amqp[0];
    let mut peer = Raw::open(address, 0);
    let length = [("x-recent-history-length", Value::I32(100))];
    declare_exchange(&mut peer, "h", "x-recent-history", &length);
    let stop = AtomicBool::new(false);
    let joined = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Raw::open(address, 0);
            let mut number = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let mut block = Vec::new();
                for _ in 0..50 {
                    let body = number.to_string();
                    block.extend(publish_with("h", "", &[0, 0], body.as_bytes()));
                    number += 1;
                }
                publisher.send(&block);
                // All of it is routed, or it would be ahead by any number.
                publisher.declare("known");
            }
            publisher.send(&publish_with("h", "", &[0, 0], b"end"));
            publisher.declare("known");
        });
        let mut joined = Vec::new();
        for number in 0..12 {
            let mut peer = Raw::open(address, 0);
            let name = format!("q{number}");
            peer.declare(&name);
            peer.consume(&name, true);
            peer.method(1, &bind(&name, "h", ""));
            joined.push((peer, Vec::new()));
            let (peer, seen) = joined.last_mut().unwrap();
            while seen.len() < BETWEEN_JOINS {
                match peer.peek_is("basic.deliver") {
                    true => seen.push(peer.message().text().to_owned()),
                    false => drop(peer.expect("queue.bind-ok")),
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        joined
    });
    for (mut peer, mut seen) in joined {
        while seen.last().unwrap() != "end" {
            seen.push(peer.message().text().to_owned());
        }
        seen.pop();
        let numbers: Vec<u32> = seen.iter().map(|body| body.parse().unwrap()).collect();
        let gap = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
        assert_eq!(gap, None);
    }
}
