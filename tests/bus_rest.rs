// Long because: one subject, the bus's routes, and the helpers that all its tests share.
//! The bus over REST, from outside.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::Server;
use common::bus::{Bus, Pair, error_of, payloads};
use common::raw::Raw;
use reqwest::Method;
use serde_json::{Value, json};

#[actix_web::test]
async fn a_client_is_registered_changed_and_removed() {
    let bus = Bus::start(&[]).await;
    let record =
        json!({"client_id": "noc-c2", "client_name": "NocC2", "subscription": "soar.noc.#"});
    let answer = bus
        .as_admin(Method::POST, "/clients")
        .json(&record)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let mut created: Value = answer.json().await.unwrap();
    let secret = created["secret"].take();
    assert_eq!(secret.as_str().unwrap().len(), 43);
    let expected = json!({
        "client_id": "noc-c2", "client_name": "NocC2", "subscription": "soar.noc.#",
        "subscriptions": ["soar.noc.#"], "exclude_own": false, "disabled": false, "secret": null,
        "api": bus.server.url(""),
    });
    assert_eq!(created, expected);
    let again = bus
        .as_admin(Method::POST, "/clients")
        .json(&record)
        .send()
        .await
        .unwrap();
    error_of(again, 409).await;

    let change = json!({"subscriptions": ["a", "b"], "exclude_own": true});
    let patched = bus
        .as_admin(Method::PATCH, "/clients/noc-c2")
        .json(&change)
        .send()
        .await
        .unwrap();
    assert_eq!(patched.status(), 200);
    let shown: Value = bus
        .as_admin(Method::GET, "/clients")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let expected = json!([{
        "client_id": "noc-c2", "client_name": "NocC2", "subscription": "a",
        "subscriptions": ["a", "b"], "exclude_own": true, "disabled": false,
    }]);
    assert_eq!(shown, expected);
    let other = bus
        .as_admin(Method::PUT, "/clients/noc-c2")
        .json(&json!({"client_id": "x"}));
    assert_eq!(
        error_of(other.send().await.unwrap(), 400).await["field"],
        "client_id"
    );

    let removed = bus
        .as_admin(Method::DELETE, "/clients/noc-c2")
        .send()
        .await
        .unwrap();
    assert_eq!(removed.status(), 204);
    let gone = bus
        .as_admin(Method::GET, "/clients/noc-c2")
        .send()
        .await
        .unwrap();
    error_of(gone, 404).await;
}

#[actix_web::test]
async fn clients_and_their_secrets_survive_a_restart() {
    let mut bus = Bus::start(&[]).await;
    let a = bus.create("a", "").await;
    let mut b = bus.create("b", "t.#").await;
    let rotated = bus
        .by(&b, Method::POST, "/clients/b/secret")
        .send()
        .await
        .unwrap();
    assert_eq!(rotated.status(), 200);
    let rotated: Value = rotated.json().await.unwrap();
    let old = std::mem::replace(&mut b.1, rotated["secret"].as_str().unwrap().to_owned());
    let not_mine = bus
        .by(&a, Method::POST, "/clients/b/secret")
        .send()
        .await
        .unwrap();
    error_of(not_mine, 403).await;
    let dir = bus.server.data_dir();
    bus.server.kill();

    let bus = Bus::of(Server::on(dir, &[]).await);
    assert_eq!(bus.send(&a, "t.x", &json!(1)).await.status(), 200);
    assert_eq!(payloads(&bus.receive_all(&b, 1).await), [json!(1)]);
    error_of(
        bus.by(&("b".into(), old), Method::GET, "/receive")
            .send()
            .await
            .unwrap(),
        401,
    )
    .await;
}

#[actix_web::test]
async fn the_answer_of_send_is_what_readers_see() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "t").await;
    let accepted: Value = bus
        .send(&client, "t", &json!("x"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&accepted["message"], &accepted["topic"]),
        (&json!("accepted"), &json!("t"))
    );
    let items = bus.receive_all(&client, 1).await;
    assert_eq!(items[0]["id"], accepted["id"]);
    assert_eq!(items[0]["sender"], "a");
    assert_eq!(bus.receive(&client, "").await, [] as [Value; 0]);
}

