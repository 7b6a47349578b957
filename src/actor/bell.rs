//! A coalescing wake-up: any thread rings, the actor wakes once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::WeakAddr;

use super::Actor;
use super::host::{Host, Wake};

/// Wakes an actor from any thread. Between a ring and the wake that follows it, further rings cost one
/// atomic swap and send nothing. A bell does not keep its actor alive; ringing a dead one does nothing.
pub struct Bell<A: Actor> {
    host: WeakAddr<Host<A>>,
    rung: Arc<AtomicBool>,
}

impl<A: Actor> Bell<A> {
    pub(super) fn new(host: WeakAddr<Host<A>>, rung: Arc<AtomicBool>) -> Self {
        Self { host, rung }
    }

    /// Makes the actor's [`Actor::woken`] run soon, after what happened before this call.
    pub fn ring(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(host) = self.host.upgrade() {
            // `rung` was false, so no other wake is in the mailbox: this one is the only one.
            #[allow(clippy::disallowed_methods)]
            host.do_send(Wake);
        }
    }
}

impl<A: Actor> Clone for Bell<A> {
    fn clone(&self) -> Self {
        Self {
            host: self.host.clone(),
            rung: Arc::clone(&self.rung),
        }
    }
}

impl<A: Actor> fmt::Debug for Bell<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell")
            .field("kind", &A::KIND)
            .field("rung", &self.rung.load(Ordering::Relaxed))
            .finish()
    }
}
