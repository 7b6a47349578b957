//! The server from outside: start and end, health, metrics, documentation, credentials, error answers.

// The helpers below are not test functions themselves; what fails in them fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{ADMIN_SECRET, Server, command};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;

async fn get(server: &Server, path: &str) -> Response {
    Client::new().get(server.url(path)).send().await.unwrap()
}

fn as_admin(server: &Server, path: &str) -> RequestBuilder {
    Client::new()
        .get(server.url(path))
        .basic_auth("admin", Some(ADMIN_SECRET))
}

/// Checks an error answer's shape and status and returns its code.
async fn error_code(response: Response, status: u16) -> String {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    assert!(!body["message"].as_str().unwrap().is_empty());
    body["error"].as_str().unwrap().to_owned()
}

/// Sends bytes as they are and returns what comes back until the peer closes or pauses.
fn raw(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.http[0]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read) = stream.read(&mut chunk)
        && read > 0
    {
        answer.extend_from_slice(&chunk[..read]);
        if answer.ends_with(b"}") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[actix_web::test]
async fn says_where_it_listens_and_how_safe_messages_are() {
    let server = Server::with(&[("BACKBONE_HTTP__BIND", "127.0.0.1:0,127.0.0.1:0")]).await;
    assert_eq!(server.http.len(), 2);
    assert!(server.http.iter().all(|address| address.port() != 0));
    assert!(
        server
            .lines()
            .iter()
            .any(|line| line == "durability synced")
    );
    for address in &server.http {
        for path in ["/health", "/health/live", "/health/ready"] {
            let answer = reqwest::get(format!("http://{address}{path}"))
                .await
                .unwrap();
            assert_eq!(answer.status(), 200, "{path}");
        }
    }
    let head = Client::new()
        .head(server.url("/health"))
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
}

#[actix_web::test]
async fn the_first_start_makes_the_admin_secret_and_shows_it_once() {
    let mut server = Server::with(&[("BACKBONE_ADMIN__SECRET", "")]).await;
    let shown = |server: &Server| {
        let line = server
            .lines()
            .into_iter()
            .find(|line| line.starts_with("administrator admin secret "))?;
        Some(line.split(' ').nth(3)?.to_owned())
    };
    let secret = shown(&server).unwrap();
    assert_eq!(secret.len(), 43);
    assert_eq!(server.terminate().await.code(), Some(0));
    let server = Server::on(server.data_dir(), &[("BACKBONE_ADMIN__SECRET", "")]).await;
    assert_eq!(shown(&server), None);
    let metrics = Client::new()
        .get(server.url("/metrics"))
        .basic_auth("admin", Some(secret));
    assert_eq!(metrics.send().await.unwrap().status(), 200);
}

#[actix_web::test]
async fn metrics_are_for_operators_unless_public() {
    let server = Server::start().await;
    let answer = get(&server, "/metrics").await;
    assert!(
        answer.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Basic")
    );
    assert_eq!(error_code(answer, 401).await, "missing_credentials");
    let answer = as_admin(&server, "/metrics").send().await.unwrap();
    assert!(
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = answer.text().await.unwrap();
    for name in [
        "backbone_identity_info{version=",
        "backbone_durability_level{level=\"synced\",vhost=\"/\"} 1",
        "backbone_process_resident_memory_bytes ",
        "backbone_process_open_fds ",
        "backbone_disk_space_available_bytes ",
        "backbone_uptime_seconds ",
    ] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
    let open = Server::with(&[("BACKBONE_METRICS__PUBLIC", "true")]).await;
    assert_eq!(get(&open, "/metrics").await.status(), 200);
}

#[actix_web::test]
async fn credentials_are_taken_from_the_first_place_that_has_any() {
    let server = Server::start().await;
    let client = Client::new();
    let metrics = |query: &str| client.get(server.url(&format!("/metrics{query}")));
    let inline = format!("?client_id=admin&secret={ADMIN_SECRET}");
    assert_eq!(metrics(&inline).send().await.unwrap().status(), 200);
    let json = metrics("").header("content-type", "application/json");
    let json = json.body(format!(
        "{{\"client_id\":\"admin\",\"client_secret\":\"{ADMIN_SECRET}\"}}"
    ));
    assert_eq!(json.send().await.unwrap().status(), 200);
    let form = metrics("").header("content-type", "application/x-www-form-urlencoded");
    let form = form.body(format!("client_id=admin&secret={ADMIN_SECRET}"));
    assert_eq!(form.send().await.unwrap().status(), 200);
    // A wrong pair in the header is an error, whatever the query holds.
    let wrong = metrics(&inline)
        .basic_auth("admin", Some("wrong"))
        .send()
        .await
        .unwrap();
    assert_eq!(error_code(wrong, 401).await, "invalid_credentials");
    let unknown = metrics("")
        .basic_auth("nobody", Some("wrong"))
        .send()
        .await
        .unwrap();
    assert_eq!(error_code(unknown, 401).await, "invalid_credentials");
    let bearer = metrics(&inline)
        .header("authorization", "bearer x")
        .send()
        .await
        .unwrap();
    assert_eq!(error_code(bearer, 401).await, "token_malformed");
    let broken = metrics("")
        .header("content-type", "application/json")
        .body("{\n\"client_id\": x");
    assert_eq!(
        error_code(broken.send().await.unwrap(), 400).await,
        "malformed_json"
    );
}

#[actix_web::test]
async fn guest_is_local_and_does_not_pass_a_proxy() {
    let server = Server::start().await;
    let guest = || {
        Client::new()
            .get(server.url("/metrics"))
            .basic_auth("guest", Some("guest"))
    };
    assert_eq!(guest().send().await.unwrap().status(), 200);
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-real-ip", "192.0.2.1"),
        ("host", "c2.example.org"),
        ("origin", "https://c2.example.org"),
    ] {
        let elsewhere = guest().header(name, value).send().await.unwrap();
        assert_eq!(elsewhere.status(), 401, "{name}");
    }
    // A browser sends such a request for any page without asking first.
    let simple = Client::new()
        .post(server.url("/clients?client_id=guest&secret=guest"))
        .header("origin", "https://c2.example.org")
        .body("{\"client_id\":\"forged\"}");
    assert_eq!(simple.send().await.unwrap().status(), 401);
    let strict = Server::with(&[
        ("BACKBONE_GUEST__ENABLED", "false"),
        ("BACKBONE_HTTP__INLINE_CREDENTIALS", "false"),
    ])
    .await;
    let refused = Client::new()
        .get(strict.url("/metrics"))
        .basic_auth("guest", Some("guest"));
    assert_eq!(refused.send().await.unwrap().status(), 401);
    let inline = get(
        &strict,
        &format!("/metrics?client_id=admin&secret={ADMIN_SECRET}"),
    )
    .await;
    assert_eq!(error_code(inline, 401).await, "missing_credentials");
}

#[actix_web::test]
async fn unknown_paths_and_methods_are_json_errors() {
    let server = Server::start().await;
    assert_eq!(
        error_code(get(&server, "/nothing/here").await, 404).await,
        "not_found"
    );
    let wrong = Client::new()
        .request(Method::DELETE, server.url("/health"))
        .send()
        .await
        .unwrap();
    let allowed = wrong.headers()["allow"].to_str().unwrap().to_owned();
    assert!(
        allowed.contains("GET") && allowed.contains("HEAD"),
        "{allowed}"
    );
    assert_eq!(error_code(wrong, 405).await, "method_not_allowed");
}

#[actix_web::test]
async fn paths_are_repaired_and_never_redirected() {
    let server = Server::start().await;
    for path in [
        "/health/",
        "//health",
        "//health//ready/",
        "/health/ready//",
    ] {
        let answer = raw(
            &server,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        );
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
}

#[actix_web::test]
async fn browsers_may_call_from_the_configured_origins_only() {
    let server = Server::with(&[("BACKBONE_HTTP__CORS_ORIGINS", "https://a.example")]).await;
    let ask = |origin: &'static str| {
        let question = Client::new()
            .request(Method::OPTIONS, server.url("/metrics"))
            .header("origin", origin);
        question
            .header("access-control-request-method", "GET")
            .send()
    };
    let yes = ask("https://a.example").await.unwrap();
    assert_eq!(yes.status(), 204);
    assert_eq!(
        yes.headers()["access-control-allow-origin"],
        "https://a.example"
    );
    assert!(
        yes.headers()["access-control-allow-headers"]
            .to_str()
            .unwrap()
            .contains("Authorization")
    );
    let no = ask("https://b.example").await.unwrap();
    assert_eq!(no.status(), 405);
    assert!(!no.headers().contains_key("access-control-allow-origin"));
    let refused = Client::new()
        .get(server.url("/metrics"))
        .header("origin", "https://a.example");
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(
        refused.headers()["access-control-allow-origin"],
        "https://a.example"
    );
}

#[actix_web::test]
async fn the_documentation_works_without_any_other_server() {
    let server = Server::start().await;
    let api: Value = get(&server, "/openapi.json").await.json().await.unwrap();
    let paths = api["paths"].as_object().unwrap();
    assert!(paths.contains_key("/health/ready") && paths.contains_key("/metrics"));
    for path in paths.keys() {
        assert_ne!(get(&server, path).await.status(), 404, "{path}");
    }
    for path in ["/docs", "/docs/"] {
        let page = get(&server, path).await.text().await.unwrap();
        assert!(page.contains("<base href=\"/docs/\">"), "{page}");
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "{page}"
        );
    }
    for file in [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
    ] {
        let answer = get(&server, &format!("/docs/{file}")).await;
        assert_eq!(answer.status(), 200, "{file}");
        assert!(answer.bytes().await.unwrap().len() > 1000, "{file}");
    }
    let start = get(&server, "/docs/swagger-initializer.js")
        .await
        .text()
        .await
        .unwrap();
    assert!(start.contains("../openapi.json"), "{start}");
    assert_eq!(
        error_code(get(&server, "/docs/none.js").await, 404).await,
        "not_found"
    );
}

