// Long because: one world, and what can happen in it, case by case.
//! Queues with limits of length and time, and where their dead letters go, on simulated time and in memory.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;

use backbone_broker::access::Access;
use backbone_broker::flow::{Flow, FlowCounters, Mover};
use backbone_broker::policy::{ApplyTo, Author, Policy, PolicyDefinition};
use backbone_broker::publisher::{Origin, Publisher, Routed, bury};
use backbone_broker::queue::{Bell, ConsumerId, ConsumerSpec, Queue, Wakes};
use backbone_broker::record::{self, Content, Entry, Record};
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_wire::ShortStr;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, TableBuf, Value};
use serde_json::json;
use support::Rng;

const START: u64 = 1_800_000_000_000;

struct Silent;

impl Bell for Silent {
    fn ring(&self, _key: u64) {}
    fn cancelled(&self, _key: u64) {}
}

/// A vhost, one sender, and the time.
struct World {
    vhost: Arc<Vhost>,
    publisher: Publisher,
    now: u64,
}

impl World {
    fn new() -> Self {
        let vhost = Arc::new(Vhost::new("/", 1, Arc::default()));
        let origin = Origin {
            user: "test".into(),
            access: Access::Full,
        };
        Self {
            publisher: Publisher::new(Arc::clone(&vhost), origin),
            vhost,
            now: START,
        }
    }

    fn declare(&self, name: &str, arguments: &[(&str, Value<'_>)]) -> Arc<Queue> {
        let mut table = TableBuf::new();
        for (name, value) in arguments {
            table.put(name, value);
        }
        let declare = QueueDeclare {
            name,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: table.as_table(),
            protected: false,
            lenient: false,
        };
        self.vhost.tell_time(self.now);
        self.vhost.declare_queue(declare, 1).unwrap()
    }

    /// A user's policy for all queues, in the place of the last one.
    fn put_policy(&self, settings: serde_json::Value) {
        self.put_policy_of(Author::User, settings);
    }

    fn put_policy_of(&self, author: Author, settings: serde_json::Value) {
        let definition = PolicyDefinition {
            vhost: "/".into(),
            name: "p".into(),
            pattern: "^q".into(),
            apply_to: ApplyTo::All,
            definition: settings.as_object().unwrap().clone(),
            priority: 0,
        };
        let policy = Policy::new(author, definition).unwrap();
        self.vhost.put_policy(author, policy).unwrap();
    }

    fn remove_policy(&self) {
        assert!(self.vhost.remove_policy(Author::User, "p").unwrap());
    }

    /// Publishes to a queue without committing.
    fn stage(&mut self, key: &str, body: &str, properties: &PropertiesBuilder<'_>) -> Routed {
        let (mut names, mut header) = (Vec::new(), Vec::new());
        record::write_names(&mut names, b"", key.as_bytes());
        record::write_header(&mut header, body.len(), &properties.build());
        let content = Content {
            names: &names,
            header: &header,
            body: body.as_bytes(),
        };
        self.publisher.publish(content, self.now).unwrap()
    }

    fn publish(&mut self, key: &str, body: &str) -> Routed {
        let routed = self.stage(key, body, &PropertiesBuilder::default());
        self.publisher.commit();
        routed
    }

    fn publish_for(&mut self, key: &str, body: &str, expiration: &str) {
        let properties = PropertiesBuilder {
            expiration: Some(ShortStr::new(expiration.as_bytes()).unwrap()),
            ..PropertiesBuilder::default()
        };
        self.stage(key, body, &properties);
        self.publisher.commit();
    }

    /// Lets time pass and looks at the clock, as often as somebody wants that.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(next) = self.vhost.tick(self.now) {
            if next > end {
                break;
            }
            self.now = next.max(self.now + 1);
        }
        self.now = end;
        self.vhost.tick(end);
    }

    fn take(&self, queue: &Arc<Queue>) -> Vec<Entry> {
        self.vhost.tell_time(self.now);
        let mut taken = Vec::new();
        self.vhost.take(queue, usize::MAX, usize::MAX, &mut taken);
        taken
    }

    fn settle(&self, queue: &Arc<Queue>, taken: &[Entry]) {
        queue.settle(None, taken.len() as u32, &mut Wakes::default());
        for entry in taken {
            self.vhost.arena().release(entry.segment, 1);
        }
    }

