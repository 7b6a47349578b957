//! The actor kit: everything the project uses of actix's actors, and the only place that names them.
//!
//! It owns starting an actor on a chosen arbiter, its bounded mailbox, questions with a deadline,
//! supervision, and the metrics of each kind of actor. Domains write an [`Actor`] (one message enum,
//! one synchronous handler) and hold a [`Handle`]. Actors own configuration, life and time-driven
//! work; hot messages do not travel through mailboxes one by one, they stay in queues and the actor is
//! woken by a [`Bell`].
//!
//! Invariants:
//! - A mailbox never holds more than its capacity: each message carries a credit that is given back
//!   when the actor takes the message. A sender without credit waits or is refused, it never queues.
//! - A panic in an actor costs the message that was being handled and nothing else: the actor is made
//!   anew by its factory after a back-off, the mailbox waits meanwhile. An actor that panics more
//!   often than its [`Supervision`] allows is given up, and its handle says [`SendError::Dead`].
//! - However often a bell rings, at most one wake message is in the mailbox.
//! - An actor handles at most [`MESSAGES_PER_TURN`] messages before other tasks of its arbiter run.

mod bell;
mod context;
mod handle;
mod host;
mod metrics;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use actix_rt::ArbiterHandle;

pub use bell::Bell;
pub use context::Context;
pub use handle::{AskError, Handle, Reply, SendError};
pub use metrics::{KindMetrics, KindSnapshot, kinds, snapshot};

/// Messages that an actor handles in one go before it lets other tasks of its arbiter run.
pub const MESSAGES_PER_TURN: u32 = 64;

/// A party with its own state, a mailbox and a supervised life.
///
/// All methods run on the actor's arbiter, one at a time, and must not block: longer work goes
/// through [`Context::wait`].
pub trait Actor: Sized + Unpin + 'static {
    /// Everything that can be said to this actor; questions carry a [`Reply`].
    type Message: Send + 'static;

    /// Name of the kind in metrics and logs, for example `bus_client`.
    const KIND: &'static str;

    /// Runs first in each life, also after a restart.
    fn started(&mut self, ctx: &mut Context<'_, Self>) {
        let _ = ctx;
    }

    /// Handles one message.
    fn handle(&mut self, message: Self::Message, ctx: &mut Context<'_, Self>);

    /// Runs after a [`Bell`] of this actor rang, once for any number of rings, and after a restart.
    /// Should do a bounded amount of work and ask for another turn if there is more.
    fn woken(&mut self, ctx: &mut Context<'_, Self>) -> Turn {
        let _ = ctx;
        Turn::Done
    }

    /// Runs last in an orderly stop; not after a panic.
    fn stopped(&mut self) {}
}

/// What [`Actor::woken`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is left to do until the next ring.
    Done,
    /// There is more: call again after messages and other tasks had their turn.
    More,
}

/// How an actor that panics is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supervision {
    /// Pause before the first restart; doubles with each further panic inside the window.
    pub backoff_min: Duration,
    /// Upper bound of the pause.
    pub backoff_max: Duration,
    /// Panics inside `window` after which the actor is given up.
    pub restarts_max: u32,
    /// Length of quiet life after which earlier panics are forgotten.
    pub window: Duration,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(5),
            restarts_max: 20,
            window: Duration::from_secs(60),
        }
    }
}

/// Where and how an actor is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// The arbiter (thread) on which the actor lives.
    pub arbiter: ArbiterHandle,
    /// Messages that the mailbox holds at most; at least one.
    pub capacity: usize,
    /// What happens after a panic.
    pub supervision: Supervision,
}

impl Start {
    /// Mailbox capacity unless told otherwise, messages.
    pub const CAPACITY_DEFAULT: usize = 64;

    /// The default mailbox and supervision on `arbiter`.
    pub fn on(arbiter: ArbiterHandle) -> Self {
        Self {
            arbiter,
            capacity: Self::CAPACITY_DEFAULT,
            supervision: Supervision::default(),
        }
    }

    /// Sets the mailbox's capacity, messages; zero counts as one.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages.max(1);
        self
    }

    /// Sets what happens after a panic.
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.supervision = supervision;
        self
    }
}

/// Starts an actor and returns at once. `factory` makes the actor on its arbiter, now and after each
/// panic; it should capture what must outlive a panic (shared state), not copy it.
///
/// On an arbiter that has already stopped the handle is dead from the beginning.
pub fn start<A, F>(start: Start, factory: F) -> Handle<A>
where
    A: Actor,
    F: FnMut() -> A + Send + 'static,
{
    host::start(start, Box::new(factory))
}
