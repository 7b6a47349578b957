//! Websockets of the bus's clients.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::bus::{Bus, Pair, error_of};
use common::websocket::{Frame, WebSocket};
use reqwest::Method;
use serde_json::{Value, json};

/// The value of the header `Authorization`.
fn basic((id, secret): &Pair) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// A socket whose handshake has succeeded.
fn open(bus: &Bus, client: &Pair) -> WebSocket {
    let header = format!("Authorization: {}\r\n", basic(client));
    let mut socket = WebSocket::open(bus.server.http[0], "/ws", &header);
    let expected = json!({"type": "handshake", "authenticated": true, "client_id": client.0});
    assert_eq!(socket.json(), expected);
    socket
}

/// What is sent to oneself comes back: an answer to the frame, and the message. Which one is first is not said.
fn two(socket: &mut WebSocket) -> (Value, Value) {
    let (one, two) = (socket.json(), socket.json());
    match one.get("type") {
        Some(_) => (one, two),
        None => (two, one),
    }
}

#[actix_web::test]
async fn the_client_says_who_it_is_with_the_request_or_the_first_frame() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "").await;
    let (id, secret) = &client;
    let address = bus.server.http[0];
    for path in ["/", "/ws", "/websocket", "//ws/"] {
        let query = format!("{path}?client_id={id}&secret={secret}");
        let mut socket = WebSocket::open(address, &query, "");
        assert_eq!(socket.json()["authenticated"], true, "{path}");
        socket.close();
        assert_eq!(socket.next(), Frame::Close(1000));
    }
    open(&bus, &client);
    let header = basic(&client);
    for frame in [
        header.clone(),
        format!("  {header}\n"),
        json!(header).to_string(),
        json!({"Authorization": header}).to_string(),
        json!({"authorization": header, "client_id": id}).to_string(),
        json!({"headers": {"Authorization": header}}).to_string(),
        json!({"type": "handshake", "body": {"token": header}}).to_string(),
        json!({"access_token": header}).to_string(),
        json!({"client_id": id, "secret": secret}).to_string(),
        json!({"body": {"client_id": id, "client_secret": secret}}).to_string(),
    ] {
        let mut socket = WebSocket::open(address, "/", "");
        socket.text(&frame);
        assert_eq!(socket.json()["authenticated"], true, "{frame}");
    }
}

#[actix_web::test]
async fn who_cannot_prove_it_is_told_and_closed() {
    let bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "").await, bus.create("b", "").await);
    let address = bus.server.http[0];
    let refused = |mut socket: WebSocket| {
        let reply = socket.json();
        assert_eq!(
            (&reply["type"], &reply["authenticated"]),
            (&json!("handshake"), &json!(false))
        );
        assert!(
            reply["error"].is_string() && reply["message"].is_string(),
            "{reply}"
        );
        assert_eq!(socket.next(), Frame::Close(1008));
    };
    let wrong = (a.0.clone(), "wrong".to_owned());
    let header = |value: &str| format!("Authorization: {value}\r\n");
    refused(WebSocket::open(address, "/ws", &header(&basic(&wrong))));
    refused(WebSocket::open(address, "/ws?token=nonsense", ""));
    refused(WebSocket::open(
        address,
        "/ws?client_id=b",
        &header(&basic(&a)),
    ));
    let admin = ("admin".to_owned(), common::ADMIN_SECRET.to_owned());
    refused(WebSocket::open(address, "/ws", &header(&basic(&admin))));
    for frame in [
        "".to_owned(),
        "{}".to_owned(),
        "[1]".to_owned(),
        "Bearer nonsense".to_owned(),
        json!({"token": 7}).to_string(),
        json!({"client_id": "a"}).to_string(),
        json!({"client_id": "a", "secret": b.1}).to_string(),
        json!({"client_id": "b", "Authorization": basic(&a)}).to_string(),
        json!({"topic": "t", "body": 1}).to_string(),
    ] {
        let mut socket = WebSocket::open(address, "/ws", "");
        socket.text(&frame);
        refused(socket);
    }
    let mut socket = WebSocket::open(address, "/ws", "");
    socket.text(&"x".repeat(100_000));
    while let Frame::Json(reply) = socket.next() {
        assert_eq!(reply["authenticated"], false);
    }
    let plain = bus.call(Method::GET, "/ws").send().await.unwrap();
    error_of(plain, 426).await;
    let plain = bus.call(Method::GET, "/").send().await.unwrap();
    error_of(plain, 404).await;
}

