//! A traced run of the real server at `synced`: each confirm is written to its socket after an `fdatasync` has
//! returned that began when the message's record was written.
//!
//! A crash test cannot show this, because the page cache outlives the process.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::Method;
use common::peer::{Peer, publish_persistent};
use common::small_disk::skip;
use common::{Server, command, directory_on_disk};

/// What is traced: everything that can write to a file or a socket, or sync.
const CALLS: &str = "trace=pwrite64,pwritev,pwritev2,fdatasync,fsync,write,writev,sendto,sendmsg,sync_file_range,msync,io_uring_enter";
const CONNECTIONS: usize = 2;
/// Publishes of one connection, in bursts of these sizes; the next burst waits for the confirms of the last.
const BURSTS: [u64; 8] = [1, 1, 1, 10, 100, 1, 300, 50];

/// A system call: the lines of the trace at which it began and returned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: String,
    /// The file's path, or the socket's two ends.
    target: String,
    data: Vec<u8>,
    began: usize,
    returned: usize,
    result: i64,
}

#[actix_web::test]
async fn each_confirm_follows_a_sync_that_covers_its_record() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace").unwrap_or_default();
    }
    let data_dir = directory_on_disk();
    let trace = data_dir.path().join("trace");
    let plain = command(data_dir.path(), &[]);
    let mut traced = Command::new("strace");
    // The tracer is the grandchild, so that the child is the server.
    traced
        .args([
            "-D", "-f", "-yy", "-xx", "-s", "10000000", "-e", CALLS, "-o",
        ])
        .arg(&trace)
        .arg(plain.get_program())
        .arg("serve")
        .env_clear()
        .current_dir(data_dir.path());
    for (name, value) in plain.get_envs() {
        traced.env(name, value.unwrap());
    }
    let mut server = Server::run(traced, data_dir.clone()).await;
    let mut ports = Vec::new();
    let mut peers: Vec<_> = (0..CONNECTIONS)
        .map(|_| Peer::publisher(server.amqp[0]))
        .collect();
    peers[0].declare("q", true).unwrap();
    for (connection, peer) in peers.iter_mut().enumerate() {
        ports.push(peer.local_port());
        let mut next = 1;
        for burst in BURSTS {
            let mut out = Vec::new();
            for number in next..next + burst {
                publish_persistent("", "q", &marker(connection, number), &mut out);
            }
            peer.send(&out).unwrap();
            peer.confirmed(next, next + burst - 1).unwrap();
            next += burst;
        }
    }
    drop(peers);
    server.terminate().await;
    let calls = read_trace(&trace, server.id()).await;
    for (connection, port) in ports.into_iter().enumerate() {
        check(&calls, connection, port);
    }
}

/// A body that is found in what is written.
fn marker(connection: usize, number: u64) -> Vec<u8> {
    format!("[message {number:08} of connection {connection}]").into_bytes()
}

/// Every confirm of a connection against the writes and syncs before it.
fn check(calls: &[Call], connection: usize, port: u16) {
    let total: u64 = BURSTS.iter().sum();
    let mut confirmed_at = HashMap::new();
    for (tag, multiple, at) in confirms(calls, port) {
        let first = if multiple { 1 } else { tag };
        for tag in first..=tag {
            confirmed_at.entry(tag).or_insert(at);
        }
    }
    assert_eq!(confirmed_at.len() as u64, total, "confirms in the trace");
    for number in 1..=total {
        let wanted = marker(connection, number);
        let written = calls
            .iter()
            .find(|call| call.target.contains(".segment") && contains(&call.data, &wanted))
            .unwrap_or_else(|| panic!("message {number} was never written to the log"));
        let synced = calls.iter().find(|call| {
            call.name == "fdatasync"
                && call.result == 0
                && call.target == written.target
                && call.began > written.returned
        });
        let synced = synced.unwrap_or_else(|| panic!("message {number} was never synced"));
        let confirmed = confirmed_at[&number];
        assert!(
            synced.returned < confirmed,
            "message {number} of connection {connection} was confirmed at line {confirmed} of the trace, \
             its sync returned at line {}",
            synced.returned
        );
    }
}

/// Delivery tags that were confirmed on the connection of a client's port: tag, multiple, and when the write began.
fn confirms(calls: &[Call], port: u16) -> Vec<(u64, bool, usize)> {
    let end = format!("127.0.0.1:{port}]");
    let mut bytes = Vec::new();
    let mut writes = Vec::new();
    for call in calls.iter().filter(|call| call.target.contains(&end)) {
        let taken = call.result.max(0) as usize;
        bytes.extend_from_slice(&call.data[..taken]);
        writes.push((bytes.len(), call.began));
    }
    let (mut at, mut found) = (0, Vec::new());
    while let Some((frame, used)) = frame::parse(&bytes[at..], 1 << 20).unwrap() {
        at += used;
        if frame.kind == FrameKind::Method
            && let Ok(Method::BasicAck(ack)) = Method::decode(frame.payload)
        {
            // The write that has the frame's last octet: before it, nobody can read the confirm.
            let (_, began) = writes.iter().find(|(end, _)| *end >= at).unwrap();
            found.push((ack.delivery_tag, ack.multiple, *began));
        }
    }
    found
}

