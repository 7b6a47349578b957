//! Who is calling, as extractors.
//!
//! Credentials are looked for in this order, and the first place that has any decides; a wrong pair there
//! is an error and nothing further is tried: `Authorization: Bearer`, `Authorization: Basic`, `client_id`
//! and `secret` in the query, the same in a JSON or form body (alias `client_secret`). The caller's
//! identity comes from them alone: a client that names another `client_id` elsewhere is refused.
//!
//! The extractors read the body too, because it may hold the credentials; handlers take it from them.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;

use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::body::{self, BodyKind, body_kind, form_value, form_values};
use super::local::is_local;
use super::{ApiError, Services};
use crate::auth::{Denied, Identity, IdentityKind, Peer, Secret};

/// A body that is read before its sender is known may be this large at most, bytes.
const UNKNOWN_SENDER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Up to this size such bodies are not counted, bytes.
const UNKNOWN_SMALL_BYTES: u64 = 64 * 1024;
/// The others are this many at a time at most.
static UNKNOWN_LARGE: Semaphore = Semaphore::const_new(32);

/// Anybody with valid credentials, and the request's body.
#[derive(Debug)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// The whole body, at most `limits.max_body_bytes`.
    pub body: Bytes,
}

/// A user with the role `monitor`, which has the tag `monitoring`, `operator` or `administrator`; others get 403.
#[derive(Debug)]
pub struct Monitor(pub Caller);

/// A user with the role `operator`, which has the tag `operator` or `administrator`; others get 403.
#[derive(Debug)]
pub struct Operator(pub Caller);

/// A client of the bus; an operator gets 403, because it has no outbox and no inbox.
#[derive(Debug)]
pub struct ClientIdentity(pub Caller);

/// Somebody who may register clients: an operator, or anybody under `http.open_registration`.
#[derive(Debug)]
pub struct Registrar {
    /// The whole body, at most `limits.max_body_bytes`.
    pub body: Bytes,
}

/// What somebody proves with who it is.
enum Credentials {
    /// A name and a secret as they were given.
    Pair(String, Secret),
    /// A token.
    Token(Secret),
}

/// The fields that matter here in a JSON body. The id is not taken apart before its type is known: a list
/// of millions would cost many times its length.
#[derive(Deserialize)]
struct InlineFields<'a> {
    #[serde(borrow)]
    client_id: Option<&'a RawValue>,
    #[serde(alias = "client_secret")]
    secret: Option<Secret>,
}

impl InlineFields<'_> {
    /// The id, if it is a text.
    fn name(&self) -> Option<String> {
        serde_json::from_str(self.client_id?.get()).ok()
    }
}

type Extraction<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { identify(&request, payload).await?.ok_or_else(missing) })
    }
}

impl FromRequest for Monitor {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let caller = Caller::from_request(request, payload);
        Box::pin(async move {
            let caller = caller.await?;
            match caller.identity.tags().may_watch() {
                true => Ok(Self(caller)),
                false => Err(ApiError::forbidden(
                    "this needs a user with the tag monitoring, operator or administrator",
                )),
            }
        })
    }
}

impl FromRequest for Operator {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let caller = Caller::from_request(request, payload);
        Box::pin(async move { operator(caller.await?).map(Self) })
    }
}

impl FromRequest for ClientIdentity {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let caller = Caller::from_request(request, payload);
        Box::pin(async move {
            let caller = caller.await?;
            match caller.identity.kind {
                IdentityKind::Client => Ok(Self(caller)),
                IdentityKind::User(_) => Err(ApiError::forbidden(
                    "a user has no outbox and no inbox; call as a client",
                )),
            }
        })
    }
}

impl FromRequest for Registrar {
    type Error = ApiError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let (request, mut payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let services = services(&request)?;
            if services.config.http.open_registration && outside_body(&request, services)?.is_none()
            {
                let body = unknown_body(&request, &mut payload, services).await?;
                return Ok(Self { body });
            }
            let caller = identify(&request, payload).await?.ok_or_else(missing)?;
            operator(caller).map(|caller| Self { body: caller.body })
        })
    }
}

