//! Peers that are gone, or as good as gone, while the server does not read them: what they hold comes
//! back, and waiting for them costs nothing.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use backbone_wire::content::write_body;
use backbone_wire::frame::HEARTBEAT;
use backbone_wire::method::{Method, basic, connection};
use backbone_wire::properties::{ContentHeader, Properties};
use common::Server;
use common::raw::{FRAME_MAX, Raw, cpu_ticks, publish, resident_bytes, short};

const MIB: usize = 1024 * 1024;
/// What a peer that does not read is sent: more than any system buffers.
const BACKLOG: usize = 24;

/// A peer that was sent more than it reads: the server's out-buffer for it is full. The numbers of the
/// messages are in their first octet.
async fn overfed(server: &Server, heartbeat_s: u16, no_ack: bool) -> Raw {
    let mut peer = Raw::open(server.amqp[0], heartbeat_s);
    peer.declare("q");
    peer.consume("q", no_ack);
    let mut sender = Raw::open(server.amqp[0], 0);
    for number in 0..BACKLOG {
        sender.send(&publish("q", &vec![number as u8; MIB]));
    }
    sender.declare("done");
    peer
}

#[actix_web::test]
async fn a_peer_that_vanished_with_a_full_buffer_gives_back_what_it_held() {
    let server = Server::start().await;
    let vanished = overfed(&server, 1, false).await;
    let mut other = Raw::open(server.amqp[0], 0);
    let since = Instant::now();
    other.consume("q", false);
    let mut numbers: Vec<u8> = (0..BACKLOG).map(|_| other.delivery().1[0]).collect();
    assert!(since.elapsed() < Duration::from_secs(8));
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..BACKLOG as u8));
    drop(vanished);
}

#[actix_web::test]
async fn a_peer_that_only_sends_heartbeats_is_alive() {
    let server = Server::start().await;
    let mut slow = overfed(&server, 1, true).await;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        slow.send(&HEARTBEAT);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    for number in 0..BACKLOG {
        assert_eq!(slow.delivery().1[0], number as u8);
    }
}

#[actix_web::test]
async fn the_end_of_a_publisher_is_seen_while_memory_is_short() {
    let limit = (4 * MIB).to_string();
    let server = Server::with(&[("BACKBONE_LIMITS__MEMORY_BYTES", &limit)]).await;
    // It holds what fills the memory, and publishes itself: only its end frees anything.
    let mut both = Raw::open(server.amqp[0], 0);
    both.declare("q");
    both.consume("q", false);
    for number in 0..4 {
        both.send(&publish("q", &vec![number; MIB]));
        if number < 3 {
            assert_eq!(both.delivery().1[0], number);
        }
    }
    // The last delivery may come before or after it.
    while !both.next_is("connection.blocked") {}
    both.send(&publish("q", &[4]));
    both.stream.shutdown(Shutdown::Write).unwrap();
    let mut other = Raw::open(server.amqp[0], 0);
    other.consume("q", true);
    for number in 0..5 {
        assert_eq!(other.delivery().1[0], number);
    }
    // Nobody is held back for good.
    let mut sender = Raw::open(server.amqp[0], 0);
    sender.send(&publish("q", b"after"));
    while other.delivery().1 != b"after" {}
}

