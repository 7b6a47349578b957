//! The audit from outside: what is entered, what is not, and how it is found again.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::admin::Admin;
use common::raw::Raw;
use common::{ADMIN_SECRET, Server, command};
use reqwest::Client;
use serde_json::{Value, json};
use socket2::SockRef;

const PATIENCE: Duration = Duration::from_secs(20);

/// Entries that are asked for, the oldest first.
async fn entries(admin: &Admin, query: &str) -> Vec<Value> {
    let (status, page) = admin.get(&format!("/audit{query}")).await;
    assert_eq!(status, 200, "{page}");
    let mut entries = page["entries"].as_array().unwrap().clone();
    entries.reverse();
    entries
}

fn texts<'a>(entries: &'a [Value], field: &str) -> Vec<&'a str> {
    let all = entries
        .iter()
        .map(|it| it[field].as_str().unwrap_or_default());
    all.collect()
}

#[actix_web::test]
async fn who_changed_what_is_entered_without_secrets() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let record = json!({"client_name": "Noc C2", "subscription": "soar.#"});
    let (_, made) = admin.post("/clients", record).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    let noc = Admin::as_user(&server, "noc-c2", &secret);
    let change = json!({"subscription": "other.#", "disabled": false, "odd": 1});
    assert_eq!(admin.put("/clients/noc-c2", change.clone()).await.0, 200);
    assert_eq!(noc.put("/clients/noc-c2", change).await.0, 403);
    let (status, rotated) = noc.post("/clients/noc-c2/secret", json!({})).await;
    assert_eq!(status, 200);
    let user = json!({"password": "a-password-of-a-user", "tags": "monitoring"});
    assert_eq!(admin.put("/api/users/watcher", user).await.0, 201);
    admin.permit("%2F", "watcher", [".*", ".*", ".*"]).await;
    let policy = json!({"pattern": "^x", "definition": {"max-length": 1}});
    assert_eq!(admin.put("/api/policies/%2F/cap", policy).await.0, 201);
    assert_eq!(admin.put("/api/queues/%2F/q", json!({})).await.0, 201);
    assert_eq!(admin.delete("/api/queues/%2F/q/contents").await, 204);
    assert_eq!(admin.delete("/api/queues/%2F/q").await, 204);
    assert_eq!(
        admin.post("/api/definitions", json!({"users": []})).await.0,
        204
    );
    assert_eq!(admin.delete("/clients/noc-c2").await, 204);
    assert_eq!(admin.delete("/clients/noc-c2").await, 404);

    let watcher = Admin::as_user(&server, "watcher", "a-password-of-a-user");
    let found = entries(&watcher, "").await;
    let told: Vec<_> = found
        .iter()
        .map(|it| {
            let text = |field: &str| it[field].as_str().unwrap_or("-").to_owned();
            [text("action"), text("who"), text("outcome"), text("client")].join(" ")
        })
        .collect();
    assert_eq!(
        told,
        [
            "clients.create admin done noc-c2",
            "clients.put admin done noc-c2",
            "clients.put noc-c2 refused noc-c2",
            "clients.secret.create noc-c2 done noc-c2",
            "users.put admin done -",
            "permissions.put admin done -",
            "policies.put admin done -",
            "queues.put admin done -",
            "queues.contents.delete admin done -",
            "queues.delete admin done -",
            "definitions.create admin done -",
            "clients.delete admin done noc-c2",
            "clients.delete admin refused noc-c2",
        ]
    );
    assert_eq!(found[1]["fields"], json!(["subscription", "disabled"]));
    assert_eq!(
        (&found[1]["kind"], &found[2]["kind"]),
        (&json!("user"), &json!("client"))
    );
    assert_eq!(found[8]["path"], "/api/queues/%2F/q/contents");
    assert!(
        found.iter().all(|it| it["from"] == "127.0.0.1"),
        "{found:?}"
    );
    let all = serde_json::to_string(&found).unwrap();
    for hidden in [
        &secret,
        rotated["secret"].as_str().unwrap(),
        "a-password-of-a-user",
        ADMIN_SECRET,
    ] {
        assert!(!all.contains(hidden), "{hidden} is in {all}");
    }
    // Looking at it leaves no trace.
    assert_eq!(entries(&watcher, "").await, found);
}

