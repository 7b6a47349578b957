//! What a server takes of memory at its limits, as the system counts it: many queues, many bindings, many messages that nobody
//! acknowledges, and bodies of the largest size. The bounds are a few times what a release build takes.
//!
//! `BACKBONE_UNACKED_MESSAGES` sets how many messages a channel holds at most (262,144, and there are two channels; `scripts/test
//! --long`: 1,048,576, as many as by default).

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use backbone_wire::frame::FrameKind;
use backbone_wire::method::{Method, basic, exchange, queue};
use backbone_wire::properties::{ContentHeader, Properties};
use common::peer::qos;
use common::raw::{FRAME_MAX, PERSISTENT, Raw, publish_with, short};
use common::{Server, directory_on_disk, number_from};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
/// How long memory may take to come back, since that is done behind the answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of batches and of large messages, 16 MiB each at most.
const KEPT_BUFFERS: usize = 32 * MIB;

/// A server on a real disk that may keep so much of messages.
async fn server_with(memory_bytes: usize, more: &[(&str, &str)]) -> Server {
    let memory_bytes = memory_bytes.to_string();
    let mut variables = vec![("BACKBONE_LIMITS__MEMORY_BYTES", memory_bytes.as_str())];
    variables.extend(more);
    Server::on(directory_on_disk(), &variables).await
}

/// A line of the system's account of the process.
fn memory(server: &Server, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * KIB
}

fn resident(server: &Server) -> usize {
    memory(server, "VmRSS:")
}

fn most_resident(server: &Server) -> usize {
    memory(server, "VmHWM:")
}

/// Says what `count` things take, and holds that against a bound.
fn check_each(what: &str, before: usize, after: usize, count: usize, bytes_max: usize) {
    let each = after.saturating_sub(before) / count;
    println!("{what}: {each} bytes each, {} MiB in all", after / MIB);
    assert!(
        each <= bytes_max,
        "{what}: {each} bytes each, more than {bytes_max}"
    );
}

/// Waits until no more than a quarter of what was taken is held still, and the buffers that are kept for use again.
async fn check_given_back(server: &Server, before: usize, after: usize) {
    let allowed = before + after.saturating_sub(before) / 4 + KEPT_BUFFERS;
    let since = Instant::now();
    while resident(server) > allowed {
        let now = resident(server) / MIB;
        let [before, after] = [before, after].map(|bytes| bytes / MIB);
        assert!(
            since.elapsed() < PATIENCE,
            "{before} MiB became {after}, and then {now}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same thing done and undone several times. Memory of small things does not go back to the system, since others lie between
/// them; but whoever gives it back takes little more the next time.
struct Rounds {
    before: usize,
    first: Option<usize>,
}

impl Rounds {
    fn new(before: usize) -> Self {
        Self {
            before,
            first: None,
        }
    }

    /// A round took less than twice as much as the first one, where not giving back takes four times as much in the fourth; `after` is what was resident in the middle of it.
    fn end(&mut self, after: usize) {
        let first = *self.first.get_or_insert(after);
        let allowed = first + (first - self.before);
        let [first, after, allowed] = [first, after, allowed].map(|bytes| bytes / KIB);
        assert!(
            after <= allowed,
            "{first} KiB in the first round became {after}, more than {allowed}"
        );
    }
}

/// Sends many methods on channel 1, and then waits for their answers.
fn ask_many<'a>(peer: &mut Raw, answer: &str, methods: impl Iterator<Item = Method<'a>>) {
    let mut out = Vec::new();
    let mut count = 0;
    for method in methods {
        method.write(1, &mut out);
        count += 1;
    }
    let mut writing = peer.stream.try_clone().unwrap();
    let writer = thread::spawn(move || writing.write_all(&out).unwrap());
    for _ in 0..count {
        peer.expect(answer);
    }
    writer.join().unwrap();
}

fn declare(name: &str, durable: bool) -> Method<'_> {
    Method::QueueDeclare(queue::Declare {
        queue: short(name),
        durable,
        ..queue::Declare::default()
    })
}

fn delete(name: &str) -> Method<'_> {
    Method::QueueDelete(queue::Delete {
        queue: short(name),
        ..queue::Delete::default()
    })
}

