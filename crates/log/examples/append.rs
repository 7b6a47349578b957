//! Measures appending at level `synced` on a real directory.
//!
//! ```sh
//! cargo run --release -p backbone-log --example append -- DIRECTORY [SECONDS] [direct]
//! ```
//!
//! One publisher keeps a window of unconfirmed messages: it appends what the window allows as one batch, as
//! a connection does at the end of its read buffer, and waits when the window is used up. `direct` goes past the
//! page cache.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "ranges are what is settled"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use backbone_log::disk::Mode;
use backbone_log::{Batch, Config, Disk, Listener, Log, RealDisk, Reason, Target};

/// Names, properties and prefix of a small AMQP message as the broker stores it.
const ENVELOPE_BYTES: usize = 12 + 5 + 15;
const BATCH_MESSAGES_MAX: u64 = 2000;

struct Publisher {
    synced: AtomicU64,
    thread: Thread,
}

impl Listener for Publisher {
    fn progressed(&self, _written: u64, synced: u64) {
        if self.synced.swap(synced, Ordering::AcqRel) != synced {
            self.thread.unpark();
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(directory) = arguments.first() else {
        eprintln!("usage: append DIRECTORY [SECONDS] [direct]");
        std::process::exit(2);
    };
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let seconds = arguments.get(1).and_then(|s| s.parse().ok()).unwrap_or(3);
    let duration = Duration::from_secs(seconds);
    println!("direct: {}", has("direct"));
    raw(directory, 100);
    raw(directory, 88 * 1000);
    raw(directory, 1084 * 1000);
    for (body, window) in [(16, 1), (1024, 1), (16, 1000), (1024, 1000)] {
        let path = format!("{directory}/append-{body}-{window}");
        let _ = std::fs::remove_dir_all(&path);
        run(&path, body, window, duration, has("direct"));
        let _ = std::fs::remove_dir_all(&path);
    }
}

/// What the disk does with a plain loop: write so many bytes behind each other into an allocated
/// file, sync, again.
fn raw(directory: &str, bytes: usize) {
    let disk = RealDisk::new(directory, false).expect("a directory");
    disk.create("raw", 64 << 20).expect("creates");
    let file = disk.open("raw", Mode::Buffered).expect("opens");
    let data = vec![7; bytes];
    let mut times = Vec::new();
    for n in 0..((60 << 20) / bytes).min(500) {
        let start = Instant::now();
        file.write_at(&data, (n * bytes) as u64).expect("writes");
        file.sync_data().expect("syncs");
        times.push(start.elapsed().as_micros());
    }
    times.sort_unstable();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("raw write and fdatasync of {bytes} bytes: p50 {p50} p99 {p99} µs");
    disk.remove("raw").expect("removes");
}

fn run(path: &str, body: usize, window: u64, duration: Duration, direct: bool) {
    let disk = Arc::new(RealDisk::new(path, direct).expect("a directory"));
    let (log, _) = Log::open(disk, Config::default(), |_| ()).expect("opens");
    let publisher = Arc::new(Publisher {
        synced: AtomicU64::new(0),
        thread: std::thread::current(),
    });
    log.listen(publisher.clone());
    let running = log.start(|trouble| eprintln!("{trouble}")).expect("starts");
    let payload = vec![7; ENVELOPE_BYTES + body];
    // The last message of each batch that is not confirmed yet.
    let mut unconfirmed: VecDeque<(u64, u64, Instant)> = VecDeque::new();
    let (mut sent, mut confirmed) = (0_u64, 0_u64);
    let mut latencies = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let synced = publisher.synced.load(Ordering::Acquire);
        let before = confirmed;
        while let Some((_, last, at)) = unconfirmed.pop_front_if(|(lsn, ..)| *lsn <= synced) {
            confirmed = last;
            latencies.push(at.elapsed().as_micros() as u32);
        }
        if confirmed > before {
            // What was confirmed is consumed at once.
            let mut acks = Batch::new();
            acks.settle(1, &[0..confirmed], Reason::Ack);
            log.append(&mut acks).expect("appends");
        }
        let room = (window - (sent - confirmed)).min(BATCH_MESSAGES_MAX);
        if room == 0 || (room < window / 4 && room < BATCH_MESSAGES_MAX) {
            std::thread::park();
            continue;
        }
        let mut batch = Batch::with_buffer(log.buffer());
        for seq in sent..sent + room {
            let target = Target { queue: 1, seq };
            batch.publish(&[target], false, |out| out.extend_from_slice(&payload));
        }
        sent += room;
        let appended = log.append(&mut batch).expect("appends");
        unconfirmed.push_back((appended.lsn, sent, Instant::now()));
    }
    let rate = confirmed as f64 / start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: f64| {
        latencies
            .get((latencies.len() as f64 * part) as usize)
            .copied()
    };
    println!(
        "{body:>5} B, window {window:>6}: {rate:>9.0} messages/s, confirm p50 {:?} p99 {:?} µs",
        at(0.5).unwrap_or(0),
        at(0.99).unwrap_or(0)
    );
    running.stop().expect("stops");
}
