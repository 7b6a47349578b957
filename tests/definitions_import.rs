//! Definitions, out and in: those of a real RabbitMQ work here, and what an import has answered outlives a crash.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use common::admin::Admin;
use common::raw::{Raw, publish_with};
use common::{ADMIN_SECRET, Server, command};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a RabbitMQ 3.10.8 exported; `fixtures/make-definitions` makes it.
const RABBITMQ: &str = include_str!("fixtures/rabbitmq-3.10.8.json");
const LISTS: [&str; 10] = [
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "queues",
    "exchanges",
    "bindings",
];

fn rabbitmq() -> Value {
    serde_json::from_str(RABBITMQ).unwrap()
}

async fn import(admin: &Admin, definitions: Value) {
    let (status, told) = admin.post("/api/definitions", definitions).await;
    assert_eq!(status, 204, "{told}");
}

async fn export(admin: &Admin) -> Value {
    let (status, definitions) = admin.get("/api/definitions").await;
    assert_eq!(status, 200);
    definitions
}

/// The items of a list, without what Backbone brings with it: its administrator, and the bus.
fn items(definitions: &Value, list: &str) -> BTreeSet<String> {
    let of_backbone = |item: &Value| {
        let is = |field: &str, name: &str| item[field] == name;
        let bus = ["name", "source", "destination"].iter().any(|field| {
            let name = item[*field].as_str().unwrap_or_default();
            name.starts_with("soar-")
        });
        is("user", "admin") || (list == "users" && is("name", "admin")) || bus
    };
    let all = definitions[list].as_array().unwrap().iter();
    let own = all.filter(|item| !of_backbone(item)).map(|item| {
        let mut item = item.clone();
        if list == "vhosts" {
            // RabbitMQ 3.10 leaves out what is said of them.
            item = json!({"name": item["name"]});
        }
        item.to_string()
    });
    own.collect()
}

fn assert_same(got: &Value, wanted: &Value) {
    for list in LISTS {
        let (got, wanted) = (items(got, list), items(wanted, list));
        let missing: Vec<_> = wanted.difference(&got).collect();
        let surplus: Vec<_> = got.difference(&wanted).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "{list}: {missing:#?} are missing, {surplus:#?} should not be there"
        );
    }
}

/// Without what a restart is allowed to forget.
fn durable(mut definitions: Value) -> Value {
    for list in ["queues", "exchanges"] {
        let items = definitions[list].as_array_mut().unwrap();
        items.retain(|item| item["durable"] == true);
    }
    let bindings = definitions["bindings"].as_array_mut().unwrap();
    bindings.retain(|item| item["destination"] != "kurz");
    definitions
}

#[actix_web::test]
async fn what_rabbitmq_exports_works_here_and_comes_out_the_same() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    import(&admin, rabbitmq()).await;
    let address = server.amqp[0];

    // Passwords as they were, of both hash functions.
    let enter = |user, password, vhost| Raw::enter(address, user, password, vhost, 0);
    enter("shop", "shop-password", "/").unwrap();
    enter("old", "old-password", "größe/1").unwrap();
    assert_eq!(
        enter("old", "shop-password", "orders").err().unwrap().0,
        403
    );
    assert_eq!(enter("no-password", "", "orders").err().unwrap().0, 403);
    assert_eq!(enter("old", "old-password", "/").err().unwrap().0, 530);

    // Routes: a pattern, an exchange to an exchange, an alternate exchange by policy, a headers exchange's.
    let mut old = enter("old", "old-password", "orders").unwrap();
    old.publish_confirmed(&publish_with("events", "mail.x", &[0, 0], b"1"));
    old.send(&publish_with("events", "hidden.x", &[0, 0], b"2"));
    assert_eq!(old.refusal().0, 403, "its topic permission");
    let mut guest = enter("guest", "guest", "orders").unwrap();
    for (key, queue) in [("hidden.x", "shop.classic"), ("elsewhere", "shop.lost")] {
        let before = guest.waiting(queue);
        guest.publish_confirmed(&publish_with("events", key, &[0, 0], b"3"));
        assert_eq!(guest.waiting(queue), before + 1, "{key}");
    }
    assert_eq!(guest.waiting("shop.mail"), 1);

    // Policies and limits.
    let (_, queue) = admin.get("/api/queues/orders/shop.mail").await;
    assert_eq!(
        (&queue["policy"], &queue["operator_policy"]),
        (&json!("cap"), &json!("ceiling"))
    );
    let (_, limits) = admin.get("/api/vhost-limits/orders").await;
    assert_eq!(
        limits[0]["value"],
        json!({"max-connections": 20, "max-queues": 12})
    );

    assert_same(&export(&admin).await, &rabbitmq());
    // Again, and what came out: nothing is an error, nothing changes.
    import(&admin, rabbitmq()).await;
    import(&admin, export(&admin).await).await;
    assert_same(&export(&admin).await, &rabbitmq());
}

