//! What users may do, operation by operation, in RabbitMQ's words; and how changes reach open connections.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use backbone_wire::method::{Method, basic, channel, confirm, connection, exchange, queue};
use backbone_wire::table::{Table, TableBuf, Value};
use common::admin::Admin;
use common::raw::{PERSISTENT, Raw, publish, publish_with, short};
use common::{ADMIN_SECRET, Server};
use serde_json::json;

fn declare(name: &str) -> Method<'_> {
    declare_with(name, Table::EMPTY)
}

fn declare_with<'a>(name: &'a str, arguments: Table<'a>) -> Method<'a> {
    Method::QueueDeclare(queue::Declare {
        queue: short(name),
        arguments,
        ..queue::Declare::default()
    })
}

fn look_for(name: &str) -> Method<'_> {
    Method::QueueDeclare(queue::Declare {
        queue: short(name),
        passive: true,
        ..queue::Declare::default()
    })
}

fn exchange_with<'a>(name: &'a str, arguments: Table<'a>) -> Method<'a> {
    Method::ExchangeDeclare(exchange::Declare {
        exchange: short(name),
        type_: short("topic"),
        arguments,
        ..exchange::Declare::default()
    })
}

fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> Method<'a> {
    Method::QueueBind(queue::Bind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        ..queue::Bind::default()
    })
}

fn unbind<'a>(queue: &'a str, exchange: &'a str) -> Method<'a> {
    Method::QueueUnbind(queue::Unbind {
        queue: short(queue),
        exchange: short(exchange),
        ..queue::Unbind::default()
    })
}

fn join<'a>(destination: &'a str, source: &'a str, key: &'a str) -> Method<'a> {
    Method::ExchangeBind(exchange::Bind {
        destination: short(destination),
        source: short(source),
        routing_key: short(key),
        ..exchange::Bind::default()
    })
}

fn consume(name: &str) -> Method<'_> {
    Method::BasicConsume(basic::Consume {
        queue: short(name),
        no_ack: true,
        ..basic::Consume::default()
    })
}

fn get(name: &str) -> Method<'_> {
    Method::BasicGet(basic::Get {
        queue: short(name),
        no_ack: true,
    })
}

fn purge(name: &str) -> Method<'_> {
    Method::QueuePurge(queue::Purge {
        queue: short(name),
        ..queue::Purge::default()
    })
}

fn delete(name: &str) -> Method<'_> {
    Method::QueueDelete(queue::Delete {
        queue: short(name),
        ..queue::Delete::default()
    })
}

fn delete_exchange(name: &str) -> Method<'_> {
    Method::ExchangeDelete(exchange::Delete {
        exchange: short(name),
        ..exchange::Delete::default()
    })
}

fn refused(what: &str) -> (u16, String) {
    let text = format!("ACCESS_REFUSED - access to {what} in vhost '/' refused for user 'u'");
    (403, text)
}

/// A server with user `u`, the queues `q`, `rq` and `wq` and the topic exchanges `re` and `we`.
async fn start(may: [&str; 3]) -> (Server, Admin, Raw) {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.user("u", "", may).await;
    let mut owner = Raw::login(server.amqp[0], "admin", ADMIN_SECRET, 0).unwrap();
    for name in ["q", "rq", "wq"] {
        owner.ask(&declare(name), "queue.declare-ok");
    }
    for name in ["re", "we"] {
        owner.ask(&exchange_with(name, Table::EMPTY), "exchange.declare-ok");
    }
    let user = login(&server).unwrap();
    (server, admin, user)
}

fn login(server: &Server) -> Result<Raw, (u16, String)> {
    Raw::login(server.amqp[0], "u", "u", 0)
}