    fn put_back(&self, queue: &Arc<Queue>, taken: &[Entry]) {
        let (mut dead, mut wakes) = (Vec::new(), Wakes::default());
        let vhost = &self.vhost;
        assert!(vhost.put_back(queue, None, taken, self.now, &mut dead, &mut wakes));
        bury(vhost, &mut dead, self.now, &mut wakes);
    }

    fn bodies_of(&self, taken: &[Entry]) -> Vec<String> {
        let body = |entry: &Entry| {
            let segment = self.vhost.arena().segment(entry.segment);
            String::from_utf8(Record::read(&segment, entry.offset).body.to_vec()).unwrap()
        };
        taken.iter().map(body).collect()
    }

    /// Takes everything, for good; the bodies.
    fn drain(&self, queue: &Arc<Queue>) -> Vec<String> {
        let taken = self.take(queue);
        let bodies = self.bodies_of(&taken);
        self.settle(queue, &taken);
        bodies
    }

    /// Queues, reasons and counts of the deaths of the next message, which is taken for good.
    fn deaths(&self, queue: &Arc<Queue>) -> Vec<(String, String, i64)> {
        let taken = self.take(queue);
        let segment = self.vhost.arena().segment(taken[0].segment);
        let message = Record::read(&segment, taken[0].offset);
        let headers = message.properties().headers().unwrap();
        let deaths = headers.get("x-death").unwrap().as_array().unwrap();
        let deaths = deaths
            .iter()
            .map(|death| death.unwrap().as_table().unwrap());
        let text = |table: Table<'_>, name| table.get(name).unwrap().as_str().unwrap().to_owned();
        let all = deaths.map(|death| {
            let count = death.get("count").unwrap().as_i64().unwrap();
            (text(death, "queue"), text(death, "reason"), count)
        });
        let all = all.collect();
        self.settle(queue, &taken);
        all
    }

    fn consume(&self, queue: &Queue, prefetch: u32) -> ConsumerId {
        let spec = ConsumerSpec {
            bell: Arc::new(Silent),
            key: 0,
            prefetch,
            shared: None,
            no_ack: false,
            exclusive: false,
            priority: 0,
        };
        queue.consume(spec, &mut Wakes::default()).unwrap()
    }

    fn cancel(&self, queue: &Queue, id: ConsumerId) {
        let mut wakes = Wakes::default();
        queue.cancel(id, &mut wakes);
        wakes.ring();
    }

    fn fetch(&self, queue: &Queue, id: ConsumerId) -> Vec<String> {
        let mut taken = Vec::new();
        queue.fetch(
            id,
            usize::MAX,
            usize::MAX,
            &mut taken,
            &mut Wakes::default(),
        );
        let bodies = self.bodies_of(&taken);
        queue.settle(Some(id), taken.len() as u32, &mut Wakes::default());
        for entry in taken {
            self.vhost.arena().release(entry.segment, 1);
        }
        bodies
    }

    /// Nothing that was taken out of a queue is left in memory.
    fn assert_empty(&self) {
        assert_eq!(self.vhost.arena().segments(), 0, "copies are left behind");
    }
}

fn number(number: i64) -> Value<'static> {
    Value::I64(number)
}

const DLX: (&str, Value<'static>) = ("x-dead-letter-exchange", Value::LongStr(b""));

fn to(key: &str) -> (&str, Value<'_>) {
    ("x-dead-letter-routing-key", Value::from(key))
}

#[test]
fn messages_expire_after_the_queues_time_and_become_dead_letters_in_order() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let queue = world.declare("q", &[("x-message-ttl", number(100)), DLX, to("dead")]);
    for body in ["a", "b", "c"] {
        world.publish("q", body);
    }
    world.pass(50);
    world.publish("q", "d");
    world.pass(49);
    assert_eq!((queue.stats().ready, dead.stats().ready), (4, 0));
    world.pass(6);
    assert_eq!((queue.stats().ready, dead.stats().ready), (1, 3));
    assert_eq!(world.drain(&dead), ["a", "b", "c"]);
    world.pass(60);
    assert_eq!(queue.stats().ready, 0);
    assert_eq!(world.deaths(&dead), [("q".into(), "expired".into(), 1)]);
    world.assert_empty();
}

