//! `/api/queues` from outside, and `backbone queue`, which asks it.

// The helpers below are not test functions themselves; what fails in them fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ADMIN_SECRET, Server, command};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};

const DURABLE: QueueDeclareOptions = QueueDeclareOptions {
    durable: true,
    passive: false,
    exclusive: false,
    auto_delete: false,
    nowait: false,
};

async fn connect(server: &Server) -> Connection {
    let uri = format!("amqp://guest:guest@{}/%2f", server.amqp[0]);
    Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap()
}

async fn declare(channel: &Channel, name: &str, options: QueueDeclareOptions, level: Option<&str>) {
    let mut arguments = FieldTable::default();
    if let Some(level) = level {
        let level = AMQPValue::LongString(level.into());
        arguments.insert("x-durability".into(), level);
    }
    let declared = channel.queue_declare(name.into(), options, arguments);
    declared.await.unwrap();
}

/// Publishes and waits for the confirm; the channel has to be in confirm mode.
async fn publish(channel: &Channel, queue: &str) {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), queue.into(), options, b"body", properties);
    let confirm = published.await.unwrap().await.unwrap();
    assert_eq!(confirm, Confirmation::Ack(None));
}

fn as_admin(server: &Server, path: &str) -> RequestBuilder {
    Client::new()
        .get(server.url(path))
        .basic_auth("admin", Some(ADMIN_SECRET))
}

/// The status and the JSON of an answer.
async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn page(server: &Server, path: &str) -> Value {
    let (status, page) = answer(as_admin(server, path)).await;
    assert_eq!(status, 200, "{path}: {page}");
    page
}

#[actix_web::test]
async fn a_queue_shows_how_it_was_declared_and_what_is_in_it() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    let confirms = ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    declare(&channel, "written", DURABLE, Some("written")).await;
    for _ in 0..3 {
        publish(&channel, "written").await;
    }
    let get = BasicGetOptions::default();
    let got = channel.basic_get("written".into(), get).await.unwrap();
    assert!(got.is_some());
    let mut expected = json!({
        "name": "written", "vhost": "/", "durable": true, "auto_delete": false, "exclusive": false,
        "arguments": {"x-durability": "written"}, "durability": "written",
        "messages": 3, "messages_ready": 2, "messages_unacknowledged": 1, "messages_paged_out": 0,
        "consumers": 0, "message_stats": {"publish": 3}, "policy": null, "operator_policy": null,
        "effective_policy_definition": {}, "type": "classic", "state": "running",
    });
    // Where it is differs from machine to machine.
    let mut shown = page(&server, "/api/queues/%2F/written").await;
    let node = shown["node"].take();
    assert!(node.as_str().unwrap().starts_with("backbone@"), "{node}");
    expected["node"] = node;
    shown["node"] = expected["node"].clone();
    // Consumers are in the page of one queue.
    let consumers = shown.as_object_mut().unwrap().remove("consumer_details");
    assert_eq!((shown, consumers), (expected.clone(), Some(json!([]))));
    for list in ["/api/queues", "/api/queues/%2f"] {
        let list = page(&server, list).await;
        let names: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["name"])
            .collect();
        assert!(names.is_sorted_by_key(|name| name.as_str()), "{names:?}");
        assert!(list.as_array().unwrap().contains(&expected), "{list}");
        assert!(names.contains(&&json!("soar-publish")), "{names:?}");
    }
}

#[actix_web::test]
async fn the_level_is_that_of_the_server_unless_the_queue_asks_for_another_or_is_transient() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    declare(&channel, "default", DURABLE, None).await;
    declare(&channel, "memory", DURABLE, Some("memory")).await;
    let transient = QueueDeclareOptions {
        durable: false,
        auto_delete: true,
        exclusive: true,
        ..DURABLE
    };
    declare(&channel, "transient", transient, None).await;
    let consume = BasicConsumeOptions::default();
    let consumed = channel.basic_consume(
        "transient".into(),
        "".into(),
        consume,
        FieldTable::default(),
    );
    let _consumer = consumed.await.unwrap();
    for (name, level) in [
        ("default", "synced"),
        ("memory", "memory"),
        ("transient", "memory"),
    ] {
        let queue = page(&server, &format!("/api/queues/%2F/{name}")).await;
        assert_eq!(queue["durability"], level, "{queue}");
        let transient = name == "transient";
        assert_eq!(queue["durable"], !transient, "{queue}");
        assert_eq!(queue["auto_delete"], transient, "{queue}");
        assert_eq!(queue["exclusive"], transient, "{queue}");
        assert_eq!(queue["consumers"], u32::from(transient), "{queue}");
    }
}

