//! The bus over REST: a server, its clients, and calls of theirs.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::{ADMIN_SECRET, Server};

/// A server and what is needed to call it.
pub struct Bus {
    pub server: Server,
    http: Client,
}

/// A client's id and secret.
pub type Pair = (String, String);

impl Bus {
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::of(Server::with(variables).await)
    }

    pub fn of(server: Server) -> Self {
        let http = Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self { server, http }
    }

    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.server.url(path))
    }

    pub fn as_admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.call(method, path)
            .basic_auth("admin", Some(ADMIN_SECRET))
    }

    pub fn by(&self, client: &Pair, method: Method, path: &str) -> RequestBuilder {
        self.call(method, path)
            .basic_auth(&client.0, Some(&client.1))
    }

    pub async fn create(&self, id: &str, subscription: &str) -> Pair {
        let record = json!({"client_id": id, "subscription": subscription});
        let answer = self
            .as_admin(Method::POST, "/clients")
            .json(&record)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        let created: Value = answer.json().await.unwrap();
        (
            id.to_owned(),
            created["secret"].as_str().unwrap().to_owned(),
        )
    }

    pub async fn send(&self, client: &Pair, topic: &str, body: &Value) -> Response {
        let message = json!({"topic": topic, "body": body});
        self.by(client, Method::POST, "/send")
            .json(&message)
            .send()
            .await
            .unwrap()
    }

    pub async fn receive(&self, client: &Pair, query: &str) -> Vec<Value> {
        let path = format!("/receive{query}");
        let answer = self.by(client, Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Items received until there are `count`.
    pub async fn receive_all(&self, client: &Pair, count: usize) -> Vec<Value> {
        let begin = Instant::now();
        let mut items = Vec::new();
        while items.len() < count {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "only {} of {count}",
                items.len()
            );
            items.extend(self.receive(client, "").await);
        }
        items
    }
}

pub fn payloads(items: &[Value]) -> Vec<Value> {
    items.iter().map(|item| item["body"].clone()).collect()
}

pub async fn error_of(answer: Response, status: u16) -> Value {
    assert_eq!(answer.status(), status);
    let error: Value = answer.json().await.unwrap();
    assert!(
        error["error"].is_string() && error["message"].is_string(),
        "{error}"
    );
    error
}
