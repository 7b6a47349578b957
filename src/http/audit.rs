//! `GET /audit`: who did what; and what of each request is entered there.

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ErrorBody, Monitor, Services, parse_query};
use crate::audit::{Entry, Kind, LIMIT_MAX, Outcome, Query, now_ms};
use crate::auth::{Identity, IdentityKind};

/// Entries in one answer, unless asked otherwise.
const LIMIT: usize = 100;
/// What is entered of a path, bytes.
const PATH_BYTES_MAX: usize = 1000;
/// What a handler adds to the entry of its request.
#[derive(Debug, Default)]
pub(super) struct About {
    /// The client that it is about, if the path does not say.
    pub client: Option<String>,
    /// The fields that were given.
    pub fields: Vec<String>,
}

/// One entry.
#[derive(Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its number: later ones have higher numbers.
    id: u64,
    /// When: ISO 8601 with offset.
    #[schema(format = DateTime)]
    time: String,
    /// What, from the general to the special, such as `clients.secret.create`, or `login.failed`.
    action: String,
    /// The user or the client; for a login that failed, the name that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    /// `user` or `client`, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    kind: Option<Kind>,
    /// The address that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// The client of the bus that it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    /// The path that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The fields that were given, of a client's record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
    /// `done`, `refused` or `failed`.
    #[schema(value_type = String)]
    outcome: Outcome,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// How many refusals were left out before this one, because they were too many.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

/// Entries, the newest first.
#[derive(Serialize, ToSchema)]
struct AuditPage {
    entries: Vec<AuditEntry>,
    /// There may be more: the value of `before` for what comes next.
    before: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    client: Option<String>,
    who: Option<String>,
    action: Option<String>,
    since: Option<String>,
    until: Option<String>,
    before: Option<u64>,
    limit: Option<usize>,
}

impl AuditEntry {
    fn of(id: u64, entry: Entry) -> Self {
        Self {
            id,
            time: iso_time(entry.time_ms),
            action: entry.action,
            who: entry.who,
            kind: entry.kind,
            from: entry.from.map(|it| it.to_string()),
            client: entry.client,
            path: entry.path,
            fields: entry.fields,
            outcome: entry.outcome,
            status: entry.status,
            left_out: entry.left_out,
        }
    }
}

/// Registers the route.
pub fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/audit").route(web::get().to(find)));
}

/// Who did what: changes over HTTP, whoever made them, and logins that failed, the newest first.
#[utoipa::path(get, path = "/audit", tag = "audit", security(("basic" = ["monitor"])),
    params(("client" = Option<String>, Query, description = "About this client, or by it"),
        ("who" = Option<String>, Query, description = "By this user or client"),
        ("action" = Option<String>, Query, description = "This action, or those that begin with it: `clients` has `clients.update`"),
        ("since" = Option<String>, Query, description = "Not before: ISO 8601 with zone, or seconds of Unix time"),
        ("until" = Option<String>, Query, description = "Before: the same"),
        ("before" = Option<u64>, Query, description = "Goes on where an answer said"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Entries at most; 100 unless said otherwise")),
    responses((status = 200, body = AuditPage), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
async fn find(
    services: web::Data<Services>,
    request: HttpRequest,
    Monitor(caller): Monitor,
) -> Result<HttpResponse, ApiError> {
    drop(caller);
    let asked: AuditQuery = parse_query(&request)?;
    let limit = asked.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let message = format!("limit must be 1 to {LIMIT_MAX}");
        return Err(ApiError::invalid_field("limit", message));
    }
    let query = Query {
        client: asked.client,
        who: asked.who,
        action: asked.action,
        since_ms: asked.since.map(|it| time_ms("since", &it)).transpose()?,
        until_ms: asked.until.map(|it| time_ms("until", &it)).transpose()?,
        before: asked.before,
        limit,
    };
    let found = services.audit.find(query).await?;
    let entries = found.entries.into_iter();
    Ok(HttpResponse::Ok().json(AuditPage {
        entries: entries
            .map(|(id, entry)| AuditEntry::of(id, entry))
            .collect(),
        before: found.before,
    }))
}

/// A time in a query.
fn time_ms(field: &str, text: &str) -> Result<u64, ApiError> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds.saturating_mul(1000));
    }
    let time: Option<jiff::Timestamp> = text.parse().ok();
    let time_ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    time_ms.ok_or_else(|| {
        let message =
            "must be ISO 8601 with a zone, such as 2026-01-02T03:04:05Z, or seconds of Unix time";
        ApiError::invalid_field(field, format!("{field} {message}"))
    })
}

