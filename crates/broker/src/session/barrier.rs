//! Replies that tell of durable changes, held back until the log has kept its promise for them.
//!
//! Methods go on being handled meanwhile, so that a client that does not wait for each answer has many changes in one
//! sync. Everything that is written behind the first such reply waits with it: the order of what the peer hears is the order of
//! what was done.

use backbone_wire::method::Method;

use super::{Core, Session, State};
use crate::durable::{Promise, Trouble};
use crate::error::Error;
use crate::out::OutBuf;

/// What holds back the output of a connection.
#[derive(Default)]
pub(super) struct Barrier {
    promise: Promise,
    /// Bytes of the output that were there before the first reply that waits.
    before: usize,
    /// The bell will ring for it.
    pub(super) told: bool,
}

impl Session {
    /// Whether nothing may be written of `out` now, since something in it tells of what is not safe yet. The bell rings
    /// when that may have changed. If the log failed, the replies that wait for it are taken back, and the connection is
    /// closed with the reason instead.
    pub fn is_held(&mut self, out: &mut OutBuf) -> bool {
        let promise = self.core.barrier.promise;
        if promise == Promise::KEPT {
            return false;
        }
        let Some(durable) = self.core.publisher.vhost().durable() else {
            return false;
        };
        let told = std::mem::replace(&mut self.core.barrier.told, true);
        let kept = match told {
            true => durable.is_kept(promise),
            false => durable.wait(promise, &self.core.bell),
        };
        if kept {
            self.core.barrier = Barrier::default();
            return false;
        }
        // Asked after the bell was left: a failure before that rings for nobody.
        let failed = durable.trouble() == Some(Trouble::LogFailed);
        if failed {
            self.give_up(out);
        }
        !failed
    }

    fn give_up(&mut self, out: &mut OutBuf) {
        let barrier = std::mem::take(&mut self.core.barrier);
        out.truncate(barrier.before);
        // A close of ours that stood behind the replies is gone with them, and said anew.
        if self.state != State::Closed {
            let text = "the log failed: whether the last changes were made is certain after a restart of the server";
            self.fail(&Error::internal_error(text), 0, 0, out);
        }
    }
}

impl Core {
    /// Lets the reply to a method, before which `before` bytes waited, wait for all that it may tell of.
    pub(super) fn hold_back(&mut self, what: Told, before: usize) {
        let vhost = self.publisher.vhost();
        let Some(durable) = vhost.durable() else {
            return;
        };
        let told = match what {
            // All changes so far, whosever they are.
            Told::Changes => vhost.changes_promise(),
            Told::Publishes => self.publisher.promise(),
        };
        if durable.is_kept(told) {
            return;
        }
        if durable.is_kept(self.barrier.promise) {
            self.barrier.before = before;
        }
        let promise = self.barrier.promise.and(told);
        if self.barrier.promise != promise {
            self.barrier.promise = promise;
            self.barrier.told = false;
        }
    }
}

/// What a reply tells of.
#[derive(Clone, Copy)]
pub(super) enum Told {
    /// Exchanges, queues, bindings, or what was purged.
    Changes,
    /// Messages that this connection published.
    Publishes,
}

/// What the reply to a method has to wait for.
pub(super) fn waits_for(method: &Method<'_>) -> Option<Told> {
    match method {
        Method::QueueDeclare(_)
        | Method::QueueBind(_)
        | Method::QueueUnbind(_)
        | Method::QueuePurge(_)
        | Method::QueueDelete(_)
        | Method::ExchangeDeclare(_)
        | Method::ExchangeDelete(_)
        | Method::ExchangeBind(_)
        | Method::ExchangeUnbind(_) => Some(Told::Changes),
        Method::TxCommit(_) => Some(Told::Publishes),
        _ => None,
    }
}
