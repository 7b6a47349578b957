//! What the disk can do: how long an `fdatasync` takes, and how fast a large file is written.
//!
//! Both overwrite a file that was written before, as a log with recycled segments does: no file grows. The figures
//! belong beside those of a broker that promises that its messages are on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::confirms::histogram;
use crate::group_log::open_direct;
use crate::report::Percentiles;

/// Octets of a small write: a block.
const SMALL: usize = 4096;
/// Octets of a large one.
const LARGE: usize = 1 << 20;
/// Octets of the file, and of one that goes beside a run.
const FILE_SIZE: usize = 128 << 20;
const FILE_SIZE_BESIDE: usize = 4 << 20;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct DiskSpeed {
    /// From the write of 4 KiB to the end of its `fdatasync`.
    pub sync_us: Percentiles,
    /// Octets a second in direct writes of 1 MiB, in millions; through the page cache and synced where the file
    /// system has no direct writes.
    pub sequential_mb_per_s: Option<f64>,
}

/// Measures for about `duration` in `folder`, and leaves nothing there. With a `pause` after each sync it can go beside
/// a run that it is not to disturb: then there are no large writes.
///
/// # Errors
/// When the folder cannot be written to.
pub fn measure(folder: &Path, duration: Duration, pause: Duration) -> Result<DiskSpeed> {
    let path = folder.join(format!("disk-speed-{}", std::process::id()));
    let result = measure_in(&path, duration, pause);
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    result
}

fn measure_in(path: &Path, duration: Duration, pause: Duration) -> Result<DiskSpeed> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("making {}", path.display()))?;
    let size = match pause.is_zero() {
        true => FILE_SIZE,
        false => FILE_SIZE_BESIDE,
    };
    fill(&mut file, size)?;
    let mut took_ns = histogram();
    let (block, begin) = ([7; SMALL], Instant::now());
    let mut offset = 0;
    while begin.elapsed() < duration || took_ns.is_empty() {
        let start = Instant::now();
        file.write_all_at(&block, offset)?;
        file.sync_data()?;
        took_ns.saturating_record(start.elapsed().as_nanos() as u64);
        offset = (offset + SMALL as u64) % size as u64;
        if !pause.is_zero() {
            #[allow(
                clippy::disallowed_methods,
                reason = "the only thread, with nothing else to do"
            )]
            thread::sleep(pause);
        }
    }
    let sync_us = Percentiles::of(&took_ns).context("no sync was measured")?;
    let sequential_mb_per_s = match pause.is_zero() {
        true => Some(sequential(path, file)?),
        false => None,
    };
    Ok(DiskSpeed {
        sync_us,
        sequential_mb_per_s,
    })
}

fn fill(file: &mut File, size: usize) -> Result<()> {
    let zeros = vec![0; LARGE];
    for _ in 0..size / LARGE {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(())
}

fn sequential(path: &Path, file: File) -> Result<f64> {
    let file = open_direct(path).unwrap_or(file);
    let buffer = vec![7; 2 * LARGE];
    let aligned = buffer.as_ptr().align_offset(SMALL);
    let piece = &buffer[aligned..aligned + LARGE];
    let begin = Instant::now();
    for at in (0..FILE_SIZE).step_by(LARGE) {
        file.write_all_at(piece, at as u64)?;
    }
    file.sync_data()?;
    Ok(FILE_SIZE as f64 / begin.elapsed().as_secs_f64() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_and_cleans_up() {
        let folder =
            std::env::temp_dir().join(format!("backbone-perf-disk-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let length = Duration::from_millis(20);
        let speed = measure(&folder, length, Duration::ZERO).unwrap();
        assert!(speed.sync_us.count > 0 && speed.sync_us.p99 >= speed.sync_us.p50);
        assert!(speed.sequential_mb_per_s > Some(0.0));
        let beside = measure(&folder, length, Duration::from_millis(5)).unwrap();
        assert!((1..=4).contains(&beside.sync_us.count));
        assert_eq!(beside.sequential_mb_per_s, None);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}