#[actix_web::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let server = Server::with(&[("BACKBONE_LIMITS__MAX_BODY_BYTES", "1000")]).await;
    let credentials = format!("client_id=admin&secret={ADMIN_SECRET}");
    // Only the head is sent: the answer cannot have waited for the body.
    let announced =
        format!("GET /metrics?{credentials} HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
    let answer = raw(&server, &announced);
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("\"too_large\""),
        "{answer}"
    );
    // Without a length the limit counts what arrives.
    let chunk = format!("3E8\r\n{}\r\n", "x".repeat(1000));
    let head = format!(
        "GET /metrics?{credentials} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let answer = raw(&server, &format!("{head}{chunk}1\r\nx\r\n"));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let fits = as_admin(&server, "/metrics")
        .body("x".repeat(1000))
        .send()
        .await
        .unwrap();
    assert_eq!(fits.status(), 200);
    // A large body without credentials that stands in the way of nobody.
    let large = Client::new()
        .get(server.url("/metrics"))
        .body(vec![b'x'; 8 << 20])
        .send()
        .await;
    assert!(large.map_or(true, |answer| answer.status() == 413));
    assert_eq!(get(&server, "/health").await.status(), 200);
}

#[actix_web::test]
async fn large_bodies_of_unknown_senders_are_few_at_a_time() {
    let server = Server::start().await;
    let head = "POST /send HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n";
    let mut waiting = Vec::new();
    let refused = loop {
        let mut connection = TcpStream::connect(server.http[0]).unwrap();
        connection.write_all(head.as_bytes()).unwrap();
        connection
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut answer = [0; 12];
        if connection.read_exact(&mut answer).is_ok() {
            break answer;
        }
        waiting.push(connection);
        assert!(waiting.len() < 100, "all of them are read");
    };
    assert_eq!(&refused, b"HTTP/1.1 503");
    let known = as_admin(&server, "/metrics").send().await.unwrap();
    assert_eq!(known.status(), 200);
    let small = Client::new().post(server.url("/send")).body("{}");
    assert_eq!(
        error_code(small.send().await.unwrap(), 401).await,
        "missing_credentials"
    );
}

