//! Queues and exchanges that drop what came before, against a list of what they should remember, with pages, crashes and a
//! full disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_broker::durable::{Promise, Reason};
use backbone_broker::publisher::{Publisher, Routed};
use backbone_broker::queue::Queue;
use backbone_broker::record::{self, Content, Record};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::QueueDeclare;
use backbone_log::SimDisk;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, TableBuf, Value};

use crate::node::Node;
use crate::support::Rng;

const TTL_MS: u64 = 40;
const SIZE: usize = 5;

fn arguments(more: &[(&str, Value<'_>)]) -> TableBuf {
    let mut arguments = TableBuf::new();
    arguments.put("x-message-deduplication", &Value::Bool(true));
    for (name, value) in more {
        arguments.put(name, value);
    }
    arguments
}

fn memory() -> TableBuf {
    let mut arguments = TableBuf::new();
    arguments.put("x-durability", &Value::from("memory"));
    arguments
}

fn declare(node: &Node, name: &str, arguments: Table<'_>) -> Arc<Queue> {
    let declare = QueueDeclare {
        name,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments,
        protected: false,
        lenient: false,
    };
    let queue = node.vhost.declare_queue(declare, 0).unwrap();
    let topology = node.vhost.topology();
    let bound = topology.bind_queue(name, "amq.fanout", b"", Table::EMPTY);
    bound.unwrap();
    queue
}

fn declare_exchange(node: &Node, name: &str, kind: &str, arguments: Table<'_>) {
    let spec = ExchangeSpec {
        name,
        kind,
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments,
    };
    node.vhost.declare_exchange(&spec).unwrap();
}

/// Publishes `body`, persistent or not, with a key and a priority.
fn publish(
    publisher: &mut Publisher,
    (exchange, routing_key): (&str, &str),
    body: &str,
    key: Option<&str>,
    persistent: bool,
    now_ms: u64,
) -> Routed {
    let mut headers = TableBuf::new();
    headers.put("n", &Value::I32(1));
    if let Some(key) = key {
        headers.put("x-deduplication-header", &Value::from(key));
    }
    let builder = PropertiesBuilder {
        headers: Some(headers.as_table()),
        delivery_mode: Some(if persistent { 2 } else { 1 }),
        priority: Some(body.len() as u8 % 3),
        ..PropertiesBuilder::default()
    };
    let (mut names, mut header) = (Vec::new(), Vec::new());
    record::write_names(&mut names, exchange.as_bytes(), routing_key.as_bytes());
    record::write_header(&mut header, body.len(), &builder.build());
    let content = Content {
        names: &names,
        header: &header,
        body: body.as_bytes(),
    };
    publisher.publish(content, now_ms).unwrap()
}

/// Takes and settles all that is in a queue.
fn take_all(node: &Node, queue: &Arc<Queue>) -> Vec<String> {
    let mut got = Vec::new();
    node.vhost.take(queue, usize::MAX, usize::MAX, &mut got);
    let body = |entry: &record::Entry| {
        let segment = node.arena.segment(entry.segment);
        String::from_utf8(Record::read(&segment, entry.offset).body.to_vec()).unwrap()
    };
    let bodies = got.iter().map(body).collect();
    node.vhost.settle_entries(queue, &got, Reason::Ack);
    let mut wakes = backbone_broker::queue::Wakes::default();
    queue.settle(None, got.len() as u32, &mut wakes);
    for entry in &got {
        node.arena.release(entry.segment, 1);
    }
    bodies
}

fn sync(node: &Node) {
    while node.log.write_step().unwrap() {}
    node.log.sync_step().unwrap();
}

/// What a queue should remember, and have.
#[derive(Default)]
struct Model {
    keys: Vec<(String, u64)>,
    bodies: Vec<String>,
    repeats: u64,
}

impl Model {
    /// What a publisher commits at once comes in order; to a priority queue, one priority behind the other.
    fn commit(&mut self, waiting: &mut Vec<Waiting>, ranked: bool, now: u64) {
        let priority = |body: &str| if ranked { body.len() % 3 } else { 0 };
        let mut order: Vec<usize> = waiting.iter().map(|it| priority(&it.0)).collect();
        let mut seen = Vec::new();
        order.retain(|priority| {
            let new = !seen.contains(priority);
            seen.push(*priority);
            new
        });
        for now_due in order {
            for (body, key, _) in waiting.iter().filter(|it| priority(&it.0) == now_due) {
                self.push(body.clone(), key.clone(), now);
            }
        }
        waiting.clear();
    }

    fn push(&mut self, body: String, key: Option<String>, now: u64) {
        if let Some(key) = key {
            if let Some(at) = self.keys.iter().position(|(other, _)| *other == key) {
                if self.keys[at].1 > now {
                    self.repeats += 1;
                    return;
                }
                self.keys.remove(at);
            }
            if self.keys.len() == SIZE {
                self.keys.remove(0);
            }
            self.keys.push((key, now + TTL_MS));
        }
        self.bodies.push(body);
    }
}

/// A message that is published and not committed.
type Waiting = (String, Option<String>, u64);

#[test]
fn a_queue_has_each_message_once_whatever_is_committed_paged_or_restarted_between() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let (size, ttl) = (Value::I64(SIZE as i64), Value::I64(TTL_MS as i64));
        let mut more = vec![("x-cache-size", size), ("x-cache-ttl", ttl)];
        let ranked = rng.once_in(4);
        if ranked {
            more.push(("x-max-priority", Value::I32(2)));
        }
        if rng.once_in(2) {
            more.push(("x-durability", Value::from("memory")));
        }
        let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
        let queue = declare(&node, "once", arguments(&more).as_table());
        let plain = declare(&node, "all", Table::EMPTY);
        let mut model = Model::default();
        let mut publishers: Vec<(Publisher, Vec<Waiting>)> =
            (0..2).map(|_| (node.publisher(), Vec::new())).collect();
        let (mut now, mut all) = (1_000_000, 0);
        for number in 0..300 {
            now += rng.below(6) as u64;
            let (publisher, waiting) = &mut publishers[number % 2];
            let key = (!rng.once_in(6)).then(|| format!("k{}", rng.below(9)));
            let body = format!("{number:0width$}", width = 4 + rng.below(3));
            let to = ("amq.fanout", "");
            let persistent = !rng.once_in(4);
            let routed = publish(publisher, to, &body, key.as_deref(), persistent, now);
            assert_eq!(routed, Routed::Queues);
            waiting.push((body, key, now));
            all += 1;
            if rng.once_in(5) {
                publisher.commit();
                model.commit(waiting, ranked, now);
            }
            if rng.once_in(40) {
                sync(&node);
                node.pager.relieve(&[Arc::clone(&queue)]);
            }
        }
        for (publisher, waiting) in &mut publishers {
            // The time of its last message.
            let last = waiting.last().map(|(_, _, now)| *now);
            publisher.commit();
            model.commit(waiting, ranked, last.unwrap_or(now));
        }
        let stats = queue.deduplication().unwrap();
        assert_eq!(stats.repeats, model.repeats, "seed {seed}");
        assert_eq!(stats.keys, model.keys.len() as u64, "seed {seed}");
        assert!(model.repeats > 20, "seed {seed}: {}", model.repeats);
        assert_eq!(queue.stats().ready, model.bodies.len() as u64);
        let mut found = take_all(&node, &queue);
        if ranked {
            found.sort();
            model.bodies.sort();
        }
        assert_eq!(found, model.bodies, "seed {seed}");
        assert_eq!(take_all(&node, &plain).len(), all, "the other queue");
        sync(&node);
        let live: u64 = node.log.queues().iter().map(|info| info.live).sum();
        assert_eq!(live, 0, "seed {seed}: repeats are settled in the log too");
        drop(publishers);
        assert_eq!(node.arena.bytes(), 0, "seed {seed}");
    }
}