/// The caller by the first credentials present, who is noted with the request for the audit; `None` when there are none at all.
async fn identify(
    request: &HttpRequest,
    mut payload: dev::Payload,
) -> Result<Option<Caller>, ApiError> {
    let services = services(request)?;
    if let Some(credentials) = outside_body(request, services)? {
        // The sender proves itself before anything is read from it.
        let identity = login(request, services, &credentials).await?;
        request.extensions_mut().insert(identity.clone());
        let body = body::read(request, &mut payload, body_limit(services)).await?;
        check_same_client(request, &identity, &body)?;
        return Ok(Some(Caller { identity, body }));
    }
    if !services.config.http.inline_credentials {
        return Ok(None);
    }
    let body = unknown_body(request, &mut payload, services).await?;
    let Some(credentials) = in_body(request, &body)? else {
        return Ok(None);
    };
    let identity = login(request, services, &credentials).await?;
    request.extensions_mut().insert(identity.clone());
    check_same_client(request, &identity, &body)?;
    Ok(Some(Caller { identity, body }))
}

/// Who a request without a body is from; `None` if it does not say.
pub(super) async fn outside(request: &HttpRequest) -> Result<Option<Identity>, ApiError> {
    let services = services(request)?;
    let Some(credentials) = outside_body(request, services)? else {
        return Ok(None);
    };
    let identity = login(request, services, &credentials).await?;
    check_same_client(request, &identity, &[])?;
    Ok(Some(identity))
}

/// Who it is by what the header `Authorization` would say, for those who cannot send it.
pub(super) async fn by_authorization(
    request: &HttpRequest,
    value: &str,
) -> Result<Identity, ApiError> {
    let credentials = authorization(value)?;
    login(request, services(request)?, &credentials).await
}

/// Whether an id and a secret count elsewhere than in the header.
pub(super) fn may_be_inline(request: &HttpRequest) -> bool {
    services(request).is_ok_and(|services| services.config.http.inline_credentials)
}

/// Reads the body of a sender who is not known yet. Large ones are few at a time: nobody fills memory
/// without credentials, and who is turned away can prove itself in the header.
async fn unknown_body(
    request: &HttpRequest,
    payload: &mut dev::Payload,
    services: &Services,
) -> Result<Bytes, ApiError> {
    let _place = match body::announced_bytes(request) {
        Some(bytes) if bytes <= UNKNOWN_SMALL_BYTES => None,
        _ => Some(UNKNOWN_LARGE.try_acquire().map_err(|_| {
            let message = "too many senders have not proved who they are: try again, or send \
                           Authorization: Basic, which is read before the body";
            ApiError::unavailable(message, 1)
        })?),
    };
    let limit_bytes = body_limit(services).min(UNKNOWN_SENDER_BYTES_MAX);
    body::read(request, payload, limit_bytes).await
}

fn services(request: &HttpRequest) -> Result<&web::Data<Services>, ApiError> {
    request
        .app_data()
        .ok_or_else(|| ApiError::internal(&"the application has no services"))
}

fn body_limit(services: &Services) -> u64 {
    services.config.limits.max_body_bytes
}

fn operator(caller: Caller) -> Result<Caller, ApiError> {
    match caller.identity.tags().may_operate() {
        true => Ok(caller),
        false => Err(ApiError::forbidden(
            "this needs a user with the tag operator or administrator",
        )),
    }
}

async fn login(
    request: &HttpRequest,
    services: &Services,
    credentials: &Credentials,
) -> Result<Identity, ApiError> {
    let peer = Peer {
        // Requests that came by no socket are those of unit tests.
        address: request
            .peer_addr()
            .map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip()),
        is_local: is_local(request),
    };
    match credentials {
        Credentials::Token(token) => Ok(services.auth.login_token(token.expose(), peer)?),
        Credentials::Pair(name, secret) => {
            let login = services.auth.login(name, secret.expose().as_bytes(), peer);
            let denied =
                |denied: Denied| ApiError::unauthorized("invalid_credentials", denied.to_string());
            login.await.map_err(denied)
        }
    }
}

fn missing() -> ApiError {
    let message = "credentials are missing; send Authorization: Basic with the id and the secret, \
                   or Bearer with a token";
    ApiError::unauthorized("missing_credentials", message)
}

/// Credentials in the header or the query.
fn outside_body(
    request: &HttpRequest,
    services: &Services,
) -> Result<Option<Credentials>, ApiError> {
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        return value
            .to_str()
            .map_err(|_| malformed_header())
            .and_then(authorization)
            .map(Some);
    }
    if !services.config.http.inline_credentials {
        return Ok(None);
    }
    let query = request.query_string();
    let Some(secret) = form_secret(query)? else {
        return Ok(None);
    };
    let name = form_value(query, "client_id").ok_or_else(|| missing().with_field("client_id"))?;
    Ok(Some(Credentials::Pair(name, secret)))
}