#[test]
fn of_two_times_the_shorter_counts_also_behind_one_that_stays() {
    let mut world = World::new();
    let plain = world.declare("plain", &[]);
    let queue = world.declare("q", &[("x-message-ttl", number(1000))]);
    for (name, of) in [("plain", &plain), ("q", &queue)] {
        world.publish(name, "stays");
        world.publish_for(name, "goes", "100");
        world.publish_for(name, "longer", "5000");
        assert_eq!(of.stats().ready, 3);
    }
    world.pass(105);
    assert_eq!((plain.stats().ready, queue.stats().ready), (2, 2));
    world.pass(1000);
    assert_eq!(queue.stats().ready, 0, "5000 is longer than the queue's");
    world.pass(4000);
    assert_eq!(world.drain(&plain), ["stays"]);
    world.assert_empty();
}

#[test]
fn an_expired_message_is_never_handed_out_even_if_nobody_looked_at_the_clock() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let queue = world.declare("q", &[DLX, to("dead")]);
    world.publish_for("q", "old", "10");
    world.publish("q", "good");
    world.now += 10;
    assert_eq!(world.drain(&queue), ["good"]);
    assert_eq!(world.drain(&dead), ["old"]);
    assert_eq!(queue.stats().unsettled, 0);
    world.assert_empty();
}

#[test]
fn a_message_keeps_its_time_when_it_comes_back_and_does_not_expire_while_it_is_out() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let queue = world.declare("q", &[("x-message-ttl", number(100)), DLX, to("dead")]);
    world.publish("q", "a");
    world.publish("q", "b");
    let taken = world.take(&queue);
    world.pass(60);
    world.put_back(&queue, &taken[..1]);
    assert_eq!((queue.stats().ready, queue.stats().unsettled), (1, 1));
    world.pass(60);
    assert_eq!((queue.stats().ready, queue.stats().unsettled), (0, 1));
    assert_eq!(world.drain(&dead), ["a"]);
    world.put_back(&queue, &taken[1..]);
    assert_eq!((queue.stats().ready, queue.stats().unsettled), (0, 0));
    assert_eq!(
        world.drain(&dead),
        ["b"],
        "its time was up when it came back"
    );
    world.assert_empty();
}

#[test]
fn a_time_of_zero_delivers_to_a_consumer_with_room_and_to_nobody_else() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let queue = world.declare("q", &[("x-message-ttl", number(0)), DLX, to("dead")]);
    world.publish("q", "nobody");
    assert_eq!(
        (queue.stats().ready, world.drain(&dead)),
        (0, vec!["nobody".to_owned()])
    );
    let id = world.consume(&queue, 2);
    for body in ["a", "b", "c"] {
        world.stage("q", body, &PropertiesBuilder::default());
    }
    world.publisher.commit();
    world.pass(50);
    assert_eq!(world.fetch(&queue, id), ["a", "b"]);
    assert_eq!(world.drain(&dead), ["c"]);
    world.publish("q", "d");
    world.cancel(&queue, id);
    world.pass(2000);
    assert_eq!(queue.stats().ready, 0, "the consumer left without it");
    world.drain(&dead);
    world.assert_empty();
}

#[test]
fn an_unused_queue_goes_after_its_time_and_use_makes_it_stay() {
    let mut world = World::new();
    let expires = ("x-expires", number(100));
    let queue = world.declare("q", &[expires, DLX, to("dead")]);
    let dead = world.declare("dead", &[]);
    world.publish("q", "a");
    world.pass(90);
    world.declare("q", &[expires, DLX, to("dead")]);
    world.pass(90);
    assert!(
        world.vhost.topology().queue("q").is_some(),
        "it was declared again"
    );
    let id = world.consume(&queue, 0);
    world.pass(500);
    assert!(
        world.vhost.topology().queue("q").is_some(),
        "it has a consumer"
    );
    world.cancel(&queue, id);
    world.pass(99);
    assert!(world.vhost.topology().queue("q").is_some());
    world.pass(10);
    assert!(world.vhost.topology().queue("q").is_none());
    assert_eq!(dead.stats().ready, 0, "its messages are no dead letters");
    world.assert_empty();
}

