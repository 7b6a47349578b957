//! Peers that do not read, vanish, or send more than there is memory for: they hold their own bound,
//! and nobody else notices.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backbone_wire::method::{Method, basic, connection, queue};
use common::admin::Admin;
use common::raw::{PERSISTENT, Raw, cpu_ticks, publish, publish_with, resident_bytes, short};
use common::{Server, command, directory_on_disk};

const MIB: usize = 1024 * 1024;

#[actix_web::test]
async fn a_consumer_that_does_not_read_holds_its_own_buffer_only() {
    let server = Server::start().await;
    let mut stuck = Raw::open(server.amqp[0], 0);
    stuck.declare("stuck");
    stuck.consume("stuck", true);
    let mut sender = Raw::open(server.amqp[0], 0);
    let body = vec![7; MIB];
    let message = publish("stuck", &body);
    for _ in 0..64 {
        sender.send(&message);
    }
    let mut other = Raw::open(server.amqp[0], 0);
    other.declare("other");
    other.consume("other", true);
    let before = resident_bytes(server.id());
    for number in 0..200u32 {
        sender.send(&publish("other", &number.to_be_bytes()));
        assert_eq!(other.delivery().1, number.to_be_bytes());
    }
    let after = resident_bytes(server.id());
    assert!(
        after < before.max(64 * MIB) + 32 * MIB,
        "{} MiB became {} MiB",
        before / MIB,
        after / MIB
    );
    for _ in 0..64 {
        assert_eq!(stuck.delivery().1, body);
    }
}

#[actix_web::test]
async fn a_peer_that_asks_and_does_not_listen_is_not_read_any_more() {
    let server = Server::start().await;
    let mut deaf = Raw::open(server.amqp[0], 0);
    deaf.declare("q");
    let before = resident_bytes(server.id());
    let mut asked = Vec::new();
    let declare = queue::Declare {
        queue: short("q"),
        ..queue::Declare::default()
    };
    for _ in 0..10_000 {
        Method::QueueDeclare(declare).write(1, &mut asked);
    }
    deaf.stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let stopped = (0..400).find_map(|_| deaf.stream.write_all(&asked).err());
    let kind = stopped.expect("the server stops reading").kind();
    assert!(
        matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{kind}"
    );
    let after = resident_bytes(server.id());
    assert!(
        after < before + 32 * MIB,
        "{} MiB more",
        (after - before) / MIB
    );
    let mut other = Raw::open(server.amqp[0], 0);
    other.declare("other");
}

#[actix_web::test]
async fn a_silent_peer_is_taken_for_dead_and_gives_back_what_it_held() {
    let server = Server::start().await;
    let mut silent = Raw::open(server.amqp[0], 1);
    silent.declare("q");
    silent.consume("q", false);
    silent.send(&publish("q", b"held"));
    assert_eq!(silent.delivery(), (false, b"held".to_vec()));
    let mut other = Raw::open(server.amqp[0], 0);
    other.consume("q", false);
    let since = Instant::now();
    assert_eq!(other.delivery(), (true, b"held".to_vec()));
    assert!(
        since.elapsed() > Duration::from_millis(800),
        "one interval is not enough"
    );
    while silent.frame().is_some() {}
}

#[actix_web::test]
async fn publishers_wait_while_memory_is_short_and_nothing_is_lost() {
    let limit = (8 * MIB).to_string();
    let server = Server::with(&[("BACKBONE_LIMITS__MEMORY_BYTES", &limit)]).await;
    let mut sender = Raw::open(server.amqp[0], 0);
    sender.declare("q");
    let mut writing = sender.stream.try_clone().unwrap();
    const MESSAGES: u32 = 400;
    let writer = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            let mut body = vec![0; 100_000];
            body[..4].copy_from_slice(&number.to_be_bytes());
            writing.write_all(&publish("q", &body)).unwrap();
        }
    });
    // What waits goes to the disk. What a consumer holds stays in memory.
    let mut reader = Raw::open(server.amqp[0], 0);
    reader.consume("q", false);
    let mut acks = reader.stream.try_clone().unwrap();
    let blocked_once = Arc::new(AtomicBool::new(false));
    let acknowledges = Arc::clone(&blocked_once);
    let all = Method::BasicAck(basic::Ack {
        delivery_tag: 0,
        multiple: true,
    });
    let reads = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            assert_eq!(reader.delivery().1[..4], number.to_be_bytes());
            if acknowledges.load(Ordering::SeqCst) {
                reader.method(1, &all);
            }
        }
    });
    let blocked = sender.expect("connection.blocked");
    let Method::ConnectionBlocked(blocked) = Method::decode(&blocked).unwrap() else {
        unreachable!("the name was checked");
    };
    assert_eq!(
        blocked,
        connection::Blocked {
            reason: short("low on memory")
        }
    );
    let health = reqwest::get(server.url("/health/live")).await.unwrap();
    assert_eq!(health.status(), 200);
    blocked_once.store(true, Ordering::SeqCst);
    let mut ack = Vec::new();
    all.write(1, &mut ack);
    acks.write_all(&ack).unwrap();
    reads.join().unwrap();
    writer.join().unwrap();
    sender.expect("connection.unblocked");
}

