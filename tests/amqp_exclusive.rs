//! Queues that live no longer than somebody who uses them.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::net::Shutdown;
use std::time::{Duration, Instant};

use backbone_wire::method::{Method, basic, channel, queue};
use common::Server;
use common::raw::{Raw, publish, short};

/// Declares and returns the name.
fn declare(peer: &mut Raw, options: queue::Declare<'_>) -> String {
    peer.method(1, &Method::QueueDeclare(options));
    let answer = peer.expect("queue.declare-ok");
    let Method::QueueDeclareOk(ok) = Method::decode(&answer).unwrap() else {
        unreachable!("the name was checked");
    };
    ok.queue.as_str().unwrap().to_owned()
}

/// Consumes and returns the consumer's tag.
fn consume(peer: &mut Raw, queue: &str) -> String {
    let consume = basic::Consume {
        queue: short(queue),
        no_ack: true,
        ..basic::Consume::default()
    };
    peer.method(1, &Method::BasicConsume(consume));
    let answer = peer.expect("basic.consume-ok");
    let Method::BasicConsumeOk(ok) = Method::decode(&answer).unwrap() else {
        unreachable!("the name was checked");
    };
    ok.consumer_tag.as_str().unwrap().to_owned()
}

/// The code with which a passive declare of `name` closes the channel; 0 if the queue is there.
fn look_for(server: &Server, name: &str) -> u16 {
    let mut peer = Raw::open(server.amqp[0], 0);
    let passive = queue::Declare {
        queue: short(name),
        passive: true,
        ..queue::Declare::default()
    };
    peer.method(1, &Method::QueueDeclare(passive));
    let (_, _, answer) = peer.frame().unwrap();
    match Method::decode(&answer).unwrap() {
        Method::ChannelClose(close) => close.reply_code,
        Method::QueueDeclareOk(_) => 0,
        other => panic!("{}", other.name()),
    }
}

/// Waits until the queue is gone.
async fn gone(server: &Server, name: &str) {
    let since = Instant::now();
    while look_for(server, name) != 404 {
        assert!(since.elapsed() < Duration::from_secs(5), "{name} is there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[actix_web::test]
async fn exclusive_queues_go_when_their_client_is_killed() {
    let server = Server::start().await;
    let mut owner = Raw::open(server.amqp[0], 0);
    let exclusive = queue::Declare {
        queue: short("mine"),
        exclusive: true,
        ..queue::Declare::default()
    };
    declare(&mut owner, exclusive);
    owner.consume("mine", false);
    owner.send(&publish("mine", b"held"));
    owner.delivery();
    assert_eq!(look_for(&server, "mine"), 405, "RESOURCE_LOCKED");
    // Half way in a frame, and without a word.
    owner.send(&publish("mine", &[0; 1000])[..500]);
    drop(owner);
    gone(&server, "mine").await;
    let mut next = Raw::open(server.amqp[0], 0);
    assert_eq!(declare(&mut next, exclusive), "mine");
}

#[actix_web::test]
async fn exclusive_queues_outlive_their_channel_and_go_with_an_error_of_the_connection() {
    let server = Server::start().await;
    let mut owner = Raw::open(server.amqp[0], 0);
    let exclusive = queue::Declare {
        queue: short("mine"),
        exclusive: true,
        ..queue::Declare::default()
    };
    declare(&mut owner, exclusive);
    owner.method(1, &Method::ChannelClose(channel::Close::default()));
    owner.expect("channel.close-ok");
    owner.method(1, &Method::ChannelOpen(channel::Open));
    owner.expect("channel.open-ok");
    assert_eq!(declare(&mut owner, exclusive), "mine");
    // An unknown type of frame.
    owner.send(&[9, 0, 0, 0, 0, 0, 0, 0xCE]);
    assert_eq!(owner.read_to_end(), Some(501));
    gone(&server, "mine").await;
}

#[actix_web::test]
async fn auto_delete_queues_go_with_their_last_consumer() {
    let server = Server::start().await;
    let auto_delete = queue::Declare {
        queue: short("shared"),
        auto_delete: true,
        ..queue::Declare::default()
    };
    let (mut first, mut second) = (Raw::open(server.amqp[0], 0), Raw::open(server.amqp[0], 0));
    declare(&mut first, auto_delete);
    assert_eq!(look_for(&server, "shared"), 0, "it never had a consumer");
    let tag = consume(&mut first, "shared");
    second.consume("shared", true);
    let cancel = basic::Cancel {
        consumer_tag: short(&tag),
        no_wait: false,
    };
    first.method(1, &Method::BasicCancel(cancel));
    first.expect("basic.cancel-ok");
    assert_eq!(look_for(&server, "shared"), 0, "one is left");
    second.stream.shutdown(Shutdown::Both).unwrap();
    gone(&server, "shared").await;
}

#[actix_web::test]
async fn queues_without_a_name_are_given_one_of_their_own() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let unnamed = queue::Declare {
        exclusive: true,
        ..queue::Declare::default()
    };
    let names = [declare(&mut peer, unnamed), declare(&mut peer, unnamed)];
    assert!(names.iter().all(|name| name.starts_with("amq.gen-")));
    assert_ne!(names[0], names[1]);
    for name in &names {
        peer.consume(name, true);
        peer.send(&publish(name, name.as_bytes()));
        assert_eq!(peer.delivery().1, name.as_bytes());
    }
    peer.stream.shutdown(Shutdown::Both).unwrap();
    for name in &names {
        gone(&server, name).await;
    }
}
