//! What a message costs where a feature is in use: each as `publish_deliver_16`, with one thing more.

use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{TableBuf, Value};

use crate::peer::{self, Peer, vhost};
use crate::queues::{BATCH, check};

const QUEUE: &str = "bench-queue";

/// Runs batches of these bytes: one queue, one consumer without acknowledgements.
fn from_here(mut publisher: Peer, mut consumer: Peer, input: Vec<u8>) -> Box<dyn FnMut()> {
    let mut seen = 0;
    consumer.consume(QUEUE, true);
    let mut consumers = [consumer];
    Box::new(move || {
        publisher.receive(&input);
        consumers[0].deliver();
        seen = check(&consumers, seen, BATCH * 16);
    })
}

/// A batch of 16-byte messages; message `n` has `properties(n)`.
fn batch(
    exchange: &str,
    key: &str,
    properties: impl Fn(usize) -> PropertiesBuilder<'static>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..BATCH {
        let properties = properties(n).build();
        let properties = Properties::assume_checked(&properties);
        peer::publish(exchange, key, properties, &[b'x'; 16], &mut bytes);
    }
    bytes
}

/// Ten priorities in turn.
pub fn priorities() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let (mut publisher, consumer) = (Peer::new(&vhost, 1), Peer::new(&vhost, 2));
    publisher.declare_with(QUEUE, TableBuf::new().put("x-max-priority", &Value::I32(9)));
    let input = batch("", QUEUE, |n| PropertiesBuilder {
        priority: Some((n % 10) as u8),
        ..PropertiesBuilder::default()
    });
    from_here(publisher, consumer, input)
}

/// A queue whose messages live a minute; they are delivered before.
pub fn time_to_live() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let (mut publisher, consumer) = (Peer::new(&vhost, 1), Peer::new(&vhost, 2));
    publisher.declare_with(
        QUEUE,
        TableBuf::new().put("x-message-ttl", &Value::I32(60_000)),
    );
    let input = batch("", QUEUE, |_| PropertiesBuilder::default());
    from_here(publisher, consumer, input)
}

/// Each message comes to a queue that keeps none, and is delivered as a dead letter of it.
pub fn dead_letters() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let (mut publisher, consumer) = (Peer::new(&vhost, 1), Peer::new(&vhost, 2));
    publisher.declare(QUEUE);
    let mut arguments = TableBuf::new();
    arguments.put("x-max-length", &Value::I32(0));
    arguments.put("x-dead-letter-exchange", &Value::LongStr(b""));
    arguments.put(
        "x-dead-letter-routing-key",
        &Value::LongStr(QUEUE.as_bytes()),
    );
    publisher.declare_with("bench-full", &arguments);
    let input = batch("", "bench-full", |_| PropertiesBuilder::default());
    from_here(publisher, consumer, input)
}

/// Through a headers exchange that looks at two headers of three.
pub fn headers() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let (mut publisher, consumer) = (Peer::new(&vhost, 1), Peer::new(&vhost, 2));
    publisher.declare(QUEUE);
    let mut wanted = TableBuf::new();
    wanted.put("x-match", &Value::LongStr(b"all"));
    wanted.put("kind", &Value::LongStr(b"sensor"));
    wanted.put("level", &Value::I32(3));
    publisher.bind_with(QUEUE, "amq.headers", "", &wanted);
    let mut sent = TableBuf::new();
    sent.put("kind", &Value::LongStr(b"sensor"));
    sent.put("level", &Value::I32(3));
    sent.put("other", &Value::LongStr(b"more"));
    let properties = PropertiesBuilder {
        headers: Some(sent.as_table()),
        ..PropertiesBuilder::default()
    };
    let (properties, mut input) = (properties.build(), Vec::new());
    for _ in 0..BATCH {
        let properties = Properties::assume_checked(&properties);
        peer::publish("amq.headers", "", properties, &[b'x'; 16], &mut input);
    }
    from_here(publisher, consumer, input)
}
