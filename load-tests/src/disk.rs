//! What the disk can do: how long an `fdatasync` takes, and how fast a large file is written.
//!
//! Both overwrite a file that was written before, as a log with recycled segments does: no file grows. The figures
//! belong beside those of a broker that promises that its messages are on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
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
/// Octets of the file.
const FILE_SIZE: usize = 128 << 20;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct DiskSpeed {
    /// From the write of 4 KiB to the end of its `fdatasync`.
    pub sync_us: Percentiles,
    /// Octets a second in direct writes of 1 MiB, in millions; through the page cache and synced where the file
    /// system has no direct writes.
    pub sequential_mb_per_s: f64,
}

/// Measures for about `duration` in `folder`, and leaves nothing there.
///
/// # Errors
/// When the folder cannot be written to.
pub fn measure(folder: &Path, duration: Duration) -> Result<DiskSpeed> {
    let path = folder.join(format!("disk-speed-{}", std::process::id()));
    let result = measure_in(&path, duration);
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    result
}

fn measure_in(path: &Path, duration: Duration) -> Result<DiskSpeed> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("making {}", path.display()))?;
    fill(&mut file)?;
    let mut took_ns = histogram();
    let (block, begin) = ([7; SMALL], Instant::now());
    let mut offset = 0;
    while begin.elapsed() < duration || took_ns.is_empty() {
        let start = Instant::now();
        file.write_all_at(&block, offset)?;
        file.sync_data()?;
        took_ns.saturating_record(start.elapsed().as_nanos() as u64);
        offset = (offset + SMALL as u64) % FILE_SIZE as u64;
    }
    let sync_us = Percentiles::of(&took_ns).context("no sync was measured")?;
    let sequential_mb_per_s = sequential(path, file)?;
    Ok(DiskSpeed {
        sync_us,
        sequential_mb_per_s,
    })
}

fn fill(file: &mut File) -> Result<()> {
    let zeros = vec![0; LARGE];
    for _ in 0..FILE_SIZE / LARGE {
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
        let speed = measure(&folder, Duration::from_millis(20)).unwrap();
        assert!(speed.sync_us.count > 0 && speed.sync_us.p99 >= speed.sync_us.p50);
        assert!(speed.sequential_mb_per_s > 0.0);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}
