//! A verb as calls of the management interface.

use reqwest::Method;
use serde_json::Value;

use super::client::print;
use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

/// A call over HTTP, and who makes it.
pub(super) struct Call {
    remote: RemoteArgs,
    method: Method,
    path: Vec<String>,
    body: Option<Value>,
}

impl Call {
    /// A call of a path below `/api`.
    pub(super) fn new(remote: RemoteArgs, method: Method, path: &[&str]) -> Self {
        let below = path.iter().map(|&segment| segment.to_owned());
        Self {
            remote,
            method,
            path: std::iter::once("api".to_owned()).chain(below).collect(),
            body: None,
        }
    }

    /// The same with a body.
    pub(super) fn with_body(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    /// Makes the call and prints the answer: JSON, or for people, one `line` for each item of a list.
    pub(super) async fn run(
        self,
        environment: &Environment,
        line: fn(&Value) -> String,
    ) -> Result<(), Failure> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let api = self.remote.connect(environment, &OPERATOR)?;
        let body = self.body.map(|body| body.to_string());
        let answer = api.json(self.method, &path, body).await?;
        print(&answer, self.remote.json, line);
        Ok(())
    }
}