fn iso_time(time_ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time_ms).unwrap_or(i64::MAX));
    let time = time.unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3f+00:00").to_string()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whether a request may change something. What moves messages, and who logs in, does not.
pub(super) fn may_change(services: &Services, request: &ServiceRequest) -> bool {
    let path = request.path();
    let prefix = &services.config.http.path_prefix;
    let path = path.strip_prefix(&**prefix).unwrap_or(path);
    let below = |begin: &str, end: &str| path.starts_with(begin) && path.ends_with(end);
    let is_traffic = *request.method() == Method::POST
        && ([
            "/send",
            "/notify",
            "/broadcast",
            "/ack",
            "/nack",
            "/token",
            "/oauth/token",
        ]
        .contains(&path)
            || below("/api/exchanges/", "/publish")
            || below("/api/queues/", "/get"));
    verb(request.method()).is_some() && !is_traffic
}

/// Enters a request that may have changed something, and waits until that is on the disk.
pub(super) async fn enter<B>(services: &Services, response: &ServiceResponse<B>) {
    let request = response.request();
    let entry = entry(services, request, response.status().as_u16());
    if let Some(entry) = entry {
        services.audit.record(entry).await;
    }
}

fn entry(services: &Services, request: &HttpRequest, status: u16) -> Option<Entry> {
    let verb = verb(request.method())?;
    let pattern = request.match_pattern()?;
    let pattern = pattern.strip_prefix(&services.config.http.path_prefix)?;
    let extensions = request.extensions();
    let identity = extensions.get::<Identity>();
    // A client's other calls move messages.
    let is_client = identity.is_some_and(|it| it.kind == IdentityKind::Client);
    // Whoever is not known has changed nothing, but under `http.open_registration`; logins that failed are entered elsewhere.
    let is_nobody = identity.is_none() && Outcome::of(status) != Outcome::Done;
    if is_nobody || (is_client && !pattern.starts_with("/clients")) {
        return None;
    }
    let about = extensions.get::<About>();
    let client = request.match_info().get("client_id").map(str::to_owned);
    let path = request.path();
    Some(Entry {
        time_ms: now_ms(),
        action: action(pattern, verb),
        who: identity.map(|it| it.name.to_string()),
        kind: identity.map(|it| match it.kind {
            IdentityKind::Client => Kind::Client,
            IdentityKind::User(_) => Kind::User,
        }),
        from: request.peer_addr().map(|peer| peer.ip()),
        client: client.or_else(|| about?.client.clone()),
        path: Some(path[..path.floor_char_boundary(PATH_BYTES_MAX)].to_owned()),
        fields: about.map_or_else(Vec::new, |about| about.fields.clone()),
        outcome: Outcome::of(status),
        status: Some(status),
        left_out: 0,
    })
}

fn verb(method: &Method) -> Option<&'static str> {
    match *method {
        Method::POST => Some("create"),
        Method::PUT => Some("put"),
        Method::PATCH => Some("update"),
        Method::DELETE => Some("delete"),
        _ => None,
    }
}

/// The name of an action: what of its route is always the same, and what is done there.
fn action(pattern: &str, verb: &str) -> String {
    let below_api = pattern.strip_prefix("/api").unwrap_or(pattern);
    let fixed = below_api
        .split('/')
        .filter(|it| !it.is_empty() && !it.starts_with('{'));
    fixed.chain([verb]).collect::<Vec<_>>().join(".")
}

/// The route's documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(find))]
pub(super) struct Api;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_named_by_their_routes() {
        for (pattern, method, name) in [
            ("/clients", Method::POST, "clients.create"),
            ("/clients/{client_id}", Method::PATCH, "clients.update"),
            (
                "/clients/{client_id}/secret",
                Method::POST,
                "clients.secret.create",
            ),
            ("/api/users/{user}", Method::PUT, "users.put"),
            (
                "/api/queues/{vhost}/{queue}/contents",
                Method::DELETE,
                "queues.contents.delete",
            ),
        ] {
            assert_eq!(action(pattern, verb(&method).unwrap()), name);
        }
        assert_eq!(verb(&Method::GET), None);
    }

    #[test]
    fn times_come_as_people_and_as_programs_write_them() {
        let ms = |text: &str| time_ms("since", text).ok();
        assert_eq!(ms("2"), Some(2000));
        assert_eq!(ms("1970-01-01T00:00:02Z"), Some(2000));
        assert_eq!(ms("1970-01-01T01:00:02+01:00"), Some(2000));
        assert_eq!(iso_time(2003), "1970-01-01T00:00:02.003+00:00");
        for wrong in ["", "yesterday", "-1", "1969-01-01T00:00:00Z", "2026-01-02"] {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
    }
}
