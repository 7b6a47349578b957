//! Bytes that are no AMQP, or nearly: the right error or the end, and everybody else goes on.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use backbone_wire::PROTOCOL_HEADER;
use backbone_wire::method::{Method, basic, queue};
use backbone_wire::table::{TableBuf, Value};
use common::Server;
use common::raw::{FRAME_MAX, Raw, publish, resident_bytes, short};

const MIB: usize = 1024 * 1024;

/// Repeatable numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Sends what the server may not want to the end, and says that nothing more comes.
fn send_all(peer: &mut Raw, bytes: &[u8]) {
    // The server may end the connection in the middle of it.
    drop(peer.stream.write_all(bytes));
    drop(peer.stream.shutdown(Shutdown::Write));
}

/// Reads to the end, whatever comes.
fn drain(mut peer: Raw) {
    drop(std::io::copy(&mut peer.stream, &mut std::io::sink()));
}

/// The server serves a normal client and says that it is ready.
async fn assert_healthy(server: &Server) {
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("healthy");
    peer.consume("healthy", true);
    peer.send(&publish("healthy", b"yes"));
    assert_eq!(peer.delivery().1, b"yes");
    let answer = reqwest::get(server.url("/health/ready")).await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Some of everything that a client says.
fn conversation(number: usize) -> Vec<u8> {
    let name = format!("q{}", number % 7);
    let mut out = Vec::new();
    let declare = queue::Declare {
        queue: short(&name),
        ..queue::Declare::default()
    };
    Method::QueueDeclare(declare).write(1, &mut out);
    let qos = basic::Qos {
        prefetch_count: 2,
        ..basic::Qos::default()
    };
    Method::BasicQos(qos).write(1, &mut out);
    let consume = basic::Consume {
        queue: short(&name),
        consumer_tag: short("c"),
        ..basic::Consume::default()
    };
    Method::BasicConsume(consume).write(1, &mut out);
    for size in [0, 10, 5000] {
        out.extend(publish(&name, &vec![1; size]));
    }
    let ack = basic::Ack {
        delivery_tag: 1,
        multiple: false,
    };
    Method::BasicAck(ack).write(1, &mut out);
    let get = basic::Get {
        queue: short(&name),
        no_ack: true,
    };
    Method::BasicGet(get).write(1, &mut out);
    out
}

#[actix_web::test]
async fn random_bytes_harm_nobody() {
    let server = Server::start().await;
    let before = resident_bytes(server.id());
    let mut numbers = Numbers(1);
    let mut peers = Vec::new();
    for number in 0..150 {
        let mut garbage = Vec::new();
        let mut peer = if number % 3 == 0 {
            Raw::open(server.amqp[0], 0)
        } else {
            if number % 3 == 1 {
                garbage.extend(PROTOCOL_HEADER);
            }
            Raw::silent(server.amqp[0])
        };
        let count = numbers.below(20_000);
        garbage.extend(numbers.bytes(count));
        send_all(&mut peer, &garbage);
        peers.push(peer);
    }
    peers.into_iter().for_each(drain);
    assert_healthy(&server).await;
    let more = resident_bytes(server.id()).saturating_sub(before);
    assert!(more < 24 * MIB, "{} MiB more", more / MIB);
}

#[actix_web::test]
async fn mutated_conversations_harm_nobody() {
    let server = Server::start().await;
    let before = resident_bytes(server.id());
    let mut numbers = Numbers(2);
    let mut peers = Vec::new();
    for number in 0..400 {
        let mut bytes = conversation(number);
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(bytes.len());
            match numbers.below(4) {
                0 => bytes[at] ^= 1 << numbers.below(8),
                1 => bytes[at] = numbers.next() as u8,
                2 => drop(bytes.splice(at..(at + numbers.below(9)).min(bytes.len()), [])),
                _ => {
                    let more = numbers.bytes(9);
                    bytes.splice(at..at, more);
                }
            }
        }
        let mut peer = Raw::open(server.amqp[0], 0);
        send_all(&mut peer, &bytes);
        peers.push(peer);
    }
    peers.into_iter().for_each(drain);
    assert_healthy(&server).await;
    let more = resident_bytes(server.id()).saturating_sub(before);
    assert!(more < 24 * MIB, "{} MiB more", more / MIB);
}

#[actix_web::test]
async fn one_octet_at_a_time_is_as_good() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    peer.consume("q", true);
    for octet in publish("q", b"slowly") {
        peer.send(&[octet]);
    }
    assert_eq!(peer.delivery().1, b"slowly");
}

