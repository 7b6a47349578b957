//! The thread that looks how much room the disk has, and says when an alarm rises and falls.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use backbone_broker::durable::Trouble;
use backbone_broker::gate::Gate;

use super::Engine;
use crate::runtime::free_disk_bytes;

/// How fast a disk fills at worst, bytes a second: the less room there is, the sooner it looks again.
const FILLS_BYTES_S: u64 = 2 << 30;
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Starts the thread; it ends with the gate. It has looked once when this returns.
///
/// # Errors
/// No thread can be made.
pub fn start(gate: &Arc<Gate>, data_dir: &Path) -> std::io::Result<()> {
    let mut watch = Watch {
        gate: Arc::downgrade(gate),
        data_dir: data_dir.to_owned(),
        memory: false,
        disk: false,
    };
    watch.look();
    let run = move || {
        while let Some(pause) = watch.look() {
            // Nobody wakes it.
            thread::park_timeout(pause);
        }
    };
    let thread = thread::Builder::new().name("alarms".into());
    thread.spawn(run).map(drop)
}

struct Watch {
    gate: Weak<Gate>,
    data_dir: PathBuf,
    /// What was said last.
    memory: bool,
    disk: bool,
}

impl Watch {
    /// Looks. Returns how long until it should again; none: nobody wants to know any more.
    fn look(&mut self) -> Option<Duration> {
        let gate = self.gate.upgrade()?;
        // What cannot be asked is not known to be short.
        let free = free_disk_bytes(&self.data_dir).unwrap_or(u64::MAX);
        gate.tell_free_disk(free);
        let (_, min) = gate.disk_bytes();
        let disk = gate.is_short_of_disk();
        if disk != std::mem::replace(&mut self.disk, disk) {
            match disk {
                true => tracing::warn!(free, min, "alarm: low on disk, publishers wait"),
                false => tracing::warn!(free, min, "no alarm any more: room on the disk"),
            }
        }
        let memory = gate.is_short_of_memory();
        if memory != std::mem::replace(&mut self.memory, memory) {
            match memory {
                true => tracing::warn!("alarm: low on memory, publishers wait"),
                false => tracing::warn!("no alarm any more: memory"),
            }
        }
        let left = Duration::from_millis(free.saturating_sub(min) / (FILLS_BYTES_S / 1000));
        Some(left.clamp(LOOK_MIN, LOOK_MAX))
    }
}

impl Engine {
    /// What publishers wait for: `memory` or `disk`, which are short, or a `log` that failed.
    pub fn alarms(&self) -> Vec<&'static str> {
        let gate = &self.0.gate;
        let short = [
            ("memory", gate.is_short_of_memory()),
            ("disk", gate.is_short_of_disk()),
            ("log", gate.trouble() == Some(Trouble::LogFailed)),
        ];
        short
            .iter()
            .filter_map(|(resource, is)| is.then_some(*resource))
            .collect()
    }

    /// Why the server takes no messages, if so, in words for an operator. Memory is not among it: who consumes makes room.
    pub fn storage_trouble(&self) -> Option<String> {
        self.log_trouble().or_else(|| {
            let (free, min) = self.0.gate.disk_bytes();
            self.0.gate.is_short_of_disk().then(|| {
                format!(
                    "the disk has {free} bytes left, less than limits.disk_free_bytes ({min}) or not much more: publishers are \
                     blocked, consumers go on"
                )
            })
        })
    }
}
