//! Calls to a running server.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

/// For an answer that does not wait on purpose.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiFailure {
    /// The address cannot be called.
    #[error("`{0}` is not an address such as http://127.0.0.1:5000")]
    Address(String),
    /// The server could not be reached or did not answer.
    #[error("{url} does not answer: {cause}")]
    Unreachable {
        /// The address without its query.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// The server refused, and said why.
    #[error("{message} ({status})")]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// The server's own words.
        message: String,
    },
}

impl ApiFailure {
    /// Whether the same call may go well later: the server is not there, or not ready.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Address(_) => false,
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
        }
    }
}

/// A server and, if given, who is calling it.
pub(super) struct Api {
    http: reqwest::Client,
    root: Url,
    credentials: Option<(String, String)>,
    header: Option<(&'static str, String)>,
}

impl Api {
    /// The server at `url`, which may have a path.
    pub(super) fn new(url: &str) -> Result<Self, ApiFailure> {
        let root = Url::parse(url).ok().filter(|root| root.scheme() == "http");
        let root = root.ok_or_else(|| ApiFailure::Address(url.to_owned()))?;
        Ok(Self {
            http: reqwest::Client::new(),
            root,
            credentials: None,
            header: None,
        })
    }

    /// Calls as `id` from now on.
    pub(super) fn with_credentials(self, id: String, secret: String) -> Self {
        Self {
            credentials: Some((id, secret)),
            ..self
        }
    }

    /// Calls with one more header from now on.
    pub(super) fn with_header(self, header: Option<(&'static str, String)>) -> Self {
        Self { header, ..self }
    }

    /// Sends `body`, which is JSON, and returns the answer's JSON; `null` when it has none.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &[&str],
        body: Option<String>,
    ) -> Result<Value, ApiFailure> {
        self.json_of(method, path, &[], body).await
    }

    /// The same with a query.
    pub(super) async fn json_of(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<String>,
    ) -> Result<Value, ApiFailure> {
        let text = self.call(method, path, query, body, Duration::ZERO).await?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// The answer to a GET as text; the server may take `wait` longer than usual.
    pub(super) async fn get(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        wait: Duration,
    ) -> Result<String, ApiFailure> {
        self.call(Method::GET, path, query, None, wait).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<String>,
        wait: Duration,
    ) -> Result<String, ApiFailure> {
        let mut url = self.root.clone();
        url.path_segments_mut()
            .map_err(|()| ApiFailure::Address(self.root.to_string()))?
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.http.request(method, url).timeout(CALL_TIMEOUT + wait);
        if let Some((id, secret)) = &self.credentials {
            request = request.basic_auth(id, Some(secret));
        }
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = response
            .text()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return Ok(text);
        }
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = answer["message"]
            .as_str()
            .unwrap_or("the server refused")
            .to_owned();
        Err(ApiFailure::Refused { status, message })
    }

    fn unreachable(&self, error: &reqwest::Error) -> ApiFailure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        ApiFailure::Unreachable {
            url: self.root.to_string(),
            cause: cause.to_string(),
        }
    }
}
