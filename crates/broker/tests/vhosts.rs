//! Several vhosts on one log: each has its own exchanges and queues, and a restart brings back what was there.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backbone_broker::definitions::{BESIDE, RETURNS, VhostDefinition};
use backbone_broker::durable::{Durable, Level};
use backbone_broker::error::Error;
use backbone_broker::pager::Pager;
use backbone_broker::policy::{ApplyTo, Author, Policy, PolicyDefinition};
use backbone_broker::queue::Queue;
use backbone_broker::restore::Restored;
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_broker::vhosts::{VhostError, Vhosts};
use backbone_log::{Arena, Batch, Config, Log, SimDisk, Target};
use backbone_wire::error::ReplyCode;
use backbone_wire::table::{Table, TableBuf, Value};

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

fn with<'a>(name: &'a str, arguments: &'a TableBuf) -> QueueDeclare<'a> {
    QueueDeclare {
        arguments: arguments.as_table(),
        ..declare(name, true)
    }
}

#[test]
fn with_a_vhost_goes_what_the_log_has_beside_its_queues() {
    let disk = SimDisk::new();
    let node = Node::on(&disk);
    let vhost = node.create("v");
    let mut arguments = TableBuf::new();
    arguments.put("x-queue-type", &Value::from("quorum"));
    let queue = vhost.declare_queue(with("q", &arguments), 1).unwrap();
    node.store(&queue);
    let mut returned = Batch::new();
    let beside = Target {
        queue: queue.id() | RETURNS,
        seq: 0,
    };
    returned.publish(&[beside], false, |out| out.extend_from_slice(&[0; 16]));
    node.log.append(&mut returned).unwrap();
    assert_eq!(node.stored(), 2);
    node.vhosts.delete("v").unwrap();
    assert_eq!(node.stored(), 0);
    let (node, _) = node.restart(&disk);
    assert_eq!((node.stored(), node.restored.forgotten), (0, 0));
    let new = self::queue(&node.create("v"), "q");
    assert_eq!(new.id() & BESIDE, 0, "ids go on below what is beside them");
}

#[test]
fn one_clock_serves_the_queues_of_all_vhosts() {
    let node = Node::on(&SimDisk::new());
    let called = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&called);
    node.vhosts.on_change(move || {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    let vhost = node.create("v");
    let mut arguments = TableBuf::new();
    arguments.put("x-expires", &Value::I32(50));
    vhost.declare_queue(with("q", &arguments), 1).unwrap();
    assert_eq!(called.load(Ordering::Relaxed), 1);
    assert_eq!(node.vhosts.tick(1000), Some(1050));
    assert!(vhost.topology().queue("q").is_some());
    node.vhosts.tick(1050);
    assert!(vhost.topology().queue("q").is_none());
}

#[test]
fn policies_count_for_queues_that_a_restart_brings_back() {
    let disk = SimDisk::new();
    let node = Node::on(&disk);
    let vhost = node.create("v");
    queue(&vhost, "q");
    let mut levels = TableBuf::new();
    levels.put("x-max-priority", &Value::I32(3));
    vhost.declare_queue(with("levels", &levels), 1).unwrap();
    let settings = serde_json::json!({"max-length": 2, "message-ttl": 70});
    let policy = PolicyDefinition {
        vhost: "v".into(),
        name: "p".into(),
        pattern: String::new(),
        apply_to: ApplyTo::Queues,
        definition: settings.as_object().unwrap().clone(),
        priority: 0,
    };
    let policy = Policy::new(Author::User, policy).unwrap();
    vhost.put_policy(Author::User, policy).unwrap();
    let (node, _) = node.restart(&disk);
    let vhost = node.vhost("v");
    for name in ["q", "levels"] {
        let settings = vhost.topology().queue(name).unwrap().settings();
        let limits = (settings.messages_max, settings.message_ttl_ms);
        assert_eq!(limits, (Some(2), Some(70)), "{name}");
    }
    vhost.remove_policy(Author::User, "p").unwrap();
    assert_eq!(queue(&vhost, "q").settings().messages_max, None);
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
