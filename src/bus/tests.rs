// Long because: one subject, and the fixture that all its tests share.
//! The bus with its actors on the embedded broker, without listeners.

use std::time::Instant;

use actix_rt::Arbiter;
use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::auth::Peer;
use crate::config::Config;
use crate::engine::Outgoing;

const ELSEWHERE: Peer = Peer {
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    is_local: false,
};

/// What needs no disk is there at once.
fn at_once<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("nothing to wait for")
}

const ALL: usize = usize::MAX;
const MEMORY_BYTES: usize = 1 << 20;
const GRACE: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(1);

struct Fixture {
    bus: Bus,
    engine: Engine,
    auth: Arc<Authenticator>,
    disconnected: Arc<Mutex<Vec<String>>>,
}

/// A bus on the state in `dir`; messages are always new.
async fn open(dir: &TempDir) -> Fixture {
    // The store is closed a moment after the last user of an earlier fixture is gone.
    let begin = Instant::now();
    let state = loop {
        match StateStore::open(dir.path()) {
            Err(StateError::InUse(_)) if begin.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => break other.unwrap(),
        }
    };
    let opened = Authenticator::open(&Config::default(), &state, Arc::default()).await;
    let auth = Arc::new(opened.unwrap().0);
    let engine = Engine::for_tests(MEMORY_BYTES);
    let disconnected = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&disconnected);
    let bus = Bus::open(BusParts {
        engine: engine.clone(),
        state,
        auth: Arc::clone(&auth),
        arbiters: vec![Arbiter::current()],
        disconnect: Arc::new(move |id, _| told.lock().push(id.to_owned())),
        push: config::Push::default(),
        courier: Arc::new(Courier::new(&config::Push::default()).unwrap()),
        lenient_declare: true,
        idempotency: KeyBounds {
            window: Duration::from_secs(60),
            bytes_max: 1 << 20,
        },
    });
    let bus = bus.await.unwrap();
    Fixture {
        bus,
        engine,
        auth,
        disconnected,
    }
}

impl Fixture {
    async fn client(&self, id: &str, patterns: &[&str]) -> Secret {
        let new = NewClient {
            client_id: Some(id.into()),
            subscriptions: patterns
                .iter()
                .map(|pattern| (*pattern).to_owned())
                .collect(),
            ..NewClient::default()
        };
        self.bus.create_client(new).await.unwrap().1
    }

    fn send(&self, from: &str, topic: &str, value: u64) {
        let json = serde_json::value::to_raw_value(&value).unwrap();
        at_once(self.bus.send(from, topic, Payload::Json(&json))).unwrap();
    }

    fn notify(&self, from: &str, value: u64) {
        let json = serde_json::value::to_raw_value(&value).unwrap();
        at_once(self.bus.notify(from, None, Payload::Json(&json))).unwrap();
    }

    /// Everything in the inbox, settled.
    fn receive(&self, id: &str) -> Vec<Value> {
        let received = self.bus.receive(id, ALL, ALL).unwrap();
        let items = items(&received);
        received.settle();
        items
    }

    /// Items received until there are `count`.
    async fn items(&self, id: &str, count: usize) -> Vec<Value> {
        let begin = Instant::now();
        let mut items = Vec::new();
        while items.len() < count {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{id} has only {items:?}"
            );
            items.extend(self.receive(id));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        items
    }

    /// Payloads received until there are `count`.
    async fn payloads(&self, id: &str, count: usize) -> Vec<u64> {
        let items = self.items(id, count).await;
        items
            .iter()
            .map(|item| item["body"].as_u64().unwrap())
            .collect()
    }

    fn metric(&self, name: &str, flow: &str) -> u64 {
        let telemetry = crate::telemetry::Telemetry::new(std::path::Path::new("."));
        let bus = self.bus.clone();
        telemetry.add_source(Box::new(move |samples| bus.sample(samples)));
        let text = telemetry.render().unwrap();
        let line = format!("backbone_bus_{name}_total{{flow=\"{flow}\"}} ");
        let value = text.lines().find_map(|text| text.strip_prefix(&line));
        value
            .unwrap_or_else(|| panic!("no {line} in {text}"))
            .parse()
            .unwrap()
    }
}

