//! Delayed exchanges, on simulated time and a simulated disk, with restarts.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod model;
#[path = "../support/mod.rs"]
mod support;
mod world;

use backbone_broker::publisher::Routed;
use backbone_wire::table::{ArrayBuf, Table, Value};
use world::{Message, World};

fn ms(ms: i32) -> Value<'static> {
    Value::I32(ms)
}

#[test]
fn messages_come_in_the_order_in_which_they_are_due() {
    for mut world in [World::new(), World::in_memory()] {
        world.declare("late", "direct");
        let queue = world.queue("q", "late");
        for (body, delay) in [("c", 300), ("a", 100), ("b", 200), ("b2", 200)] {
            let routed = world.publish(&Message::to("late", "q", body).with("x-delay", ms(delay)));
            assert_eq!(routed, Routed::Queues);
        }
        world.publish(&Message::to("late", "q", "at once"));
        assert_eq!(world.drain(&queue), ["at once"]);
        world.pass(99);
        assert_eq!(world.drain(&queue), [""; 0]);
        assert_eq!(world.vhost.delayed("late"), Some(4));
        world.pass(1);
        assert_eq!(world.drain(&queue), ["a"]);
        world.pass(200);
        assert_eq!(world.drain(&queue), ["b", "b2", "c"]);
        assert_eq!(world.vhost.delayed("late"), Some(0));
        world.assert_empty();
    }
}

#[test]
fn a_time_of_day_is_as_good_as_a_delay_and_one_that_is_past_is_now() {
    let mut world = World::new();
    world.declare("late", "fanout");
    let queue = world.queue("q", "late");
    let at = |world: &World, ms: i64| Value::I64(world.now as i64 + ms);
    let (soon, past) = (at(&world, 50), at(&world, -50));
    world.publish(&Message::to("late", "", "soon").with("x-deliver-at", soon));
    world.publish(&Message::to("late", "", "past").with("x-deliver-at", past));
    world.pass(0);
    assert_eq!(world.drain(&queue), ["past"]);
    world.pass(50);
    assert_eq!(world.drain(&queue), ["soon"]);
    world.assert_empty();
}

#[test]
fn what_has_waited_says_so_by_a_negative_delay_and_is_else_as_it_was_published() {
    let mut world = World::new();
    world.declare("late", "direct");
    let queue = world.queue("q", "late");
    let message = Message::to("late", "q", "m").with("x-delay", ms(7));
    world.publish(&message.with("other", Value::from("kept")));
    world.pass(7);
    let (names, headers) = world.take_one(&queue);
    assert_eq!(names, ("late".into(), "q".into()));
    let headers = Table::from_bytes(&headers).unwrap();
    assert_eq!(headers.get("x-delay"), Some(ms(-7)));
    assert_eq!(headers.get("other"), Some(Value::from("kept")));
    assert_eq!(headers.iter().count(), 2, "and nothing about deaths");
    world.assert_empty();
}

#[test]
fn what_goes_on_through_another_delayed_exchange_does_not_wait_twice() {
    let mut world = World::new();
    for exchange in ["late", "later"] {
        world.declare(exchange, "fanout");
    }
    let topology = world.vhost.topology();
    for (destination, source) in [("later", "late"), ("late", "later")] {
        let bound = topology.bind_exchange(destination, source, b"", Table::EMPTY);
        bound.unwrap();
    }
    let queue = world.queue("q", "later");
    let when = Value::I64(world.now as i64 + 40);
    world.publish(&Message::to("late", "", "a").with("x-delay", ms(30)));
    world.publish(&Message::to("late", "", "b").with("x-deliver-at", when));
    world.pass(40);
    assert_eq!(world.drain(&queue), ["a", "b"]);
    world.assert_empty();
}

#[test]
fn a_message_waits_also_if_it_comes_from_another_exchange() {
    let mut world = World::new();
    world.declare("late", "direct");
    let topology = world.vhost.topology();
    let bound = topology.bind_exchange("late", "amq.fanout", b"", Table::EMPTY);
    bound.unwrap();
    let (late, now) = (world.queue("q", "late"), world.queue("now", "amq.fanout"));
    world.publish(&Message::to("amq.fanout", "q", "m").with("x-delay", ms(10)));
    assert_eq!(
        (world.drain(&now), world.drain(&late)),
        (vec!["m".into()], vec![])
    );
    world.pass(10);
    let (names, _) = world.take_one(&late);
    assert_eq!(names.0, "amq.fanout", "what it was published to");
    world.assert_empty();
}

