//! What is durable but no message: exchanges, queues, bindings and the bus's clients, through the end of the server.
//!
//! `BACKBONE_DECLARES=10000` makes the number of declares what the targets are for, and their time is held against these then.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backbone_wire::method::{Method, exchange, queue};
use backbone_wire::table::{TableBuf, Value};
use common::raw::{Raw, publish, short};
use common::{ADMIN_SECRET, Server};
use reqwest::{Client, Method as Verb, Response};
use serde_json::json;

/// Declares in a row, unless `BACKBONE_DECLARES` says otherwise.
const DECLARES: usize = 300;
/// What 10,000 of them may take.
const ALL_DECLARED: Duration = Duration::from_secs(3);

fn durable(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        queue: short(name),
        durable: true,
        ..queue::Declare::default()
    }
}

/// Asks, and reads the answer.
fn ask(peer: &mut Raw, method: Method<'_>, answer: &str) {
    peer.method(1, &method);
    peer.expect(answer);
}

/// The code with which a declare closes the channel; 0 if it is answered with ok.
fn declared(server: &Server, declare: queue::Declare<'_>) -> u16 {
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.method(1, &Method::QueueDeclare(declare));
    let (_, _, answer) = peer.frame().unwrap();
    match Method::decode(&answer).unwrap() {
        Method::ChannelClose(close) => close.reply_code,
        Method::QueueDeclareOk(_) => 0,
        other => panic!("{}", other.name()),
    }
}

fn passive(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        passive: true,
        ..durable(name)
    }
}

async fn restart(mut server: Server, kill: bool) -> Server {
    let data_dir = server.data_dir();
    match kill {
        true => server.kill(),
        false => assert!(server.terminate().await.success()),
    }
    drop(server);
    Server::on(data_dir, &[]).await
}

/// A topology of all kinds, made over AMQP.
fn build(server: &Server) {
    let mut peer = Raw::open(server.amqp[0], 0);
    let mut arguments = TableBuf::new();
    arguments.put("x-durability", &Value::from("written"));
    arguments.put("x-max-length", &Value::I32(5));
    for (name, kind, durable) in [
        ("kept", "topic", true),
        ("next", "fanout", true),
        ("passing", "fanout", false),
        ("deleted", "fanout", true),
    ] {
        let declare = exchange::Declare {
            exchange: short(name),
            type_: short(kind),
            durable,
            ..exchange::Declare::default()
        };
        ask(
            &mut peer,
            Method::ExchangeDeclare(declare),
            "exchange.declare-ok",
        );
    }
    let special = queue::Declare {
        arguments: arguments.as_table(),
        ..durable("special")
    };
    let passing = queue::Declare {
        durable: false,
        ..durable("passing")
    };
    for declare in [durable("plain"), durable("deleted"), special, passing] {
        ask(&mut peer, Method::QueueDeclare(declare), "queue.declare-ok");
    }
    for (queue, source, key) in [
        ("plain", "next", ""),
        ("special", "kept", "a.#"),
        ("special", "kept", "undone"),
        ("special", "passing", ""),
        ("passing", "kept", "a.#"),
        ("deleted", "kept", "a.#"),
    ] {
        let bind = queue::Bind {
            queue: short(queue),
            exchange: short(source),
            routing_key: short(key),
            ..queue::Bind::default()
        };
        ask(&mut peer, Method::QueueBind(bind), "queue.bind-ok");
    }
    let link = exchange::Bind {
        destination: short("next"),
        source: short("kept"),
        routing_key: short("*.b"),
        ..exchange::Bind::default()
    };
    ask(&mut peer, Method::ExchangeBind(link), "exchange.bind-ok");
    let unbind = queue::Unbind {
        queue: short("special"),
        exchange: short("kept"),
        routing_key: short("undone"),
        ..queue::Unbind::default()
    };
    ask(&mut peer, Method::QueueUnbind(unbind), "queue.unbind-ok");
    let delete = queue::Delete {
        queue: short("deleted"),
        ..queue::Delete::default()
    };
    ask(&mut peer, Method::QueueDelete(delete), "queue.delete-ok");
    let delete = exchange::Delete {
        exchange: short("deleted"),
        ..exchange::Delete::default()
    };
    ask(
        &mut peer,
        Method::ExchangeDelete(delete),
        "exchange.delete-ok",
    );
}

