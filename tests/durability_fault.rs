//! A disk that is full, a data directory that is taken, and messages that stay behind: what the operator sees, and
//! that nothing confirmed is lost.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::ledger::Ledger;
use common::peer::{Event, Peer, publish_persistent};
use common::small_disk::SmallDisk;
use common::traffic::{Publisher, Random, consume, drain, queue_name};
use common::{ADMIN_SECRET, Server, command, directory_on_disk, number_from};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Status and body of a path.
async fn get(server: &Server, path: &str) -> (u16, String) {
    let request = reqwest::Client::new().get(server.url(path));
    let answer = request.basic_auth("admin", Some(ADMIN_SECRET)).send();
    let answer = answer.await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn wait_until_ready(server: &Server) {
    let since = Instant::now();
    while get(server, "/health/ready").await.0 != 200 {
        assert!(since.elapsed() < PATIENCE, "it does not get ready again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start_on(disk: &SmallDisk) -> Server {
    let mut plain = command(disk.directory().path(), &[]);
    plain.arg("serve");
    Server::run(disk.inside(&plain), disk.directory()).await
}

/// Queue 0 fills the disk; queue 1 was filled before and is read meanwhile.
const FILLING: usize = 0;
const READABLE: usize = 1;
const READABLE_MESSAGES: u64 = 2_000;
/// Gets a message now and then: who does not publish is told nothing.
const WATCHED: &str = "watched";

#[actix_web::test]
async fn a_full_disk_pauses_publishers_alone_and_room_lets_them_go_on() {
    let Some(disk) = SmallDisk::new(768 * MIB) else {
        return;
    };
    disk.put_ballast("ballast", 256 * MIB);
    let mut server = start_on(&disk).await;
    let address = server.amqp[0];
    let ledger = Arc::new(Ledger::new(2, 2));
    let mut watcher = Peer::publisher(address);
    for queue in [FILLING, READABLE] {
        watcher.declare(&queue_name(queue), true).unwrap();
    }
    watcher.declare(WATCHED, true).unwrap();
    publish_readable(&mut watcher, &ledger);
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = start_publisher(address, &ledger, &stop);

    let reason = publish_until_blocked(&mut watcher).await;
    assert!(reason.contains("disk"), "{reason}");
    let (status, body) = get(&server, "/health/ready").await;
    assert!(status == 503 && body.contains("disk"), "{status} {body}");
    assert_eq!(get(&server, "/health/live").await.0, 200);
    let (_, metrics) = get(&server, "/metrics").await;
    assert!(metrics.contains("\nbackbone_log_"), "{metrics}");
    // Consumers go on, and what they acknowledge is kept.
    drain(address, &ledger, READABLE).unwrap();

    std::fs::remove_file(disk.path("ballast")).unwrap();
    wait_until_unblocked(&mut watcher);
    // What makes room the second time is that the queue is consumed.
    publish_until_blocked(&mut watcher).await;
    let (reader, own) = (Peer::open(address), ledger.clone());
    let reading = thread::spawn(move || consume(reader, &own, FILLING, 100, Random::new(2)));
    wait_until_unblocked(&mut watcher);
    stop.store(true, Ordering::Relaxed);
    publishing.join().unwrap().unwrap();
    wait_until_ready(&server).await;

    // Over a crash: what was confirmed before, meanwhile and after.
    server.kill();
    drop(reading.join().unwrap());
    ledger.end_run();
    let server = start_on(&disk).await;
    for queue in [FILLING, READABLE] {
        drain(server.amqp[0], &ledger, queue).unwrap();
    }
    println!("{:?}", ledger.judge());
}

/// Publishes a little until the server asks to pause; gives its reason.
async fn publish_until_blocked(peer: &mut Peer) -> String {
    let since = Instant::now();
    let mut out = Vec::new();
    publish_persistent("", WATCHED, b"x", &mut out);
    loop {
        peer.send(&out).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        while let Some(event) = peer.next_now().unwrap() {
            if let Event::Blocked(reason) = event {
                return reason;
            }
        }
        assert!(since.elapsed() < PATIENCE, "publishers are not blocked");
    }
}

fn wait_until_unblocked(peer: &mut Peer) {
    while peer.next().unwrap() != Event::Unblocked {}
}

fn publish_readable(peer: &mut Peer, ledger: &Ledger) {
    let mut out = Vec::new();
    let tick = ledger.tick();
    let ids: Vec<_> = (0..READABLE_MESSAGES)
        .map(|_| {
            let (id, body) = ledger.sending(1, READABLE, 200);
            publish_persistent("", &queue_name(READABLE), &body, &mut out);
            id
        })
        .collect();
    peer.send(&out).unwrap();
    peer.confirmed(1, READABLE_MESSAGES).unwrap();
    ids.into_iter().for_each(|id| ledger.confirmed(id, tick));
}

fn start_publisher(
    address: SocketAddr,
    ledger: &Arc<Ledger>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<io::Result<()>> {
    let (ledger, stop) = (ledger.clone(), stop.clone());
    let peer = Peer::publisher(address);
    thread::spawn(move || {
        let publisher = Publisher {
            ledger: &ledger,
            number: 0,
            queues: vec![FILLING],
            window: 500,
            sizes: |random| random.within(10_000..30_000),
            stop: &stop,
        };
        publisher.run(peer, Random::new(1))
    })
}

#[actix_web::test]
async fn a_second_server_on_the_same_data_is_refused_and_says_why() {
    let server = Server::on(directory_on_disk(), &[]).await;
    let second = command(server.data_dir().path(), &[])
        .arg("serve")
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned()
        + &String::from_utf8_lossy(&second.stdout);
    let directory = server.data_dir();
    let path = directory.path().to_str().unwrap();
    assert!(said.contains("another") && said.contains(path), "{said}");
    assert_eq!(get(&server, "/health/ready").await.0, 200);
}

/// Octets that the files below a directory occupy.
fn disk_usage(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map_while(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            // It has gone meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// Octets that pass through the log; every `STUCK_EVERY` of them, one message stays.
const PASSING: u64 = 1_280 * MIB;
const STUCK_EVERY: u64 = 32 * MIB;
/// What the log may keep when nearly nothing is alive: spare and reserved segments, and the one that is written.
const KEPT_MAX: u64 = 560 * MIB;

#[actix_web::test]
async fn a_stuck_message_in_every_segment_does_not_pin_the_disk() {
    let server = Server::on(directory_on_disk(), &[]).await;
    let size = 64 << 10;
    let mut publisher = Peer::publisher(server.amqp[0]);
    let mut consumer = Peer::open(server.amqp[0]);
    for name in ["stuck", "passing"] {
        publisher.declare(name, true).unwrap();
    }
    consumer.qos(200).unwrap();
    consumer.consume("passing").unwrap();
    let factor = number_from("BACKBONE_PASSING_FACTOR", 1);
    let (mut sent, mut published, mut stuck) = (0, 0, 0_u64);
    while sent < PASSING * factor {
        let mut out = Vec::new();
        if sent / STUCK_EVERY >= stuck {
            publish_persistent("", "stuck", &[stuck as u8; 100], &mut out);
            stuck += 1;
        }
        let first = published + 1;
        published += 100 + u64::from(!out.is_empty());
        for _ in 0..100 {
            publish_persistent("", "passing", &vec![3; size], &mut out);
        }
        sent += 100 * size as u64;
        publisher.send(&out).unwrap();
        publisher.confirmed(first, published).unwrap();
        for _ in 0..100 {
            if let Event::Delivery { tag, .. } = consumer.next().unwrap() {
                consumer.ack(tag, false).unwrap();
            }
        }
    }
    let since = Instant::now();
    let directory = server.data_dir();
    while disk_usage(directory.path()) > KEPT_MAX {
        let used = disk_usage(directory.path()) / MIB;
        assert!(since.elapsed() < PATIENCE, "{used} MiB are still occupied");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!(
        "{} MiB passed, {stuck} messages stay, {} MiB are occupied",
        sent / MIB,
        disk_usage(directory.path()) / MIB
    );
    consumer.consume("stuck").unwrap();
    for number in 0..stuck {
        let Event::Delivery { body, .. } = consumer.next().unwrap() else {
            panic!("not a delivery");
        };
        assert_eq!(body, [number as u8; 100]);
    }
}
