//! Single steps of the way: decode, route, queue.

use std::hint::black_box;
use std::sync::Arc;

use backbone_broker::queue::{ConsumerSpec, Fetch, Queue, QueueOptions, Wakes};
use backbone_broker::record::Entry;
use backbone_broker::topology::Targets;
use backbone_log::Position;
use backbone_wire::content::parse_publish;
use backbone_wire::frame::OVERHEAD;
use backbone_wire::properties::Properties;

use crate::peer::{self, FRAME_MAX, Peer, Rung, vhost};

/// Messages in a batch.
pub const BATCH: usize = 500;

/// The three frames of a publish, and nothing else.
pub fn decode() -> Box<dyn FnMut()> {
    let mut input = Vec::new();
    for _ in 0..BATCH {
        let properties = Properties::default();
        peer::publish("", "bench-queue", properties, &[b'x'; 16], &mut input);
    }
    Box::new(move || {
        let mut at = 0;
        let mut count = 0;
        while let Some((publish, used)) =
            parse_publish(black_box(&input[at..]), FRAME_MAX as usize - OVERHEAD)
        {
            black_box((publish.names, publish.header, publish.body));
            at += used;
            count += 1;
        }
        assert_eq!((count, at), (BATCH, input.len()));
    })
}

/// The topology's answer for a key that matches one of `BINDINGS` patterns, without the
/// publisher's last routes before it.
pub fn route<const BINDINGS: usize>() -> Box<dyn FnMut()> {
    let vhost = vhost();
    let mut peer = Peer::new(&vhost, 1);
    peer.declare("bench-queue");
    for n in 0..BINDINGS {
        peer.bind("bench-queue", "amq.topic", &format!("sensor.{n:05}.*"));
    }
    // 7,919 is a prime: the keys of a batch are spread over all bindings.
    let key = |n: usize| format!("sensor.{:05}.temperature", n * 7_919 % BINDINGS);
    let keys: Vec<String> = (0..BATCH).map(key).collect();
    drop(peer);
    Box::new(move || {
        let mut targets = Targets::new();
        for key in &keys {
            targets.clear();
            let topology = vhost.topology();
            let found = topology.route(b"amq.topic", key.as_bytes(), None, &mut targets);
            assert!(found.is_ok() && targets.len() == 1, "one queue matches");
            black_box(&targets);
        }
    })
}

/// A queue and its only consumer: one push and one fetch a batch.
pub fn queue() -> Box<dyn FnMut()> {
    let queue = Queue::new("bench-queue", 1, QueueOptions::default());
    let mut wakes = Wakes::default();
    let spec = ConsumerSpec {
        bell: Arc::<Rung>::default(),
        key: 0,
        prefetch: 0,
        shared: None,
        no_ack: true,
        exclusive: false,
        priority: 0,
    };
    let consumer = queue.consume(spec, &mut wakes).expect("a new queue");
    let entry = |n: usize| {
        let offset = n as u32 * 64;
        let position = Position { segment: 0, offset };
        Entry::unplaced(position, 64)
    };
    let entries: Vec<Entry> = (0..BATCH).map(entry).collect();
    let mut fetched = Vec::new();
    Box::new(move || {
        assert!(queue.push(&entries, &mut wakes));
        fetched.clear();
        let end = queue.fetch(consumer, BATCH + 1, usize::MAX, &mut fetched, &mut wakes);
        assert_eq!((end, fetched.len()), (Fetch::Armed, BATCH));
        black_box(&fetched);
        // The consumer was armed by its fetch: a push wakes it, and nobody needs to know.
        wakes.ring();
    })
}
