//! Pausing queues: nothing is handed out, everything else goes on, and it outlives a SIGKILL.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use common::admin::Admin;
use common::queues::{Client, int, text};
use common::{Server, directory_on_disk};
use lapin::options::*;
use serde_json::{Value, json};

async fn set(admin: &Admin, queue: &str, what: &str) {
    let path = format!("/api/queues/%2F/{queue}/{what}");
    assert_eq!(admin.put(&path, Value::Null).await.0, 204, "{path}");
}

async fn state(admin: &Admin, queue: &str) -> Value {
    let (status, shown) = admin.get(&format!("/api/queues/%2F/{queue}")).await;
    assert_eq!(status, 200, "{shown}");
    shown["state"].clone()
}

#[actix_web::test]
async fn a_durable_queue_stays_paused_over_sigkill_and_goes_on_as_it_was() {
    let data_dir = directory_on_disk();
    let mut server = Server::on(data_dir.clone(), &[]).await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    client.declare("paused", &[]).await;
    client.declare("resumed", &[]).await;
    client
        .declare("ranked", &[("x-max-priority", int(3))])
        .await;
    assert!(client.publish("paused", "1").await);
    assert!(client.publish("ranked", "r").await);
    set(&admin, "paused", "pause").await;
    set(&admin, "ranked", "pause").await;
    set(&admin, "resumed", "pause").await;
    set(&admin, "resumed", "resume").await;
    assert!(client.publish("paused", "2").await, "it takes messages");
    server.kill();

    let mut server = Server::on(data_dir.clone(), &[]).await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    for (queue, expected) in [
        ("paused", "paused"),
        ("ranked", "paused"),
        ("resumed", "running"),
    ] {
        assert_eq!(state(&admin, queue).await, expected, "{queue}");
    }
    assert!(client.try_get("paused").await.is_none());
    assert!(client.try_get("ranked").await.is_none());
    assert_eq!(client.ready("paused").await, Some(2));
    set(&admin, "ranked", "resume").await;
    assert_eq!(client.drain("ranked").await, ["r"]);
    set(&admin, "paused", "resume").await;
    server.kill();

    let server = Server::on(data_dir, &[]).await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    assert_eq!(state(&admin, "paused").await, "running");
    assert_eq!(client.drain("paused").await, ["1", "2"]);
}

#[actix_web::test]
async fn a_paused_queue_is_counted_listed_and_open_to_operators_alone() {
    let server = Server::start().await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    client.declare("q", &[]).await;
    assert!(client.publish("q", "seen").await);
    assert!(
        admin
            .text("/metrics")
            .await
            .contains("\nbackbone_queues_paused 0\n")
    );
    for _ in 0..2 {
        // Twice is once.
        set(&admin, "q", "pause").await;
    }
    assert_eq!(state(&admin, "q").await, "paused");
    assert!(
        admin
            .text("/metrics")
            .await
            .contains("\nbackbone_queues_paused 1\n")
    );
    assert!(client.try_get("q").await.is_none());
    let look = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let (status, got) = admin.post("/api/queues/%2F/q/get", look).await;
    assert_eq!((status, &got[0]["payload"]), (200, &json!("seen")));
    assert_eq!(
        admin.put("/api/queues/%2F/none/pause", Value::Null).await.0,
        404
    );
    assert_eq!(
        admin.put("/api/queues/none/q/pause", Value::Null).await.0,
        404
    );
    for (user, tags, may, expected) in [
        ("reader", "management", ["none", ".*", ".*"], 401),
        ("nobody", "", [".*", ".*", ".*"], 401),
        ("keeper", "management", ["q", "", ""], 204),
    ] {
        admin.user(user, tags, may).await;
        let as_user = Admin::as_user(&server, user, user);
        let resumed = as_user.put("/api/queues/%2F/q/resume", Value::Null).await;
        assert_eq!(resumed.0, expected, "{user}: {}", resumed.1);
    }
    assert_eq!(client.drain("q").await, ["seen"]);
}

#[actix_web::test]
async fn limits_times_and_dead_letters_go_on_in_a_paused_queue() {
    let server = Server::start().await;
    let (admin, client) = (Admin::of(&server), Client::connect(&server).await);
    client.declare("dead", &[]).await;
    let arguments = [
        ("x-max-length", int(2)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    client.declare("q", &arguments).await;
    // A consumer that would have room for them.
    let (queue, tag) = ("q".into(), "c".into());
    let options = BasicConsumeOptions::default();
    let consume = client
        .channel
        .basic_consume(queue, tag, options, Default::default());
    let consumer = consume.await.unwrap();
    set(&admin, "q", "pause").await;
    for body in ["1", "2", "3"] {
        assert!(client.publish("q", body).await);
    }
    assert_eq!(
        client.drain("dead").await,
        ["1"],
        "what is beyond the limit"
    );
    let short = lapin::BasicProperties::default().with_expiration("1".into());
    assert!(client.publish_with("", "q", "4", short).await);
    client.until_ready("dead", 2).await;
    assert_eq!(client.drain("dead").await, ["2", "4"]);
    assert_eq!(client.ready("q").await, Some(1));
    drop(consumer);
}

#[actix_web::test]
async fn outboxes_what_is_between_and_inboxes_of_the_bus_pause_and_lose_nothing() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let mut clients = Vec::new();
    for id in ["a", "b"] {
        let record = json!({"client_id": id, "subscription": "#"});
        let (status, made) = admin.post("/clients", record).await;
        assert_eq!(status, 201, "{made}");
        clients.push(Admin::as_user(
            &server,
            id,
            made["secret"].as_str().unwrap(),
        ));
    }
    let mut sent = 0;
    for queue in ["a-outbox", "soar-publish", "b-inbox"] {
        set(&admin, queue, "pause").await;
        for _ in 0..3 {
            let message = json!({"topic": "t", "body": sent});
            assert_eq!(clients[0].post("/send", message).await.0, 200, "{queue}");
            sent += 1;
        }
        let (status, nothing) = clients[1].get("/receive").await;
        assert_eq!((status, nothing), (200, json!([])), "{queue}");
        set(&admin, queue, "resume").await;
        let mut received = Vec::new();
        while received.len() < 3 {
            let (status, items) = clients[1].get("/receive?wait=20").await;
            assert_eq!(status, 200, "{items}");
            let items = items.as_array().unwrap().clone();
            assert!(!items.is_empty(), "{queue}: only {received:?}");
            received.extend(items.into_iter().map(|item| item["body"].clone()));
        }
        let expected: Vec<Value> = (sent - 3..sent).map(Value::from).collect();
        assert_eq!(received, expected, "{queue}");
    }
}
