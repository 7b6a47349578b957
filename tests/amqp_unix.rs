//! AMQP over a UNIX socket: who may come, what is shown of them, and what becomes of the file.
//!
//! The tests' AMQP speaks TCP: a relay of theirs carries it to the socket, octet for octet.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backbone_wire::PROTOCOL_HEADER;
use common::raw::{Raw, publish};
use common::{ADMIN_SECRET, Server, command};
use tempfile::TempDir;

const SOCKET: &str = "BACKBONE_AMQP__UNIX_SOCKET";
const MODE: &str = "BACKBONE_AMQP__UNIX_SOCKET_MODE";

fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("amqp.sock")
}

async fn listening_at(path: &Path) -> Server {
    Server::with(&[(SOCKET, path.to_str().unwrap())]).await
}

/// Where what comes is carried to the socket at `path`.
fn relay(path: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, path) = (listener.local_addr().unwrap(), path.to_owned());
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), UnixStream::connect(&path).unwrap());
            near.set_nodelay(true).unwrap();
            let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || carry(near, &far, || far.shutdown(Shutdown::Write)));
            std::thread::spawn(move || {
                carry(far_too, &near_too, || near_too.shutdown(Shutdown::Write))
            });
        }
    });
    address
}

/// Until either end is gone.
fn carry(mut from: impl Read, mut to: impl Write, end: impl Fn() -> std::io::Result<()>) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = end();
}

async fn api(server: &Server, path: &str) -> serde_json::Value {
    let request = reqwest::Client::new().get(server.url(path));
    let request = request.basic_auth("admin", Some(ADMIN_SECRET));
    request.send().await.unwrap().json().await.unwrap()
}

#[actix_web::test]
async fn messages_of_all_sizes_go_both_ways_and_guest_may_come() {
    let folder = TempDir::new().unwrap();
    let server = listening_at(&path_in(&folder)).await;
    let mut raw = Raw::open(relay(&path_in(&folder)), 0);
    raw.declare("q");
    let bodies: Vec<Vec<u8>> = [0, 1, 100, 4096, 70_000, 1_000_000, 5_000_000]
        .map(|size| (0..size).map(|at| (at % 251) as u8).collect())
        .into();
    raw.consume("q", true);
    for body in &bodies {
        raw.send(&publish("q", body));
    }
    for body in &bodies {
        assert!(raw.delivery().1 == *body, "{} octets", body.len());
    }
    // Both ways reach one broker.
    let mut other = Raw::open(server.amqp[0], 0);
    other.send(&publish("q", b"from TCP"));
    assert_eq!(raw.delivery().1, b"from TCP");
    let said = format!("listening amqp+unix {}", path_in(&folder).display());
    assert!(server.lines().contains(&said));
}

#[actix_web::test]
async fn credentials_are_needed_as_anywhere() {
    let folder = TempDir::new().unwrap();
    let _server = listening_at(&path_in(&folder)).await;
    let address = relay(&path_in(&folder));
    assert!(Raw::login(address, "admin", ADMIN_SECRET, 0).is_ok());
    for (user, secret) in [("admin", "wrong"), ("nobody", "guest")] {
        let refused = Raw::login(address, user, secret, 0).err();
        assert_eq!(refused.map(|close| close.0), Some(403));
    }
}

#[actix_web::test]
async fn what_is_no_amqp_is_told_what_we_speak_and_silence_ends() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let variables = [
        (SOCKET, path.to_str().unwrap()),
        ("BACKBONE_AMQP__HANDSHAKE_TIMEOUT_MS", "300"),
        // It means nothing here: nobody comes from an address.
        ("BACKBONE_AMQP__PROXIES", "0.0.0.0/0,::/0"),
    ];
    let _server = Server::with(&variables).await;
    for (said, answer) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &PROTOCOL_HEADER[..]),
        (b"", b""),
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        stream.write_all(said).unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || said.len() > 8, "{ended:?}");
        assert_eq!(rest, answer);
    }
}

#[actix_web::test]
async fn the_management_interface_shows_the_path_and_tells_connections_apart() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let server = listening_at(&path).await;
    let address = relay(&path);
    let (_one, mut two) = (Raw::open(address, 0), Raw::open(address, 0));
    let shown = api(&server, "/api/connections").await;
    let path = path.to_str().unwrap();
    for connection in shown.as_array().unwrap() {
        assert_eq!(connection["peer_host"], path);
        assert_eq!(connection["host"], path);
        assert_eq!(
            (&connection["port"], &connection["peer_port"]),
            (&0.into(), &0.into())
        );
        assert_eq!(connection["ssl"], false);
    }
    let name = |at: usize| shown[at]["name"].as_str().unwrap().to_owned();
    assert_ne!(name(0), name(1));
    assert!(
        name(1).starts_with("unix:") && name(1).ends_with(path),
        "{}",
        name(1)
    );
    // A name with slashes is one segment of a path.
    let one = format!(
        "/api/connections/{}",
        name(1).replace('/', "%2F").replace(' ', "%20")
    );
    assert_eq!(api(&server, &one).await["name"], *name(1));
    let closed = reqwest::Client::new().delete(server.url(&one));
    let closed = closed.basic_auth("admin", Some(ADMIN_SECRET)).send().await;
    assert_eq!(closed.unwrap().status(), 204);
    assert_eq!(two.read_to_end(), Some(320));
}