fn items(received: &Received) -> Vec<Value> {
    let item = |index| {
        let mut out = Vec::new();
        received.write_item(index, None, &mut out);
        serde_json::from_slice(&out).unwrap()
    };
    (0..received.len()).map(item).collect()
}

/// Waits until the movers of all clients are attached, so that the way is free.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[actix_web::test]
async fn a_message_goes_from_outbox_to_the_inboxes_that_match() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &[]).await;
    it.client("b", &["soar.noc.#"]).await;
    it.client("c", &["soar.*.slocum", "soar.noc.slocum"]).await;
    it.client("d", &["other.#"]).await;
    settled().await;
    it.send("a", "soar.noc.slocum", 7);
    for id in ["b", "c"] {
        let got = it.receive(id);
        assert_eq!(got.len(), 1, "{id} gets it once");
        assert_eq!(
            (
                &got[0]["topic"],
                &got[0]["body"],
                &got[0]["message"],
                &got[0]["sender"]
            ),
            (&json!("soar.noc.slocum"), &json!(7), &json!(7), &json!("a"))
        );
        assert_eq!(got[0]["delivery_type"], "publish");
        assert!(got[0]["id"].is_string() && got[0]["timestamp"].is_string());
        assert!(it.receive(id).is_empty());
    }
    assert!(it.receive("a").is_empty() && it.receive("d").is_empty());
    assert_eq!(it.metric("accepted", "publish"), 1);
    assert_eq!(it.metric("fused", "publish"), 1);
    assert_eq!(it.metric("forwarded", "publish"), 1);
    assert_eq!(it.metric("published", "publish"), 1);
    assert_eq!(it.metric("delivered", "publish"), 2);
}

#[actix_web::test]
async fn a_broadcast_reaches_everybody_and_a_sender_can_exclude_itself() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &["t"]).await;
    it.client("b", &[]).await;
    it.notify("a", 1);
    for id in ["a", "b"] {
        assert_eq!(it.payloads(id, 1).await, [1]);
    }
    let patch = ClientPatch {
        exclude_own: Some(true),
        ..ClientPatch::default()
    };
    it.bus.update_client("a", patch).await.unwrap();
    for paused in [false, true] {
        it.bus.pause("a", paused).await.unwrap();
        settled().await;
        it.notify("a", 2);
        it.send("a", "t", 3);
        it.bus.pause("a", false).await.unwrap();
        let got = it.bus.notify(
            "b",
            Some("about"),
            Payload::Raw {
                bytes: b"hello",
                content_type: "text/plain",
            },
        );
        at_once(got).unwrap();
        assert_eq!(it.items("b", 2).await.len(), 2, "paused: {paused}");
        let own = it.items("a", 1).await;
        assert_eq!(own.len(), 1, "paused: {paused}");
        assert_eq!(
            (&own[0]["body"], &own[0]["topic"]),
            (&json!("hello"), &json!("about"))
        );
        assert_eq!(own[0]["delivery_type"], "broadcast");
    }
}

#[actix_web::test]
async fn order_is_kept_across_pauses() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &[]).await;
    it.client("b", &["t.#"]).await;
    settled().await;
    let mut next = 0;
    for round in 0..20 {
        it.bus.pause("a", round % 2 == 0).await.unwrap();
        for _ in 0..50 {
            it.send("a", "t.x", next);
            next += 1;
        }
    }
    it.bus.pause("a", false).await.unwrap();
    assert_eq!(
        it.payloads("b", next as usize).await,
        (0..next).collect::<Vec<_>>()
    );
    let (accepted, fused) = (
        it.metric("accepted", "publish"),
        it.metric("fused", "publish"),
    );
    assert_eq!(accepted, next);
    assert!(
        fused > 0 && fused < accepted,
        "both ways were taken: {fused} of {accepted}"
    );
    assert_eq!(it.metric("forwarded", "publish"), next);
    assert_eq!(it.metric("published", "publish"), next);
    assert_eq!(it.metric("delivered", "publish"), next);
}

