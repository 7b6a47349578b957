//! The management interface as a user calls it.

#![allow(dead_code, clippy::unwrap_used)]

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use super::{ADMIN_SECRET, Server};

/// Calls a server as a user.
pub struct Admin {
    root: String,
    user: String,
    password: String,
}

impl Admin {
    /// As the administrator.
    pub fn of(server: &Server) -> Self {
        Self::as_user(server, "admin", ADMIN_SECRET)
    }

    /// As anybody.
    pub fn as_user(server: &Server, user: &str, password: &str) -> Self {
        Self {
            root: server.url(""),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let url = format!("{}{path}", self.root);
        let mut request = Client::new()
            .request(method, url)
            .basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// The status, and the JSON if there is any.
    async fn answer(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.call(method, path, body).await;
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.answer(Method::GET, path, None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.answer(Method::PUT, path, Some(body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.answer(Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> u16 {
        self.answer(Method::DELETE, path, None).await.0
    }

    pub async fn text(&self, path: &str) -> String {
        let answer = self.call(Method::GET, path, None).await;
        answer.text().await.unwrap()
    }

    /// Makes a user who may do in `/` what the patterns say: configure, write, read.
    pub async fn user(&self, name: &str, tags: &str, may: [&str; 3]) {
        let user = json!({"password": name, "tags": tags});
        let (status, told) = self.put(&format!("/api/users/{name}"), user).await;
        assert_eq!(status, 201, "{told}");
        self.permit("%2F", name, may).await;
    }

    /// Lets a user do in a vhost what the patterns say.
    pub async fn permit(&self, vhost: &str, user: &str, may: [&str; 3]) {
        let [configure, write, read] = may;
        let patterns = json!({"configure": configure, "write": write, "read": read});
        let path = format!("/api/permissions/{vhost}/{user}");
        let (status, told) = self.put(&path, patterns).await;
        assert!(status == 201 || status == 204, "{status} {told}");
    }
}