#[test]
fn beyond_a_length_the_oldest_go() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let queue = world.declare("q", &[("x-max-length", number(2)), DLX, to("dead")]);
    for body in ["a", "b", "c", "d"] {
        world.stage("q", body, &PropertiesBuilder::default());
    }
    world.publisher.commit();
    assert_eq!(queue.stats().ready, 2);
    assert_eq!(world.drain(&dead), ["a", "b"]);
    // Those that are out do not count.
    let taken = world.take(&queue);
    world.publish("q", "e");
    world.publish("q", "f");
    assert_eq!((queue.stats().ready, dead.stats().ready), (2, 0));
    world.put_back(&queue, &taken);
    assert_eq!(
        world.drain(&dead),
        ["c", "d"],
        "they came back to a full queue"
    );
    assert_eq!(world.drain(&queue), ["e", "f"]);
    world.assert_empty();
}

#[test]
fn beyond_a_number_of_bytes_the_oldest_go_and_only_bodies_count() {
    let mut world = World::new();
    let queue = world.declare("q", &[("x-max-length-bytes", number(10))]);
    for body in ["1234", "5678", "90"] {
        world.publish("q", body);
    }
    assert_eq!(queue.stats().ready, 3);
    world.publish("q", "x");
    assert_eq!(queue.stats().ready, 3, "one of four had to go");
    let taken = world.take(&queue);
    assert_eq!(world.bodies_of(&taken), ["5678", "90", "x"]);
    world.put_back(&queue, &taken[1..]);
    world.settle(&queue, &taken[..1]);
    world.publish("q", "1234567");
    assert_eq!(queue.stats().ready, 3);
    world.publish("q", "larger than the limit");
    assert_eq!(queue.stats().ready, 0);
    world.assert_empty();
}

#[test]
fn a_length_of_zero_still_delivers_to_a_consumer_with_room() {
    let mut world = World::new();
    let queue = world.declare("q", &[("x-max-length", number(0))]);
    world.publish("q", "nobody");
    assert_eq!(queue.stats().ready, 0);
    let id = world.consume(&queue, 2);
    for body in ["a", "b", "c"] {
        world.stage("q", body, &PropertiesBuilder::default());
    }
    world.publisher.commit();
    assert_eq!(world.fetch(&queue, id), ["a", "b"]);
    world.assert_empty();
}

#[test]
fn a_full_queue_refuses_and_other_queues_still_get_the_message() {
    let mut world = World::new();
    let limits = [
        ("x-max-length", number(2)),
        ("x-overflow", Value::from("reject-publish")),
    ];
    let queue = world.declare("q", &limits);
    let other = world.declare("other", &[]);
    for name in ["q", "other"] {
        let topology = world.vhost.topology();
        topology
            .bind_queue(name, "amq.fanout", b"", Table::EMPTY)
            .unwrap();
    }
    let routed: Vec<_> = (0..4)
        .map(|_| world.stage("q", "m", &PropertiesBuilder::default()))
        .collect();
    assert_eq!(
        routed,
        [
            Routed::Queues,
            Routed::Queues,
            Routed::Refused,
            Routed::Refused
        ]
    );
    world.publisher.commit();
    assert_eq!(queue.stats().ready, 2);
    let (mut names, mut header) = (Vec::new(), Vec::new());
    record::write_names(&mut names, b"amq.fanout", b"");
    record::write_header(&mut header, 0, &[0, 0]);
    let content = Content {
        names: &names,
        header: &header,
        body: b"",
    };
    let routed = world.publisher.publish(content, world.now).unwrap();
    world.publisher.commit();
    assert_eq!((routed, other.stats().ready), (Routed::Refused, 1));
    // What was let in and then forgotten takes no room.
    world.drain(&queue);
    assert_eq!(
        world.stage("q", "m", &PropertiesBuilder::default()),
        Routed::Queues
    );
    world.publisher.discard();
    assert_eq!(world.publish("q", "m"), Routed::Queues);
    assert_eq!(world.publish("q", "m"), Routed::Queues);
    assert_eq!(world.publish("q", "m"), Routed::Refused);
    world.drain(&queue);
    world.drain(&other);
    world.assert_empty();
}

