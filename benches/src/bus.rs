//! The bus's way: from a client's outbox over the topic exchange to another client's inbox.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backbone_broker::flow::{Flow, FlowCounters, Mover};
use backbone_broker::queue::{ConsumerSpec, Queue};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_wire::ShortStr;
use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{Table, TableBuf, Value};

use crate::peer::{self, Peer, Rung, vhost};

/// Messages in a batch.
pub const BATCH: usize = 500;
const EXCHANGE: &str = "soar-publish";
const SENDER: &str = "a";
const BODY: [u8; 16] = [b'x'; 16];
/// Exchange and topic of the bus are as long as the plain workloads' queue name.
const PLAIN_QUEUE: &str = "bench-queue-as-long-as-a-topic";
/// Topics that come in turn in the workloads with many.
const TOPICS: usize = 64;
/// Batches after which the ids that the bus gives are as long as those of the plain workloads.
const LONG_IDS_AFTER: usize = 10;

/// 16-byte messages to an outbox, their topic in a header; one inbox matches, and nothing waits
/// on the way, so that the publisher's commit puts them there itself.
pub fn fused() -> Box<dyn FnMut()> {
    bus(&one_topic())
}

/// What [`fused`] delivers, published to a queue: as many bytes, the same properties.
pub fn plain() -> Box<dyn FnMut()> {
    direct(&one_topic())
}

/// As [`fused`], with 64 topics in turn and another correlation-id each time.
pub fn fused_topics() -> Box<dyn FnMut()> {
    bus(&many_topics())
}

/// What [`fused_topics`] delivers, published to a queue.
pub fn plain_topics() -> Box<dyn FnMut()> {
    direct(&many_topics())
}

/// What tells the messages of a batch apart.
struct Message {
    topic: String,
    correlation_id: Option<String>,
}

fn one_topic() -> Vec<Message> {
    let message = |_| Message {
        topic: "sensor.temperature".into(),
        correlation_id: None,
    };
    (0..BATCH).map(message).collect()
}

fn many_topics() -> Vec<Message> {
    let message = |n| Message {
        topic: format!("sensor.device-{:04}", n % TOPICS),
        correlation_id: Some(format!("request-{n:04}")),
    };
    (0..BATCH).map(message).collect()
}

fn bus(messages: &[Message]) -> Box<dyn FnMut()> {
    let vhost = vhost();
    let dead = declare(&vhost, "soar-dead-letter");
    let exchange = ExchangeSpec {
        name: EXCHANGE,
        kind: "topic",
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::EMPTY,
    };
    let declared = vhost.topology().declare_exchange(&exchange);
    declared.expect("a new exchange");
    let via = declare(&vhost, EXCHANGE);
    let outbox = declare(&vhost, "a-outbox");
    declare(&vhost, "b-inbox");
    let bound = vhost
        .topology()
        .bind_queue("b-inbox", EXCHANGE, b"sensor.*", Table::EMPTY);
    bound.expect("queue and exchange are there");
    let movers = [
        install(&vhost, &via, None, None, &dead),
        install(&vhost, &outbox, Some(&via), Some(SENDER), &dead),
    ];
    let mut publisher = Peer::new(&vhost, 1);
    let mut consumer = Peer::new(&vhost, 2);
    consumer.consume("b-inbox", true);
    let input = input(messages, "a-outbox", |message, _| {
        list(message, &[("topic", &message.topic)], None)
    });
    let due = delivered_bytes(messages);
    let flow = outbox.flow().expect("it was just installed");
    let mut seen = consumer.sent_bytes;
    let mut batches = 0;
    Box::new(move || {
        publisher.receive(&input);
        consumer.deliver();
        batches += 1;
        let sent = consumer.sent_bytes - seen;
        // The ids grow: by a digit after 65,535 messages.
        let least = if batches < LONG_IDS_AFTER {
            due - 3 * BATCH
        } else {
            due
        };
        assert!((least..due + 4 * BATCH).contains(&sent), "{sent} of {due}");
        seen = consumer.sent_bytes;
        let counters = &flow.counters;
        let fused = counters.fused.load(std::sync::atomic::Ordering::Relaxed);
        let accepted = counters.accepted.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(fused, accepted, "not everything was fused");
        assert!(movers.iter().all(|mover| !mover.is_paused()));
    })
}

