//! Who of a queue's consumers gets what: priorities, and a single active one; and what becomes of what they hold.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::Duration;

use backbone_wire::method::{Method, basic, channel, connection, exchange, queue};
use backbone_wire::table::{Table, Value};
use common::Server;
use common::admin::Admin;
use common::dialog::{consume, declare, plain, table};
use common::raw::{Raw, publish, short};
use serde_json::json;

const SINGLE: (&str, Value<'static>) = ("x-single-active-consumer", Value::Bool(true));

/// Publishes bodies `from`, `from + 1`, … to a queue, and waits until they are in it.
fn fill(peer: &mut Raw, queue: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let body = number.to_string();
        peer.publish_with(1, ("", queue, false), &plain(), body.as_bytes());
    }
    peer.ready(queue);
}

fn numbers(peer: &mut Raw, count: usize) -> Vec<(String, bool)> {
    let messages = std::iter::repeat_with(|| peer.message()).take(count);
    messages
        .map(|message| (message.text().to_owned(), message.redelivered))
        .collect()
}

fn fresh(numbers: std::ops::Range<u32>) -> Vec<(String, bool)> {
    numbers.map(|number| (number.to_string(), false)).collect()
}

#[actix_web::test]
async fn the_consumer_with_the_highest_priority_gets_everything_while_it_has_room() {
    let server = Server::start().await;
    let mut publisher = Raw::open(server.amqp[0], 0);
    publisher.declare("q");
    let mut peers: Vec<Raw> = [(-1, 10), (0, 10), (5, 3)]
        .into_iter()
        .map(|(priority, prefetch)| {
            let mut peer = Raw::open(server.amqp[0], 0);
            peer.prefetch(1, prefetch, false);
            let arguments = [("x-priority", Value::I32(priority))];
            peer.consume_with(1, "q", "c", false, &arguments);
            peer
        })
        .collect();
    fill(&mut publisher, "q", 0..8);
    // Three fit the highest, and the rest those of the middle; the lowest has nothing yet.
    assert_eq!(numbers(&mut peers[2], 3), fresh(0..3));
    assert_eq!(numbers(&mut peers[1], 5), fresh(3..8));
    peers[2].ack(1, 1);
    peers[2].ack(1, 2);
    peers[2].prefetch(1, 10, false);
    fill(&mut publisher, "q", 8..16);
    assert_eq!(numbers(&mut peers[2], 2), fresh(8..10));
    assert_eq!(numbers(&mut peers[1], 5), fresh(10..15));
    assert_eq!(numbers(&mut peers[0], 1), fresh(15..16));
    // Whoever is of the same priority takes turns.
    let mut twin = Raw::open(server.amqp[0], 0);
    twin.consume_with(1, "q", "c", true, &[("x-priority", Value::I8(6))]);
    let mut other = Raw::open(server.amqp[0], 0);
    other.consume_with(1, "q", "c", true, &[("x-priority", Value::I64(6))]);
    fill(&mut publisher, "q", 16..18);
    assert_eq!(numbers(&mut twin, 1), fresh(16..17));
    assert_eq!(numbers(&mut other, 1), fresh(17..18));
}

#[actix_web::test]
async fn priorities_of_consumers_are_integers() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    for (value, kind) in [
        (Value::from("a"), "longstr"),
        (Value::F32(1.5), "float"),
        (Value::Bool(true), "bool"),
        (Value::Void, "void"),
    ] {
        let arguments = table(&[("x-priority", value)]);
        let method = Method::BasicConsume(consume("q", "", false, arguments.as_table()));
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \
             \"expected integer, got {kind}\""
        );
        assert_eq!(peer.refused(1, &method), (406, text));
    }
    let arguments = table(&[("x-cancel-on-ha-failover", Value::from("a"))]);
    let method = Method::BasicConsume(consume("q", "", false, arguments.as_table()));
    let (code, text) = peer.refused(1, &method);
    assert_eq!(code, 406);
    assert!(text.ends_with("{unacceptable_type,longstr}"), "{text}");
    peer.consume_with(
        1,
        "q",
        "",
        false,
        &[("x-cancel-on-ha-failover", Value::Bool(true))],
    );
}

