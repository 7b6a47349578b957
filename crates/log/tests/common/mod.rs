//! What the tests of this crate share.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backbone_log::{Appended, Batch, Config, Log, SimDisk, Target};

/// Tiny limits, so that everything happens early.
pub fn config() -> Config {
    Config {
        segment_bytes: 16 << 10,
        tail_bytes: 4 << 10,
        waiting_bytes_max: 8 << 10,
        cached_blocks_max: 2,
        block_bytes: 2 << 10,
        reserve_segments: 1,
        spare_segments_max: 2,
        copy_below_percent: 45,
        copy_bytes_a_step: 4 << 10,
        batch_bytes_max: 1 << 20,
    }
}

pub fn open(disk: &SimDisk) -> Log {
    Log::open(Arc::new(disk.clone()), config(), |_| ())
        .expect("opens")
        .0
}

pub fn try_publish(
    log: &Log,
    queue: u64,
    seq: u64,
    payload: &[u8],
) -> backbone_log::Result<Appended> {
    let mut batch = Batch::with_buffer(log.buffer());
    batch.publish(&[Target { queue, seq }], false, |out| {
        out.extend_from_slice(payload)
    });
    log.append(&mut batch)
}

pub fn publish(log: &Log, queue: u64, seq: u64, payload: &[u8]) -> Appended {
    try_publish(log, queue, seq, payload).expect("appends")
}

/// The payloads of a queue's messages, in order.
pub fn queue(log: &Log, queue: u64) -> Vec<Vec<u8>> {
    let located = log.load(queue, 0, 100_000).expect("loads");
    let payloads = located.into_iter().map(|located| {
        let chunk = log.read(located.position, located.len).expect("reads");
        let payload = chunk.get(located.position, located.len);
        payload.expect("it was read for this").to_vec()
    });
    payloads.collect()
}

/// Writes, syncs and keeps house until there is nothing left to do.
pub fn settle_down(log: &Log) {
    for _ in 0..1000 {
        let wrote = log.write_step().expect("writes");
        log.sync_step().expect("syncs");
        if !log.maintain().expect("keeps house") && !wrote {
            return;
        }
    }
    panic!("housekeeping does not end: {:?}", log.stats());
}

/// A directory below the build's own, removed at the end.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
