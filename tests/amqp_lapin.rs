//! lapin, unmodified, against the real server.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::Duration;

use common::Server;
use futures_lite::StreamExt;
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(server: &Server) -> Connection {
    let uri = format!("amqp://guest:guest@{}/%2f", server.amqp[0]);
    Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap()
}

async fn queue(channel: &Channel, name: &str) {
    let options = QueueDeclareOptions::default();
    channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await
        .unwrap();
}

async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
) -> impl Future<Output = lapin::Result<Confirmation>> + use<> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    channel
        .basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
        .unwrap()
}

async fn consume(channel: &Channel, queue: &str, options: BasicConsumeOptions) -> lapin::Consumer {
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .unwrap()
}

async fn next(consumer: &mut lapin::Consumer) -> lapin::message::Delivery {
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await;
    delivery.expect("a delivery in time").unwrap().unwrap()
}

#[actix_web::test]
async fn ten_thousand_confirmed_messages_arrive_once_and_in_order() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let (sending, receiving) = (
        connection.create_channel().await.unwrap(),
        connection.create_channel().await.unwrap(),
    );
    queue(&sending, "q").await;
    sending
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    receiving
        .basic_qos(100, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = consume(&receiving, "q", BasicConsumeOptions::default()).await;
    let sender = async {
        let mut confirms = Vec::new();
        for number in 0..10_000u32 {
            confirms.push(publish(&sending, "q", &number.to_be_bytes()).await);
        }
        for confirm in confirms {
            assert!(matches!(confirm.await.unwrap(), Confirmation::Ack(None)));
        }
    };
    let receiver = async {
        for number in 0..10_000u32 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.data, number.to_be_bytes());
            assert!(!delivery.redelivered);
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
    };
    futures_lite::future::zip(sender, receiver).await;
    let left = receiving
        .basic_get("q".into(), BasicGetOptions::default())
        .await
        .unwrap();
    assert!(left.is_none());
}

#[actix_web::test]
async fn the_bus_keeps_its_exchanges_and_answers_to_its_aliases() {
    let server = Server::start().await;
    let registered = reqwest::Client::new()
        .post(server.url("/clients"))
        .basic_auth("guest", Some("guest"))
        .body("{\"client_id\":\"a\"}");
    assert_eq!(registered.send().await.unwrap().status(), 201);
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    let (options, none) = (QueueDeclareOptions::default(), FieldTable::default());
    let declared = channel.queue_declare("a-broadcast".into(), options, none);
    assert_eq!(declared.await.unwrap().name().as_str(), "a-broadcast");
    // Not durable: it gets the durable one.
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    let declared =
        channel.exchange_declare("soar-publish".into(), ExchangeKind::Topic, options, none);
    declared.await.unwrap();
    let deleted = channel.exchange_delete("soar-publish".into(), ExchangeDeleteOptions::default());
    let refused = deleted.await.unwrap_err().to_string();
    assert!(refused.contains("ACCESS_REFUSED"), "{refused}");
}

#[actix_web::test]
async fn what_is_given_back_comes_again_in_its_place() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "q").await;
    for body in [b"a", b"b", b"c"] {
        drop(publish(&channel, "q", body).await);
    }
    let mut consumer = consume(&channel, "q", BasicConsumeOptions::default()).await;
    let (a, b, c) = (
        next(&mut consumer).await,
        next(&mut consumer).await,
        next(&mut consumer).await,
    );
    let again = BasicNackOptions {
        requeue: true,
        ..Default::default()
    };
    b.nack(again).await.unwrap();
    let back = next(&mut consumer).await;
    assert_eq!((back.data.as_slice(), back.redelivered), (&b"b"[..], true));
    a.reject(BasicRejectOptions { requeue: false })
        .await
        .unwrap();
    back.ack(BasicAckOptions::default()).await.unwrap();
    let other = connect(&server).await;
    let getting = other.create_channel().await.unwrap();
    let none = getting
        .basic_get("q".into(), BasicGetOptions::default())
        .await
        .unwrap();
    assert!(none.is_none(), "c is still held");
    channel.close(200, "done".into()).await.unwrap();
    drop(c);
    let got = getting
        .basic_get("q".into(), BasicGetOptions::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (got.delivery.data.as_slice(), got.delivery.redelivered),
        (&b"c"[..], true)
    );
}

#[actix_web::test]
async fn unroutable_mandatory_messages_are_returned_before_their_confirm() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let confirm = channel
        .basic_publish(
            "".into(),
            "nowhere".into(),
            options,
            b"x",
            BasicProperties::default(),
        )
        .await
        .unwrap()
        .await
        .unwrap();
    let Confirmation::Ack(Some(returned)) = confirm else {
        panic!("no return came: {confirm:?}");
    };
    assert_eq!(returned.reply_code, 312);
    assert_eq!(returned.delivery.data, b"x");
}

