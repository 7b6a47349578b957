//! Vhosts from outside: made and deleted while the server runs, and who gets in.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use backbone_wire::method::{Method, queue};
use common::admin::Admin;
use common::raw::{PERSISTENT, Raw, publish_with, short};
use common::{ADMIN_SECRET, Server};
use serde_json::json;

fn durable(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        queue: short(name),
        durable: true,
        ..queue::Declare::default()
    }
}

fn enter(server: &Server, vhost: &str) -> Result<Raw, (u16, String)> {
    Raw::enter(server.amqp[0], "admin", ADMIN_SECRET, vhost, 0)
}

#[actix_web::test]
async fn a_vhost_is_entered_once_it_is_made_and_not_after_it_is_deleted() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let missing = (530, "NOT_ALLOWED - vhost new/one not found".to_owned());
    assert_eq!(enter(&server, "new/one").err(), Some(missing.clone()));
    let path = "/api/vhosts/new%2Fone";
    assert_eq!(admin.put(path, json!({"description": "d"})).await.0, 201);
    assert_eq!(admin.put(path, json!({})).await.0, 204);
    let page = admin.get(path).await.1;
    assert_eq!(
        (&page["name"], &page["description"]),
        (&json!("new/one"), &json!("d"))
    );
    let mut peer = enter(&server, "new/one").unwrap();
    let mut home = enter(&server, "/").unwrap();
    for peer in [&mut peer, &mut home] {
        peer.ask(&Method::QueueDeclare(durable("q")), "queue.declare-ok");
    }
    peer.send(&publish_with("", "q", PERSISTENT, b"body"));
    assert_eq!(peer.waiting("q"), 1);
    assert_eq!(home.waiting("q"), 0, "another vhost's");
    assert_eq!(
        admin.get("/api/queues/new%2Fone/q").await.1["messages_ready"],
        1
    );
    assert_eq!(admin.get("/api/queues/%2F/q").await.1["messages_ready"], 0);
    let metrics = admin.text("/metrics").await;
    assert!(
        metrics.contains("backbone_vhost_messages_ready{vhost=\"new/one\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("backbone_vhost_connections{vhost=\"new/one\"} 1"));

    assert_eq!(admin.delete(path).await, 204);
    let told = "CONNECTION_FORCED - vhost 'new/one' is deleted".to_owned();
    assert_eq!(peer.refusal(), (320, told));
    assert_eq!(enter(&server, "new/one").err(), Some(missing));
    assert_eq!(admin.delete(path).await, 404);
    assert_eq!(home.waiting("q"), 0, "the others go on");
    assert_eq!(
        admin.delete("/api/vhosts/%2F").await,
        400,
        "the bus lives there"
    );
}

#[actix_web::test]
async fn vhosts_and_what_is_in_them_survive_a_crash_and_deleted_ones_do_not_come_back() {
    let mut server = Server::start().await;
    let admin = Admin::of(&server);
    for vhost in ["kept", "gone", "again"] {
        assert_eq!(
            admin
                .put(&format!("/api/vhosts/{vhost}"), json!({}))
                .await
                .0,
            201
        );
        let mut peer = enter(&server, vhost).unwrap();
        peer.ask(&Method::QueueDeclare(durable("q")), "queue.declare-ok");
        peer.publish_confirmed(&publish_with("", "q", PERSISTENT, b"body"));
    }
    assert_eq!(admin.delete("/api/vhosts/gone").await, 204);
    assert_eq!(admin.delete("/api/vhosts/again").await, 204);
    assert_eq!(admin.put("/api/vhosts/again", json!({})).await.0, 201);
    let data_dir = server.data_dir();
    server.kill();
    let server = Server::on(data_dir, &[]).await;
    assert_eq!(enter(&server, "kept").unwrap().waiting("q"), 1);
    assert_eq!(enter(&server, "gone").err().unwrap().0, 530);
    let passive = queue::Declare {
        passive: true,
        ..durable("q")
    };
    let mut peer = enter(&server, "again").unwrap();
    assert_eq!(peer.ask_in_vain(&Method::QueueDeclare(passive)).0, 404);
    let names = Admin::of(&server).get("/api/vhosts").await.1;
    let names: Vec<_> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["name"])
        .collect();
    assert_eq!(names, ["/", "again", "kept"]);
}

#[actix_web::test]
async fn limits_of_a_vhost_count_and_change_while_it_is_used() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.put("/api/vhosts/v", json!({})).await;
    let connections = "/api/vhost-limits/v/max-connections";
    assert_eq!(admin.put(connections, json!({"value": 1})).await.0, 204);
    let mut first = enter(&server, "v").unwrap();
    let full = "NOT_ALLOWED - access to vhost 'v' refused for user 'admin': connection limit (1) is reached";
    assert_eq!(enter(&server, "v").err(), Some((530, full.to_owned())));
    assert_eq!(
        admin
            .put("/api/vhost-limits/v/max-queues", json!({"value": 1}))
            .await
            .0,
        204
    );
    let limits = json!([{"vhost": "v", "value": {"max-connections": 1, "max-queues": 1}}]);
    assert_eq!(admin.get("/api/vhost-limits").await.1, limits);
    first.ask(&Method::QueueDeclare(durable("one")), "queue.declare-ok");
    let refused = first.ask_in_vain(&Method::QueueDeclare(durable("two")));
    let full =
        "PRECONDITION_FAILED - cannot declare queue 'two': queue limit in vhost 'v' (1) is reached";
    assert_eq!(refused, (406, full.to_owned()));
    first.ask(&Method::QueueDeclare(durable("one")), "queue.declare-ok");
    assert_eq!(admin.delete(connections).await, 204);
    drop(enter(&server, "v").unwrap());
    for (limit, value, status) in [
        ("v/max-queues", json!({"value": "x"}), 400),
        ("v/max-queues", json!({}), 400),
        ("v/other", json!({"value": 1}), 400),
        ("none/max-queues", json!({"value": 1}), 404),
    ] {
        let path = format!("/api/vhost-limits/{limit}");
        assert_eq!(admin.put(&path, value).await.0, status, "{limit}");
    }
}

#[actix_web::test]
async fn the_level_of_a_vhost_is_configured_by_its_name() {
    let data_dir = Arc::new(tempfile::TempDir::new().unwrap());
    let file = data_dir.path().join("backbone.toml");
    std::fs::write(file, "[durability.vhosts]\nquick = \"written\"\n").unwrap();
    let server = Server::on(data_dir, &[]).await;
    let admin = Admin::of(&server);
    admin.put("/api/vhosts/quick", json!({})).await;
    assert_eq!(
        admin.get("/api/vhosts/quick").await.1["durability"],
        "written"
    );
    let mut peer = enter(&server, "quick").unwrap();
    peer.ask(&Method::QueueDeclare(durable("q")), "queue.declare-ok");
    let page = admin.get("/api/queues/quick/q").await.1;
    assert_eq!(page["durability"], "written");
    assert_eq!(admin.get("/api/vhosts/%2F").await.1["durability"], "synced");
}