#[actix_web::test]
async fn waiting_for_peers_costs_no_processor_time() {
    let limit = (40 * MIB).to_string();
    let server = Server::with(&[("BACKBONE_LIMITS__MEMORY_BYTES", &limit)]).await;
    // Does not read, has asked to close, and is at the end of what it sends.
    let mut full = overfed(&server, 0, true).await;
    full.method(0, &Method::ConnectionClose(connection::Close::default()));
    full.stream.shutdown(Shutdown::Write).unwrap();
    // Held back, with more to send.
    let mut blocked = Raw::open(server.amqp[0], 0);
    blocked.declare("nobody");
    // What waits would go to the disk: somebody has to hold it.
    let mut holder = Raw::open(server.amqp[0], 0);
    holder.consume("nobody", false);
    std::thread::spawn(move || while holder.frame().is_some() {});
    let pause = Some(Duration::from_millis(300));
    blocked.stream.set_write_timeout(pause).unwrap();
    let message = publish("nobody", &vec![0; MIB]);
    while blocked.stream.write_all(&message).is_ok() {}
    blocked.expect("connection.blocked");
    let mut waiting = Vec::new();
    for number in 0..20 {
        let mut peer = Raw::open(server.amqp[0], 0);
        if number % 2 == 0 {
            // A frame error was answered; close-ok does not come.
            peer.send(&[9, 0, 0, 0, 0, 0, 0, 0]);
            peer.expect("connection.close");
        } else {
            // Half a frame.
            peer.send(&publish("q", &[0; 1000])[..100]);
        }
        waiting.push(peer);
    }
    let before = cpu_ticks(server.id());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_ticks(server.id()) - before;
    assert!(used < 20, "{used} of 100 ticks");
    drop(waiting);
}

#[actix_web::test]
async fn a_peer_that_does_not_answer_our_close_is_dropped() {
    let server = Server::start().await;
    let mut deaf = Raw::open(server.amqp[0], 0);
    deaf.declare("q");
    deaf.send(&[9, 0, 0, 0, 0, 0, 0, 0]);
    let since = Instant::now();
    while deaf.frame().is_some() {}
    let waited = since.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(8)).contains(&waited),
        "{waited:?}"
    );
}

#[actix_web::test]
async fn a_publisher_that_does_not_take_its_returns_is_not_read_any_more() {
    let server = Server::start().await;
    let mut deaf = Raw::open(server.amqp[0], 0);
    let before = resident_bytes(server.id());
    let mut message = Vec::new();
    let publish = basic::Publish {
        routing_key: short("nowhere"),
        mandatory: true,
        ..basic::Publish::default()
    };
    publish.write(1, &mut message);
    let body = vec![0; 60_000];
    let header = ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: body.len() as u64,
        properties: Properties::from_bytes(&[0, 0]).unwrap(),
    };
    header.write(1, &mut message);
    write_body(1, &body, FRAME_MAX, &mut message);
    let pause = Some(Duration::from_millis(500));
    deaf.stream.set_write_timeout(pause).unwrap();
    let sent = (0..4000).find(|_| deaf.stream.write_all(&message).is_err());
    assert!(sent.is_some(), "240 MB were taken from who takes nothing");
    let more = resident_bytes(server.id()).saturating_sub(before);
    assert!(more < 16 * MIB, "{} MiB more", more / MIB);
    Raw::open(server.amqp[0], 0).declare("others go on");
}

#[actix_web::test]
async fn many_publishers_held_back_cost_little() {
    let limit = (4 * MIB).to_string();
    let server = Server::with(&[("BACKBONE_LIMITS__MEMORY_BYTES", &limit)]).await;
    let mut publishers: Vec<Raw> = (0..200).map(|_| Raw::open(server.amqp[0], 0)).collect();
    // What it holds stays in memory.
    let mut holder = Raw::open(server.amqp[0], 0);
    holder.declare("q");
    holder.consume("q", false);
    for publisher in &mut publishers {
        publisher.send(&publish("q", &[0; 64 * 1024]));
    }
    // A publisher hears of the alarm when it does something: it has to be raised by then.
    for _ in 0..200 {
        holder.delivery();
    }
    for publisher in &mut publishers {
        publisher.send(&publish("q", b"more"));
        publisher.expect("connection.blocked");
    }
    let before = cpu_ticks(server.id());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_ticks(server.id()) - before;
    println!("{used} of 100 ticks for 200 publishers");
    assert!(used < 30, "{used} of 100 ticks");
    let all = basic::Ack {
        delivery_tag: 0,
        multiple: true,
    };
    holder.method(1, &Method::BasicAck(all));
    for _ in 0..200 {
        holder.delivery();
    }
    for publisher in &mut publishers {
        publisher.expect("connection.unblocked");
    }
}