#[actix_web::test]
async fn the_file_has_the_mode_and_goes_when_the_server_stops() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    for (mode, bits) in [("", 0o660), ("600", 0o600), ("0777", 0o777)] {
        let variables = [(SOCKET, path.to_str().unwrap()), (MODE, mode)];
        let mut server = Server::with(&variables).await;
        let file = path.symlink_metadata().unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, bits);
        assert!(server.terminate().await.success());
        assert!(!path.exists());
    }
}

#[actix_web::test]
async fn connections_are_told_when_the_server_stops() {
    let folder = TempDir::new().unwrap();
    let mut server = listening_at(&path_in(&folder)).await;
    let mut raw = Raw::open(relay(&path_in(&folder)), 0);
    let reader = std::thread::spawn(move || raw.read_to_end());
    assert!(server.terminate().await.success());
    assert_eq!(reader.join().unwrap(), Some(320));
}

#[actix_web::test]
async fn what_a_crash_left_is_removed_and_the_place_taken_again() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let mut server = listening_at(&path).await;
    server.kill();
    let refused = UnixStream::connect(&path).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let _again = listening_at(&path).await;
    assert!(Raw::login(relay(&path), "guest", "guest", 0).is_ok());
}

/// Starts a server that must not start, and returns what it says.
fn refusal(path: &Path, more: &[(&str, &str)]) -> String {
    let data_dir = Arc::new(TempDir::new().unwrap());
    let variables = [&[(SOCKET, path.to_str().unwrap())][..], more].concat();
    let done = command(data_dir.path(), &variables).arg("serve").output();
    let done = done.unwrap();
    assert!(!done.status.success());
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[actix_web::test]
async fn a_place_where_somebody_listens_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let _server = listening_at(&path).await;
    let said = refusal(&path, &[]);
    assert!(
        said.contains("amqp.unix_socket") && said.contains("somebody listens"),
        "{said}"
    );
    assert!(Raw::login(relay(&path), "guest", "guest", 0).is_ok());
}

/// Somebody who does not accept those who wait does listen.
#[test]
fn somebody_who_is_busy_listens_too() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let busy = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    busy.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let said = refusal(&path, &[]);
    assert!(said.contains("somebody listens"), "{said}");
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    std::fs::write(&path, "precious").unwrap();
    let said = refusal(&path, &[]);
    assert!(
        said.contains("amqp.unix_socket") && said.contains("no socket"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(refusal(&link, &[]).contains("no socket"));
    assert!(link.exists());
    let missing = folder.path().join("no/such/folder");
    assert!(refusal(&missing, &[]).contains("amqp.unix_socket"));
    let long = folder.path().join("x".repeat(120));
    assert!(refusal(&long, &[]).contains("amqp.unix_socket"));
}

#[test]
fn a_mode_that_is_none_names_its_key() {
    let folder = TempDir::new().unwrap();
    let said = refusal(&path_in(&folder), &[(MODE, "rw")]);
    assert!(
        said.contains("UNIX_SOCKET_MODE") && said.contains("octal"),
        "{said}"
    );
}

/// The file of a server that did not start for another reason goes again.
#[test]
fn a_start_that_fails_later_leaves_no_file() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refusal(&path, &[("BACKBONE_HTTP__BIND", &address)]);
    assert!(!path.exists());
}

#[actix_web::test]
async fn it_can_be_the_only_way_in() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let config = folder.path().join("backbone.toml");
    let text = format!("[amqp]\nbind = []\nunix_socket = \"{}\"\n", path.display());
    std::fs::write(&config, text).unwrap();
    let variables = [
        ("BACKBONE_AMQP__BIND", ""),
        ("BACKBONE_CONFIG", config.to_str().unwrap()),
    ];
    let server = Server::with(&variables).await;
    assert!(server.amqp.is_empty());
    assert!(Raw::login(relay(&path), "guest", "guest", 0).is_ok());
}

#[actix_web::test]
async fn the_limit_of_connections_counts_them() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let variables = [
        (SOCKET, path.to_str().unwrap()),
        ("BACKBONE_LIMITS__CONNECTIONS", "2"),
    ];
    let server = Server::with(&variables).await;
    let address = relay(&path);
    let _held = (Raw::open(address, 0), Raw::open(server.amqp[0], 0));
    let refused = Raw::login(address, "guest", "guest", 0).err();
    assert_eq!(refused.map(|close| close.0), Some(530));
}