#[test]
fn after_a_crash_a_queue_knows_the_last_keys_of_what_it_holds_and_no_others() {
    let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let more = [("x-cache-size", Value::I32(3))];
    let queue = declare(&node, "q", arguments(&more).as_table());
    let mut publisher = node.publisher();
    let to = ("", "q");
    for body in ["gone", "a", "b", "c", "d"] {
        publish(&mut publisher, to, body, Some(body), true, 1);
    }
    publish(&mut publisher, to, "transient", Some("transient"), false, 1);
    publisher.commit();
    let mut first = Vec::new();
    node.vhost.take(&queue, 1, usize::MAX, &mut first);
    node.vhost.settle_entries(&queue, &first, Reason::Ack);
    sync(&node);
    drop(publisher);

    let node = Node::open(node.disk.after_power_loss(1), 0, BTreeMap::new());
    let queue = node.vhost.topology().queue("q").unwrap();
    let mut publisher = node.publisher();
    for key in ["d", "c", "gone", "transient"] {
        publish(
            &mut publisher,
            to,
            &format!("{key} again"),
            Some(key),
            true,
            2,
        );
    }
    publisher.commit();
    let repeats = queue.deduplication().unwrap().repeats;
    assert_eq!(repeats, 2);
    let expected = ["a", "b", "c", "d", "gone again", "transient again"];
    assert_eq!(take_all(&node, &queue), expected);
}

