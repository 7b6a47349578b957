//! The fuzz targets' corpus, and random neighbours of it, through the targets' own entry functions.
//!
//! With `BACKBONE_LOG_WRITE_CORPUS=1` it is written anew.

#[path = "../../../fuzz/entries/log.rs"]
mod entry;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder(target)).expect("the corpus is checked in");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "the corpus of {target} is gone");
    let read = |path: PathBuf| std::fs::read(path).expect("reads");
    paths.into_iter().map(read).collect()
}

/// A record as `log_records` reads it.
fn record(kind: u8, flags: u8, count: u16, fields: &[&[u8]]) -> Vec<u8> {
    let fields = fields.concat();
    let mut record = vec![kind, flags];
    record.extend_from_slice(&count.to_le_bytes());
    record.extend_from_slice(&(fields.len() as u16).to_le_bytes());
    record.extend_from_slice(&fields);
    record
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn written_records() -> Vec<(&'static str, Vec<u8>)> {
    let publish = |seq: u64| record(1, 0, 2, &[b"hello", &words(&[7, seq, 8, seq])]);
    let define = record(5, 0x80, 0, &[&1_u32.to_le_bytes(), b"key"]);
    let at = |segment: u32, offset: u32, len: u32| {
        let reference = [segment, offset, len].map(u32::to_le_bytes).concat();
        record(
            3,
            2,
            1,
            &[&reference, &words(&[9, 1, 7, 1, 2]), &1_u16.to_le_bytes()],
        )
    };
    vec![
        ("publish", [publish(1), publish(2)].concat()),
        ("publish-numbers-at-the-end", publish(u64::MAX)),
        ("transient", record(1, 1, 1, &[b"gone", &words(&[7, 1])])),
        (
            "copy",
            [publish(1), record(2, 0, 1, &[b"hello", &words(&[7, 1])])].concat(),
        ),
        ("transfer", [publish(1), at(1, 4096 + 40 + 12, 5)].concat()),
        ("transfer-of-nothing", at(77, u32::MAX, u32::MAX)),
        (
            "settle",
            [publish(1), record(4, 1, 1, &[&words(&[7, 1, 2])])].concat(),
        ),
        (
            "settle-backwards",
            record(4, 9, 1, &[&words(&[7, u64::MAX, 0])]),
        ),
        (
            "delete-queue",
            [publish(1), record(4, 3, 1, &[&words(&[7, 0, u64::MAX])])].concat(),
        ),
        (
            "define-and-remove",
            [define, record(6, 0x80, 0, &[b"key"]), publish(3)].concat(),
        ),
        (
            "unknown-kind",
            [publish(1), record(99, 0, 1, &[b"?"]), publish(2)].concat(),
        ),
        (
            "count-beyond-the-record",
            record(1, 0, u16::MAX, &[b"short"]),
        ),
    ]
}

fn written_segments() -> Vec<(&'static str, Vec<u8>)> {
    let records = written_records().into_iter();
    let ended = records.take(7).map(|(_, mut record)| {
        // Each a batch of its own.
        record[1] |= 0x80;
        record
    });
    let sound = entry::batches(&ended.collect::<Vec<_>>().concat());
    let damaged = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0xff;
        bytes
    };
    vec![
        ("damaged-header", damaged(9)),
        ("damaged-record", damaged(60)),
        ("damaged-second-batch", damaged(180)),
        ("cut-off", sound[..100].to_vec()),
        ("at-the-next-block", [&sound[..], &[1; 4096 - 40]].concat()),
        ("sound", sound),
    ]
}

fn write(target: &str, files: Vec<(&str, Vec<u8>)>) {
    std::fs::create_dir_all(folder(target)).expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder(target).join(name), bytes).expect("writes");
    }
}

#[test]
fn every_prefix_of_the_corpus_passes() {
    if std::env::var_os("BACKBONE_LOG_WRITE_CORPUS").is_some() {
        write("log_records", written_records());
        write("log_segment", written_segments());
    }
    for bytes in corpus("log_records") {
        (0..=bytes.len()).for_each(|end| entry::log_records(&bytes[..end]));
    }
    for bytes in corpus("log_segment") {
        let ends = (0..=bytes.len()).step_by(37);
        ends.for_each(|end| entry::log_segment(&bytes[..end]));
        entry::log_segment(&bytes);
    }
}

fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (proptest::sample::select(corpus(target)), edits).prop_map(|(mut bytes, edits)| {
        for (at, octet) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = octet;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn damaged_records_pass(data in damaged("log_records")) {
        entry::log_records(&data);
    }

    #[test]
    fn damaged_segments_pass(data in damaged("log_segment")) {
        entry::log_segment(&data);
    }
}
