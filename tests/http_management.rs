// Long because: one area after the other, each with the calls that were compared with RabbitMQ.
//! Exchanges, queues, bindings, messages, connections and pages of the server over `/api`, and the commands that ask them:
//! RabbitMQ 3.10.8's shapes, statuses and reasons, which were compared with its own.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::admin::Admin;
use common::queues::Client;
use common::raw::Raw;
use common::{ADMIN_SECRET, Server};
use futures_lite::StreamExt;
use lapin::options::*;
use lapin::types::FieldTable;
use serde_json::{Value, json};

/// The error and the reason of a refusal.
fn told(answer: &(u16, Value)) -> (u16, &str, &str) {
    let text = |name: &str| answer.1[name].as_str().unwrap_or_default();
    (answer.0, text("error"), text("reason"))
}

const GONE: (u16, &str, &str) = (404, "Object Not Found", "Not Found");
const REFUSED: (u16, &str, &str) = (401, "not_authorised", "Access refused.");

/// The values of a field in a list.
fn field(list: &Value, name: &str) -> Vec<String> {
    let items = list.as_array().unwrap_or_else(|| panic!("{list}")).iter();
    items
        .map(|it| it[name].as_str().unwrap().to_owned())
        .collect()
}

#[actix_web::test]
async fn exchanges_are_declared_shown_and_deleted() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let x = "/api/exchanges/%2F/x";
    let arguments = json!({"alternate-exchange": "ae", "n": 5_000_000_000_i64, "l": [1, "a"], "t": {"b": true}});
    let new = json!({"type": "topic", "durable": "true", "arguments": arguments});
    assert_eq!(admin.put(x, new.clone()).await.0, 201);
    assert_eq!(admin.put(x, new.clone()).await.0, 204);
    let shown = json!({
        "name": "x", "vhost": "/", "type": "topic", "durable": true, "auto_delete": false, "internal": false,
        "arguments": arguments,
    });
    assert_eq!(admin.get(x).await, (200, shown.clone()));
    let all = admin.get("/api/exchanges").await.1;
    assert!(all.as_array().unwrap().contains(&shown), "{all}");
    let of_vhost = admin.get("/api/exchanges/%2F").await.1;
    assert_eq!(all, of_vhost);
    assert_eq!(field(&of_vhost, "name")[0], "", "the default exchange");
    let default = admin.get("/api/exchanges/%2F/amq.default").await.1;
    assert_eq!(
        (&default["name"], &default["type"]),
        (&json!(""), &json!("direct"))
    );

    let other = |name: &str, value: Value| {
        let mut fields = new.clone();
        fields[name] = value;
        fields
    };
    for (fields, reason) in [
        (
            other("type", json!("fanout")),
            "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'topic'",
        ),
        (
            other("durable", json!(false)),
            "inequivalent arg 'durable' for exchange 'x' in vhost '/': received 'false' but current is 'true'",
        ),
        (other("type", json!("zzz")), "invalid exchange type 'zzz'"),
        (
            other("arguments", json!({"a": null})),
            "null_not_allowed: the argument 'a' is null",
        ),
        (other("durable", json!("x")), "not_boolean: durable"),
        (json!([]), "not_json"),
    ] {
        let refused = admin.put(x, fields).await;
        assert_eq!(told(&refused), (400, "bad_request", reason));
    }
    let long = admin
        .put(
            &format!("/api/exchanges/%2F/{}", "x".repeat(256)),
            json!({}),
        )
        .await;
    let reason = "a name or a routing key is longer than 255 bytes";
    assert_eq!(told(&long), (400, "bad_request", reason));
    let reserved = admin.put("/api/exchanges/%2F/amq.foo", json!({})).await;
    assert_eq!(told(&reserved), REFUSED);
    let message = reserved.1["message"].as_str().unwrap();
    assert!(message.contains("reserved prefix"), "{message}");
    let elsewhere = admin.put("/api/exchanges/none/x", json!({})).await;
    assert_eq!(told(&elsewhere), (404, "not_found", "vhost_not_found"));
    for path in ["/api/exchanges/none", "/api/exchanges/%2F/none"] {
        assert_eq!(told(&admin.get(path).await), GONE);
    }

    admin.put("/api/queues/%2F/q", json!({})).await;
    admin.post("/api/bindings/%2F/e/x/q/q", json!({})).await;
    assert_eq!(
        admin.delete("/api/exchanges/%2F/x?if-unused=true").await,
        400
    );
    assert_eq!(admin.delete(x).await, 204);
    assert_eq!(admin.delete(x).await, 404);
    assert_eq!(admin.delete("/api/exchanges/%2F/amq.direct").await, 401);
    assert_eq!(admin.delete("/api/exchanges/%2F/soar-publish").await, 401);
    assert_eq!(admin.post(x, json!({})).await.0, 405);
}

