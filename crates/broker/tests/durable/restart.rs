//! Numbers that a crash took from the middle, and memory of many queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_broker::durable::Reason;
use backbone_broker::queue::Queue;
use backbone_broker::record::{self, Content};
use backbone_log::{Batch, SimDisk, Target};

use crate::node::{Node, QUEUES, body};
use crate::support::Rng;

fn restart(disk: &SimDisk) -> Node {
    Node::open(disk.after_power_loss(1), 0, BTreeMap::new())
}

fn sync(node: &Node) {
    node.log.write_step().unwrap();
    node.log.sync_step().unwrap();
}

fn drain(node: &Node, queue: &Arc<Queue>) -> usize {
    let mut got = Vec::new();
    let left = node.vhost.take(queue, usize::MAX, usize::MAX, &mut got);
    assert_eq!(left, 0);
    got.len()
}

#[test]
fn numbers_that_were_never_stored_are_counted_until_they_are_reached_and_not_again() {
    let node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let id = node.declare(0).0.id();
    let (mut names, mut header, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    record::write_names(&mut names, b"", b"synced");
    record::write_header(&mut header, 8, &[0, 0]);
    let content = Content {
        names: &names,
        header: &header,
        body: &body(0, 8),
    };
    record::write(&mut stored, 0, content);
    let mut batch = Batch::new();
    // The numbers between were in batches that did not come to the disk.
    for seq in [1, 2, 5, 9] {
        let target = Target { queue: id, seq };
        batch.publish(&[target], false, |out| out.extend_from_slice(&stored));
    }
    node.log.append(&mut batch).unwrap();
    sync(&node);

    let node = restart(&node.disk);
    let queue = node.vhost.topology().queue(QUEUES[0].0).unwrap();
    assert_eq!(queue.stats().ready, 10);
    assert_eq!(drain(&node, &queue), 4);
    assert_eq!(queue.stats().ready, 0);
    sync(&node);

    let node = restart(&node.disk);
    let queue = node.vhost.topology().queue(QUEUES[0].0).unwrap();
    assert_eq!(queue.stats().ready, 4);
    assert_eq!(drain(&node, &queue), 4);
}

#[test]
fn many_queues_give_up_memory_until_there_is_enough() {
    let mut rng = Rng(1);
    let mut node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let queues: Vec<_> = (0..2).map(|at| node.declare(at).0).collect();
    let mut publisher = node.publisher();
    for _ in 0..200 {
        for (name, _) in &QUEUES[..2] {
            node.publish(&mut publisher, "", name, true, &mut rng);
        }
        publisher.commit();
    }
    for _ in 0..3 {
        node.pager.relieve(&queues);
    }
    assert!(!node.pager.is_tight(), "{} bytes", node.arena.bytes());
    let all: usize = queues.iter().map(|queue| drain(&node, queue)).sum();
    assert_eq!(all, 400);
}

#[test]
fn settlements_for_which_there_is_no_room_are_made_up_for() {
    let mut rng = Rng(1);
    let mut node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let queue = node.declare(0).0;
    let mut publisher = node.publisher();
    for _ in 0..6000 {
        node.publish(&mut publisher, "", QUEUES[0].0, true, &mut rng);
    }
    publisher.commit();
    sync(&node);
    let used = node.used();
    node.disk.set_capacity(used);
    let mut got = Vec::new();
    node.vhost.take(&queue, usize::MAX, usize::MAX, &mut got);
    let mut told = 0;
    for entry in &got[..5900] {
        let before = node.log.appended();
        let settled = std::slice::from_ref(entry);
        node.vhost.settle_entries(&queue, settled, Reason::Ack);
        told += node.log.appended() - before;
    }
    assert!(told > 0 && told < 5900, "{told} found room");
    node.disk.set_capacity(u64::MAX);
    for _ in 0..100 {
        sync(&node);
        node.log.maintain().unwrap();
    }
    node.vhost
        .settle_entries(&queue, &got[5900..5901], Reason::Ack);
    let left = node.log.unsettled(queue.id(), 0..6000);
    assert_eq!((left.len(), left[0].clone()), (1, 5901..6000));
}
