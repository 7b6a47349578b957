//! Priority queues: higher priorities first, in order inside of each, also after a crash.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use backbone_wire::method::{Method, basic, queue};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::Value;
use common::dialog::{declare, plain, table};
use common::raw::{Raw, short};
use common::{Server, directory_on_disk};

const MAX: (&str, Value<'static>) = ("x-max-priority", Value::I32(10));

fn publish(peer: &mut Raw, queue: &str, priority: Option<u8>, persistent: bool, body: &str) {
    let properties = PropertiesBuilder {
        priority,
        delivery_mode: persistent.then_some(2),
        ..plain()
    };
    peer.publish_with(1, ("", queue, true), &properties, body.as_bytes());
}

#[actix_web::test]
async fn higher_priorities_go_first_and_each_in_order() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare_with("q", false, &[MAX]);
    let priorities = [
        Some(1),
        None,
        Some(9),
        Some(0),
        Some(1),
        Some(255),
        Some(10),
        Some(9),
    ];
    for (priority, body) in priorities.into_iter().zip('a'..) {
        publish(&mut peer, "q", priority, false, &body.to_string());
    }
    assert_eq!(peer.ready("q"), 8);
    // What is above the highest is as the highest.
    assert_eq!(peer.take_all("q"), ["f", "g", "c", "h", "a", "e", "b", "d"]);
    assert_eq!(peer.ready("q"), 0);
}

#[actix_web::test]
async fn consumers_get_the_highest_that_waits_and_returns_go_to_their_place() {
    let server = Server::start().await;
    let mut publisher = Raw::open(server.amqp[0], 0);
    publisher.declare_with("q", false, &[MAX]);
    for (priority, body) in [(1, "a"), (5, "b"), (1, "c"), (5, "d"), (0, "e")] {
        publish(&mut publisher, "q", Some(priority), false, body);
    }
    publisher.ready("q");
    let mut consumer = Raw::open(server.amqp[0], 0);
    consumer.prefetch(1, 2, false);
    consumer.consume_with(1, "q", "c", false, &[]);
    let first: Vec<String> = (0..2)
        .map(|_| consumer.message().text().to_owned())
        .collect();
    assert_eq!(first, ["b", "d"]);
    // One that comes now is next, whatever waits.
    publish(&mut publisher, "q", Some(9), false, "f");
    publisher.ready("q");
    consumer.ack(1, 1);
    assert_eq!(consumer.message().text(), "f");
    consumer.requeue(1, 2);
    let again = consumer.message();
    assert_eq!((again.text(), again.redelivered), ("d", true));
    drop(consumer);
    let mut rest = Vec::new();
    while rest.len() < 5 {
        rest.extend(publisher.take_all("q"));
    }
    assert_eq!(rest, ["f", "d", "a", "c", "e"]);
}

#[actix_web::test]
async fn purge_and_delete_count_all_levels() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for purge in [true, false] {
        peer.declare_with("q", true, &[MAX]);
        for priority in [0, 3, 3, 10] {
            publish(&mut peer, "q", Some(priority), priority == 3, "x");
        }
        let if_empty = queue::Delete {
            queue: short("q"),
            if_empty: true,
            ..queue::Delete::default()
        };
        let (code, text) = peer.refused(1, &Method::QueueDelete(if_empty));
        assert!(
            code == 406 && text.ends_with("queue 'q' in vhost '/' not empty"),
            "{text}"
        );
        if purge {
            let purge = queue::Purge {
                queue: short("q"),
                no_wait: false,
            };
            peer.method(1, &Method::QueuePurge(purge));
            let payload = peer.expect("queue.purge-ok");
            let Method::QueuePurgeOk(ok) = Method::decode(&payload).unwrap() else {
                unreachable!("the name was checked");
            };
            assert_eq!((ok.message_count, peer.ready("q")), (4, 0));
            continue;
        }
        let delete = queue::Delete {
            queue: short("q"),
            ..queue::Delete::default()
        };
        peer.method(1, &Method::QueueDelete(delete));
        let payload = peer.expect("queue.delete-ok");
        let Method::QueueDeleteOk(ok) = Method::decode(&payload).unwrap() else {
            unreachable!("the name was checked");
        };
        assert_eq!(ok.message_count, 4);
    }
}

