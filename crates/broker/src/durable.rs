//! What the broker asks of the durable log: levels, promises, and whom to tell when one is kept.
//!
//! A message that has to be durable is appended to the log by its publisher's commit, which gets a [`Promise`]
//! for it. Whoever owes somebody an answer (a confirm, a 200) waits for the promise with
//! [`Durable::wait`]: the log's threads ring its bell when the log has come so far. No timer, no polling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use backbone_log::Reason;
use backbone_log::{Batch, Health, Listener, Log, LogError};
use parking_lot::Mutex;

use crate::queue::Bell;

/// How safe a message is before its publisher hears that it is.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// In memory. A restart loses it.
    #[default]
    Memory,
    /// In the page cache: survives the end of the process, not that of the system.
    Written,
    /// On the disk: survives a power loss.
    Synced,
}

impl Level {
    /// All of them, the least safe first.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Written, Self::Synced];

    /// The name that configuration, arguments and pages have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Written => "written",
            Self::Synced => "synced",
        }
    }

    /// The level of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// What an answer has to wait for. Promises of one publisher grow: the later one holds all before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promise {
    /// Batch that has to be in the page cache; 0 for none.
    pub written: u64,
    /// Batch that has to be on the disk; 0 for none.
    pub synced: u64,
}

impl Promise {
    /// Nothing to wait for.
    pub const KEPT: Self = Self {
        written: 0,
        synced: 0,
    };

    /// That the batch `lsn` comes to `level`.
    pub fn new(lsn: u64, level: Level) -> Self {
        match level {
            Level::Memory => Self::KEPT,
            Level::Written => Self {
                written: lsn,
                synced: 0,
            },
            Level::Synced => Self {
                written: 0,
                synced: lsn,
            },
        }
    }

    /// This one and the other.
    pub fn and(self, other: Self) -> Self {
        Self {
            written: self.written.max(other.written),
            synced: self.synced.max(other.synced),
        }
    }

    fn kept_at(self, written: u64, synced: u64) -> bool {
        self.written <= written && self.synced <= synced
    }
}

/// Batches of settlements that are kept at most while the disk has no room for them.
const LATE_MAX: usize = 64 * 1024;

/// The durable log, with those who wait for it.
pub struct Durable {
    log: Log,
    waiting: Arc<Waiting>,
    /// Settlements for which there was no room, not even in the log's reserve.
    late: Mutex<Vec<Batch>>,
    has_late: AtomicBool,
}

#[derive(Default)]
struct Waiting(Mutex<Vec<(Promise, Arc<dyn Bell>)>>);

impl Durable {
    /// Around a log that is open; listens to it from now on.
    pub fn new(log: Log) -> Self {
        let waiting = Arc::<Waiting>::default();
        log.listen(Arc::<Waiting>::clone(&waiting));
        Self {
            log,
            waiting,
            late: Mutex::default(),
            has_late: AtomicBool::new(false),
        }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Whether a promise is kept.
    pub fn is_kept(&self, promise: Promise) -> bool {
        promise.kept_at(self.log.written(), self.log.synced())
    }

    /// Rings `bell` ([`Bell::progressed`]) once the promise is kept. True when it is already; the bell may ring all
    /// the same.
    pub fn wait(&self, promise: Promise, bell: &Arc<dyn Bell>) -> bool {
        if self.is_kept(promise) {
            return true;
        }
        self.waiting.0.lock().push((promise, Arc::clone(bell)));
        // Progress that was made before the lock was taken told nobody.
        self.is_kept(promise)
    }

    /// Why the log takes no messages, if so.
    pub fn trouble(&self) -> Option<Trouble> {
        match self.log.health() {
            Health::Open => None,
            Health::Full => Some(Trouble::Disk),
            Health::NoFiles => Some(Trouble::NoFiles),
            Health::Failed { .. } => Some(Trouble::LogFailed),
        }
    }

    /// Appends what must go whether or not the disk has room: settlements and definitions. After a failure of the log
    /// nothing is taken, and what was not settled comes back after the restart.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append(&self, batch: &mut Batch) -> Result<u64, LogError> {
        self.log.append(batch).map(|appended| appended.lsn)
    }

    /// Has the log forget all messages of a deleted queue. Called once nothing of it is in flight. If the log takes
    /// nothing, the next start does it.
    pub(crate) fn forget(&self, queue: u64) {
        let mut batch = Batch::new();
        let all = 0..u64::MAX;
        batch.settle(queue, std::slice::from_ref(&all), Reason::Purge);
        self.settle(&mut batch);
    }

    /// Tells the log what is done with; the number of its batch. What the disk has no room for is told later, or comes
    /// back with the restart: without it, what consumers take would never make room.
    pub(crate) fn settle(&self, batch: &mut Batch) -> Option<u64> {
        let lsn = self.settle_quietly(batch);
        self.log.wake();
        lsn
    }

    /// The same for who holds no lock: writes it as well, if that is quick.
    pub(crate) fn settle_and_write(&self, batch: &mut Batch) -> Option<u64> {
        let lsn = self.settle_quietly(batch);
        self.log.write_soon();
        lsn
    }

    fn settle_quietly(&self, batch: &mut Batch) -> Option<u64> {
        match self.log.append_quietly(batch) {
            Ok(appended) => {
                self.settle_late();
                Some(appended.lsn)
            }
            Err(LogError::Full) => {
                let mut late = self.late.lock();
                if late.len() < LATE_MAX {
                    late.push(std::mem::take(batch));
                    self.has_late.store(true, Ordering::Release);
                }
                None
            }
            Err(_) => None,
        }
    }

    /// Tells the log what it had no room for, if it has now.
    pub(crate) fn settle_late(&self) {
        if !self.has_late.load(Ordering::Acquire) {
            return;
        }
        let mut late = std::mem::take(&mut *self.late.lock());
        while let Some(batch) = late.last_mut()
            && self.append(batch).is_ok()
        {
            late.pop();
        }
        let mut kept = self.late.lock();
        kept.append(&mut late);
        self.has_late.store(!kept.is_empty(), Ordering::Release);
    }
}

/// Why publishers are blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Messages take more memory than they may.
    Memory,
    /// The log's disk has no room, or little; ends by itself.
    Disk,
    /// Both of these.
    MemoryAndDisk,
    /// The log can open no file for messages, since too many are open; ends by itself.
    NoFiles,
    /// The log could not write or sync; ends with a restart.
    LogFailed,
}

impl Trouble {
    /// The reason of `connection.blocked`, in the words of RabbitMQ where it has some.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Memory => "low on memory",
            Self::Disk => "low on disk",
            Self::MemoryAndDisk => "low on disk & memory",
            Self::NoFiles => "too many files are open",
            Self::LogFailed => "the log failed: restart the server",
        }
    }
}

impl Listener for Waiting {
    fn progressed(&self, written: u64, synced: u64) {
        let mut kept = Vec::new();
        self.0.lock().retain(|(promise, bell)| {
            let wait = !promise.kept_at(written, synced);
            if !wait {
                kept.push(Arc::clone(bell));
            }
            wait
        });
        for bell in kept {
            bell.progressed();
        }
    }

    /// Nobody knows how long it takes now: all look again, and are told why.
    fn health_changed(&self, _health: &Health) {
        let all = std::mem::take(&mut *self.0.lock());
        for (_, bell) in all {
            bell.progressed();
        }
    }
}