/// What the topology has to be after a restart, from outside.
fn check(server: &Server) {
    assert_eq!(declared(server, durable("plain")), 0);
    assert_eq!(declared(server, passive("special")), 0);
    assert_eq!(declared(server, durable("special")), 406, "its arguments");
    assert_eq!(declared(server, passive("passing")), 404);
    assert_eq!(declared(server, passive("deleted")), 404);
    let mut peer = Raw::open(server.amqp[0], 0);
    let before = ["plain", "special"].map(|queue| ready(&mut peer, queue));
    for key in ["a.b", "a.b.c", "x.b", "undone"] {
        let mut frames = publish(key, b"m");
        // To the exchange `kept` instead of the default one: its name stands behind the frame's header, class, method and ticket.
        let exchange = 7 + 2 + 2 + 2;
        frames.splice(exchange..exchange + 1, *b"\x04kept");
        let size = u32::from_be_bytes(*frames[3..].first_chunk().unwrap()) + 4;
        frames[3..7].copy_from_slice(&size.to_be_bytes());
        peer.send(&frames);
    }
    let after = ["plain", "special"].map(|queue| ready(&mut peer, queue));
    let grown = [after[0] - before[0], after[1] - before[1]];
    assert_eq!(grown, [2, 2], "plain has *.b through next, special a.#");
    for (name, there) in [
        ("kept", true),
        ("next", true),
        ("passing", false),
        ("deleted", false),
    ] {
        let mut peer = Raw::open(server.amqp[0], 0);
        let passive = exchange::Declare {
            exchange: short(name),
            passive: true,
            ..exchange::Declare::default()
        };
        peer.method(1, &Method::ExchangeDeclare(passive));
        assert_eq!(
            peer.next_is("exchange.declare-ok"),
            there,
            "exchange {name}"
        );
    }
}

fn ready(peer: &mut Raw, name: &str) -> u32 {
    peer.method(1, &Method::QueueDeclare(passive(name)));
    let answer = peer.expect("queue.declare-ok");
    match Method::decode(&answer).unwrap() {
        Method::QueueDeclareOk(ok) => ok.message_count,
        other => panic!("{}", other.name()),
    }
}

#[actix_web::test]
async fn a_durable_topology_survives_a_kill_and_a_clean_end() {
    let server = Server::start().await;
    build(&server);
    let server = restart(server, true).await;
    check(&server);
    let server = restart(server, false).await;
    check(&server);
    let (rest, admin) = (Rest(Client::new()), ("admin", ADMIN_SECRET));
    let metrics = rest.call(&server, admin, Verb::GET, "/metrics", json!(null));
    let metrics = metrics.await.text().await.unwrap();
    // `plain`, and the three of the bus.
    for line in [
        "backbone_queues_by_level{level=\"memory\"} 0",
        "backbone_queues_by_level{level=\"synced\"} 4",
        "backbone_queues_by_level{level=\"written\"} 1",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

/// Calls over REST.
struct Rest(Client);

impl Rest {
    async fn call(
        &self,
        server: &Server,
        user: (&str, &str),
        verb: Verb,
        path: &str,
        body: serde_json::Value,
    ) -> Response {
        let call = self.0.request(verb, server.url(path));
        let call = call.basic_auth(user.0, Some(user.1));
        let call = match body.is_null() {
            true => call,
            false => call.json(&body),
        };
        let answer = call.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer
    }

    /// The secret of a new client.
    async fn create(&self, server: &Server, id: &str, subscription: &str) -> String {
        let client = json!({"client_id": id, "subscription": subscription});
        let admin = ("admin", ADMIN_SECRET);
        let answer = self
            .call(server, admin, Verb::POST, "/clients", client)
            .await;
        let created: serde_json::Value = answer.json().await.unwrap();
        created["secret"].as_str().unwrap().to_owned()
    }

    /// The bodies that wait for a client, once there are some.
    async fn receive(&self, server: &Server, user: (&str, &str)) -> Vec<String> {
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < Duration::from_secs(20), "nothing came");
            let answer = self.call(server, user, Verb::GET, "/receive", json!(null));
            let items: Vec<serde_json::Value> = answer.await.json().await.unwrap();
            let bodies = items
                .iter()
                .map(|item| item["body"].as_str().unwrap().to_owned());
            let bodies: Vec<String> = bodies.collect();
            if !bodies.is_empty() {
                return bodies;
            }
        }
    }
}

