//! Connections through a proxy that says for whom it speaks (PROXY protocol, version 2).

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::Ipv4Addr;

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
    let mut raw = Raw::silent(server.amqp[0]);
    raw.stream
        .write_all(&header(Ipv4Addr::new(192, 0, 2, 7)))
        .unwrap();
    let mut rest = Vec::new();
    let _ = raw.stream.read_to_end(&mut rest);
    assert_eq!(rest, PROTOCOL_HEADER, "what we speak");
    assert!(Raw::login(server.amqp[0], "guest", "guest", 0).is_ok());
}
