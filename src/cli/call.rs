//! A verb as calls of the management interface.

use reqwest::Method;
use serde_json::{Map, Value};

use super::client::print;
use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

/// A call over HTTP, and who makes it.
pub(super) struct Call {
    remote: RemoteArgs,
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    header: Option<(&'static str, String)>,
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
            query: Vec::new(),
            header: None,
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

    /// The same with `name=true` in the query, if it is so.
    pub(super) fn with_flag(mut self, name: &'static str, is: bool) -> Self {
        if is {
            self.query.push((name, "true".to_owned()));
        }
        self
    }

    /// The same with a header, if there is a value.
    pub(super) fn with_header(self, name: &'static str, value: Option<String>) -> Self {
        let header = value.map(|value| (name, value));
        Self { header, ..self }
    }

    /// Makes the call and prints the answer: JSON, or for people, one `line` for each item of a list.
    pub(super) async fn run(
        self,
        environment: &Environment,
        line: fn(&Value) -> String,
    ) -> Result<(), Failure> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let api = self.remote.connect(environment, &OPERATOR)?;
        let api = api.with_header(self.header);
        let body = self.body.map(|body| body.to_string());
        let answer = api.json_of(self.method, &path, &self.query, body).await?;
        print(&answer, self.remote.json, line);
        Ok(())
    }
}

/// Arguments of a declare or a binding as JSON.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("arguments are a JSON object".into()),
        Err(error) => Err(error.to_string()),
    }
}
