//! Messages on their way through memory and the log, against a model, on a disk that fills up and loses power.
//!
//! Publishers, consumers, a flow and the pager do random things, on queues that keep next to nothing in memory;
//! after each, every queue has to be as the model says, and nobody may sleep for whom there is something. The disk keeps a
//! snapshot of each call that changes it. Some are made to lose power and opened: every queue has to have exactly the
//! messages of a prefix of the log's batches, at least as long as had been promised, in their order; nothing that was
//! settled, purged or deleted in it is back. Then it goes on from there.
//!
//! `BACKBONE_DURABLE_CASES` sets the number of cases.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod away;
mod dedup;
mod levels;
mod model;
mod node;
mod paging;
mod restart;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod threads;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backbone_log::SimDisk;

use model::Model;
use node::{Node, QUEUES};
use support::Rng;
use world::World;

const CASES: u64 = 150;
const STEPS: usize = 250;
/// Crashes of a case.
const CRASHES: usize = 6;
/// Shadows of queues that were seen at the ends of cases.
static PAGED: AtomicU64 = AtomicU64::new(0);

#[test]
fn every_message_is_where_the_model_says_whatever_happens() {
    let cases = std::env::var("BACKBONE_DURABLE_CASES");
    let cases = cases.map_or(CASES, |cases| cases.parse().unwrap());
    let first = std::env::var("BACKBONE_DURABLE_FIRST");
    let first = first.map_or(1, |first| first.parse::<u64>().unwrap());
    for seed in first..first + cases {
        let context = Context(seed);
        run(seed);
        std::mem::forget(context);
    }
    let paged = PAGED.load(Ordering::Relaxed);
    assert!(paged * 4 > cases, "{paged} shadows in {cases} cases");
}

/// Says which case failed.
struct Context(u64);

impl Drop for Context {
    fn drop(&mut self) {
        println!("BACKBONE_DURABLE_FIRST={} fails", self.0);
    }
}

fn run(seed: u64) {
    let mut rng = Rng(seed);
    let disk = SimDisk::new();
    disk.set_short_writes(rng.once_in(4));
    let mut world = World::new(Node::open(disk.clone(), 0, BTreeMap::new()));
    for _ in 0..STEPS {
        world.step(&mut rng);
        let snapshots = disk.take_snapshots();
        if snapshots.is_empty() || !rng.once_in(STEPS / CRASHES) {
            continue;
        }
        let snapshot = &snapshots[rng.below(snapshots.len())];
        let after = snapshot.after_power_loss(rng.next());
        let mut after = recover(&after, snapshot.promised, &world);
        for _ in 0..rng.below(60) {
            after.step(&mut rng);
        }
        after.finish(&mut rng);
    }
    PAGED.fetch_add(world.node.shadows(), Ordering::Relaxed);
    world.finish(&mut rng);
}

/// Opens what a crash left; what is there has to be what the model of the world before says.
fn recover(disk: &SimDisk, promised: u64, before: &World) -> World {
    let sizes = before.node.sizes().clone();
    disk.set_capacity(u64::MAX);
    let node = Node::open(disk.clone(), promised, sizes);
    let last = node.last;
    for (name, _) in QUEUES {
        let queue = node.vhost.topology().queue(name);
        let is_it = |it: &&Model| **it.queue.name() == *name && it.exists_after(last);
        let model = before.models.iter().find(is_it);
        assert_eq!(queue.is_some(), model.is_some(), "whether {name} exists");
        if let (Some(queue), Some(model)) = (queue, model) {
            assert_eq!(queue.id(), model.queue.id());
            let due = model.after(last).len() as u64;
            assert_eq!(queue.stats().ready, due, "messages in {name} at {last}");
        }
    }
    let mut world = World::new(node);
    for at in 0..QUEUES.len() {
        let model = &mut world.models[at];
        let id = model.queue.id();
        let old = before
            .models
            .iter()
            .find(|it| it.queue.id() == id && it.exists_after(last));
        // What is read back is compared as it is consumed.
        for number in old.map(|it| it.after(last)).unwrap_or_default() {
            model.add(number, Some(0));
        }
    }
    assert!(Arc::strong_count(&world.node.durable) > 1);
    world
}
