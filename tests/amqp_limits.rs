//! Limits of length and time that queues are declared with, and how declares go wrong.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use common::Server;
use common::queues::{Client, history, int, text};
use futures_lite::StreamExt;
use lapin::BasicProperties;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};

/// Longer than a queue here may be unused.
const REST: Duration = Duration::from_millis(600);

#[actix_web::test]
async fn bad_arguments_are_refused_in_the_words_of_rabbitmq() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    let ended = "invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}";
    let cases: [(&[(&str, AMQPValue)], &str); 7] = [
        (&[("x-message-ttl", int(-1))], ended),
        (
            &[("x-expires", int(0))],
            "invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}",
        ),
        (
            &[("x-max-length", text("a"))],
            "invalid arg 'x-max-length' for queue 'q' in vhost '/': \"expected integer, got longstr\"",
        ),
        (
            &[("x-overflow", text("foo"))],
            "invalid arg 'x-overflow' for queue 'q' in vhost '/': invalid_overflow",
        ),
        (
            &[("x-dead-letter-exchange", int(3))],
            "invalid type 'long' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'",
        ),
        (
            &[("x-delivery-limit", int(3))],
            "invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type rabbit_classic_queue",
        ),
        (
            &[("x-queue-type", text("quorum")), ("x-max-priority", int(3))],
            "invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
        ),
    ];
    for (arguments, expected) in cases {
        let error = client.try_declare("q", arguments).await.unwrap_err();
        let expected = format!("PRECONDITION_FAILED - {expected}");
        assert!(error.contains(&expected), "{error}, not {expected}");
    }
    let good = [
        ("x-message-ttl", int(315_360_000_000)),
        ("x-unknown", text("?")),
    ];
    client.declare("q", &good).await;
    client
        .declare("typed", &[("x-queue-type", text("classic"))])
        .await;
    client
        .declare("typed", &[("x-delivery-limit", int(1))])
        .await;
}

#[actix_web::test]
async fn the_oldest_messages_make_room() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("q", &[("x-max-length", int(2))]).await;
    for body in ["a", "b", "c"] {
        assert!(
            client.publish("q", body).await,
            "it is confirmed all the same"
        );
    }
    assert_eq!(client.ready("q").await, Some(2));
    assert_eq!(client.drain("q").await, ["b", "c"]);
}

#[actix_web::test]
async fn what_a_full_queue_refuses_is_nacked_and_the_rest_acked() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("dead", &[]).await;
    let limits = [
        ("x-max-length", int(2)),
        ("x-overflow", text("reject-publish-dlx")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    client.declare("q", &limits).await;
    // All at once, so that acks and nacks are told together.
    let publish = |key: &'static str| {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        client
            .channel
            .basic_publish("".into(), key.into(), options, b"m", properties)
    };
    let mut confirms = Vec::new();
    for key in ["q", "q", "q", "dead", "q", "dead"] {
        confirms.push(publish(key).await.unwrap());
    }
    let mut acked = Vec::new();
    for confirm in confirms {
        acked.push(matches!(
            confirm.await.unwrap(),
            lapin::Confirmation::Ack(_)
        ));
    }
    assert_eq!(acked, [true, true, false, true, false, true]);
    client.until_ready("dead", 4).await;
    assert_eq!(client.ready("q").await, Some(2));
}