#[actix_web::test]
async fn failed_logins_are_entered_and_messages_are_not() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let (_, made) = admin
        .post("/clients", json!({"client_id": "noc", "subscription": "#"}))
        .await;
    let secret = made["secret"].as_str().unwrap();
    let noc = Admin::as_user(&server, "noc", secret);
    let message = json!({"topic": "t", "body": 1});
    assert_eq!(noc.post("/send", message.clone()).await.0, 200);
    assert_eq!(noc.post("/notify", message).await.0, 200);
    assert_eq!(noc.post("/token", json!({})).await.0, 200);
    assert_eq!(noc.get("/receive").await.0, 200);
    let stranger = Admin::as_user(&server, "noc", "guessed-secret");
    assert_eq!(stranger.get("/receive").await.0, 401);
    assert_eq!(stranger.delete("/clients/noc").await, 401);
    assert!(Raw::login(server.amqp[0], "nobody\n", "guessed-secret", 0).is_err());
    let nameless = Client::new()
        .delete(server.url("/clients/noc"))
        .send()
        .await;
    assert_eq!(nameless.unwrap().status(), 401);

    let found = entries(&admin, "").await;
    let failed = "login.failed";
    assert_eq!(
        texts(&found, "action"),
        ["clients.create", failed, failed, failed]
    );
    assert_eq!(texts(&found, "who"), ["admin", "noc", "noc", "nobody\n"]);
    assert_eq!(texts(&found, "from"), ["127.0.0.1"; 4]);
    let of_client = entries(&admin, "?client=noc").await;
    assert_eq!(
        texts(&of_client, "action"),
        ["clients.create", failed, failed]
    );
    assert!(!serde_json::to_string(&found).unwrap().contains("guessed"));
}

#[actix_web::test]
async fn anybody_who_registers_is_entered_as_nobody() {
    let server = Server::with(&[("BACKBONE_HTTP__OPEN_REGISTRATION", "true")]).await;
    let made = Client::new().post(server.url("/clients"));
    let made = made
        .json(&json!({"client_id": "noc"}))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let found = entries(&Admin::of(&server), "").await;
    assert_eq!((found.len(), &found[0]["client"]), (1, &json!("noc")));
    assert!(found[0].get("who").is_none() && found[0]["from"] == "127.0.0.1");
}

#[actix_web::test]
async fn entries_survive_a_crash_and_are_found_page_by_page() {
    let mut server = Server::start().await;
    let admin = Admin::of(&server);
    for n in 0..10 {
        let path = format!("/api/vhosts/v{n}");
        assert_eq!(admin.put(&path, json!({})).await.0, 201);
    }
    let dir = server.data_dir();
    for _ in 0..2 {
        server.kill();
        server = Server::on(dir.clone(), &[]).await;
    }
    let admin = Admin::of(&server);
    assert_eq!(admin.put("/api/users/u", json!({"tags": ""})).await.0, 201);
    let found = entries(&admin, "").await;
    assert_eq!(found.len(), 11);
    let ids: Vec<_> = found.iter().map(|it| it["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");

    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let page = admin
            .get(&format!("/audit?limit=4&action=vhosts{before}"))
            .await
            .1;
        seen.extend(
            texts(page["entries"].as_array().unwrap(), "path")
                .iter()
                .map(|it| (*it).to_owned()),
        );
        let Some(next) = page["before"].as_u64() else {
            break;
        };
        before = format!("&before={next}");
    }
    let expected: Vec<_> = (0..10).rev().map(|n| format!("/api/vhosts/v{n}")).collect();
    assert_eq!(seen, expected);

    let middle = found[5]["time"].as_str().unwrap().replace('+', "%2B");
    let since = entries(&admin, &format!("?since={middle}")).await;
    let until = entries(&admin, &format!("?until={middle}")).await;
    assert_eq!(since.len() + until.len(), 11);
    assert!(since.contains(&found[5]) && !until.contains(&found[5]));
    assert_eq!(entries(&admin, "?who=nobody").await.len(), 0);
    assert_eq!(entries(&admin, "?since=0&before=0").await.len(), 0);

    server.kill();
    let stats = command(dir.path(), &[])
        .args(["log", "stats", "--json"])
        .output()
        .unwrap();
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap();
    let ids = stats["queues"].as_array().unwrap().iter();
    let queues: Vec<_> = ids.filter(|it| it.get("stream").is_none()).collect();
    let small = |it: &&Value| it["id"].as_u64().is_none_or(|id| id < 1 << 32);
    assert!(
        queues.iter().all(small),
        "the stream's number is no queue's: {queues:?}"
    );
}

#[actix_web::test]
async fn what_cannot_be_asked_is_told_so() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("since=yesterday", "since"),
        ("until=-1", "until"),
        ("limit=x", ""),
        ("before=-1", ""),
        ("colour=red", ""),
        ("who=a&who=b", ""),
    ] {
        let (status, error) = admin.get(&format!("/audit?{query}")).await;
        assert_eq!(status, 400, "{query}: {error}");
        assert_eq!(
            error["field"].as_str().unwrap_or_default(),
            field,
            "{query}"
        );
    }
}