#[actix_web::test]
async fn queues_are_declared_purged_and_deleted() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let q = "/api/queues/%2F/q";
    let arguments = json!({"x-message-ttl": 60_000, "x-max-priority": 3});
    let new = json!({"durable": true, "arguments": arguments, "node": "any"});
    assert_eq!(admin.put(q, new.clone()).await.0, 201);
    assert_eq!(admin.put(q, new).await.0, 204);
    let shown = admin.get(q).await.1;
    assert_eq!(shown["arguments"], arguments);
    for (name, value) in [
        ("durable", json!(true)),
        ("auto_delete", json!(false)),
        ("exclusive", json!(false)),
        ("type", json!("classic")),
        ("state", json!("running")),
        ("consumer_details", json!([])),
        ("effective_policy_definition", json!({})),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    let quorum = json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
    assert_eq!(admin.put("/api/queues/%2F/qq", quorum).await.0, 201);
    let quorum = admin.get("/api/queues/%2F/qq").await.1;
    assert_eq!(quorum["type"], "quorum");
    assert_eq!(quorum["online"], json!([quorum["node"]]));
    for (fields, reason) in [
        (
            json!({"durable": false, "arguments": arguments}),
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'",
        ),
        (
            json!({"durable": true, "arguments": {"x-message-ttl": "a"}}),
            "invalid arg 'x-message-ttl' for queue 'new' in vhost '/': \"expected integer, got longstr\"",
        ),
        (json!({"arguments": "a"}), "arguments should be an object"),
    ] {
        let name = if reason.contains("'q'") { "q" } else { "new" };
        let refused = admin.put(&format!("/api/queues/%2F/{name}"), fields).await;
        assert_eq!(told(&refused), (400, "bad_request", reason));
    }
    assert_eq!(
        told(&admin.put("/api/queues/%2F/amq.foo", json!({})).await),
        REFUSED
    );

    let limit = json!({"pattern": "^q$", "definition": {"max-length": 9}, "apply-to": "queues"});
    admin.put("/api/policies/%2F/p", limit).await;
    let limit = json!({"pattern": "^q", "definition": {"max-length": 5}, "apply-to": "queues"});
    admin.put("/api/operator-policies/%2F/o", limit).await;
    let shown = admin.get(q).await.1;
    assert_eq!(
        (&shown["policy"], &shown["operator_policy"]),
        (&json!("p"), &json!("o"))
    );
    assert_eq!(
        shown["effective_policy_definition"],
        json!({"max-length": 5})
    );

    let amqp = Client::connect(&server).await;
    for body in ["a", "b"] {
        assert!(amqp.publish("q", body).await);
    }
    assert_eq!(admin.delete("/api/queues/%2F/q?if-empty=true").await, 400);
    assert_eq!(admin.delete("/api/queues/%2F/q/contents").await, 204);
    assert_eq!(admin.get(q).await.1["messages"], 0);
    assert_eq!(admin.delete("/api/queues/%2F/none/contents").await, 404);
    let own = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = amqp
        .channel
        .queue_declare("own".into(), own, FieldTable::default());
    declared.await.unwrap();
    let shown = admin.get("/api/queues/%2F/own").await.1;
    assert_eq!(shown["exclusive"], true);
    let connections = admin.get("/api/connections").await.1;
    assert_eq!(shown["owner_pid_details"]["name"], connections[0]["name"]);
    let locked = admin.put("/api/queues/%2F/own", json!({})).await;
    let (status, error, reason) = told(&locked);
    assert_eq!((status, error), (400, "bad_request"));
    assert!(
        reason.starts_with("cannot obtain exclusive access to locked queue 'own'"),
        "{reason}"
    );
    let consume = BasicConsumeOptions::default();
    let consuming =
        amqp.channel
            .basic_consume("q".into(), "c".into(), consume, FieldTable::default());
    let _consumer = consuming.await.unwrap();
    assert_eq!(admin.delete("/api/queues/%2F/q?if-unused=true").await, 400);
    assert_eq!(admin.delete("/api/queues/%2F/q?if-empty=true").await, 204);
    assert_eq!(admin.delete(q).await, 404);
}