#[actix_web::test]
async fn json_payloads_come_back_byte_for_byte() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    for payload in [
        "1e400",
        "1.00",
        "\"{\\\"b\\\":1}\"",
        "{\"b\":1,  \"a\":[1.50,null]}",
        "{\"topic\":\"t\",\"message\":{\"topic\":\"u\",\"body\":1}}",
    ] {
        let body = format!("{{\"topic\":\"t\",\"data\":{payload}}}");
        let sent = bus.by(&client, Method::POST, "/send").body(body);
        let sent = sent
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 200);
        let text = bus
            .by(&client, Method::GET, "/receive")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(
            text.contains(&format!("\"message\":{payload},\"body\":{payload},")),
            "{text}"
        );
    }
}

#[actix_web::test]
async fn other_bodies_are_the_payload_itself() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let cases: [(&str, &[u8], Value, Option<&str>); 4] = [
        (
            "text/plain",
            b"{\"topic\":\"x\",\"body\":1}",
            json!("{\"topic\":\"x\",\"body\":1}"),
            None,
        ),
        (
            "application/octet-stream",
            b"\x00\xff",
            json!("AP8="),
            Some("base64"),
        ),
        (
            "application/x-www-form-urlencoded",
            b"topic=t&body=a%20b",
            json!("a b"),
            None,
        ),
        (
            "application/x-www-form-urlencoded",
            b"{\"body\":[1]}",
            json!([1]),
            None,
        ),
    ];
    for (content_type, body, payload, encoding) in cases {
        let sent = bus
            .by(&client, Method::POST, "/send")
            .header("x-topic", "t")
            .body(body.to_vec());
        let sent = sent
            .header("content-type", content_type)
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 200, "{}", sent.text().await.unwrap());
        let items = bus.receive_all(&client, 1).await;
        assert_eq!(
            (&items[0]["body"], &items[0]["topic"]),
            (&payload, &json!("t"))
        );
        assert_eq!(items[0].get("encoding").and_then(Value::as_str), encoding);
    }
}

#[actix_web::test]
async fn what_is_wrong_with_a_message_is_named() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let post = async |path: &str, body: &str| {
        let request = bus.by(&client, Method::POST, path).body(body.to_owned());
        request
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap()
    };
    let error = error_of(
        post("/send", "{\"topic\":\"x\",\n \"body\": nope}").await,
        400,
    )
    .await;
    assert_eq!(error["error"], "malformed_json");
    assert!(
        error["message"].as_str().unwrap().contains("line 2 column"),
        "{error}"
    );
    for (body, field) in [
        ("{\"body\":1}", "topic"),
        ("{\"body\":1,\"topic\":\"\"}", "topic"),
        ("{\"body\":1,\"topic\":5}", "topic"),
        ("{\"topic\":\"x\"}", "body"),
        ("{\"topic\":\"x\",\"body\":1,\"data\":2}", "body"),
    ] {
        assert_eq!(
            error_of(post("/send", body).await, 400).await["field"],
            field,
            "{body}"
        );
    }
    error_of(post("/notify", "[1]").await, 400).await;
    error_of(
        post("/send?client_id=b", "{\"body\":1,\"topic\":\"x\"}").await,
        403,
    )
    .await;
    let operator = bus.as_admin(Method::GET, "/receive").send().await.unwrap();
    error_of(operator, 403).await;
    let query = bus
        .by(&client, Method::GET, "/receive?limit=-1")
        .send()
        .await
        .unwrap();
    error_of(query, 400).await;
    assert_eq!(
        bus.receive(&client, "").await,
        [] as [Value; 0],
        "nothing got through"
    );
}

#[actix_web::test]
async fn a_broadcast_reaches_everybody() {
    let bus = Bus::start(&[]).await;
    let (a, b) = (bus.create("a", "").await, bus.create("b", "").await);
    for path in ["/notify", "/broadcast"] {
        let sent = bus
            .by(&a, Method::POST, path)
            .json(&json!({"body": path}))
            .send()
            .await
            .unwrap();
        let accepted: Value = sent.json().await.unwrap();
        assert_eq!(accepted["topic"], Value::Null);
        for client in [&a, &b] {
            let items = bus.receive_all(client, 1).await;
            assert_eq!(
                (&items[0]["body"], &items[0]["topic"]),
                (&json!(path), &Value::Null)
            );
            assert_eq!(items[0]["delivery_type"], "broadcast");
        }
    }
}