#[test]
fn a_purge_forgets_the_keys() {
    let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let queue = declare(&node, "q", arguments(&[]).as_table());
    let mut publisher = node.publisher();
    for _ in 0..3 {
        for body in ["taken", "dropped"] {
            publish(&mut publisher, ("", "q"), body, Some("k"), true, 1);
            publisher.commit();
        }
        assert_eq!(queue.deduplication().unwrap().keys, 1);
        assert_eq!(node.vhost.purge(&queue), 1);
        assert_eq!(queue.deduplication().unwrap().keys, 0);
    }
}

#[test]
fn an_exchange_drops_repeats_and_whoever_repeats_waits_for_the_first() {
    let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    declare_exchange(&node, "x", "direct", arguments(&[]).as_table());
    let queue = declare(&node, "q", Table::EMPTY);
    let bind = node
        .vhost
        .topology()
        .bind_queue("q", "x", b"k", Table::EMPTY);
    bind.unwrap();
    let (mut first, mut second) = (node.publisher(), node.publisher());
    let to = ("x", "k");
    assert_eq!(
        publish(&mut first, to, "1", Some("a"), true, 1),
        Routed::Queues
    );
    let promise = first.promise();
    assert_ne!(promise, Promise::KEPT, "it is committed at once");
    // Although its own way would end in a queue of memory alone.
    declare(&node, "memory", memory().as_table());
    let topology = node.vhost.topology();
    let bind = topology.bind_queue("memory", "x", b"m", Table::EMPTY);
    bind.unwrap();
    let routed = publish(&mut second, ("x", "m"), "2", Some("a"), true, 1);
    assert_eq!(routed, Routed::Queues);
    second.commit();
    assert_eq!(second.promise(), promise);
    // What nobody takes is not remembered, and what has no key passes.
    let nowhere = ("x", "other");
    for _ in 0..2 {
        let routed = publish(&mut first, nowhere, "3", Some("b"), true, 1);
        assert_eq!(routed, Routed::Nowhere);
        publish(&mut first, to, "4", None, true, 1);
    }
    publish(&mut first, to, "5", Some("b"), true, 1);
    first.commit();
    assert_eq!(take_all(&node, &queue), ["1", "4", "4", "5"]);
    assert_eq!(node.vhost.deduplication_of("x").unwrap().repeats, 1);
    assert_eq!(node.vhost.deduplication_of("amq.fanout"), None);
}

#[test]
fn what_the_log_refuses_may_come_again() {
    let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    declare_exchange(&node, "x", "fanout", arguments(&[]).as_table());
    let queue = declare(&node, "q", arguments(&[]).as_table());
    let bind = node
        .vhost
        .topology()
        .bind_queue("q", "x", b"", Table::EMPTY);
    bind.unwrap();
    sync(&node);
    node.disk.set_capacity(0);
    let mut refused = node.publisher();
    // The log takes batches until it wants another segment.
    let mut number = 0;
    while !refused.is_stalled() {
        number += 1;
        let (key, body) = (format!("k{number}"), "b".repeat(1000));
        publish(&mut refused, ("x", ""), &body, Some(&key), true, 1);
        assert!(number < 10_000, "it is never full");
    }
    refused.discard();
    drop(refused);
    node.disk.set_capacity(u64::MAX);
    for _ in 0..10 {
        sync(&node);
        node.log.maintain().unwrap();
    }
    let taken = take_all(&node, &queue).len();
    assert_eq!(taken, number - 1);
    let mut publisher = node.publisher();
    for (at, expected) in [(number, 1), (number - 1, 0)] {
        let key = format!("k{at}");
        publish(&mut publisher, ("x", ""), "again", Some(&key), true, 1);
        publisher.commit();
        assert_eq!(take_all(&node, &queue).len(), expected, "{key}");
    }
}
