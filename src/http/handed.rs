//! Messages that are on their way to a reader over HTTP, until the connection has taken them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bus::{Lease, Received};

/// A reader that takes nothing for this long is given up: its messages go back.
pub(super) const STALL_MAX: Duration = Duration::from_secs(60);

/// The reader took too long; the connection ends without the end of the answer.
#[derive(Debug, thiserror::Error)]
#[error("the reader stalled, so its messages went back to the inbox")]
pub(super) struct Stalled;

/// Messages that are being written. Dropped before [`Handed::done`] they go back in order.
pub(super) struct Handed {
    held: Rc<Held>,
    /// Begins when they have been written; without it they are settled then.
    lease: Option<Lease>,
    /// Gives up a reader that stalls, if asked to.
    watch: Option<JoinHandle<()>>,
}

/// What is shared with the watch.
struct Held {
    /// `None` once the messages are settled or given back.
    received: RefCell<Option<Received>>,
    /// When the connection last asked for more.
    asked: Cell<Instant>,
}

impl Handed {
    pub fn new(received: Received, lease: Option<Lease>) -> Self {
        let held = Held {
            received: RefCell::new(Some(received)),
            asked: Cell::new(Instant::now()),
        };
        Self {
            held: Rc::new(held),
            lease,
            watch: None,
        }
    }

    /// From now on they go back if the connection does not ask for more for `stall_max`.
    pub fn watch(&mut self, stall_max: Duration) {
        let held = Rc::clone(&self.held);
        let watch = || actix_web::rt::spawn(watch(held, stall_max));
        self.watch.get_or_insert_with(watch);
    }

    /// The connection asks for more.
    pub fn asked(&self) {
        self.held.asked.set(Instant::now());
    }

    /// Shows the messages; an error if they went back.
    pub fn with<R>(&self, look: impl FnOnce(&Received, Option<&Lease>) -> R) -> Result<R, Stalled> {
        let received = self.held.received.borrow();
        let received = received.as_ref().ok_or(Stalled)?;
        Ok(look(received, self.lease.as_ref()))
    }

    /// They have been written: they are gone, or the reader's for a while.
    pub fn done(&mut self) -> Result<(), Stalled> {
        let received = self.held.received.take().ok_or(Stalled)?;
        match self.lease.take() {
            Some(lease) => received.lend(lease),
            None => received.settle(),
        }
        Ok(())
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        // The watch, which shares them, is gone a moment later only.
        self.held.received.take();
    }
}

/// Gives the messages back when the connection does not ask for more for `stall_max`.
async fn watch(held: Rc<Held>, stall_max: Duration) {
    loop {
        let deadline = held.asked.get() + stall_max;
        if deadline <= Instant::now() {
            held.received.take();
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}
