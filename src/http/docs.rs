//! `/openapi.json`, made from the handlers' own annotations, and `/docs`, which shows it. The page's files
//! are in the binary: nothing is fetched from elsewhere.

use std::sync::Arc;

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, ServerBuilder};
use utoipa::{Modify, OpenApi as _};
use utoipa_swagger_ui::{Config, serve};

use super::{
    ApiError, Services, acks, audit, bindings, bus_socket, channels, checks, clients, connections,
    definitions, exchanges, health, limits, messages, metrics, overview, parameters, permissions,
    policies, queues, receive, send, stream, token, topic_permissions, users, vhosts,
};

/// Registers the routes.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/openapi.json")
                .route(web::get().to(openapi))
                .route(web::head().to(openapi)),
        )
        .service(
            web::resource(["/docs", "/docs/{file:.*}"])
                .route(web::get().to(page))
                .route(web::head().to(page)),
        );
}

/// The documentation of every module's routes. A module with annotated handlers adds its own here.
fn document(path_prefix: &str) -> OpenApi {
    let mut api = Base::openapi();
    let modules = [
        token::Api::openapi(),
        clients::Api::openapi(),
        send::Api::openapi(),
        receive::Api::openapi(),
        acks::Api::openapi(),
        stream::Api::openapi(),
        bus_socket::Api::openapi(),
        audit::Api::openapi(),
        health::Api::openapi(),
        metrics::Api::openapi(),
        exchanges::Api::openapi(),
        queues::Api::openapi(),
        bindings::Api::openapi(),
        messages::Api::openapi(),
        connections::Api::openapi(),
        channels::Api::openapi(),
        overview::Api::openapi(),
        checks::Api::openapi(),
        vhosts::Api::openapi(),
        users::Api::openapi(),
        permissions::Api::openapi(),
        topic_permissions::Api::openapi(),
        limits::Api::openapi(),
        policies::Api::openapi(),
        definitions::Api::openapi(),
        parameters::Api::openapi(),
    ];
    for module in modules {
        api.merge(module);
    }
    take_tokens(&mut api);
    let root = if path_prefix.is_empty() {
        "/"
    } else {
        path_prefix
    };
    api.servers = Some(vec![ServerBuilder::new().url(root).build()]);
    api
}

#[derive(utoipa::OpenApi)]
#[openapi(info(title = "Backbone"), modifiers(&Schemes), components(schemas(super::ErrorBody)))]
struct Base;

/// How requests authenticate.
struct Schemes;

const BASIC: &str = "basic";
const BEARER: &str = "bearer";

impl Modify for Schemes {
    fn modify(&self, api: &mut OpenApi) {
        let components = api.components.get_or_insert_default();
        let basic = Http::new(HttpAuthScheme::Basic);
        components.add_security_scheme(BASIC, SecurityScheme::Http(basic));
        let mut bearer = Http::new(HttpAuthScheme::Bearer);
        bearer.bearer_format = Some("JWT".to_owned());
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    }
}

/// Wherever a secret is taken, a token is, but where it is made. Behind each stands the role that it needs.
fn take_tokens(api: &mut OpenApi) {
    let paths = api.paths.paths.iter_mut();
    for (_, item) in paths.filter(|(path, _)| *path != token::PATH) {
        let methods = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
            &mut item.head,
        ];
        for operation in methods.into_iter().flatten() {
            let security = operation.security.get_or_insert_default();
            let roles: Vec<_> = security.iter().filter_map(roles_by_secret).collect();
            let bearer = |roles| SecurityRequirement::new(BEARER, roles);
            security.extend(roles.into_iter().map(bearer));
        }
    }
}

/// The roles that may call with a secret; none: nobody does. The type shows them as JSON only.
fn roles_by_secret(requirement: &SecurityRequirement) -> Option<Vec<String>> {
    let requirement = serde_json::to_value(requirement).ok()?;
    serde_json::from_value(requirement.get(BASIC)?.clone()).ok()
}

async fn openapi(services: web::Data<Services>) -> HttpResponse {
    HttpResponse::Ok().json(document(&services.config.http.path_prefix))
}

async fn page(
    services: web::Data<Services>,
    file: Option<web::Path<String>>,
) -> Result<HttpResponse, ApiError> {
    let name = file.map(web::Path::into_inner).unwrap_or_default();
    let found = serve(&name, Arc::new(Config::from("../openapi.json")));
    let found = found.map_err(|error| ApiError::internal(&error))?;
    let Some(found) = found else {
        return Err(ApiError::not_found("the documentation has no such file"));
    };
    let bytes = match name.as_str() {
        "" | "index.html" => with_base(&found.bytes, &services.config.http.path_prefix),
        _ => found.bytes.into_owned(),
    };
    let content_type = found
        .content_type
        .parse()
        .map_or_else(|_| ContentType::octet_stream(), ContentType);
    Ok(HttpResponse::Ok().insert_header(content_type).body(bytes))
}

/// The page is served at `/docs` without the slash that its relative links count on, and a redirect is no
/// way to repair a path here: the page is told its base instead.
fn with_base(page: &[u8], path_prefix: &str) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    page.replacen(
        "<head>",
        &format!("<head>\n    <base href=\"{path_prefix}/docs/\">"),
        1,
    )
    .into_bytes()
}