#[actix_web::test]
async fn an_answer_holds_no_more_than_it_may() {
    let bus = Bus::start(&[("BACKBONE_LIMITS__RECEIVE_MAX_BYTES", "10000")]).await;
    let client = bus.create("a", "#").await;
    for n in 0..20 {
        let body = json!([n, "x".repeat(2000)]);
        assert_eq!(bus.send(&client, "t", &body).await.status(), 200);
    }
    let first = bus.receive(&client, "?max_bytes=100000000").await;
    assert!((1..=4).contains(&first.len()), "{}", first.len());
    assert_eq!(
        bus.receive(&client, "?max_bytes=1").await.len(),
        1,
        "one always passes"
    );
    assert_eq!(bus.receive(&client, "?limit=2").await.len(), 2);
    let seen = first.len() + 3;
    let rest = bus.receive_all(&client, 20 - seen).await;
    let numbers: Vec<_> = rest
        .iter()
        .map(|item| item["body"][0].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (seen as u64..20).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_reader_that_breaks_off_gets_its_messages_again_in_order() {
    const COUNT: u64 = 12;
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    for n in 0..COUNT {
        // Together more than the buffers between server and reader can hold.
        let body = json!([n, "x".repeat(1_000_000)]);
        assert_eq!(bus.send(&client, "t", &body).await.status(), 200);
    }
    let credentials = STANDARD.encode(format!("{}:{}", client.0, client.1));
    let request =
        format!("GET /receive HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\r\n");
    let mut reader = TcpStream::connect(bus.server.http[0]).unwrap();
    reader.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 1000];
    reader.read_exact(&mut start).unwrap();
    assert!(start.starts_with(b"HTTP/1.1 200"));
    assert_eq!(
        bus.receive(&client, "").await,
        [] as [Value; 0],
        "they are handed out"
    );
    drop(reader);
    let items = bus.receive_all(&client, COUNT as usize).await;
    let numbers: Vec<_> = items
        .iter()
        .map(|item| item["body"][0].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_reader_of_http_1_0_gets_no_chunks() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    bus.send(&client, "t", &json!(1)).await;
    let mut connection = TcpStream::connect(bus.server.http[0]).unwrap();
    let (id, secret) = &client;
    let request = format!("GET /receive?client_id={id}&secret={secret} HTTP/1.0\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    connection
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("chunked"), "{head}");
    let items: Vec<Value> = serde_json::from_str(body).unwrap();
    assert_eq!(payloads(&items), [json!(1)]);
    assert!(bus.receive(&client, "").await.is_empty());
}

#[actix_web::test]
async fn senders_wait_while_memory_is_short_and_readers_go_on() {
    let bus = Bus::start(&[
        ("BACKBONE_LIMITS__MEMORY_BYTES", "2000000"),
        ("BACKBONE_DURABILITY__LEVEL", "memory"),
    ])
    .await;
    let client = bus.create("a", "#").await;
    // What waits would go to the disk; what a reader holds stays in memory.
    let (id, secret) = &client;
    let mut holder = Raw::login(bus.server.amqp[0], id, secret, 0).unwrap();
    holder.consume(&format!("{id}-inbox"), false);
    let held = holder.stream.try_clone().unwrap();
    let holds = std::thread::spawn(move || while holder.frame().is_some() {});
    let body = json!("x".repeat(500_000));
    let mut accepted = 0;
    let refused = loop {
        let answer = bus.send(&client, "t", &body).await;
        if answer.status() != 200 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 20, "nobody stops the sender");
    };
    assert_eq!(refused.headers()["retry-after"], "1");
    error_of(refused, 503).await;
    held.shutdown(Shutdown::Both).unwrap();
    holds.join().unwrap();
    assert_eq!(bus.receive_all(&client, accepted).await.len(), accepted);
    assert_eq!(bus.send(&client, "t", &body).await.status(), 200);
}

#[actix_web::test]
async fn many_senders_over_rest_lose_nothing() {
    const SENDERS: u64 = 10;
    const EACH: u64 = 50;
    let bus = Bus::start(&[]).await;
    let reader = bus.create("reader", "t.#").await;
    let mut senders = Vec::new();
    for n in 0..SENDERS {
        senders.push(bus.create(&format!("s{n}"), "").await);
    }
    let send_all = async |sender: &Pair| {
        for n in 0..EACH {
            assert_eq!(bus.send(sender, "t.x", &json!(n)).await.status(), 200);
        }
    };
    let sending = futures_util::future::join_all(senders.iter().map(send_all));
    let reading = bus.receive_all(&reader, (SENDERS * EACH) as usize);
    let (_, items) = futures_util::future::join(sending, reading).await;
    for (id, _) in &senders {
        let from = items.iter().filter(|item| item["sender"] == id.as_str());
        let numbers: Vec<_> = from.map(|item| item["body"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "from {id}");
    }
}

#[actix_web::test]
async fn many_who_want_the_same_id_at_once_get_one_client() {
    let bus = Bus::start(&[]).await;
    let record = json!({"client_id": "a"});
    let calls = (0..100).map(|_| bus.as_admin(Method::POST, "/clients").json(&record).send());
    let answers = futures_util::future::join_all(calls).await;
    let mut secrets = Vec::new();
    for answer in answers {
        let answer = answer.unwrap();
        match answer.status().as_u16() {
            201 => {
                let record: Value = answer.json().await.unwrap();
                secrets.push(record["secret"].as_str().unwrap().to_owned());
            }
            status => assert_eq!(status, 409),
        }
    }
    assert_eq!(secrets.len(), 1);
    let client = ("a".to_owned(), secrets.remove(0));
    assert!(bus.receive(&client, "").await.is_empty());
}

#[actix_web::test]
async fn what_receive_cannot_do_is_refused_before_anything_is_taken() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    bus.send(&client, "t", &json!(1)).await;
    for (query, field) in [
        ("ack=perhaps", "ack"),
        ("lease=5", "lease"),
        ("ack=write&lease=5", "lease"),
        ("ack=explicit&lease=0", "lease"),
        ("ack=explicit&lease=nan", "lease"),
        ("ack=explicit&lease=3601", "lease"),
        ("wait=nan", "wait"),
        ("wait=-1", "wait"),
    ] {
        let path = format!("/receive?{query}");
        let answer = bus.by(&client, Method::GET, &path).send().await.unwrap();
        assert_eq!(error_of(answer, 400).await["field"], field, "{query}");
    }
    assert_eq!(payloads(&bus.receive_all(&client, 1).await), [json!(1)]);
}

#[actix_web::test]
async fn every_route_is_documented_and_counted() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    bus.send(&client, "t", &json!(1)).await;
    bus.receive_all(&client, 1).await;
    let api: Value = bus
        .call(Method::GET, "/openapi.json")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    for (path, method) in [
        ("/clients", "post"),
        ("/clients", "get"),
        ("/clients/{client_id}", "get"),
        ("/clients/{client_id}", "put"),
        ("/clients/{client_id}", "patch"),
        ("/clients/{client_id}", "delete"),
        ("/clients/{client_id}/secret", "post"),
        ("/clients/{client_id}/webhook-secret", "post"),
        ("/send", "post"),
        ("/notify", "post"),
        ("/receive", "get"),
        ("/ack", "post"),
        ("/nack", "post"),
    ] {
        assert!(
            api["paths"][path][method]["responses"].is_object(),
            "{method} {path}"
        );
    }
    let schemas = &api["components"]["schemas"];
    for (schema, property) in [
        ("ReceivedItem", "sender"),
        ("ClientFields", "subscriptions"),
        ("Message", "topic"),
    ] {
        assert!(
            schemas[schema]["properties"][property].is_object(),
            "{schema}"
        );
    }
    let metrics = bus
        .as_admin(Method::GET, "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        "backbone_bus_clients 1",
        "backbone_bus_accepted_total{flow=\"publish\"} 1",
        "backbone_bus_delivered_total{flow=\"publish\"} 1",
        "backbone_bus_rest_sent_total 1",
        "backbone_bus_rest_received_total 1",
        "backbone_actor_started_total{kind=\"bus_client\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in {metrics}"
        );
    }
}