/// The secret in a query or form. With two of them nobody could say which one counts.
fn form_secret(encoded: &str) -> Result<Option<Secret>, ApiError> {
    let mut found = form_values(encoded, "secret");
    found.extend(form_values(encoded, "client_secret"));
    match found.len() {
        0 | 1 => Ok(found.pop().map(Secret::new)),
        _ => Err(ApiError::invalid_field(
            "secret",
            "the secret is there more than once",
        )),
    }
}

fn malformed_header() -> ApiError {
    let message = "the Authorization header is neither Basic followed by base64 of id:secret, \
                   nor Bearer followed by a token";
    ApiError::unauthorized("malformed_credentials", message).with_field("Authorization")
}

/// Whether a request comes with a token.
pub(super) fn has_token(request: &HttpRequest) -> bool {
    let value = request.headers().get(header::AUTHORIZATION);
    let value = value.and_then(|value| value.to_str().ok());
    value.is_some_and(|value| matches!(authorization(value), Ok(Credentials::Token(_))))
}

fn authorization(value: &str) -> Result<Credentials, ApiError> {
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Token(Secret::new(rest.trim())));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed_header());
    }
    let decoded = STANDARD
        .decode(rest.trim())
        .map(Zeroizing::new)
        .map_err(|_| malformed_header())?;
    let decoded = std::str::from_utf8(&decoded).map_err(|_| malformed_header())?;
    let (name, secret) = decoded.split_once(':').ok_or_else(malformed_header)?;
    Ok(Credentials::Pair(name.to_owned(), Secret::new(secret)))
}

/// Credentials in the body; a body that claims to be JSON and is not is an error of its own.
fn in_body(request: &HttpRequest, bytes: &[u8]) -> Result<Option<Credentials>, ApiError> {
    let (name, secret) = match body_kind(request, bytes) {
        BodyKind::Json if !bytes.is_empty() => match inline_fields(bytes)? {
            Some(fields) => (fields.name(), fields.secret),
            None => (None, None),
        },
        BodyKind::Form => {
            let form = std::str::from_utf8(bytes).unwrap_or_default();
            (form_value(form, "client_id"), form_secret(form)?)
        }
        _ => (None, None),
    };
    let pair = name.zip(secret);
    Ok(pair.map(|(name, secret)| Credentials::Pair(name, secret)))
}

/// The fields of a JSON object; `None` for any other JSON. (serde would take an array for the fields in
/// their order, so the first byte is looked at.)
fn inline_fields(bytes: &[u8]) -> Result<Option<InlineFields<'_>>, ApiError> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'{') => body::parse_json(bytes).map(Some),
        _ => body::parse_json::<IgnoredAny>(bytes).map(|_| None),
    }
}

