//! Messages that a reader has for a while and acknowledges: `/receive?ack=explicit`, `/ack`, `/nack`.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::Server;
use common::bus::{Bus, Pair, error_of, payloads};
use reqwest::Method;
use serde_json::{Value, json};

/// A lease that no test outlives.
const LONG: &str = "?ack=explicit&lease=3600";

fn ids(items: &[Value]) -> Vec<Value> {
    items.iter().map(|item| item["ack"].clone()).collect()
}

async fn post(bus: &Bus, by: &Pair, path: &str, body: &Value) -> Value {
    let answer = bus
        .by(by, Method::POST, path)
        .json(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn fill(bus: &Bus, client: &Pair, count: usize) {
    let of = |n| json!({"topic": "t", "body": n});
    let body = Value::from_iter((0..count).map(of));
    let sent = bus.by(client, Method::POST, "/send").json(&body);
    assert_eq!(sent.send().await.unwrap().status(), 200);
}

#[actix_web::test]
async fn acknowledged_messages_are_gone_and_others_come_back_in_order() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    fill(&bus, &client, 6).await;
    let items = bus.receive(&client, &format!("{LONG}&limit=4")).await;
    assert_eq!(payloads(&items), [json!(0), json!(1), json!(2), json!(3)]);
    assert!(items.iter().all(|item| item["redelivered"] == json!(false)));
    let ids = ids(&items);
    let answer = post(&bus, &client, "/ack", &json!({"ids": [ids[1], ids[1]]})).await;
    assert_eq!(answer, json!({"count": 1, "unknown": []}));
    let answer = post(
        &bus,
        &client,
        "/nack",
        &json!({"ids": [ids[2], ids[0], ids[1]]}),
    )
    .await;
    assert_eq!(answer, json!({"count": 2, "unknown": [ids[1]]}));
    let items = bus.receive(&client, LONG).await;
    assert_eq!(payloads(&items), [json!(0), json!(2), json!(4), json!(5)]);
    let again: Vec<_> = items
        .iter()
        .map(|item| item["redelivered"].clone())
        .collect();
    assert_eq!(
        again,
        [json!(true), json!(true), json!(false), json!(false)]
    );
    assert!(bus.receive(&client, "").await.is_empty());
    let answer = post(
        &bus,
        &client,
        "/nack",
        &json!({"ids": ids[3..], "requeue": false}),
    )
    .await;
    assert_eq!(answer["count"], 1);
    assert!(
        bus.receive(&client, "").await.is_empty(),
        "it was given up for good"
    );
}

#[actix_web::test]
async fn what_is_late_comes_again_also_to_those_who_wait() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    fill(&bus, &client, 2).await;
    let first = bus.receive(&client, "?ack=explicit&lease=0.3").await;
    assert_eq!(first.len(), 2);
    let again = bus.receive(&client, "?wait=20&ack=explicit").await;
    assert_eq!(payloads(&again), [json!(0), json!(1)]);
    assert_eq!(again[0]["redelivered"], true);
    let late = post(&bus, &client, "/ack", &json!({"ids": ids(&first)})).await;
    assert_eq!(late, json!({"count": 0, "unknown": ids(&first)}));
    let acknowledged = post(&bus, &client, "/ack", &json!({"ids": ids(&again)})).await;
    assert_eq!(acknowledged["count"], 2);
}

#[actix_web::test]
async fn ids_are_their_clients_alone_and_of_one_run() {
    let mut bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "#").await, bus.create("b", "#").await);
    fill(&bus, &a, 1).await;
    let items = bus.receive(&a, LONG).await;
    let foreign = post(&bus, &b, "/ack", &json!({"ids": ids(&items)})).await;
    assert_eq!(foreign["count"], 0);
    bus.receive_all(&b, 1).await;
    let dir = bus.server.data_dir();
    bus.server.kill();
    let bus = Bus::of(Server::on(dir, &[]).await);
    let again = bus.receive(&a, LONG).await;
    assert_eq!((again.len(), &again[0]["redelivered"]), (1, &json!(true)));
    let old = post(&bus, &a, "/ack", &json!({"ids": ids(&items)})).await;
    assert_eq!(old["count"], 0);
    assert_eq!(
        post(&bus, &a, "/ack", &json!({"ids": ids(&again)})).await["count"],
        1
    );
}