#[actix_web::test]
async fn messages_keep_their_priority_through_a_crash_and_what_is_done_with_stays_so() {
    let mut server = Server::on(directory_on_disk(), &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.confirms(1);
    peer.declare_with("q", true, &[MAX]);
    // Another one behind it, so that ids which were not set aside would be somebody's.
    peer.declare_with("other", true, &[]);
    let (count, other) = (60u64, 20u64);
    for number in 0..count {
        publish(
            &mut peer,
            "q",
            Some((number % 12) as u8),
            true,
            &number.to_string(),
        );
    }
    for number in 0..other {
        publish(&mut peer, "other", Some(5), true, &number.to_string());
    }
    peer.confirmed(count + other);
    // Of the highest level, one is acknowledged and one stays out; of the lowest nothing is gone.
    let get = basic::Get {
        queue: short("q"),
        no_ack: false,
    };
    for ack in [true, false] {
        peer.method(1, &Method::BasicGet(get));
        let message = peer.message();
        if ack {
            assert_eq!(message.text(), "10");
            peer.ack(1, message.tag);
        }
    }
    // What comes after it is on the disk, and so is the acknowledgement.
    peer.ready("q");
    publish(&mut peer, "other", None, true, &other.to_string());
    peer.confirmed(count + other + 1);
    server.kill();
    let mut server = Server::on(server.data_dir(), &[]).await;
    let mut expected: Vec<u64> = (0..count).filter(|number| *number != 10).collect();
    expected.sort_by_key(|number| (std::cmp::Reverse((number % 12).min(10)), *number));
    let texts = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>();
    let mut peer = Raw::open(server.amqp[0], 0);
    assert_eq!(peer.ready("q"), count as u32 - 1);
    assert_eq!(peer.take("q").unwrap().text(), "11");
    // It goes on with new ones after the old of their level.
    peer.confirms(1);
    publish(&mut peer, "q", Some(10), true, "new");
    peer.confirmed(1);
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let mut all = texts(&expected[1..]);
    let highest = expected
        .iter()
        .filter(|number| (*number % 12) >= 10)
        .count();
    all.insert(highest - 1, "new".to_owned());
    assert_eq!(peer.take_all("q"), all);
    let others: Vec<u64> = (0..=other).collect();
    assert_eq!(peer.take_all("other"), texts(&others));
}

#[actix_web::test]
async fn a_long_priority_queue_is_in_the_log_and_comes_back_in_order() {
    let server = Server::on(directory_on_disk(), &[]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare_with("q", true, &[MAX]);
    peer.confirms(1);
    // More than a queue keeps in memory, in two levels.
    let (count, body) = (80_000u64, "x".repeat(20));
    for number in 0..count {
        let body = format!("{number} {body}");
        publish(&mut peer, "q", Some((number % 2) as u8), true, &body);
    }
    let mut confirmed = 0;
    while confirmed < count {
        let payload = peer.expect("basic.ack");
        if let Method::BasicAck(ack) = Method::decode(&payload).unwrap() {
            confirmed = ack.delivery_tag;
        }
    }
    let mut consumer = Raw::open(server.amqp[0], 0);
    consumer.consume_with(1, "q", "c", true, &[]);
    let even = (0..count).step_by(2);
    for expected in (1..count).step_by(2).chain(even) {
        let message = consumer.message();
        let number = message.text().split(' ').next().unwrap();
        assert_eq!(number, expected.to_string());
    }
}

#[actix_web::test]
async fn the_highest_priority_is_a_number_from_0_to_255() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for (value, why) in [
        (Value::I32(256), "{max_value_exceeded,256}"),
        (Value::I8(-1), "{value_negative,-1}"),
        (Value::from("3"), "\"expected integer, got longstr\""),
    ] {
        let arguments = table(&[("x-max-priority", value)]);
        let method = Method::QueueDeclare(declare("q", false, arguments.as_table()));
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/': {why}"
        );
        assert_eq!(peer.refused(1, &method), (406, text));
    }
    for (name, max) in [("none", 0), ("all", 255)] {
        peer.declare_with(name, false, &[("x-max-priority", Value::I32(max))]);
        for priority in [0, 64, 255, 128] {
            publish(
                &mut peer,
                name,
                Some(priority),
                false,
                &priority.to_string(),
            );
        }
    }
    assert_eq!(peer.take_all("none"), ["0", "64", "255", "128"]);
    assert_eq!(peer.take_all("all"), ["255", "128", "64", "0"]);
}