#[actix_web::test]
async fn every_operation_asks_for_its_permission() {
    let (_server, _admin, mut peer) = start(["^(c|amq\\.gen)", "^w", "^r"]).await;
    let mut arguments = TableBuf::new();
    arguments.put("x-dead-letter-exchange", &Value::from("we"));
    let mut alternate = TableBuf::new();
    alternate.put("alternate-exchange", &Value::from("we"));
    let (dead, alternate) = (arguments.as_table(), alternate.as_table());
    for (method, what) in [
        (declare("zz"), "queue 'zz'"),
        (declare("q"), "queue 'q'"),
        (declare_with("c2", dead), "queue 'c2'"),
        (bind("q", "re", ""), "queue 'q'"),
        (bind("none", "re", ""), "queue 'none'"),
        (bind("wq", "we", ""), "exchange 'we'"),
        (unbind("q", "re"), "queue 'q'"),
        (unbind("wq", "we"), "exchange 'we'"),
        (consume("q"), "queue 'q'"),
        (get("q"), "queue 'q'"),
        (purge("q"), "queue 'q'"),
        (delete("rq"), "queue 'rq'"),
        (delete("none"), "queue 'none'"),
        (exchange_with("zz", Table::EMPTY), "exchange 'zz'"),
        (exchange_with("c2", alternate), "exchange 'c2'"),
        (delete_exchange("we"), "exchange 'we'"),
        (join("re", "re", ""), "exchange 're'"),
        (join("we", "we", ""), "exchange 'we'"),
    ] {
        assert_eq!(peer.ask_in_vain(&method), refused(what), "{method:?}");
    }
    let reserved = "ACCESS_REFUSED - queue name 'amq.zz' contains reserved prefix 'amq.*'";
    let refusal = peer.ask_in_vain(&declare("amq.zz"));
    assert_eq!(refusal, (403, reserved.to_owned()));
    let default = "ACCESS_REFUSED - operation not permitted on the default exchange";
    for method in [bind("wq", "", ""), exchange_with("", Table::EMPTY)] {
        assert_eq!(peer.ask_in_vain(&method), (403, default.to_owned()));
    }
    for (method, answer) in [
        (declare("c1"), "queue.declare-ok"),
        (declare(""), "queue.declare-ok"),
        (look_for("q"), "queue.declare-ok"),
        (bind("wq", "re", "k"), "queue.bind-ok"),
        (consume("rq"), "basic.consume-ok"),
        (purge("rq"), "queue.purge-ok"),
        (delete("c1"), "queue.delete-ok"),
        (exchange_with("c1", Table::EMPTY), "exchange.declare-ok"),
        (join("we", "re", "k"), "exchange.bind-ok"),
        (delete_exchange("c1"), "exchange.delete-ok"),
    ] {
        peer.ask(&method, answer);
    }
}

/// What a publish of channel 1, which confirms, is answered with; nothing: it was confirmed.
fn published(peer: &mut Raw, exchange: &str, key: &str) -> Option<(u16, String)> {
    let select = confirm::Select { no_wait: false };
    peer.ask(&Method::ConfirmSelect(select), "confirm.select-ok");
    peer.send(&publish_with(exchange, key, PERSISTENT, b"x"));
    let (_, _, payload) = peer.frame().unwrap();
    match Method::decode(&payload).unwrap() {
        Method::BasicAck(_) => None,
        Method::ChannelClose(close) => {
            let text = close.reply_text.as_str().unwrap().to_owned();
            let refusal = (close.reply_code, text);
            peer.method(1, &Method::ChannelCloseOk(channel::CloseOk));
            peer.method(1, &Method::ChannelOpen(channel::Open));
            peer.expect("channel.open-ok");
            Some(refusal)
        }
        other => panic!("{other:?}"),
    }
}

#[actix_web::test]
async fn publishing_asks_for_write_before_it_looks_for_the_exchange() {
    let (_server, admin, mut peer) = start(["", "^w", ""]).await;
    let default = refused("exchange 'amq.default'");
    assert_eq!(published(&mut peer, "", "q"), Some(default));
    let missing = refused("exchange 'none'");
    assert_eq!(published(&mut peer, "none", "q"), Some(missing));
    assert_eq!(published(&mut peer, "we", "q"), None);
    let gone = "NOT_FOUND - no exchange 'w-none' in vhost '/'".to_owned();
    assert_eq!(published(&mut peer, "w-none", "q"), Some((404, gone)));
    admin.permit("%2F", "u", ["", "amq\\.default", ""]).await;
    assert_eq!(published(&mut peer, "", "q"), None);
    assert_eq!(
        published(&mut peer, "we", "q"),
        Some(refused("exchange 'we'"))
    );
}

#[actix_web::test]
async fn changed_permissions_reach_connections_that_are_open_and_routes_that_are_kept() {
    let (server, admin, mut peer) = start([".*"; 3]).await;
    for _ in 0..3 {
        assert_eq!(published(&mut peer, "", "q"), None);
    }
    admin.permit("%2F", "u", [".*", "^$", ".*"]).await;
    let default = refused("exchange 'amq.default'");
    assert_eq!(published(&mut peer, "", "q"), Some(default));
    admin.permit("%2F", "u", [".*"; 3]).await;
    assert_eq!(published(&mut peer, "", "q"), None);
    assert_eq!(admin.delete("/api/permissions/%2F/u").await, 204);
    assert_eq!(admin.delete("/api/permissions/%2F/u").await, 404);
    assert_eq!(peer.ask_in_vain(&purge("q")), refused("queue 'q'"));
    let out = "NOT_ALLOWED - access to vhost '/' refused for user 'u'".to_owned();
    assert_eq!(login(&server).err(), Some((530, out)));
    admin.permit("%2F", "u", [".*"; 3]).await;
    peer.ask(&purge("q"), "queue.purge-ok");
    assert!(login(&server).is_ok());
}

