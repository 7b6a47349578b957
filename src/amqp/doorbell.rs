//! How other threads get a connection's attention.
//!
//! Ringing is cheap and never blocks: the first ring of a batch wakes the connection's task, the
//! rest only leave their key.

use std::task::{Context, Poll};

use backbone_broker::queue::Bell;

use super::connections::Asker;
use super::sync::{AtomicBool, AtomicWaker, Mutex, Ordering};

/// The bell of one connection.
#[derive(Default)]
pub struct Doorbell {
    news: Mutex<News>,
    rung: AtomicBool,
    waker: AtomicWaker,
}

/// What was left at the door.
#[derive(Default)]
pub(super) struct News {
    /// Consumers that messages wait for.
    pub rung: Vec<u64>,
    /// Consumers whose queue is gone.
    pub cancelled: Vec<u64>,
    /// What was waited for in the log has come, or may not come.
    pub progressed: bool,
    /// What people want of it, which is rare.
    pub wishes: Option<Box<Wishes>>,
}

/// What people want of a connection.
#[derive(Default)]
pub(super) struct Wishes {
    /// It is to be closed, for this reason.
    pub close: Option<String>,
    /// They want to know what it says of itself.
    pub askers: Vec<Asker>,
}

impl Doorbell {
    /// Asks the connection to close itself, telling its peer the reason behind `CONNECTION_FORCED - ` (320).
    pub fn close(&self, reason: &str) {
        self.leave(|news| news.wishes.get_or_insert_default().close = Some(reason.to_owned()));
    }

    /// Asks the connection what it says of itself.
    pub(super) fn ask(&self, asker: Asker) {
        self.leave(|news| news.wishes.get_or_insert_default().askers.push(asker));
    }

    /// Ready once something was left since the last time. `take` it then.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // A ring may have come before the registration.
        if self.rung.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Moves what was left into `news`, which must be empty.
    pub(super) fn take(&self, news: &mut News) {
        if self.rung.swap(false, Ordering::AcqRel) {
            std::mem::swap(&mut *self.news.lock(), news);
        }
    }

    fn leave(&self, note: impl FnOnce(&mut News)) {
        note(&mut self.news.lock());
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Bell for Doorbell {
    fn ring(&self, key: u64) {
        self.leave(|news| news.rung.push(key));
    }

    fn ring_all(&self, keys: &mut dyn Iterator<Item = u64>) {
        self.leave(|news| news.rung.extend(keys));
    }

    fn cancelled(&self, key: u64) {
        self.leave(|news| news.cancelled.push(key));
    }

    fn progressed(&self) {
        self.leave(|news| news.progressed = true);
    }
}