#[actix_web::test]
async fn only_the_first_consumer_of_a_single_active_queue_gets_messages_until_it_goes() {
    let server = Server::start().await;
    let mut publisher = Raw::open(server.amqp[0], 0);
    publisher.declare_with("q", false, &[SINGLE]);
    let mut peers: Vec<Raw> = (0..3)
        .map(|_| {
            let mut peer = Raw::open(server.amqp[0], 0);
            peer.prefetch(1, 4, false);
            peer.consume_with(1, "q", "c", false, &[]);
            peer
        })
        .collect();
    fill(&mut publisher, "q", 0..6);
    assert_eq!(numbers(&mut peers[0], 4), fresh(0..4));
    assert_eq!(
        publisher.ready("q"),
        2,
        "nobody else gets what does not fit"
    );
    peers[0].ack(1, 1);
    assert_eq!(numbers(&mut peers[0], 1), fresh(4..5));
    // What it prefetched goes to the next one, before anything else, in order.
    drop(peers.remove(0));
    let taken_over = numbers(&mut peers[0], 4);
    let back = [(1, true), (2, true), (3, true), (4, true)];
    assert_eq!(
        taken_over,
        back.map(|(n, again): (u32, bool)| (n.to_string(), again))
    );
    // A cancelled one keeps what it has: that can still be settled.
    peers[0].cancel(1, "c");
    assert_eq!(numbers(&mut peers[1], 1), fresh(5..6));
    peers[0].requeue(1, 1);
    assert_eq!(numbers(&mut peers[1], 1), [("1".to_owned(), true)]);
}

#[actix_web::test]
async fn the_highest_priority_that_waits_is_active_next() {
    let server = Server::start().await;
    let mut publisher = Raw::open(server.amqp[0], 0);
    publisher.declare_with("q", false, &[SINGLE]);
    let mut peers: Vec<Raw> = [0, 1, 7, 7]
        .into_iter()
        .map(|priority| {
            let mut peer = Raw::open(server.amqp[0], 0);
            let arguments = [("x-priority", Value::I32(priority))];
            peer.consume_with(1, "q", "c", true, &arguments);
            peer
        })
        .collect();
    // A higher one does not push the active one aside.
    fill(&mut publisher, "q", 0..1);
    assert_eq!(numbers(&mut peers[0], 1), fresh(0..1));
    for (next, number) in [(2, 1), (3, 2), (1, 3)] {
        let active = [0, 2, 3][number as usize - 1];
        peers[active].cancel(1, "c");
        fill(&mut publisher, "q", number..number + 1);
        assert_eq!(numbers(&mut peers[next], 1), fresh(number..number + 1));
    }
}

#[actix_web::test]
async fn a_single_active_queue_takes_no_exclusive_consumer_and_no_other_argument_than_a_boolean() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare_with("q", false, &[SINGLE]);
    let exclusive = basic::Consume {
        exclusive: true,
        ..consume("q", "", false, Table::EMPTY)
    };
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use".to_owned();
    assert_eq!(
        peer.refused(1, &Method::BasicConsume(exclusive)),
        (403, text)
    );
    let arguments = table(&[("x-single-active-consumer", Value::from("a"))]);
    let method = Method::QueueDeclare(declare("other", false, arguments.as_table()));
    let text = "PRECONDITION_FAILED - invalid arg 'x-single-active-consumer' for queue 'other' in vhost '/': \
                {unacceptable_type,longstr}";
    assert_eq!(peer.refused(1, &method), (406, text.to_owned()));
}

#[actix_web::test]
async fn a_single_active_queue_is_one_after_a_crash_too() {
    let mut server = Server::start().await;
    let mut publisher = Raw::open(server.amqp[0], 0);
    publisher.declare_with("q", true, &[SINGLE]);
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let mut publisher = Raw::open(server.amqp[0], 0);
    let mut peers: Vec<Raw> = (0..2)
        .map(|_| {
            let mut peer = Raw::open(server.amqp[0], 0);
            peer.consume_with(1, "q", "c", true, &[]);
            peer
        })
        .collect();
    fill(&mut publisher, "q", 0..4);
    assert_eq!(numbers(&mut peers[0], 4), fresh(0..4));
    let delete = queue::Delete {
        queue: short("q"),
        ..queue::Delete::default()
    };
    publisher.method(1, &Method::QueueDelete(delete));
    publisher.expect("queue.delete-ok");
    for peer in &mut peers {
        peer.expect("basic.cancel");
    }
}

