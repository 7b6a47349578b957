//! What SIGKILL leaves of exchanges, queues, bindings and the bus: durable ones are as they were, others are gone,
//! and what was deleted or purged does not bring its messages back.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use backbone_wire::method::{Method, exchange, queue};
use common::peer::{Event, Peer, publish_persistent, publish_transient};
use common::raw::short;
use common::traffic::Random;
use common::{ADMIN_SECRET, Server, directory_on_disk, number_from};
use serde_json::{Value, json};

fn declare_exchange(peer: &mut Peer, name: &str, durable: bool, passive: bool) -> io::Result<()> {
    let declare = exchange::Declare {
        exchange: short(name),
        type_: short("topic"),
        durable,
        passive,
        ..exchange::Declare::default()
    };
    peer.call(&Method::ExchangeDeclare(declare), "exchange.declare-ok")?;
    Ok(())
}

fn bind(peer: &mut Peer, queue: &str, exchange: &str, key: &str) -> io::Result<()> {
    let bind = queue::Bind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Bind::default()
    };
    peer.call(&Method::QueueBind(bind), "queue.bind-ok")?;
    Ok(())
}

fn unbind(peer: &mut Peer, queue: &str, exchange: &str, key: &str) -> io::Result<()> {
    let unbind = queue::Unbind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Unbind::default()
    };
    peer.call(&Method::QueueUnbind(unbind), "queue.unbind-ok")?;
    Ok(())
}

fn declare_exclusive(peer: &mut Peer, name: &str) -> io::Result<()> {
    let declare = queue::Declare {
        queue: short(name),
        durable: true,
        exclusive: true,
        ..queue::Declare::default()
    };
    peer.call(&Method::QueueDeclare(declare), "queue.declare-ok")?;
    Ok(())
}

/// Whether a queue is there; on a connection of its own, because the answer may close its channel.
fn has_queue(address: SocketAddr, name: &str) -> bool {
    exists(Peer::open(address).ready(name).map(drop))
}

fn has_exchange(address: SocketAddr, name: &str) -> bool {
    exists(declare_exchange(&mut Peer::open(address), name, true, true))
}

fn exists(passive: io::Result<()>) -> bool {
    match passive {
        Ok(()) => true,
        Err(error) => {
            assert!(error.to_string().starts_with("closed: 404"), "{error}");
            false
        }
    }
}

/// Publishes persistent messages and waits for their confirms.
fn publish_confirmed(
    address: SocketAddr,
    exchange: &str,
    key: &str,
    bodies: &[Vec<u8>],
) -> io::Result<()> {
    let mut peer = Peer::publisher(address);
    let mut out = Vec::new();
    for body in bodies {
        publish_persistent(exchange, key, body, &mut out);
    }
    peer.send(&out)?;
    peer.confirmed(1, bodies.len() as u64)
}

/// Takes and acknowledges all that is in a queue.
fn take_all(address: SocketAddr, name: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut peer = Peer::open(address);
    let mut left = peer.ready(name)?;
    let mut bodies = Vec::new();
    if left > 0 {
        peer.consume(name)?;
    }
    while left > 0 {
        if let Event::Delivery { tag, body, .. } = peer.next()? {
            bodies.push(body);
            peer.ack(tag, false)?;
            left -= 1;
        }
    }
    // Handled once this is answered.
    peer.qos(1)?;
    Ok(bodies)
}

fn text(body: &str) -> Vec<u8> {
    body.as_bytes().to_vec()
}