#[actix_web::test]
async fn clients_of_the_bus_survive_a_kill_with_what_they_subscribed() {
    let server = Server::start().await;
    let rest = Rest(Client::new());
    let admin = ("admin", ADMIN_SECRET);
    let sender = rest.create(&server, "sender", "none").await;
    let reader = rest.create(&server, "reader", "old.#").await;
    rest.create(&server, "gone", "new.#").await;
    let patch = json!({"subscriptions": ["new.#"]});
    let path = "/clients/reader";
    rest.call(&server, admin, Verb::PATCH, path, patch).await;
    let path = "/clients/gone";
    rest.call(&server, admin, Verb::DELETE, path, json!(null))
        .await;

    let server = restart(server, true).await;
    for name in ["reader-inbox", "sender-outbox", "soar-publish"] {
        assert_eq!(declared(&server, passive(name)), 0, "{name}");
    }
    assert_eq!(declared(&server, passive("gone-inbox")), 404);
    let sender = ("sender", &*sender);
    for topic in ["old.a", "new.a"] {
        let message = json!({"topic": topic, "body": topic});
        rest.call(&server, sender, Verb::POST, "/send", message)
            .await;
    }
    assert_eq!(rest.receive(&server, ("reader", &reader)).await, ["new.a"]);
    // What comes back for one who is gone is not what that one left.
    rest.create(&server, "gone", "old.#").await;
    assert_eq!(declared(&server, passive("gone-inbox")), 0);
}

/// As if the server had ended after the log had a change, and before the state store had it.
#[actix_web::test]
async fn what_the_state_store_does_not_know_of_the_bus_ends_with_the_next_start() {
    let mut server = Server::start().await;
    let rest = Rest(Client::new());
    let reader = rest.create(&server, "reader", "old.#").await;
    server.kill();
    let data_dir = server.data_dir();
    let store = data_dir.path().join("state.redb");
    let before = std::fs::read(&store).unwrap();
    let mut server = Server::on(Arc::clone(&data_dir), &[]).await;
    let patch = json!({"subscriptions": ["new.#"]});
    let admin = ("admin", ADMIN_SECRET);
    let path = "/clients/reader";
    rest.call(&server, admin, Verb::PATCH, path, patch).await;
    rest.create(&server, "early", "#").await;
    ask(
        &mut Raw::open(server.amqp[0], 0),
        Method::QueueDeclare(durable("nobodys")),
        "queue.declare-ok",
    );
    server.kill();
    drop(server);
    std::fs::write(&store, before).unwrap();

    let server = Server::on(data_dir, &[]).await;
    assert_eq!(declared(&server, passive("early-inbox")), 404);
    assert_eq!(declared(&server, passive("reader-inbox")), 0);
    assert_eq!(declared(&server, passive("nobodys")), 0, "not the bus's");
    let sender = rest.create(&server, "sender", "none").await;
    for topic in ["new.a", "old.a"] {
        let (message, sender) = (json!({"topic": topic, "body": topic}), ("sender", &*sender));
        rest.call(&server, sender, Verb::POST, "/send", message)
            .await;
    }
    assert_eq!(rest.receive(&server, ("reader", &reader)).await, ["old.a"]);
}

#[actix_web::test]
async fn many_durable_declares_all_survive_whether_they_wait_for_each_other_or_not() {
    let asked = std::env::var("BACKBONE_DECLARES").ok();
    let count = asked.as_ref().map_or(DECLARES, |n| n.parse().unwrap());
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let mut took = Vec::new();
    for way in ["single", "piped"] {
        let since = Instant::now();
        let mut frames = Vec::new();
        for n in 0..count {
            let name = format!("{way}-{n}");
            let declare = Method::QueueDeclare(durable(&name));
            match way {
                "single" => ask(&mut peer, declare, "queue.declare-ok"),
                _ => declare.write(1, &mut frames),
            }
        }
        if way == "piped" {
            peer.send(&frames);
            for _ in 0..count {
                peer.expect("queue.declare-ok");
            }
        }
        took.push((way, since.elapsed()));
    }
    println!("{count} durable declares: {took:?}");
    if asked.is_some() {
        for (way, took) in &took {
            assert!(*took < ALL_DECLARED, "{way}: {took:?}");
        }
    }
    let server = restart(server, true).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for way in ["single", "piped"] {
        for n in 0..count {
            ready(&mut peer, &format!("{way}-{n}"));
        }
    }
}
