//! Several messages in one call of `/send` or `/notify`.

#![allow(clippy::unwrap_used)]

use crate::common;

use common::Server;
use common::bus::{Bus, Pair, error_of, payloads};
use reqwest::{Method, Response};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

async fn post(bus: &Bus, by: &Pair, path: &str, content_type: &str, body: String) -> Response {
    let request = bus.by(by, Method::POST, path).body(body);
    let request = request.header("content-type", content_type);
    request.send().await.unwrap()
}

fn message(n: usize) -> String {
    format!("{{\"topic\":\"t.{n}\",\"body\":[{n}, 1.50]}}")
}

/// The ids in an answer.
async fn ids(answer: Response) -> Vec<Value> {
    let status = answer.status();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["message"], "accepted");
    answer["ids"].as_array().unwrap().clone()
}

#[actix_web::test]
async fn arrays_and_lines_arrive_in_order_under_the_ids_of_the_answer() {
    const COUNT: usize = 3000;
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "t.#").await;
    let all: Vec<_> = (0..COUNT).map(message).collect();
    for (content_type, body) in [
        (JSON, format!(" [{}]", all.join(" ,\n"))),
        (LINES, all.join("\r\n\n")),
    ] {
        let ids = ids(post(&bus, &client, "/send", content_type, body).await).await;
        assert_eq!(ids.len(), COUNT);
        let items = bus.receive_all(&client, COUNT).await;
        for (n, item) in items.iter().enumerate() {
            assert_eq!(item["body"], json!([n, 1.5]));
            assert_eq!(
                (&item["id"], &item["topic"]),
                (&ids[n], &json!(format!("t.{n}")))
            );
            assert_eq!(
                (&item["sender"], &item["delivery_type"]),
                (&json!("a"), &json!("publish"))
            );
        }
    }
}

#[actix_web::test]
async fn a_topic_may_be_common_or_stand_in_the_payload() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let body = r#"[{"body":1},{"topic":"own","body":2}]"#.to_owned();
    post(&bus, &client, "/send?topic=common", JSON, body).await;
    let body = r#"{"header":{"destination":"in.it"},"payload":{}}"#.to_owned();
    post(&bus, &client, "/send", LINES, body).await;
    let items = bus.receive_all(&client, 3).await;
    let topics: Vec<_> = items.iter().map(|item| item["topic"].clone()).collect();
    assert_eq!(topics, ["common", "own", "in.it"]);
}

#[actix_web::test]
async fn several_may_be_for_everybody() {
    let bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "").await, bus.create("b", "").await);
    let body = r#"[{"body":1},{"topic":"x","body":2}]"#.to_owned();
    assert_eq!(
        ids(post(&bus, &a, "/notify", JSON, body).await).await.len(),
        2
    );
    for client in [&a, &b] {
        let items = bus.receive_all(client, 2).await;
        assert_eq!(payloads(&items), [json!(1), json!(2)]);
        assert_eq!(
            (&items[0]["topic"], &items[1]["topic"]),
            (&Value::Null, &json!("x"))
        );
        assert_eq!(items[0]["delivery_type"], "broadcast");
    }
}

