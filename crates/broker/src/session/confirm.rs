//! Publisher confirms: each goes out when the log has kept the promise of its batch, one cumulative ack a channel.

use backbone_wire::method::basic;
use smallvec::SmallVec;

/// Acks to be written: channel, last tag, how many.
type Due = SmallVec<[(u16, u64, u64); 4]>;

use super::{Core, Session};
use crate::counters::add;
use crate::durable::Promise;
use crate::out::OutBuf;

/// Confirms of one channel that wait for a promise.
pub(super) struct Owed {
    promise: Promise,
    channel: u16,
    /// Tags behind `before` up to `last`.
    before: u64,
    last: u64,
    /// Those among them that a queue refused.
    refused: Vec<u64>,
}

impl Owed {
    /// Whether it is owed to that channel.
    pub(super) fn is_of(&self, channel: u16) -> bool {
        self.channel == channel
    }

    /// How many publishes it confirms.
    pub(super) fn count(&self) -> u64 {
        self.last - self.before
    }
}

impl Session {
    /// Notes what the batch that was just committed owes, and writes the confirms that are due.
    pub(super) fn confirm(&mut self, out: &mut OutBuf) {
        if self.core.publisher.is_stalled() {
            return;
        }
        let promise = self.core.publisher.promise();
        for id in self.core.unconfirmed.drain(..) {
            let channel = self.channels.get_mut(id);
            let Some(confirm) = channel.and_then(|c| c.confirm.as_mut()) else {
                continue;
            };
            let before = std::mem::replace(&mut confirm.noted, confirm.published);
            let last = confirm.published;
            let refused = std::mem::take(&mut confirm.refused);
            if before < last {
                let channel = id;
                self.core.owed.push_back(Owed {
                    promise,
                    channel,
                    before,
                    last,
                    refused,
                });
            }
        }
        self.core.confirm_kept(out);
    }

    /// The log has come further, or its state changed: see what can go on.
    pub fn progressed(&mut self, out: &mut OutBuf) {
        self.core.waits_for = Promise::KEPT;
        self.core.paced_by = Promise::KEPT;
        self.core.place_told = false;
        self.core.barrier.told = false;
        self.go_on(out);
    }

    /// Tries again what the log refused, if anything, and writes the confirms that are due.
    pub fn go_on(&mut self, out: &mut OutBuf) {
        if self.core.publisher.is_stalled() {
            return self.end_of_batch(out);
        }
        self.core.confirm_kept(out);
    }

    /// Whether messages wait here because the log refuses them.
    pub fn is_stalled(&self) -> bool {
        self.core.publisher.is_stalled()
    }

    /// Whether the log has to write first before this connection publishes more. The bell rings when it has.
    pub fn is_ahead_of_log(&mut self) -> bool {
        let core = &mut self.core;
        let pace = core.publisher.pace();
        let Some(durable) = core.publisher.vhost().durable() else {
            return false;
        };
        if durable.is_kept(pace) {
            return false;
        }
        if core.paced_by == pace {
            return true;
        }
        core.paced_by = pace;
        !durable.wait(pace, &core.bell)
    }
}

impl Core {
    fn confirm_kept(&mut self, out: &mut OutBuf) {
        let mut due = Due::new();
        let mut confirmed = 0;
        while let Some(promise) = self.owed.front().map(|owed| owed.promise)
            && self.is_kept(promise)
            && let Some(owed) = self.owed.pop_front()
        {
            if !owed.refused.is_empty() {
                // What is before the refused ones goes first: an ack for many would settle them too.
                write_acks(&mut due, &mut confirmed, out);
                confirmed += write_with_refused(&owed, out);
                continue;
            }
            let count = owed.last - owed.before;
            match due.iter_mut().find(|(id, ..)| *id == owed.channel) {
                Some((_, last, counted)) => (*last, *counted) = (owed.last, *counted + count),
                None => due.push((owed.channel, owed.last, count)),
            }
        }
        write_acks(&mut due, &mut confirmed, out);
        let counters = self.publisher.vhost().counters();
        add(&counters.messages_confirmed, confirmed);
        add(&counters.messages_received_confirm, confirmed);
    }

    /// Whether a promise is kept; if not, the bell will ring.
    fn is_kept(&mut self, promise: Promise) -> bool {
        let Some(durable) = self.publisher.vhost().durable() else {
            return true;
        };
        if durable.is_kept(promise) {
            return true;
        }
        if self.waits_for == promise {
            return false;
        }
        self.waits_for = promise;
        durable.wait(promise, &self.bell)
    }

    /// Forgets what an ended channel would have been told.
    pub(super) fn forget_owed(&mut self, channel: u16) {
        self.owed.retain(|owed| owed.channel != channel);
    }
}

/// Writes one ack a channel.
fn write_acks(due: &mut Due, confirmed: &mut u64, out: &mut OutBuf) {
    for (channel, delivery_tag, count) in due.drain(..) {
        *confirmed += count;
        let multiple = count > 1;
        let ack = basic::Ack {
            delivery_tag,
            multiple,
        };
        ack.write(channel, &mut out.bytes);
    }
}

/// Writes acks and nacks in the order of their tags; returns how many there are.
fn write_with_refused(owed: &Owed, out: &mut OutBuf) -> u64 {
    let mut before = owed.before;
    for tag in owed.refused.iter().copied().chain([owed.last + 1]) {
        let (delivery_tag, count) = (tag - 1, tag - 1 - before);
        if count > 0 {
            let multiple = count > 1;
            let ack = basic::Ack {
                delivery_tag,
                multiple,
            };
            ack.write(owed.channel, &mut out.bytes);
        }
        if tag <= owed.last {
            let nack = basic::Nack {
                delivery_tag: tag,
                multiple: false,
                requeue: true,
            };
            nack.write(owed.channel, &mut out.bytes);
        }
        before = tag;
    }
    owed.last - owed.before - owed.refused.len() as u64
}
