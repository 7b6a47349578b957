//! Bearer tokens from outside: how they are got, what they open, and what ends them.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{ADMIN_SECRET, Server};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

const FORM: &str = "application/x-www-form-urlencoded";

struct Api {
    server: Server,
    http: Client,
}

impl Api {
    async fn start(variables: &[(&str, &str)]) -> Self {
        Self::of(Server::with(variables).await)
    }

    fn of(server: Server) -> Self {
        let http = Client::builder().timeout(Duration::from_secs(30)).build();
        let http = http.unwrap();
        Self { server, http }
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.server.url(path))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.call(Method::GET, path)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.call(Method::POST, path)
    }

    async fn as_admin(&self, method: Method, path: &str, body: Value) -> Value {
        let call = self.call(method, path).json(&body);
        let answer = call.basic_auth("admin", Some(ADMIN_SECRET)).send().await;
        let answer = answer.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default()
    }

    /// Makes a client; returns its secret.
    async fn client(&self, id: &str) -> String {
        let record = json!({"client_id": id, "subscription": "#"});
        let made = self.as_admin(Method::POST, "/clients", record).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    async fn token(&self, id: &str, secret: &str) -> String {
        let asked = self.post("/token").basic_auth(id, Some(secret));
        let answer = json_of(asked.send().await.unwrap(), 200).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    /// The status, and the error if it is one, of a call with a token.
    async fn with(&self, token: &str, method: Method, path: &str) -> (u16, String) {
        let answer = self.call(method, path).bearer_auth(token).send().await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
        (
            status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

async fn json_of(answer: Response, status: u16) -> Value {
    let got = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!(got, status, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn challenges(answer: &Response) -> Vec<String> {
    let all = answer.headers().get_all("www-authenticate").iter();
    all.map(|it| it.to_str().unwrap().to_owned()).collect()
}

fn refused(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

#[actix_web::test]
async fn id_and_secret_get_a_token_wherever_they_stand() {
    let api = Api::start(&[]).await;
    let secret = api.client("noc").await;
    let secret = secret.as_str();
    let query = format!("client_id=noc&secret={secret}");
    let oauth = format!("client_id=noc&client_secret={secret}&grant_type=client_credentials");
    let pair = json!({"client_id": "noc", "secret": secret});
    let grant =
        json!({"client_id": "noc", "client_secret": secret, "grant_type": "client_credentials"});
    let form = |path: &str, text: &str| {
        let call = api.post(path).header("content-type", FORM);
        call.body(text.to_owned())
    };
    for call in [
        api.get("/token").basic_auth("noc", Some(secret)),
        api.post("/token").basic_auth("noc", Some(secret)),
        api.post("/oauth/token/").basic_auth("noc", Some(secret)),
        api.get(&format!("/token?{query}")),
        api.post(&format!("/token?{query}")),
        api.get(&format!("/oauth/token?{oauth}")),
        api.post("/token").json(&pair),
        api.post("/oauth/token").json(&grant),
        form("/token", &query),
        form("/oauth/token", &oauth),
        form("/token", "grant_type=client_credentials&scope=a").basic_auth("noc", Some(secret)),
        form("/token", "grant_type=").basic_auth("noc", Some(secret)),
    ] {
        let answer = call.send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let answer = json_of(answer, 200).await;
        assert_eq!(answer["token_type"], "Bearer");
        assert_eq!(
            (&answer["client_id"], &answer["expires_in"]),
            (&json!("noc"), &json!(86400))
        );
        assert_eq!(answer["token"], answer["access_token"]);
        assert_eq!(answer["expiry"], answer["expires_at"]);
        let expiry = answer["expiry"].as_str().unwrap();
        assert!(expiry.ends_with(".000000+00:00"), "{expiry}");
        let token = answer["token"].as_str().unwrap();
        assert_eq!(api.with(token, Method::GET, "/receive").await.0, 200);
    }
}

#[actix_web::test]
async fn a_token_opens_what_its_holder_may_open() {
    let api = Api::start(&[]).await;
    let secret = api.client("noc").await;
    let noc = api.token("noc", &secret).await;
    let sent = api
        .post("/send")
        .header("authorization", format!("BEARER {noc}"));
    let sent = sent.json(&json!({"topic": "t", "body": 1})).send().await;
    assert_eq!(sent.unwrap().status(), 200);
    let received = api.get("/receive").bearer_auth(&noc).send().await.unwrap();
    assert_eq!(json_of(received, 200).await[0]["sender"], "noc");
    let other = api.get("/receive?client_id=other").bearer_auth(&noc);
    assert_eq!(other.send().await.unwrap().status(), 403);
    for (path, status) in [("/clients", 403), ("/metrics", 403), ("/api/whoami", 403)] {
        assert_eq!(api.with(&noc, Method::GET, path).await.0, status, "{path}");
    }
    let admin = api.token("admin", ADMIN_SECRET).await;
    for path in [
        "/clients",
        "/metrics",
        "/api/whoami",
        "/api/users",
        "/api/queues",
    ] {
        assert_eq!(api.with(&admin, Method::GET, path).await.0, 200, "{path}");
    }
    assert_eq!(api.with(&admin, Method::GET, "/receive").await.0, 403);

    let user = json!({"password": "p", "tags": "monitoring"});
    api.as_admin(Method::PUT, "/api/users/watcher", user).await;
    let watcher = api.token("watcher", "p").await;
    assert_eq!(api.with(&watcher, Method::GET, "/metrics").await.0, 200);
    assert_eq!(api.with(&watcher, Method::GET, "/api/users").await.0, 401);
    api.as_admin(Method::DELETE, "/api/users/watcher", json!({}))
        .await;
    assert_eq!(
        api.with(&watcher, Method::GET, "/metrics").await,
        refused(401, "token_revoked")
    );
    assert_eq!(
        api.with(&watcher, Method::GET, "/api/whoami").await,
        refused(401, "not_authorized")
    );
}

#[actix_web::test]
async fn who_cannot_log_in_gets_no_token_and_no_hint() {
    let api = Api::start(&[]).await;
    let secret = api.client("noc").await;
    let mut said = Vec::new();
    for (id, secret) in [("noc", "wrong"), ("nobody", &*secret), ("admin", "wrong")] {
        let asked = api.post("/token").basic_auth(id, Some(secret));
        let answer = asked.send().await.unwrap();
        assert!(challenges(&answer)[0].starts_with("Basic "));
        said.push(json_of(answer, 401).await);
    }
    assert_eq!(said[0]["error"], "invalid_client");
    assert_eq!(said[0]["error_description"], said[0]["message"]);
    assert!(said.iter().all(|it| *it == said[0]), "{said:?}");
    let none = api.post("/oauth/token").send().await.unwrap();
    assert_eq!(json_of(none, 401).await["error"], "invalid_client");

    let token = api.token("noc", &secret).await;
    for call in [
        api.get("/token"),
        api.post("/token").json(&json!({"client_id": "noc"})),
    ] {
        let answer = call.bearer_auth(&token).send().await.unwrap();
        assert_eq!(json_of(answer, 401).await["error"], "invalid_client");
    }
    let put = api.call(Method::PUT, "/token").send().await.unwrap();
    assert_eq!(put.status(), 405);
}

#[actix_web::test]
async fn where_secrets_stand_in_headers_only_a_token_is_got_by_basic() {
    let api = Api::start(&[("BACKBONE_HTTP__INLINE_CREDENTIALS", "false")]).await;
    let secret = api.client("noc").await;
    for call in [
        api.get(&format!("/token?client_id=noc&secret={secret}")),
        api.post("/token")
            .json(&json!({"client_id": "noc", "secret": secret})),
    ] {
        let answer = json_of(call.send().await.unwrap(), 401).await;
        assert_eq!(answer["error"], "invalid_client");
    }
    let token = api.token("noc", &secret).await;
    assert_eq!(api.with(&token, Method::GET, "/receive").await.0, 200);
}

#[actix_web::test]
async fn what_is_no_request_for_a_token_is_told_so() {
    let api = Api::start(&[]).await;
    let secret = api.client("noc").await;
    let post = |content_type: &str, body: &[u8]| {
        let call = api.post("/token").basic_auth("noc", Some(&secret));
        let call = call.header("content-type", content_type);
        call.body(body.to_vec())
    };
    let json = "application/json";
    let pair = format!("client_id=noc&secret={secret}");
    for (call, status, error, field) in [
        (post(json, b"{"), 400, "invalid_request", None),
        (post(json, b"\xff"), 400, "invalid_request", None),
        (
            post(json, br#"{"grant_type":1}"#),
            400,
            "invalid_request",
            Some("grant_type"),
        ),
        (
            post(
                json,
                br#"{"grant_type":"client_credentials","grant_type":"client_credentials"}"#,
            ),
            400,
            "invalid_request",
            Some("grant_type"),
        ),
        (post(json, br#"{"secret":1}"#), 400, "invalid_request", None),
        (
            post(FORM, b"grant_type=password"),
            400,
            "unsupported_grant_type",
            Some("grant_type"),
        ),
        (
            post(FORM, b"grant_type=client_credentials&grant_type=password"),
            400,
            "invalid_request",
            Some("grant_type"),
        ),
        (
            api.get(&format!("/token?{pair}&grant_type=refresh_token")),
            400,
            "unsupported_grant_type",
            Some("grant_type"),
        ),
        (
            api.get(&format!("/token?{pair}&client_secret=x")),
            400,
            "invalid_request",
            Some("secret"),
        ),
        (
            api.get(&format!("/token?{pair}&client_id=other")),
            403,
            "forbidden",
            Some("client_id"),
        ),
        (
            post(json, br#"{"client_id":"other"}"#),
            403,
            "forbidden",
            Some("client_id"),
        ),
    ] {
        let answer = json_of(call.send().await.unwrap(), status).await;
        assert_eq!(answer["error"], error, "{answer}");
        assert_eq!(answer["error_description"], answer["message"]);
        let named = answer.get("field").and_then(Value::as_str);
        assert_eq!(named, field, "{answer}");
    }
}

#[actix_web::test]
async fn a_refused_token_says_why_and_names_nobody() {
    let api = Api::start(&[("SOAR_TOKEN_LIFETIME", "0.0005")]).await;
    let begin = Instant::now();
    let secret = api.client("noc").await;
    let answer = api.post("/token").basic_auth("noc", Some(&secret));
    let answer = json_of(answer.send().await.unwrap(), 200).await;
    assert_eq!(answer["expires_in"], 2);
    let token = answer["token"].as_str().unwrap();
    while api.with(token, Method::GET, "/receive").await != refused(401, "token_expired") {
        assert!(begin.elapsed() < Duration::from_secs(20), "it lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (signed, _) = token.rsplit_once('.').unwrap();
    for malformed in [
        "",
        "x",
        "a.b.c",
        signed,
        &format!("{token}x"),
        &"x".repeat(10_000),
    ] {
        let answer = api.get("/receive").bearer_auth(malformed).send().await;
        let answer = answer.unwrap();
        let said = challenges(&answer);
        assert!(said[0].starts_with("Basic realm="), "{said:?}");
        assert!(
            said[1].starts_with("Bearer realm=\"backbone\", error=\"invalid_token\", error_description=\"the token is malformed"),
            "{said:?}"
        );
        let body = answer.text().await.unwrap();
        assert!(body.contains("token_malformed"), "{body}");
    }
    let missing = api.get("/receive").send().await.unwrap();
    assert_eq!(challenges(&missing)[1], "Bearer realm=\"backbone\"");

    let answer = api.get("/receive").bearer_auth(token).send().await.unwrap();
    let said = format!("{:?}{}", challenges(&answer), answer.text().await.unwrap());
    assert!(!said.contains("noc"), "{said}");
    let metrics = api.get("/metrics").basic_auth("admin", Some(ADMIN_SECRET));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("backbone_auth_tokens_made_total 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("backbone_auth_tokens_refused_total "));
}

#[actix_web::test]
async fn tokens_end_with_the_secret_and_the_client_and_not_with_the_server() {
    let mut api = Api::start(&[]).await;
    let secret = api.client("noc").await;
    let old = api.token("noc", &secret).await;
    let operator = api.token("admin", ADMIN_SECRET).await;
    let dir = api.server.data_dir();
    api.server.kill();
    let mut api = Api::of(Server::on(dir, &[]).await);
    for (token, path) in [(&old, "/receive"), (&operator, "/clients")] {
        assert_eq!(api.with(token, Method::GET, path).await.0, 200, "{path}");
    }
    // With its token a client gets another secret, which ends the token.
    let rotate = api.post("/clients/noc/secret").bearer_auth(&old);
    let rotated = json_of(rotate.send().await.unwrap(), 200).await;
    let revoked = refused(401, "token_revoked");
    assert_eq!(api.with(&old, Method::GET, "/receive").await, revoked);
    let new = api.token("noc", rotated["secret"].as_str().unwrap()).await;
    assert_eq!(api.with(&new, Method::GET, "/receive").await.0, 200);
    api.as_admin(Method::DELETE, "/clients/noc", json!({}))
        .await;
    assert_eq!(api.with(&new, Method::GET, "/receive").await, revoked);
    api.client("noc").await;
    assert_eq!(
        api.with(&new, Method::GET, "/receive").await,
        revoked,
        "another client of the same name"
    );
    let dir = api.server.data_dir();
    api.server.kill();
    let api = Api::of(Server::on(dir, &[("SOAR_TOKEN_SECRET", "another key")]).await);
    assert_eq!(
        api.with(&operator, Method::GET, "/clients").await,
        refused(401, "token_malformed")
    );
}

#[actix_web::test]
async fn every_documented_route_that_takes_a_secret_takes_a_token() {
    let api = Api::start(&[]).await;
    let document = json_of(api.get("/openapi.json").send().await.unwrap(), 200).await;
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    let mut secured = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].to_string();
            let takes = |scheme| security.contains(scheme);
            assert_eq!(
                takes("basic"),
                takes("bearer") || path == "/token",
                "{method} {path}"
            );
            secured += usize::from(takes("bearer"));
        }
    }
    assert!(secured > 50, "{secured}");
    assert!(document["paths"]["/token"]["get"]["responses"]["200"].is_object());
}