/// Methods as one piece of input.
fn frames(methods: &[(u16, Method<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (channel, method) in methods {
        method.write(*channel, &mut out);
    }
    out
}

#[actix_web::test]
async fn a_channel_that_closes_is_answered_behind_what_it_left_for_others() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    peer.open_channel(2);
    peer.consume_with(2, "q", "held", false, &[]);
    peer.publish_with(1, ("", "q", false), &plain(), b"held");
    assert_eq!(peer.message().channel, 2);
    peer.open_channel(3);
    peer.consume_with(3, "q", "other", true, &[]);
    // Published and closed, with something slow between, in one piece.
    let close = || Method::ChannelClose(channel::Close::default());
    let mut input = publish("q", b"published");
    let delete = exchange::Delete {
        exchange: short("none"),
        ..exchange::Delete::default()
    };
    input.extend(frames(&[(1, Method::ExchangeDelete(delete)), (1, close())]));
    peer.send(&input);
    peer.expect("exchange.delete-ok");
    let message = peer.message();
    assert_eq!((message.channel != 1, message.text()), (true, "published"));
    peer.expect("channel.close-ok");
    // What it held comes back for others.
    peer.send(&frames(&[(2, close())]));
    let mut left = 1 + u32::from(message.channel == 2);
    while left > 0 {
        let message = peer.message();
        assert_eq!((message.channel, message.redelivered), (3, true));
        left -= 1;
    }
    peer.expect("channel.close-ok");
    // Its number may be used again at once.
    let open = || Method::ChannelOpen(channel::Open {});
    peer.send(&frames(&[(1, open()), (1, close()), (1, open())]));
    for answer in ["channel.open-ok", "channel.close-ok", "channel.open-ok"] {
        peer.expect(answer);
    }
    let end = connection::Close {
        reply_code: 200,
        ..connection::Close::default()
    };
    peer.send(&frames(&[(1, close()), (0, Method::ConnectionClose(end))]));
    peer.expect("channel.close-ok");
    peer.expect("connection.close-ok");
}

fn nack(delivery_tag: u64, multiple: bool, requeue: bool) -> Method<'static> {
    Method::BasicNack(basic::Nack {
        delivery_tag,
        multiple,
        requeue,
    })
}

/// Gets one message of each of these queues, to be acknowledged.
fn hold(peer: &mut Raw, queues: &[&str]) -> Vec<String> {
    let held = queues.iter().map(|name| {
        let get = basic::Get {
            queue: short(name),
            no_ack: false,
        };
        peer.method(1, &Method::BasicGet(get));
        peer.message().text().to_owned()
    });
    held.collect()
}

#[actix_web::test]
async fn one_answer_settles_what_is_held_of_several_queues() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let grave = [
        ("x-dead-letter-exchange", Value::from("")),
        ("x-dead-letter-routing-key", Value::from("grave")),
    ];
    peer.declare("q");
    peer.declare_with("r", false, &grave);
    peer.declare("grave");
    fill(&mut peer, "q", 0..4);
    fill(&mut peer, "r", 10..13);
    let held = hold(&mut peer, &["q", "r", "q", "r", "q", "r", "q"]);
    assert_eq!(held, ["0", "10", "1", "11", "2", "12", "3"]);
    // What is settled already is passed over.
    peer.ack(1, 2);
    peer.method(1, &nack(4, true, false));
    assert_eq!(peer.take_all("grave"), ["11"]);
    peer.method(1, &nack(6, true, true));
    assert_eq!(peer.take_all("q"), ["2"]);
    assert_eq!(peer.take_all("r"), ["12"]);
    peer.ack(1, 7);
    peer.method(1, &nack(0, true, true));
    assert_eq!(peer.take_all("q"), Vec::<String>::new());
    let text = "PRECONDITION_FAILED - unknown delivery tag 7".to_owned();
    assert_eq!(peer.refused(1, &nack(7, true, true)), (406, text));
}

#[actix_web::test]
async fn an_unknown_tag_settles_nothing() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    for method in [
        nack(9, true, false),
        nack(0, false, false),
        Method::BasicAck(basic::Ack {
            delivery_tag: 9,
            multiple: true,
        }),
        Method::BasicReject(basic::Reject {
            delivery_tag: 9,
            requeue: false,
        }),
    ] {
        fill(&mut peer, "q", 0..2);
        assert_eq!(hold(&mut peer, &["q", "q"]), ["0", "1"]);
        assert_eq!(peer.refused(1, &method).0, 406);
        assert_eq!(peer.take_all("q"), ["0", "1"], "after {method:?}");
    }
}

#[actix_web::test]
async fn recovered_messages_of_several_consumers_come_again_in_their_order() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    fill(&mut peer, "q", 0..6);
    assert_eq!(hold(&mut peer, &["q"]), ["0"]);
    peer.prefetch(1, 2, false);
    for (tag, first) in [("a", 1), ("b", 3)] {
        peer.consume_with(1, "q", tag, false, &[]);
        assert_eq!(numbers(&mut peer, 2), fresh(first..first + 2));
    }
    for tag in ["a", "b"] {
        peer.cancel(1, tag);
    }
    // Cancelled consumers' messages are the channel's still.
    peer.method(1, &Method::BasicRecover(basic::Recover { requeue: true }));
    peer.expect("basic.recover-ok");
    assert_eq!(peer.take_all("q"), ["0", "1", "2", "3", "4", "5"]);
}

