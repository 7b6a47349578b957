//! Replies that tell of durable changes wait for the log, with everything behind them.

use std::sync::Arc;

use backbone_broker::session::{Settings, State};
use backbone_wire::method::{Method, basic, channel, connection, exchange, queue};
use backbone_wire::properties::{ContentHeader, Properties};
use backbone_wire::{ShortStr, content};

use crate::support::{Peer, Rng};
use crate::world::World;

fn peer(world: &World, conn: u64) -> Peer {
    let settings = Settings {
        frame_max: 131_072,
        channel_max: 10,
        message_bytes_max: 1 << 20,
        unacked_max: 1000,
        out_bytes_max: 1 << 20,
        cancel_notify: true,
        timeout_closes_channel: false,
    };
    let mut peer = Peer::new(&world.vhost, conn, settings);
    send(&mut peer, |out| channel::Open {}.write(1, out));
    assert_eq!(names(&mut peer), ["channel.open-ok"]);
    peer
}

fn send(peer: &mut Peer, write: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = Vec::new();
    write(&mut bytes);
    peer.feed(&bytes, &mut Rng(1));
}

fn names(peer: &mut Peer) -> Vec<&'static str> {
    let events = peer.events();
    let names = events
        .iter()
        .map(|event| Method::decode(&event.method).unwrap().name());
    names.collect()
}

fn declare(name: &str, durable: bool, no_wait: bool) -> queue::Declare<'_> {
    queue::Declare {
        queue: ShortStr::new(name.as_bytes()).unwrap(),
        durable,
        no_wait,
        ..queue::Declare::default()
    }
}

/// Writes and syncs; what the peer has to say now.
fn synced(world: &World, peer: &mut Peer) -> Vec<&'static str> {
    world.log.write_step().unwrap();
    peer.write();
    assert!(peer.events().is_empty(), "written is not synced");
    world.log.sync_step().unwrap();
    peer.write();
    names(peer)
}

fn settled() -> World {
    let world = World::new();
    world.log.write_step().unwrap();
    world.log.sync_step().unwrap();
    world
}

#[test]
fn replies_wait_for_the_sync_and_share_it() {
    let world = settled();
    let mut peer = peer(&world, 1);
    for name in ["a", "b", "c"] {
        send(&mut peer, |out| {
            declare(name, true, name == "b").write(1, out)
        });
    }
    assert!(
        world.vhost.topology().queue("c").is_some(),
        "handled at once"
    );
    assert!(names(&mut peer).is_empty() && peer.session.is_held(&mut peer.out));
    assert_eq!(
        synced(&world, &mut peer),
        ["queue.declare-ok", "queue.declare-ok"]
    );
    assert!(!peer.session.is_held(&mut peer.out));

    let bind = queue::Bind {
        queue: ShortStr::lit("a"),
        exchange: ShortStr::lit("amq.direct"),
        ..queue::Bind::default()
    };
    send(&mut peer, |out| bind.write(1, out));
    assert_eq!(synced(&world, &mut peer), ["queue.bind-ok"]);
    let delete = queue::Delete {
        queue: ShortStr::lit("a"),
        ..queue::Delete::default()
    };
    send(&mut peer, |out| delete.write(1, out));
    assert_eq!(synced(&world, &mut peer), ["queue.delete-ok"]);
    let exchange = exchange::Declare {
        exchange: ShortStr::lit("x"),
        type_: ShortStr::lit("topic"),
        durable: true,
        ..exchange::Declare::default()
    };
    send(&mut peer, |out| exchange.write(1, out));
    assert_eq!(synced(&world, &mut peer), ["exchange.declare-ok"]);
}

#[test]
fn who_hears_of_anothers_change_waits_for_it_too() {
    let world = settled();
    let (mut one, mut other) = (peer(&world, 1), peer(&world, 2));
    send(&mut one, |out| declare("q", true, false).write(1, out));
    send(&mut other, |out| declare("q", true, false).write(1, out));
    assert!(names(&mut other).is_empty());
    assert_eq!(synced(&world, &mut one), ["queue.declare-ok"]);
    other.write();
    assert_eq!(names(&mut other), ["queue.declare-ok"]);
    // Nothing is new now.
    send(&mut other, |out| declare("q", true, false).write(1, out));
    assert_eq!(names(&mut other), ["queue.declare-ok"]);
}