#[test]
fn further_keys_count_when_it_is_due_and_blind_ones_are_not_shown() {
    for mut world in [World::new(), World::in_memory()] {
        world.declare("late", "direct");
        let queues = ["own", "copy", "blind"].map(|name| world.queue(name, "late"));
        let mut keys = [ArrayBuf::new(), ArrayBuf::new()];
        keys[0].push(&Value::from("copy"));
        keys[1].push(&Value::from("blind"));
        let message = Message::to("late", "own", "m")
            .with("x-delay", ms(10))
            .with("CC", Value::Array(keys[0].as_array()))
            .with("BCC", Value::Array(keys[1].as_array()));
        world.publish(&message);
        assert_eq!(world.vhost.delayed("late"), Some(1), "it waits once");
        world.pass(10);
        for queue in &queues {
            let (_, headers) = world.take_one(queue);
            let headers = Table::from_bytes(&headers).unwrap();
            assert!(headers.get("CC").is_some() && headers.get("BCC").is_none());
        }
        world.assert_empty();
    }
}

#[test]
fn what_nobody_takes_when_it_is_due_goes_to_the_alternate_exchange_or_is_dropped() {
    let mut world = World::new();
    let alternate = [("alternate-exchange", Value::from("amq.fanout"))];
    world.declare_with("late", "direct", &alternate);
    world.declare("lost", "direct");
    let queue = world.queue("q", "amq.fanout");
    for exchange in ["late", "lost"] {
        let message = Message::to(exchange, "nobody", "m").with("x-delay", ms(10));
        assert_eq!(world.publish(&message), Routed::Queues, "nobody knows yet");
    }
    assert_eq!(world.drain(&queue), [""; 0]);
    world.pass(10);
    assert_eq!(world.drain(&queue), ["m"]);
    assert_eq!(world.vhost.delayed_in_all(), 0);
    world.assert_empty();
}

#[test]
fn the_time_to_live_begins_when_the_message_has_waited() {
    let mut world = World::new();
    world.declare("late", "direct");
    let queue = world.queue("q", "late");
    let message = Message::to("late", "q", "m").with("x-delay", ms(100));
    world.publish(&message.expires("50"));
    world.pass(140);
    assert_eq!(queue.stats().ready, 1);
    world.pass(20);
    assert_eq!(queue.stats().ready, 0);
    world.assert_empty();
}

#[test]
fn a_dead_letter_waits_as_any_other_message_and_a_full_queue_makes_dead_letters_of_what_waited() {
    let mut world = World::new();
    world.declare("late", "direct");
    let dlx = |exchange| ("x-dead-letter-exchange", Value::from(exchange));
    let short = [("x-max-length", ms(0)), dlx("late")];
    world.queue_with("q", "amq.direct", &short);
    let target = [("x-max-length", ms(1)), dlx("")];
    let dead = world.queue("dead", "amq.direct");
    let key = ("x-dead-letter-routing-key", Value::from("dead"));
    let queue = world.queue_with("r", "late", &[target[0], target[1], key]);
    world.bind("r", "late", "q");
    for body in ["a", "b"] {
        world.publish(&Message::to("amq.direct", "q", body).with("x-delay", ms(20)));
    }
    assert_eq!(world.vhost.delayed("late"), Some(2));
    world.pass(20);
    assert_eq!(world.drain(&queue), ["b"]);
    assert_eq!(world.drain(&dead), ["a"]);
    world.assert_empty();
}

#[test]
fn transient_messages_wait_in_the_log_too_and_come_after_a_restart() {
    let mut world = World::new();
    world.declare("late", "direct");
    world.queue("q", "late");
    let message = Message::to("late", "q", "m").with("x-delay", ms(10));
    world.publish(&message.transient());
    world.restart();
    let queue = world.vhost.topology().queue("q").unwrap();
    assert_eq!(world.vhost.delayed("late"), Some(1));
    world.pass(10);
    assert_eq!(world.drain(&queue), ["m"]);
    world.assert_empty();
}

#[test]
fn what_came_due_while_nobody_ran_comes_at_once_in_its_order() {
    let mut world = World::new();
    world.declare("late", "direct");
    world.queue("q", "late");
    // More than one look after a start, in the opposite order.
    const COUNT: usize = 5000;
    for n in 0..COUNT {
        let delay = ms((COUNT - n) as i32 * 10);
        world.publish(&Message::to("late", "q", &n.to_string()).with("x-delay", delay));
    }
    world.now += COUNT as u64 * 5;
    world.restart();
    assert_eq!(world.vhost.delayed("late"), Some(COUNT as u64));
    let queue = world.vhost.topology().queue("q").unwrap();
    world.pass(0);
    let came = world.drain(&queue);
    let due = (COUNT / 2..COUNT).rev().map(|n| n.to_string());
    assert!(came.into_iter().eq(due));
    assert_eq!(world.vhost.delayed("late"), Some(COUNT as u64 / 2));
}

