//! Who is told that memory or the disk is short, and when: with its next publish, and nobody who only consumes.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backbone_wire::method::{Method, basic};
use common::admin::Admin;
use common::dialog::plain;
use common::raw::{Raw, publish};
use common::small_disk::SmallDisk;
use common::{Server, command};
use serde_json::json;

/// Of a message of the flood; some 80 of them are above the limit.
const BODY_BYTES: usize = 100_000;
const MESSAGES_MAX: u32 = 400;
const LIMIT: (&str, &str) = ("BACKBONE_LIMITS__MEMORY_BYTES", "8388608");

/// Somebody who publishes more than there is memory for, and somebody who holds it until `let_go`. Each message is held before the
/// next one comes: nothing waits in the queue that could go to the disk instead, so the alarm stays.
struct Flood {
    sender: Raw,
    writer: JoinHandle<()>,
    holder: JoinHandle<()>,
    acks: std::net::TcpStream,
    let_go: Arc<AtomicBool>,
}

const ALL: Method<'static> = Method::BasicAck(basic::Ack {
    delivery_tag: 0,
    multiple: true,
});

impl Flood {
    fn start(server: &Server) -> Self {
        let mut sender = Raw::open(server.amqp[0], 0);
        sender.declare("flood");
        let mut holder = Raw::open(server.amqp[0], 0);
        holder.consume("flood", false);
        let acks = holder.stream.try_clone().unwrap();
        let [let_go, blocked] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (held, is_held) = channel();
        let writer = {
            let mut writing = sender.stream.try_clone().unwrap();
            let blocked = Arc::clone(&blocked);
            std::thread::spawn(move || {
                for number in 1.. {
                    writing
                        .write_all(&publish("flood", &[0; BODY_BYTES]))
                        .unwrap();
                    assert!(number < MESSAGES_MAX, "it is not blocked");
                    while is_held.recv_timeout(Duration::from_millis(5)).is_err()
                        && !blocked.load(Ordering::SeqCst)
                    {}
                    if blocked.load(Ordering::SeqCst) {
                        break;
                    }
                }
                // This one is not read before the alarm is over.
                writing
                    .write_all(&publish("flood", &[1; BODY_BYTES]))
                    .unwrap();
            })
        };
        let goes = Arc::clone(&let_go);
        let holder = std::thread::spawn(move || {
            let mut is_last = false;
            while !is_last {
                is_last = holder.delivery().1[0] == 1;
                // Nobody waits for it any more when the writer is done.
                let _ = held.send(());
                if goes.load(Ordering::SeqCst) {
                    holder.method(1, &ALL);
                }
            }
        });
        sender.expect("connection.blocked");
        blocked.store(true, Ordering::SeqCst);
        Self {
            sender,
            writer,
            holder,
            acks,
            let_go,
        }
    }

    fn end(mut self) {
        self.let_go.store(true, Ordering::SeqCst);
        let mut ack = Vec::new();
        ALL.write(1, &mut ack);
        self.acks.write_all(&ack).unwrap();
        self.holder.join().unwrap();
        self.writer.join().unwrap();
        self.sender.expect("connection.unblocked");
    }
}

#[actix_web::test]
async fn a_connection_is_told_of_an_alarm_with_its_next_publish() {
    let server = Server::with(&[LIMIT]).await;
    // It has published before, long ago.
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("q");
    for body in ["1", "2"] {
        worker.publish_with(1, ("", "q", false), &plain(), body.as_bytes());
    }
    assert_eq!(worker.ready("q"), 2);
    let flood = Flood::start(&server);
    // What it asks for is answered, and it goes on consuming.
    assert_eq!(worker.ready("q"), 2);
    worker.prefetch(1, 1, false);
    worker.consume_with(1, "q", "c", false, &[]);
    assert_eq!(worker.message().text(), "1");
    worker.ack(1, 1);
    assert_eq!(worker.message().text(), "2");
    worker.publish_with(1, ("", "q", false), &plain(), b"3");
    worker.expect("connection.blocked");
    // Nor is it too late to come; that too is told with the first publish.
    let mut late = Raw::open(server.amqp[0], 0);
    late.ready("q");
    late.publish_with(1, ("", "q", false), &plain(), b"4");
    late.expect("connection.blocked");
    flood.end();
    worker.expect("connection.unblocked");
    late.expect("connection.unblocked");
    worker.ack(1, 2);
    assert_eq!(worker.message().text(), "3");
}