#[actix_web::test]
async fn connections_that_say_nothing_cost_nobody_anything() {
    let server = Server::with(&[("BACKBONE_AMQP__HANDSHAKE_TIMEOUT_MS", "4000")]).await;
    let silent: Vec<_> = (0..800)
        .map(|_| TcpStream::connect(server.amqp[0]).unwrap())
        .collect();
    let mut working = Raw::open(server.amqp[0], 0);
    working.declare("q");
    working.consume("q", true);
    for number in 0..100u32 {
        working.send(&publish("q", &number.to_be_bytes()));
        assert_eq!(working.delivery().1, number.to_be_bytes());
    }
    for mut stream in silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        let mut end = [0; 1];
        assert_eq!(stream.read(&mut end).unwrap_or(0), 0);
    }
    working.send(&publish("q", b"still"));
    assert_eq!(working.delivery().1, b"still");
}

/// Files and sockets that the next server may have open.
const OPEN_FILES: &str = "256";
/// More connections than that.
const TOO_MANY: usize = 300;

/// A server that may open only so many files.
async fn short_of_files() -> Server {
    let folder = directory_on_disk();
    let program = command(folder.path(), &[]);
    let mut limited = Command::new("/bin/sh");
    limited
        .args([
            "-c",
            "ulimit -n \"$1\" && exec \"$2\" serve",
            "sh",
            OPEN_FILES,
        ])
        .arg(program.get_program())
        .current_dir(folder.path())
        .env_clear()
        .envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    Server::run(limited, folder).await
}

#[actix_web::test]
async fn connections_stop_at_the_limit_of_open_files_and_what_is_there_goes_on() {
    let server = short_of_files().await;
    let mut working = Raw::open(server.amqp[0], 0);
    let mut declare = queue::Declare {
        queue: short("q"),
        ..queue::Declare::default()
    };
    declare.durable = true;
    working.ask(&Method::QueueDeclare(declare), "queue.declare-ok");
    let mut open = Vec::new();
    let refused = loop {
        match Raw::login(server.amqp[0], "guest", "guest", 0) {
            Ok(connection) => open.push(connection),
            Err(refused) => break refused,
        }
        assert!(open.len() < TOO_MANY, "it takes more than it can have");
    };
    let text = "NOT_ALLOWED - connection refused: the limit of open files is reached";
    assert_eq!(refused, (530, text.to_owned()));
    assert!(open.len() > 50, "{} connections", open.len());

    // Those who do not even ask are let go once a few of them wait.
    let before = cpu_ticks(server.id());
    let silent: Vec<_> = (0..TOO_MANY)
        .map(|_| TcpStream::connect(server.amqp[0]).unwrap())
        .collect();
    let ended = silent.iter().filter(|stream| {
        let mut stream = *stream;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.read(&mut [0]).unwrap_or(0) == 0
    });
    assert_eq!(ended.count(), TOO_MANY);
    let used = cpu_ticks(server.id()) - before;
    assert!(used < 500, "{used} ticks");

    // The log needs new files meanwhile.
    for number in 1..=140_u8 {
        let body = vec![number; MIB];
        match number {
            1 => working.publish_confirmed(&publish_with("", "q", PERSISTENT, &body)),
            _ => {
                working.send(&publish_with("", "q", PERSISTENT, &body));
                working.expect("basic.ack");
            }
        }
    }
    assert_eq!(working.waiting("q"), 140);
    let metrics = Admin::of(&server).text("/metrics").await;
    assert!(metrics.contains("backbone_log_health{state=\"open\"} 1"));
    let refused = metrics
        .lines()
        .find_map(|line| line.strip_prefix("backbone_connections_refused_total "));
    assert!(refused.unwrap().parse::<u32>().unwrap() >= TOO_MANY as u32);
    // And who goes makes room.
    drop(open);
    let since = Instant::now();
    while Raw::login(server.amqp[0], "guest", "guest", 0).is_err() {
        assert!(since.elapsed() < Duration::from_secs(20));
    }
}

#[actix_web::test]
async fn an_idle_server_with_idle_connections_uses_no_processor_time() {
    let server = Server::start().await;
    let mut connections: Vec<_> = (0..50).map(|_| Raw::open(server.amqp[0], 0)).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        let name = format!("q{number}");
        connection.declare(&name);
        connection.consume(&name, number % 2 == 0);
        connection.send(&publish(&name, b"x"));
        connection.delivery();
    }
    // One that holds all that it may, with more waiting.
    let mut full = Raw::open(server.amqp[0], 0);
    full.declare("full");
    let qos = basic::Qos {
        prefetch_count: 1,
        ..basic::Qos::default()
    };
    full.method(1, &Method::BasicQos(qos));
    full.expect("basic.qos-ok");
    full.consume("full", false);
    full.send(&publish("full", b"1"));
    full.send(&publish("full", b"2"));
    full.delivery();
    let before = cpu_ticks(server.id());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_ticks(server.id()) - before;
    assert!(used < 20, "{used} of 100 ticks");
}

#[actix_web::test]
async fn sigterm_tells_the_peers_and_ends() {
    let mut server = Server::start().await;
    let mut open = Raw::open(server.amqp[0], 0);
    let status = tokio::spawn(async move {
        let status = server.terminate().await;
        (status, server.data_dir())
    });
    let reading = tokio::task::spawn_blocking(move || {
        let close = open.expect("connection.close");
        let Method::ConnectionClose(close) = Method::decode(&close).unwrap() else {
            unreachable!("the name was checked");
        };
        assert_eq!(close.reply_code, 320);
        open.method(0, &Method::ConnectionCloseOk(connection::CloseOk));
        assert!(open.frame().is_none());
    });
    reading.await.unwrap();
    let (status, data_dir) = status.await.unwrap();
    assert!(status.success());
    let again = Server::on(data_dir, &[]).await;
    Raw::open(again.amqp[0], 0);
}
