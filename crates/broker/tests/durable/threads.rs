//! The same with threads: publishers whose batches cross each other, the log's own, one that pages, and consumers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use backbone_broker::durable::Reason;
use backbone_broker::queue::{Fetch, Queue, Wakes};
use backbone_broker::record::{self, Content};
use backbone_log::SimDisk;

use crate::node::{Node, QUEUES, Rung, spec};
use crate::support::Rng;

const PUBLISHERS: u64 = 3;
const MESSAGES: u64 = 2000;
/// Milliseconds without a message after which a consumer was forgotten.
const PATIENCE_MS: u32 = 20_000;

/// Publishes to both queues; bodies say who published, and the how many-th it is.
fn publish(node: &Node, who: u64) {
    let (mut rng, mut publisher) = (Rng(who), node.publisher());
    for number in 0..MESSAGES {
        for (name, _) in &QUEUES[..2] {
            let (mut names, mut header) = (Vec::new(), Vec::new());
            record::write_names(&mut names, b"", name.as_bytes());
            let mode = if rng.once_in(8) { 1 } else { 2 };
            let body: Vec<u8> = [who, number].iter().flat_map(|n| n.to_le_bytes()).collect();
            record::write_header(&mut header, body.len(), &[0x10, 0, mode]);
            let content = Content {
                names: &names,
                header: &header,
                body: &body,
            };
            publisher.publish(content, 0).unwrap();
        }
        if rng.once_in(6) {
            publisher.commit();
        }
    }
    publisher.commit();
    assert!(!publisher.is_stalled());
}

/// Consumes until everything came, once and in its publisher's order.
fn consume(node: &Node, queue: &Queue) {
    let (bell, mut wakes) = (Arc::<Rung>::default(), Wakes::default());
    let mut rng = Rng(queue.id());
    let id = queue
        .consume(spec(&bell, 1, 20, false), &mut wakes)
        .unwrap();
    wakes.ring();
    let mut next = [0; PUBLISHERS as usize];
    let (mut got, mut told, mut waited_ms) = (Vec::new(), false, 0);
    while next.iter().sum::<u64>() < PUBLISHERS * MESSAGES {
        told |= !std::mem::take(&mut *bell.keys.lock()).is_empty();
        if !told {
            assert!(
                waited_ms < PATIENCE_MS,
                "{} of each came to {queue:?}",
                next[0]
            );
            thread::park_timeout(Duration::from_millis(1));
            waited_ms += 1;
            continue;
        }
        let count = 1 + rng.below(30);
        told = queue.fetch(id, count, usize::MAX, &mut got, &mut wakes) == Fetch::More;
        waited_ms = 0;
        wakes.ring();
        if rng.once_in(8) && queue.requeue(Some(id), &got, &mut wakes) {
            got.clear();
        }
        for entry in &got {
            let segment = node.arena.segment(entry.segment);
            let body = record::Record::read(&segment, entry.offset).body;
            let [who, number] =
                [0, 8].map(|at| u64::from_le_bytes(body[at..at + 8].try_into().unwrap()));
            assert_eq!(number, next[who as usize], "from {who}");
            next[who as usize] += 1;
            node.arena.release(entry.segment, 1);
        }
        node.vhost.settle_entries(queue, &got, Reason::Ack);
        queue.settle(Some(id), got.len() as u32, &mut wakes);
        wakes.ring();
        got.clear();
    }
    queue.cancel(id, &mut wakes);
}

/// A consumer that ends, be it by a panic.
struct Leaves<'a>(&'a AtomicU64);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn messages_come_once_and_in_order_whose_ever_batches_cross() {
    let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let queues: Vec<_> = (0..2).map(|at| node.declare(at).0).collect();
    // What the disk refuses now and then is tried again.
    let running = node.log.start(|_| ()).unwrap();
    let left = AtomicU64::new(2);
    thread::scope(|scope| {
        for who in 0..PUBLISHERS {
            let node = &node;
            scope.spawn(move || publish(node, who));
        }
        for queue in &queues {
            let (node, leaves) = (&node, Leaves(&left));
            scope.spawn(move || {
                consume(node, queue);
                drop(leaves);
            });
        }
        let (node, queues, left) = (&node, &queues, &left);
        scope.spawn(move || {
            let mut rng = Rng(7);
            while left.load(Ordering::SeqCst) > 0 {
                node.page_in_asked(&mut rng);
                drop(node.disk.take_snapshots());
                if rng.once_in(20) {
                    node.pager.page_out(&queues[rng.below(2)]);
                }
                thread::yield_now();
            }
        });
    });
    running.stop().unwrap();
    for queue in &queues {
        let stats = queue.stats();
        assert_eq!((stats.ready, stats.unsettled), (0, 0));
    }
    assert_eq!(node.arena.segments(), 0);
    assert!(node.log.queues().iter().all(|queue| queue.live == 0));
}
