//! Dead letters: why there are some, where they go and what they say.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::sync::Arc;

use common::Server;
use common::queues::{Client, deaths, headers, history, int, text, text_of};
use lapin::BasicProperties;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};

fn entry(queue: &str, reason: &str, count: i64) -> (String, String, i64) {
    (queue.into(), reason.into(), count)
}

fn to(key: &str) -> [(&str, AMQPValue); 2] {
    [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(key)),
    ]
}

fn reject() -> BasicRejectOptions {
    BasicRejectOptions { requeue: false }
}

#[actix_web::test]
async fn a_rejected_message_says_what_became_of_it() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("dead", &[]).await;
    client.declare("q", &to("dead")).await;
    let mut copies = FieldArray::default();
    copies.push(text("copy"));
    let mut table = FieldTable::default();
    table.insert("CC".into(), AMQPValue::FieldArray(copies));
    table.insert("own".into(), AMQPValue::LongInt(7));
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_expiration("60000".into())
        .with_headers(table);
    client.publish_with("", "q", "body", properties).await;
    let message = client.get("q").await;
    message.reject(reject()).await.unwrap();
    let dead = client.get("dead").await;
    assert_eq!(dead.data, b"body");
    assert_eq!(
        (dead.exchange.as_str(), dead.routing_key.as_str()),
        ("", "dead")
    );
    assert_eq!(
        (dead.redelivered, dead.properties.delivery_mode()),
        (false, &Some(2))
    );
    assert_eq!(dead.properties.expiration(), &None);
    let said = headers(&dead);
    let has = |name: &str| said.inner().get(&ShortString::from(name)).cloned();
    assert_eq!((has("own"), has("CC")), (Some(AMQPValue::LongInt(7)), None));
    for (name, value) in [
        ("x-first-death-reason", "rejected"),
        ("x-first-death-queue", "q"),
        ("x-first-death-exchange", ""),
        ("x-last-death-reason", "rejected"),
        ("x-last-death-queue", "q"),
    ] {
        assert_eq!(text_of(&said, name), value, "{name}");
    }
    assert_eq!(history(&dead), [entry("q", "rejected", 1)]);
    let death = &deaths(&dead)[0];
    assert_eq!(text_of(death, "exchange"), "");
    assert_eq!(text_of(death, "original-expiration"), "60000");
    let get = |name: &str| death.inner().get(&ShortString::from(name)).cloned();
    assert!(matches!(get("time"), Some(AMQPValue::Timestamp(time)) if time > 1_700_000_000));
    let mut keys = FieldArray::default();
    keys.push(text("q"));
    keys.push(text("copy"));
    assert_eq!(get("routing-keys"), Some(AMQPValue::FieldArray(keys)));
}

#[actix_web::test]
async fn without_a_key_of_the_queue_the_message_keeps_its_own_and_those_of_its_copies() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    for queue in ["key", "copy"] {
        client.declare(queue, &[]).await;
    }
    let arguments = [("x-dead-letter-exchange", text("amq.direct"))];
    client.declare("q", &arguments).await;
    let channel = &client.channel;
    for (queue, exchange, key) in [
        ("q", "amq.fanout", ""),
        ("key", "amq.direct", "key"),
        ("copy", "amq.direct", "copy"),
    ] {
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            options,
            FieldTable::default(),
        );
        bound.await.unwrap();
    }
    let mut copies = FieldArray::default();
    copies.push(text("copy"));
    let mut table = FieldTable::default();
    table.insert("CC".into(), AMQPValue::FieldArray(copies));
    let properties = BasicProperties::default().with_headers(table);
    client
        .publish_with("amq.fanout", "key", "m", properties)
        .await;
    let options = BasicNackOptions {
        multiple: true,
        requeue: false,
    };
    client.get("q").await.nack(options).await.unwrap();
    for queue in ["key", "copy"] {
        let dead = client.get(queue).await;
        assert_eq!(
            (dead.exchange.as_str(), dead.routing_key.as_str()),
            ("amq.direct", "key")
        );
        assert!(
            headers(&dead)
                .inner()
                .contains_key(&ShortString::from("CC"))
        );
        assert_eq!(text_of(&deaths(&dead)[0], "exchange"), "amq.fanout");
    }
}

#[actix_web::test]
async fn a_message_that_goes_round_by_rejects_is_counted_each_time() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    client.declare("work", &to("wait")).await;
    let [exchange, key] = to("work");
    client
        .declare("wait", &[("x-message-ttl", int(20)), exchange, key])
        .await;
    client.publish("work", "m").await;
    for round in 0..3 {
        let message = client.get("work").await;
        if round > 0 {
            let expected = [
                entry("wait", "expired", round),
                entry("work", "rejected", round),
            ];
            assert_eq!(history(&message), expected);
            assert_eq!(text_of(&headers(&message), "x-first-death-queue"), "work");
        }
        message.reject(reject()).await.unwrap();
    }
}