#[actix_web::test]
async fn bindings_are_made_found_by_their_keys_and_ended() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    for x in ["x", "y"] {
        let exchange = json!({"type": "topic", "durable": true});
        admin
            .put(&format!("/api/exchanges/%2F/{x}"), exchange)
            .await;
    }
    admin
        .put("/api/queues/%2F/q", json!({"durable": true}))
        .await;
    let between = "/api/bindings/%2F/e/x/q/q";
    let bind = async |fields: Value| {
        let (status, told) = admin.post(between, fields).await;
        assert_eq!(status, 201, "{told}");
    };
    bind(json!({"routing_key": "a.b"})).await;
    bind(json!({"routing_key": "a.b", "arguments": {}})).await;
    bind(json!({})).await;
    bind(json!({"routing_key": "a/b~ é", "arguments": {"k": 1}})).await;
    bind(json!({"routing_key": "a b"})).await;
    let keys = field(&admin.get(between).await.1, "properties_key");
    assert_eq!(keys[..2], ["a.b", "~"], "a second one alike is none");
    assert_eq!(keys[3], "a+b");
    assert!(keys[2].starts_with("a%2Fb%7E+%C3%A9~"), "{}", keys[2]);
    // A path is quoted once more.
    let path = |key: &str| format!("{between}/{}", key.replace('%', "%25"));
    let one = admin.get(&path(&keys[2])).await.1;
    let expected = json!({
        "source": "x", "vhost": "/", "destination": "q", "destination_type": "queue", "routing_key": "a/b~ é",
        "arguments": {"k": 1}, "properties_key": keys[2],
    });
    assert_eq!(one, expected);
    assert_eq!(admin.get(&path("a%20b")).await.0, 404, "quoted twice");
    assert_eq!(admin.get(&format!("{between}/a%20b")).await.0, 200);
    assert_eq!(told(&admin.get(&path("none")).await), GONE);

    let other = admin
        .post("/api/bindings/%2F/e/x/e/y", json!({"routing_key": "e"}))
        .await;
    assert_eq!(other.0, 201);
    let from = admin.get("/api/exchanges/%2F/x/bindings/source").await.1;
    assert_eq!(field(&from, "destination"), ["q", "q", "q", "q", "y"]);
    let to = admin
        .get("/api/exchanges/%2F/y/bindings/destination")
        .await
        .1;
    assert_eq!(field(&to, "destination_type"), ["exchange"]);
    let to_queue = admin.get("/api/queues/%2F/q/bindings").await.1;
    assert_eq!(field(&to_queue, "source"), ["", "x", "x", "x", "x"]);
    let default = admin.get("/api/bindings/%2F/e/amq.default/q/q").await.1;
    assert_eq!(field(&default, "properties_key"), ["q"]);
    let all = admin.get("/api/bindings").await.1;
    assert_eq!(all, admin.get("/api/bindings/%2F").await.1);
    for binding in from.as_array().unwrap() {
        assert!(all.as_array().unwrap().contains(binding), "{all}");
    }

    for (path, reason) in [
        (
            "/api/bindings/%2F/e/x/q/none",
            "no queue 'none' in vhost '/'",
        ),
        (
            "/api/bindings/%2F/e/none/q/q",
            "no exchange 'none' in vhost '/'",
        ),
        (
            "/api/bindings/%2F/e/x/e/none",
            "no exchange 'none' in vhost '/'",
        ),
    ] {
        let refused = admin.post(path, json!({})).await;
        assert_eq!(told(&refused), (404, "not_found", reason));
    }
    let refused = admin
        .post("/api/bindings/%2F/e/amq.default/q/q", json!({}))
        .await;
    assert_eq!(told(&refused), REFUSED);
    for key in &keys {
        assert_eq!(admin.delete(&path(key)).await, 204, "{key}");
        assert_eq!(admin.delete(&path(key)).await, 404, "{key}");
    }
    assert_eq!(admin.get(between).await, (200, json!([])));
}

