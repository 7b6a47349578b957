//! `GET` and `POST /token` (also `/oauth/token`): a token for who logs in, as OAuth's client credentials grant
//! (RFC 6749 §4.4). Its errors have OAuth's codes.

use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::body::{BodyKind, body_kind, form_values, parse_json};
use super::credentials::has_token;
use super::error::UNSUPPORTED_GRANT;
use super::{ApiError, Caller, ErrorBody, Services};
use crate::auth::Token;

/// Where tokens are made.
pub(super) const PATH: &str = "/token";
const GRANT: &str = "grant_type";
/// The one grant.
const CLIENT_CREDENTIALS: &str = "client_credentials";

/// A token, under the names that clients may look for.
#[derive(Serialize, ToSchema)]
pub struct TokenBody {
    /// The token.
    token: String,
    /// The token, under OAuth's name.
    access_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// How long it lives, seconds.
    expires_in: u64,
    /// When it ends: ISO 8601 with offset.
    #[schema(format = DateTime)]
    expiry: String,
    /// The same under another name.
    #[schema(format = DateTime)]
    expires_at: String,
    /// Whom it is for.
    client_id: String,
}

/// What a body may say; others are ignored.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation: the fields are read one by one")]
struct TokenFields {
    /// The client's id, or a user's name.
    client_id: Option<String>,
    /// Its secret. Also `client_secret`.
    secret: Option<String>,
    /// `client_credentials`, if anything.
    grant_type: Option<String>,
}

/// What of a JSON body matters here.
#[derive(Deserialize)]
struct GrantField<'a> {
    #[serde(borrow)]
    grant_type: Option<&'a RawValue>,
}

impl TokenBody {
    fn of(token: &Token, holder: &str) -> Result<Self, ApiError> {
        let expiry = iso_time(token.expires_s);
        let expiry = expiry.ok_or_else(|| ApiError::internal(&"a time that no calendar has"))?;
        Ok(Self {
            token: token.text.expose().to_owned(),
            access_token: token.text.expose().to_owned(),
            token_type: "Bearer",
            expires_in: token.lifetime_s,
            expires_at: expiry.clone(),
            expiry,
            client_id: holder.to_owned(),
        })
    }
}

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config.service(
        web::resource([PATH, "/oauth/token"])
            .route(web::get().to(get))
            .route(web::post().to(post)),
    );
}

/// A token for a client or a user, to call with instead of its secret (`Authorization: Bearer`).
///
/// Id and secret come as Basic, in the query, or in a JSON or form body. A token ends after its time, and when whom it is for
/// is deleted, disabled, or gets another secret. A token does not make another one. `/oauth/token` is the same.
#[utoipa::path(post, path = "/token", tag = "tokens", security(("basic" = []), ()),
    request_body(content((TokenFields = "application/json"), (TokenFields = "application/x-www-form-urlencoded"))),
    responses((status = 200, body = TokenBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 413, body = ErrorBody)))]
async fn post(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let made = make(&services, &request, payload).await;
    let body = made.map_err(ApiError::in_oauth)?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::PRAGMA, "no-cache"))
        .json(body))
}

/// The same, for clients that get what they want.
#[utoipa::path(get, path = "/token", tag = "tokens", security(("basic" = []), ()),
    params(("client_id" = Option<String>, Query, description = "The client's id, or a user's name"),
        ("secret" = Option<String>, Query, description = "Its secret. Also `client_secret`"),
        ("grant_type" = Option<String>, Query, description = "`client_credentials`, if anything")),
    responses((status = 200, body = TokenBody), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
async fn get(
    services: web::Data<Services>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    post(services, request, payload).await
}

async fn make(
    services: &Services,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<TokenBody, ApiError> {
    let refused = |message: &str| ApiError::unauthorized("invalid_client", message);
    if has_token(request) {
        let message = "a token makes no other token: send the id and the secret";
        return Err(refused(message).with_field("Authorization"));
    }
    let caller = Caller::from_request(request, &mut payload.into_inner()).await?;
    check_grant(request, &caller.body)?;
    let token = services.auth.make_token(&caller.identity);
    let token = token.ok_or_else(|| refused("tokens are for who has a secret"))?;
    TokenBody::of(&token, &caller.identity.name)
}

/// That no other grant is asked for, in the query or in the body.
fn check_grant(request: &HttpRequest, body: &[u8]) -> Result<(), ApiError> {
    let mut asked = form_values(request.query_string(), GRANT);
    match body_kind(request, body) {
        BodyKind::Json if body.trim_ascii_start().starts_with(b"{") => {
            if let Some(grant) = parse_json::<GrantField<'_>>(body)?.grant_type {
                let grant = serde_json::from_str(grant.get());
                let no_text = |_| ApiError::invalid_field(GRANT, "grant_type must be a text");
                asked.push(grant.map_err(no_text)?);
            }
        }
        BodyKind::Form => {
            let form = std::str::from_utf8(body).unwrap_or_default();
            asked.extend(form_values(form, GRANT));
        }
        _ => {}
    }
    // RFC 6749 §3.2: what has no value is not there.
    asked.retain(|grant| !grant.is_empty());
    match asked.as_slice() {
        [] => Ok(()),
        [grant] if grant == CLIENT_CREDENTIALS => Ok(()),
        [_] => {
            let message = "the only grant is client_credentials";
            let refused = ApiError::new(StatusCode::BAD_REQUEST, UNSUPPORTED_GRANT, message);
            Err(refused.with_field(GRANT))
        }
        _ => {
            let message = "grant_type is there more than once";
            Err(ApiError::invalid_field(GRANT, message))
        }
    }
}

/// ISO 8601 with offset: Python's parser refuses a `Z`, and more than six decimals. None for times that no calendar has.
pub(super) fn iso_time(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00").to_string())
}

/// The routes' documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(post, get))]
pub(super) struct Api;
