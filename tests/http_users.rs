//! Users, vhosts, permissions and limits over `/api`: RabbitMQ's shapes, and who may look and change.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use common::Server;
use common::admin::Admin;
use serde_json::{Value, json};

/// The error and the reason of a refusal.
fn told(answer: &(u16, Value)) -> (u16, &str, &str) {
    let text = |name: &str| answer.1[name].as_str().unwrap_or_default();
    (answer.0, text("error"), text("reason"))
}

#[actix_web::test]
async fn users_are_made_shown_changed_and_deleted() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let names = |list: &Value| -> Vec<String> {
        let users = list.as_array().unwrap().iter();
        users
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&admin.get("/api/users").await.1), ["admin", "guest"]);
    let made = json!({"password": "p", "tags": "management,own"});
    assert_eq!(admin.put("/api/users/u", made).await.0, 201);
    let user = admin.get("/api/users/u").await.1;
    assert_eq!(user["tags"], json!(["management", "own"]));
    assert_eq!(user["limits"], json!({}));
    let hash = user["password_hash"].as_str().unwrap();
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    let own = Admin::as_user(&server, "u", "p");
    let me = json!({"name": "u", "tags": ["management", "own"]});
    assert_eq!(own.get("/api/whoami").await, (200, me));
    let without = admin.get("/api/users/without-permissions").await.1;
    assert_eq!(names(&without), ["u"]);

    // Its hash is what brings it elsewhere, and back.
    let exported = json!({"password_hash": hash, "hashing_algorithm": user["hashing_algorithm"], "tags": ["management"]});
    assert_eq!(admin.put("/api/users/copy", exported).await.0, 201);
    let copy = Admin::as_user(&server, "copy", "p");
    assert_eq!(copy.get("/api/whoami").await.0, 200);
    // What is not said again is taken away.
    assert_eq!(
        admin
            .put("/api/users/copy", json!({"tags": "monitoring"}))
            .await
            .0,
        204
    );
    assert_eq!(copy.get("/api/whoami").await.0, 401);

    let delete = json!({"users": ["copy", "none"]});
    assert_eq!(admin.post("/api/users/bulk-delete", delete).await.0, 400);
    assert_eq!(admin.get("/api/users/copy").await.0, 200, "all or none");
    let delete = json!({"users": ["copy", "u"]});
    assert_eq!(admin.post("/api/users/bulk-delete", delete).await.0, 204);
    assert_eq!(names(&admin.get("/api/users").await.1), ["admin", "guest"]);
    let missing = admin.get("/api/users/u").await;
    assert_eq!(told(&missing), (404, "Object Not Found", "Not Found"));
    assert_eq!(admin.delete("/api/users/u").await, 404);
    assert_eq!(own.get("/api/whoami").await.0, 401);
    assert_eq!(
        admin.delete("/api/users/admin").await,
        400,
        "it is configured"
    );
}

#[actix_web::test]
async fn passwords_of_rabbitmq_log_in_as_they_are() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    // RabbitMQ 3.10.8's own of `guest`.
    let hash = "V2DFJYz5yhqI4GYcdxd9WL9WXUPSPho2+PntvmtIPy0oFyE4";
    let user = json!({"password_hash": hash, "tags": "monitoring"});
    assert_eq!(admin.put("/api/users/old", user).await.0, 201);
    let old = Admin::as_user(&server, "old", "guest");
    assert_eq!(old.get("/api/whoami").await.0, 200);
    let shown = admin.get("/api/users/old").await.1;
    assert_eq!(shown["password_hash"], hash);
    assert_eq!(shown["hashing_algorithm"], "rabbit_password_hashing_sha256");
    let nobody = json!({"password_hash": "", "tags": "monitoring"});
    assert_eq!(admin.put("/api/users/old", nobody).await.0, 204);
    for password in ["guest", ""] {
        let old = Admin::as_user(&server, "old", password);
        assert_eq!(old.get("/api/whoami").await.0, 401);
    }
    for (body, reason) in [
        (json!({"password": "p"}), "tags_not_present"),
        (
            json!({"password_hash": "zzz", "tags": ""}),
            "the password_hash is not the base64 of salt and hash",
        ),
        (json!([]), "not_json"),
        (
            json!({"password": "p", "password_hash": "", "tags": ""}),
            "both_password_and_password_hash_are_provided",
        ),
    ] {
        let refused = admin.put("/api/users/bad", body).await;
        assert_eq!(told(&refused), (400, "bad_request", reason));
    }
}