#[actix_web::test]
async fn none_is_sent_if_one_is_not_valid_and_the_answer_says_which() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let long = format!("{{\"topic\":\"{}\",\"body\":1}}", "x".repeat(256));
    let deep = format!(
        "{{\"topic\":\"t\",\"body\":{}1{}}}",
        "[".repeat(501),
        "]".repeat(501)
    );
    for (bad, status, field) in [
        ("{\"body\":1}", 400, "[2].topic"),
        ("{\"topic\":\"\",\"body\":1}", 400, "[2].topic"),
        ("{\"topic\":7,\"body\":1}", 400, "[2].topic"),
        (long.as_str(), 400, "[2].topic"),
        (deep.as_str(), 400, "[2].body"),
        ("{\"topic\":\"t\"}", 400, "[2].body"),
        ("{\"topic\":\"t\",\"body\":1,\"data\":1}", 400, "[2].body"),
        ("{\"topic\":\"t\",\"body\":1,\"body\":1}", 400, "[2].body"),
        (
            "{\"topic\":\"t\",\"body\":1,\"client_id\":\"b\"}",
            403,
            "[2].client_id",
        ),
        (
            "{\"topic\":\"t\",\"body\":1,\"client_id\":7}",
            403,
            "[2].client_id",
        ),
        ("17", 400, "[2]"),
        ("[]", 400, "[2]"),
    ] {
        let three = [&message(0), &message(1), bad];
        for (content_type, body) in [
            (JSON, format!("[{}]", three.join(","))),
            (LINES, three.join("\n")),
        ] {
            let answer = post(&bus, &client, "/send", content_type, body).await;
            let error = error_of(answer, status).await;
            assert_eq!(error["field"], field, "{bad}: {error}");
            assert!(
                error["message"]
                    .as_str()
                    .unwrap()
                    .starts_with("message 2: ")
            );
        }
    }
    let broken = format!("{}\n{{oops}}", message(0));
    let error = error_of(post(&bus, &client, "/send", LINES, broken).await, 400).await;
    assert_eq!(
        (&error["error"], &error["field"]),
        (&json!("malformed_json"), &json!("[1]"))
    );
    let broken = format!("[{},", message(0));
    let error = error_of(post(&bus, &client, "/send", JSON, broken).await, 400).await;
    assert_eq!(error["error"], "malformed_json");
    let own = r#"[{"topic":"t","body":"last","client_id":"a"}]"#.to_owned();
    assert_eq!(
        ids(post(&bus, &client, "/send", JSON, own).await)
            .await
            .len(),
        1
    );
    assert_eq!(
        payloads(&bus.receive_all(&client, 1).await),
        [json!("last")]
    );
}

#[actix_web::test]
async fn there_are_limits_and_none_at_all_is_fine() {
    let bus = Bus::start(&[("BACKBONE_LIMITS__MAX_BODY_BYTES", "2000000")]).await;
    let client = bus.create("a", "#").await;
    for (content_type, body) in [(JSON, "[]"), (LINES, ""), (LINES, " \n\n")] {
        let answer = post(&bus, &client, "/send", content_type, body.into()).await;
        assert!(ids(answer).await.is_empty());
    }
    let many = |count: usize| "{\"topic\":\"t\",\"body\":1}\n".repeat(count);
    let error = error_of(post(&bus, &client, "/send", LINES, many(10_001)).await, 413).await;
    assert_eq!(error["error"], "too_many_messages");
    let large = format!(
        "[{{\"topic\":\"t\",\"body\":\"{}\"}}]",
        "x".repeat(2_000_000)
    );
    error_of(post(&bus, &client, "/send", JSON, large).await, 413).await;
    assert!(
        bus.receive(&client, "").await.is_empty(),
        "nothing got through"
    );
    let all = ids(post(&bus, &client, "/send", LINES, many(10_000)).await).await;
    assert_eq!(all.len(), 10_000);
    assert_eq!(bus.receive_all(&client, 10_000).await.len(), 10_000);
}

#[actix_web::test]
async fn what_was_accepted_survives_a_crash() {
    const COUNT: usize = 500;
    let mut bus = Bus::start(&[]).await;
    let client = bus.create("a", "t.#").await;
    // Together more than the broker puts into one batch of its own.
    let filler = "x".repeat(2000);
    let of = |n| json!({"topic": "t.x", "body": [n, filler]});
    let body = Value::from_iter((0..COUNT).map(of)).to_string();
    assert_eq!(
        ids(post(&bus, &client, "/send", JSON, body).await)
            .await
            .len(),
        COUNT
    );
    let dir = bus.server.data_dir();
    bus.server.kill();
    let bus = Bus::of(Server::on(dir, &[]).await);
    let items = bus.receive_all(&client, COUNT).await;
    let numbers = items.iter().map(|item| item["body"][0].as_u64().unwrap());
    assert!(numbers.eq(0..COUNT as u64));
}