#[actix_web::test]
async fn many_readers_at_once_get_each_message_once() {
    const COUNT: usize = 2000;
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let read = async || {
        let mut seen = Vec::new();
        loop {
            let items = bus
                .receive(&client, &format!("{LONG}&limit=7&wait=0.5"))
                .await;
            if items.is_empty() {
                return seen;
            }
            let answer = post(&bus, &client, "/ack", &json!({"ids": ids(&items)})).await;
            assert_eq!(answer["count"], items.len());
            seen.extend(items.iter().map(|item| item["body"].as_u64().unwrap()));
        }
    };
    let reading = futures_util::future::join_all((0..6).map(|_| read()));
    let (_, seen) = futures_util::future::join(fill(&bus, &client, COUNT), reading).await;
    let all: Vec<u64> = seen.into_iter().flatten().collect();
    assert_eq!(all.len(), COUNT);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), COUNT);
}

#[actix_web::test]
async fn a_client_may_have_so_many_and_no_more() {
    const MANY: usize = 65_536;
    let bus = Bus::start(&[("BACKBONE_DURABILITY__LEVEL", "memory")]).await;
    let client = bus.create("a", "#").await;
    let line = "{\"topic\":\"t\",\"body\":1}\n".repeat(8192);
    for _ in 0..9 {
        let sent = bus.by(&client, Method::POST, "/send").body(line.clone());
        let sent = sent.header("content-type", "application/x-ndjson");
        assert_eq!(sent.send().await.unwrap().status(), 200);
    }
    let items = bus.receive(&client, LONG).await;
    assert_eq!(items.len(), MANY);
    let more = bus
        .by(&client, Method::GET, &format!("/receive{LONG}"))
        .send()
        .await
        .unwrap();
    assert_eq!(more.headers()["retry-after"], "1");
    assert_eq!(
        error_of(more, 429).await["error"],
        "too_many_unacknowledged"
    );
    post(&bus, &client, "/ack", &json!({"ids": [items[7]["ack"]]})).await;
    assert_eq!(bus.receive(&client, LONG).await.len(), 1);
    let metrics = bus
        .as_admin(Method::GET, "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("backbone_bus_rest_leased 65536"));
}

#[actix_web::test]
async fn what_is_no_id_is_refused_and_changes_nothing() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    fill(&bus, &client, 1).await;
    let items = bus.receive(&client, "?ack=explicit&lease=60").await;
    let good = items[0]["ack"].as_str().unwrap().to_owned();
    let field = async |path: &str, body: &str| {
        let request = bus.by(&client, Method::POST, path).body(body.to_owned());
        let request = request.header("content-type", "application/json");
        error_of(request.send().await.unwrap(), 400).await["field"].clone()
    };
    for body in [
        "{}".to_owned(),
        "[]".to_owned(),
        format!("[[\"{good}\"]]"),
        format!("{{\"ids\":\"{good}\"}}"),
        format!("{{\"ids\":[\"{good}\",\"x\"]}}"),
        format!("{{\"ids\":[\"{good}\",7]}}"),
        format!("{{\"ids\":[\"{good}\"],\"ids\":[]}}"),
    ] {
        for path in ["/ack", "/nack"] {
            assert_eq!(field(path, &body).await, "ids", "{body}");
        }
    }
    let body = format!("{{\"ids\":[\"{good}\"],\"requeue\":\"no\"}}");
    assert_eq!(field("/nack", &body).await, "requeue");
    let operator = bus
        .as_admin(Method::POST, "/ack")
        .json(&json!({"ids": [good]}));
    error_of(operator.send().await.unwrap(), 403).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(
        post(&bus, &client, "/ack", &json!({"ids": [good]})).await["count"],
        1
    );
}