#[test]
fn what_is_refused_becomes_a_dead_letter_if_the_queue_wants_that() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let limits = [
        ("x-max-length-bytes", number(5)),
        ("x-overflow", Value::from("reject-publish-dlx")),
        DLX,
        to("dead"),
    ];
    let queue = world.declare("q", &limits);
    assert_eq!(world.publish("q", "abc"), Routed::Queues);
    assert_eq!(world.publish("q", "def"), Routed::Refused);
    assert_eq!(world.publish("q", "gh"), Routed::Queues, "it fits");
    assert_eq!(world.drain(&queue), ["abc", "gh"]);
    assert_eq!(world.deaths(&dead), [("q".into(), "maxlen".into(), 1)]);
    world.assert_empty();
}

#[test]
fn dead_letters_that_go_in_a_circle_are_dropped_and_counted() {
    let mut world = World::new();
    let ttl = ("x-message-ttl", number(10));
    let a = world.declare("a", &[ttl, DLX, to("b")]);
    let b = world.declare("b", &[ttl, DLX, to("a")]);
    world.publish("a", "m");
    world.pass(100);
    assert_eq!((a.stats().ready, b.stats().ready), (0, 0));
    let circle = world.vhost.take_circle().unwrap();
    assert_eq!((&*circle.queue, circle.dropped), ("b", 1));
    world.assert_empty();
}

#[test]
fn a_chain_of_many_full_queues_is_no_deeper_than_one() {
    // With so little stack that a call a queue would not fit.
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    thread.spawn(chain).unwrap().join().unwrap();
}

fn chain() {
    const LENGTH: usize = 600;
    let mut world = World::new();
    let name = |at: usize| format!("q{at}");
    for at in 0..LENGTH {
        let next = name(at + 1);
        world.declare(&name(at), &[("x-max-length", number(0)), DLX, to(&next)]);
    }
    let last = world.declare(&name(LENGTH), &[]);
    world.publish("q0", "m");
    assert_eq!(last.stats().ready, 1);
    assert_eq!(world.deaths(&last).len(), LENGTH);
    world.assert_empty();
}

#[test]
fn without_an_exchange_or_a_queue_dead_letters_are_dropped() {
    let mut world = World::new();
    let limit = ("x-max-length", number(0));
    let nowhere = ("x-dead-letter-exchange", Value::from("nope"));
    world.declare("no-exchange", &[limit, nowhere]);
    world.declare("no-queue", &[limit, DLX, to("nope")]);
    world.publish("no-exchange", "m");
    world.publish("no-queue", "m");
    world.assert_empty();
}

#[test]
fn policies_lay_settings_over_a_queue_in_use_and_end() {
    let mut world = World::new();
    let queue = world.declare("q", &[("x-max-length", number(5))]);
    for body in ["a", "bb", "cc", "d"] {
        world.publish("q", body);
    }
    world.put_policy(json!({"max-length": 3, "max-length-bytes": 3, "message-ttl": 50}));
    world.pass(1);
    let taken = world.take(&queue);
    assert_eq!(world.bodies_of(&taken), ["cc", "d"]);
    world.settle(&queue, &taken);
    world.publish("q", "new");
    world.pass(60);
    assert_eq!(queue.stats().ready, 0, "it expired");
    world.remove_policy();
    for _ in 0..7 {
        world.publish("q", "large enough");
    }
    world.pass(1000);
    assert_eq!(queue.stats().ready, 5, "its own limit holds on");
    world.drain(&queue);
    world.assert_empty();
}

#[test]
fn a_queue_that_is_declared_later_has_what_policies_say_and_the_smaller_limit_counts() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    world.put_policy(json!({
        "max-length": 2, "overflow": "reject-publish-dlx",
        "dead-letter-exchange": "", "dead-letter-routing-key": "dead"
    }));
    world.put_policy_of(Author::Operator, json!({"max-length": 1}));
    let queue = world.declare("q", &[("x-max-length", number(7))]);
    assert_eq!(world.publish("q", "in"), Routed::Queues);
    assert_eq!(world.publish("q", "out"), Routed::Refused);
    assert_eq!(world.drain(&queue), ["in"]);
    assert_eq!(world.deaths(&dead), [("q".into(), "maxlen".into(), 1)]);
    world.assert_empty();
}

