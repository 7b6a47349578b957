//! Runs a workload: `hot_path --list`, or `hot_path NAME BATCHES`.
//!
//! Prints the wall-clock time of a message, which is worth something on a quiet machine only;
//! `scripts/instructions` runs it under valgrind, where nobody looks at that line.

use std::process::ExitCode;
use std::time::Instant;

use backbone_benches::{WORKLOADS, Workload, find};

/// Batches that run before the clock is looked at: buffers have their size after them.
const WARM_UP_BATCHES: u64 = 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--list"] => {
            for workload in WORKLOADS {
                println!("{} {}", workload.name, workload.batch);
            }
            ExitCode::SUCCESS
        }
        [name, batches] => match (find(name), batches.parse()) {
            (Some(workload), Ok(batches)) => {
                run(workload, batches);
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

fn run(workload: &Workload, batches: u64) {
    let mut batch = (workload.make)();
    for _ in 0..WARM_UP_BATCHES {
        batch();
    }
    let started = Instant::now();
    for _ in 0..batches {
        batch();
    }
    let messages = batches * workload.batch as u64;
    let nanoseconds = started.elapsed().as_nanos() as f64 / messages.max(1) as f64;
    println!("{:32} {nanoseconds:8.1} ns/message", workload.name);
}

fn usage() -> ExitCode {
    eprintln!("usage: hot_path --list      names, and messages in a batch");
    eprintln!("       hot_path NAME BATCHES");
    ExitCode::from(2)
}
