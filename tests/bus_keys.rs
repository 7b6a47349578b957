//! Calls that are made once: `/send` and `/notify` with an `Idempotency-Key`.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::Duration;

use common::bus::{Bus, Pair, error_of, payloads};
use reqwest::{Method, Response};
use serde_json::{Value, json};

async fn post(bus: &Bus, by: &Pair, path: &str, key: &str, body: &Value) -> Response {
    let request = bus
        .by(by, Method::POST, path)
        .header("idempotency-key", key);
    request.json(body).send().await.unwrap()
}

async fn text(answer: Response) -> String {
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

#[actix_web::test]
async fn a_call_is_made_once_under_its_key() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let one = json!({"topic": "t", "body": 1});
    let several = json!([{"topic": "t", "body": 2}, {"topic": "t", "body": 3}]);
    for (path, key, body) in [
        ("/send", "one", &one),
        ("/send?topic=other", "two", &one),
        ("/send", "several", &several),
        ("/notify", "loud", &one),
    ] {
        let first = post(&bus, &client, path, key, body).await;
        assert!(first.headers().get("idempotency-replayed").is_none());
        let first = text(first).await;
        for _ in 0..3 {
            let again = post(&bus, &client, path, key, body).await;
            assert_eq!(again.headers()["idempotency-replayed"], "true");
            assert_eq!(again.headers()["content-type"], "application/json");
            assert_eq!(text(again).await, first, "{path} {key}");
        }
    }
    let items = bus.receive_all(&client, 5).await;
    assert_eq!(payloads(&items), [1, 1, 2, 3, 1].map(|n| json!(n)));
    assert!(bus.receive(&client, "").await.is_empty());
}

#[actix_web::test]
async fn a_key_is_for_one_call_of_one_client() {
    let bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "#").await, bus.create("b", "").await);
    let body = json!({"topic": "t", "body": 1});
    text(post(&bus, &a, "/send", "k", &body).await).await;
    for (path, other) in [
        ("/send", json!({"topic": "t", "body": 2})),
        ("/send", json!([{"topic": "t", "body": 1}])),
        ("/send?topic=x", body.clone()),
        ("/notify", body.clone()),
    ] {
        let error = error_of(post(&bus, &a, path, "k", &other).await, 422).await;
        assert_eq!(
            (&error["error"], &error["field"]),
            (&json!("key_reused"), &json!("Idempotency-Key"))
        );
    }
    text(post(&bus, &b, "/send", "k", &body).await).await;
    let items = bus.receive_all(&a, 2).await;
    assert_eq!(
        (&items[0]["sender"], &items[1]["sender"]),
        (&json!("a"), &json!("b"))
    );
}

#[actix_web::test]
async fn many_at_once_send_one_message() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let body = json!({"topic": "t", "body": 1});
    for round in 0..10 {
        let key = format!("key-{round}");
        let calls =
            (0..20).map(|_| async { text(post(&bus, &client, "/send", &key, &body).await).await });
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(|answer| *answer == answers[0]));
    }
    assert_eq!(bus.receive_all(&client, 10).await.len(), 10);
    assert!(bus.receive(&client, "").await.is_empty());
}

#[actix_web::test]
async fn a_call_that_failed_leaves_its_key_free_and_a_key_is_free_after_a_while() {
    let bus = Bus::start(&[("BACKBONE_BUS__IDEMPOTENCY_WINDOW_S", "1")]).await;
    let client = bus.create("a", "#").await;
    let bad = json!({"body": 1});
    for _ in 0..2 {
        error_of(post(&bus, &client, "/send", "k", &bad).await, 400).await;
    }
    let good = json!({"topic": "t", "body": 1});
    let first = text(post(&bus, &client, "/send", "k", &good).await).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while text(post(&bus, &client, "/send", "k", &good).await).await == first {
        assert!(std::time::Instant::now() < deadline, "it is never free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bus.receive_all(&client, 2).await.len(), 2);
}

#[actix_web::test]
async fn what_is_no_key_is_refused() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let body = json!({"topic": "t", "body": 1});
    let long = "x".repeat(256);
    for key in ["", long.as_str()] {
        let error = error_of(post(&bus, &client, "/send", key, &body).await, 400).await;
        assert_eq!(error["field"], "Idempotency-Key");
    }
    let twice = bus.by(&client, Method::POST, "/send").json(&body);
    let twice = twice
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    error_of(twice.send().await.unwrap(), 400).await;
    let latin = reqwest::header::HeaderValue::from_bytes(b"\xe4").unwrap();
    let latin = bus
        .by(&client, Method::POST, "/send")
        .header("idempotency-key", latin);
    error_of(latin.json(&body).send().await.unwrap(), 400).await;
    assert!(bus.receive(&client, "").await.is_empty());
    text(post(&bus, &client, "/send", &long[..255], &body).await).await;
}