fn direct(messages: &[Message]) -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut publisher = Peer::new(&vhost, 1);
    publisher.declare(PLAIN_QUEUE);
    let mut consumer = Peer::new(&vhost, 2);
    consumer.consume(PLAIN_QUEUE, true);
    let input = input(messages, PLAIN_QUEUE, marked);
    let due = delivered_bytes(messages);
    let mut seen = consumer.sent_bytes;
    Box::new(move || {
        publisher.receive(&input);
        consumer.deliver();
        assert_eq!(consumer.sent_bytes - seen, due);
        seen = consumer.sent_bytes;
    })
}

/// Frames of a batch to `queue`, with what `list` makes of each message and its number.
fn input(messages: &[Message], queue: &str, list: impl Fn(&Message, usize) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let properties = list(message, n);
        let properties = Properties::from_bytes(&properties).expect("just built");
        peer::publish("", queue, properties, &BODY, &mut bytes);
    }
    bytes
}

/// The properties with which the bus delivers a message.
fn marked(message: &Message, n: usize) -> Vec<u8> {
    let id = format!("0000000000000007-5-{:04x}", 0x1000 + n);
    list(
        message,
        &[("topic", &message.topic), ("sender", SENDER)],
        Some(&id),
    )
}

fn list(message: &Message, headers: &[(&str, &str)], id: Option<&str>) -> Vec<u8> {
    let mut table = TableBuf::new();
    for (name, value) in headers {
        table.put(name, &Value::from(*value));
    }
    let short = |text| ShortStr::try_from(text).expect("it is short");
    let properties = PropertiesBuilder {
        headers: Some(table.as_table()),
        correlation_id: message.correlation_id.as_deref().map(short),
        message_id: id.map(short),
        timestamp: id.map(|_| peer::NOW_MS / 1000),
        ..PropertiesBuilder::default()
    };
    properties.build()
}

/// Bytes of the frames in which a batch is delivered: `basic.deliver`, header and body.
fn delivered_bytes(messages: &[Message]) -> usize {
    let method = 4 + "_ctag-1".len() + 8 + 1 + 2 + PLAIN_QUEUE.len();
    let frames = 3 * 8 + method + 12 + BODY.len();
    let lists = messages.iter().map(|message| marked(message, 0).len());
    lists.map(|list| frames + list).sum()
}

/// Gives `queue` a flow and its mover, which makes the queue one that messages may pass by.
fn install(
    vhost: &Arc<Vhost>,
    queue: &Arc<Queue>,
    via: Option<&Arc<Queue>>,
    sender: Option<&str>,
    dead: &Arc<Queue>,
) -> Mover {
    let flow = Flow {
        via: via.cloned(),
        exchange: EXCHANGE.into(),
        needs_topic: true,
        sender: sender.map(Into::into),
        dead_letters: Arc::clone(dead),
        exclude_own: AtomicBool::new(false),
        own_inbox: u64::MAX,
        counters: FlowCounters::default(),
    };
    vhost.install_flow(queue, Some(Arc::new(flow)));
    let mover = Mover::new(Arc::clone(vhost), Arc::clone(queue));
    let mut mover = mover.expect("it has a flow");
    let spec = ConsumerSpec {
        bell: Arc::<Rung>::default(),
        key: 0,
        prefetch: 0,
        shared: None,
        no_ack: false,
        exclusive: false,
        priority: 0,
    };
    mover.resume(spec).expect("the queue is there");
    mover.step(peer::NOW_MS);
    mover
}

fn declare(vhost: &Vhost, name: &str) -> Arc<Queue> {
    let declare = QueueDeclare {
        name,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::EMPTY,
        protected: true,
        lenient: true,
    };
    vhost.declare_queue(declare, 0).expect("a new queue")
}
