//! Measures a backlog on a real directory: filling, memory, opening after an end without warning, draining.
//!
//! ```sh
//! cargo run --release -p backbone-log --example backlog -- DIRECTORY MESSAGES [BODY_BYTES]
//! ```

#![allow(
    clippy::single_range_in_vec_init,
    reason = "ranges are what is settled"
)]

use std::sync::Arc;
use std::time::Instant;

use backbone_log::{Batch, Chunk, Config, Log, RealDisk, Reason, Target};

const ENVELOPE_BYTES: usize = 12 + 5 + 15;
const BATCH: u64 = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, messages, ..] = &arguments[..] else {
        eprintln!("usage: backlog DIRECTORY MESSAGES [BODY_BYTES]");
        std::process::exit(2);
    };
    let count: u64 = messages.parse().expect("a number of messages");
    let body = arguments
        .get(2)
        .map_or(100, |b| b.parse().expect("a number of bytes"));
    let path = format!("{directory}/backlog");
    let _ = std::fs::remove_dir_all(&path);
    println!(
        "{count} messages of {body} B; resident {} MB at the beginning",
        resident_mb()
    );
    fill(&path, count, &vec![7; ENVELOPE_BYTES + body]);
    let start = Instant::now();
    let log = open(&path);
    let opened = start.elapsed();
    let stats = log.stats();
    println!(
        "opened without a clean end in {opened:?}; {} segments; resident {} MB",
        stats.segments,
        resident_mb()
    );
    drain(&log, count);
    drop(log);
    let _ = std::fs::remove_dir_all(&path);
}

fn open(path: &str) -> Log {
    let disk = Arc::new(RealDisk::new(path, false).expect("a directory"));
    let (log, recovered) = Log::open(disk, Config::default(), |_| ()).expect("opens");
    println!("replayed {} batches", recovered.replayed);
    log
}

fn fill(path: &str, count: u64, payload: &[u8]) {
    let log = open(path);
    let running = log.start(|trouble| eprintln!("{trouble}")).expect("starts");
    let start = Instant::now();
    let mut seq = 0;
    while seq < count {
        let mut batch = Batch::with_buffer(log.buffer());
        for seq in seq..seq + BATCH {
            let target = Target { queue: 1, seq };
            batch.publish(&[target], false, |out| out.extend_from_slice(payload));
        }
        seq += BATCH;
        if log.append(&mut batch).expect("appends").over {
            while log.waiting_bytes() > Config::default().waiting_bytes_max / 2 {
                std::thread::yield_now();
            }
        }
    }
    while log.synced() < log.appended() {
        std::thread::yield_now();
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!(
        "filled at {rate:.0} messages/s, synced; resident {} MB",
        resident_mb()
    );
    drop(running);
}

fn drain(log: &Log, count: u64) {
    let running = log.start(|trouble| eprintln!("{trouble}")).expect("starts");
    let start = Instant::now();
    let (mut next, mut chunk, mut bytes): (u64, Option<Chunk>, usize) = (0, None, 0);
    loop {
        let portion = log.load(1, next, 1000).expect("loads");
        let Some(last) = portion.last() else { break };
        for located in &portion {
            let held = chunk.take();
            let held = held.filter(|c| c.get(located.position, located.len).is_some());
            let here =
                held.unwrap_or_else(|| log.read(located.position, located.len).expect("reads"));
            bytes += here
                .get(located.position, located.len)
                .expect("is there")
                .len();
            chunk = Some(here);
        }
        let mut acks = Batch::new();
        acks.settle(1, &[next..last.seq + 1], Reason::Ack);
        next = last.seq + 1;
        log.append(&mut acks).expect("appends");
    }
    assert_eq!(next, count.next_multiple_of(BATCH));
    let rate = next as f64 / start.elapsed().as_secs_f64();
    println!(
        "drained at {rate:.0} messages/s ({bytes} bytes); resident {} MB",
        resident_mb()
    );
    running.stop().expect("stops");
    println!("at the end: {:?}", log.stats());
}

fn resident_mb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096 / 1_000_000
}
