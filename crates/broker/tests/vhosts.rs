//! Several vhosts on one log: each has its own exchanges and queues, and a restart brings back what was there.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use backbone_broker::definitions::VhostDefinition;
use backbone_broker::durable::{Durable, Level};
use backbone_broker::error::Error;
use backbone_broker::pager::Pager;
use backbone_broker::queue::Queue;
use backbone_broker::restore::Restored;
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_broker::vhosts::{VhostError, Vhosts};
use backbone_log::{Arena, Batch, Config, Log, SimDisk, Target};
use backbone_wire::error::ReplyCode;
use backbone_wire::table::Table;

/// A node on what a disk holds.
struct Node {
    log: Log,
    vhosts: Vhosts,
    restored: Restored,
}

impl Node {
    fn on(disk: &SimDisk) -> Self {
        let (log, _) = Log::open(Arc::new(disk.clone()), Config::default(), |_| ()).unwrap();
        let durable = Arc::new(Durable::new(log.clone()));
        let arena = Arc::new(Arena::new());
        let pager = Pager::new(Arc::clone(&arena), Arc::clone(&durable), usize::MAX, |_| ());
        let first = Vhost::new("/", 1, arena).with_log(durable, Arc::new(pager), Level::Synced);
        let level_of = |name: &str| match name {
            "quick" => Level::Written,
            _ => Level::Synced,
        };
        let vhosts = Vhosts::new(Arc::new(first), level_of);
        let restored = vhosts.restore(false).unwrap();
        Self {
            log,
            vhosts,
            restored,
        }
    }

    /// The next start on what a kill leaves once all is written.
    fn restart(self, disk: &SimDisk) -> (Self, SimDisk) {
        while self.log.write_step().unwrap() {}
        let left = disk.after_kill();
        (Self::on(&left), left)
    }

    fn vhost(&self, name: &str) -> Arc<Vhost> {
        self.vhosts.get(name).unwrap()
    }

    fn create(&self, name: &str) -> Arc<Vhost> {
        let (vhost, new) = self.vhosts.create(VhostDefinition::named(name)).unwrap();
        assert!(new);
        vhost
    }

    fn names(&self) -> Vec<String> {
        let vhosts = self.vhosts.list();
        vhosts.iter().map(|it| it.name().to_string()).collect()
    }

    /// Puts the first message of a queue into the log.
    fn store(&self, queue: &Queue) {
        let mut batch = Batch::new();
        let target = Target {
            queue: queue.id(),
            seq: 0,
        };
        batch.publish(&[target], false, |out| out.extend_from_slice(b"message"));
        self.log.append(&mut batch).unwrap();
    }

    /// Messages that the log has.
    fn stored(&self) -> u64 {
        let queues = self.log.queues().into_iter();
        // Those of deleted queues are done with to the end of all numbers.
        let there = queues.filter(|queue| queue.low < u64::MAX);
        there.map(|queue| queue.live).sum()
    }
}

fn declare(name: &str, durable: bool) -> QueueDeclare<'_> {
    QueueDeclare {
        name,
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        arguments: Table::EMPTY,
        protected: false,
        lenient: false,
    }
}

fn queue(vhost: &Vhost, name: &str) -> Arc<Queue> {
    vhost.declare_queue(declare(name, true), 1).unwrap()
}

fn exchange(vhost: &Vhost, name: &str) -> Result<(), Error> {
    vhost.topology().declare_exchange(&ExchangeSpec {
        name,
        kind: "fanout",
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::EMPTY,
    })
}

/// The names of a vhost's queues, exchanges that it was not born with, and bindings.
fn contents(vhost: &Vhost) -> (Vec<String>, Vec<String>, usize) {
    let topology = vhost.topology();
    let mut queues: Vec<_> = topology
        .queues()
        .iter()
        .map(|it| it.name().to_string())
        .collect();
    queues.sort();
    let exchanges = topology.list_exchanges().into_iter().map(|it| it.name);
    let own = exchanges.filter(|it| !it.is_empty() && !it.starts_with("amq."));
    (queues, own.collect(), topology.list_bindings().len())
}

