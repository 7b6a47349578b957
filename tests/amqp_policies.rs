//! Policies from outside: made, changed and removed while exchanges and queues are in use.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::Duration;

use backbone_wire::method::{Method, exchange, queue};
use common::admin::Admin;
use common::queues::{Client, history, int};
use common::raw::{PERSISTENT, Raw, publish_with, short};
use common::{ADMIN_SECRET, Server};
use serde_json::json;

fn login(server: &Server) -> Raw {
    Raw::login(server.amqp[0], "admin", ADMIN_SECRET, 0).unwrap()
}

/// Durable: the exchanges `main` and `spare`, and the queue `rest` bound to the latter.
fn build(peer: &mut Raw) {
    for name in ["main", "spare"] {
        let declare = exchange::Declare {
            exchange: short(name),
            type_: short("fanout"),
            durable: true,
            ..exchange::Declare::default()
        };
        peer.ask(&Method::ExchangeDeclare(declare), "exchange.declare-ok");
    }
    let declare = queue::Declare {
        queue: short("rest"),
        durable: true,
        ..queue::Declare::default()
    };
    peer.ask(&Method::QueueDeclare(declare), "queue.declare-ok");
    let bind = queue::Bind {
        queue: short("rest"),
        exchange: short("spare"),
        ..queue::Bind::default()
    };
    peer.ask(&Method::QueueBind(bind), "queue.bind-ok");
}

#[actix_web::test]
async fn an_alternate_exchange_by_policy_counts_at_once_survives_a_crash_and_ends_with_it() {
    let mut server = Server::start().await;
    let admin = Admin::of(&server);
    let mut peer = login(&server);
    build(&mut peer);
    let message = publish_with("main", "k", PERSISTENT, b"x");
    peer.publish_confirmed(&message);
    assert_eq!(peer.waiting("rest"), 0);
    let path = "/api/policies/%2F/catch";
    let policy = json!({"pattern": "^main$", "definition": {"alternate-exchange": "spare"}, "apply-to": "exchanges"});
    assert_eq!(admin.put(path, policy.clone()).await.0, 201);
    peer.publish_confirmed(&message);
    assert_eq!(peer.waiting("rest"), 1);
    let data_dir = server.data_dir();
    server.kill();
    let server = Server::on(data_dir, &[]).await;
    let admin = Admin::of(&server);
    let mut peer = login(&server);
    peer.publish_confirmed(&message);
    assert_eq!(peer.waiting("rest"), 2);
    assert_eq!(admin.delete(path).await, 204);
    assert_eq!(admin.delete(path).await, 404);
    peer.publish_confirmed(&message);
    assert_eq!(peer.waiting("rest"), 2);
    // One with a higher priority is in the way.
    admin.put(path, policy).await;
    let other = json!({"pattern": "", "definition": {"max-length": 5}, "priority": 1});
    assert_eq!(admin.put("/api/policies/%2F/other", other).await.0, 201);
    peer.publish_confirmed(&message);
    assert_eq!(peer.waiting("rest"), 2);
    let page = admin.get("/api/queues/%2F/rest").await.1;
    assert_eq!(page["policy"], "other");
}

#[actix_web::test]
async fn limits_by_policy_count_for_a_queue_in_use_survive_a_crash_and_end_with_it() {
    let mut server = Server::start().await;
    let admin = Admin::of(&server);
    let client = Client::connect(&server).await;
    client.declare("q", &[("x-max-length", int(3))]).await;
    for body in ["a", "b", "c"] {
        assert!(client.publish("q", body).await);
    }
    let path = "/api/policies/%2F/p";
    let policy =
        json!({"pattern": "^q$", "definition": {"max-length": 2, "overflow": "reject-publish"}});
    assert_eq!(admin.put(path, policy).await.0, 201);
    assert!(!client.publish("q", "refused").await);
    let data_dir = server.data_dir();
    server.kill();
    let server = Server::on(data_dir, &[]).await;
    let admin = Admin::of(&server);
    let client = Client::connect(&server).await;
    assert!(!client.publish("q", "refused").await);
    assert_eq!(admin.delete(path).await, 204);
    assert_eq!(client.drain("q").await, ["a", "b", "c"]);
    for body in ["d", "e", "f", "g"] {
        assert!(client.publish("q", body).await);
    }
    let kept = client.drain("q").await;
    assert_eq!(kept, ["e", "f", "g"], "its own limit drops the oldest");
}

