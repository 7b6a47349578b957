//! What a start finds in the log that belongs to nothing, or cannot be read.

use std::sync::Arc;

use backbone_broker::restore::Restored;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_log::{Batch, Log, QueueInfo, Reason, Target};
use backbone_wire::table::Table;

use crate::world::{World, config, vhost_on};

/// An id that no queue has.
const NOBODY: u64 = 999;
const SHADOW: u64 = 1 << 63;

fn declare(vhost: &Vhost, name: &str) -> u64 {
    let declare = QueueDeclare {
        name,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::EMPTY,
        protected: false,
        lenient: false,
    };
    vhost.declare_queue(declare, 1).unwrap().id()
}

fn publish(log: &Log, queue: u64, seq: u64) {
    let mut batch = Batch::new();
    batch.publish(&[Target { queue, seq }], false, |out| out.push(7));
    log.append(&mut batch).unwrap();
}

/// The process ends when everything is written, and another starts.
fn restart(world: &World) -> (Log, Vhost, Restored) {
    while world.log.write_step().unwrap() {}
    let disk = Arc::new(world.disk.after_kill());
    let (log, _) = Log::open(disk, config(), |_| ()).unwrap();
    let vhost = vhost_on(&log);
    let restored = vhost.restore(false).unwrap();
    (log, vhost, restored)
}

fn info(log: &Log, queue: u64) -> Option<QueueInfo> {
    log.queues().into_iter().find(|info| info.queue == queue)
}

#[test]
fn messages_of_no_queue_are_given_up_and_their_id_is_not_used_again() {
    let world = World::new();
    publish(&world.log, NOBODY, 0);
    let (log, vhost, restored) = restart(&world);
    assert_eq!((restored.forgotten, restored.unknown.len()), (1, 0));
    assert_eq!(info(&log, NOBODY).map(|info| info.live), Some(0));
    assert!(declare(&vhost, "new") > NOBODY);
}

#[test]
fn a_definition_that_cannot_be_read_is_reported_and_costs_nothing_else() {
    let world = World::new();
    let good = declare(&world.vhost, "good");
    let mut batch = Batch::new();
    batch.define(b"q//\0bad", b"{\"id\":");
    world.log.append(&mut batch).unwrap();
    publish(&world.log, NOBODY, 0);
    publish(&world.log, good, 0);
    let (log, vhost, restored) = restart(&world);
    assert_eq!(restored.damaged, ["q// bad"]);
    assert_eq!(restored.unknown, [NOBODY], "it may have been bad's");
    assert_eq!(info(&log, NOBODY).map(|info| info.live), Some(1));
    assert_eq!((restored.queues, restored.messages), (1, 1));
    assert_eq!(vhost.topology().queue("good").unwrap().stats().ready, 1);
    let kept = log
        .definitions()
        .into_iter()
        .any(|(key, _)| *key == *b"q//\0bad");
    assert!(kept, "it stays, for people to look at");
    // A queue of that name is a new one, and heals it.
    assert!(declare(&vhost, "bad") > NOBODY);
    let value = log
        .definitions()
        .into_iter()
        .find(|(key, _)| **key == *b"q//\0bad");
    assert!(value.unwrap().1.ends_with(b"}"));
}

#[test]
fn a_shadow_leaves_nothing_and_its_numbers_are_not_used_again() {
    let world = World::new();
    let queue = declare(&world.vhost, "q");
    publish(&world.log, queue, 0);
    let mut batch = Batch::new();
    let target = Target {
        queue: queue | SHADOW,
        seq: 9,
    };
    batch.publish(&[target], true, |out| out.push(7));
    batch.settle(queue | SHADOW, std::slice::from_ref(&(7..9)), Reason::Ack);
    world.log.append(&mut batch).unwrap();
    let (log, vhost, restored) = restart(&world);
    assert_eq!((restored.messages, restored.forgotten), (1, 0));
    let shadow = info(&log, queue | SHADOW).unwrap();
    assert_eq!((shadow.live, shadow.low, shadow.next), (0, 9, 9));
    let numbers = info(&log, queue).unwrap();
    assert_eq!((numbers.live, numbers.low, numbers.next), (1, 0, 9));
    assert_eq!(vhost.topology().queue("q").unwrap().stats().ready, 1);
}