#[actix_web::test]
async fn tables_may_be_deep_but_not_without_end() {
    let server = Server::start().await;
    let declare = |levels: usize| {
        let mut table = TableBuf::new();
        table.put("x", &Value::Bool(true));
        for _ in 1..levels {
            let mut outer = TableBuf::new();
            outer.put("t", &Value::Table(table.as_table()));
            table = outer;
        }
        let declare = queue::Declare {
            queue: short("deep"),
            arguments: table.as_table(),
            ..queue::Declare::default()
        };
        let mut out = Vec::new();
        Method::QueueDeclare(declare).write(1, &mut out);
        out
    };
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.send(&declare(100));
    peer.expect("queue.declare-ok");
    peer.send(&declare(129));
    assert_eq!(peer.read_to_end(), Some(501));
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.send(&declare(5000));
    assert_eq!(peer.read_to_end(), Some(501));
    assert_healthy(&server).await;
}

#[actix_web::test]
async fn oversized_frames_are_refused_before_they_come() {
    let server = Server::start().await;
    for size in [FRAME_MAX + 1, u32::MAX] {
        let mut peer = Raw::open(server.amqp[0], 0);
        let mut head = vec![3, 0, 1];
        head.extend(size.to_be_bytes());
        peer.send(&head);
        assert_eq!(peer.read_to_end(), Some(501), "{size}");
    }
    // Before the login, less is enough.
    let mut peer = Raw::silent(server.amqp[0]);
    peer.send(&PROTOCOL_HEADER);
    peer.expect("connection.start");
    peer.send(&[1, 0, 0, 0, 1, 0, 0]);
    assert_eq!(peer.read_to_end(), Some(501));
}

#[actix_web::test]
async fn who_is_refused_has_a_second_to_answer_before_the_end() {
    let server = Server::start().await;
    let mut peer = Raw::silent(server.amqp[0]);
    peer.send(&PROTOCOL_HEADER);
    peer.expect("connection.start");
    let refused = Instant::now();
    peer.method(0, &Method::ConnectionOpen(Default::default()));
    peer.expect("connection.close");
    assert_eq!(peer.frame(), None, "only the end may come");
    assert!(refused.elapsed() >= Duration::from_secs(1));
}

#[actix_web::test]
async fn a_long_speech_in_another_protocol_is_answered_with_our_header() {
    let server = Server::start().await;
    let mut peer = Raw::silent(server.amqp[0]);
    let speech = b"GET / HTTP/1.1\r\n".repeat(20_000);
    // The server need not read it all.
    drop(peer.stream.write_all(&speech));
    let mut answer = [0; 8];
    std::io::Read::read_exact(&mut peer.stream, &mut answer).unwrap();
    assert_eq!(answer, PROTOCOL_HEADER);
}

#[actix_web::test]
async fn thousands_who_stop_half_way_hold_up_nobody_and_leave_nothing_behind() {
    backbone::runtime::raise_open_files();
    let server = Server::with(&[("BACKBONE_AMQP__HANDSHAKE_TIMEOUT_MS", "5000")]).await;
    let mut working = Raw::open(server.amqp[0], 0);
    working.declare("q");
    working.consume("q", true);
    let before = resident_bytes(server.id());
    let mut silent = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..2000u32 {
        let mut peer = Raw::silent(server.amqp[0]);
        match number % 3 {
            0 => {}
            1 => peer.send(&PROTOCOL_HEADER[..5]),
            _ => {
                // A login that never gets to its end.
                peer.send(&PROTOCOL_HEADER);
                peer.send(&[1, 0, 0, 0, 0, 1, 0, 0, 10, 0, 11]);
            }
        }
        silent.push(peer);
        if number % 20 == 0 {
            let since = Instant::now();
            working.send(&publish("q", &number.to_be_bytes()));
            assert_eq!(working.delivery().1, number.to_be_bytes());
            slowest = slowest.max(since.elapsed());
        }
    }
    println!("slowest answer {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let each = resident_bytes(server.id()).saturating_sub(before) / silent.len();
    println!("{each} bytes a silent connection");
    assert!(each < 16 * 1024, "{each} bytes each");
    silent.into_iter().for_each(drain);
    assert_healthy(&server).await;
    let more = resident_bytes(server.id()).saturating_sub(before);
    assert!(more < 32 * MIB, "{} MiB more", more / MIB);
}

#[actix_web::test]
async fn idle_connections_are_small() {
    backbone::runtime::raise_open_files();
    const CONNECTIONS: usize = 1000;
    let server = Server::start().await;
    drop(Raw::open(server.amqp[0], 0));
    let before = resident_bytes(server.id());
    let idle: Vec<Raw> = (0..CONNECTIONS)
        .map(|_| Raw::open(server.amqp[0], 60))
        .collect();
    let each = (resident_bytes(server.id()) - before) / idle.len();
    println!("{each} bytes an idle connection with a channel");
    assert!(each < 20 * 1024, "{each} bytes each");
}
