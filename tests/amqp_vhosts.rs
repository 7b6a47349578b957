//! Vhosts from outside: made and deleted while the server runs, who gets in, and what is traced.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::sync::Arc;

use backbone_wire::method::{Method, queue};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{ArrayBuf, Table, Value};
use common::admin::Admin;
use common::dialog::{Message, plain, table};
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

/// Makes queue `t` of what is traced, and `q`, in a new vhost `v`.
async fn watched(server: &Server) -> (Raw, Raw) {
    let admin = Admin::of(server);
    assert_eq!(admin.put("/api/vhosts/v", json!({})).await.0, 201);
    let (mut watcher, mut peer) = (enter(server, "v").unwrap(), enter(server, "v").unwrap());
    watcher.declare("t");
    let bind = queue::Bind {
        queue: short("t"),
        exchange: short("amq.rabbitmq.trace"),
        routing_key: short("#"),
        ..queue::Bind::default()
    };
    watcher.ask(&Method::QueueBind(bind), "queue.bind-ok");
    peer.declare("q");
    (watcher, peer)
}

async fn trace(server: &Server, on: bool) {
    let admin = Admin::of(server);
    let put = admin.put("/api/vhosts/v", json!({"tracing": on})).await;
    assert_eq!(put.0, 204);
    assert_eq!(admin.get("/api/vhosts/v").await.1["tracing"], on);
}

fn headers(message: &Message) -> Table<'_> {
    message.properties().headers().unwrap()
}

fn texts(value: Option<Value<'_>>) -> Vec<String> {
    let Some(Value::Array(items)) = value else {
        panic!("not a list: {value:?}");
    };
    let items = items.iter().map(|it| it.unwrap());
    items.map(|it| it.as_str().unwrap().to_owned()).collect()
}

#[actix_web::test]
async fn what_is_published_and_got_in_a_traced_vhost_is_told() {
    let server = Server::start().await;
    let (mut watcher, mut peer) = watched(&server).await;
    peer.publish_with(1, ("", "q", false), &plain(), b"before");
    assert_eq!(peer.take_all("q"), ["before"]);
    trace(&server, true).await;
    let mut keys = ArrayBuf::new();
    keys.push(&Value::from("other"));
    let hidden = [("BCC", Value::Array(keys.as_array())), ("h", Value::I32(7))];
    let own = table(&hidden);
    let properties = PropertiesBuilder {
        headers: Some(own.as_table()),
        content_type: Some(short("text/plain")),
        delivery_mode: Some(2),
        timestamp: Some(1 << 33),
        type_: Some(short("t")),
        ..plain()
    };
    peer.publish_with(1, ("", "q", false), &properties, b"traced");
    peer.ready("q");
    let told = watcher.take("t").unwrap();
    assert_eq!(
        (&*told.exchange, &*told.key),
        ("amq.rabbitmq.trace", "publish.")
    );
    assert_eq!(told.text(), "traced");
    let of = headers(&told);
    let text = |name: &str| of.get(name).unwrap().as_str().unwrap().to_owned();
    assert_eq!((&*text("exchange_name"), &*text("vhost")), ("", "v"));
    assert_eq!(text("user"), "admin");
    assert!(text("node").starts_with("backbone@"));
    let ends = text("connection");
    let (_, local) = ends.split_once(" -> ").unwrap();
    assert_eq!(local, server.amqp[0].to_string());
    assert_eq!(of.get("channel"), Some(Value::I32(1)));
    assert_eq!(texts(of.get("routing_keys")), ["q", "other"]);
    assert_eq!(texts(of.get("routed_queues")), ["q"]);
    let Some(Value::Table(properties)) = of.get("properties") else {
        panic!("no properties");
    };
    for (name, value) in [
        ("content_type", Value::from("text/plain")),
        ("delivery_mode", Value::I32(2)),
        ("timestamp", Value::I64(1 << 33)),
        ("type", Value::from("t")),
        ("headers", Value::Table(table(&hidden[1..]).as_table())),
    ] {
        assert_eq!(properties.get(name), Some(value), "{name}");
    }
    assert_eq!(properties.iter().count(), 5);
    assert!(
        watcher.take("t").is_none(),
        "what is told is not told again"
    );

    peer.consume_with(1, "q", "c", false, &[]);
    let tag = peer.message().tag;
    peer.requeue(1, tag);
    assert!(peer.message().redelivered);
    for redelivered in [0, 1] {
        let told = watcher.take("t").unwrap();
        assert_eq!((&*told.key, told.text()), ("deliver.q", "traced"));
        let of = headers(&told);
        assert_eq!(of.get("redelivered"), Some(Value::I32(redelivered)));
        assert_eq!(texts(of.get("routing_keys")), ["q"]);
        assert_eq!(of.get("routed_queues"), None);
    }
    trace(&server, false).await;
    peer.cancel(1, "c");
    peer.publish_with(1, ("", "q", false), &plain(), b"after");
    peer.declare("known");
    assert_eq!(watcher.take_all("t"), [""; 0]);
}

#[actix_web::test]
async fn tracing_tells_of_all_ways_and_ends_with_the_server() {
    let mut server = Server::start().await;
    let (mut watcher, mut peer) = watched(&server).await;
    trace(&server, true).await;
    let large = vec![b'x'; 300_000];
    peer.publish_with(1, ("amq.fanout", "k", false), &plain(), &large);
    let nowhere = watcher_next(&mut watcher);
    assert_eq!(
        (&*nowhere.key, nowhere.body == large),
        ("publish.amq.fanout", true)
    );
    assert!(texts(headers(&nowhere).get("routed_queues")).is_empty());
    // What is refused was not published.
    peer.open_channel(2);
    peer.publish_with(2, ("none", "k", false), &plain(), b"x");
    assert_eq!(peer.closed(2).0, 404);
    let admin = Admin::of(&server);
    let message = json!({"properties": {}, "routing_key": "q", "payload": "rest", "payload_encoding": "string"});
    let published = admin
        .post("/api/exchanges/v/amq.default/publish", message)
        .await;
    assert_eq!(published, (200, json!({"routed": true})));
    let get = json!({"count": 5, "ackmode": "ack_requeue_false", "encoding": "auto"});
    assert_eq!(admin.post("/api/queues/v/q/get", get).await.0, 200);
    for key in ["publish.", "deliver.q"] {
        let told = watcher_next(&mut watcher);
        assert_eq!((&*told.key, told.text()), (key, "rest"));
    }
    // Another vhost is not.
    let mut home = enter(&server, "/").unwrap();
    home.declare("q");
    home.publish_with(1, ("", "q", false), &plain(), b"x");
    assert_eq!(home.take_all("q"), ["x"]);
    assert!(watcher.take("t").is_none());
    let odd = admin
        .put("/api/vhosts/v", json!({"tracing": "perhaps"}))
        .await;
    assert_eq!(odd.0, 400);
    admin
        .put("/api/vhosts/v", json!({"description": "stays"}))
        .await;
    assert_eq!(admin.get("/api/vhosts/v").await.1["tracing"], true);
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let shown = Admin::of(&server).get("/api/vhosts/v").await.1;
    assert_eq!(
        (&shown["tracing"], &shown["description"]),
        (&json!(false), &json!("stays"))
    );
}

/// The next message that is traced, once it is there.
fn watcher_next(watcher: &mut Raw) -> Message {
    loop {
        if let Some(message) = watcher.take("t") {
            return message;
        }
    }
}