#[test]
fn few_of_many_that_wait_are_in_memory_and_all_come() {
    let mut world = World::new();
    world.declare("late", "direct");
    let queue = world.queue("q", "late");
    let body = "x".repeat(200);
    for n in 0..2000 {
        let body = format!("{n:04}{body}");
        let delay = ms(1000 + (n * 37) % 500);
        world.publish(&Message::to("late", "q", &body).with("x-delay", delay));
    }
    let bytes = world.vhost.arena().bytes();
    assert!(bytes < 100_000, "{bytes} bytes in memory");
    world.pass(1500);
    assert_eq!(queue.stats().ready, 2000);
    let came: Vec<u32> = world
        .drain(&queue)
        .iter()
        .map(|it| it[..4].parse().unwrap())
        .collect();
    assert!(came.is_sorted_by_key(|n| ((n * 37) % 500, *n)));
    world.assert_empty();
}

#[test]
fn large_messages_wait_and_come_whole() {
    let mut world = World::new();
    world.declare("late", "direct");
    let queue = world.queue("q", "late");
    let body = "large".repeat(20_000);
    world.publish(&Message::to("late", "q", &body).with("x-delay", ms(10)));
    world.pass(10);
    assert_eq!(world.drain(&queue), [body]);
    world.assert_empty();
}

#[test]
fn an_exchange_that_is_deleted_forgets_what_waits_also_in_the_log() {
    for auto_delete in [false, true] {
        let mut world = World::new();
        match auto_delete {
            false => world.declare("late", "direct"),
            true => world.declare_auto_delete("late", "direct"),
        }
        world.queue("q", "late");
        world.publish(&Message::to("late", "q", "m").with("x-delay", ms(10)));
        assert!(world.vhost.topology().queue("late").is_none());
        match auto_delete {
            false => world.delete_exchange("late"),
            true => drop(
                world
                    .vhost
                    .delete_queue("q", 0, Default::default())
                    .unwrap(),
            ),
        }
        assert_eq!(world.live_in_log(), 0);
        world.declare("late", "direct");
        let queue = world.queue("q", "late");
        world.pass(100);
        assert_eq!(world.drain(&queue), [""; 0]);
        world.restart();
        assert_eq!(world.vhost.delayed("late"), Some(0));
        world.assert_empty();
    }
}

#[test]
fn while_the_log_refuses_messages_wait_on_and_none_is_lost() {
    let mut world = World::new();
    world.declare("late", "direct");
    let queue = world.queue("q", "late");
    for n in 0..30 {
        let message = Message::to("late", "q", &format!("{n:02}"));
        world.publish(&message.with("x-delay", ms(10 + n)));
    }
    world.fill_disk();
    world.pass(50);
    let waits = world.vhost.delayed("late").unwrap();
    assert!(waits > 0, "the disk was to be full");
    assert_eq!(queue.stats().ready + waits, 30);
    world.empty_disk();
    world.pass(200);
    let all: Vec<_> = (0..30).map(|n| format!("{n:02}")).collect();
    assert_eq!(world.drain(&queue), all);
    world.assert_empty();
}

#[test]
fn a_delayed_exchange_says_how_it_routes_and_stays_with_that() {
    let world = World::new();
    let error = |arguments: &[(&str, Value<'_>)]| {
        world.try_declare("x", arguments).unwrap_err().to_string()
    };
    let wrong = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
    for arguments in [
        &[][..],
        &[("x-delayed-type", ms(1))],
        &[("x-delayed-type", Value::from("x-delayed-message"))],
        &[("x-delayed-type", Value::from("x-recent-history"))],
    ] {
        assert!(error(arguments).ends_with(wrong));
    }
    let unknown = [("x-delayed-type", Value::from("nope"))];
    assert!(error(&unknown).ends_with("unknown exchange type 'nope'"));
    world.declare("x", "topic");
    world.declare("x", "topic");
    let other = error(&[("x-delayed-type", Value::from("direct"))]);
    assert!(other.contains("inequivalent arg 'x-delayed-type' for exchange 'x'"));
}
