//! Bodies of `/send` that are not JSON: the bytes are the payload.

#![allow(clippy::unwrap_used)]

use crate::common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::bus::{Bus, Pair, error_of};
use common::raw::Raw;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

fn sending(
    bus: &Bus,
    client: &Pair,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> RequestBuilder {
    let request = bus.by(client, Method::POST, path).body(body.to_vec());
    request.header("content-type", content_type)
}

/// The bytes of an item, whichever way it shows them.
fn bytes(item: &Value) -> Vec<u8> {
    let text = item["body"].as_str().unwrap();
    assert_eq!(item["message"], item["body"]);
    match item.get("encoding") {
        Some(encoding) => {
            assert_eq!(encoding, "base64");
            STANDARD.decode(text).unwrap()
        }
        None => text.as_bytes().to_vec(),
    }
}

#[actix_web::test]
async fn bytes_come_back_as_they_were_sent() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let all: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 3) as u8)
        .collect();
    let bodies: [(&str, &[u8]); 9] = [
        ("application/octet-stream", &all),
        ("application/octet-stream", &large),
        ("application/octet-stream", b""),
        ("application/octet-stream", b"{\"topic\":\"x\",\"body\":1}"),
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("text/plain; charset=latin1", b"Stra\xdfe"),
        ("text/plain", "Stra\u{df}e \u{0}\r\n\"".as_bytes()),
        ("application/cbor", b"\xa1\x61a\x01"),
        ("nonsense", b"\xc3("),
    ];
    for path in ["/send?topic=t.x", "/notify"] {
        for (content_type, body) in bodies {
            let sent = sending(&bus, &client, path, content_type, body)
                .send()
                .await
                .unwrap();
            assert_eq!(sent.status(), 200, "{content_type}");
            let items = bus.receive_all(&client, 1).await;
            assert_eq!(bytes(&items[0]), body, "{content_type}");
        }
    }
}

#[actix_web::test]
async fn a_reader_over_amqp_gets_the_bytes_themselves() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let body = b"\x00\xff\xfe binary";
    let sent = sending(&bus, &client, "/send?topic=t", "image/png", body);
    assert_eq!(sent.send().await.unwrap().status(), 200);
    let (id, secret) = &client;
    let mut reader = Raw::login(bus.server.amqp[0], id, secret, 0).unwrap();
    reader.consume(&format!("{id}-inbox"), true);
    let mut seen = Vec::new();
    while !seen.ends_with(body) {
        seen.extend(reader.frame().unwrap().2);
    }
}

#[actix_web::test]
async fn what_readers_could_not_be_told_is_refused() {
    let bus = Bus::start(&[]).await;
    let client = bus.create("a", "#").await;
    let long = format!("text/{}", "x".repeat(251));
    let refused = sending(&bus, &client, "/send?topic=t", &long, b"x")
        .send()
        .await
        .unwrap();
    assert_eq!(error_of(refused, 400).await["field"], "Content-Type");
    for encoding in ["gzip", "identity, gzip", "br"] {
        for content_type in ["application/x-ndjson", "image/png"] {
            let zipped = sending(
                &bus,
                &client,
                "/send?topic=t",
                content_type,
                b"\x1f\x8b\x08",
            );
            let refused = zipped
                .header("content-encoding", encoding)
                .send()
                .await
                .unwrap();
            assert_eq!(error_of(refused, 415).await["field"], "Content-Encoding");
        }
    }
    let latin = reqwest::header::HeaderValue::from_bytes(b"stra\xdfe").unwrap();
    let refused = sending(&bus, &client, "/send", "text/plain", b"x").header("x-topic", latin);
    assert_eq!(
        error_of(refused.send().await.unwrap(), 400).await["field"],
        "X-Topic"
    );
    let refused = sending(&bus, &client, "/send", "text/plain", b"x")
        .send()
        .await
        .unwrap();
    assert_eq!(error_of(refused, 400).await["field"], "topic");
    assert!(
        bus.receive(&client, "").await.is_empty(),
        "nothing got through"
    );
    let longest = &long[..255];
    let sent = sending(&bus, &client, "/send?topic=t", longest, b"x")
        .header("content-encoding", "identity");
    assert_eq!(sent.send().await.unwrap().status(), 200);
    let items = bus.receive_all(&client, 1).await;
    assert_eq!(items[0]["body"], json!("x"));
}
