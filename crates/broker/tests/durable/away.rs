//! Messages of the log that consumers hold while memory is tight: only their numbers are kept, and they come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_broker::queue::Queue;
use backbone_log::SimDisk;
use backbone_wire::ShortStr;
use backbone_wire::method::{Method, basic, channel};

use crate::node::{Node, QUEUES, TIGHT_BYTES};
use crate::sessions::SETTINGS;
use crate::support::{Peer, Rng};

const MESSAGES: usize = 40;

/// A connection that holds messages of a queue, by tag, and others that make memory tight.
struct Held {
    node: Node,
    queue: Arc<Queue>,
    peer: Peer,
    rng: Rng,
    held: BTreeMap<u64, u64>,
}

impl Held {
    fn new() -> Self {
        let mut node = Node::open(SimDisk::new(), 0, BTreeMap::new());
        let (queue, _) = node.declare(0);
        let (ballast, _) = node.declare(2);
        let mut rng = Rng(1);
        let mut publisher = node.publisher();
        // A level of memory, and nobody makes room.
        while node.arena.bytes() <= TIGHT_BYTES {
            node.publish(&mut publisher, "", QUEUES[2].0, false, &mut rng);
            publisher.commit();
        }
        assert!(ballast.stats().ready > 0 && node.pager.is_tight());
        let mut peer = Peer::new(&node.vhost, 1, SETTINGS);
        let mut bytes = Vec::new();
        channel::Open {}.write(1, &mut bytes);
        let consume = basic::Consume {
            queue: ShortStr::new(QUEUES[0].0.as_bytes()).unwrap(),
            no_wait: true,
            ..basic::Consume::default()
        };
        consume.write(1, &mut bytes);
        peer.feed(&bytes, &mut rng);
        let mut held = Self {
            node,
            queue,
            peer,
            rng,
            held: BTreeMap::new(),
        };
        for _ in 0..MESSAGES {
            let (node, rng) = (&mut held.node, &mut held.rng);
            node.publish(&mut publisher, "", QUEUES[0].0, true, rng);
            publisher.commit();
        }
        held.hear();
        assert_eq!(held.held.len(), MESSAGES);
        held
    }

    /// Has the pager bring what is wanted, and takes what is delivered.
    fn hear(&mut self) {
        for _ in 0..4 * MESSAGES {
            self.node.page_in_asked(&mut self.rng);
            self.peer.progress();
            while self.peer.deliver() {}
            for event in self.peer.events() {
                if let Ok(Method::BasicDeliver(deliver)) = Method::decode(&event.method) {
                    let body = event.content.unwrap().1;
                    let number = u64::from_le_bytes(body[..8].try_into().unwrap());
                    self.held.insert(deliver.delivery_tag, number);
                }
            }
        }
    }

    /// Bytes of stored messages besides those that make memory tight.
    fn bytes(&self, ballast: usize) -> usize {
        self.node.arena.bytes() - ballast
    }

    fn requeue_all(&mut self) -> Vec<u64> {
        let numbers = std::mem::take(&mut self.held).into_values().collect();
        let mut bytes = Vec::new();
        let nack = basic::Nack {
            delivery_tag: 0,
            multiple: true,
            requeue: true,
        };
        nack.write(1, &mut bytes);
        self.peer.feed(&bytes, &mut self.rng);
        numbers
    }
}

#[test]
fn they_take_no_memory_and_come_back_in_their_order() {
    let mut held = Held::new();
    let stats = held.queue.stats();
    assert_eq!((stats.ready, stats.unsettled), (0, MESSAGES as u64));
    let ballast = held.node.arena.bytes();
    for _ in 0..3 {
        let numbers = held.requeue_all();
        held.hear();
        assert_eq!(held.bytes(ballast), 0, "none of them is in memory");
        assert!(held.held.values().eq(&numbers), "in their order");
    }
}

#[test]
fn a_purge_takes_those_that_came_back_and_the_log_forgets_them() {
    let mut held = Held::new();
    let ballast = held.node.arena.bytes();
    // The connection ends.
    let settings = held.peer.settings;
    held.peer = Peer::new(&held.node.vhost, 2, settings);
    let stats = held.queue.stats();
    assert_eq!((stats.ready, stats.unsettled), (MESSAGES as u64, 0));
    assert_eq!(stats.paged_out, MESSAGES as u64);
    assert_eq!(held.node.vhost.purge(&held.queue), MESSAGES as u64);
    assert_eq!(held.queue.stats().ready, 0);
    assert_eq!(held.bytes(ballast), 0);
    let alive = held.node.log.queues().into_iter();
    let alive = alive.filter(|info| info.queue == held.queue.id());
    assert_eq!(alive.map(|info| info.live).sum::<u64>(), 0);
}
