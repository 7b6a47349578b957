//! A priority queue on a disk that loses power: higher first, in order inside of each, nothing lost that was promised.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backbone_broker::durable::Reason;
use backbone_broker::queue::{Queue, Wakes};
use backbone_broker::record::{self, Content, Entry};
use backbone_broker::vhost::QueueDeclare;
use backbone_log::SimDisk;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{TableBuf, Value};

use crate::node::{Node, body};
use crate::support::Rng;

const CASES: u64 = 40;
const STEPS: usize = 200;
const HIGHEST: u8 = 4;

/// What is known of the messages, by number: the order in which they are published.
#[derive(Default)]
struct Known {
    priorities: Vec<u8>,
    /// Which of them outlive a power loss.
    persistent: Vec<bool>,
    /// The log's disk has them.
    promised: usize,
    /// They are in the queue, or out.
    live: BTreeSet<(Reverse<u8>, usize)>,
    /// Acknowledged, perhaps not on the disk.
    settled: BTreeSet<usize>,
    /// Acknowledged on the disk.
    gone: BTreeSet<usize>,
    /// They are out.
    held: Vec<(usize, Entry)>,
}

fn declare(node: &Node) -> Arc<Queue> {
    let mut arguments = TableBuf::new();
    arguments.put("x-max-priority", &Value::U8(HIGHEST));
    let declare = QueueDeclare {
        name: "ranked",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: arguments.as_table(),
        protected: false,
        lenient: false,
    };
    node.vhost.declare_queue(declare, 0).unwrap()
}

fn number(node: &Node, entry: &Entry) -> usize {
    let segment = node.arena.segment(entry.segment);
    let found = record::Record::read(&segment, entry.offset).body;
    u64::from_le_bytes(found[..8].try_into().unwrap()) as usize
}

impl Known {
    fn place(&self, number: usize) -> (Reverse<u8>, usize) {
        (Reverse(self.priorities[number].min(HIGHEST)), number)
    }

    fn publish(&mut self, node: &Node, rng: &mut Rng) {
        let mut publisher = node.publisher();
        for _ in 0..=rng.below(12) {
            let number = self.priorities.len();
            self.priorities
                .push(rng.below(usize::from(HIGHEST) + 2) as u8);
            self.live.insert(self.place(number));
            let body = body(number as u64, 8 + rng.below(200));
            let (mut names, mut header) = (Vec::new(), Vec::new());
            record::write_names(&mut names, b"", b"ranked");
            self.persistent.push(!rng.once_in(4));
            let properties = PropertiesBuilder {
                delivery_mode: Some(1 + u8::from(self.persistent[number])),
                priority: Some(self.priorities[number]),
                ..PropertiesBuilder::default()
            };
            record::write_header(&mut header, body.len(), &properties.build());
            let content = Content {
                names: &names,
                header: &header,
                body: &body,
            };
            publisher.publish(content, 0).unwrap();
        }
        publisher.commit();
    }

    /// Takes some: they have to be those that are next.
    fn take(&mut self, node: &Node, queue: &Arc<Queue>, rng: &mut Rng) {
        let mut got = Vec::new();
        let out: BTreeSet<usize> = self.held.iter().map(|(number, _)| *number).collect();
        let count = rng.below(20);
        node.vhost.take(queue, count, usize::MAX, &mut got);
        let waiting = self.live.iter().filter(|(_, number)| !out.contains(number));
        let expected: Vec<usize> = waiting.map(|(_, number)| *number).take(count).collect();
        let numbers: Vec<usize> = got.iter().map(|entry| number(node, entry)).collect();
        assert_eq!(numbers, expected);
        self.held.extend(numbers.into_iter().zip(got));
    }