#[actix_web::test]
async fn permissions_are_listed_by_vhost_and_by_user() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.put("/api/vhosts/v", json!({"tags": "a,b"})).await;
    assert_eq!(
        admin.get("/api/vhosts/v").await.1["tags"],
        json!(["a", "b"])
    );
    admin
        .put("/api/users/u", json!({"password": "p", "tags": ""}))
        .await;
    let path = "/api/permissions/v/u";
    let may = json!({"configure": "^a", "write": "", "read": ".*"});
    assert_eq!(admin.put(path, may).await.0, 201);
    let row = json!({"user": "u", "vhost": "v", "configure": "^a", "write": "", "read": ".*"});
    assert_eq!(admin.get(path).await.1, row);
    assert_eq!(admin.get("/api/users/u/permissions").await.1, json!([row]));
    let of_vhost = admin.get("/api/vhosts/v/permissions").await.1;
    let users: Vec<_> = of_vhost
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["user"])
        .collect();
    assert_eq!(
        users,
        ["admin", "u"],
        "who made the vhost has all rights in it"
    );
    assert_eq!(
        admin
            .get("/api/permissions")
            .await
            .1
            .as_array()
            .unwrap()
            .len(),
        4
    );
    for (path, body, status) in [
        (
            path,
            json!({"configure": "(", "write": "", "read": ""}),
            400,
        ),
        (path, json!({"configure": ""}), 400),
        (
            "/api/permissions/none/u",
            json!({"configure": "", "write": "", "read": ""}),
            400,
        ),
        (
            "/api/permissions/v/none",
            json!({"configure": "", "write": "", "read": ""}),
            400,
        ),
    ] {
        assert_eq!(admin.put(path, body).await.0, status);
    }
    assert_eq!(admin.get(path).await.1, row, "nothing has changed");
    assert_eq!(admin.delete("/api/vhosts/v").await, 204);
    assert_eq!(admin.get("/api/users/u/permissions").await.1, json!([]));
    assert_eq!(admin.get(path).await.0, 404);
}

#[actix_web::test]
async fn tags_decide_who_looks_and_who_changes() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.put("/api/vhosts/other", json!({})).await;
    for tag in [
        "none",
        "management",
        "policymaker",
        "monitoring",
        "administrator",
    ] {
        admin.user(tag, tag, [".*"; 3]).await;
    }
    let user = |name: &str| Admin::as_user(&server, name, name);
    let refused = user("none").get("/api/whoami").await;
    assert_eq!(
        told(&refused),
        (401, "not_authorised", "Not management user")
    );
    for name in ["management", "policymaker", "monitoring"] {
        let own = user(name);
        assert_eq!(own.get("/api/whoami").await.0, 200, "{name}");
        for path in ["/api/users", "/api/permissions", "/api/topic-permissions"] {
            let refused = own.get(path).await;
            let expected = (401, "not_authorised", "Not administrator user");
            assert_eq!(told(&refused), expected, "{name} {path}");
        }
        assert_eq!(own.put("/api/vhosts/new", json!({})).await.0, 401);
        assert_eq!(
            own.put("/api/vhost-limits/%2F/max-queues", json!({"value": 1}))
                .await
                .0,
            401
        );
        let vhosts = own.get("/api/vhosts").await.1.as_array().unwrap().len();
        let queues = own.get("/api/queues/other").await;
        match name {
            "monitoring" => {
                assert_eq!((vhosts, queues.0), (2, 200));
                assert_eq!(own.get("/metrics").await.0, 200);
            }
            _ => {
                assert_eq!(vhosts, 1, "{name}");
                assert_eq!(own.get("/metrics").await.0, 403);
                let reason = "User not authorised to access virtual host";
                assert_eq!(told(&queues), (401, "not_authorised", reason));
            }
        }
    }
    let second = user("administrator");
    assert_eq!(second.put("/api/vhosts/new", json!({})).await.0, 201);
    assert_eq!(second.get("/api/users").await.0, 200);
    // On the bus it is the same: tests/http_roles.rs has all of it.
    let client = json!({"client_id": "noc"});
    assert_eq!(second.post("/clients", client.clone()).await.0, 201);
    assert_eq!(user("monitoring").get("/clients").await.0, 200);
    assert_eq!(user("monitoring").post("/clients", client).await.0, 403);
    assert_eq!(user("policymaker").get("/clients").await.0, 403);
}