#[actix_web::test]
async fn what_a_restart_brings_back_waits_in_the_log_alone_until_somebody_wants_it() {
    let mut server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    let confirms = ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    declare(&channel, "q", DURABLE, None).await;
    for _ in 0..3 {
        publish(&channel, "q").await;
    }
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let queue = page(&server, "/api/queues/%2F/q").await;
    assert_eq!(queue["messages_ready"], 3, "{queue}");
    assert_eq!(queue["messages_paged_out"], 3, "{queue}");
    assert_eq!(queue["message_stats"]["publish"], 0, "{queue}");
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    let get = BasicGetOptions::default();
    assert!(channel.basic_get("q".into(), get).await.unwrap().is_some());
    let queue = page(&server, "/api/queues/%2F/q").await;
    assert_eq!(queue["messages_ready"], 2, "{queue}");
    assert_eq!(queue["messages_unacknowledged"], 1, "{queue}");
    assert_eq!(queue["messages_paged_out"], 0, "{queue}");
}

#[actix_web::test]
async fn any_name_can_be_asked_for() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    for (name, path) in [
        ("a/b", "a%2Fb"),
        ("a%2Fb", "a%252Fb"),
        ("a b?#+é", "a%20b%3F%23+%C3%A9"),
        ("/", "%2F"),
        ("end/", "end%2F"),
    ] {
        declare(&channel, name, DURABLE, None).await;
        let queue = page(&server, &format!("/api/queues/%2F/{path}")).await;
        assert_eq!(queue["name"], name);
    }
}

#[actix_web::test]
async fn what_is_not_there_is_told_and_who_may_not_look_is_refused() {
    let server = Server::start().await;
    for path in [
        "/api/queues/none",
        "/api/queues/%2F/none",
        "/api/queues/none/soar-publish",
        "/api/queues/%2F/%FF",
    ] {
        let (status, body) = answer(as_admin(&server, path)).await;
        assert_eq!(status, 404, "{path}: {body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
    let created = Client::new()
        .post(server.url("/clients"))
        .basic_auth("admin", Some(ADMIN_SECRET))
        .json(&json!({"client_id": "noc"}));
    let (status, noc) = answer(created).await;
    assert_eq!(status, 201);
    for path in [
        "/api/queues",
        "/api/queues/%2F",
        "/api/queues/%2F/noc-inbox",
        "/api/queues/%2F/none",
    ] {
        let anonymous = Client::new().get(server.url(path));
        assert_eq!(answer(anonymous).await.0, 401, "{path}");
        let client = Client::new().get(server.url(path));
        let client = client.basic_auth("noc", noc["secret"].as_str());
        assert_eq!(answer(client).await.0, 403, "{path}");
    }
}

#[actix_web::test]
async fn the_command_line_shows_queues() {
    let server = Server::start().await;
    let connection = connect(&server).await;
    let channel = connection.create_channel().await.unwrap();
    declare(&channel, "a/b", DURABLE, Some("written")).await;
    let run = |arguments: &[&str]| {
        let mut command = command(server.data_dir().path(), &[]);
        let output = command
            .args(["queue"])
            .args(arguments)
            .args(["--api", &server.url("")])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (code, list) = run(&["list"]);
    assert_eq!(code, Some(0));
    assert!(
        list.lines()
            .any(|it| it == "a/b\t0\t0\t0\twritten\trunning"),
        "{list}"
    );
    assert_eq!(run(&["pause", "a/b"]).0, Some(0));
    let (_, list) = run(&["list"]);
    assert!(list.contains("a/b\t0\t0\t0\twritten\tpaused"), "{list}");
    assert_eq!(run(&["resume", "a/b"]).0, Some(0));
    assert_eq!(run(&["pause", "none"]).0, Some(1));
    let (code, shown) = run(&["show", "a/b"]);
    assert_eq!(code, Some(0));
    assert!(
        shown.lines().any(|it| it == "durability: written"),
        "{shown}"
    );
    let (code, shown) = run(&["show", "a/b", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &shown["name"]), (Some(0), &json!("a/b")));
    assert_eq!(run(&["show", "none"]).0, Some(1));
    assert_eq!(run(&["list", "--vhost", "none"]).0, Some(1));
}