#[actix_web::test]
async fn what_an_import_has_answered_outlives_a_crash() {
    let mut server = Server::start().await;
    import(&Admin::of(&server), rabbitmq()).await;
    server.kill();
    let server = Server::on(server.data_dir(), &[]).await;
    assert_same(&export(&Admin::of(&server)).await, &durable(rabbitmq()));
    Raw::enter(server.amqp[0], "shop", "shop-password", "orders", 0).unwrap();
}

#[actix_web::test]
async fn one_wrong_item_is_named_and_nothing_is_changed() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let before = export(&admin).await;
    let queue = |more: Value| {
        let mut queue = json!({"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}});
        queue
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!([queue])
    };
    let binding = |source: &str, destination: &str| json!([{"source": source, "vhost": "/", "destination": destination, "destination_type": "queue", "routing_key": "k", "arguments": {}}]);
    let policy = |pattern: &str, definition: Value| json!([{"name": "p", "vhost": "/", "pattern": pattern, "definition": definition}]);
    let parameter = |component: &str, name: &str, value: Value| json!([{"component": component, "vhost": "/", "name": name, "value": value}]);
    let permission = |user: &str, vhost: &str, read: &str| json!([{"user": user, "vhost": vhost, "configure": "", "write": "", "read": read}]);
    for (list, wrong, problem) in [
        (
            "queues",
            queue(json!({"vhost": "none"})),
            "queues[0] 'q' in vhost 'none': there is no such vhost",
        ),
        (
            "queues",
            queue(json!({"arguments": {"x-max-length": -1}})),
            "invalid arg 'x-max-length' for queue 'q' in vhost '/'",
        ),
        (
            "queues",
            queue(json!({"arguments": {"x": null}})),
            "the argument 'x' is null",
        ),
        ("queues", queue(json!({"name": ""})), "the name of a queue"),
        (
            "exchanges",
            json!([{"name": "x", "vhost": "/", "type": "odd"}]),
            "exchanges[0] 'x' in vhost '/'",
        ),
        (
            "exchanges",
            json!([{"name": "amq.x", "vhost": "/", "type": "direct"}]),
            "reserved prefix",
        ),
        (
            "bindings",
            binding("amq.direct", "none"),
            "no queue 'none' in vhost '/'",
        ),
        (
            "bindings",
            binding("none", "good"),
            "no exchange 'none' in vhost '/'",
        ),
        ("bindings", binding("", "good"), "default exchange"),
        (
            "policies",
            policy("(", json!({"expires": 1})),
            "policies[0] 'p' in vhost '/': pattern",
        ),
        ("policies", policy("x", json!({})), "no policy provided"),
        (
            "parameters",
            parameter("vhost-limits", "limits", json!({"max-x": 1})),
            "Unrecognised terms [max-x]",
        ),
        (
            "parameters",
            parameter("operator_policy", "o", json!({"pattern": "x"})),
            "missing field `definition`",
        ),
        (
            "permissions",
            permission("nobody", "/", ""),
            "permissions[0] 'nobody' in vhost '/': there is no user 'nobody'",
        ),
        (
            "permissions",
            permission("guest", "none", ""),
            "there is no such vhost",
        ),
        (
            "permissions",
            permission("guest", "/", "("),
            "permissions[0] 'guest' in vhost '/'",
        ),
        (
            "users",
            json!([{"name": "u", "password_hash": "AAAA"}]),
            "users[0] 'u': the password_hash",
        ),
        (
            "users",
            json!([{"name": "u", "password_hash": "AAAA", "hashing_algorithm": "rabbit_password_hashing_md5"}]),
            "hashing_algorithm",
        ),
        (
            "users",
            json!([{"name": "u:v", "password_hash": ""}]),
            "users[0] 'u:v'",
        ),
        (
            "vhosts",
            json!([{"name": "new"}, {"name": "x".repeat(256)}]),
            "vhosts[1]",
        ),
    ] {
        let mut all = json!({
            "vhosts": [{"name": "new"}], "users": [{"name": "new", "password_hash": "", "tags": ""}],
            "queues": [{"name": "good", "vhost": "/"}], "global_parameters": [{"name": "new", "value": 1}],
        });
        all[list] = wrong;
        let (status, told) = admin.post("/api/definitions", all).await;
        let reason = told["reason"].as_str().unwrap_or_default();
        assert!(
            status == 400 && reason.contains(problem),
            "{status} {told}, not {problem}"
        );
        assert_eq!(export(&admin).await, before, "{problem}");
    }
    let (status, told) = admin.post("/api/definitions/none", json!({})).await;
    assert_eq!((status, &told["reason"]), (404, &json!("vhost_not_found")));
    admin
        .user("manager", "management", [".*", ".*", ".*"])
        .await;
    let manager = Admin::as_user(&server, "manager", "manager");
    assert_eq!(manager.get("/api/definitions").await.0, 401);
    assert_eq!(manager.post("/api/definitions", json!({})).await.0, 401);
}

#[actix_web::test]
async fn an_import_changes_what_can_be_changed_and_leaves_the_rest() {
    let server = Server::with(&[("BACKBONE_LOG__FORMAT", "json")]).await;
    let admin = Admin::of(&server);
    let with = |length: u32, password: &str, max_queues: i64| {
        json!({
            "vhosts": [{"name": "v", "metadata": {"description": "one", "tags": ["t"]}}],
            "users": [
                {"name": "u", "password": password, "tags": ["management"]},
                {"name": "admin", "password_hash": "", "tags": []}],
            "permissions": [{"user": "u", "vhost": "v", "configure": "", "write": "", "read": ".*"}],
            "parameters": [{"component": "vhost-limits", "vhost": "v", "name": "limits", "value": {"max-queues": max_queues}}],
            "policies": [{"name": "p", "vhost": "v", "pattern": "x", "definition": {"max-length": length}}],
            // More than the vhost may have: an operator's word goes further.
            "queues": [
                {"name": "amq.gen-x", "vhost": "v", "arguments": {"x-max-length": length}},
                {"name": "q", "vhost": "v"}, {"name": "q", "vhost": "v", "durable": false}],
        })
    };
    import(&admin, with(1, "first", 1)).await;
    import(&admin, with(2, "second", 0)).await;
    let all = export(&admin).await;
    let policy = &all["policies"][0];
    assert_eq!(policy["definition"], json!({"max-length": 2}));
    assert_eq!(all["parameters"][0]["value"], json!({"max-queues": 0}));
    let queues = items(&all, "queues");
    assert_eq!(queues.len(), 2);
    assert!(
        queues.iter().any(|it| it.contains(r#""x-max-length":1"#)),
        "{queues:?}"
    );
    let vhost = all["vhosts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "v");
    assert_eq!(
        vhost.unwrap()["metadata"],
        json!({"description": "one", "tags": ["t"]})
    );
    let enter = |password| Raw::enter(server.amqp[0], "u", password, "v", 0);
    assert!(enter("first").is_err() && enter("second").is_ok());
    // The configuration's administrator is still itself.
    assert_eq!(
        admin.get("/api/whoami").await.1["tags"],
        json!(["administrator"])
    );
    // And passwords that were hashed here come out so that they go in again.
    let hash = all["users"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "u");
    assert_eq!(hash.unwrap()["hashing_algorithm"], "argon2id");
    assert_eq!(admin.delete("/api/users/u").await, 204);
    import(&admin, all).await;
    assert!(enter("second").is_ok());
}

#[actix_web::test]
async fn a_vhosts_definitions_go_into_another() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    import(&admin, rabbitmq()).await;
    let (status, orders) = admin.get("/api/definitions/orders").await;
    assert_eq!((status, &orders["queues"][0]["vhost"]), (200, &Value::Null));
    assert_eq!(admin.put("/api/vhosts/copy", json!({})).await.0, 201);
    assert_eq!(
        admin.post("/api/definitions/copy", orders.clone()).await.0,
        204
    );
    let (_, copy) = admin.get("/api/definitions/copy").await;
    for list in ["policies", "parameters"] {
        let named: Vec<_> = copy[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["vhost"])
            .collect();
        assert!(
            !named.is_empty() && named.iter().all(|it| **it == "copy"),
            "{list}"
        );
    }
    for list in ["queues", "exchanges", "bindings"] {
        assert_eq!(items(&copy, list), items(&orders, list));
    }
    assert_eq!(admin.get("/api/definitions/none").await.0, 404);
}

#[actix_web::test]
async fn a_form_with_a_file_is_taken_as_browsers_send_it() {
    let server = Server::start().await;
    let form = |name: &str| {
        format!(
            "--x\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.json\"\r\n\r\n\
             {{\"queues\": [{{\"name\": \"q\", \"vhost\": \"/\"}}]}}\r\n--x\r\n\
             Content-Disposition: form-data; name=\"redirect\"\r\n\r\n../#/import-succeeded\r\n--x--\r\n"
        )
    };
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = client.build().unwrap();
    let mut answers = Vec::new();
    for name in ["file", "other"] {
        let post = client
            .post(server.url("/api/definitions"))
            .basic_auth("admin", Some(ADMIN_SECRET));
        let post = post
            .header("content-type", "multipart/form-data; boundary=x")
            .body(form(name));
        let answer = post.send().await.unwrap();
        let location = answer.headers().get("location").cloned();
        answers.push((
            answer.status().as_u16(),
            location.map(|it| it.to_str().unwrap().to_owned()),
        ));
    }
    assert_eq!(
        answers,
        [(303, Some("../#/import-succeeded".into())), (400, None)]
    );
    Raw::open(server.amqp[0], 0).waiting("q");
}

#[actix_web::test]
async fn parameters_are_seen_set_and_removed() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    import(&admin, rabbitmq()).await;
    let limits = "/api/parameters/vhost-limits/orders/limits";
    let (status, shown) = admin.get(limits).await;
    let expected = json!({"component": "vhost-limits", "vhost": "orders", "name": "limits",
        "value": {"max-connections": 20, "max-queues": 12}});
    assert_eq!((status, shown), (200, expected));
    for (path, count) in [
        ("/api/parameters", 3),
        ("/api/parameters/operator_policy", 1),
        ("/api/parameters/federation-upstream/orders", 1),
        ("/api/parameters/federation-upstream/%2F", 0),
        ("/api/parameters/none", 0),
        ("/api/global-parameters", 3),
    ] {
        assert_eq!(
            admin.get(path).await.1.as_array().unwrap().len(),
            count,
            "{path}"
        );
    }
    let policy = json!({"value": {"pattern": "x", "definition": {"expires": 1000}, "priority": 1, "apply-to": "queues"}});
    for (path, body, status) in [
        (limits, json!({"value": {"max-queues": 3}}), 204),
        (
            "/api/parameters/vhost-limits/%2F/limits",
            json!({"value": {"max-queues": 300}}),
            201,
        ),
        (limits, json!({"value": {"max-x": 3}}), 400),
        (limits, json!({}), 400),
        ("/api/parameters/operator_policy/%2F/o", policy.clone(), 201),
        ("/api/parameters/policy/%2F/o", policy, 400),
        ("/api/parameters/shovel/%2F/s", json!({"value": {}}), 400),
        (
            "/api/parameters/vhost-limits/none/limits",
            json!({"value": {}}),
            404,
        ),
        ("/api/global-parameters/x", json!({"value": [1, null]}), 201),
        ("/api/global-parameters/x", json!({"value": 2}), 204),
        ("/api/global-parameters/x", json!({}), 400),
    ] {
        let (answered, told) = admin.put(path, body).await;
        assert_eq!(answered, status, "{path}: {told}");
    }
    assert_eq!(
        admin.get("/api/vhost-limits/orders").await.1[0]["value"],
        json!({"max-queues": 3})
    );
    assert_eq!(admin.get("/api/operator-policies/%2F/o").await.0, 200);
    assert_eq!(
        admin.get("/api/global-parameters/x").await.1,
        json!({"name": "x", "value": 2})
    );
    for path in [
        limits,
        "/api/parameters/operator_policy/%2F/o",
        "/api/parameters/federation-upstream/orders/far",
        "/api/global-parameters/x",
    ] {
        assert_eq!(
            (admin.delete(path).await, admin.delete(path).await),
            (204, 404),
            "{path}"
        );
        assert_eq!(admin.get(path).await.0, 404, "{path}");
    }
    assert_eq!(admin.get("/api/vhost-limits/orders").await.1, json!([]));
}

fn backbone(server: &Server, arguments: &[&str], input: Stdio) -> Output {
    let mut run: Command = command(
        server.data_dir().path(),
        &[("BACKBONE_API", &server.url(""))],
    );
    run.arg("definitions")
        .args(arguments)
        .stdin(input)
        .output()
        .unwrap()
}

#[actix_web::test]
async fn the_command_line_takes_definitions_out_and_in() {
    let server = Server::start().await;
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("in"), RABBITMQ).unwrap();
    let run = |arguments: &[&str], input: Stdio| {
        let done = backbone(&server, arguments, input);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        (
            done.status.code(),
            String::from_utf8(done.stdout).unwrap(),
            told,
        )
    };
    let input = std::fs::File::open(path("in")).unwrap();
    let (code, _, told) = run(&["import", "-"], input.into());
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(run(&["export", &path("out")], Stdio::null()).0, Some(0));
    let written = std::fs::read_to_string(path("out")).unwrap();
    assert_same(&serde_json::from_str(&written).unwrap(), &rabbitmq());
    let (code, orders, _) = run(&["export", "--vhost", "orders"], Stdio::null());
    let orders: Value = serde_json::from_str(&orders).unwrap();
    assert_eq!((code, orders.get("users")), (Some(0), None));
    std::fs::write(path("wrong"), r#"{"queues": [{"name": "q"}]}"#).unwrap();
    let (code, _, told) = run(&["import", &path("wrong")], Stdio::null());
    assert!(
        code == Some(1) && told.contains("queues[0] 'q': missing field `vhost`"),
        "{told}"
    );
    assert_eq!(
        run(
            &["import", "--vhost", "orders", &path("wrong")],
            Stdio::null()
        )
        .0,
        Some(0)
    );
    assert_eq!(run(&["import", &path("none")], Stdio::null()).0, Some(1));
}

#[actix_web::test]
async fn definitions_of_the_configuration_are_there_before_anybody_connects() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, RABBITMQ).unwrap();
    let variables = [("BACKBONE_DEFINITIONS__IMPORT_FILE", file.to_str().unwrap())];
    let mut server = Server::with(&variables).await;
    Raw::enter(server.amqp[0], "shop", "shop-password", "orders", 0).unwrap();
    let admin = Admin::of(&server);
    assert_eq!(admin.delete("/api/users/shop").await, 204);
    assert_eq!(admin.put("/api/vhosts/more", json!({})).await.0, 201);
    assert!(server.terminate().await.success());
    // Each start merges.
    let mut server = Server::on(server.data_dir(), &variables).await;
    Raw::enter(server.amqp[0], "shop", "shop-password", "orders", 0).unwrap();
    assert_eq!(Admin::of(&server).get("/api/vhosts/more").await.0, 200);
    assert!(server.terminate().await.success());
    // What is wrong keeps the server from starting, and says where.
    std::fs::write(
        &file,
        r#"{"bindings": [{"source": "x", "vhost": "/", "destination": "q"}]}"#,
    )
    .unwrap();
    let data_dir: Arc<TempDir> = server.data_dir();
    let ended = command(data_dir.path(), &variables)
        .arg("serve")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{told}");
    assert!(
        told.contains("definitions.import_file: bindings[0] 'x' in vhost '/'"),
        "{told}"
    );
}
