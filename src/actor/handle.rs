//! The outside of an actor: sending with credit, asking with a deadline, stopping in order.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::Addr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::host::{Envelope, Host, Stop};
use super::metrics::{KindMetrics, count};
use super::{Actor, Bell};

/// The way to an actor. Cheap to clone; the actor ends when the last handle is dropped.
pub struct Handle<A: Actor> {
    host: Addr<Host<A>>,
    mailbox: Mailbox,
    gone: watch::Receiver<()>,
}

/// What handles and host share of a mailbox.
#[derive(Clone)]
pub(super) struct Mailbox {
    pub(super) credit: Arc<Semaphore>,
    pub(super) rung: Arc<AtomicBool>,
    pub(super) metrics: Arc<KindMetrics>,
}

/// The place of one message in a mailbox, given back on drop.
pub(super) struct Credit {
    metrics: Arc<KindMetrics>,
    _permit: OwnedSemaphorePermit,
}

impl Credit {
    fn new(permit: OwnedSemaphorePermit, metrics: &Arc<KindMetrics>) -> Self {
        count(&metrics.depth);
        Self {
            metrics: Arc::clone(metrics),
            _permit: permit,
        }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.metrics.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a message was not taken; the message comes back.
#[derive(thiserror::Error)]
pub enum SendError<M> {
    /// The mailbox holds as many messages as it may.
    #[error("the actor's mailbox is full")]
    Full(M),
    /// The actor has ended.
    #[error("the actor has ended")]
    Dead(M),
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Dead(_) => "Dead",
        })
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The mailbox had no room before the deadline; the question was not asked.
    #[error("the actor's mailbox is full")]
    Full,
    /// The question was asked, the answer did not come in time. The actor may still act on it.
    #[error("the actor did not answer in time")]
    Timeout,
    /// The actor ended, or dropped the question (a panic while it was handled).
    #[error("the actor has ended or dropped the question")]
    Dead,
}

/// The way back of a question.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// Answers; an asker who has given up is no error.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

impl<A: Actor> Handle<A> {
    pub(super) fn new(host: Addr<Host<A>>, mailbox: Mailbox, gone: watch::Receiver<()>) -> Self {
        Self {
            host,
            mailbox,
            gone,
        }
    }

    /// Sends if the mailbox has room now.
    pub fn try_send(&self, message: A::Message) -> Result<(), SendError<A::Message>> {
        match Arc::clone(&self.mailbox.credit).try_acquire_owned() {
            Ok(permit) => {
                self.put(permit, message);
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => {
                count(&self.mailbox.metrics.refused_full);
                Err(SendError::Full(message))
            }
            Err(TryAcquireError::Closed) => Err(SendError::Dead(message)),
        }
    }

    /// Waits for room, then sends. Senders are served in the order in which they came.
    pub async fn send(&self, message: A::Message) -> Result<(), SendError<A::Message>> {
        match Arc::clone(&self.mailbox.credit).acquire_owned().await {
            Ok(permit) => {
                self.put(permit, message);
                Ok(())
            }
            Err(_closed) => Err(SendError::Dead(message)),
        }
    }

    /// Asks a question: `question` wraps the way back into a message. The time limit covers the wait
    /// for room in the mailbox and the wait for the answer.
    pub async fn ask<T, F>(&self, limit: Duration, question: F) -> Result<T, AskError>
    where
        F: FnOnce(Reply<T>) -> A::Message,
    {
        let deadline = Instant::now() + limit;
        let credit = Arc::clone(&self.mailbox.credit);
        let permit = match timeout_at(deadline, credit.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(AskError::Dead),
            Err(_elapsed) => {
                count(&self.mailbox.metrics.refused_full);
                return Err(AskError::Full);
            }
        };
        let (sender, answer) = oneshot::channel();
        self.put(permit, question(Reply(sender)));
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_dropped)) => Err(AskError::Dead),
            Err(_elapsed) => {
                count(&self.mailbox.metrics.ask_timeouts);
                Err(AskError::Timeout)
            }
        }
    }

    /// Stops the actor in order: nothing new is taken, what the mailbox holds is handled, then
    /// [`Actor::stopped`] runs. Returns when the actor is gone. A message sent at the same moment by
    /// another thread may be dropped.
    pub async fn stop(&self) {
        if !self.mailbox.credit.is_closed() {
            self.mailbox.credit.close();
            // Outside the credit, because the mailbox is closed for everybody else: at most one per
            // handle that races to stop.
            #[allow(clippy::disallowed_methods)]
            self.host.do_send(Stop);
        }
        self.gone().await;
    }

    /// Waits until the actor is gone, without asking it to stop.
    pub async fn gone(&self) {
        let mut gone = self.gone.clone();
        // The channel carries no values; it closes when the host is dropped.
        while gone.changed().await.is_ok() {}
    }

    /// Whether the actor still takes messages.
    pub fn is_alive(&self) -> bool {
        !self.mailbox.credit.is_closed()
    }

    /// A bell that wakes this actor.
    pub fn bell(&self) -> Bell<A> {
        Bell::new(self.host.downgrade(), Arc::clone(&self.mailbox.rung))
    }

    fn put(&self, permit: OwnedSemaphorePermit, message: A::Message) {
        let credit = Credit::new(permit, &self.mailbox.metrics);
        // A credit was taken, so the number of messages in the mailbox stays within its capacity. Sent
        // to a dead actor the envelope is dropped, which an asker notices at once.
        #[allow(clippy::disallowed_methods)]
        self.host.do_send(Envelope { message, credit });
    }
}

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self {
            host: self.host.clone(),
            mailbox: self.mailbox.clone(),
            gone: self.gone.clone(),
        }
    }
}

impl<A: Actor> fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("kind", &A::KIND)
            .field("alive", &self.is_alive())
            .finish()
    }
}
