//! Cases around limits and ends that the random tests rarely meet.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;

use backbone_broker::access::Access;
use backbone_broker::queue::Activity;
use backbone_broker::session::Settings;
use backbone_broker::vhost::Vhost;
use backbone_log::Arena;
use backbone_wire::ShortStr;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, channel, queue, tx};
use backbone_wire::table::{TableBuf, Value};
use support::{Peer, Rng};

fn lit(text: &'static str) -> ShortStr<'static> {
    ShortStr::lit(text)
}

struct World {
    vhost: Arc<Vhost>,
    conns: u64,
}

impl World {
    fn new() -> Self {
        let vhost = Arc::new(Vhost::new("/", 1, Arc::new(Arena::new())));
        Self { vhost, conns: 0 }
    }

    /// A connection with channel 1 open.
    fn peer(&mut self) -> Peer {
        self.peer_with(Access::Full)
    }

    fn peer_with(&mut self, access: Access) -> Peer {
        self.conns += 1;
        let settings = Settings {
            frame_max: 131_072,
            channel_max: 10,
            message_bytes_max: 1 << 20,
            unacked_max: 1000,
            out_bytes_max: 1 << 20,
            cancel_notify: true,
            timeout_closes_channel: false,
        };
        let mut peer = Peer::with_access(&self.vhost, self.conns, settings, access);
        peer.send(|out| channel::Open {}.write(1, out));
        peer
    }
}

impl Peer {
    fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.feed(&bytes, &mut Rng(1));
        assert!(self.is_open());
    }

    fn declare(&mut self, queue: &'static str, exclusive: bool, auto_delete: bool) {
        let declare = queue::Declare {
            queue: lit(queue),
            exclusive,
            auto_delete,
            ..queue::Declare::default()
        };
        self.send(|out| declare.write(1, out));
    }

    fn consume(&mut self, queue: &'static str, tag: &'static str) {
        let consume = basic::Consume {
            queue: lit(queue),
            consumer_tag: lit(tag),
            ..basic::Consume::default()
        };
        self.send(|out| consume.write(1, out));
    }

    fn cancel(&mut self, tag: &'static str) {
        let consumer_tag = lit(tag);
        let cancel = basic::Cancel {
            consumer_tag,
            no_wait: false,
        };
        self.send(|out| cancel.write(1, out));
    }

    fn limit(&mut self, prefetch_count: u16) {
        let qos = basic::Qos {
            prefetch_size: 0,
            prefetch_count,
            global: true,
        };
        self.send(|out| qos.write(1, out));
    }

    fn ack_all(&mut self) {
        let ack = basic::Ack {
            delivery_tag: 0,
            multiple: true,
        };
        self.send(|out| ack.write(1, out));
    }

    fn delete(&mut self, queue: &'static str) {
        let delete = queue::Delete {
            queue: lit(queue),
            ..queue::Delete::default()
        };
        self.send(|out| delete.write(1, out));
    }

    fn publish(&mut self, queue: &'static str, count: usize) {
        for _ in 0..count {
            self.publish_with(queue, &[0, 0]);
        }
    }

    /// Publishes an empty message with a raw property list.
    fn publish_with(&mut self, queue: &'static str, properties: &[u8]) {
        self.send(|out| {
            let publish = basic::Publish {
                routing_key: lit(queue),
                ..basic::Publish::default()
            };
            publish.write(1, out);
            let mark = frame::begin(out, FrameKind::Header, 1);
            out.extend_from_slice(&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(properties);
            frame::finish(out, mark);
        });
    }

    /// Delivers all there is; returns the consumers' tags, one a message.
    fn delivered(&mut self) -> Vec<String> {
        self.events();
        while self.deliver() {}
        let mut tags = Vec::new();
        for event in self.events() {
            if let Ok(Method::BasicDeliver(deliver)) = Method::decode(&event.method) {
                tags.push(deliver.consumer_tag.as_str().unwrap().to_owned());
            }
        }
        tags
    }
}

#[test]
fn a_sibling_gets_the_room_of_one_that_goes_before_it_fetched() {
    for deleted in [false, true] {
        let mut world = World::new();
        let (mut peer, mut other) = (world.peer(), world.peer());
        for queue in ["a", "b"] {
            peer.declare(queue, false, false);
        }
        peer.limit(1);
        peer.consume("a", "a1");
        other.consume("a", "theirs");
        peer.consume("b", "b1");
        other.publish("a", 2);
        // The channel's room is taken by what is on its way to a1.
        other.publish("b", 1);
        if deleted {
            other.delete("a");
            peer.cancellations();
        } else {
            peer.cancel("a1");
        }
        assert_eq!(peer.delivered(), ["b1"], "deleted: {deleted}");
    }
}

#[test]
fn a_limit_may_come_after_the_queue_went() {
    let mut world = World::new();
    let mut peer = world.peer();
    peer.declare("a", false, false);
    peer.consume("a", "a1");
    peer.publish("a", 2);
    assert_eq!(peer.delivered(), ["a1", "a1"]);
    // The session has not heard of the end of its consumer yet.
    peer.delete("a");
    peer.limit(5);
    peer.ack_all();
    drop(peer);
    assert_eq!(world.vhost.arena().segments(), 0);
}

#[test]
fn a_connection_keeps_nothing_of_queues_that_are_gone() {
    let mut world = World::new();
    let (mut peer, mut other) = (world.peer(), world.peer());
    peer.declare("reply", true, true);
    let first = Arc::downgrade(&world.vhost.topology().queue("reply").unwrap());
    peer.consume("reply", "t");
    peer.cancel("t");
    assert!(first.upgrade().is_none(), "exclusive and auto-delete");
    peer.declare("got", false, false);
    let second = Arc::downgrade(&world.vhost.topology().queue("got").unwrap());
    other.publish("got", 2);
    for _ in 0..2 {
        let get = basic::Get {
            queue: lit("got"),
            no_ack: false,
        };
        peer.send(|out| get.write(1, out));
    }
    other.delete("got");
    assert!(second.upgrade().is_some(), "what it holds is not settled");
    peer.ack_all();
    // A publisher may keep a route.
    drop(other);
    assert!(second.upgrade().is_none(), "got from and deleted");
}

#[test]
fn a_transaction_refuses_a_bad_message_at_once() {
    // User id `x`; headers `{"CC": true}`.
    for properties in [
        &b"\x00\x10\x01x"[..],
        b"\x20\x00\x00\x00\x00\x05\x02CCt\x01",
    ] {
        let mut world = World::new();
        let mut peer = world.peer();
        peer.declare("a", false, false);
        peer.send(|out| tx::Select {}.write(1, out));
        peer.publish("a", 1);
        peer.events();
        peer.publish_with("a", properties);
        let events = peer.events();
        let last = Method::decode(&events.last().expect("an answer").method).unwrap();
        let Method::ChannelClose(close) = last else {
            panic!("{last:?}");
        };
        assert_eq!(
            (close.reply_code, close.class_id, close.method_id),
            (406, 60, 40)
        );
        assert_eq!(world.vhost.topology().queue("a").unwrap().stats().ready, 0);
    }
}

#[test]
fn a_transaction_refuses_a_forbidden_further_key_at_once() {
    let mut world = World::new();
    let mut owner = world.peer();
    owner.declare("c-outbox", false, false);
    owner.declare("secret", false, false);
    let mut peer = world.peer_with(Access::BusClient("c".into()));
    peer.send(|out| tx::Select {}.write(1, out));
    peer.publish("c-outbox", 1);
    // Headers `{"CC": ["secret"]}`.
    peer.publish_with(
        "c-outbox",
        b"\x20\x00\x00\x00\x00\x13\x02CCA\x00\x00\x00\x0bS\x00\x00\x00\x06secret",
    );
    let events = peer.events();
    let last = Method::decode(&events.last().expect("an answer").method).unwrap();
    let Method::ChannelClose(close) = last else {
        panic!("{last:?}");
    };
    assert_eq!((close.reply_code, close.method_id), (403, 40));
    for queue in ["c-outbox", "secret"] {
        let queue = world.vhost.topology().queue(queue).unwrap();
        assert_eq!(queue.stats().ready, 0, "nothing was committed");
    }
}

#[test]
fn a_report_tells_what_each_channel_has_and_who_consumes() {
    let mut world = World::new();
    let (mut peer, mut other) = (world.peer(), world.peer());
    let mut arguments = TableBuf::new();
    arguments.put("x-single-active-consumer", &Value::Bool(true));
    let single = queue::Declare {
        queue: lit("single"),
        arguments: arguments.as_table(),
        ..queue::Declare::default()
    };
    peer.send(|out| single.write(1, out));
    peer.declare("a", false, false);
    other.consume("single", "theirs");
    peer.limit(7);
    let qos = basic::Qos {
        prefetch_size: 0,
        prefetch_count: 3,
        global: false,
    };
    peer.send(|out| qos.write(1, out));
    peer.consume("a", "mine");
    peer.consume("single", "next");
    other.publish("a", 5);
    assert_eq!(peer.delivered(), ["mine"; 3]);
    peer.send(|out| channel::Open {}.write(2, out));
    peer.send(|out| tx::Select {}.write(2, out));
    let report = peer.session.report();
    let [first, second] = &report[..] else {
        panic!("{report:?}");
    };
    assert_eq!(
        (first.number, first.confirm, first.transactional),
        (1, false, false)
    );
    assert_eq!(
        (first.prefetch, first.global_prefetch, first.unacked),
        (3, 7, 3)
    );
    let consumers = first.consumers.iter();
    let consumers: Vec<_> = consumers
        .map(|it| {
            (
                &*it.tag,
                &*it.queue,
                it.ack_required,
                it.prefetch,
                it.activity,
            )
        })
        .collect();
    assert_eq!(
        consumers,
        [
            ("mine", "a", true, 3, Activity::Shared),
            ("next", "single", true, 3, Activity::Waiting),
        ]
    );
    assert!(second.transactional && second.consumers.is_empty() && second.unacked == 0);
    let theirs = other.session.report();
    assert_eq!(theirs[0].consumers[0].activity, Activity::Alone);
    peer.ack_all();
    peer.cancel("mine");
    let report = peer.session.report();
    assert_eq!((report[0].unacked, report[0].consumers.len()), (0, 1));
}
