//! What the machine gives: memory, room on disks and a name.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// The share of the machine's memory that is used when nothing is configured.
const SHARE_PERCENT: u64 = 60;
/// Taken when the system does not tell how much memory there is, bytes.
const UNKNOWN_MEMORY_BYTES: u64 = 1024 * 1024 * 1024;

/// The memory above which publishers are paused, bytes: `configured` (`limits.memory_bytes`), or when that is 0
/// a share of the machine's memory or of the container's, whichever is less.
pub fn memory_limit_bytes(configured: u64) -> u64 {
    if configured > 0 {
        return configured;
    }
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_bytes(&text));
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let memory = [machine, container]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(UNKNOWN_MEMORY_BYTES);
    memory / 100 * SHARE_PERCENT
}

/// What this server is called among others: `backbone@` and the machine's name.
pub fn node_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match host.trim() {
            "" => "backbone@localhost".to_owned(),
            host => format!("backbone@{host}"),
        }
    })
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// How much room the disk of `path` has for us, bytes.
///
/// # Errors
/// The system does not tell.
pub fn free_disk_bytes(path: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail * disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_as_configured_or_a_share_of_what_there_is() {
        assert_eq!(memory_limit_bytes(5), 5);
        assert!(memory_limit_bytes(0) > 0);
        assert_eq!(
            total_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n"),
            Some(2 * 1024 * 1024)
        );
        assert_eq!(total_bytes("nothing"), None);
    }
}