#[actix_web::test]
async fn a_changed_prefetch_counts_for_later_consumers_and_a_shared_one_at_once() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    peer.prefetch(1, 1, false);
    peer.consume_with(1, "q", "a", false, &[]);
    fill(&mut Raw::open(server.amqp[0], 0), "q", 0..9);
    assert_eq!(numbers(&mut peer, 1), fresh(0..1));
    peer.prefetch(1, 3, false);
    peer.consume_with(1, "q", "b", false, &[]);
    assert_eq!(numbers(&mut peer, 3), fresh(1..4));
    peer.ack(1, 1);
    assert_eq!(
        numbers(&mut peer, 1),
        fresh(4..5),
        "the first has room for one as ever"
    );
    // Four are out; a lower limit for all lets nothing come until it is kept.
    peer.prefetch(1, 2, true);
    for tag in [2, 3] {
        peer.ack(1, tag);
    }
    assert_eq!(peer.ready("q"), 4);
    peer.ack(1, 4);
    assert_eq!(numbers(&mut peer, 1), fresh(5..6));
    peer.prefetch(1, 0, true);
    let mut rest = numbers(&mut peer, 2);
    rest.sort();
    assert_eq!(rest, fresh(6..8));
}

#[actix_web::test]
async fn a_consumer_whose_queue_expires_or_goes_is_told_and_its_tag_is_free() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare_with("q", false, &[]);
    fill(&mut peer, "q", 0..2);
    peer.prefetch(1, 1, false);
    peer.consume_with(1, "q", "c", false, &[]);
    assert_eq!(numbers(&mut peer, 1), fresh(0..1));
    // A queue that is consumed does not expire, whatever a policy says.
    let policy = json!({"pattern": "^q$", "definition": {"expires": 50}, "apply-to": "queues"});
    let (status, told) = admin.put("/api/policies/%2F/short", policy).await;
    assert_eq!(status, 201, "{told}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(peer.ready("q"), 1);
    let delete = queue::Delete {
        queue: short("q"),
        ..queue::Delete::default()
    };
    let mut other = Raw::open(server.amqp[0], 0);
    other.ask(&Method::QueueDelete(delete), "queue.delete-ok");
    let payload = peer.expect("basic.cancel");
    let Method::BasicCancel(cancel) = Method::decode(&payload).unwrap() else {
        unreachable!("the name was checked");
    };
    assert_eq!(
        (cancel.consumer_tag.as_bytes(), cancel.no_wait),
        (&b"c"[..], true)
    );
    // What it held is gone; that it is settled means nothing, but is no error. Its cancel is none either.
    peer.requeue(1, 1);
    peer.cancel(1, "c");
    peer.declare("other");
    peer.consume_with(1, "other", "c", false, &[]);
    fill(&mut other, "other", 5..6);
    assert_eq!(numbers(&mut peer, 1), fresh(5..6));
    let tag = Method::BasicConsume(consume("other", "c", false, Table::EMPTY));
    peer.method(1, &tag);
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 'c'".to_owned();
    assert_eq!(peer.ended(), (530, text));
}

#[actix_web::test]
async fn a_cancelled_consumer_settles_what_it_has_and_auto_delete_takes_that_along() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let declare = queue::Declare {
        queue: short("q"),
        auto_delete: true,
        ..queue::Declare::default()
    };
    peer.ask(&Method::QueueDeclare(declare), "queue.declare-ok");
    peer.consume_with(1, "q", "a", false, &[]);
    peer.prefetch(1, 1, false);
    peer.consume_with(1, "q", "b", false, &[]);
    fill(&mut Raw::open(server.amqp[0], 0), "q", 0..3);
    let mut got = numbers(&mut peer, 3);
    got.sort();
    assert_eq!(got, fresh(0..3));
    peer.cancel(1, "a");
    assert_eq!(peer.ready("q"), 0, "it is there for the other one");
    peer.cancel(1, "b");
    let look = queue::Declare {
        queue: short("q"),
        passive: true,
        ..queue::Declare::default()
    };
    peer.method(1, &nack(0, true, true));
    let text = "NOT_FOUND - no queue 'q' in vhost '/'".to_owned();
    assert_eq!(peer.refused(1, &Method::QueueDeclare(look)), (404, text));
}
