//! Numbers that a node gives out once: ids of queues in the first place, and whatever else has to differ.
//!
//! One for all vhosts, since the log knows queues by their ids alone. The log is told of ids long before they are
//! handed out ([`IDS_A_MARK`]), so that none is used again after a restart.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::definitions::Journal;
use crate::error::Error;

/// Ids of queues that are marked in the log as used at a time, long before they are: one small batch for so many.
pub(crate) const IDS_A_MARK: u64 = 1 << 16;

/// The numbers of a node.
pub(crate) struct Numbers {
    next: AtomicU64,
    /// The log says that numbers below this one may have been queues'.
    marked: Mutex<u64>,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicU64::new(1),
            marked: Mutex::new(0),
        }
    }

    /// A number that nothing in this process has.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The first of `count` ids in a row that no queue ever had.
    ///
    /// # Errors
    /// 541: the log has to be told of more, and takes nothing.
    pub(crate) fn queue_ids(&self, count: u64, journal: Option<&Journal>) -> Result<u64, Error> {
        let id = self.next.fetch_add(count, Ordering::Relaxed);
        if let Some(journal) = journal {
            let mut marked = self.marked.lock();
            if id + count > *marked {
                let next = id + count + IDS_A_MARK;
                journal.change(|change| change.define_queue_ids(next))?;
                *marked = next;
            }
        }
        Ok(id)
    }

    /// After a start that found ids below `used` in the log.
    ///
    /// # Errors
    /// 541: the log takes nothing.
    pub(crate) fn go_on_from(&self, used: u64, journal: &Journal) -> Result<(), Error> {
        self.next.fetch_max(used, Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed) + IDS_A_MARK;
        journal.change(|change| change.define_queue_ids(next))?;
        *self.marked.lock() = next;
        Ok(())
    }
}
