//! Scheduled delivery: exchanges that let messages wait. And deliveries that are not acknowledged in time.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::queues::{Client, headers, int, table, text};
use common::{Server, directory_on_disk};
use futures_lite::StreamExt;
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Consumer, ExchangeKind};

const PATIENCE: Duration = Duration::from_secs(30);

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.unwrap().as_millis() as u64
}

async fn declare_delayed(client: &Client, name: &str, arguments: &[(&str, AMQPValue)]) -> String {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let kind = ExchangeKind::Custom("x-delayed-message".into());
    let channel = client.connection.create_channel().await.unwrap();
    let declared = channel.exchange_declare(name.into(), kind, options, table(arguments));
    declared
        .await
        .err()
        .map_or(String::new(), |error| error.to_string())
}

async fn bind(client: &Client, queue: &str, exchange: &str) {
    client.declare(queue, &[]).await;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bound =
        client
            .channel
            .queue_bind(queue.into(), exchange.into(), queue.into(), options, none);
    bound.await.unwrap();
}

fn delayed(name: &str, value: i64) -> BasicProperties {
    let headers = table(&[(name, int(value))]);
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(headers)
}

fn header(message: &BasicGetMessage, name: &str) -> Option<AMQPValue> {
    headers(message)
        .inner()
        .get(&ShortString::from(name))
        .cloned()
}

#[actix_web::test]
async fn what_waits_comes_in_the_order_of_its_times_and_not_before_them() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    let kind = ("x-delayed-type", text("direct"));
    assert_eq!(declare_delayed(&client, "late", &[kind]).await, "");
    bind(&client, "q", "late").await;
    let begin = now_ms();
    for (body, ms) in [("b", 400), ("a", 200)] {
        client
            .publish_with("late", "q", body, delayed("x-delay", ms))
            .await;
    }
    let at = begin as i64 + 300;
    client
        .publish_with("late", "q", "at", delayed("x-deliver-at", at))
        .await;
    for (body, ms) in [("a", 200), ("at", 300), ("b", 400)] {
        let message = client.get("q").await;
        assert_eq!(message.data, body.as_bytes());
        assert!(now_ms() >= begin + ms, "{body} is early");
        let expected = match body {
            "at" => None,
            _ => Some(AMQPValue::LongInt(-(ms as i32))),
        };
        assert_eq!(header(&message, "x-delay"), expected);
        assert_eq!(header(&message, "x-death"), None);
    }
}

#[actix_web::test]
async fn a_kill_loses_none_of_what_waits_and_changes_no_time() {
    let data = directory_on_disk();
    let mut server = Server::on(data.clone(), &[]).await;
    let client = Client::connect(&server).await;
    let kind = ("x-delayed-type", text("fanout"));
    assert_eq!(declare_delayed(&client, "late", &[kind]).await, "");
    bind(&client, "q", "late").await;
    let begin = now_ms();
    for (body, ms) in [("later", 4000), ("soon", 50), ("never yet", 3_600_000)] {
        assert!(
            client
                .publish_with("late", "q", body, delayed("x-delay", ms))
                .await
        );
    }
    server.kill();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let server = Server::on(data, &[]).await;
    let client = Client::connect(&server).await;
    assert_eq!(client.get("q").await.data, b"soon");
    let later = client.get("q").await;
    assert_eq!(later.data, b"later");
    assert!(now_ms() >= begin + 4000);
    assert!(client.try_get("q").await.is_none());
    let request = reqwest::Client::new().get(server.url("/metrics"));
    let request = request.basic_auth("admin", Some(common::ADMIN_SECRET));
    let metrics = request.send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("\nbackbone_exchange_messages_delayed 1\n"),
        "{metrics}"
    );
}

#[actix_web::test]
async fn a_declare_without_a_type_to_route_by_is_refused() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    let wrong = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
    let said = declare_delayed(&client, "late", &[]).await;
    assert!(
        said.contains("PRECONDITION_FAILED") && said.contains(wrong),
        "{said}"
    );
}

async fn consume(client: &Client, queue: &str, prefetch: u16) -> Consumer {
    let options = BasicQosOptions::default();
    client.channel.basic_qos(prefetch, options).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = client
        .channel
        .basic_consume(queue.into(), "".into(), options, none);
    consumer.await.unwrap()
}

async fn next(consumer: &mut Consumer) -> Result<Delivery, String> {
    let next = tokio::time::timeout(PATIENCE, consumer.next());
    let next = next
        .await
        .expect("nothing comes")
        .expect("the channel is closed");
    next.map_err(|error| error.to_string())
}

#[actix_web::test]
async fn what_is_not_acknowledged_in_time_goes_to_another_and_the_channel_stays() {
    let server = Server::start().await;
    let (slow, other) = (
        Client::connect(&server).await,
        Client::connect(&server).await,
    );
    slow.declare("q", &[("x-consumer-timeout", int(300))]).await;
    let mut first = consume(&slow, "q", 1).await;
    slow.publish("q", "m").await;
    let held = next(&mut first).await.unwrap();
    let mut second = consume(&other, "q", 1).await;
    let again = next(&mut second).await.unwrap();
    assert_eq!((&*again.data, again.redelivered), (&b"m"[..], true));
    again.ack(BasicAckOptions::default()).await.unwrap();
    // Too late; and the place is free again.
    held.ack(BasicAckOptions::default()).await.unwrap();
    drop(second);
    other.connection.close(200, "bye".into()).await.unwrap();
    slow.publish("q", "next").await;
    assert_eq!(next(&mut first).await.unwrap().data, b"next");
}

#[actix_web::test]
async fn a_policy_sets_the_time_and_the_channel_is_closed_if_configured_so() {
    let closes = ("BACKBONE_AMQP__CONSUMER_TIMEOUT_CLOSES_CHANNEL", "true");
    let default = ("BACKBONE_LIMITS__CONSUMER_TIMEOUT_MS", "200");
    let server = Server::with(&[closes, default]).await;
    let client = Client::connect(&server).await;
    client.declare("q", &[]).await;
    let mut consumer = consume(&client, "q", 0).await;
    client.publish("q", "m").await;
    next(&mut consumer).await.unwrap();
    let error = match tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .unwrap()
    {
        Some(Err(error)) => error.to_string(),
        // The consumer ended with its channel: an operation on that says why.
        _ => String::new(),
    };
    let text = "delivery acknowledgement on channel 1 timed out. Timeout value used: 200 ms. This timeout value can be configured";
    assert!(error.is_empty() || error.contains(text), "{error}");
    assert!(!client.channel.status().connected());
    let again = Client::connect(&server).await;
    assert!(again.get("q").await.redelivered);
}