#[actix_web::test]
async fn a_message_is_published_looked_at_and_taken() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let dead =
        json!({"arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}});
    admin.put("/api/queues/%2F/q", dead).await;
    admin.put("/api/queues/%2F/dead", json!({})).await;
    let publish = async |exchange: &str, fields: Value| {
        let path = format!("/api/exchanges/%2F/{exchange}/publish");
        admin.post(&path, fields).await
    };
    let properties = json!({
        "delivery_mode": 2, "content_type": "text/plain", "headers": {"a": 1, "l": ["x"]}, "timestamp": 1_500_000_000,
        "message_id": "m", "user_id": "admin", "type": "t",
    });
    let text = json!({"properties": properties, "routing_key": "q", "payload": "é", "payload_encoding": "string"});
    assert_eq!(
        publish("amq.default", text.clone()).await,
        (200, json!({"routed": true}))
    );
    let bytes = json!({"properties": [], "routing_key": "q", "payload": "//4A", "payload_encoding": "base64"});
    assert_eq!(
        publish("amq.default", bytes).await.1,
        json!({"routed": true})
    );
    let nowhere = json!({"properties": {}, "routing_key": "none", "payload": "", "payload_encoding": "string"});
    assert_eq!(
        publish("amq.direct", nowhere).await,
        (200, json!({"routed": false}))
    );

    let get = async |fields: Value| admin.post("/api/queues/%2F/q/get", fields).await;
    let first = json!({
        "payload": "é", "payload_bytes": 2, "payload_encoding": "string", "redelivered": false, "exchange": "",
        "routing_key": "q", "message_count": 1, "properties": properties,
    });
    let look = json!({"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let (status, got) = get(look.clone()).await;
    assert_eq!((status, &got[0]), (200, &first));
    assert_eq!(
        (&got[1]["payload"], &got[1]["payload_encoding"]),
        (&json!("//4A"), &json!("base64"))
    );
    let got = get(json!({"count": "2", "ackmode": "reject_requeue_true", "encoding": "base64", "truncate": 1})).await.1;
    let payloads = field(&got, "payload");
    assert_eq!(
        (payloads, &got[0]["redelivered"]),
        (vec!["ww==".into(), "/w==".into()], &json!(true))
    );
    let got = get(json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}))
        .await
        .1;
    assert_eq!(
        (&got[0]["payload"], &got[0]["message_count"]),
        (&json!("é"), &json!(1))
    );
    let got = get(json!({"count": 1, "ackmode": "reject_requeue_false", "encoding": "auto"}))
        .await
        .1;
    assert_eq!(got[0]["payload"], "//4A");
    assert_eq!(get(look.clone()).await, (200, json!([])));
    let dead = admin.post("/api/queues/%2F/dead/get", look.clone()).await.1;
    assert_eq!(
        dead[0]["properties"]["headers"]["x-first-death-reason"],
        "rejected"
    );
    assert_eq!(admin.get("/api/queues/%2F/q").await.1["messages"], 0);

    for (name, value, reason) in [
        ("payload_encoding", json!("x"), "unsupported_encoding: x"),
        ("routing_key", Value::Null, "[{key_missing,routing_key}]"),
        ("properties", json!({"priority": "a"}), "not_int: priority"),
        (
            "properties",
            json!({"user_id": "u"}),
            "406 PRECONDITION_FAILED - user_id property set to 'u' but authenticated user was 'admin'",
        ),
        (
            "properties",
            json!({"reply_to": "amq.rabbitmq.reply-to"}),
            "406 PRECONDITION_FAILED - fast reply consumer does not exist",
        ),
    ] {
        let mut fields = text.clone();
        fields[name] = value;
        assert_eq!(
            told(&publish("amq.default", fields).await),
            (400, "bad_request", reason)
        );
    }
    let missing = publish("none", text.clone()).await;
    let reason = "404 NOT_FOUND - no exchange 'none' in vhost '/'";
    assert_eq!(told(&missing), (400, "bad_request", reason));
    let missing = admin.post("/api/queues/%2F/none/get", look).await;
    assert_eq!(
        told(&missing),
        (404, "not_found", "NOT_FOUND - no queue 'none' in vhost '/'")
    );
    let refused = get(json!({"count": 1, "encoding": "auto"})).await;
    assert_eq!(
        told(&refused),
        (400, "bad_request", "[{key_missing,ackmode}]")
    );
}

#[actix_web::test]
async fn a_user_does_what_its_permissions_say_and_sees_its_vhosts() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.put("/api/vhosts/v", json!({})).await;
    admin.put("/api/queues/v/hidden", json!({})).await;
    admin.put("/api/queues/%2F/other", json!({})).await;
    admin.user("u", "management", ["^u", "^u", "^u"]).await;
    admin.user("m", "monitoring", ["", "", ""]).await;
    let user = Admin::as_user(&server, "u", "u");
    assert_eq!(user.put("/api/queues/%2F/u1", json!({})).await.0, 201);
    assert_eq!(user.put("/api/exchanges/%2F/ux", json!({})).await.0, 201);
    assert_eq!(
        user.post("/api/bindings/%2F/e/ux/q/u1", json!({})).await.0,
        201
    );
    for refused in [
        user.put("/api/queues/%2F/new", json!({})).await,
        user.put("/api/exchanges/%2F/new", json!({})).await,
        user.post("/api/bindings/%2F/e/ux/q/other", json!({})).await,
        user.post("/api/bindings/%2F/e/amq.direct/q/u1", json!({}))
            .await,
    ] {
        assert_eq!(told(&refused), REFUSED);
    }
    assert_eq!(user.delete("/api/queues/%2F/other").await, 401);
    assert_eq!(user.delete("/api/queues/%2F/other/contents").await, 401);
    let look = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let refused = user.post("/api/queues/%2F/other/get", look).await;
    let reason = "ACCESS_REFUSED - access to queue 'other' in vhost '/' refused for user 'u'";
    assert_eq!(told(&refused), (401, "not_authorised", reason));
    let text =
        json!({"properties": {}, "routing_key": "u1", "payload": "", "payload_encoding": "string"});
    let refused = user
        .post("/api/exchanges/%2F/amq.default/publish", text)
        .await;
    let reason =
        "403 ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'";
    assert_eq!(told(&refused), (400, "bad_request", reason));
    let outside = (
        401,
        "not_authorised",
        "User not authorised to access virtual host",
    );
    assert_eq!(
        told(&user.put("/api/queues/v/u1", json!({})).await),
        outside
    );
    for path in [
        "/api/queues/v",
        "/api/exchanges/v/amq.topic",
        "/api/bindings/v",
        "/api/consumers/v",
    ] {
        assert_eq!(told(&user.get(path).await), outside, "{path}");
    }
    for list in ["queues", "exchanges", "bindings"] {
        let list = user.get(&format!("/api/{list}")).await.1;
        assert!(field(&list, "vhost").iter().all(|it| it == "/"), "{list}");
    }
    // A monitor sees all, and changes nothing where it may not.
    let monitor = Admin::as_user(&server, "m", "m");
    assert_eq!(monitor.get("/api/queues/v/hidden").await.0, 200);
    assert_eq!(
        told(&monitor.put("/api/queues/v/m", json!({})).await),
        outside
    );
    let wrong = Admin::as_user(&server, "u", "wrong");
    let refused = wrong.get("/api/queues").await;
    assert_eq!(told(&refused), (401, "not_authorized", "Login failed"));
}