#[actix_web::test]
async fn time_and_dead_letters_by_policy_work_in_every_vhost() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    assert_eq!(admin.put("/api/vhosts/v", json!({})).await.0, 201);
    admin.permit("v", "guest", [".*", ".*", ".*"]).await;
    let client = Client::enter(&server, "v").await;
    client.declare("q", &[]).await;
    client.declare("dead", &[]).await;
    let dead = json!({
        "pattern": "^q$",
        "definition": {"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}
    });
    assert_eq!(admin.put("/api/policies/v/dead", dead).await.0, 201);
    let limit = json!({"pattern": "^q$", "definition": {"message-ttl": 10}});
    let path = "/api/operator-policies/v/limit";
    assert_eq!(admin.put(path, limit).await.0, 201);
    assert!(client.publish("q", "m").await);
    let message = client.get("dead").await;
    assert_eq!(
        history(&message)[0],
        ("q".to_owned(), "expired".to_owned(), 1)
    );
    let expires = json!({"pattern": "^q$", "definition": {"expires": 200}});
    assert_eq!(admin.put(path, expires).await.0, 204);
    client.until_gone("q", Duration::from_millis(300)).await;
}

#[actix_web::test]
async fn policies_are_shown_and_checked_as_rabbitmq_does_it() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let path = "/api/policies/%2F/p";
    let policy = json!({"pattern": "^x", "definition": {"max-length": 2}, "priority": 3, "apply-to": "queues"});
    assert_eq!(admin.put(path, policy.clone()).await.0, 201);
    assert_eq!(admin.put(path, policy).await.0, 204);
    let shown = json!({
        "vhost": "/", "name": "p", "pattern": "^x", "apply-to": "queues", "definition": {"max-length": 2}, "priority": 3
    });
    assert_eq!(admin.get(path).await.1, shown);
    assert_eq!(admin.get("/api/policies").await.1, json!([shown]));
    assert_eq!(admin.get("/api/policies/%2F").await.1, json!([shown]));
    assert_eq!(admin.get("/api/policies/none").await.0, 404);
    for (body, reason) in [
        (
            json!({"pattern": "x", "definition": {}}),
            "Validation failed\n\nno policy provided\n",
        ),
        (
            json!({"pattern": "x", "definition": {"max-length": -1}}),
            "Validation failed\n\n-1 is not a valid maximum length\n",
        ),
        (
            json!({"pattern": "x", "definition": {"max-length": 1}, "apply-to": "zz"}),
            "Validation failed\n\napply-to 'zz' unrecognised; should be 'queues', 'exchanges' or 'all'\n",
        ),
        (
            json!({"definition": {"max-length": 1}}),
            "[{key_missing,pattern}]",
        ),
        (json!({"pattern": "x"}), "[{key_missing,definition}]"),
    ] {
        let (status, told) = admin.put("/api/policies/%2F/bad", body).await;
        assert_eq!((status, &told["reason"]), (400, &json!(reason)));
    }
    let bad = json!({"pattern": "(", "definition": {"max-length": 1}});
    assert_eq!(admin.put("/api/policies/%2F/bad", bad).await.0, 400);
    let limit = json!({"pattern": "", "definition": {"max-length": 9}});
    assert_eq!(
        admin.put("/api/operator-policies/%2F/o", limit).await.0,
        201
    );
    let not_a_limit = json!({"pattern": "", "definition": {"alternate-exchange": "x"}});
    assert_eq!(
        admin
            .put("/api/operator-policies/%2F/o", not_a_limit)
            .await
            .0,
        400
    );
    login(&server).declare("xq");
    let page = admin.get("/api/queues/%2F/xq").await.1;
    assert_eq!(
        (&page["policy"], &page["operator_policy"]),
        (&json!("p"), &json!("o"))
    );
}

#[actix_web::test]
async fn policymakers_make_policies_where_they_may_enter() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.put("/api/vhosts/other", json!({})).await;
    admin.user("maker", "policymaker", ["", "", ""]).await;
    admin.user("viewer", "management", ["", "", ""]).await;
    let policy = json!({"pattern": "", "definition": {"max-length": 1}});
    let maker = Admin::as_user(&server, "maker", "maker");
    assert_eq!(
        maker.put("/api/policies/%2F/p", policy.clone()).await.0,
        201
    );
    assert_eq!(
        maker.put("/api/policies/other/p", policy.clone()).await.0,
        401
    );
    assert_eq!(
        maker
            .put("/api/operator-policies/%2F/p", policy.clone())
            .await
            .0,
        401
    );
    let viewer = Admin::as_user(&server, "viewer", "viewer");
    assert_eq!(viewer.put("/api/policies/%2F/p", policy).await.0, 401);
    assert_eq!(
        viewer
            .get("/api/policies")
            .await
            .1
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(maker.delete("/api/policies/%2F/p").await, 204);
}
