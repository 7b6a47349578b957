//! Webhooks from outside: what is pushed, in which order, and what happens when it is not taken.

#![allow(clippy::unwrap_used)]

use crate::common;

use std::time::{Duration, Instant};

use common::Server;
use common::admin::Admin;
use common::webhook::{Answer, Receiver};
use serde_json::{Value, json};

/// Loopback may be called, and failures are followed at once.
const QUICK: [(&str, &str); 3] = [
    ("BACKBONE_PUSH__ALLOWED", "127.0.0.0/8"),
    ("BACKBONE_PUSH__RETRY_MIN_MS", "1"),
    ("BACKBONE_PUSH__RETRY_MAX_MS", "20"),
];
/// The same with a first failure that is not followed within a test.
const PATIENT: [(&str, &str); 3] = [
    ("BACKBONE_PUSH__ALLOWED", "127.0.0.1"),
    ("BACKBONE_PUSH__RETRY_MIN_MS", "3600000"),
    ("BACKBONE_PUSH__RETRY_MAX_MS", "3600000"),
];

/// A client that is pushed to, and sends.
struct Client {
    api: Admin,
    webhook_secret: String,
}

async fn client(server: &Server, id: &str, url: &str) -> Client {
    let record = json!({"client_id": id, "subscription": "t.#", "webhook_url": url});
    let (status, made) = Admin::of(server).post("/clients", record).await;
    assert_eq!(status, 201, "{made}");
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    Client {
        api: Admin::as_user(server, id, &text("secret")),
        webhook_secret: text("webhook_secret"),
    }
}