#[actix_web::test]
async fn a_topic_reaches_the_queues_whose_patterns_match() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    let declare = ExchangeDeclareOptions {
        auto_delete: true,
        ..Default::default()
    };
    channel
        .exchange_declare(
            "t".into(),
            ExchangeKind::Topic,
            declare,
            FieldTable::default(),
        )
        .await
        .unwrap();
    for (name, pattern) in [("all", "#"), ("one", "a.*"), ("none", "b.#")] {
        queue(&channel, name).await;
        channel
            .queue_bind(
                name.into(),
                "t".into(),
                pattern.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
    }
    let body = vec![7; 5 * 1024 * 1024];
    channel
        .basic_publish(
            "t".into(),
            "a.b".into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default(),
        )
        .await
        .unwrap();
    for (name, expected) in [("all", true), ("one", true), ("none", false)] {
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get(name.into(), options).await.unwrap();
        assert_eq!(
            got.is_some_and(|m| m.delivery.data == body),
            expected,
            "{name}"
        );
    }
}

#[actix_web::test]
async fn a_hundred_channels_work_side_by_side() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let mut channels = Vec::new();
    for number in 0..100 {
        let channel = connection.create_channel().await.unwrap();
        let name = format!("q{number}");
        queue(&channel, &name).await;
        channels.push((channel, name));
    }
    for (channel, name) in &channels {
        drop(publish(channel, name, name.as_bytes()).await);
    }
    for (channel, name) in &channels {
        let options = BasicGetOptions { no_ack: true };
        let got = channel
            .basic_get(name.as_str().into(), options)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got.delivery.data, name.as_bytes());
    }
}

#[actix_web::test]
async fn exclusive_queues_go_with_their_connection() {
    let server = Server::start().await;
    let own = connect(&server).await;
    let channel = own.create_channel().await.unwrap();
    let options = QueueDeclareOptions {
        exclusive: true,
        ..Default::default()
    };
    let declared = channel
        .queue_declare("".into(), options, FieldTable::default())
        .await
        .unwrap();
    let name = declared.name().clone();
    assert!(name.as_str().starts_with("amq.gen-"));
    let other = connect(&server).await;
    let locked = other.create_channel().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let refused = locked
        .queue_declare(name.clone(), passive, FieldTable::default())
        .await;
    assert!(refused.unwrap_err().to_string().contains("RESOURCE_LOCKED"));
    own.close(200, "done".into()).await.unwrap();
    let gone = other.create_channel().await.unwrap();
    let refused = gone
        .queue_declare(name, passive, FieldTable::default())
        .await;
    assert!(refused.unwrap_err().to_string().contains("NOT_FOUND"));
}

#[actix_web::test]
async fn prefetch_bounds_what_is_held() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "q").await;
    for number in 0..10u8 {
        drop(publish(&channel, "q", &[number]).await);
    }
    channel
        .basic_qos(3, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = consume(&channel, "q", BasicConsumeOptions::default()).await;
    let mut held = Vec::new();
    for number in 0..3u8 {
        held.push(next(&mut consumer).await);
        assert_eq!(held.last().unwrap().data, [number]);
    }
    // A declare is answered after all deliveries that were due before it.
    let passive = QueueDeclareOptions {
        passive: true,
        ..Default::default()
    };
    let declared = channel
        .queue_declare("q".into(), passive, FieldTable::default())
        .await
        .unwrap();
    assert_eq!(declared.message_count(), 7);
    let multiple = BasicAckOptions { multiple: true };
    held[1].ack(multiple).await.unwrap();
    for number in 3..5u8 {
        assert_eq!(next(&mut consumer).await.data, [number]);
    }
    let more = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await;
    assert!(more.is_err(), "three are held");
}

#[actix_web::test]
async fn consumers_are_told_that_their_queue_is_gone() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "q").await;
    let mut consumer = consume(&channel, "q", BasicConsumeOptions::default()).await;
    let other = connect(&server).await.create_channel().await.unwrap();
    other
        .queue_delete("q".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let end = tokio::time::timeout(PATIENCE, consumer.next()).await;
    assert!(end.expect("the cancel in time").is_none());
    queue(&channel, "still usable").await;
}

#[actix_web::test]
async fn errors_close_the_channel_or_the_connection_with_their_code() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let code = |error: lapin::Error| match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("{other:?}"),
    };
    let channel = connection.create_channel().await.unwrap();
    let missing = channel
        .basic_get("missing".into(), BasicGetOptions::default())
        .await;
    assert_eq!(code(missing.unwrap_err()), 404);
    let channel = connection.create_channel().await.unwrap();
    queue(&channel, "q").await;
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let different = channel
        .queue_declare("q".into(), durable, FieldTable::default())
        .await;
    assert_eq!(code(different.unwrap_err()), 406);
    let channel = connection.create_channel().await.unwrap();
    let reserved = channel
        .queue_declare("amq.mine".into(), durable, FieldTable::default())
        .await;
    assert_eq!(code(reserved.unwrap_err()), 403);
    let channel = connection.create_channel().await.unwrap();
    let off = channel
        .channel_flow(ChannelFlowOptions { active: false })
        .await;
    assert_eq!(code(off.unwrap_err()), 540);
    assert!(connection.create_channel().await.is_err());
    let uri = format!("amqp://guest:wrong@{}/%2f", server.amqp[0]);
    let refused = Connection::connect(&uri, ConnectionProperties::default()).await;
    assert_eq!(code(refused.err().unwrap()), 403);
    let uri = format!("amqp://guest:guest@{}/nowhere", server.amqp[0]);
    let refused = Connection::connect(&uri, ConnectionProperties::default()).await;
    assert_eq!(code(refused.err().unwrap()), 530);
}
