//! A client's inbox as server-sent events: `/receive/stream`.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::Duration;

use common::bus::{Bus, Pair, error_of, payloads};
use reqwest::{Method, Response};
use serde_json::{Value, json};

/// A stream that is read event by event.
struct Events {
    answer: Response,
    text: String,
}

/// An event: its id and the item.
type Event = (Option<String>, Value);

impl Events {
    async fn open(bus: &Bus, client: &Pair, query: &str) -> Self {
        let path = format!("/receive/stream{query}");
        let answer = bus.by(client, Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let text = String::new();
        Self { answer, text }
    }

    /// The next event; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = parse(event);
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.answer.chunk());
            let piece = piece.await.unwrap().ok()??;
            self.text += std::str::from_utf8(&piece).unwrap();
        }
    }

    async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut items = Vec::new();
        while items.len() < count {
            items.push(self.next().await.unwrap().1);
        }
        items
    }
}

/// `None` for what is no event but a comment or a setting.
fn parse(event: &str) -> Option<Event> {
    let (mut id, mut data) = (None, Vec::new());
    for line in event.lines() {
        match line.split_once(": ").unwrap() {
            ("id", value) => id = Some(value.to_owned()),
            ("data", value) => data.push(value),
            ("event", value) => assert_eq!(value, "message"),
            (other, _) => assert!(["", "retry"].contains(&other), "{other}"),
        }
    }
    (!data.is_empty()).then(|| (id, serde_json::from_str(&data.join("\n")).unwrap()))
}

async fn fill(bus: &Bus, client: &Pair, numbers: std::ops::Range<usize>, filler: usize) {
    let of = |n| json!({"topic": "t", "body": [n, "x".repeat(filler)]});
    let body = Value::from_iter(numbers.map(of));
    let sent = bus.by(client, Method::POST, "/send").json(&body);
    assert_eq!(sent.send().await.unwrap().status(), 200);
}

fn numbers(items: &[Value]) -> Vec<u64> {
    items
        .iter()
        .map(|item| item["body"][0].as_u64().unwrap())
        .collect()
}

#[actix_web::test]
async fn messages_come_in_order_as_they_arrive_and_are_gone() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    fill(&bus, &client, 0..600, 10).await;
    let mut events = Events::open(&bus, &client, "").await;
    let mut items = events.take(600).await;
    fill(&bus, &client, 600..601, 10).await;
    let (id, item) = events.next().await.unwrap();
    assert_eq!(id.as_deref(), item["id"].as_str());
    assert_eq!(
        (&item["sender"], &item["topic"]),
        (&json!("a"), &json!("t"))
    );
    items.push(item);
    assert_eq!(numbers(&items), (0..601).collect::<Vec<_>>());
    drop(events);
    assert!(bus.receive(&client, "?wait=0.3").await.is_empty());
}

#[actix_web::test]
async fn payloads_with_line_ends_are_one_event() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let body = "{\"topic\":\"t\",\"body\":{\r\n\"a\":\n\n1}}".to_owned();
    let sent = bus.by(&client, Method::POST, "/send").body(body);
    let sent = sent.header("content-type", "application/json");
    assert_eq!(sent.send().await.unwrap().status(), 200);
    let mut events = Events::open(&bus, &client, "").await;
    assert_eq!(payloads(&events.take(1).await), [json!({"a": 1})]);
}

#[actix_web::test]
async fn a_reader_that_does_not_read_holds_little_and_others_get_the_rest() {
    const COUNT: usize = 400;
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    for n in 0..COUNT {
        fill(&bus, &client, n..n + 1, 50_000).await;
    }
    // Twice 20 MB: more than the sockets' buffers hold.
    let mut events = Events::open(&bus, &client, "").await;
    let first = events.take(3).await;
    assert_eq!(numbers(&first), [0, 1, 2]);
    // It does not read on. Others get all but what its connection has taken.
    let mut seen = numbers(&bus.receive_all(&client, COUNT / 2).await);
    loop {
        let more = numbers(&bus.receive(&client, "?wait=1").await);
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    let rest = events.take(COUNT - 3 - seen.len()).await;
    seen.extend(numbers(&rest));
    seen.sort_unstable();
    assert_eq!(seen, (3..COUNT as u64).collect::<Vec<_>>());
}

#[actix_web::test]
async fn what_is_not_acknowledged_comes_again() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    fill(&bus, &client, 0..3, 1).await;
    let mut events = Events::open(&bus, &client, "?ack=explicit&lease=1").await;
    let items = events.take(3).await;
    let body = json!({"ids": [items[1]["ack"]]});
    let answer = bus
        .by(&client, Method::POST, "/ack")
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["count"], 1);
    let again = events.take(2).await;
    assert_eq!(numbers(&again), [0, 2]);
    assert!(again.iter().all(|item| item["redelivered"] == json!(true)));
}

#[actix_web::test]
async fn two_streams_share_an_inbox() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let mut one = Events::open(&bus, &client, "").await;
    let mut two = Events::open(&bus, &client, "").await;
    let mut seen = Vec::new();
    for n in 0..20 {
        fill(&bus, &client, n..n + 1, 1).await;
        let (_, item) = tokio::select! {
            event = one.next() => event.unwrap(),
            event = two.next() => event.unwrap(),
        };
        seen.push(item);
    }
    assert_eq!(numbers(&seen), (0..20).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_stream_ends_with_what_its_client_may_do_and_with_the_server() {
    let mut bus = Bus::start(&[]).await;
    let (a, b, c) = (
        bus.create("a", "#").await,
        bus.create("b", "#").await,
        bus.create("c", "#").await,
    );
    let mut of_a = Events::open(&bus, &a, "").await;
    let mut of_b = Events::open(&bus, &b, "").await;
    let mut of_c = Events::open(&bus, &c, "").await;
    let rotated = bus
        .by(&a, Method::POST, "/clients/a/secret")
        .send()
        .await
        .unwrap();
    assert_eq!(rotated.status(), 200);
    let deleted = bus
        .as_admin(Method::DELETE, "/clients/b")
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), 204);
    fill(&bus, &c, 0..1, 1).await;
    assert_eq!(of_c.take(1).await.len(), 1);
    assert!(
        of_a.next().await.is_none(),
        "its secret is not the client's any more"
    );
    assert!(of_b.next().await.is_none(), "it has no inbox any more");
    let ending = bus.server.terminate();
    let (_, last) = futures_util::future::join(ending, of_c.next()).await;
    assert!(last.is_none());
}

#[actix_web::test]
async fn only_clients_have_one_and_queries_are_checked() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let operator = bus
        .as_admin(Method::GET, "/receive/stream")
        .send()
        .await
        .unwrap();
    error_of(operator, 403).await;
    let nobody = bus
        .call(Method::GET, "/receive/stream")
        .send()
        .await
        .unwrap();
    error_of(nobody, 401).await;
    for (query, field) in [
        ("ack=maybe", "ack"),
        ("lease=3", "lease"),
        ("ack=explicit&lease=-1", "lease"),
    ] {
        let path = format!("/receive/stream?{query}");
        let answer = bus.by(&client, Method::GET, &path).send().await.unwrap();
        assert_eq!(error_of(answer, 400).await["field"], field);
    }
}