    /// Acknowledges or puts back one of those that are out.
    fn settle(&mut self, node: &Node, queue: &Arc<Queue>, rng: &mut Rng) {
        if self.held.is_empty() {
            return;
        }
        let (number, entry) = self.held.swap_remove(rng.below(self.held.len()));
        let mut wakes = Wakes::default();
        if rng.once_in(3) {
            assert!(queue.requeue(None, &[entry], &mut wakes));
        } else {
            queue.settle(None, 1, &mut wakes);
            node.vhost.settle_entries(queue, &[entry], Reason::Ack);
            node.arena.release(entry.segment, 1);
            self.live.remove(&self.place(number));
            self.settled.insert(number);
        }
        wakes.ring();
    }

    fn sync(&mut self, node: &Node) {
        node.log.write_step().unwrap();
        node.log.sync_step().unwrap();
        self.promised = self.priorities.len();
        self.gone.extend(&self.settled);
    }

    /// After a power loss: what has to be there is, what is there may be, and all is in order.
    fn check(&mut self, node: &Node, queue: &Arc<Queue>) {
        let mut got = Vec::new();
        assert_eq!(node.vhost.take(queue, usize::MAX, usize::MAX, &mut got), 0);
        let numbers: Vec<usize> = got.iter().map(|entry| number(node, entry)).collect();
        assert!(
            numbers.iter().map(|it| self.place(*it)).is_sorted(),
            "{numbers:?}"
        );
        let there: BTreeSet<usize> = numbers.iter().copied().collect();
        assert_eq!(there.len(), numbers.len(), "none twice");
        for number in 0..self.promised {
            let settled = self.settled.contains(&number) || !self.persistent[number];
            assert!(settled || there.contains(&number), "{number} is lost");
        }
        assert!(there.iter().all(|number| self.persistent[*number]));
        assert!(there.is_disjoint(&self.gone), "what was done with is back");
        let mut wakes = Wakes::default();
        assert!(queue.requeue(None, &got, &mut wakes));
        self.live = numbers.iter().map(|it| self.place(*it)).collect();
        self.settled = (0..self.priorities.len())
            .filter(|it| !there.contains(it))
            .collect();
        self.gone = self.settled.clone();
        self.held.clear();
    }
}

#[test]
fn a_priority_queue_loses_nothing_and_keeps_its_order() {
    for seed in 1..=CASES {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let mut known = Known::default();
        let mut node = Node::open(SimDisk::new(), 0, BTreeMap::new());
        let mut queue = declare(&node);
        // Another one behind it, whose id would be one of the first one's if that had not set its own aside.
        node.declare(0);
        for _ in 0..3 {
            for _ in 0..STEPS {
                match rng.below(12) {
                    0..=2 => known.publish(&node, &mut rng),
                    3 | 4 => known.take(&node, &queue, &mut rng),
                    5..=7 => known.settle(&node, &queue, &mut rng),
                    8 => known.sync(&node),
                    9 => node.page_in_asked(&mut rng),
                    10 => node.pager.page_out(&queue),
                    _ => node.log_step(&mut rng),
                }
                let out = known.held.len() as u64;
                let stats = queue.stats();
                assert_eq!(stats.ready + stats.unsettled, known.live.len() as u64);
                assert_eq!(stats.unsettled, out);
            }
            known.sync(&node);
            known.publish(&node, &mut rng);
            node = Node::open(node.disk.after_power_loss(seed), 0, BTreeMap::new());
            queue = node.vhost.topology().queue("ranked").unwrap();
            assert_eq!(declare(&node).id(), queue.id());
            known.check(&node, &queue);
        }
        node.vhost.purge(&queue);
        assert_eq!(queue.stats().ready, 0);
        node.vhost
            .delete_queue("ranked", 0, Default::default())
            .unwrap();
        known.sync(&node);
        let node = Node::open(node.disk.after_power_loss(seed), 0, BTreeMap::new());
        assert!(node.vhost.topology().queue("ranked").is_none());
        assert!(
            node.log.queues().iter().all(|it| it.live == 0),
            "{:?}",
            node.log.queues()
        );
    }
}
