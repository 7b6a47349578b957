//! What the log refuses never was.

use backbone_broker::Error;
use backbone_broker::durable::Level;
use backbone_broker::queue::DeleteIf;
use backbone_broker::topology::{ExchangeSpec, Targets};
use backbone_broker::vhost::QueueDeclare;
use backbone_wire::error::ReplyCode;
use backbone_wire::table::Table;

use crate::world::World;

fn exchange(name: &str) -> ExchangeSpec<'_> {
    ExchangeSpec {
        name,
        kind: "fanout",
        passive: false,
        durable: true,
        auto_delete: true,
        internal: false,
        arguments: Table::EMPTY,
    }
}

fn queue(name: &str) -> QueueDeclare<'_> {
    QueueDeclare {
        name,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::EMPTY,
        protected: false,
        lenient: false,
    }
}

fn refused<R: std::fmt::Debug>(result: Result<R, Error>) {
    let error = result.unwrap_err();
    assert_eq!(error.code, ReplyCode::InternalError, "{error}");
    assert!(error.text.contains("the log did not take it"), "{error}");
}

/// Auto-delete exchanges in a row, bound to each other and to a queue.
fn chain(world: &World) {
    let topology = world.vhost.topology();
    for name in ["first", "second", "third"] {
        topology.declare_exchange(&exchange(name)).unwrap();
    }
    world.vhost.declare_queue(queue("end"), 1).unwrap();
    for (from, to) in [("first", "second"), ("second", "third")] {
        topology.bind_exchange(to, from, b"", Table::EMPTY).unwrap();
    }
    topology
        .bind_queue("end", "third", b"k", Table::EMPTY)
        .unwrap();
}

fn reached(world: &World) -> usize {
    let mut out = Targets::new();
    let topology = world.vhost.topology();
    topology.route(b"first", b"", None, &mut out).unwrap();
    out.len()
}

#[test]
fn what_a_failed_log_does_not_take_is_an_error_and_changes_nothing() {
    let world = World::new();
    let vhost = &world.vhost;
    let topology = vhost.topology();
    chain(&world);
    assert_eq!(reached(&world), 1);
    world.disk.fail_writes(1);
    assert!(world.log.write_step().is_err());
    let (before, generation) = (world.now(), topology.generation());

    refused(topology.declare_exchange(&exchange("x")));
    refused(vhost.declare_queue(queue("x"), 1));
    refused(topology.bind_queue("end", "first", b"", Table::EMPTY));
    refused(topology.bind_exchange("first", "third", b"", Table::EMPTY));
    refused(topology.unbind_queue("end", "third", b"k", Table::EMPTY));
    refused(topology.unbind_exchange("second", "first", b"", Table::EMPTY));
    refused(topology.delete_exchange("third", false));
    refused(vhost.delete_queue("end", 1, DeleteIf::default()));

    assert_eq!(world.now(), before);
    assert_eq!(topology.generation(), generation, "nothing could be seen");
    assert_eq!(reached(&world), 1);
    let end = topology.queue("end").unwrap();
    assert_eq!(end.level(), Level::Synced);
    assert!(topology.queue("x").is_none());

    // What is not durable goes on.
    let transient = QueueDeclare {
        durable: false,
        ..queue("transient")
    };
    vhost.declare_queue(transient, 1).unwrap();
    topology
        .bind_queue("transient", "third", b"", Table::EMPTY)
        .unwrap();
    assert_eq!(reached(&world), 2);
    vhost
        .delete_queue("transient", 1, DeleteIf::default())
        .unwrap();

    // Whoever can be told nothing is not held up: the whole chain goes with its end.
    vhost.remove_queue(&end, DeleteIf::default()).unwrap();
    assert!(world.now().exchanges.is_empty() && world.now().queues.is_empty());
}

#[test]
fn what_was_undone_can_be_done_again() {
    let mut world = World::new();
    chain(&world);
    // Larger than a batch may be, for once: the log refuses it and goes on.
    let topology = world.vhost.topology();
    let keys: Vec<Vec<u8>> = (0..60).map(|n| vec![n; 20_000]).collect();
    for key in &keys {
        topology
            .bind_queue("end", "third", key, Table::EMPTY)
            .unwrap();
    }
    let before = world.now();
    refused(world.vhost.delete_queue("end", 1, DeleteIf::default()));
    refused(topology.delete_exchange("third", false));
    assert_eq!(world.now(), before);
    assert_eq!(reached(&world), 1);
    for key in &keys {
        topology
            .unbind_queue("end", "third", key, Table::EMPTY)
            .unwrap();
    }
    assert_eq!(world.now().bindings.len(), 3);
    topology
        .unbind_queue("end", "third", b"k", Table::EMPTY)
        .unwrap();
    assert!(world.now().exchanges.is_empty(), "the chain is gone");
    world.remember();
    world.restart_cleanly("after all");
}