#[actix_web::test]
async fn the_management_interface_tells_of_an_alarm_and_of_who_is_blocked() {
    let server = Server::with(&[LIMIT]).await;
    let admin = Admin::of(&server);
    let flood = Flood::start(&server);
    let alarms = admin.get("/api/health/checks/alarms").await;
    let memory =
        json!([{"node": admin.get("/api/nodes").await.1[0]["name"], "resource": "memory"}]);
    let failed = json!({
        "status": "failed", "reason": "There are alarms in effect in the cluster", "alarms": memory,
    });
    assert_eq!(alarms, (503, failed));
    let node = admin.get("/api/nodes").await.1;
    assert_eq!(node[0]["mem_alarm"], true, "{node}");
    let list = admin.get("/api/connections").await.1;
    let states: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["state"])
        .collect();
    assert_eq!(states, ["blocked", "running"], "{list}");
    // What it cannot take now it says at once.
    let text = json!({"properties": {}, "routing_key": "flood", "payload": "x", "payload_encoding": "string"});
    let path = "/api/exchanges/%2F/amq.default/publish";
    assert_eq!(admin.post(path, text.clone()).await.0, 503);
    flood.end();
    assert_eq!(admin.get("/api/health/checks/local-alarms").await.0, 200);
    assert_eq!(admin.post(path, text).await.1, json!({"routed": true}));
}

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// Publishers wait below it, and until there is a quarter more.
const DISK_FREE: u64 = 200 * MIB;

async fn metric(admin: &Admin, name: &str) -> u64 {
    let metrics = admin.text("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    line.trim().parse().unwrap()
}

const DISK: &str = "backbone_alarms_free_disk_space_watermark ";

async fn wait_for_alarm(admin: &Admin, name: &str, up: u64) {
    let since = Instant::now();
    while metric(admin, name).await != up {
        assert!(since.elapsed() < PATIENCE, "the alarm is not {up}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix_web::test]
async fn little_room_on_the_disk_holds_publishers_back_until_there_is_well_more() {
    let Some(disk) = SmallDisk::new(1024 * MIB) else {
        return;
    };
    let limit = DISK_FREE.to_string();
    let variables = [("BACKBONE_LIMITS__DISK_FREE_BYTES", limit.as_str())];
    let mut plain_command = command(disk.directory().path(), &variables);
    plain_command.arg("serve");
    let server = Server::run(disk.inside(&plain_command), disk.directory()).await;
    let admin = Admin::of(&server);
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("q");
    for body in ["1", "2"] {
        worker.publish_with(1, ("", "q", false), &plain(), body.as_bytes());
    }
    assert_eq!(worker.ready("q"), 2);
    let mut consumer = Raw::open(server.amqp[0], 0);
    consumer.prefetch(1, 1, false);

    disk.leave_free(DISK_FREE * 3 / 4);
    wait_for_alarm(&admin, DISK, 1).await;
    // The log is well; who consumes goes on and is told nothing.
    assert_eq!(
        metric(&admin, "backbone_log_health{state=\"open\"} ").await,
        1
    );
    let (status, told) = admin.get("/health/ready").await;
    let message = told["message"].as_str().unwrap_or_default();
    assert!(
        status == 503 && message.contains("disk_free_bytes"),
        "{told}"
    );
    consumer.consume_with(1, "q", "c", false, &[]);
    assert_eq!(consumer.message().text(), "1");
    consumer.ack(1, 1);
    assert_eq!(consumer.message().text(), "2");
    worker.publish_with(1, ("", "q", false), &plain(), b"3");
    let blocked = worker.expect("connection.blocked");
    let Method::ConnectionBlocked(blocked) = Method::decode(&blocked).unwrap() else {
        unreachable!("the name was checked");
    };
    assert_eq!(blocked.reason.as_str(), Ok("low on disk"));
    let mut late = Raw::open(server.amqp[0], 0);
    late.publish_with(1, ("", "q", false), &plain(), b"4");
    late.expect("connection.blocked");

    // Enough not to rise is not enough to fall.
    disk.leave_free(DISK_FREE * 9 / 8);
    tokio::time::sleep(Duration::from_millis(500)).await;
    wait_for_alarm(&admin, DISK, 1).await;
    disk.leave_free(DISK_FREE * 2);
    worker.expect("connection.unblocked");
    late.expect("connection.unblocked");
    consumer.ack(1, 2);
    assert_eq!(consumer.message().text(), "3");
    assert_eq!(admin.get("/health/ready").await.0, 200);
}
