//! The files of format version 1 can be read for ever.
//!
//! `fixtures/version-1` was written by this test with `BACKBONE_LOG_WRITE_FIXTURE=1`; each later format gets
//! a directory of its own beside it.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backbone_log::{Batch, Disk, Log, Reason, Record, SimDisk, Source, Survey, Target};

use common::{open, publish, queue, settle_down};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1")
}

/// Every kind of record; a checkpoint, index files, a segment behind the checkpoint with a torn end.
fn write(disk: &SimDisk) {
    let log = open(disk);
    for seq in 0..30 {
        publish(&log, 1, seq, &[seq as u8; 600]);
    }
    let mut batch = Batch::new();
    batch.define(b"queue/1", b"orders");
    batch.define(b"queue/2", b"bills");
    batch.remove(b"queue/2");
    batch.settle(1, &[0..10, 11..12], Reason::Ack);
    log.append(&mut batch).expect("appends");
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    let located = log.resolve(1, 20).expect("looks").expect("is there");
    let mut batch = Batch::new();
    let source = |seq| Source {
        queue: 1,
        seqs: seq..seq + 1,
    };
    let target = |seq| Target { queue: 3, seq };
    batch.transfer_at(&[source(20)], &[target(0)], located.position, located.len);
    batch.transfer_with(&[source(21)], &[target(1)], |out| {
        out.extend_from_slice(b"changed")
    });
    batch.publish(&[target(2), Target { queue: 1, seq: 30 }], false, |out| {
        out.extend_from_slice(b"both");
    });
    batch.publish(&[target(3)], true, |out| {
        out.extend_from_slice(b"transient")
    });
    batch.define(b"queue/3", b"archive");
    log.append(&mut batch).expect("appends");
    log.write_step().expect("writes");
    log.sync_step().expect("syncs");
    let torn = publish(&log, 1, 31, b"torn");
    log.write_step().expect("writes");
    disk.damage(
        &format!("{:08x}.segment", torn.segment),
        torn.offset as usize + 60,
    );
}

fn check(log: &Log) {
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for seq in (10..30).filter(|seq| ![11, 20, 21].contains(seq)) {
        wanted.push(vec![seq; 600]);
    }
    wanted.push(b"both".to_vec());
    assert_eq!(queue(log, 1), wanted);
    assert_eq!(queue(log, 3), [&[20; 600][..], b"changed", b"both"]);
    let definitions: Vec<_> = log.definitions();
    let definitions: Vec<(&[u8], &[u8])> = definitions.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        definitions,
        [(&b"queue/1"[..], &b"orders"[..]), (b"queue/3", b"archive")]
    );
    let next: Vec<(u64, u64)> = log.queues().iter().map(|q| (q.queue, q.next)).collect();
    assert_eq!(next, [(1, 31), (3, 3)]);
}

/// The checked-in files on a disk of their own.
fn fixture() -> SimDisk {
    let disk = SimDisk::new();
    let entries = std::fs::read_dir(directory()).expect("the fixture is checked in");
    for entry in entries.map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("a plain name");
        disk.put(&name, std::fs::read(entry.path()).expect("reads"));
    }
    disk
}

#[test]
fn version_1_is_verified_and_shown() {
    let disk = fixture();
    disk.set_read_only(true);
    let survey = Survey::open(Arc::new(disk), |_| ()).expect("opens");
    assert_eq!(survey.verify(|_| ()).expect("reads"), []);
    assert!(survey.recovered().torn);
    assert_eq!(
        (survey.indexes(), survey.checkpoints().expect("reads").len()),
        (1, 2)
    );
    let queues: Vec<_> = survey.queues().iter().map(|q| (q.queue, q.live)).collect();
    assert_eq!(queues, [(1, 18), (3, 3)]);
    let mut kinds = [0; 6];
    let walked = survey.records(|found| {
        kinds[match found.record {
            Record::Publish { copy: false, .. } => 0,
            Record::Publish { copy: true, .. } => 1,
            Record::Transfer { .. } => 2,
            Record::Settle { .. } | Record::SettleMany { .. } => 3,
            Record::Define { .. } => 4,
            Record::Remove { .. } => 5,
        }] += 1;
        ControlFlow::Continue(())
    });
    walked.expect("reads");
    println!("{kinds:?}");
    assert!(
        kinds
            .iter()
            .enumerate()
            .all(|(kind, count)| *count > 0 || kind == 1),
        "{kinds:?}"
    );
}

#[test]
fn version_1_opens() {
    if std::env::var_os("BACKBONE_LOG_WRITE_FIXTURE").is_some() {
        let disk = SimDisk::new();
        write(&disk);
        std::fs::create_dir_all(directory()).expect("a directory");
        for name in disk.list().expect("lists") {
            if !name.ends_with(".spare") {
                let content = disk.content(&name).expect("is there");
                std::fs::write(directory().join(name), content).expect("writes");
            }
        }
    }
    let disk = fixture();
    let log = open(&disk);
    check(&log);
    // And it goes on from there.
    settle_down(&log);
    publish(&log, 1, 31, b"more");
    settle_down(&log);
    drop(log);
    let log = open(&disk.after_power_loss(1));
    assert_eq!(queue(&log, 1).last().expect("some"), b"more");
}

#[test]
fn another_version_is_refused_by_name_and_nothing_is_touched() {
    // Where the version stands in each kind of file, and where the checksum over it and what else.
    let kinds = [("segment", 32..36), ("checkpoint", 40..44)];
    for (ending, crc) in kinds {
        let disk = fixture();
        let names = disk.list().expect("lists");
        let ours = names.iter().filter(|name| name.ends_with(ending));
        let name = ours.max().expect("one").clone();
        let mut content = disk.content(&name).expect("is there");
        content[8] = 2;
        let mut sum = crc32c::crc32c(&content[..crc.start]);
        if ending == "checkpoint" {
            sum = crc32c::crc32c_append(sum, &content[crc.end..]);
        }
        content[crc].copy_from_slice(&sum.to_le_bytes());
        disk.put(&name, content);
        disk.set_read_only(true);
        let calls = disk.calls();
        let opened = Log::open(Arc::new(disk.after_kill()), common::config(), |_| ());
        let looked = Survey::open(Arc::new(disk.after_kill()), |_| ());
        for refused in [opened.err(), looked.err()] {
            let refused = refused.expect("is refused").to_string();
            let wanted = format!("{name} has format version 2, this is version 1");
            assert_eq!(refused, wanted);
        }
        assert_eq!((disk.calls(), disk.list().expect("lists")), (calls, names));
    }
}
