//! Queues that are longer than there is memory for: what is not durable goes to the log as well, and comes back in order.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use backbone_wire::method::{Method, queue};
use common::peer::{publish_persistent, publish_transient};
use common::raw::{Raw, resident_bytes, short};
use common::{ADMIN_SECRET, Server};

const MIB: usize = 1024 * 1024;
/// `limits.memory_bytes`; half of it is where queues begin to give up memory.
const LIMIT: usize = 16 * MIB;
const BODY_BYTES: usize = 4096;
/// Messages that are sent before the sender waits for an answer: 4 MiB.
const WINDOW: u32 = 1024;
/// How long the server may take to make room.
const PATIENCE: Duration = Duration::from_secs(60);

async fn small_server() -> Server {
    Server::with(&[("BACKBONE_LIMITS__MEMORY_BYTES", &LIMIT.to_string())]).await
}

fn declare(peer: &mut Raw, name: &str, durable: bool, exclusive: bool) {
    let declare = queue::Declare {
        queue: short(name),
        durable,
        exclusive,
        ..queue::Declare::default()
    };
    peer.method(1, &Method::QueueDeclare(declare));
    peer.expect("queue.declare-ok");
}

/// Messages that wait in a queue.
fn waiting(peer: &mut Raw, name: &str) -> u32 {
    let declare = queue::Declare {
        queue: short(name),
        passive: true,
        ..queue::Declare::default()
    };
    peer.method(1, &Method::QueueDeclare(declare));
    let payload = peer.expect("queue.declare-ok");
    match Method::decode(&payload).unwrap() {
        Method::QueueDeclareOk(ok) => ok.message_count,
        other => panic!("not a declare-ok: {other:?}"),
    }
}

fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(BODY_BYTES, number as u8);
    body
}

/// The next delivery is this message; a failure does not print its body.
fn expect_delivery(reader: &mut Raw, number: u32, redelivered: bool) {
    let (again, found) = reader.delivery();
    let first = found.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    assert_eq!((again, first), (redelivered, Some(number)));
    assert!(found == body(number), "the body of {number} is damaged");
}

/// The sum of a metric's samples.
async fn metric(server: &Server, name: &str) -> usize {
    let request = reqwest::Client::new()
        .get(server.url("/metrics"))
        .basic_auth("admin", Some(ADMIN_SECRET));
    let text = request.send().await.unwrap().text().await.unwrap();
    let samples = text.lines().filter_map(|line| line.strip_prefix(name));
    let values = samples.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum::<f64>() as usize
}

/// Waits until stored messages take no more than half of what they may, although nobody consumes.
async fn wait_for_room(server: &Server) {
    let since = Instant::now();
    while metric(server, "backbone_message_store_bytes").await > LIMIT / 2 {
        assert!(since.elapsed() < PATIENCE, "nothing makes room");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends messages `0..count` to `queue`, those persistent of which `persistent` says so, without ever being blocked.
async fn fill(server: &Server, queue: &str, count: u32, persistent: impl Fn(u32) -> bool) -> Raw {
    let mut sender = Raw::open(server.amqp[0], 0);
    declare(&mut sender, queue, true, false);
    send(server, &mut sender, queue, count, persistent).await;
    sender
}

async fn send(
    server: &Server,
    sender: &mut Raw,
    queue: &str,
    count: u32,
    persistent: impl Fn(u32) -> bool,
) {
    let mut out = Vec::new();
    for number in 0..count {
        match persistent(number) {
            true => publish_persistent("", queue, &body(number), &mut out),
            false => publish_transient("", queue, &body(number), &mut out),
        }
        if (number + 1) % WINDOW == 0 {
            sender.send(&out);
            out.clear();
            // Any other answer than that, be it `connection.blocked`, fails.
            sender.method(1, &common::peer::qos(0));
            sender.expect("basic.qos-ok");
            wait_for_room(server).await;
        }
    }
    assert!(out.is_empty(), "a multiple of the window");
}

#[actix_web::test]
async fn a_queue_takes_many_times_the_memory_that_messages_may_take() {
    let server = small_server().await;
    let before = resident_bytes(server.id());
    let count = 40 * WINDOW;
    let mut sender = fill(&server, "q", count, |_| false).await;
    let after = resident_bytes(server.id());
    assert!(
        after < before + 6 * LIMIT,
        "{} MiB became {} MiB",
        before / MIB,
        after / MIB
    );
    let out = metric(&server, "backbone_messages_paged_out_total").await;
    assert!(out > count as usize / 2, "{out} paged out");
    let mut reader = Raw::open(server.amqp[0], 0);
    reader.consume("q", true);
    for number in 0..count {
        expect_delivery(&mut reader, number, false);
    }
    assert_eq!(waiting(&mut sender, "q"), 0);
}

#[actix_web::test]
async fn an_exclusive_queue_does_too_and_leaves_nothing_behind() {
    let server = small_server().await;
    let mut owner = Raw::open(server.amqp[0], 0);
    declare(&mut owner, "mine", false, true);
    send(&server, &mut owner, "mine", 16 * WINDOW, |_| false).await;
    // The log says it with a delay.
    wait_for_live_bytes(&server, |bytes| bytes > 16 * MIB).await;
    drop(owner);
    wait_for_live_bytes(&server, |bytes| bytes < MIB).await;
}

async fn wait_for_live_bytes(server: &Server, are_right: impl Fn(usize) -> bool) {
    let since = Instant::now();
    loop {
        let bytes = metric(server, "backbone_log_live_bytes").await;
        if are_right(bytes) {
            return;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{bytes} bytes are alive in the log"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix_web::test]
async fn what_is_persistent_keeps_its_place_between_the_others_and_survives_alone() {
    let mut server = small_server().await;
    let count = 12 * WINDOW;
    let third = |number: u32| number.is_multiple_of(3);
    let mut sender = fill(&server, "mixed", count, third).await;
    let mut reader = Raw::open(server.amqp[0], 0);
    reader.method(1, &common::peer::qos(10));
    reader.expect("basic.qos-ok");
    reader.consume("mixed", false);
    for number in 0..10 {
        expect_delivery(&mut reader, number, false);
    }
    drop(reader);
    let since = Instant::now();
    while waiting(&mut sender, "mixed") < count {
        assert!(
            since.elapsed() < PATIENCE,
            "what was held does not come back"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut reader = Raw::open(server.amqp[0], 0);
    reader.consume("mixed", false);
    for number in 0..count {
        expect_delivery(&mut reader, number, number < 10);
    }
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let mut reader = Raw::open(server.amqp[0], 0);
    reader.consume("mixed", true);
    for number in (0..count).filter(|number| third(*number)) {
        // All of them were handed out before.
        expect_delivery(&mut reader, number, true);
    }
}