#[test]
fn publishers_that_know_the_way_to_a_queue_hear_of_its_new_limits() {
    let mut world = World::new();
    let queue = world.declare("q", &[]);
    world.publish("q", "a");
    world.put_policy(json!({"max-length": 2, "overflow": "reject-publish"}));
    assert_eq!(world.publish("q", "b"), Routed::Queues);
    assert_eq!(world.publish("q", "c"), Routed::Refused);
    world.remove_policy();
    assert_eq!(world.publish("q", "d"), Routed::Queues);
    assert_eq!(world.drain(&queue), ["a", "b", "d"]);
    world.assert_empty();
}

#[test]
fn a_policy_reaches_all_levels_of_a_priority_queue_those_of_later_too() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let queue = world.declare("q", &[("x-max-priority", number(3))]);
    let publish = |world: &mut World, priority| {
        let properties = PropertiesBuilder {
            priority: Some(priority),
            ..PropertiesBuilder::default()
        };
        world.stage("q", "m", &properties);
        world.publisher.commit();
    };
    publish(&mut world, 0);
    world.drain(&queue);
    world.put_policy(json!({
        "message-ttl": 20, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"
    }));
    publish(&mut world, 0);
    publish(&mut world, 2);
    world.pass(40);
    assert_eq!((queue.stats().ready, dead.stats().ready), (0, 2));
    world.remove_policy();
    publish(&mut world, 2);
    world.pass(40);
    assert_eq!(queue.stats().ready, 1, "it has no time to live any more");
    world.drain(&queue);
    world.drain(&dead);
    world.assert_empty();
}

#[test]
fn a_queue_that_expires_by_policy_goes_when_it_is_unused_for_so_long() {
    let mut world = World::new();
    world.declare("q", &[]);
    world.pass(100);
    world.put_policy(json!({"expires": 50}));
    world.pass(40);
    assert!(world.vhost.topology().queue("q").is_some());
    world.pass(60);
    assert!(world.vhost.topology().queue("q").is_none());
}

#[test]
fn queues_of_the_bus_follow_no_policies() {
    let world = World::new();
    let declare = QueueDeclare {
        name: "q",
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::EMPTY,
        protected: true,
        lenient: true,
    };
    world.put_policy(json!({"expires": 1, "max-length": 0}));
    let queue = world.vhost.declare_queue(declare, 1).unwrap();
    world.vhost.tick(START);
    world.vhost.tick(START + 10);
    assert!(world.vhost.topology().queue("q").is_some());
    assert_eq!(queue.settings().messages_max, None);
}

#[test]
fn a_quorum_queue_counts_returns_and_gives_up_after_its_limit() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let quorum = ("x-queue-type", Value::from("quorum"));
    let limit = ("x-delivery-limit", number(2));
    let queue = world.declare("q", &[quorum, limit, DLX, to("dead")]);
    world.publish("q", "poison");
    world.publish("q", "good");
    for round in 0..3 {
        let taken = world.take(&queue);
        assert_eq!(taken.len(), 2 - usize::from(round > 0));
        assert_eq!(taken[0].redelivered(), round > 0);
        world.put_back(&queue, &taken[..1]);
        world.settle(&queue, &taken[1..]);
    }
    assert_eq!((queue.stats().ready, queue.stats().unsettled), (0, 0));
    assert_eq!(
        world.deaths(&dead),
        [("q".into(), "delivery_limit".into(), 1)]
    );
    world.assert_empty();
}

