//! The bus's way: from a client's outbox over the topic exchange to another client's inbox.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backbone_broker::flow::{Flow, FlowCounters, Mover};
use backbone_broker::queue::{ConsumerSpec, Queue};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{Table, TableBuf, Value};

use crate::peer::{self, Peer, Rung, vhost};

/// Messages in a batch.
pub const BATCH: usize = 500;
const EXCHANGE: &str = "soar-publish";

/// 16-byte messages to an outbox, their topic in a header; one inbox matches, and nothing waits
/// on the way, so that the publisher's commit puts them there itself.
pub fn fused() -> Box<dyn FnMut()> {
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
        install(&vhost, &outbox, Some(&via), Some("a"), &dead),
    ];
    let mut publisher = Peer::new(&vhost, 1);
    let mut consumer = Peer::new(&vhost, 2);
    consumer.consume("b-inbox", true);
    let input = input();
    let flow = outbox.flow().expect("it was just installed");
    let mut seen = consumer.sent_bytes;
    Box::new(move || {
        publisher.receive(&input);
        consumer.deliver();
        assert!(
            consumer.sent_bytes >= seen + BATCH * 16,
            "messages are missing"
        );
        seen = consumer.sent_bytes;
        let counters = &flow.counters;
        let fused = counters.fused.load(std::sync::atomic::Ordering::Relaxed);
        let accepted = counters.accepted.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(fused, accepted, "not everything was fused");
        assert!(movers.iter().all(|mover| !mover.is_paused()));
    })
}

fn input() -> Vec<u8> {
    let mut headers = TableBuf::new();
    headers.put("topic", &Value::LongStr(b"sensor.temperature"));
    let properties = PropertiesBuilder {
        headers: Some(headers.as_table()),
        ..PropertiesBuilder::default()
    };
    let properties = properties.build();
    let properties = Properties::from_bytes(&properties).expect("just built");
    let mut bytes = Vec::new();
    for _ in 0..BATCH {
        peer::publish("", "a-outbox", properties, &[b'x'; 16], &mut bytes);
    }
    bytes
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
    };
    mover.resume(spec).expect("the queue is there");
    mover.step();
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
