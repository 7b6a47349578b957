//! Who may do what on the bus: every route against every sort of caller, by the roles that `/openapi.json` names.

#![allow(clippy::unwrap_used)]

use crate::common;

use common::admin::Admin;
use common::{ADMIN_SECRET, Server};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

/// Users, their tags, and the roles that they have on the bus.
const USERS: [(&str, &str, &[&str]); 7] = [
    ("plain", "", &[]),
    ("impersonator", "impersonator", &[]),
    ("manager", "management", &[]),
    ("policymaker", "policymaker", &[]),
    ("watcher", "monitoring", &["monitor"]),
    ("worker", "operator", &["monitor", "operator"]),
    ("chief", "administrator", &["monitor", "operator"]),
];

/// The method, the path and the roles of a route.
type Route = (Method, String, Vec<String>);

/// What of the routes is not `/api`, and takes credentials. Those that can also do without in the request (a websocket, whose first
/// frame may have them) are tested elsewhere, and named here without a role.
async fn routes(server: &Server) -> Vec<Route> {
    let document = reqwest::get(server.url("/openapi.json")).await.unwrap();
    let document: Value = document.json().await.unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schemes = operation["security"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let of = |scheme: &str| schemes.iter().find_map(|it| it.get(scheme).cloned());
            let Some(roles) = of("basic").filter(|_| !path.starts_with("/api")) else {
                continue;
            };
            let can_do_without = schemes.contains(&json!({}));
            if path != "/token" {
                assert_eq!(of("bearer"), Some(roles.clone()), "{method} {path}");
            }
            let method = method.to_uppercase().parse().unwrap();
            let mut roles: Vec<String> = serde_json::from_value(roles).unwrap();
            if can_do_without {
                roles.clear();
            }
            routes.push((method, path.clone(), roles));
        }
    }
    routes
}

/// A call that changes nothing, but with a role that makes clients.
fn call(server: &Server, (method, path, _): &Route) -> RequestBuilder {
    let path = path.replace("{client_id}", "nobody");
    let call = Client::new().request(method.clone(), server.url(&path));
    match *method == Method::GET {
        true => call,
        false => call.json(&json!({})),
    }
}

#[actix_web::test]
async fn each_route_is_open_to_its_roles_and_to_nobody_else() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let mut callers = vec![(
        "admin".to_owned(),
        ADMIN_SECRET.to_owned(),
        vec!["monitor", "operator"],
    )];
    for (name, tags, roles) in USERS {
        admin.user(name, tags, ["", "", ""]).await;
        callers.push((name.to_owned(), name.to_owned(), roles.to_vec()));
    }
    let (_, made) = admin.post("/clients", json!({"client_id": "noc"})).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    callers.push(("noc".to_owned(), secret, vec!["client"]));

    let routes = routes(&server).await;
    let named = |method: Method, path: &str| {
        let mut all = routes.iter();
        let found = all.find(|route| route.0 == method && route.1 == path);
        found.map(|route| route.2.join(" ")).unwrap_or_default()
    };
    for (method, path, role) in [
        (Method::POST, "/send", "client"),
        (Method::POST, "/notify", "client"),
        (Method::GET, "/receive", "client"),
        (Method::GET, "/clients", "monitor"),
        (Method::GET, "/clients/{client_id}", "monitor"),
        (Method::POST, "/clients", "operator"),
        (Method::PUT, "/clients/{client_id}", "operator"),
        (Method::PATCH, "/clients/{client_id}", "operator"),
        (Method::DELETE, "/clients/{client_id}", "operator"),
        (Method::POST, "/clients/{client_id}/secret", "operator"),
        (Method::GET, "/metrics", "monitor"),
    ] {
        assert_eq!(named(method.clone(), path), role, "{method} {path}");
    }
    for route in routes.iter().filter(|route| !route.2.is_empty()) {
        let (method, path, needs) = route;
        assert_eq!(
            call(&server, route).send().await.unwrap().status(),
            401,
            "{method} {path}"
        );
        for (name, secret, roles) in &callers {
            let may = needs.iter().any(|role| roles.contains(&&**role));
            let token = Client::new().post(server.url("/token"));
            let token = token.basic_auth(name, Some(secret)).send().await.unwrap();
            let token: Value = token.json().await.unwrap();
            let token = token["token"].as_str().unwrap();
            for by in [
                call(&server, route).basic_auth(name, Some(secret)),
                call(&server, route).bearer_auth(token),
            ] {
                let status = by.send().await.unwrap().status().as_u16();
                assert_ne!(status, 401, "{name}: {method} {path}");
                assert_eq!(status != 403, may, "{name}: {method} {path}: {status}");
            }
        }
    }
}

#[actix_web::test]
async fn an_operator_runs_the_bus_and_nothing_else() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    admin.user("worker", "operator", ["", "", ""]).await;
    let worker = Admin::as_user(&server, "worker", "worker");
    let record = json!({"client_id": "noc", "subscription": "#"});
    assert_eq!(worker.post("/clients", record).await.0, 201);
    assert_eq!(
        worker
            .put("/clients/noc", json!({"disabled": true}))
            .await
            .0,
        200
    );
    assert_eq!(worker.post("/clients/noc/secret", json!({})).await.0, 200);
    assert_eq!(worker.get("/clients/noc").await.1["disabled"], true);
    assert_eq!(worker.delete("/clients/noc").await, 204);
    for path in [
        "/api/whoami",
        "/api/users",
        "/api/queues",
        "/api/definitions",
    ] {
        assert_eq!(worker.get(path).await.0, 401, "{path}");
    }
    let grab = json!({"password": "p", "tags": "administrator"});
    assert_eq!(worker.put("/api/users/worker", grab).await.0, 401);
    assert_eq!(worker.delete("/api/users/guest").await, 401);
    assert_eq!(worker.get("/api/whoami").await.0, 401);
}