/// Random publishes, takes, returns and rests: each message ends once, delivered before its time or dead.
#[test]
fn whatever_happens_each_message_ends_once_and_none_is_delivered_too_late() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let mut world = World::new();
        let dead = world.declare("dead", &[]);
        let mut arguments = vec![DLX, to("dead")];
        if rng.once_in(2) {
            arguments.push(("x-message-ttl", number(200)));
        }
        let limited = rng.once_in(2);
        if limited {
            // As many messages as bytes of theirs.
            arguments.push(match rng.once_in(2) {
                true => ("x-max-length", number(8)),
                false => ("x-max-length-bytes", number(24)),
            });
        }
        let ttl = arguments.iter().any(|(name, _)| *name == "x-message-ttl");
        let queue = world.declare("q", &arguments);
        let (mut expiries, mut held, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            match rng.below(6) {
                0..=2 => {
                    let own = rng.once_in(2).then(|| 1 + rng.below(400) as u64);
                    let body = format!("{:03}", expiries.len());
                    match own {
                        Some(own) => world.publish_for("q", &body, &own.to_string()),
                        None => drop(world.publish("q", &body)),
                    }
                    let shortest = own.into_iter().chain(ttl.then_some(200)).min();
                    expiries.push(shortest.map_or(u64::MAX, |ms| world.now + ms));
                }
                3 => {
                    world.vhost.tell_time(world.now);
                    let before = held.len();
                    let count = before + 1 + rng.below(4);
                    world.vhost.take(&queue, count, usize::MAX, &mut held);
                    for body in world.bodies_of(&held[before..]) {
                        let number: usize = body.parse().unwrap();
                        assert!(
                            expiries[number] > world.now,
                            "seed {seed}: {number} is late"
                        );
                    }
                }
                4 if !held.is_empty() => {
                    let one = held.swap_remove(rng.below(held.len()));
                    if rng.once_in(2) {
                        world.put_back(&queue, &[one]);
                    } else {
                        delivered.extend(world.bodies_of(&[one]));
                        world.settle(&queue, &[one]);
                    }
                }
                _ => world.pass(rng.below(60) as u64),
            }
            assert!(!limited || queue.stats().ready <= 8, "seed {seed}");
        }
        for one in std::mem::take(&mut held) {
            world.put_back(&queue, &[one]);
        }
        world.pass(1000);
        let mut ended = world.drain(&queue);
        let stays = |body: &String| expiries[body.parse::<usize>().unwrap()] == u64::MAX;
        assert!(
            ended.iter().all(stays),
            "seed {seed}: it should have expired"
        );
        assert!(ended.is_sorted(), "seed {seed}: out of order");
        ended.extend(world.drain(&dead));
        ended.extend(delivered);
        ended.sort();
        let all: Vec<String> = (0..expiries.len()).map(|n| format!("{n:03}")).collect();
        assert_eq!(ended, all, "seed {seed}");
        assert_eq!(queue.stats().unsettled, 0);
        world.assert_empty();
    }
}

/// Publishes to the queue `q` with a priority.
fn publish_at(world: &mut World, priority: u8, body: &str) -> Routed {
    let properties = PropertiesBuilder {
        priority: Some(priority),
        ..PropertiesBuilder::default()
    };
    let routed = world.stage("q", body, &properties);
    world.publisher.commit();
    routed
}

#[test]
fn a_priority_queue_keeps_its_limits_at_once_those_of_bytes_too() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let ranked = ("x-max-priority", number(5));
    let limit = ("x-max-length-bytes", number(10));
    let queue = world.declare("q", &[ranked, limit, DLX, to("dead")]);
    for (priority, body) in [(1, "1111"), (5, "5555"), (3, "33")] {
        publish_at(&mut world, priority, body);
    }
    assert_eq!((queue.stats().ready, dead.stats().ready), (3, 0));
    publish_at(&mut world, 0, "0");
    assert_eq!(world.drain(&dead), ["5555"], "the head is the highest one");
    // What is out does not count, what comes back does.
    let taken = world.take(&queue);
    assert_eq!(world.bodies_of(&taken), ["33", "1111", "0"]);
    publish_at(&mut world, 2, "2222222");
    assert_eq!(dead.stats().ready, 0);
    world.put_back(&queue, &taken);
    assert_eq!(world.drain(&dead), ["33", "2222222"]);
    assert_eq!(world.drain(&queue), ["1111", "0"]);
    world.put_policy(json!({"max-length": 1}));
    publish_at(&mut world, 4, "a");
    publish_at(&mut world, 1, "b");
    assert_eq!(
        (world.drain(&dead), world.drain(&queue)),
        (vec!["a".into()], vec!["b".into()])
    );
    world.assert_empty();
}