#[actix_web::test]
async fn messages_expire_by_their_own_time_and_by_the_queues() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("dead", &[]).await;
    client
        .declare("own", &[("x-dead-letter-exchange", text("amq.fanout"))])
        .await;
    client
        .declare(
            "queue",
            &[
                ("x-message-ttl", int(50)),
                ("x-dead-letter-exchange", text("amq.fanout")),
            ],
        )
        .await;
    let bound = client.channel.queue_bind(
        "dead".into(),
        "amq.fanout".into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    client.publish("own", "stays").await;
    let properties = BasicProperties::default().with_expiration("50".into());
    client.publish_with("", "own", "goes", properties).await;
    client.publish("queue", "goes").await;
    for _ in 0..2 {
        let dead = client.get("dead").await;
        assert_eq!(
            (&dead.data[..], history(&dead)[0].1.as_str()),
            (&b"goes"[..], "expired")
        );
        dead.ack(BasicAckOptions::default()).await.unwrap();
    }
    assert_eq!(
        (client.ready("own").await, client.ready("queue").await),
        (Some(1), Some(0))
    );
    let properties = BasicProperties::default().with_expiration("soon".into());
    let options = BasicPublishOptions::default();
    let channel = client.connection.create_channel().await.unwrap();
    let confirm = channel.basic_publish("".into(), "own".into(), options, b"", properties);
    drop(confirm.await);
    let closed = channel.queue_purge("own".into(), QueuePurgeOptions::default());
    let error = closed.await.unwrap_err().to_string();
    let status = channel.status();
    assert!(
        !status.connected() || error.contains("expiration"),
        "{error}"
    );
}

#[actix_web::test]
async fn a_time_of_zero_is_for_those_who_wait() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("q", &[("x-message-ttl", int(0))]).await;
    client.publish("q", "nobody waits").await;
    client.until_ready("q", 0).await;
    let consumed = client.channel.basic_consume(
        "q".into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consumed.await.unwrap();
    client.publish("q", "now").await;
    let delivery = consumer.next().await.unwrap().unwrap();
    assert_eq!(delivery.data, b"now");
}

#[actix_web::test]
async fn times_go_on_through_a_crash() {
    let directory = common::directory_on_disk();
    let mut server = Server::on(Arc::clone(&directory), &[]).await;
    let client = Client::connect(&server).await;
    client.declare("dead", &[]).await;
    let dead = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    client.declare("own", &dead).await;
    let [exchange, key] = dead;
    client
        .declare("queue", &[("x-message-ttl", int(400)), exchange, key])
        .await;
    client.declare("unused", &[("x-expires", int(400))]).await;
    client.publish("queue", "queue").await;
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_expiration("400".into());
    client.publish_with("", "own", "own", properties).await;
    client.publish("own", "stays").await;
    server.kill();
    let server = Server::on(directory, &[]).await;
    let client = Client::connect(&server).await;
    client.until_ready("dead", 2).await;
    client.until_gone("unused", REST).await;
    client.until_ready("own", 1).await;
    assert_eq!(client.ready("queue").await, Some(0));
    let mut bodies = client.drain("dead").await;
    bodies.sort();
    assert_eq!(bodies, ["own", "queue"]);
}

#[actix_web::test]
async fn an_unused_queue_goes_and_its_consumer_keeps_it() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("used", &[("x-expires", int(100))]).await;
    client.declare("unused", &[("x-expires", int(100))]).await;
    let consumed = client.channel.basic_consume(
        "used".into(),
        "tag".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let _consumer = consumed.await.unwrap();
    client.until_gone("unused", REST).await;
    client.declare("other", &[("x-expires", int(200))]).await;
    client.until_gone("other", REST).await;
    assert_eq!(client.ready("used").await, Some(0));
    client
        .channel
        .basic_cancel("tag".into(), BasicCancelOptions::default())
        .await
        .unwrap();
    client.until_gone("used", REST).await;
}

#[actix_web::test]
async fn after_a_restart_messages_say_whether_they_may_have_been_delivered_before() {
    let directory = common::directory_on_disk();
    let mut server = Server::on(Arc::clone(&directory), &[]).await;
    let client = Client::connect(&server).await;
    client.declare("q", &[]).await;
    for body in ["a", "b", "c"] {
        client.publish("q", body).await;
    }
    client.get("q").await;
    drop(client);
    assert!(server.terminate().await.success());
    let mut server = Server::on(Arc::clone(&directory), &[]).await;
    let client = Client::connect(&server).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let message = client.get("q").await;
        seen.push(message.redelivered);
    }
    assert_eq!(seen, [true, false, false], "after an orderly end");
    server.kill();
    let server = Server::on(directory, &[]).await;
    let client = Client::connect(&server).await;
    for _ in 0..3 {
        assert!(client.get("q").await.redelivered, "after a crash");
    }
}
