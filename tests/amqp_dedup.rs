//! Deduplication: queues and exchanges that drop what came before, over SIGKILL too.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use common::admin::Admin;
use common::queues::{Client, int, table, text};
use common::{Server, directory_on_disk};
use lapin::options::*;
use lapin::types::AMQPValue;
use lapin::{BasicProperties, ExchangeKind};
use serde_json::{Value, json};

const YES: (&str, AMQPValue) = ("x-message-deduplication", AMQPValue::Boolean(true));

fn keyed(headers: &[(&str, AMQPValue)]) -> BasicProperties {
    let properties = BasicProperties::default().with_delivery_mode(2);
    properties.with_headers(table(headers))
}

/// Publishes a persistent message with a key; it has to be confirmed.
async fn publish(client: &Client, exchange: &str, key: &str, body: &str, id: &str) {
    let properties = keyed(&[("x-deduplication-header", text(id))]);
    assert!(client.publish_with(exchange, key, body, properties).await);
}

async fn exchange(client: &Client, name: &str, kind: &str, arguments: &[(&str, AMQPValue)]) {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let kind = ExchangeKind::Custom(kind.to_owned());
    let channel = &client.channel;
    let declared = channel.exchange_declare(name.into(), kind, options, table(arguments));
    declared.await.unwrap();
}

async fn bind(client: &Client, queue: &str, exchange: &str, key: &str) {
    let options = QueueBindOptions::default();
    let (channel, none) = (&client.channel, Default::default());
    let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, none);
    bound.await.unwrap();
}

async fn dropped(admin: &Admin, path: &str) -> Value {
    let (status, shown) = admin.get(path).await;
    assert_eq!(status, 200, "{shown}");
    shown["message_stats"]["dedup"].clone()
}

#[actix_web::test]
async fn a_queue_takes_no_repeat_of_what_it_holds_also_after_a_sigkill() {
    let data_dir = directory_on_disk();
    let mut server = Server::on(data_dir.clone(), &[]).await;
    let client = Client::connect(&server).await;
    client.declare("q", &[YES]).await;
    client
        .declare("written", &[YES, ("x-durability", text("written"))])
        .await;
    for queue in ["q", "written"] {
        for id in ["a", "b", "a"] {
            publish(&client, "", queue, id, id).await;
        }
        assert_eq!(client.ready(queue).await, Some(2));
    }
    server.kill();

    let server = Server::on(data_dir, &[]).await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    for queue in ["q", "written"] {
        for id in ["a", "b", "c"] {
            // Confirmed, whether it is new or not.
            publish(&client, "", queue, id, id).await;
        }
        let path = format!("/api/queues/%2F/{queue}");
        assert_eq!(dropped(&admin, &path).await, 2);
        assert_eq!(client.drain(queue).await, ["a", "b", "c"]);
        // What is acknowledged is remembered still.
        publish(&client, "", queue, "again", "a").await;
        assert_eq!(client.ready(queue).await, Some(0));
    }
}

#[actix_web::test]
async fn an_exchange_drops_repeats_before_they_are_routed_and_they_count_as_taken() {
    let server = Server::start().await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    exchange(&client, "others", "fanout", &[]).await;
    let arguments = [YES, ("alternate-exchange", text("others"))];
    exchange(&client, "x", "topic", &arguments).await;
    for queue in ["one", "two", "other"] {
        client.declare(queue, &[]).await;
    }
    bind(&client, "one", "x", "a.*").await;
    bind(&client, "two", "x", "#.b").await;
    bind(&client, "other", "others", "").await;
    for body in ["1", "2"] {
        publish(&client, "x", "a.b", body, "k").await;
    }
    assert!(client.publish_with("x", "a.b", "without", keyed(&[])).await);
    for queue in ["one", "two"] {
        assert_eq!(client.drain(queue).await, ["1", "without"], "{queue}");
    }
    // With CC it is one message, too; what the alternate exchange takes is taken.
    let copies = |id: &str| {
        let keys = vec![text("a.b")];
        let cc = AMQPValue::FieldArray(keys.into());
        keyed(&[("x-deduplication-header", text(id)), ("CC", cc)])
    };
    for body in ["3", "4"] {
        assert!(client.publish_with("x", "a.c", body, copies("cc")).await);
        publish(&client, "x", "c", body, "elsewhere").await;
    }
    assert_eq!(client.drain("one").await, ["3"]);
    assert_eq!(client.drain("two").await, ["3"]);
    assert_eq!(client.drain("other").await, ["3"]);
    assert_eq!(dropped(&admin, "/api/exchanges/%2F/x").await, 3);
    let metrics = admin.text("/metrics").await;
    for line in [
        "backbone_global_messages_deduplicated_total 3",
        "backbone_deduplication_keys 3",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}");
    }
    let (_, shown) = admin.get("/api/exchanges/%2F/others").await;
    assert!(shown.get("message_stats").is_none(), "{shown}");
    let published = json!({
        "properties": {"headers": {"x-deduplication-header": "k"}},
        "routing_key": "a.b", "payload": "x", "payload_encoding": "string",
    });
    let (status, told) = admin.post("/api/exchanges/%2F/x/publish", published).await;
    assert_eq!((status, told), (200, json!({"routed": true})));
    assert_eq!(client.ready("one").await, Some(0));
}

#[actix_web::test]
async fn a_delayed_exchange_drops_repeats_of_what_waits_and_delivers_it_once() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    let arguments = [YES, ("x-delayed-type", text("fanout"))];
    exchange(&client, "late", "x-delayed-message", &arguments).await;
    client.declare("q", &[YES]).await;
    bind(&client, "q", "late", "").await;
    for body in ["first", "second"] {
        let id = ("x-deduplication-header", text("k"));
        let properties = keyed(&[id, ("x-delay", int(300))]);
        assert!(client.publish_with("late", "", body, properties).await);
    }
    client.until_ready("q", 1).await;
    assert_eq!(client.drain("q").await, ["first"]);
}

#[actix_web::test]
async fn what_a_full_queue_refuses_may_come_again() {
    let server = Server::start().await;
    let client = Client::connect(&server).await;
    let full = [
        ("x-max-length", int(1)),
        ("x-overflow", text("reject-publish")),
    ];
    exchange(
        &client,
        "x",
        "x-message-deduplication",
        &[("x-cache-size", int(10))],
    )
    .await;
    client
        .declare("q", &[full[0].clone(), full[1].clone(), YES])
        .await;
    bind(&client, "q", "x", "").await;
    publish(&client, "x", "", "1", "1").await;
    for exchange in ["x", ""] {
        let properties = keyed(&[("x-deduplication-header", text("2"))]);
        let taken = client.publish_with(exchange, "q", "2", properties).await;
        assert!(!taken, "there is no room");
    }
    assert_eq!(client.drain("q").await, ["1"]);
    publish(&client, "x", "", "2", "2").await;
    assert_eq!(client.drain("q").await, ["2"]);
}