#[test]
fn what_the_consumers_of_a_priority_queue_have_room_for_is_not_beyond_its_limit() {
    let mut world = World::new();
    let ranked = ("x-max-priority", number(5));
    let queue = world.declare("q", &[ranked, ("x-max-length", number(1))]);
    let id = world.consume(&queue, 2);
    for (priority, body) in [(1, "a"), (3, "b"), (0, "c"), (0, "d")] {
        publish_at(&mut world, priority, body);
    }
    assert_eq!(queue.stats().ready, 3);
    assert_eq!(world.fetch(&queue, id), ["b", "a"]);
    world.cancel(&queue, id);
    assert_eq!(world.drain(&queue), ["d"]);
    let refuses = ("x-overflow", Value::from("reject-publish"));
    world
        .vhost
        .delete_queue("q", 1, Default::default())
        .unwrap();
    let limit = ("x-max-length-bytes", number(3));
    let queue = world.declare("q", &[ranked, limit, refuses]);
    assert_eq!(publish_at(&mut world, 1, "aa"), Routed::Queues);
    assert_eq!(publish_at(&mut world, 2, "bb"), Routed::Refused);
    assert_eq!(publish_at(&mut world, 2, "b"), Routed::Queues);
    assert_eq!(world.drain(&queue), ["b", "aa"]);
    world.assert_empty();
}

#[test]
fn an_expiration_counts_on_the_bus_from_the_outbox_to_the_inbox() {
    let mut world = World::new();
    let (outbox, inbox) = (world.declare("outbox", &[]), world.declare("inbox", &[]));
    let topology = world.vhost.topology();
    let bound = topology.bind_queue("inbox", "amq.fanout", b"", Table::EMPTY);
    bound.unwrap();
    let flow = Flow {
        via: None,
        exchange: "amq.fanout".into(),
        needs_topic: false,
        sender: None,
        dead_letters: world.declare("dead", &[]),
        exclude_own: false.into(),
        own_inbox: 0,
        counters: FlowCounters::default(),
    };
    world.vhost.install_flow(&outbox, Some(Arc::new(flow)));
    // Waiting in the outbox, since nobody moves.
    world.publish_for("outbox", "gone", "40");
    world.publish_for("outbox", "short", "100");
    world.publish("outbox", "stays");
    world.pass(60);
    assert_eq!(outbox.stats().ready, 2, "one expired there");
    let mut mover = Mover::new(Arc::clone(&world.vhost), Arc::clone(&outbox)).unwrap();
    let spec = ConsumerSpec {
        bell: Arc::new(Silent),
        key: 0,
        prefetch: 0,
        shared: None,
        no_ack: false,
        exclusive: false,
        priority: 0,
    };
    mover.resume(spec).unwrap();
    while mover.step(world.now) {}
    assert_eq!(inbox.stats().ready, 2);
    world.pass(30);
    assert_eq!(inbox.stats().ready, 2);
    world.pass(20);
    assert_eq!(world.drain(&inbox), ["stays"], "it had 40 ms left");
    // Straight through.
    world.publish_for("outbox", "fused", "50");
    assert_eq!((outbox.stats().ready, inbox.stats().ready), (0, 1));
    world.pass(60);
    assert_eq!(inbox.stats().ready, 0);
    drop(mover);
    world.assert_empty();
}

#[test]
fn messages_of_a_priority_queue_expire_and_their_dead_letters_are_settled_once() {
    let mut world = World::new();
    let dead = world.declare("dead", &[]);
    let ranked = ("x-max-priority", number(5));
    let ttl = ("x-message-ttl", number(100));
    let limit = ("x-max-length", number(3));
    let queue = world.declare("q", &[ranked, ttl, limit, DLX, to("dead")]);
    for (priority, body) in [(1, "low"), (5, "high"), (3, "middle")] {
        let properties = PropertiesBuilder {
            priority: Some(priority),
            ..PropertiesBuilder::default()
        };
        world.stage("q", body, &properties);
        world.publisher.commit();
    }
    let taken = world.take(&queue);
    assert_eq!(world.bodies_of(&taken), ["high", "middle", "low"]);
    world.put_back(&queue, &taken);
    world.publish("q", "lowest");
    assert_eq!(world.drain(&dead), ["high"], "the head is the highest one");
    world.pass(100);
    assert_eq!(queue.stats().ready, 0);
    assert_eq!(world.drain(&dead).len(), 3);
    world.assert_empty();
}