#[actix_web::test]
async fn a_client_of_the_bus_has_no_business_below_api_and_keeps_its_name() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let made = admin.post("/clients", json!({"client_id": "noc"})).await.1;
    let secret = made["secret"].as_str().unwrap();
    let client = Admin::as_user(&server, "noc", secret);
    assert_eq!(client.get("/api/whoami").await.0, 403);
    assert_eq!(client.get("/api/vhosts").await.0, 403);
    let clash = admin
        .put("/api/users/noc", json!({"password": "p", "tags": ""}))
        .await;
    assert_eq!(clash.0, 400);
    admin
        .put("/api/users/u", json!({"password": "p", "tags": ""}))
        .await;
    let clash = admin.post("/clients", json!({"client_id": "u"})).await;
    assert!((400..500).contains(&clash.0), "{}", clash.1);
}

#[actix_web::test]
async fn who_guesses_too_often_is_refused_for_a_while() {
    let variables = [("BACKBONE_LIMITS__FAILED_LOGINS_PER_MINUTE", "2")];
    let server = Server::with(&variables).await;
    let admin = Admin::of(&server);
    assert_eq!(admin.get("/api/whoami").await.0, 200);
    for _ in 0..2 {
        let wrong = Admin::as_user(&server, "admin", "wrong");
        assert_eq!(wrong.get("/api/whoami").await.0, 401);
    }
    // Half a minute is a long time for what comes next.
    assert_eq!(admin.get("/api/whoami").await.0, 401);
    let guest = Admin::as_user(&server, "guest", "guest");
    assert_eq!(
        guest.get("/api/whoami").await.0,
        200,
        "others are not concerned"
    );
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
async fn the_command_line_manages_users_vhosts_and_permissions() {
    let server = Server::start().await;
    for done in [
        &["vhost", "add", "v/1", "--description", "d"][..],
        &["vhost", "limit", "v/1", "max-queues", "5"],
        &["vhost", "trace", "v/1", "on"],
        &["user", "add", "u", "--password", "p", "--tag", "management"],
        &["user", "limit", "u", "max-channels", "-1"],
        &["user", "set", "u", "--password", "q"],
        &["user", "set", "u", "--tag", "management"],
        &["permission", "set", "u", "--vhost", "v/1", "--write", "^w"],
        &[
            "permission",
            "set-topic",
            "u",
            "amq.topic",
            "--vhost",
            "v/1",
            "--write",
            "^{username}",
        ],
    ] {
        assert_eq!(
            backbone(&server, done).await,
            (true, "done\n".into()),
            "{done:?}"
        );
    }
    let lists = [
        (&["vhost", "list"][..], "v/1\t0\t0\tsynced\td"),
        (&["user", "list"], "u\tmanagement\t{\"max-channels\":-1}"),
        (&["permission", "list", "--user", "u"], "u\tv/1\t.*\t^w\t.*"),
        (
            &["permission", "list-topic"],
            "u\tv/1\tamq.topic\t^{username}\t.*",
        ),
    ];
    for (list, expected) in lists {
        let (_, lines) = backbone(&server, list).await;
        assert!(
            lines.lines().any(|line| line == expected),
            "{list:?}: {lines}"
        );
    }
    assert!(!backbone(&server, &["vhost", "trace", "none", "on"]).await.0);
    let own = Admin::as_user(&server, "u", "q");
    assert_eq!(own.get("/api/vhosts").await.1[0]["name"], "v/1");
    assert_eq!(own.get("/api/vhosts").await.1[0]["tracing"], true);
    assert_eq!(own.get("/api/whoami").await.0, 200);
    let (_, json) = backbone(&server, &["permission", "list", "--vhost", "v/1", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    for removed in [
        &["permission", "remove-topic", "u", "--vhost", "v/1"][..],
        &["permission", "remove", "u", "--vhost", "v/1"],
        &["user", "remove", "u"],
        &["vhost", "remove", "v/1"],
    ] {
        assert!(backbone(&server, removed).await.0, "{removed:?}");
        assert!(!backbone(&server, removed).await.0, "twice: {removed:?}");
    }
}
