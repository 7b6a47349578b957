//! Connections through a proxy that says for whom it speaks (PROXY protocol, versions 1 and 2).

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use backbone_wire::PROTOCOL_HEADER;
use common::raw::Raw;
use common::{ADMIN_SECRET, Server};

const PROXIES: (&str, &str) = ("BACKBONE_AMQP__PROXIES", "127.0.0.0/8");

/// A header that says that the peer is at `address`.
fn header(address: Ipv4Addr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&address.octets());
    header.extend_from_slice(&[127, 0, 0, 1, 0x30, 0x39, 0x16, 0x28]);
    header
}

/// The same as a line of version 1.
fn line(address: &str) -> Vec<u8> {
    let family = if address.contains(':') {
        "TCP6"
    } else {
        "TCP4"
    };
    let to = if address.contains(':') {
        "::1"
    } else {
        "127.0.0.1"
    };
    format!("PROXY {family} {address} {to} 12345 5672\r\n").into_bytes()
}

/// Logs in after `header`.
fn login(server: &Server, header: &[u8], user: &str, secret: &str) -> Result<Raw, (u16, String)> {
    let mut raw = Raw::silent(server.amqp[0]);
    raw.send(header);
    raw.log_in(user, secret, 0)
}

#[actix_web::test]
async fn the_peer_is_whom_the_proxy_names() {
    let server = Server::with(&[PROXIES]).await;
    let far = header(Ipv4Addr::new(192, 0, 2, 7));
    assert!(login(&server, &far, "admin", ADMIN_SECRET).is_ok());
    let refused = login(&server, &far, "guest", "guest").err();
    assert_eq!(refused.map(|close| close.0), Some(403), "guest from afar");
    let near = header(Ipv4Addr::LOCALHOST);
    assert!(login(&server, &near, "guest", "guest").is_ok());
}

#[actix_web::test]
async fn a_line_names_the_peer_too() {
    let server = Server::with(&[PROXIES]).await;
    for far in ["192.0.2.7", "2001:db8::7"] {
        assert!(login(&server, &line(far), "admin", ADMIN_SECRET).is_ok());
        let refused = login(&server, &line(far), "guest", "guest").err();
        assert_eq!(refused.map(|close| close.0), Some(403), "guest from {far}");
    }
    for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let guest = login(&server, &line(near), "guest", "guest");
        assert!(guest.is_ok(), "guest from {near}");
    }
}

#[actix_web::test]
async fn the_management_interface_shows_whom_the_proxy_names() {
    let server = Server::with(&[PROXIES]).await;
    let _connection = login(&server, &line("2001:db8::7"), "admin", ADMIN_SECRET).unwrap();
    let shown: serde_json::Value = reqwest::Client::new()
        .get(server.url("/api/connections"))
        .basic_auth("admin", Some(ADMIN_SECRET))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(shown[0]["peer_host"], "2001:db8::7");
    assert_eq!(shown[0]["peer_port"], 12345);
}

/// Who speaks through a proxy that does not tell where it is may be anywhere.
#[actix_web::test]
async fn an_unknown_peer_is_not_on_this_machine() {
    let server = Server::with(&[PROXIES]).await;
    let nameless = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
    for unknown in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN 1 2\r\n",
        nameless,
    ] {
        assert!(login(&server, unknown, "admin", ADMIN_SECRET).is_ok());
        let refused = login(&server, unknown, "guest", "guest").err();
        assert_eq!(refused.map(|close| close.0), Some(403));
    }
    let itself = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert!(login(&server, itself, "guest", "guest").is_ok());
}

#[actix_web::test]
async fn a_header_may_come_octet_by_octet_and_amqp_in_the_same_segment() {
    let server = Server::with(&[PROXIES]).await;
    for header in [line("192.0.2.7"), header(Ipv4Addr::new(192, 0, 2, 7))] {
        let mut raw = Raw::silent(server.amqp[0]);
        // The socket has no delay, so that each octet is a segment of its own.
        for octet in &header {
            raw.send(std::slice::from_ref(octet));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(raw.log_in("admin", ADMIN_SECRET, 0).is_ok());
        let mut raw = Raw::silent(server.amqp[0]);
        raw.send(&[&header[..], &PROTOCOL_HEADER].concat());
        raw.expect("connection.start");
    }
}

#[actix_web::test]
async fn a_line_that_cannot_be_understood_is_dropped_at_once() {
    let server = Server::with(&[PROXIES]).await;
    let long = [b"PROXY UNKNOWN", &[b' '; 200][..]].concat();
    for wrong in [
        &b"PROXY TCP4 192.0.2.7 127.0.0.1 65536 5672\r\n"[..],
        b"PROXY TCP4 192.0.2.777 127.0.0.1 1 5672\r\n",
        b"PROXY TCP6 192.0.2.7 127.0.0.1 1 5672\r\n",
        b"PROXY SCTP 192.0.2.7 127.0.0.1 1 5672\r\n",
        &PROTOCOL_HEADER,
        &long,
    ] {
        let mut raw = Raw::silent(server.amqp[0]);
        raw.send(wrong);
        let mut rest = Vec::new();
        let since = Instant::now();
        let _ = raw.stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}", wrong.escape_ascii());
        // The handshake's time-out is 10 s.
        assert!(since.elapsed() < Duration::from_secs(8));
    }
}

#[actix_web::test]
async fn a_proxy_that_does_not_say_for_whom_it_speaks_is_dropped() {
    let server = Server::with(&[PROXIES]).await;
    let mut raw = Raw::silent(server.amqp[0]);
    raw.send(&PROTOCOL_HEADER);
    raw.send(&PROTOCOL_HEADER);
    let mut rest = Vec::new();
    // A reset says the same as an end.
    let _ = raw.stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[actix_web::test]
async fn who_is_no_proxy_cannot_speak_for_others() {
    let server = Server::with(&[("BACKBONE_AMQP__PROXIES", "192.0.2.0/24")]).await;
    for header in [header(Ipv4Addr::new(192, 0, 2, 7)), line("192.0.2.7")] {
        let mut raw = Raw::silent(server.amqp[0]);
        raw.send(&header);
        let mut rest = Vec::new();
        let _ = raw.stream.read_to_end(&mut rest);
        assert_eq!(rest, PROTOCOL_HEADER, "what we speak");
    }
    assert!(Raw::login(server.amqp[0], "guest", "guest", 0).is_ok());
}