#[actix_web::test]
async fn a_second_server_on_the_same_data_is_refused_by_name() {
    let server = Server::start().await;
    let data_dir = server.data_dir();
    let output = command(data_dir.path(), &[]).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        says.contains(data_dir.path().to_str().unwrap()) && says.contains("in use"),
        "{says}"
    );
}

#[actix_web::test]
async fn sigterm_ends_within_the_bound_with_a_connection_open() {
    let mut server = Server::with(&[("BACKBONE_SHUTDOWN__DRAIN_MS", "1000")]).await;
    let mut idle = TcpStream::connect(server.http[0]).unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = [0; 64];
    assert!(idle.read(&mut answer).unwrap() > 0);
    let since = Instant::now();
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(
        since.elapsed() < Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
    assert!(TcpStream::connect(server.http[0]).is_err());
}

#[actix_web::test]
async fn a_request_that_has_begun_is_answered_while_draining() {
    let mut server = Server::start().await;
    let mut stream = TcpStream::connect(server.http[0]).unwrap();
    let query = format!("client_id=admin&secret={ADMIN_SECRET}");
    let head = format!("GET /metrics?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"ab").unwrap();
    // The request must have reached the server, or there is nothing to wait for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let finish = actix_web::rt::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(b"cd").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(server.terminate().await.code(), Some(0));
    let answer = finish.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
}

#[actix_web::test]
async fn exit_codes_tell_failure_from_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = command(dir.path(), variables)
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    assert_eq!(run(&[], &["config", "check"]).0, Some(0));
    let (code, text) = run(&[], &["config", "show"]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("********") && !text.contains(ADMIN_SECRET),
        "{text}"
    );
    let (code, text) = run(&[("BACKBONE_AMQP__BNID", "x")], &["config", "check"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("BACKBONE_AMQP__BIND"), "{text}");
    let exposed = [
        ("BACKBONE_HTTP__OPEN_REGISTRATION", "true"),
        ("BACKBONE_HTTP__BIND", "0.0.0.0:0"),
    ];
    let (code, text) = run(&exposed, &["serve"]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("BACKBONE_HTTP__OPEN_REGISTRATION") && text.contains("0.0.0.0:0"),
        "{text}"
    );
    assert_eq!(run(&[], &["--nonsense"]).0, Some(2));
    assert_eq!(run(&[], &["send", "only-a-topic"]).0, Some(2));
    // Nothing listens on the discard port of a test machine.
    assert_eq!(
        run(&[], &["status", "--api", "http://127.0.0.1:9"]).0,
        Some(1)
    );
}

#[actix_web::test]
async fn status_asks_a_running_server() {
    let server = Server::start().await;
    let output = command(
        server.data_dir().path(),
        &[("BACKBONE_API", &server.url(""))],
    )
    .args(["status", "--json"])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ready"], true);
    assert!(report["process_resident_memory_bytes"].as_u64().unwrap() > 0);
}

#[actix_web::test]
async fn a_path_prefix_moves_every_route() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let mut child = command(dir.path(), &[("BACKBONE_HTTP__PATH_PREFIX", "/bus")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let listening = lines
        .find_map(|line| Some(line.ok()?.strip_prefix("listening http ")?.to_owned()))
        .unwrap();
    let status = async |path: &str| {
        reqwest::get(format!("http://{listening}{path}"))
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    let found = [
        status("/bus/health/live").await,
        status("/bus//docs/").await,
        status("/health/live").await,
    ];
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(found, [200, 200, 404]);
}
