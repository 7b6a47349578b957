//! The Rust example does what its page says.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::Server;
use common::admin::Admin;
use serde_json::json;

/// Cargo builds examples beside the folder of the tests.
fn example() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().unwrap().parent().unwrap();
    let example = target.join("examples").join("bus_client");
    assert!(
        example.exists(),
        "build it first: cargo build --example bus_client"
    );
    example
}

/// Runs it as the client whose file that is; what it prints.
fn run(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new(example());
    command.args(arguments);
    command.env("AMQP_ADDRESS", server.amqp[0].to_string());
    let output = command.output().unwrap();
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problems}");
    String::from_utf8(output.stdout).unwrap()
}

#[actix_web::test]
async fn the_rust_client_sends_and_reads() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (client, subscription) in [("noc-c2", "soar.noc.#"), ("noc-sfmc", "soar.noc.slocum.#")] {
        let record = json!({"client_id": client, "subscription": subscription});
        let (status, record) = Admin::of(&server).post("/clients", record).await;
        assert_eq!(status, 201, "{record}");
        let file = folder.path().join(client);
        std::fs::write(&file, record.to_string()).unwrap();
        files.push(file.to_str().unwrap().to_owned());
    }
    for text in ["from Rust", "again"] {
        let sent = run(
            &server,
            &[&files[0], "send", "soar.noc.slocum.something", text],
        );
        assert_eq!(sent, "sent on soar.noc.slocum.something\n");
    }
    let read = run(&server, &[&files[1], "read", "2"]);
    assert_eq!(
        read,
        "soar.noc.slocum.something from Rust\nsoar.noc.slocum.something again\n"
    );
}