#[actix_web::test]
async fn many_clients_lose_nothing_and_each_senders_order_is_kept() {
    const CLIENTS: u64 = 40;
    const EACH: u64 = 25;
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    for n in 0..CLIENTS {
        it.client(&format!("c{n}"), &["#"]).await;
    }
    for n in 0..EACH {
        for sender in 0..CLIENTS {
            it.send(
                &format!("c{sender}"),
                &format!("t.{sender}"),
                sender * 1000 + n,
            );
        }
        if n == 10 {
            it.bus.pause("c3", true).await.unwrap();
        }
    }
    it.bus.pause("c3", false).await.unwrap();
    for reader in 0..CLIENTS {
        let all = it
            .payloads(&format!("c{reader}"), (CLIENTS * EACH) as usize)
            .await;
        for sender in 0..CLIENTS {
            let from: Vec<u64> = all.iter().copied().filter(|v| v / 1000 == sender).collect();
            let expected: Vec<u64> = (0..EACH).map(|n| sender * 1000 + n).collect();
            assert_eq!(from, expected, "from c{sender} to c{reader}");
        }
    }
    assert_eq!(it.engine.segments(), 0, "nothing is left in memory");
}

#[actix_web::test]
async fn a_changed_subscription_is_in_force_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &[]).await;
    it.client("b", &["stay", "old"]).await;
    settled().await;
    let patch = ClientPatch {
        subscriptions: Some(vec!["new".into(), "stay".into()]),
        client_name: Some("Bee".into()),
        ..ClientPatch::default()
    };
    let record = it.bus.update_client("b", patch).await.unwrap().record;
    assert_eq!(
        (record.client_name.as_str(), record.subscription()),
        ("Bee", "new")
    );
    for (n, topic) in ["stay", "old", "new"].into_iter().enumerate() {
        it.send("a", topic, n as u64);
    }
    assert_eq!(it.payloads("b", 2).await, [0, 2]);
    let missing = it.bus.update_client("nobody", ClientPatch::default()).await;
    assert!(matches!(missing, Err(BusError::NoClient(_))));
}

#[actix_web::test]
async fn clients_come_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    let secret = it.client("a", &["x"]).await;
    it.client("gone", &[]).await;
    let patch = ClientPatch {
        subscriptions: Some(vec!["t".into()]),
        ..ClientPatch::default()
    };
    it.bus.update_client("a", patch).await.unwrap();
    it.bus.delete_client("gone").await.unwrap();
    // The store cannot be opened twice: the restarted bus takes it over.
    let state = it.bus.shared.state.clone();
    let auth = Authenticator::open(&Config::default(), &state, Arc::default())
        .await
        .unwrap()
        .0;
    assert!(
        auth.login("a", secret.expose().as_bytes(), ELSEWHERE)
            .await
            .is_ok()
    );
    let engine = Engine::for_tests(MEMORY_BYTES);
    let again = Bus::open(BusParts {
        engine,
        state,
        auth: Arc::new(auth),
        arbiters: vec![Arbiter::current()],
        disconnect: Arc::new(|_, _| {}),
        push: config::Push::default(),
        courier: Arc::new(Courier::new(&config::Push::default()).unwrap()),
        lenient_declare: true,
        idempotency: KeyBounds {
            window: Duration::from_secs(60),
            bytes_max: 1 << 20,
        },
    });
    let again = again.await.unwrap();
    assert_eq!(again.clients(), it.bus.clients());
    assert_eq!(again.clients().len(), 1);
    settled().await;
    let payload: &RawValue = serde_json::from_str("1").unwrap();
    at_once(again.send("a", "t", Payload::Json(payload))).unwrap();
    assert_eq!(again.receive("a", ALL, ALL).unwrap().len(), 1);
}

