//! The end of the server, what is left for the next start, and the limit of connections.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::{Duration, Instant};

use backbone_wire::PROTOCOL_HEADER;
use backbone_wire::method::{Method, connection};
use common::raw::{Raw, publish};
use common::{ADMIN_SECRET, Server};
use serde_json::{Value, json};

#[actix_web::test]
async fn peers_that_say_nothing_do_not_hold_up_the_end() {
    let mut server = Server::start().await;
    let mut peers: Vec<Raw> = (0..40).map(|_| Raw::silent(server.amqp[0])).collect();
    for peer in peers.iter_mut().step_by(2) {
        peer.send(&PROTOCOL_HEADER);
        peer.expect("connection.start");
    }
    let since = Instant::now();
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(2));
    for mut peer in peers {
        assert_eq!(peer.read_to_end(), None);
    }
}

#[actix_web::test]
async fn peers_that_do_not_answer_hold_up_the_end_for_the_bound_at_most() {
    let mut server = Server::with(&[("BACKBONE_SHUTDOWN__DRAIN_MS", "1000")]).await;
    let mut deaf = Raw::open(server.amqp[0], 0);
    let mut stuck = Raw::open(server.amqp[0], 0);
    stuck.declare("q");
    stuck.consume("q", false);
    for _ in 0..16 {
        deaf.send(&publish("q", &vec![0; 1024 * 1024]));
    }
    deaf.declare("done");
    let since = Instant::now();
    assert_eq!(server.terminate().await.code(), Some(0));
    let took = since.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_millis(2500)).contains(&took),
        "{took:?}"
    );
    assert_eq!(deaf.read_to_end(), Some(320));
    let refused = std::net::TcpStream::connect(server.amqp[0]);
    assert!(refused.is_err());
}

#[actix_web::test]
async fn users_survive_a_restart() {
    let mut server = Server::start().await;
    let answer = reqwest::Client::new()
        .post(server.url("/clients"))
        .basic_auth("admin", Some(ADMIN_SECRET))
        .json(&json!({ "client_id": "noc" }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let created: Value = answer.json().await.unwrap();
    let secret = created["secret"].as_str().unwrap();
    assert!(Raw::login(server.amqp[0], "noc", secret, 0).is_ok());
    assert_eq!(server.terminate().await.code(), Some(0));
    let server = Server::on(server.data_dir(), &[]).await;
    let mut again = Raw::login(server.amqp[0], "noc", secret, 0).unwrap();
    again.consume("noc-inbox", true);
    let wrong = Raw::login(server.amqp[0], "noc", "wrong", 0);
    assert_eq!(wrong.err().unwrap().0, 403);
}

#[actix_web::test]
async fn connections_beyond_the_limit_are_told_so() {
    let server = Server::with(&[("BACKBONE_LIMITS__CONNECTIONS", "2")]).await;
    let mut first = Raw::open(server.amqp[0], 0);
    let second = Raw::open(server.amqp[0], 0);
    let (code, text) = Raw::login(server.amqp[0], "guest", "guest", 0)
        .err()
        .unwrap();
    assert_eq!(code, 530);
    assert!(text.contains("limit of connections (2)"), "{text}");
    first.method(0, &Method::ConnectionClose(connection::Close::default()));
    first.expect("connection.close-ok");
    drop(first);
    let since = Instant::now();
    while Raw::login(server.amqp[0], "guest", "guest", 0).is_err() {
        assert!(since.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(second);
    // Many at once are turned away without a word, and nobody is harmed.
    let mut crowd: Vec<Raw> = (0..200).map(|_| Raw::silent(server.amqp[0])).collect();
    let told = crowd.split_off(150);
    for mut peer in told {
        assert_eq!(peer.read_to_end(), None);
    }
}
