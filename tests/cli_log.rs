//! `backbone log` on directories of a server that does not run.

// What fails here fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use backbone_log::{Batch, Config, Log, RealDisk, Reason, Target};
use serde_json::Value;
use tempfile::TempDir;

fn open(data_dir: &Path) -> Log {
    let disk = RealDisk::new(data_dir.join("log"), false).unwrap();
    let config = Config {
        segment_bytes: 64 << 10,
        ..Config::default()
    };
    Log::open(Arc::new(disk), config, |_| ()).unwrap().0
}

/// A queue with a name and one without, in two segments.
fn fill(data_dir: &Path) {
    let log = open(data_dir);
    let mut batch = Batch::new();
    batch.define(
        b"q/7",
        br#"{"id":7,"vhost":"/","name":"orders","level":"synced"}"#,
    );
    log.append(&mut batch).unwrap();
    for seq in 0..100 {
        let targets = [Target { queue: 7, seq }, Target { queue: 8, seq }];
        batch.publish(&targets, false, |out| out.extend_from_slice(&[b'x'; 900]));
        log.append(&mut batch).unwrap();
        log.write_step().unwrap();
        log.sync_step().unwrap();
    }
    batch.settle(7, std::slice::from_ref(&(0..40)), Reason::Ack);
    log.append(&mut batch).unwrap();
    log.checkpoint().unwrap();
}

fn backbone(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = common::command(data_dir, &[]);
    command.arg("log").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_sound_log_is_verified_and_counted() {
    let dir = TempDir::new().unwrap();
    fill(dir.path());
    let verified = backbone(dir.path(), &["verify"]);
    let said = text(&verified.stdout);
    assert!(
        verified.status.success() && said.ends_with("all sound\n"),
        "{said}"
    );
    let report = json(&backbone(dir.path(), &["verify", "--json"]));
    assert_eq!(report["sound"], true);
    assert_eq!(report["damages"].as_array().unwrap().len(), 0);
    let stats = json(&backbone(dir.path(), &["stats", "--json"]));
    let queue = &stats["queues"][0];
    assert_eq!(
        (&queue["id"], &queue["name"]),
        (&7.into(), &"orders".into())
    );
    let numbers = ["live", "low", "next"].map(|field| queue[field].as_u64().unwrap());
    assert_eq!(numbers, [60, 40, 100]);
    assert_eq!(stats["queues"][1]["live"], 100);
    assert_eq!(stats["last_batch"], 102);
    assert!(stats["segments"].as_array().unwrap().len() >= 2);
    assert!(stats["live_bytes"].as_u64().unwrap() >= 90_000);
    let shown = text(&backbone(dir.path(), &["stats"]).stdout);
    assert!(shown.contains(r#"7 ("orders" in "/")"#), "{shown}");
}

#[test]
fn damage_is_named_with_its_place_and_its_queues_and_the_exit_code_says_so() {
    let dir = TempDir::new().unwrap();
    fill(dir.path());
    let shown = text(&backbone(dir.path(), &["inspect"]).stdout);
    let line = shown.lines().find(|line| line.contains(" 7/20 ")).unwrap();
    let mut words = line.split(' ');
    let (file, offset) = (words.next().unwrap(), words.next().unwrap());
    let path = dir.path().join("log").join(file);
    let mut content = std::fs::read(&path).unwrap();
    content[offset.parse::<usize>().unwrap() + 100] ^= 1;
    std::fs::write(&path, content).unwrap();
    let verified = backbone(dir.path(), &["verify"]);
    assert_eq!(verified.status.code(), Some(1));
    let said = text(&verified.stdout);
    let damage = said.lines().next().unwrap();
    // What queue 7 had there is settled.
    assert!(
        damage.starts_with(file) && damage.ends_with("messages: 8"),
        "{said}"
    );
    assert!(text(&verified.stderr).contains("1 places"), "{verified:?}");
    let report = json(&backbone(dir.path(), &["verify", "--json"]));
    assert_eq!(
        (&report["sound"], &report["damages"][0]["file"]),
        (&false.into(), &file.into())
    );
    assert_eq!(report["damages"][0]["queues"][0]["id"], 8);
}

#[test]
fn records_are_shown_without_bodies_by_queue_and_up_to_a_limit() {
    let dir = TempDir::new().unwrap();
    fill(dir.path());
    let all = text(&backbone(dir.path(), &["inspect"]).stdout);
    assert_eq!(all.lines().count(), 102);
    assert!(!all.contains("xxx"));
    assert!(
        all.starts_with("00000001.segment 4136 ") && all.contains(": define q/7 ("),
        "{all}"
    );
    assert!(
        all.contains("batch 2: publish 900 bytes to 7/0 8/0\n"),
        "{all}"
    );
    let of_8 = text(&backbone(dir.path(), &["inspect", "--queue", "8"]).stdout);
    assert_eq!(of_8.lines().count(), 100);
    let of_7 = text(&backbone(dir.path(), &["inspect", "--queue", "7"]).stdout);
    assert!(of_7.ends_with(": settle (ack) 7/0..40\n"), "{of_7}");
    let some = text(&backbone(dir.path(), &["inspect", "--limit", "3"]).stdout);
    assert_eq!(some.lines().count(), 3);
}

#[test]
fn a_log_in_use_or_missing_is_said_to_be() {
    let dir = TempDir::new().unwrap();
    let missing = backbone(dir.path(), &["stats"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("there is no log in"),
        "{missing:?}"
    );
    assert!(!dir.path().join("log").exists());
    let _log = open(dir.path());
    for verb in ["inspect", "verify", "stats"] {
        let refused = backbone(dir.path(), &[verb]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            text(&refused.stderr).contains("stop it first"),
            "{refused:?}"
        );
    }
}
