//! The whole way from a publisher's frames to its consumers' frames.

use backbone_wire::properties::Properties;

use crate::peer::{self, Peer, ack, vhost};

/// Messages in a batch: what a socket gives in one read under load.
pub const BATCH: usize = 500;
/// Messages in a batch of the fan-out, which delivers ten times as many.
pub const FANOUT_BATCH: usize = 100;
const FANOUT_QUEUES: usize = 10;
/// As many as two batches have messages.
pub const IN_TURN_QUEUES: usize = 1_000;
const TOPIC_BINDINGS: usize = 1_000;
const TOPIC_QUEUES: usize = 10;
/// Batches until a topic comes again: by then the publisher has forgotten its route.
const TOPIC_BATCHES: usize = 40;

/// Bytes of a batch of like messages without properties.
fn batch(count: usize, exchange: &str, key: impl Fn(usize) -> String, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..count {
        let properties = Properties::default();
        peer::publish(exchange, &key(n), properties, body, &mut bytes);
    }
    bytes
}

/// What a batch must at least bring to all consumers: the bodies.
pub fn check(consumers: &[Peer], before: usize, bodies: usize) -> usize {
    let sent: usize = consumers.iter().map(|consumer| consumer.sent_bytes).sum();
    assert!(sent >= before + bodies, "messages are missing");
    sent
}

/// 16-byte messages through the default exchange, one queue, one consumer without acknowledgements.
pub fn publish_deliver() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut publisher = Peer::new(&vhost, 1);
    publisher.declare("bench-queue");
    let mut consumers = [Peer::new(&vhost, 2)];
    consumers[0].consume("bench-queue", true);
    let input = batch(BATCH, "", |_| "bench-queue".into(), &[b'x'; 16]);
    let mut seen = 0;
    Box::new(move || {
        publisher.receive(&input);
        consumers[0].deliver();
        seen = check(&consumers, seen, BATCH * 16);
    })
}

/// 16-byte messages through the default exchange to 1,000 queues in turn, one consumer of them all.
pub fn in_turn() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut publisher = Peer::new(&vhost, 1);
    let mut consumers = [Peer::new(&vhost, 2)];
    let name = |n: usize| format!("bench-queue-{n:03}");
    for n in 0..IN_TURN_QUEUES {
        publisher.declare(&name(n));
        consumers[0].consume_as(&format!("c-{n:04}"), &name(n), true);
    }
    let inputs = [0, BATCH].map(|from| batch(BATCH, "", |n| name(from + n), &[b'x'; 16]));
    let mut turn = 0;
    let mut seen = 0;
    Box::new(move || {
        publisher.receive(&inputs[turn]);
        turn = 1 - turn;
        consumers[0].deliver();
        seen = check(&consumers, seen, BATCH * 16);
    })
}

/// The same with confirms, and one acknowledgement of all messages of a batch.
pub fn publish_deliver_confirm_ack() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut publisher = Peer::new(&vhost, 1);
    publisher.declare("bench-queue");
    publisher.confirms();
    let mut consumers = [Peer::new(&vhost, 2)];
    consumers[0].consume("bench-queue", false);
    let input = batch(BATCH, "", |_| "bench-queue".into(), &[b'x'; 16]);
    let mut tag = 0;
    let mut acks = Vec::new();
    let mut seen = 0;
    let mut confirmed = publisher.sent_bytes;
    Box::new(move || {
        publisher.receive(&input);
        assert!(publisher.sent_bytes > confirmed, "confirms are missing");
        confirmed = publisher.sent_bytes;
        consumers[0].deliver();
        tag += BATCH as u64;
        acks.clear();
        ack(tag, &mut acks);
        consumers[0].receive(&acks);
        seen = check(&consumers, seen, BATCH * 16);
    })
}

/// 1 KiB messages to ten queues, each with one consumer.
pub fn fanout() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut publisher = Peer::new(&vhost, 1);
    let mut consumers = Vec::new();
    for n in 0..FANOUT_QUEUES {
        let name = format!("bench-queue-{n}");
        publisher.declare(&name);
        publisher.bind(&name, "amq.fanout", "");
        let mut consumer = Peer::new(&vhost, 2 + n as u64);
        consumer.consume(&name, true);
        consumers.push(consumer);
    }
    let input = batch(FANOUT_BATCH, "amq.fanout", |_| "any".into(), &[b'x'; 1024]);
    let mut seen = 0;
    Box::new(move || {
        publisher.receive(&input);
        for consumer in &mut consumers {
            consumer.deliver();
        }
        seen = check(&consumers, seen, FANOUT_BATCH * FANOUT_QUEUES * 1024);
    })
}

/// 16-byte messages with ever different keys through a topic exchange with 1,000 patterns, so
/// that the publisher's last routes do not help.
pub fn topic() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut publisher = Peer::new(&vhost, 1);
    let mut consumers = Vec::new();
    for n in 0..TOPIC_QUEUES {
        let name = format!("bench-queue-{n}");
        publisher.declare(&name);
        for binding in (n..TOPIC_BINDINGS).step_by(TOPIC_QUEUES) {
            publisher.bind(&name, "amq.topic", &format!("sensor.{binding:05}.*"));
        }
        let mut consumer = Peer::new(&vhost, 2 + n as u64);
        consumer.consume(&name, true);
        consumers.push(consumer);
    }
    // 7 and 1,000 have no common factor: all bindings and queues take turns.
    let key = |n: usize| format!("sensor.{:05}.number{n:05}", n * 7 % TOPIC_BINDINGS);
    let input = |at| batch(BATCH, "amq.topic", |n| key(at * BATCH + n), &[b'x'; 16]);
    let inputs: Vec<Vec<u8>> = (0..TOPIC_BATCHES).map(input).collect();
    let mut turn = 0;
    let mut seen = 0;
    Box::new(move || {
        publisher.receive(&inputs[turn]);
        turn = (turn + 1) % TOPIC_BATCHES;
        for consumer in &mut consumers {
            consumer.deliver();
        }
        seen = check(&consumers, seen, BATCH * 16);
    })
}