#[actix_web::test]
async fn lists_come_in_pages() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    for number in 0..7 {
        admin
            .put(&format!("/api/queues/%2F/Page-{number}"), json!({}))
            .await;
    }
    let page = admin
        .get("/api/queues?page=2&page_size=3&name=page-&columns=name")
        .await
        .1;
    let total = admin.get("/api/queues").await.1.as_array().unwrap().len();
    let expected = json!({
        "filtered_count": 7, "item_count": 3, "page": 2, "page_count": 3, "page_size": 3, "total_count": total,
        "items": [{"name": "Page-3"}, {"name": "Page-4"}, {"name": "Page-5"}],
    });
    assert_eq!(page, expected);
    for list in [
        "exchanges/%2F",
        "connections",
        "channels",
        "vhosts",
        "queues/%2F",
    ] {
        let page = admin
            .get(&format!("/api/{list}?page=1&page_size=500"))
            .await
            .1;
        assert_eq!(page["page_size"], 500, "{list}: {page}");
    }
    let refused = admin.get("/api/queues?page=99&page_size=500").await;
    assert_eq!(told(&refused).1, "page_out_of_range");
}

/// Waits until `look` finds something.
async fn wait_for<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[actix_web::test]
async fn connections_channels_and_consumers_show_what_they_have_at_that_moment() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let single = json!({"arguments": {"x-single-active-consumer": true}});
    admin.put("/api/queues/%2F/single", single).await;
    admin.put("/api/queues/%2F/q", json!({})).await;
    let amqp = Client::connect(&server).await;
    for body in ["1", "2", "3", "4", "5"] {
        amqp.publish("q", body).await;
    }
    let channel = amqp.connection.create_channel().await.unwrap();
    let qos = BasicQosOptions::default();
    channel.basic_qos(3, qos).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), 5.into());
    let consume = BasicConsumeOptions::default();
    let consuming = channel.basic_consume("q".into(), "tag".into(), consume, arguments);
    let mut consumer = consuming.await.unwrap();
    let mut waiting = Vec::new();
    for tag in ["s1", "s2"] {
        let consuming =
            channel.basic_consume("single".into(), tag.into(), consume, FieldTable::default());
        waiting.push(consuming.await.unwrap());
    }
    for _ in 0..3 {
        consumer.next().await.unwrap().unwrap();
    }

    let list = admin.get("/api/connections").await.1;
    let about = &list[0];
    let name = about["name"].as_str().unwrap();
    let (peer, local) = name.split_once(" -> ").unwrap();
    assert_eq!(local, server.amqp[0].to_string());
    assert_eq!(peer, format!("127.0.0.1:{}", about["peer_port"]));
    for (field, value) in [
        ("user", json!("guest")),
        ("vhost", json!("/")),
        ("state", json!("running")),
        ("channels", json!(2)),
        ("protocol", json!("AMQP 0-9-1")),
        ("auth_mechanism", json!("PLAIN")),
        ("ssl", json!(false)),
        ("peer_host", json!("127.0.0.1")),
    ] {
        assert_eq!(about[field], value, "{field}");
    }
    assert_eq!(about["client_properties"]["product"], "lapin");
    assert!(about["recv_oct"].as_u64() > Some(0) && about["send_oct"].as_u64() > Some(0));
    let quoted = name.replace(' ', "%20").replace('>', "%3E");
    assert_eq!(
        admin.get(&format!("/api/connections/{quoted}")).await.1["name"],
        *name
    );
    assert_eq!(told(&admin.get("/api/connections/none").await), GONE);
    let of_user = admin.get("/api/connections/username/guest").await.1;
    assert_eq!(field(&of_user, "name"), [name]);
    assert_eq!(
        field(&admin.get("/api/vhosts/%2F/connections").await.1, "name"),
        [name]
    );

    let channels = admin.get("/api/channels").await.1;
    assert_eq!(
        channels,
        admin
            .get(&format!("/api/connections/{quoted}/channels"))
            .await
            .1
    );
    assert_eq!(channels, admin.get("/api/vhosts/%2F/channels").await.1);
    let (first, second) = (&channels[0], &channels[1]);
    assert_eq!(
        (&first["number"], &first["confirm"]),
        (&json!(1), &json!(true))
    );
    for (field, value) in [
        ("name", json!(format!("{name} (2)"))),
        ("consumer_count", json!(3)),
        ("prefetch_count", json!(3)),
        ("messages_unacknowledged", json!(3)),
        ("confirm", json!(false)),
        ("transactional", json!(false)),
    ] {
        assert_eq!(second[field], value, "{field}");
    }
    let one = admin.get(&format!("/api/channels/{quoted}%20(2)")).await.1;
    assert_eq!(
        field(&one["consumer_details"], "consumer_tag"),
        ["tag", "s1", "s2"]
    );
    assert_eq!(
        told(&admin.get(&format!("/api/channels/{quoted}%20(9)")).await),
        GONE
    );

    let consumers = admin.get("/api/consumers").await.1;
    let tag = &consumers[0];
    let expected = json!({
        "consumer_tag": "tag", "queue": {"name": "q", "vhost": "/"}, "ack_required": true, "exclusive": false,
        "prefetch_count": 3, "active": true, "activity_status": "up", "arguments": {"x-priority": 5},
        "channel_details": tag["channel_details"],
    });
    assert_eq!(*tag, expected);
    assert_eq!(tag["channel_details"]["connection_name"], *name);
    assert_eq!(
        field(&consumers, "activity_status"),
        ["up", "single_active", "waiting"]
    );
    let queue = admin.get("/api/queues/%2F/q").await.1;
    assert_eq!(queue["consumer_details"], json!([tag]));
    assert_eq!(
        (&queue["messages_ready"], &queue["consumers"]),
        (&json!(2), &json!(1))
    );
    amqp.connection.close(200, "bye".into()).await.unwrap();
    wait_for("the connection is listed", async || {
        let list = admin.get("/api/connections").await.1;
        (list == json!([])).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_connection_is_closed_by_its_user_or_an_administrator_who_say_why() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.user("u", "management", [".*", ".*", ".*"]).await;
    admin.user("m", "monitoring", [".*", ".*", ".*"]).await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let list = admin.get("/api/connections").await.1;
    let path = list[0]["name"].as_str().unwrap();
    let path = format!(
        "/api/connections/{}",
        path.replace(' ', "%20").replace('>', "%3E")
    );
    let user = Admin::as_user(&server, "u", "u");
    let not_its = (
        401,
        "not_authorised",
        "User not authorised to access object",
    );
    assert_eq!(told(&user.get(&path).await), not_its);
    assert_eq!(user.get("/api/connections").await.1, json!([]));
    assert_eq!(user.delete(&path).await, 401);
    assert_eq!(user.delete("/api/connections/username/guest").await, 401);
    let monitor = Admin::as_user(&server, "m", "m");
    assert_eq!(monitor.get(&path).await.0, 200);
    assert_eq!(monitor.delete(&path).await, 401);

    let closed = reqwest::Client::new()
        .delete(server.url(&path))
        .basic_auth("admin", Some(ADMIN_SECRET))
        .header("X-Reason", "because I say so");
    assert_eq!(closed.send().await.unwrap().status(), 204);
    let said = "CONNECTION_FORCED - because I say so".to_owned();
    assert_eq!(peer.refusal(), (320, said));
    drop(peer);
    wait_for("the connection is there", async || {
        (admin.get(&path).await.0 == 404).then_some(())
    })
    .await;
    let guest = Admin::as_user(&server, "guest", "guest");
    let mut peer = Raw::open(server.amqp[0], 0);
    assert_eq!(guest.delete("/api/connections/username/guest").await, 204);
    let said = "CONNECTION_FORCED - Closed via management plugin".to_owned();
    assert_eq!(peer.refusal(), (320, said));
}

#[actix_web::test]
async fn pages_of_the_server_say_what_there_is_and_whether_all_is_well() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.put("/api/queues/%2F/q", json!({})).await;
    let amqp = Client::connect(&server).await;
    amqp.publish("q", "a").await;
    let (status, page) = admin.get("/api/overview").await;
    assert_eq!(status, 200);
    assert_eq!(page["rabbitmq_version"], "3.10.8");
    assert_eq!(
        (&page["product_name"], &page["queue_totals"]["messages"]),
        (&json!("Backbone"), &json!(1))
    );
    let objects = &page["object_totals"];
    assert_eq!(
        (
            &objects["connections"],
            &objects["channels"],
            &objects["consumers"]
        ),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(
        (
            &page["message_stats"]["publish"],
            &page["message_stats"]["confirm"]
        ),
        (&json!(1), &json!(1))
    );
    let ports: Vec<_> = page["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["port"])
        .collect();
    assert_eq!(ports[0], &json!(server.amqp[0].port()));
    let node = admin.get("/api/nodes").await.1;
    let name = node[0]["name"].as_str().unwrap();
    let context = &page["contexts"][0];
    let port = json!(server.http[0].port().to_string());
    assert_eq!((&context["node"], &context["port"]), (&json!(name), &port));
    assert_eq!(node[0]["contexts"], page["contexts"]);
    assert_eq!(
        (&page["node"], &node[0]["running"]),
        (&json!(name), &json!(true))
    );
    assert!(node[0]["mem_used"].as_u64() > Some(1_000_000), "{node}");
    assert_eq!(node[0]["disk_free_limit"], 128 << 20);
    assert_eq!(admin.get(&format!("/api/nodes/{name}")).await.0, 200);
    assert_eq!(told(&admin.get("/api/nodes/none").await), GONE);
    assert_eq!(
        admin.get("/api/cluster-name").await.1,
        json!({"name": "backbone"})
    );
    assert_eq!(admin.get("/api/extensions").await.1, json!([]));
    assert_eq!(told(&admin.get("/api/none").await), GONE);

    let ok = json!({"status": "ok"});
    let port = server.amqp[0].port();
    for check in [
        "alarms",
        "local-alarms",
        "virtual-hosts",
        &format!("port-listener/{port}"),
        "protocol-listener/amqp091",
        "protocol-listener/http",
        "node-is-quorum-critical",
        "node-is-mirror-sync-critical",
        "certificate-expiration/1/weeks",
    ] {
        let (status, answer) = admin.get(&format!("/api/health/checks/{check}")).await;
        assert_eq!((status, &answer["status"]), (200, &json!("ok")), "{check}");
    }
    let missing = admin.get("/api/health/checks/protocol-listener/mqtt").await;
    let expected = json!({
        "status": "failed", "reason": "No active listener", "missing": "mqtt", "protocols": ["amqp", "http"],
    });
    assert_eq!(missing, (503, expected));
    assert_eq!(admin.get("/api/health/checks/port-listener/1").await.0, 503);
    for check in ["port-listener/x", "certificate-expiration/1/hours"] {
        assert_eq!(
            admin.get(&format!("/api/health/checks/{check}")).await.0,
            400
        );
    }
    assert_eq!(
        admin.get("/api/aliveness-test/%2F").await,
        (200, ok.clone())
    );
    assert_eq!(told(&admin.get("/api/aliveness-test/none").await), GONE);
    assert_eq!(admin.get("/api/healthchecks/node").await, (200, ok));
    admin.user("u", "management", ["^u", "", ""]).await;
    let user = Admin::as_user(&server, "u", "u");
    let refused = user.get("/api/aliveness-test/%2F").await;
    let reason =
        "ACCESS_REFUSED - access to queue 'aliveness-test' in vhost '/' refused for user 'u'";
    assert_eq!(told(&refused), (401, "not_authorised", reason));
    assert_eq!(
        told(&user.get("/api/nodes").await),
        (401, "not_authorised", "Not monitor user")
    );
    let page = user.get("/api/overview").await.1;
    assert_eq!(
        (
            &page["message_stats"],
            &page["object_totals"]["connections"]
        ),
        (&Value::Null, &json!(0))
    );
}

#[actix_web::test]
async fn what_was_answered_with_yes_survives_the_end_of_the_process() {
    let mut server = Server::start().await;
    let admin = Admin::of(&server);
    let durable = json!({"type": "topic", "durable": true});
    admin.put("/api/exchanges/%2F/x", durable).await;
    admin
        .put("/api/queues/%2F/q", json!({"durable": true}))
        .await;
    admin
        .put("/api/queues/%2F/deleted", json!({"durable": true}))
        .await;
    admin
        .post("/api/bindings/%2F/e/x/q/q", json!({"routing_key": "a.#"}))
        .await;
    let text = json!({"properties": {"delivery_mode": 2}, "routing_key": "a.b", "payload": "p", "payload_encoding": "string"});
    assert_eq!(
        admin.post("/api/exchanges/%2F/x/publish", text).await.1,
        json!({"routed": true})
    );
    assert_eq!(admin.delete("/api/queues/%2F/deleted").await, 204);
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    let admin = Admin::of(&server);
    assert_eq!(admin.get("/api/queues/%2F/deleted").await.0, 404);
    let keys = admin.get("/api/bindings/%2F/e/x/q/q").await.1;
    assert_eq!(field(&keys, "routing_key"), ["a.#"]);
    let take = json!({"count": 5, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let got = admin.post("/api/queues/%2F/q/get", take).await.1;
    assert_eq!(field(&got, "payload"), ["p"]);
}

/// What a command of the administrator says, and whether it succeeded.
async fn backbone(server: &Server, arguments: &[&str]) -> (bool, String) {
    let mut command = common::command(server.data_dir().path(), &[]);
    command.env("BACKBONE_API", server.url("")).args(arguments);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = run.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.success(), text)
}

#[actix_web::test]
async fn the_command_line_manages_exchanges_queues_bindings_and_connections() {
    let server = Server::start().await;
    for done in [
        &[
            "exchange",
            "add",
            "x/1",
            "topic",
            "--arguments",
            r#"{"alternate-exchange":"ae"}"#,
        ][..],
        &[
            "exchange",
            "declare",
            "y",
            "fanout",
            "--transient",
            "--internal",
        ],
        &[
            "queue",
            "add",
            "q/1",
            "--arguments",
            r#"{"x-max-length":5}"#,
        ],
        &["queue", "declare", "qq", "--type", "quorum"],
        &["binding", "add", "x/1", "q/1", "--key", "a.*"],
        &[
            "binding",
            "add",
            "x/1",
            "y",
            "--to-exchange",
            "--arguments",
            r#"{"k":1}"#,
        ],
        &[
            "exchange",
            "publish",
            "x/1",
            "a.b",
            "hello",
            "--properties",
            r#"{"delivery_mode":2}"#,
        ],
    ] {
        assert!(backbone(&server, done).await.0, "{done:?}");
    }
    let mut peer = Raw::open(server.amqp[0], 0);
    let name = Admin::of(&server).get("/api/connections").await.1[0]["name"].clone();
    let name = name.as_str().unwrap();
    for (command, expected) in [
        (&["exchange", "list"][..], "x/1\ttopic\ttrue\t".to_owned()),
        (&["exchange", "show", "y"], "internal: true".to_owned()),
        (
            &["queue", "list"],
            "q/1\t1\t0\t0\tsynced\trunning".to_owned(),
        ),
        (&["queue", "get", "q/1"], "x/1\ta.b\thello".to_owned()),
        (&["queue", "show", "qq"], "type: quorum".to_owned()),
        (
            &["binding", "list"],
            "x/1\tq/1\tqueue\ta.*\t{}\ta.%2A".to_owned(),
        ),
        (
            &["connection", "list"],
            format!("{name}\tguest\t/\trunning\t1\t"),
        ),
        (&["connection", "show", name], "user: guest".to_owned()),
        (
            &["channel", "list", "--vhost", "/"],
            format!("{name} (1)\tguest\t0\t0\t0"),
        ),
        (
            &["channel", "show", &format!("{name} (1)")],
            "number: 1".to_owned(),
        ),
    ] {
        let (done, said) = backbone(&server, command).await;
        assert!(
            done && said.lines().any(|line| line == expected),
            "{command:?}: {said}"
        );
    }
    let (done, said) = backbone(&server, &["consumer", "list", "--json"]).await;
    assert!(done && said.trim() == "[]", "{said}");
    for done in [
        &["binding", "remove", "x/1", "q/1", "--key", "a.*"][..],
        &["queue", "get", "q/1", "--take", "--count", "9"],
        &["queue", "remove", "q/1", "--if-empty", "--if-unused"],
        &["queue", "purge", "qq"],
        &["exchange", "delete", "y"],
        &["exchange", "remove", "x/1", "--if-unused"],
        &["connection", "close", name, "--reason", "bye"],
    ] {
        let (is_done, said) = backbone(&server, done).await;
        assert!(is_done, "{done:?}: {said}");
    }
    let said = "CONNECTION_FORCED - bye".to_owned();
    assert_eq!(peer.refusal(), (320, said));
    for refused in [
        &["queue", "show", "q/1"][..],
        &["queue", "add", "x", "--arguments", "[]"],
        &["connection", "close"],
        &["exchange", "remove", "amq.direct"],
    ] {
        assert!(!backbone(&server, refused).await.0, "{refused:?}");
    }
}