#[actix_web::test]
async fn ids_that_are_taken_are_refused_and_missing_ones_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    let secret = it.client("a", &["x"]).await;
    it.engine.declare_queue("q-inbox", false).unwrap();
    it.engine.declare_queue("r-broadcast", false).unwrap();
    let with_id = |id: &str| NewClient {
        client_id: Some(id.into()),
        ..NewClient::default()
    };
    for id in ["a", "admin", "guest", "q", "r"] {
        let refused = it.bus.create_client(with_id(id)).await;
        assert!(
            matches!(refused, Err(BusError::Conflict(_))),
            "{id}: {refused:?}"
        );
    }
    assert!(
        it.auth
            .login("a", secret.expose().as_bytes(), ELSEWHERE)
            .await
            .is_ok()
    );
    assert_eq!(it.bus.client("a").unwrap().subscriptions, ["x"]);
    assert!(
        it.engine.queue("q-outbox").is_none(),
        "nothing is left of a refused client"
    );
    for id in ["soar", "soar-x", "a b"] {
        let refused = it.bus.create_client(with_id(id)).await;
        assert!(
            matches!(
                refused,
                Err(BusError::Invalid {
                    field: "client_id",
                    ..
                })
            ),
            "{id}"
        );
    }

    let named = |name: Option<&str>| NewClient {
        client_name: name.map(str::to_owned),
        ..NewClient::default()
    };
    let (first, _) = it
        .bus
        .create_client(named(Some("My Client")))
        .await
        .unwrap();
    let (second, _) = it
        .bus
        .create_client(named(Some("My Client")))
        .await
        .unwrap();
    let (third, _) = it.bus.create_client(named(None)).await.unwrap();
    assert_eq!(
        (first.client_id.as_str(), first.client_name.as_str()),
        ("my-client", "My Client")
    );
    assert!(
        second.client_id.starts_with("my-client-"),
        "{}",
        second.client_id
    );
    assert!(
        third.client_id.starts_with("client-"),
        "{}",
        third.client_id
    );
}

#[actix_web::test]
async fn a_deleted_client_leaves_nothing_and_its_id_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    let secret = it.client("a", &["#"]).await;
    it.client("b", &[]).await;
    settled().await;
    it.send("b", "t", 1);
    it.send("a", "t", 1);
    it.bus.delete_client("a").await.unwrap();
    assert!(
        it.auth
            .login("a", secret.expose().as_bytes(), ELSEWHERE)
            .await
            .is_err()
    );
    assert_eq!(*it.disconnected.lock(), ["a"]);
    for name in topology::queue_names("a") {
        assert!(it.engine.queue(&name).is_none(), "{name}");
    }
    assert!(matches!(
        it.bus.delete_client("a").await,
        Err(BusError::NoClient(_))
    ));
    assert!(matches!(
        it.bus.receive("a", 1, 1),
        Err(BusError::NoClient(_))
    ));
    assert!(matches!(
        it.bus.rotate_secret("a", Duration::ZERO).await,
        Err(BusError::NoClient(_))
    ));
    assert_eq!(
        it.metric("accepted", "publish"),
        2,
        "what it did stays counted"
    );

    it.client("a", &[]).await;
    it.send("b", "t", 2);
    assert!(
        it.receive("a").is_empty(),
        "old messages and bindings are gone"
    );
    assert_eq!(it.engine.segments(), 0);
}

#[actix_web::test]
async fn a_new_secret_ends_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    let old = it.client("a", &["x"]).await;
    let (record, new) = it.bus.rotate_secret("a", Duration::ZERO).await.unwrap();
    assert_eq!(record.subscriptions, ["x"]);
    assert!(
        it.auth
            .login("a", old.expose().as_bytes(), ELSEWHERE)
            .await
            .is_err()
    );
    assert!(
        it.auth
            .login("a", new.expose().as_bytes(), ELSEWHERE)
            .await
            .is_ok()
    );
    assert_eq!(*it.disconnected.lock(), ["a"]);
}