impl Client {
    async fn send(&self, body: Value) {
        let message = json!({"topic": "t.x", "body": body});
        assert_eq!(self.api.post("/send", message).await.0, 200);
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn push_of(server: &Server, id: &str) -> Value {
    let (_, shown) = Admin::of(server).get(&format!("/clients/{id}")).await;
    shown["push"].clone()
}

/// Waits until a call has failed.
async fn failing(server: &Server, id: &str) -> Value {
    let look = async || {
        let push = push_of(server, id).await;
        (push["failing"] == true).then_some(push)
    };
    until("a failure", look).await
}

/// Waits until nothing is in the client's inbox, nor handed out.
async fn emptied(server: &Server, id: &str) {
    let path = format!("/api/queues/%2F/{id}-inbox");
    let admin = Admin::of(server);
    until("an empty inbox", async || {
        let (_, queue) = admin.get(&path).await;
        (queue["messages"] == 0).then_some(())
    })
    .await;
}

fn hmac(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let parts = [timestamp.as_bytes(), b".", body];
    let code = backbone::auth::hmac_sha256(secret.as_bytes(), &parts);
    let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[actix_web::test]
async fn messages_arrive_once_in_order_and_signed() {
    let server = Server::with(&QUICK).await;
    let receiver = Receiver::start(&[]);
    let a = client(&server, "a", &receiver.url()).await;
    for n in 0..20 {
        a.send(json!({"n": n})).await;
    }
    let heard = receiver.wait(20).await;
    emptied(&server, "a").await;
    for (n, call) in heard.iter().enumerate() {
        assert_eq!(call.attempt(), (1, json!({"n": n})));
        let item = call.item();
        assert_eq!(call.path, "/hook?key=a%20b");
        assert_eq!(call.header("host"), receiver.address.to_string());
        assert_eq!(call.header("content-type"), "application/json");
        assert_eq!(call.header("x-backbone-topic"), "t.x");
        assert_eq!(call.header("x-backbone-sender"), "a");
        assert_eq!(call.header("x-backbone-id"), item["id"]);
        let timestamp = call.header("x-backbone-timestamp");
        let signed = hmac(&a.webhook_secret, timestamp, &call.body);
        assert_eq!(call.header("x-backbone-signature"), signed);
    }
    assert_eq!(a.api.get("/receive").await, (200, json!([])));
    assert_eq!(receiver.heard().len(), 20);
    assert_eq!(push_of(&server, "a").await, json!({"failing": false}));
    let (_, shown) = Admin::of(&server).get("/clients").await;
    assert_eq!(shown[0]["webhook_secret"], Value::Null);
    let metrics = Admin::of(&server).text("/metrics").await;
    for line in [
        "backbone_push_delivered_total 20",
        "backbone_push_failed_total 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{metrics}");
    }
}

#[actix_web::test]
async fn whatever_fails_is_tried_again_before_what_comes_behind_it() {
    let mut variables = QUICK.to_vec();
    variables.push(("BACKBONE_PUSH__TIMEOUT_MS", "1000"));
    let server = Server::with(&variables).await;
    let elsewhere = Receiver::start(&[]);
    let script = [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Redirect(elsewhere.url()),
        Answer::Drop,
        Answer::Half,
        Answer::Garbage,
        Answer::Hang,
        Answer::HugeHead,
        Answer::Huge(503),
    ];
    let receiver = Receiver::start(&script);
    let a = client(&server, "a", &receiver.url()).await;
    for n in 0..3 {
        a.send(json!(n)).await;
    }
    receiver.wait(script.len() + 3).await;
    emptied(&server, "a").await;
    let first = (1..=10).map(|attempt| (attempt, json!(0)));
    let all: Vec<_> = first.chain([(1, json!(1)), (1, json!(2))]).collect();
    assert_eq!(receiver.attempts(), all);
    assert!(elsewhere.heard().is_empty(), "redirects are not followed");
    assert!(receiver.written() < 50 << 20, "{}", receiver.written());
}

#[actix_web::test]
async fn a_huge_answer_is_not_read() {
    let server = Server::with(&QUICK).await;
    let receiver = Receiver::start(&[Answer::Huge(200), Answer::Huge(200)]);
    let a = client(&server, "a", &receiver.url()).await;
    for n in 0..3 {
        a.send(json!(n)).await;
    }
    receiver.wait(3).await;
    emptied(&server, "a").await;
    let all: Vec<_> = (0..3).map(|n| (1, json!(n))).collect();
    assert_eq!(receiver.attempts(), all);
    assert!(receiver.written() < 50 << 20, "{}", receiver.written());
}

#[actix_web::test]
async fn what_waits_for_its_next_attempt_can_be_received() {
    let server = Server::with(&PATIENT).await;
    let receiver = Receiver::start(&[Answer::Status(500)]);
    let a = client(&server, "a", &receiver.url()).await;
    a.send(json!(1)).await;
    let push = failing(&server, "a").await;
    assert_eq!(push["attempt"], 1);
    assert_eq!(
        push["last_error"],
        "the answer was 500 Internal Server Error"
    );
    assert!(push["next_attempt_at"].is_string());
    let metrics = Admin::of(&server).text("/metrics").await;
    for line in ["backbone_push_failing 1", "backbone_push_failed_total 1"] {
        assert!(metrics.lines().any(|it| it == line), "{metrics}");
    }
    let (_, items) = a.api.get("/receive").await;
    assert_eq!(items[0]["body"], 1);
    emptied(&server, "a").await;
    assert_eq!(receiver.heard().len(), 1);
}

#[actix_web::test]
async fn a_crash_loses_nothing() {
    let mut server = Server::with(&PATIENT).await;
    let receiver = Receiver::start(&[Answer::Status(200), Answer::Status(500)]);
    let a = client(&server, "a", &receiver.url()).await;
    for n in 0..4 {
        a.send(json!(n)).await;
    }
    failing(&server, "a").await;
    let dir = server.data_dir();
    server.kill();
    let server = Server::on(dir, &PATIENT).await;
    emptied(&server, "a").await;
    let mut attempts = receiver.attempts();
    // That the first was settled may not have been on the disk: then it came again.
    let again = usize::from(attempts[2].1 == 0);
    attempts.drain(2..2 + again);
    assert_eq!(attempts, [0, 1, 1, 2, 3].map(|n| (1, json!(n))));
    let signed = receiver.heard().pop().unwrap();
    let timestamp = signed.header("x-backbone-timestamp");
    let code = hmac(&a.webhook_secret, timestamp, &signed.body);
    assert_eq!(signed.header("x-backbone-signature"), code);
}

#[actix_web::test]
async fn what_is_given_up_is_a_dead_letter_and_the_next_goes_on() {
    let mut variables = QUICK.to_vec();
    variables.push(("BACKBONE_PUSH__ATTEMPTS_MAX", "3"));
    let server = Server::with(&variables).await;
    let receiver = Receiver::start(&vec![Answer::Status(400); 3]);
    let a = client(&server, "a", &receiver.url()).await;
    a.send(json!("bad")).await;
    a.send(json!("good")).await;
    receiver.wait(4).await;
    emptied(&server, "a").await;
    let bad = |attempt| (attempt, json!("bad"));
    let all = [bad(1), bad(2), bad(3), (1, json!("good"))];
    assert_eq!(receiver.attempts(), all);
    let get = json!({"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let path = "/api/queues/%2F/soar-dead-letter/get";
    let (_, dead) = Admin::of(&server).post(path, get).await;
    assert_eq!(dead.as_array().unwrap().len(), 1, "{dead}");
    let headers = &dead[0]["properties"]["headers"];
    for (name, value) in [
        ("reason", "webhook: the answer was 400 Bad Request"),
        ("client", "a"),
        ("queue", "a-inbox"),
        ("attempts", "3"),
        ("topic", "t.x"),
        ("sender", "a"),
    ] {
        assert_eq!(headers[name], value, "{name} in {headers}");
    }
    assert!(dead[0]["payload"].as_str().unwrap().contains("\"bad\""));
    let metrics = Admin::of(&server).text("/metrics").await;
    let line = "backbone_push_dead_lettered_total 1";
    assert!(metrics.lines().any(|it| it == line), "{metrics}");
}

#[actix_web::test]
async fn without_leave_loopback_is_not_called() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]);
    let a = client(&server, "a", &receiver.url()).await;
    a.send(json!(1)).await;
    let push = failing(&server, "a").await;
    let error = "the host 127.0.0.1 has no address that may be called (push.allowed)";
    assert_eq!(push["last_error"], error);
    assert_eq!(receiver.connections(), 0);
    let (_, items) = a.api.get("/receive").await;
    assert_eq!(items[0]["body"], 1);
}

#[actix_web::test]
async fn a_webhook_is_changed_disabled_and_taken_away() {
    let server = Server::with(&PATIENT).await;
    let admin = Admin::of(&server);
    let (old, new) = (
        Receiver::start(&[Answer::Status(500)]),
        Receiver::start(&[]),
    );
    let a = client(&server, "a", &old.url()).await;
    a.send(json!(1)).await;
    failing(&server, "a").await;
    let (_, changed) = admin.put("/clients/a", json!({"webhook": new.url()})).await;
    assert_eq!(changed["webhook_secret"], Value::Null, "it stays");
    new.wait(1).await;
    emptied(&server, "a").await;
    admin.put("/clients/a", json!({"disabled": true})).await;
    let b = client(&server, "b", &new.url()).await;
    b.send(json!(2)).await;
    new.wait(2).await;
    emptied(&server, "b").await;
    let (_, queue) = admin.get("/api/queues/%2F/a-inbox").await;
    assert_eq!(queue["messages"], 1, "nothing is pushed for a");
    admin.put("/clients/a", json!({"disabled": false})).await;
    new.wait(3).await;
    emptied(&server, "a").await;
    let (_, without) = admin.put("/clients/a", json!({"webhook_url": null})).await;
    assert_eq!(
        (&without["webhook_url"], &without["push"]),
        (&Value::Null, &Value::Null)
    );
    b.send(json!(3)).await;
    new.wait(4).await;
    let (_, items) = a.api.get("/receive?wait=20").await;
    assert_eq!(items[0]["body"], 3);
    let (_, with) = admin
        .put("/clients/a", json!({"webhook_url": new.url()}))
        .await;
    let again = with["webhook_secret"].as_str().unwrap();
    assert!(again != a.webhook_secret && !again.is_empty());
    assert_eq!(admin.delete("/clients/a").await, 204);
    assert_eq!(old.heard().len(), 1);
    let bodies: Vec<_> = new.attempts().into_iter().map(|it| it.1).collect();
    assert_eq!(bodies, [1, 2, 2, 3].map(|n| json!(n)));
}

#[actix_web::test]
async fn webhook_secrets_are_rotated_and_bad_input_changes_nothing() {
    let server = Server::with(&QUICK).await;
    let admin = Admin::of(&server);
    let receiver = Receiver::start(&[]);
    let a = client(&server, "a", &receiver.url()).await;
    let b = client(&server, "b", &receiver.url()).await;
    let path = "/clients/a/webhook-secret";
    assert_eq!(b.api.post(path, json!({})).await.0, 403);
    assert_eq!(
        admin.post("/clients/c/webhook-secret", json!({})).await.0,
        404
    );
    let (status, rotated) = a.api.post(path, json!({})).await;
    assert_eq!(status, 200);
    let secret = rotated["webhook_secret"].as_str().unwrap();
    assert_ne!(secret, a.webhook_secret);
    for (field, url) in [
        ("webhook_url", json!("http://user:password@host/")),
        ("webhook", json!("http://host:99999/")),
        ("push_url", json!("http://host/\r\nX: y")),
        ("callback_url", json!("gopher://host/")),
        (
            "webhook_url",
            json!(format!("http://host/{}", "x".repeat(2048))),
        ),
        ("webhook_url", json!(["http://host/"])),
    ] {
        let (status, refused) = admin.put("/clients/a", json!({ field: url })).await;
        assert_eq!(
            (status, &refused["field"]),
            (400, &json!(field)),
            "{refused}"
        );
    }
    a.send(json!(1)).await;
    let heard = receiver.wait(2).await;
    assert!(heard.iter().any(|call| {
        let timestamp = call.header("x-backbone-timestamp");
        call.header("x-backbone-signature") == hmac(secret, timestamp, &call.body)
    }));
    admin.put("/clients/b", json!({"webhook_url": ""})).await;
    let (status, refused) = admin.post("/clients/b/webhook-secret", json!({})).await;
    assert_eq!((status, &refused["field"]), (400, &json!("webhook_url")));
}

#[actix_web::test]
async fn calls_to_one_host_are_limited() {
    let mut variables = QUICK.to_vec();
    variables.push(("BACKBONE_PUSH__CALLS_PER_HOST", "2"));
    let server = Server::with(&variables).await;
    let slow = vec![Answer::Slow(Duration::from_millis(20)); 40];
    let receiver = Receiver::start(&slow);
    let mut clients = Vec::new();
    for id in ["a", "b", "c", "d"] {
        clients.push(client(&server, id, &receiver.url()).await);
    }
    for n in 0..10 {
        clients[0].send(json!(n)).await;
    }
    receiver.wait(40).await;
    for id in ["a", "b", "c", "d"] {
        emptied(&server, id).await;
    }
    assert_eq!(receiver.heard().len(), 40);
    assert_eq!(receiver.open_max(), 2);
}

#[actix_web::test]
async fn a_backlog_takes_one_connection() {
    let server = Server::with(&QUICK).await;
    let admin = Admin::of(&server);
    let receiver = Receiver::start(&[]);
    let record = json!({"client_id": "a", "subscription": "t.#", "disabled": true, "webhook_url": receiver.url()});
    assert_eq!(admin.post("/clients", record).await.0, 201);
    let elsewhere = Receiver::start(&[]);
    let b = client(&server, "b", &elsewhere.url()).await;
    for n in 0..5 {
        b.send(json!(n)).await;
    }
    elsewhere.wait(5).await;
    admin.put("/clients/a", json!({"disabled": false})).await;
    receiver.wait(5).await;
    emptied(&server, "a").await;
    assert_eq!(receiver.connections(), 1);
}