#[actix_web::test]
async fn no_more_is_kept_than_configured() {
    let mut server = Server::start().await;
    let admin = Admin::of(&server);
    for n in 0..12 {
        assert_eq!(
            admin.put(&format!("/api/vhosts/v{n}"), json!({})).await.0,
            201
        );
    }
    let dir = server.data_dir();
    server.kill();
    let mut server = Server::on(dir.clone(), &[("BACKBONE_AUDIT__ENTRIES_MAX", "5")]).await;
    let admin = Admin::of(&server);
    let begin = Instant::now();
    while entries(&admin, "").await.len() > 5 {
        assert!(begin.elapsed() < PATIENCE, "nothing is forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kept = entries(&admin, "").await;
    assert_eq!(texts(&kept, "path")[0], "/api/vhosts/v7");
    assert_eq!(admin.delete("/api/vhosts/v1").await, 204);
    let dir_again = dir.clone();
    server.kill();
    let server = Server::on(dir_again, &[]).await;
    let kept = entries(&Admin::of(&server), "").await;
    assert_eq!(texts(&kept, "action").last(), Some(&"vhosts.delete"));
    assert!(kept.len() <= 6, "what was forgotten stays so");
}

#[actix_web::test]
async fn strangers_do_not_fill_it() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let attempts = (0..300).map(|n| {
        let call = Client::new().get(server.url("/receive"));
        call.basic_auth(format!("n{n}"), Some("x")).send()
    });
    futures_util::future::join_all(attempts).await;
    let begin = Instant::now();
    let found = loop {
        let one_more = Admin::as_user(&server, "late", "x").get("/receive").await;
        assert_eq!(one_more.0, 401);
        let found = entries(&admin, "?limit=1000").await;
        if found.iter().any(|it| it.get("left_out").is_some()) {
            break found;
        }
        assert!(begin.elapsed() < PATIENCE, "{} entries", found.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let left_out = found
        .iter()
        .filter_map(|it| it["left_out"].as_u64())
        .sum::<u64>();
    // One a second may come in meanwhile.
    assert!(found.len() < 200, "{}", found.len());
    assert!(left_out > 100, "{left_out}");
}

#[actix_web::test]
async fn a_change_is_entered_even_if_its_caller_has_left() {
    const CALLERS: usize = 40;
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let credentials = STANDARD.encode(format!("admin:{ADMIN_SECRET}"));
    for n in 0..CALLERS {
        let body = format!("{{\"client_id\":\"c{n}\"}}");
        let request = format!(
            "POST /clients HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {credentials}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut connection = TcpStream::connect(server.http[0]).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        // Some are gone before the server has read, some while it works.
        tokio::time::sleep(Duration::from_micros(200 * (n as u64 % 10))).await;
        // A reset, which drops what the server does for the connection.
        let socket = SockRef::from(&connection);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    // Behind all of them, since changes of the register are made one after the other.
    let last = json!({"client_id": "last"});
    assert_eq!(admin.post("/clients", last).await.0, 201);
    let begin = Instant::now();
    loop {
        let (_, clients) = admin.get("/clients").await;
        let there: BTreeSet<String> = names(&clients, "client_id");
        let (_, page) = admin.get("/audit?action=clients.create&limit=1000").await;
        let entered: BTreeSet<String> = names(&page["entries"], "client");
        if there.is_subset(&entered) {
            assert!(there.len() > 1, "nobody was quick enough");
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{there:?} but {entered:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn names(list: &Value, field: &str) -> BTreeSet<String> {
    let all = list.as_array().unwrap().iter();
    all.filter_map(|it| it[field].as_str().map(str::to_owned))
        .collect()
}

#[actix_web::test]
async fn the_command_line_shows_it() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    assert_eq!(admin.put("/api/vhosts/v", json!({})).await.0, 201);
    let dir = server.data_dir();
    let run = |arguments: &[&str]| {
        let mut command = command(dir.path(), &[]);
        let api = server.url("");
        command.args(["audit", "--api", &api]).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = run(&["--action", "vhosts"]);
    assert!(
        lines.contains("\tvhosts.put\tdone\tadmin\t127.0.0.1\t"),
        "{lines}"
    );
    let page: Value = serde_json::from_str(&run(&["--json", "--limit", "1"])).unwrap();
    assert_eq!(page["entries"][0]["path"], "/api/vhosts/v");
    assert_eq!(run(&["--who", "nobody"]), "");
}