#[test]
fn what_is_not_durable_waits_for_nothing() {
    let world = settled();
    let mut peer = peer(&world, 1);
    send(&mut peer, |out| declare("q", false, false).write(1, out));
    assert_eq!(names(&mut peer), ["queue.declare-ok"]);
}

#[test]
fn a_log_that_fails_takes_the_reply_back_and_closes_the_connection() {
    let world = settled();
    let mut peer = peer(&world, 1);
    send(&mut peer, |out| {
        declare("early", false, false).write(1, out)
    });
    send(&mut peer, |out| declare("q", true, false).write(1, out));
    assert_eq!(names(&mut peer), ["queue.declare-ok"], "the transient one");
    world.disk.fail_writes(1);
    assert!(world.log.write_step().is_err());
    // Its own error, behind the reply that will never be sent.
    send(&mut peer, |out| declare("r", true, false).write(1, out));
    let events = peer.events();
    let [close] = &events[..] else {
        panic!("want a close and nothing else: {events:?}")
    };
    let Method::ConnectionClose(close) = Method::decode(&close.method).unwrap() else {
        panic!("want a close: {close:?}")
    };
    assert_eq!(close.reply_code, 541);
    assert!(
        close
            .reply_text
            .as_str()
            .unwrap()
            .contains("the log failed")
    );
    assert_eq!(peer.session.state(), State::Closing);
    send(&mut peer, |out| connection::CloseOk {}.write(0, out));
    assert_eq!(peer.session.state(), State::Closed);
    drop(Arc::clone(&world.vhost));
}

#[test]
fn ten_thousand_declares_in_a_row_share_one_sync() {
    const COUNT: usize = 10_000;
    let world = settled();
    let mut peer = peer(&world, 1);
    let mut declares = Vec::new();
    for n in 0..COUNT {
        declare(&format!("q{n}"), true, n % 2 == 0).write(1, &mut declares);
    }
    peer.feed(&declares, &mut Rng(1));
    assert!(names(&mut peer).is_empty());
    let answers = synced(&world, &mut peer);
    assert_eq!(answers, vec!["queue.declare-ok"; COUNT / 2]);
}

/// A persistent message through the default exchange.
fn publish(queue: &'static str, out: &mut Vec<u8>) {
    let publish = basic::Publish {
        routing_key: ShortStr::lit(queue),
        ..basic::Publish::default()
    };
    publish.write(1, out);
    let header = ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: 1,
        properties: Properties::from_bytes(&[0x10, 0, 2]).unwrap(),
    };
    header.write(1, out);
    content::write_body(1, b"m", 131_072, out);
}

#[test]
fn what_was_purged_or_deleted_does_not_come_back_and_the_answer_waits_for_that() {
    let mut world = settled();
    let mut peer = peer(&world, 1);
    for name in ["kept", "purged", "deleted"] {
        send(&mut peer, |out| declare(name, true, true).write(1, out));
        send(&mut peer, |out| publish(name, out));
    }
    assert!(synced(&world, &mut peer).is_empty());
    let purge = queue::Purge {
        queue: ShortStr::lit("purged"),
        ..queue::Purge::default()
    };
    send(&mut peer, |out| purge.write(1, out));
    assert_eq!(synced(&world, &mut peer), ["queue.purge-ok"]);
    let delete = queue::Delete {
        queue: ShortStr::lit("deleted"),
        ..queue::Delete::default()
    };
    send(&mut peer, |out| delete.write(1, out));
    assert_eq!(synced(&world, &mut peer), ["queue.delete-ok"]);
    world.remember();
    let disk = world.disk.after_power_loss(7);
    let again = world.recover(disk, world.log.synced(), "after the answers");
    let ready = |name: &str| again.vhost.topology().queue(name).map(|q| q.stats().ready);
    let found = ["kept", "purged", "deleted"].map(ready);
    assert_eq!(found, [Some(1), Some(0), None]);
    let old = world.vhost.topology().queue("kept").unwrap().id();
    let kept = again.vhost.topology().queue("kept").unwrap();
    assert_eq!(kept.id(), old);
    let mut peer = self::peer(&again, 1);
    send(&mut peer, |out| {
        declare("deleted", true, false).write(1, out)
    });
    assert_eq!(ready("deleted"), Some(0), "a new one");
}
