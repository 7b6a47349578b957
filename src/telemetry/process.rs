//! Metrics of the process and of the machine under it, read from `/proc` at scrape. What the system does
//! not tell is left out rather than shown as zero.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Samples, Source};

/// The source of these metrics; uptime counts from this call.
pub(super) fn source(data_dir: &Path) -> Source {
    let data_dir = data_dir.to_owned();
    let started = Instant::now();
    let started_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    Box::new(move |samples| sample(samples, &data_dir, started, started_unix_s))
}

fn sample(samples: &mut Samples, data_dir: &Path, started: Instant, started_unix_s: f64) {
    let version = env!("CARGO_PKG_VERSION");
    samples.gauge(
        "backbone_identity_info",
        "Which program this is",
        &[("version", version)],
        1.0,
    );
    let uptime = started.elapsed().as_secs_f64();
    samples.gauge(
        "backbone_uptime_seconds",
        "Time since the start",
        &[],
        uptime,
    );
    samples.gauge(
        "backbone_process_start_time_seconds",
        "Start, in seconds since 1970",
        &[],
        started_unix_s,
    );
    let mut gauge = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            samples.gauge(name, help, &[], value as f64);
        }
    };
    let now = ProcessNumbers::now(data_dir);
    gauge(
        "backbone_process_resident_memory_bytes",
        "Memory in use",
        now.resident_bytes,
    );
    gauge("backbone_process_threads", "Threads", now.threads);
    gauge(
        "backbone_process_open_fds",
        "Open file descriptors",
        now.open_fds,
    );
    gauge(
        "backbone_process_max_fds",
        "File descriptors that may be open",
        now.max_fds,
    );
    gauge(
        "backbone_disk_space_available_bytes",
        "Free space for data_dir",
        now.disk_free_bytes,
    );
}

/// What the system tells of this process and its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessNumbers {
    /// Memory in use, bytes.
    pub resident_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// File descriptors that are open.
    pub open_fds: Option<u64>,
    /// Those that may be.
    pub max_fds: Option<u64>,
    /// Free space for the data, bytes.
    pub disk_free_bytes: Option<u64>,
}

impl ProcessNumbers {
    /// Those of now.
    pub fn now(data_dir: &Path) -> Self {
        Self {
            resident_bytes: status_kib("VmRSS:").map(|kib| kib * 1024),
            threads: status_kib("Threads:"),
            open_fds: open_fds(),
            max_fds: max_fds(),
            disk_free_bytes: disk_available(data_dir),
        }
    }
}

/// The number behind `field` in `/proc/self/status`, in the unit that stands there (KiB for memory).
fn status_kib(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn open_fds() -> Option<u64> {
    // The directory being read is one descriptor itself.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Bytes that this process may still write to the file system of `path`, or of the nearest parent that exists.
fn disk_available(path: &Path) -> Option<u64> {
    let existing = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}