#[actix_web::test]
async fn frames_go_to_the_outbox_and_messages_come_as_frames() {
    let bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "t.#").await, bus.create("b", "t.#").await);
    let mut socket = open(&bus, &a);
    socket.text("{\"topic\":\"t.x\",\"body\":{\"n\": 1.50}}");
    let (accepted, item) = two(&mut socket);
    assert_eq!(
        (&accepted["type"], &accepted["topic"]),
        (&json!("accepted"), &json!("t.x"))
    );
    assert_eq!(item["id"], accepted["id"]);
    assert_eq!(
        (&item["sender"], &item["delivery_type"]),
        (&json!("a"), &json!("publish"))
    );
    socket.text("{\"delivery_type\":\"broadcast\",\"body\":\"all hands\"}");
    let (accepted, item) = two(&mut socket);
    assert_eq!(accepted["topic"], Value::Null);
    assert_eq!(item["delivery_type"], "broadcast");
    bus.send(&b, "t.y", &json!("from b")).await;
    assert_eq!(socket.json()["body"], "from b");
    let items = bus.receive_all(&b, 3).await;
    assert_eq!(items[0]["body"], json!({"n": 1.5}));
    assert_eq!(
        (&items[1]["body"], &items[2]["body"]),
        (&json!("all hands"), &json!("from b"))
    );
    // The ping behind the last message is answered on the way to this reply.
    socket.text("{\"topic\":\"elsewhere\",\"body\":1}");
    assert_eq!(socket.json()["type"], "accepted");
    socket.close();
    assert_eq!(socket.next(), Frame::Close(1000));
    assert!(bus.receive(&a, "").await.is_empty());
}

#[actix_web::test]
async fn a_frame_that_is_wrong_is_answered_and_the_rest_goes_on() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "").await;
    let mut socket = open(&bus, &client);
    for (frame, field) in [
        ("nonsense", Value::Null),
        ("[]", Value::Null),
        ("{\"topic\":\"t\"}", json!("body")),
        ("{\"body\":1}", json!("topic")),
        (
            "{\"topic\":\"t\",\"topic\":\"u\",\"body\":1}",
            json!("topic"),
        ),
        (
            "{\"topic\":\"t\",\"body\":1,\"delivery_type\":\"loud\"}",
            json!("delivery_type"),
        ),
        (
            "{\"topic\":\"t\",\"body\":1,\"client_id\":\"b\"}",
            json!("client_id"),
        ),
    ] {
        socket.text(frame);
        let reply = socket.json();
        assert_eq!(
            (&reply["type"], &reply["field"]),
            (&json!("error"), &field),
            "{frame}"
        );
        assert!(reply["error"].is_string() && reply["message"].is_string());
    }
    socket.text("{\"topic\":\"t\",\"body\":1}");
    assert_eq!(socket.json()["type"], "accepted");
}

#[actix_web::test]
async fn order_is_kept_both_ways() {
    const COUNT: u64 = 300;
    let bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "").await, bus.create("b", "#").await);
    let (mut sender, mut reader) = (open(&bus, &a), open(&bus, &b));
    for n in 0..COUNT {
        sender.text(&json!({"topic": "t", "body": n}).to_string());
    }
    for n in 0..COUNT {
        assert_eq!(sender.json()["type"], "accepted");
        assert_eq!(reader.json()["body"], n);
    }
}

#[actix_web::test]
async fn what_a_reader_has_not_got_comes_again_in_order() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    for n in 0..3 {
        bus.send(&client, "t", &json!(n)).await;
    }
    let mut socket = open(&bus, &client);
    socket.answers_pings = false;
    assert_eq!(socket.json()["body"], 0);
    assert!(
        bus.receive(&client, "").await.is_empty(),
        "they are handed out"
    );
    drop(socket);
    let items = bus.receive_all(&client, 3).await;
    let bodies: Vec<_> = items.iter().map(|item| item["body"].clone()).collect();
    assert_eq!(bodies, [0, 1, 2]);
}

#[actix_web::test]
async fn a_socket_ends_with_what_its_client_may_do_and_with_the_server() {
    let mut bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "#").await, bus.create("b", "").await);
    let (mut of_a, mut of_b) = (open(&bus, &a), open(&bus, &b));
    let rotated = bus
        .by(&a, Method::POST, "/clients/a/secret")
        .send()
        .await
        .unwrap();
    assert_eq!(rotated.status(), 200);
    of_a.text("{\"topic\":\"t\",\"body\":1}");
    assert_eq!(of_a.next(), Frame::Close(1008));
    tokio::time::sleep(Duration::from_millis(1)).await;
    bus.server.terminate().await;
    assert!(matches!(of_b.next(), Frame::Close(1001) | Frame::End));
}