const QUEUES: usize = 10_000;
/// Under 2 KB is what the design wants of an idle queue.
const QUEUE_BYTES_MAX: usize = 6 * KIB;

#[actix_web::test]
async fn ten_thousand_queues_take_little_and_give_it_back() {
    let server = server_with(64 * MIB, &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let names: Vec<String> = (0..QUEUES).map(|n| format!("idle-{n}")).collect();
    let before = resident(&server);
    let mut rounds = Rounds::new(before);
    for durable in [true, false, true, false] {
        ask_many(
            &mut peer,
            "queue.declare-ok",
            names.iter().map(|name| declare(name, durable)),
        );
        let after = resident(&server);
        check_each("queues", before, after, QUEUES, QUEUE_BYTES_MAX);
        ask_many(
            &mut peer,
            "queue.delete-ok",
            names.iter().map(|name| delete(name)),
        );
        rounds.end(after);
    }
}

const BINDINGS: usize = 10_000;
const BINDING_BYTES_MAX: usize = 4 * KIB;

fn bind<'a>(exchange: &'a str, key: &'a str) -> Method<'a> {
    Method::QueueBind(queue::Bind {
        queue: short("bound"),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Bind::default()
    })
}

fn unbind<'a>(exchange: &'a str, key: &'a str) -> Method<'a> {
    Method::QueueUnbind(queue::Unbind {
        queue: short("bound"),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Unbind::default()
    })
}

#[actix_web::test]
async fn ten_thousand_bindings_of_a_queue_take_little_and_give_it_back() {
    let server = server_with(64 * MIB, &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let before = resident(&server);
    let mut rounds = Rounds::new(before);
    for durable in [true, false, true, false] {
        peer.ask(&declare("bound", durable), "queue.declare-ok");
        for kind in ["topic", "direct"] {
            let declare = exchange::Declare {
                exchange: short(kind),
                type_: short(kind),
                durable,
                ..exchange::Declare::default()
            };
            peer.ask(&Method::ExchangeDeclare(declare), "exchange.declare-ok");
        }
        let keys = (0..BINDINGS).map(|n| match n % 4 {
            0 => ("topic", format!("site.{n}.*")),
            1 => ("topic", format!("#.{}", n - 1)),
            _ => ("direct", format!("site.{n}")),
        });
        let keys: Vec<_> = keys.collect();
        ask_many(
            &mut peer,
            "queue.bind-ok",
            keys.iter().map(|(to, key)| bind(to, key)),
        );
        let after = resident(&server);
        check_each("bindings", before, after, BINDINGS, BINDING_BYTES_MAX);
        // The first matches two of them.
        for (exchange, key) in [
            ("topic", "site.8.8"),
            ("topic", "any.16"),
            ("direct", "site.7"),
        ] {
            peer.send(&publish_with(exchange, key, &[0, 0], key.as_bytes()));
        }
        peer.send(&publish_with("direct", "site.8", &[0, 0], b"nobody's"));
        assert_eq!(peer.take_all("bound"), ["site.8.8", "any.16", "site.7"]);
        let (half, rest) = keys.split_at(BINDINGS / 2);
        ask_many(
            &mut peer,
            "queue.unbind-ok",
            half.iter().map(|(from, key)| unbind(from, key)),
        );
        let (exchange, key) = rest.last().unwrap();
        peer.send(&publish_with(exchange, key, &[0, 0], b"still there"));
        assert_eq!(peer.take_all("bound"), ["still there"]);
        peer.ask(&delete("bound"), "queue.delete-ok");
        rounds.end(after);
        for kind in ["topic", "direct"] {
            let delete = exchange::Delete {
                exchange: short(kind),
                ..exchange::Delete::default()
            };
            peer.ask(&Method::ExchangeDelete(delete), "exchange.delete-ok");
        }
    }
}

/// Messages with bodies of one size to one queue. The bodies begin with a number.
#[derive(Clone, Copy)]
struct Messages {
    queue: &'static str,
    list: &'static [u8],
    body_bytes: usize,
}

const SMALL: Messages = Messages {
    queue: "q",
    list: &[0, 0],
    body_bytes: 16,
};

impl Messages {
    fn publish(self) -> Vec<u8> {
        publish_with("", self.queue, self.list, &vec![7; self.body_bytes])
    }

    /// Sends `count` of them, from a thread of its own.
    fn send(self, peer: &Raw, count: usize) -> thread::JoinHandle<()> {
        const CHUNK: usize = 256;
        let mut writing = peer.stream.try_clone().unwrap();
        thread::spawn(move || {
            let one = self.publish();
            let mut chunk = one.repeat(CHUNK);
            // In front of the frame's end octet.
            let at = one.len() - 1 - self.body_bytes;
            for from in (0..count).step_by(CHUNK) {
                let chunk = &mut chunk[..one.len() * CHUNK.min(count - from)];
                for (number, message) in (from as u64..).zip(chunk.chunks_mut(one.len())) {
                    message[at..at + 8].copy_from_slice(&number.to_be_bytes());
                }
                writing.write_all(chunk).unwrap();
            }
        })
    }

    /// Reads deliveries on channel `id` with tags from `tag` and numbers from 0 on, and no further. They are not taken apart:
    /// all have the same length.
    fn read(self, peer: &mut Raw, id: u16, tag: usize, count: usize) {
        let (mut one, tag_at) = self.delivery(id);
        let (length, body_at) = (one.len(), one.len() - 1 - self.body_bytes);
        let at_once = 256 * KIB / length;
        let mut input = vec![0; at_once * length];
        for from in (0..count).step_by(at_once) {
            let input = &mut input[..length * at_once.min(count - from)];
            peer.read_exact(input);
            for (at, found) in (from as u64..).zip(input.chunks(length)) {
                one[tag_at..tag_at + 8].copy_from_slice(&(at + tag as u64).to_be_bytes());
                one[body_at..body_at + 8].copy_from_slice(&at.to_be_bytes());
                assert!(found == one, "delivery {at} is another one");
            }
        }
    }

    /// A delivery, and where its tag stands.
    fn delivery(self, id: u16) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let deliver = basic::Deliver {
            consumer_tag: short("c"),
            routing_key: short(self.queue),
            ..basic::Deliver::default()
        };
        deliver.write(id, &mut out);
        let header = ContentHeader {
            class_id: 60,
            weight: 0,
            body_size: self.body_bytes as u64,
            properties: Properties::from_bytes(self.list).unwrap(),
        };
        header.write(id, &mut out);
        backbone_wire::content::write_body(id, &vec![7; self.body_bytes], FRAME_MAX, &mut out);
        // Behind the frame's head, class and method, and the consumer's tag.
        (out, 7 + 4 + 2)
    }
}

/// Consumes without a limit of the client's, on channel `id`.
fn consume(peer: &mut Raw, id: u16, name: &str) {
    peer.consume_with(id, name, "c", false, &[]);
}

fn ack_all(peer: &mut Raw, id: u16, tag: u64) {
    let ack = basic::Ack {
        delivery_tag: tag,
        multiple: true,
    };
    peer.method(id, &Method::BasicAck(ack));
}

/// Messages that wait behind those that a channel may hold.
const EXTRA: usize = 1_000;
/// The record of a small message and its place in the ring: about 130.
const UNACKED_BYTES_MAX: usize = 400;

#[actix_web::test]
async fn a_million_unacknowledged_messages_take_their_own_size_and_stop_at_the_limit() {
    let held = number_from("BACKBONE_UNACKED_MESSAGES", 262_144) as usize;
    let limit = held.to_string();
    let server = server_with(
        512 * MIB,
        &[("BACKBONE_LIMITS__UNACKED_PER_CHANNEL", &limit)],
    )
    .await;
    let mut sender = Raw::open(server.amqp[0], 0);
    let mut reader = Raw::open(server.amqp[0], 0);
    reader.open_channel(2);
    let before = resident(&server);
    let mut rounds = Rounds::new(before);
    for round in 0..3 {
        for id in [1, 2] {
            hold(&mut sender, &mut reader, id, held, round);
        }
        let after = resident(&server);
        check_each("unacknowledged", before, after, 2 * held, UNACKED_BYTES_MAX);
        rounds.end(after);
        for id in [1, 2] {
            ack_all(&mut reader, id, 0);
            for _ in 0..EXTRA {
                assert_eq!(reader.message().channel, id);
            }
            ack_all(&mut reader, id, 0);
        }
    }
}

/// Has channel `id` hold as many messages as it may, and see that it gets no more.
fn hold(sender: &mut Raw, reader: &mut Raw, id: u16, held: usize, round: usize) {
    let queue = ["q", "r"][usize::from(id) - 1];
    let messages = Messages { queue, ..SMALL };
    if round == 0 {
        sender.declare(queue);
        consume(reader, id, queue);
    }
    let sending = messages.send(sender, held + EXTRA);
    messages.read(reader, id, 1 + round * (held + EXTRA), held);
    sending.join().unwrap();
    sender.ask(&qos(0), "basic.qos-ok");
    // The channel pauses: what comes next is an answer.
    reader.ask(&qos(0), "basic.qos-ok");
    assert_eq!(sender.waiting(queue) as usize, EXTRA);
}

const HELD_LIMIT: usize = 64 * MIB;
const HELD_MESSAGES: usize = 4 * HELD_LIMIT / HELD_BODY;
const HELD_BODY: usize = 4 * KIB;

#[actix_web::test]
async fn what_is_in_the_log_and_unacknowledged_is_not_held_in_memory() {
    let server = server_with(HELD_LIMIT, &[("BACKBONE_DURABILITY__LEVEL", "written")]).await;
    let mut sender = Raw::open(server.amqp[0], 0);
    sender.declare_with("q", true, &[]);
    let mut reader = Raw::open(server.amqp[0], 0);
    consume(&mut reader, 1, "q");
    let before = resident(&server);
    let messages = Messages {
        queue: "q",
        list: PERSISTENT,
        body_bytes: HELD_BODY,
    };
    let sending = messages.send(&sender, HELD_MESSAGES);
    messages.read(&mut reader, 1, 1, HELD_MESSAGES);
    sending.join().unwrap();
    // It was never asked to wait.
    sender.ask(&qos(0), "basic.qos-ok");
    let check = |when| {
        let after = most_resident(&server);
        println!("{when}: {} MiB became {}", before / MIB, after / MIB);
        assert!(
            after < before + 2 * HELD_LIMIT,
            "{when}: {} MiB",
            after / MIB
        );
    };
    check("held");
    // All of them come back, in their order.
    drop(reader);
    let since = Instant::now();
    while sender.waiting("q") < HELD_MESSAGES as u32 {
        assert!(since.elapsed() < PATIENCE, "they do not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut reader = Raw::open(server.amqp[0], 0);
    consume(&mut reader, 1, "q");
    for number in 0..HELD_MESSAGES as u64 {
        let (redelivered, body) = reader.delivery();
        assert!(redelivered && body.len() == HELD_BODY);
        assert_eq!(body.first_chunk(), Some(&number.to_be_bytes()));
    }
    check("held again");
    ack_all(&mut reader, 1, 0);
    reader.ask(&qos(0), "basic.qos-ok");
    drop(reader);
    assert_eq!(sender.waiting("q"), 0);
}

const BODY: usize = 128 * MIB;
const BODY_FRAME: usize = FRAME_MAX as usize - 8;
const STREAMS: u8 = 8;
const BODIES_EACH: usize = 1;
const BODIES_LIMIT: usize = 256 * MIB;

/// What goes before a body on channel `id`.
fn announcement(id: u16, queue: &str, list: &[u8], body_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let publish = basic::Publish {
        routing_key: short(queue),
        ..basic::Publish::default()
    };
    publish.write(id, &mut out);
    let header = ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: body_bytes as u64,
        properties: Properties::from_bytes(list).unwrap(),
    };
    header.write(id, &mut out);
    out
}

/// Publishes a body of the largest size, all octets of which are `octet`, frame by frame.
fn publish_large(stream: &mut TcpStream, queue: &str, list: &[u8], octet: u8) {
    let mut out = announcement(1, queue, list, BODY);
    stream.write_all(&out).unwrap();
    let payload = vec![octet; BODY_FRAME];
    for from in (0..BODY).step_by(BODY_FRAME) {
        out.clear();
        let piece = &payload[..BODY_FRAME.min(BODY - from)];
        backbone_wire::content::write_body(1, piece, FRAME_MAX, &mut out);
        stream.write_all(&out).unwrap();
    }
}

/// Waits until all up to `last` are confirmed; passes over `connection.blocked`.
fn wait_for_confirms(peer: &mut Raw, last: u64) {
    loop {
        let (_, _, payload) = peer.frame().unwrap();
        match Method::decode(&payload).unwrap() {
            Method::BasicAck(ack) if ack.delivery_tag == last => return,
            Method::BasicAck(_) | Method::ConnectionBlocked(_) | Method::ConnectionUnblocked(_) => {
            }
            other => panic!("{other:?} instead of a confirm"),
        }
    }
}

/// Reads a body of the largest size; nothing of it is kept.
fn read_large(peer: &mut Raw, octet: u8) {
    peer.expect("basic.deliver");
    let (kind, _, header) = peer.frame().unwrap();
    assert_eq!(kind, FrameKind::Header);
    assert_eq!(
        ContentHeader::decode(&header).unwrap().body_size,
        BODY as u64
    );
    let expected = vec![octet; BODY_FRAME];
    let mut left = BODY;
    while left > 0 {
        let (_, _, piece) = peer.frame().unwrap();
        assert!(piece == expected[..piece.len()], "octets of another body");
        left -= piece.len();
    }
}

#[actix_web::test]
async fn bodies_of_128_mib_go_through_without_adding_up() {
    let server = server_with(BODIES_LIMIT, &[]).await;
    let address = server.amqp[0];
    let before = resident(&server);
    let mut threads = Vec::new();
    for number in 0..STREAMS {
        let durable = number % 2 == 0;
        let list: &[u8] = if durable { PERSISTENT } else { &[0, 0] };
        let name = format!("large-{number}");
        let mut sender = Raw::open(address, 0);
        sender.declare_with(&name, durable, &[]);
        sender.confirms(1);
        let mut reader = Raw::open(address, 0);
        reader.prefetch(1, 1, false);
        consume(&mut reader, 1, &name);
        threads.push(thread::spawn(move || {
            for _ in 0..BODIES_EACH {
                publish_large(&mut sender.stream, &name, list, number);
            }
            wait_for_confirms(&mut sender, BODIES_EACH as u64);
        }));
        threads.push(thread::spawn(move || {
            for tag in 1..=BODIES_EACH as u64 {
                read_large(&mut reader, number);
                ack_all(&mut reader, 1, tag);
            }
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let after = most_resident(&server);
    println!("{} MiB became {} at most", before / MIB, after / MIB);
    // What is stored, one that is on its way in, and one that goes to the log.
    assert!(
        after < before + BODIES_LIMIT + 2 * BODY,
        "{} MiB",
        after / MIB
    );
    check_given_back(&server, before, after).await;
}

#[actix_web::test]
async fn a_large_body_waits_until_there_is_room_and_small_ones_do_not() {
    let largest = MIB.to_string();
    let server = server_with(4 * MIB, &[("BACKBONE_LIMITS__MAX_BODY_BYTES", &largest)]).await;
    let address = server.amqp[0];
    let mut slow = Raw::open(address, 0);
    slow.declare("q");
    slow.send(&announcement(1, "q", &[0, 0], MIB));
    // The answer says that the header was handled.
    slow.open_channel(2);
    let mut waits = Raw::open(address, 0);
    waits.confirms(1);
    let mut writing = waits.stream.try_clone().unwrap();
    let large = publish_with("", "q", &[0, 0], &vec![7; MIB]);
    let writer = thread::spawn(move || writing.write_all(&large).unwrap());
    let mut small = Raw::open(address, 0);
    small.publish_confirmed(&publish_with("", "q", &[0, 0], b"small"));
    assert_eq!(small.waiting("q"), 1);
    drop(slow);
    waits.expect("basic.ack");
    writer.join().unwrap();
    assert_eq!(small.waiting("q"), 2);
    // Who has a place gets another one at once, for another channel; but not any number.
    for id in 2..=4 {
        small.open_channel(id);
        small.send(&announcement(id, "q", &[0, 0], MIB));
    }
    assert_eq!(small.ended().0, 506);
}