fn contains(data: &[u8], wanted: &[u8]) -> bool {
    data.windows(wanted.len()).any(|window| window == wanted)
}

/// Reads the trace once it is complete.
async fn read_trace(path: &Path, server: u32) -> Vec<Call> {
    let since = Instant::now();
    let server = server.to_string();
    loop {
        let text = std::fs::read_to_string(path).unwrap();
        let is_end = |line: &str| {
            let mut words = line.split_whitespace();
            words.next() == Some(&server) && words.next() == Some("+++")
        };
        if text.lines().any(is_end) {
            return parse(&text);
        }
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "no end of the trace"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn parse(text: &str) -> Vec<Call> {
    let mut open: HashMap<&str, Call> = HashMap::new();
    let mut calls = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let Some((thread, rest)) = content.split_once(char::is_whitespace) else {
            continue;
        };
        let rest = rest.trim_start();
        if rest.starts_with("<... ") {
            let mut call = open.remove(thread).expect("a call that began");
            finish(&mut call, rest, line);
            calls.push(call);
        } else if let Some((name, arguments)) = rest.split_once('(')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            assert!(
                name != "io_uring_enter",
                "this trace cannot follow io_uring"
            );
            let mut call = begin(name, arguments, line);
            if rest.ends_with("<unfinished ...>") {
                open.insert(thread, call);
            } else {
                finish(&mut call, rest, line);
                calls.push(call);
            }
        }
    }
    // By when they began, for the order of octets on a socket.
    calls.sort_by_key(|call| call.began);
    calls
}

fn begin(name: &str, arguments: &str, line: usize) -> Call {
    let target = arguments.split_once('<').map_or("", |(_, after)| after);
    // A socket is `<TCP:[a->b]>`: its arrow is no end.
    let ends = [">, ", ">)", "> <unfinished"];
    let end = ends.iter().filter_map(|end| target.find(end)).min();
    let target = &target[..end.unwrap_or(target.len())];
    Call {
        name: name.to_owned(),
        target: text_of(target),
        data: strings(arguments),
        began: line,
        returned: usize::MAX,
        result: -1,
    }
}

fn finish(call: &mut Call, rest: &str, line: usize) {
    let result = rest.rsplit_once(" = ").map_or("", |(_, result)| result);
    let number = result.split_whitespace().next().unwrap_or_default();
    call.result = number.parse().unwrap_or(-1);
    call.returned = line;
}

/// All strings of the arguments one after the other: a vector of buffers is what it writes.
fn strings(arguments: &str) -> Vec<u8> {
    let quoted = arguments.split('"').skip(1).step_by(2);
    quoted.flat_map(unescape).collect()
}

/// Octets written as `\x41`; a path has them as well.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let octet = rest
            .strip_prefix("\\x")
            .and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        match octet {
            Some(octet) => {
                bytes.push(octet);
                rest = &rest[4..];
            }
            None => {
                bytes.extend_from_slice(first.to_string().as_bytes());
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    bytes
}

fn text_of(path: &str) -> String {
    String::from_utf8_lossy(&unescape(path)).into_owned()
}

#[test]
fn a_trace_is_read_with_calls_that_others_interrupt() {
    let text = "\
10 pwrite64(5</d/1.segment>, \"\\x41\\x42\", 2, 0) = 2
11 fdatasync(5</d/1.segment> <unfinished ...>
10 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\\x43\", 1, 0, NULL, 0) = 1
11 <... fdatasync resumed>) = 0
10 writev(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base=\"\\x44\", iov_len=1}, {iov_base=\"\\x45\", iov_len=1}], 2) = 2
10 +++ exited with 0 +++
";
    let calls = parse(text);
    let seen: Vec<_> = calls
        .iter()
        .map(|call| {
            let data = String::from_utf8_lossy(&call.data).into_owned();
            (
                call.name.as_str(),
                data,
                call.began,
                call.returned,
                call.result,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("pwrite64", "AB".to_owned(), 0, 0, 2),
            ("fdatasync", String::new(), 1, 3, 0),
            ("sendto", "C".to_owned(), 2, 2, 1),
            ("writev", "DE".to_owned(), 4, 4, 2),
        ]
    );
    assert_eq!(calls[1].target, "/d/1.segment");
    assert_eq!(calls[2].target, "TCP:[127.0.0.1:1->127.0.0.1:2]");
}