#[actix_web::test]
async fn an_old_secret_counts_for_its_grace_and_its_connections_end_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    let secret = it.client("a", &[]).await;
    let enter = |secret: &Secret| {
        let secret = secret.expose().as_bytes().to_vec();
        let auth = Arc::clone(&it.auth);
        async move { auth.login("a", &secret, ELSEWHERE).await.is_ok() }
    };
    let (_, second) = it.bus.rotate_secret("a", GRACE).await.unwrap();
    assert!(enter(&secret).await && enter(&second).await);
    let (_, third) = it.bus.rotate_secret("a", SOON).await.unwrap();
    assert!(!enter(&secret).await && enter(&third).await);
    // At each change, and when the time is over.
    let begin = Instant::now();
    while it.disconnected.lock().len() < 3 {
        assert!(begin.elapsed() < Duration::from_secs(20), "nobody looks");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!enter(&second).await && enter(&third).await);
    assert_eq!(*it.disconnected.lock(), ["a", "a", "a"]);
}

#[actix_web::test]
async fn what_was_not_read_comes_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &["t"]).await;
    settled().await;
    (0..5).for_each(|n| it.send("a", "t", n));
    let first = it.bus.receive("a", 2, ALL).unwrap();
    let second = it.bus.receive("a", ALL, ALL).unwrap();
    assert_eq!((first.len(), second.len()), (2, 3));
    second.settle();
    drop(first);
    assert_eq!(it.payloads("a", 2).await, [0, 1]);
}

#[actix_web::test]
async fn short_memory_refuses_senders_and_lets_readers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &["t"]).await;
    settled().await;
    let large = serde_json::value::to_raw_value(&"x".repeat(MEMORY_BYTES)).unwrap();
    at_once(it.bus.send("a", "t", Payload::Json(&large))).unwrap();
    let refused = at_once(it.bus.send("a", "t", Payload::Json(&large)));
    assert!(matches!(refused, Err(BusError::Unavailable(_))));
    assert_eq!(it.receive("a").len(), 1);
    it.send("a", "t", 3);
    assert_eq!(it.payloads("a", 1).await, [3]);
}

#[actix_web::test]
async fn what_has_no_topic_goes_to_the_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &["#"]).await;
    settled().await;
    let outbox = it.engine.queue("a-outbox").unwrap();
    let message = |topic| Outgoing {
        body: b"no topic here",
        content_type: "text/plain",
        id: "id",
        topic,
        is_envelope: false,
    };
    it.engine.publish(&outbox, &message(None)).unwrap();
    it.engine.publish(&outbox, &message(Some("t"))).unwrap();
    let got = it.receive("a");
    assert_eq!((got.len(), &got[0]["body"]), (1, &json!("no topic here")));
    let dead = it.engine.queue("soar-dead-letter").unwrap();
    let dead = it.engine.take(&dead, ALL, ALL);
    assert_eq!(dead.len(), 1);
    dead.with(0, |message| assert_eq!(message.body, b"no topic here"));
    assert_eq!(it.metric("dead_lettered", "publish"), 1);
}

#[actix_web::test]
async fn messages_that_wait_in_the_exchange_queues_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let it = open(&dir).await;
    it.client("a", &["t"]).await;
    settled().await;
    let message = Outgoing {
        body: b"5",
        content_type: "application/json",
        id: "id",
        topic: Some("t"),
        is_envelope: false,
    };
    for queue in ["soar-publish", "soar-broadcast"] {
        let queue = it.engine.queue(queue).unwrap();
        it.engine.publish(&queue, &message).unwrap();
    }
    let got = it.receive("a");
    let kinds: Vec<_> = got
        .iter()
        .map(|item| item["delivery_type"].clone())
        .collect();
    assert_eq!(kinds, ["publish", "broadcast"]);
    assert_eq!(it.metric("published", "broadcast"), 1);
}