#[actix_web::test]
async fn durable_things_are_back_and_others_are_gone() {
    let data_dir = directory_on_disk();
    let mut server = Server::on(data_dir.clone(), &[]).await;
    let address = server.amqp[0];
    let mut peer = Peer::open(address);
    declare_exchange(&mut peer, "kept-x", true, false).unwrap();
    declare_exchange(&mut peer, "lost-x", false, false).unwrap();
    declare_exchange(&mut peer, "deleted-x", true, false).unwrap();
    for name in ["kept", "unbound", "deleted", "again", "purged", "mixed"] {
        peer.declare(name, true).unwrap();
    }
    peer.declare("lost", false).unwrap();
    declare_exclusive(&mut peer, "exclusive").unwrap();
    for name in ["kept", "unbound", "lost"] {
        bind(&mut peer, name, "kept-x", "a.*").unwrap();
        bind(&mut peer, name, "lost-x", "#").unwrap();
    }
    unbind(&mut peer, "unbound", "kept-x", "a.*").unwrap();
    for name in ["deleted", "again", "purged"] {
        publish_confirmed(address, "", name, &[text("old"), text("older")]).unwrap();
    }
    let mut out = Vec::new();
    publish_transient("", "mixed", b"1 transient", &mut out);
    publish_persistent("", "mixed", b"2 persistent", &mut out);
    publish_transient("", "mixed", b"3 transient", &mut out);
    let mut publisher = Peer::publisher(address);
    publisher.send(&out).unwrap();
    publisher.confirmed(1, 3).unwrap();
    peer.delete("deleted").unwrap();
    peer.delete("again").unwrap();
    peer.declare("again", true).unwrap();
    peer.purge("purged").unwrap();
    delete_exchange(&mut peer, "deleted-x").unwrap();
    // What is confirmed later stands behind all of this in the log.
    publish_confirmed(address, "", "kept", &[text("first")]).unwrap();
    server.kill();

    for life in 0..3 {
        let mut server = Server::on(data_dir.clone(), &[]).await;
        let address = server.amqp[0];
        for (name, there) in [("kept-x", true), ("lost-x", false), ("deleted-x", false)] {
            assert_eq!(has_exchange(address, name), there, "{name}, life {life}");
        }
        for name in ["lost", "exclusive", "deleted"] {
            assert!(!has_queue(address, name), "{name} is back in life {life}");
        }
        for name in ["unbound", "again", "purged"] {
            assert_eq!(
                take_all(address, name).unwrap(),
                [] as [Vec<u8>; 0],
                "{name}"
            );
        }
        let expected: &[&[u8]] = if life == 0 { &[b"first"] } else { &[] };
        assert_eq!(take_all(address, "kept").unwrap(), expected);
        let expected: &[&[u8]] = if life == 0 { &[b"2 persistent"] } else { &[] };
        assert_eq!(take_all(address, "mixed").unwrap(), expected);
        let routed = [text("through the binding")];
        publish_confirmed(address, "kept-x", "a.b", &routed).unwrap();
        assert_eq!(take_all(address, "kept").unwrap(), routed);
        assert_eq!(Peer::open(address).ready("unbound").unwrap(), 0);
        // Puts what was acknowledged in front of something confirmed.
        publish_confirmed(address, "", "again", &[text("x")]).unwrap();
        take_all(address, "again").unwrap();
        publish_confirmed(address, "", "nowhere", &[text("x")]).unwrap();
        match life {
            1 => assert!(server.terminate().await.success()),
            _ => server.kill(),
        }
    }
}

fn delete_exchange(peer: &mut Peer, name: &str) -> io::Result<()> {
    let delete = exchange::Delete {
        exchange: short(name),
        ..exchange::Delete::default()
    };
    peer.call(&Method::ExchangeDelete(delete), "exchange.delete-ok")?;
    Ok(())
}

/// What a queue has to hold after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    /// Something was on its way.
    Anything,
    Absent,
    Holds(Vec<Vec<u8>>),
}

const CHURNED: usize = 6;