#[actix_web::test]
async fn a_circle_without_a_reject_ends_and_is_counted() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    for (name, other) in [("a", "b"), ("b", "a")] {
        let [exchange, key] = to(other);
        client
            .declare(name, &[("x-message-ttl", int(10)), exchange, key])
            .await;
    }
    client.publish("a", "m").await;
    let since = std::time::Instant::now();
    loop {
        let request = reqwest::Client::new().get(server.url("/metrics"));
        let request = request.basic_auth("admin", Some(common::ADMIN_SECRET));
        let metrics = request.send().await.unwrap().text().await.unwrap();
        if metrics.contains("backbone_global_messages_dead_letter_circles_total 1") {
            break;
        }
        assert!(
            since.elapsed().as_secs() < 20,
            "the circle does not end: {metrics}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(
        (client.ready("a").await, client.ready("b").await),
        (Some(0), Some(0))
    );
}

#[actix_web::test]
async fn dead_letters_between_durable_queues_are_there_once_after_a_crash() {
    let directory = common::directory_on_disk();
    let mut server = Server::on(Arc::clone(&directory), &[]).await;
    let client = Client::connect(&server).await;
    client.declare("dead", &[]).await;
    client.declare("rejected", &to("dead")).await;
    let [exchange, key] = to("dead");
    let short = [("x-message-ttl", int(50)), exchange.clone(), key.clone()];
    client.declare("expired", &short).await;
    client
        .declare("full", &[("x-max-length", int(1)), exchange, key])
        .await;
    for queue in ["rejected", "expired", "full", "full"] {
        client.publish(queue, queue).await;
    }
    let message = client.get("rejected").await;
    message.reject(reject()).await.unwrap();
    client.until_ready("dead", 3).await;
    // Whatever is confirmed later is behind them in the log.
    client.publish("rejected", "last").await;
    server.kill();
    let server = Server::on(directory, &[]).await;
    let client = Client::connect(&server).await;
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let dead = client.get("dead").await;
        reasons.push(history(&dead).remove(0));
        dead.ack(BasicAckOptions::default()).await.unwrap();
    }
    reasons.sort();
    let expected = [
        entry("expired", "expired", 1),
        entry("full", "maxlen", 1),
        entry("rejected", "rejected", 1),
    ];
    assert_eq!(reasons, expected);
    assert_eq!(client.ready("dead").await, Some(0));
    assert_eq!(client.ready("expired").await, Some(0));
    assert_eq!(client.drain("full").await, ["full"]);
    assert_eq!(client.drain("rejected").await, ["last"]);
}

#[actix_web::test]
async fn a_quorum_queue_counts_deliveries_through_a_crash_and_gives_up_after_its_limit() {
    let directory = common::directory_on_disk();
    let mut server = Server::on(Arc::clone(&directory), &[]).await;
    let client = Client::connect(&server).await;
    client.declare("dead", &[]).await;
    let [exchange, key] = to("dead");
    let limited = [
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", int(2)),
        exchange,
        key,
    ];
    client.declare("q", &limited).await;
    client.publish("q", "m").await;
    let count = |message: &lapin::message::BasicGetMessage| {
        headers(message)
            .inner()
            .get(&ShortString::from("x-delivery-count"))
            .cloned()
    };
    let requeue = BasicRejectOptions { requeue: true };
    let message = client.get("q").await;
    let none = Some(AMQPValue::LongLongInt(0));
    assert_eq!((message.redelivered, count(&message)), (false, none));
    message.reject(requeue).await.unwrap();
    // Whatever is confirmed later is behind it in the log.
    client.publish("dead", "other").await;
    client.drain("dead").await;
    client.publish("dead", "other").await;
    server.kill();
    let server = Server::on(directory, &[]).await;
    let client = Client::connect(&server).await;
    assert_eq!(client.drain("dead").await, ["other"]);
    for expected in 1..3 {
        let message = client.get("q").await;
        let expected = Some(AMQPValue::LongLongInt(expected));
        assert_eq!((message.redelivered, count(&message)), (true, expected));
        message.reject(requeue).await.unwrap();
    }
    let dead = client.get("dead").await;
    assert_eq!(history(&dead), [entry("q", "delivery_limit", 1)]);
    assert_eq!(client.ready("q").await, Some(0));
}
