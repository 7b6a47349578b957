//! Replies that tell of durable changes, held back until the log has kept its promise for them.
//!
//! Methods go on being handled meanwhile, so that a client that does not wait for each answer has many changes in one
//! sync. Everything that is written behind the first such reply waits with it: the order of what the peer hears is the order of
//! what was done.

use backbone_wire::method::Method;

use super::{Core, Session, State};
use crate::durable::Promise;
use crate::error::Error;
use crate::out::OutBuf;

/// What holds back the output of a connection.
#[derive(Default)]
pub(super) struct Barrier {
    promise: Promise,
    /// Bytes of the output that were there before the first reply that waits.
    before: usize,
}

impl Session {
    /// What the log has to keep before anything in the out-buffer may be written; `None`: nothing. While it is not `None`,
    /// nothing may be taken from the buffer.
    pub fn barrier(&mut self) -> Option<Promise> {
        if self.core.barrier.promise == Promise::KEPT {
            return None;
        }
        let promise = self.core.barrier.promise;
        let durable = self.core.publisher.vhost().durable();
        if durable.is_none_or(|durable| durable.is_kept(promise)) {
            self.core.barrier = Barrier::default();
            return None;
        }
        Some(promise)
    }

    /// The log will not keep its promise: the replies that waited for it are not sent, and the connection is closed with the reason.
    pub fn give_up(&mut self, out: &mut OutBuf) {
        let barrier = std::mem::take(&mut self.core.barrier);
        if barrier.promise == Promise::KEPT {
            return;
        }
        out.truncate(barrier.before);
        // A close of ours that stood behind them is gone with them, and said anew.
        if self.state != State::Closed {
            let text = "the log failed: whether the last changes were made is certain after a restart of the server";
            self.fail(&Error::internal_error(text), 0, 0, out);
        }
    }
}

impl Core {
    /// Lets the reply to a method, before which `before` bytes waited, wait for all changes so far, whosever they are: it may tell
    /// of them.
    pub(super) fn wait_for_changes(&mut self, before: usize) {
        let vhost = self.publisher.vhost();
        let Some(durable) = vhost.durable() else {
            return;
        };
        let promise = vhost.changes_promise();
        if durable.is_kept(promise) {
            return;
        }
        if durable.is_kept(self.barrier.promise) {
            self.barrier.before = before;
        }
        self.barrier.promise = promise;
    }
}

/// Methods whose replies tell of exchanges, queues, bindings, or what was purged.
pub(super) fn tells_of_changes(method: &Method<'_>) -> bool {
    matches!(
        method,
        Method::QueueDeclare(_)
            | Method::QueueBind(_)
            | Method::QueueUnbind(_)
            | Method::QueuePurge(_)
            | Method::QueueDelete(_)
            | Method::ExchangeDeclare(_)
            | Method::ExchangeDelete(_)
            | Method::ExchangeBind(_)
            | Method::ExchangeUnbind(_)
    )
}