#[actix_web::test]
async fn what_was_deleted_or_purged_before_sigkill_stays_so() {
    let rounds = number_from("BACKBONE_CRASH_ROUNDS", 5);
    let seed = number_from("BACKBONE_CRASH_SEED", u64::from(std::process::id()));
    println!("BACKBONE_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let data_dir = directory_on_disk();
    let mut expected: HashMap<usize, Expected> = HashMap::new();
    let mut checked = 0;
    for _ in 0..rounds {
        let mut server = Server::on(data_dir.clone(), &[]).await;
        let address = server.amqp[0];
        checked += check_churned(address, &mut expected);
        let length = Duration::from_millis(random.within(50..500) as u64);
        std::thread::scope(|scope| {
            let churn = scope.spawn(|| churn(address, &mut expected, &mut random));
            pause(length);
            server.kill();
            churn.join().unwrap();
        });
    }
    let server = Server::on(data_dir, &[]).await;
    checked += check_churned(server.amqp[0], &mut expected);
    println!("{checked} queues were as they had to be");
    assert!(checked > 0);
}

/// Compares the queues with what they have to be.
fn check_churned(address: SocketAddr, expected: &mut HashMap<usize, Expected>) -> usize {
    let mut checked = 0;
    for (number, state) in expected.iter_mut() {
        let name = churned(*number);
        let there = has_queue(address, &name);
        let found = match there {
            false => Expected::Absent,
            true => Expected::Holds(take_all(address, &name).unwrap()),
        };
        if *state != Expected::Anything {
            assert_eq!(found, *state, "{name}");
            checked += 1;
        }
        // The acks of what was taken may not be in the log when the next crash comes: a new start.
        if there {
            Peer::open(address).delete(&name).unwrap();
        }
        *state = Expected::Absent;
    }
    checked
}

fn churned(number: usize) -> String {
    format!("churned-{number}")
}

/// Declares, fills, purges and deletes queues until the server ends.
fn churn(address: SocketAddr, expected: &mut HashMap<usize, Expected>, random: &mut Random) {
    let mut peer = Peer::publisher(address);
    let (mut published, mut body) = (0, 0_u64);
    loop {
        let number = random.within(0..CHURNED);
        let name = churned(number);
        let before = expected.insert(number, Expected::Anything);
        let held = match before {
            None | Some(Expected::Absent) => match peer.declare(&name, true) {
                Ok(()) => Vec::new(),
                Err(_) => return,
            },
            Some(Expected::Holds(held)) => held,
            Some(Expected::Anything) => return,
        };
        let done = match random.within(0..5) {
            0 => peer.delete(&name).map(|()| Expected::Absent),
            // Only together with what is confirmed later is a purge known to be in the log.
            1 => peer
                .purge(&name)
                .and_then(|()| fill(&mut peer, &name, Vec::new(), &mut published, &mut body)),
            _ => fill(&mut peer, &name, held, &mut published, &mut body),
        };
        match done {
            Ok(state) => expected.insert(number, state),
            Err(_) => return,
        };
    }
}

/// Adds confirmed messages to what a queue holds.
fn fill(
    peer: &mut Peer,
    name: &str,
    mut held: Vec<Vec<u8>>,
    published: &mut u64,
    next: &mut u64,
) -> io::Result<Expected> {
    let mut out = Vec::new();
    for _ in 0..5 {
        let body = format!("{name} {next}").into_bytes();
        *next += 1;
        *published += 1;
        publish_persistent("", name, &body, &mut out);
        held.push(body);
    }
    peer.send(&out)?;
    peer.confirmed(*published - 4, *published)?;
    Ok(Expected::Holds(held))
}

#[actix_web::test]
async fn what_the_bus_took_before_sigkill_is_delivered_after_it() {
    let data_dir = directory_on_disk();
    let mut server = Server::on(data_dir.clone(), &[]).await;
    let http = reqwest::Client::new();
    let mut secrets = Vec::new();
    for (id, subscription) in [("sender", ""), ("reader", "crash.#")] {
        let record = json!({"client_id": id, "subscription": subscription});
        let request = http.post(server.url("/clients")).json(&record);
        let answer = request.basic_auth("admin", Some(ADMIN_SECRET)).send().await;
        let created: Value = answer.unwrap().json().await.unwrap();
        secrets.push(created["secret"].as_str().unwrap().to_owned());
    }
    for number in 0..50 {
        let message = json!({"topic": "crash.test", "body": number});
        let request = http.post(server.url("/send")).json(&message);
        let answer = request.basic_auth("sender", Some(&secrets[0])).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    server.kill();
    let server = Server::on(data_dir, &[]).await;
    let request = http.get(server.url("/receive"));
    let answer = request.basic_auth("reader", Some(&secrets[1])).send().await;
    let items: Vec<Value> = answer.unwrap().json().await.unwrap();
    let bodies: Vec<_> = items.iter().map(|item| item["body"].clone()).collect();
    assert_eq!(bodies, (0..50).map(|n| json!(n)).collect::<Vec<_>>());
}

#[allow(
    clippy::disallowed_methods,
    reason = "the test's own thread, while another works"
)]
fn pause(length: Duration) {
    std::thread::sleep(length);
}