#[test]
fn the_same_names_in_two_vhosts_are_two_things_and_come_back_as_such() {
    let disk = SimDisk::new();
    let node = Node::on(&disk);
    let (first, other) = (node.vhost("/"), node.create("other"));
    node.create("quick");
    for vhost in [&first, &other] {
        queue(vhost, "q");
        exchange(vhost, "x").unwrap();
    }
    queue(&other, "only here");
    other
        .topology()
        .bind_queue("q", "x", b"", Table::EMPTY)
        .unwrap();
    let ids = [&first, &other].map(|it| queue(it, "q").id());
    assert_ne!(ids[0], ids[1], "ids are one space");
    node.store(&queue(&other, "q"));

    let (node, _) = node.restart(&disk);
    assert_eq!(node.names(), ["/", "other", "quick"]);
    assert_eq!((node.restored.queues, node.restored.messages), (3, 1));
    assert!(node.restored.damaged.is_empty() && node.restored.forgotten == 0);
    let (first, other) = (node.vhost("/"), node.vhost("other"));
    assert_eq!(contents(&first), (vec!["q".into()], vec!["x".into()], 0));
    let both = vec!["only here".into(), "q".into()];
    assert_eq!(contents(&other), (both, vec!["x".into()], 1));
    assert_eq!([&first, &other].map(|it| queue(it, "q").id()), ids);
    assert_eq!(queue(&other, "q").stats().ready, 1);
    assert_eq!(queue(&first, "q").stats().ready, 0);
    assert_eq!(node.vhost("quick").level(), Level::Written);
    let new = queue(&other, "new").id();
    assert!(!ids.contains(&new), "no id is used again");
}

#[test]
fn a_deleted_vhost_is_gone_with_all_that_was_in_it_and_may_come_back_empty() {
    let disk = SimDisk::new();
    let node = Node::on(&disk);
    let vhost = node.create("v");
    let kept = queue(&node.vhost("/"), "q");
    for name in ["q", "r"] {
        let queue = queue(&vhost, name);
        node.store(&queue);
    }
    exchange(&vhost, "x").unwrap();
    vhost
        .topology()
        .bind_queue("q", "x", b"", Table::EMPTY)
        .unwrap();
    node.store(&kept);
    assert!(node.vhosts.delete("v").unwrap().is_some());
    assert!(node.vhosts.delete("v").unwrap().is_none());
    assert_eq!(node.names(), ["/"]);
    assert!(vhost.is_deleted());
    assert_eq!(node.stored(), 1, "its messages are settled, no others");

    // Whoever still holds it changes nothing.
    let refused = [
        vhost.declare_queue(declare("late", true), 1).err(),
        vhost.declare_queue(declare("late", false), 1).err(),
        exchange(&vhost, "late").err(),
        vhost.redefine(|_| ()).err(),
    ];
    for error in refused {
        let error = error.expect("it is deleted");
        assert_eq!(error.code, ReplyCode::ConnectionForced);
        assert_eq!(error.text, "vhost 'v' is deleted");
    }

    let (node, disk) = node.restart(&disk);
    assert_eq!(node.names(), ["/"]);
    assert!(node.restored.damaged.is_empty());
    let again = node.create("v");
    assert_eq!(contents(&again), (vec![], vec![], 0));
    let (node, _) = node.restart(&disk);
    assert_eq!(node.names(), ["/", "v"]);
    assert_eq!(contents(&node.vhost("v")), (vec![], vec![], 0));
}

#[test]
fn what_is_said_of_a_vhost_survives_and_its_limit_of_queues_counts() {
    let disk = SimDisk::new();
    let node = Node::on(&disk);
    let vhost = node.create("v");
    queue(&vhost, "there");
    let said = |it: &mut VhostDefinition| {
        it.description = "what for".into();
        it.limits.max_queues = Some(1);
    };
    vhost.redefine(said).unwrap();
    let (node, _) = node.restart(&disk);
    let vhost = node.vhost("v");
    assert_eq!(vhost.definition().description, "what for");
    queue(&vhost, "there");
    let error = vhost.declare_queue(declare("more", false), 1).err();
    assert_eq!(
        error.unwrap().text,
        "cannot declare queue 'more': queue limit in vhost 'v' (1) is reached"
    );
    vhost
        .redefine(|it| it.limits.max_queues = Some(-1))
        .unwrap();
    queue(&vhost, "more");
}

#[test]
fn names_and_the_home_of_the_bus_are_guarded() {
    let node = Node::on(&SimDisk::new());
    let long = "v".repeat(256);
    for bad in ["", "a\0b", &long] {
        let refused = node.vhosts.create(VhostDefinition::named(bad)).err();
        assert_eq!(refused, Some(VhostError::Name));
    }
    let refused = node.vhosts.delete("/").err();
    assert_eq!(refused, Some(VhostError::Home("/".into())));
    let (_, new) = node.vhosts.create(VhostDefinition::named("/")).unwrap();
    assert!(!new);
}