/// A client that names another client anywhere is refused rather than served as somebody else.
/// Users name clients because that is their work.
fn check_same_client(
    request: &HttpRequest,
    identity: &Identity,
    bytes: &[u8],
) -> Result<(), ApiError> {
    if identity.kind != IdentityKind::Client {
        return Ok(());
    }
    let mut named = form_values(request.query_string(), "client_id");
    match body_kind(request, bytes) {
        // A key that is there twice is an error, so that nobody reads the one and we the other.
        BodyKind::Json if !bytes.is_empty() => {
            let fields = inline_fields(bytes)?;
            if let Some(fields) = fields.filter(|fields| fields.client_id.is_some()) {
                // What is no text is nobody's id.
                named.push(fields.name().unwrap_or_default());
            }
        }
        BodyKind::Form => {
            let form = std::str::from_utf8(bytes).unwrap_or_default();
            named.extend(form_values(form, "client_id"));
        }
        _ => {}
    }
    match named.iter().any(|name| **name != *identity.name) {
        true => Err(
            ApiError::forbidden("client_id differs from the credentials").with_field("client_id"),
        ),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpResponse};

    use super::*;
    use crate::http::testing::services;

    /// The status of each request; handlers answer 200 when the extractor lets it pass.
    async fn statuses(
        open_registration: bool,
        requests: impl IntoIterator<Item = TestRequest>,
    ) -> Vec<u16> {
        let pass = || std::future::ready(HttpResponse::Ok().finish());
        let app = App::new()
            .app_data(services(|config| config.http.open_registration = open_registration).await)
            .route("/client", web::post().to(move |_: ClientIdentity| pass()))
            .route("/operator", web::post().to(move |_: Operator| pass()))
            .route("/register", web::post().to(move |_: Registrar| pass()));
        let app = init_service(app).await;
        let mut statuses = Vec::new();
        for request in requests {
            statuses.push(
                call_service(&app, request.to_request())
                    .await
                    .status()
                    .as_u16(),
            );
        }
        statuses
    }

    fn basic(uri: &str, pair: &str) -> TestRequest {
        TestRequest::post()
            .uri(uri)
            .insert_header(("authorization", format!("Basic {}", STANDARD.encode(pair))))
    }

    fn json(request: TestRequest, body: &'static str) -> TestRequest {
        request
            .insert_header(("content-type", "application/json"))
            .set_payload(body)
    }

    #[actix_web::test]
    async fn each_extractor_lets_its_own_kind_pass() {
        let requests = ["/client", "/operator", "/register"]
            .map(|uri| [basic(uri, "noc:s"), basic(uri, "admin:a")]);
        assert_eq!(
            statuses(false, requests.into_iter().flatten()).await,
            [200, 403, 403, 200, 403, 200]
        );
    }

    #[actix_web::test]
    async fn a_client_that_names_another_is_refused() {
        let requests = [
            json(
                basic("/client", "noc:s"),
                r#"{"client_id":"noc","body":{"client_id":"other"}}"#,
            ),
            json(basic("/client", "noc:s"), r#"{"client_id":"other"}"#),
            json(basic("/client", "noc:s"), r#"{"client_id":7}"#),
            json(
                basic("/client", "noc:s"),
                r#"{"client_id":"noc","client_id":"other"}"#,
            ),
            json(basic("/client", "noc:s"), ""),
            basic("/client?client_id=other", "noc:s"),
            basic("/client?client_id=noc&client_id=other", "noc:s"),
            json(
                TestRequest::post().uri("/client?client_id=noc&secret=s"),
                r#"{"client_id":"other"}"#,
            ),
            json(
                TestRequest::post().uri("/client?client_id=other"),
                r#"{"client_id":"noc","secret":"s"}"#,
            ),
            json(basic("/operator", "admin:a"), r#"{"client_id":"other"}"#),
        ];
        assert_eq!(
            statuses(false, requests).await,
            [200, 403, 403, 400, 200, 403, 403, 403, 403, 200]
        );
    }

    #[actix_web::test]
    async fn open_registration_needs_no_credentials_but_checks_those_given() {
        let anybody = || {
            json(
                TestRequest::post().uri("/register"),
                r#"{"client_id":"new"}"#,
            )
        };
        let requests = || {
            [
                anybody(),
                basic("/register", "admin:a"),
                basic("/register", "admin:wrong"),
            ]
        };
        assert_eq!(statuses(true, requests()).await, [200, 200, 401]);
        assert_eq!(statuses(false, requests()).await, [401, 200, 401]);
    }

    #[test]
    fn basic_is_read_whatever_the_case_and_the_secret_may_hold_colons() {
        let basic = authorization(&format!("bAsIc {}", STANDARD.encode("a:b:c"))).unwrap();
        let Credentials::Pair(name, secret) = basic else {
            panic!("no pair");
        };
        assert_eq!((name.as_str(), secret.expose()), ("a", "b:c"));
    }

    #[test]
    fn other_schemes_say_what_to_use() {
        let says = |value: &str| authorization(value).err().unwrap().to_string();
        let bearer = authorization("bEaReR  x.y.z ").unwrap();
        assert!(matches!(bearer, Credentials::Token(token) if token.expose() == "x.y.z"));
        for broken in ["Digest x", "Basic", "Basic ???", "Basic YQ==", ""] {
            assert!(
                says(broken).starts_with("malformed_credentials"),
                "{broken}"
            );
        }
    }

    #[test]
    fn only_an_object_holds_credentials() {
        let fields =
            inline_fields(br#" {"client_id":"a","client_secret":"b","body":{"secret":"c"}}"#)
                .unwrap()
                .unwrap();
        assert_eq!(fields.secret.as_ref().map(Secret::expose), Some("b"));
        assert!(inline_fields(br#"["a","b"]"#).unwrap().is_none());
        assert!(inline_fields(b"nonsense").is_err());
    }
}
