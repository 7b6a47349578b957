//! How clients log in, over HTTP and AMQP, while operators disable them and change their secrets.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::raw::Raw;
use common::{ADMIN_SECRET, Server};
use reqwest::{Client, Method};
use serde_json::{Value, json};

struct Api {
    server: Server,
    http: Client,
}

impl Api {
    async fn start() -> Self {
        Self::of(Server::start().await)
    }

    fn of(server: Server) -> Self {
        let http = Client::builder().timeout(Duration::from_secs(30)).build();
        let http = http.unwrap();
        Self { server, http }
    }

    /// The status and the JSON of a call by name and secret.
    async fn call(
        &self,
        (name, secret): (&str, &str),
        method: Method,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let call = self.http.request(method, self.server.url(path));
        let call = call.basic_auth(name, Some(secret)).json(&body);
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn as_admin(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.call(("admin", ADMIN_SECRET), method, path, body).await
    }

    async fn client(&self, id: &str) -> String {
        let record = json!({"client_id": id, "subscription": "#"});
        let (status, made) = self.as_admin(Method::POST, "/clients", record).await;
        assert_eq!(status, 201, "{made}");
        made["secret"].as_str().unwrap().to_owned()
    }

    async fn send(&self, id: &str, secret: &str, body: u64) -> u16 {
        let message = json!({"topic": "t", "body": body});
        let sent = self.call((id, secret), Method::POST, "/send", message);
        sent.await.0
    }

    /// The bodies in an inbox, or the status of a refusal.
    async fn receive(&self, id: &str, secret: &str) -> Result<Vec<u64>, u16> {
        let call = self.http.get(self.server.url("/receive"));
        let answer = call.basic_auth(id, Some(secret)).send().await.unwrap();
        match answer.status().as_u16() {
            200 => {
                let items: Vec<Value> = answer.json().await.unwrap();
                let bodies = items.iter().map(|item| item["body"].as_u64().unwrap());
                Ok(bodies.collect())
            }
            refused => Err(refused),
        }
    }

    async fn token(&self, id: &str, secret: &str) -> String {
        let asked = self.call((id, secret), Method::POST, "/token", json!({}));
        asked.await.1["token"].as_str().unwrap().to_owned()
    }

    async fn token_counts(&self, token: &str) -> bool {
        let call = self.http.get(self.server.url("/receive?limit=0"));
        let answer = call.bearer_auth(token).send().await.unwrap();
        answer.status() == 200
    }

    fn amqp(&self, id: &str, secret: &str) -> Result<Raw, (u16, String)> {
        Raw::login(self.server.amqp[0], id, secret, 0)
    }
}

#[actix_web::test]
async fn a_disabled_client_cannot_log_in_and_its_inbox_is_filled() {
    let mut api = Api::start().await;
    let (secret, other) = (api.client("noc").await, api.client("other").await);
    let token = api.token("noc", &secret).await;
    let mut connection = api.amqp("noc", &secret).unwrap();
    let mut unconcerned = api.amqp("other", &other).unwrap();
    assert_eq!(api.send("other", &other, 1).await, 200);
    let before = api.call(
        ("noc", &secret),
        Method::GET,
        "/receive?limit=0&wait=60",
        json!({}),
    );
    assert_eq!(before.await.0, 200);

    let disable = json!({"disabled": true});
    let by_itself = api.call(
        ("noc", &secret),
        Method::PATCH,
        "/clients/noc",
        disable.clone(),
    );
    assert_eq!(by_itself.await.0, 403);
    let (status, record) = api.as_admin(Method::PATCH, "/clients/noc", disable).await;
    assert_eq!((status, &record["disabled"]), (200, &json!(true)));
    assert_eq!(connection.read_to_end(), Some(320));
    assert!(api.amqp("noc", &secret).is_err());
    assert_eq!(api.receive("noc", &secret).await, Err(401));
    assert!(!api.token_counts(&token).await);
    let refused = api
        .call(("noc", &secret), Method::POST, "/token", json!({}))
        .await;
    let unknown = api
        .call(("nobody", &secret), Method::POST, "/token", json!({}))
        .await;
    assert_eq!(refused, unknown, "it looks as if there was none");
    assert_eq!(api.send("other", &other, 2).await, 200);
    assert_eq!(unconcerned.ready("other-inbox"), 2);

    let dir = api.server.data_dir();
    api.server.kill();
    let api = Api::of(Server::on(dir, &[]).await);
    assert_eq!(
        api.receive("noc", &secret).await,
        Err(401),
        "after a restart"
    );
    let wrong = json!({"disabled": "no"});
    let (status, error) = api.as_admin(Method::PUT, "/clients/noc", wrong).await;
    assert_eq!((status, &error["field"]), (400, &json!("disabled")));
    let enable = json!({"disabled": false});
    assert_eq!(
        api.as_admin(Method::PUT, "/clients/noc", enable).await.0,
        200
    );
    assert_eq!(api.receive("noc", &secret).await, Ok(vec![1, 2]));
    assert!(api.token_counts(&token).await && api.amqp("noc", &secret).is_ok());
}

#[actix_web::test]
async fn a_call_that_waits_ends_when_its_client_is_disabled() {
    let api = Api::start().await;
    let (secret, other) = (api.client("noc").await, api.client("other").await);
    let waiting = api.call(("noc", &secret), Method::GET, "/receive?wait=60", json!({}));
    let meanwhile = async {
        let begin = Instant::now();
        // Until it waits, which nothing but time tells.
        while begin.elapsed() < Duration::from_millis(300) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let disable = json!({"disabled": true});
        let disabled = api.as_admin(Method::PATCH, "/clients/noc", disable).await;
        assert_eq!(disabled.0, 200);
        assert_eq!(api.send("other", &other, 1).await, 200);
    };
    let (answer, ()) = futures_util::future::join(waiting, meanwhile).await;
    // Refused at once if it came late.
    assert!(answer.0 == 403 || answer.0 == 401, "{answer:?}");
    let enable = json!({"disabled": false});
    api.as_admin(Method::PATCH, "/clients/noc", enable).await;
    assert_eq!(api.receive("noc", &secret).await, Ok(vec![1]));
}

#[actix_web::test]
async fn an_old_secret_works_everywhere_until_its_grace_is_over() {
    let mut api = Api::start().await;
    let old = api.client("noc").await;
    let token = api.token("noc", &old).await;
    let mut by_old = api.amqp("noc", &old).unwrap();
    let rotate = async |api: &Api, secret: &str, grace_s: u64| {
        let body = json!({"grace_s": grace_s});
        let rotated = api.call(("noc", secret), Method::POST, "/clients/noc/secret", body);
        let (status, record) = rotated.await;
        assert_eq!(status, 200, "{record}");
        assert_eq!(
            record["old_secret_expires_at"].is_string(),
            grace_s > 0,
            "{record}"
        );
        record["secret"].as_str().unwrap().to_owned()
    };
    let new = rotate(&api, &old, 3600).await;
    let asked = api.call(("noc", &old), Method::POST, "/token", json!({}));
    let lifetime_s = asked.await.1["expires_in"].as_u64().unwrap();
    assert!(
        (3000..=3600).contains(&lifetime_s),
        "it ends with its secret: {lifetime_s}"
    );
    for secret in [&old, &new] {
        assert_eq!(api.receive("noc", secret).await, Ok(vec![]));
        drop(api.amqp("noc", secret).unwrap());
    }
    assert!(api.token_counts(&token).await);
    by_old.ready("noc-inbox");

    let dir = api.server.data_dir();
    api.server.kill();
    let api = Api::of(Server::on(dir, &[]).await);
    assert!(api.token_counts(&token).await, "after a restart");
    let mut by_old = api.amqp("noc", &old).unwrap();
    // What is older than the one before ends at once.
    let newest = rotate(&api, &new, 1).await;
    assert_eq!(by_old.read_to_end(), Some(320));
    assert_eq!(api.receive("noc", &old).await, Err(401));
    assert!(!api.token_counts(&token).await);
    let mut by_newest = api.amqp("noc", &newest).unwrap();
    // By now its grace may be over, in which case it does not get in.
    if let Ok(mut by_new) = api.amqp("noc", &new) {
        assert_eq!(by_new.read_to_end(), Some(320));
    }
    let begin = Instant::now();
    while api.receive("noc", &new).await != Err(401) {
        assert!(begin.elapsed() < Duration::from_secs(20), "it lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    by_newest.ready("noc-inbox");
    let shown = api.as_admin(Method::GET, "/clients/noc", json!({})).await;
    assert!(shown.1.get("old_secret_expires_at").is_none(), "{shown:?}");

    let token = api.token("noc", &newest).await;
    let last = rotate(&api, &newest, 0).await;
    assert_eq!(by_newest.read_to_end(), Some(320), "at once");
    assert_eq!(api.receive("noc", &newest).await, Err(401));
    assert!(!api.token_counts(&token).await);
    assert_eq!(api.receive("noc", &last).await, Ok(vec![]));
}

#[actix_web::test]
async fn a_rotation_that_cannot_be_leaves_the_secret() {
    let api = Api::start().await;
    let secret = api.client("noc").await;
    let other = api.client("other").await;
    let noc = ("noc", &*secret);
    for grace in [
        json!(-1),
        json!(1.5),
        json!("soon"),
        json!(604_801),
        json!({}),
        json!(1e30),
    ] {
        let body = json!({"grace_s": grace});
        let refused = api
            .call(noc, Method::POST, "/clients/noc/secret", body)
            .await;
        assert_eq!(
            (refused.0, &refused.1["field"]),
            (400, &json!("grace_s")),
            "{grace}"
        );
    }
    let list = api
        .call(noc, Method::POST, "/clients/noc/secret", json!([1]))
        .await;
    assert_eq!((list.0, &list.1["error"]), (400, &json!("invalid_body")));
    let not_its_own = api.call(
        ("other", &other),
        Method::POST,
        "/clients/noc/secret",
        json!({}),
    );
    assert_eq!(not_its_own.await.0, 403);
    assert_eq!(api.receive("noc", &secret).await, Ok(vec![]));
}