#[actix_web::test]
async fn topic_permissions_look_at_routing_keys() {
    let (_server, admin, mut peer) = start([".*"; 3]).await;
    let path = "/api/topic-permissions/%2F/u";
    let for_we = json!({"exchange": "we", "write": "^{username}\\.", "read": "^{vhost}"});
    assert_eq!(admin.put(path, for_we).await.0, 201);
    let topic = |key: &str| refused(&format!("topic '{key}' in exchange 'we'"));
    assert_eq!(published(&mut peer, "we", "b.b"), Some(topic("b.b")));
    assert_eq!(published(&mut peer, "we", "u.b"), None);
    assert_eq!(published(&mut peer, "re", "b.b"), None, "another exchange");
    assert_eq!(peer.ask_in_vain(&bind("q", "we", "b")), topic("b"));
    assert_eq!(peer.ask_in_vain(&join("re", "we", "b")), topic("b"));
    peer.ask(&bind("q", "we", "/b"), "queue.bind-ok");
    assert_eq!(admin.get(path).await.1.as_array().unwrap().len(), 1);
    assert_eq!(admin.delete(path).await, 204);
    assert_eq!(published(&mut peer, "we", "b.b"), None);
    assert_eq!(admin.get(path).await.0, 404);
}

#[actix_web::test]
async fn a_deleted_user_is_closed_out_and_one_that_comes_again_has_nothing() {
    let (server, admin, mut peer) = start([".*"; 3]).await;
    assert_eq!(admin.delete("/api/users/u").await, 204);
    let told = "CONNECTION_FORCED - user 'u' is deleted".to_owned();
    assert_eq!(peer.refusal(), (320, told));
    let refused = login(&server).err().unwrap();
    assert_eq!(refused.0, 403);
    assert_eq!(
        refused.1,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
    );
    let again = json!({"password": "u", "tags": ""});
    assert_eq!(admin.put("/api/users/u", again).await.0, 201);
    assert_eq!(login(&server).err().unwrap().0, 530);
}

#[actix_web::test]
async fn limits_of_a_user_count_over_all_of_its_connections() {
    let (server, admin, mut peer) = start([".*"; 3]).await;
    let limit = |name: &str| format!("/api/user-limits/u/{name}");
    assert_eq!(
        admin
            .put(&limit("max-connections"), json!({"value": 1}))
            .await
            .0,
        204
    );
    let full =
        "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached";
    assert_eq!(login(&server).err(), Some((530, full.to_owned())));
    assert_eq!(
        admin
            .put(&limit("max-connections"), json!({"value": -1}))
            .await
            .0,
        204
    );
    let mut second = login(&server).unwrap();
    assert_eq!(
        admin
            .put(&limit("max-channels"), json!({"value": 3}))
            .await
            .0,
        204
    );
    let limits = json!([{"user": "u", "value": {"max-connections": -1, "max-channels": 3}}]);
    assert_eq!(admin.get("/api/user-limits/u").await.1, limits);
    peer.method(2, &Method::ChannelOpen(channel::Open));
    peer.expect("channel.open-ok");
    second.method(2, &Method::ChannelOpen(channel::Open));
    let full = "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of (3)";
    assert_eq!(second.refusal(), (530, full.to_owned()));
    // Once that is answered it counts no more, though its socket is open still.
    let path = limit("max-connections");
    let connections = admin.put(&path, json!({"value": 2}));
    assert_eq!(connections.await.0, 204);
    assert!(login(&server).is_err());
    let ok = Method::ConnectionCloseOk(connection::CloseOk);
    second.method(0, &ok);
    assert!(second.frame().is_none());
    login(&server).unwrap();
    drop(second);
    assert_eq!(
        admin
            .put("/api/user-limits/none/max-channels", json!({"value": 1}))
            .await
            .0,
        400
    );
}

#[actix_web::test]
async fn only_an_impersonator_publishes_in_the_name_of_others() {
    let (server, admin, mut peer) = start([".*"; 3]).await;
    let as_guest = publish_with("", "q", b"\x00\x10\x05guest", b"x");
    peer.send(&as_guest);
    let text =
        "PRECONDITION_FAILED - user_id property set to 'guest' but authenticated user was 'u'";
    assert_eq!(peer.refusal(), (406, text.to_owned()));
    let tagged = json!({"tags": "impersonator", "password": "u"});
    assert_eq!(admin.put("/api/users/u", tagged).await.0, 204);
    let mut peer = login(&server).unwrap();
    peer.publish_confirmed(&as_guest);
}

#[actix_web::test]
async fn users_and_what_they_may_survive_a_crash() {
    let (mut server, _admin, mut peer) = start(["", "^amq.topic$", ""]).await;
    peer.send(&publish("q", b"x"));
    assert_eq!(peer.refusal().0, 403);
    let data_dir = server.data_dir();
    server.kill();
    let server = Server::on(data_dir, &[]).await;
    let mut peer = login(&server).unwrap();
    assert_eq!(peer.ask_in_vain(&purge("q")), refused("queue 'q'"));
    assert_eq!(published(&mut peer, "amq.topic", "q"), None);
}
