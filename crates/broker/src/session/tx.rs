//! Transactions: publishes and settlements that take effect together, at tx.commit.

use backbone_wire::error::ReplyCode;

use super::Core;
use super::channel::Channel;
use crate::error::Error;
use crate::out::OutBuf;
use crate::record::{self, Record};

/// Bytes of messages that a transaction may hold; beyond, the connection is closed (506).
const TX_BYTES_MAX: usize = 256 << 20;

/// How messages are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// Acknowledged.
    Done,
    /// Rejected for good.
    Reject,
    /// Put back into the queue.
    Requeue,
}

/// What waits for the commit, in order.
#[derive(Default)]
pub(super) struct Tx {
    publishes: Vec<(Vec<u8>, bool)>,
    bytes: usize,
    settles: Vec<(u64, Settle)>,
}

impl Tx {
    pub fn publish(&mut self, stored: Vec<u8>, mandatory: bool) -> Result<(), Error> {
        self.bytes += stored.len();
        if self.bytes > TX_BYTES_MAX {
            let text = format!("transaction holds more than {TX_BYTES_MAX} bytes of messages");
            return Err(Error::new(ReplyCode::ResourceError, text));
        }
        self.publishes.push((stored, mandatory));
        Ok(())
    }

    /// Publishes and settlements that wait for the commit.
    pub fn waiting(&self) -> (usize, usize) {
        (self.publishes.len(), self.settles.len())
    }

    pub fn settle(&mut self, tags: Vec<u64>, how: Settle) {
        self.settles.extend(tags.into_iter().map(|tag| (tag, how)));
    }
}

impl Core {
    pub(super) fn tx_select(&mut self, channel: &mut Channel) -> Result<(), Error> {
        if channel.confirm.is_some() {
            return Err(Error::precondition_failed(
                "cannot switch from confirm to tx mode",
            ));
        }
        channel.tx.get_or_insert_default();
        Ok(())
    }

    pub(super) fn tx_commit(
        &mut self,
        channel: &mut Channel,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let tx = take_tx(channel)?;
        // An exchange may have gone since, or the right to publish there: then nothing happens.
        for (stored, _) in &tx.publishes {
            self.publisher
                .check_exchange(Record::read(stored, 0).content())?;
        }
        let refused = self.refused;
        for (stored, mandatory) in tx.publishes {
            self.publish_stored(channel, stored, mandatory, out)?;
        }
        self.publisher.commit();
        if self.publisher.is_stalled() {
            // They stay refused, with what other channels published before: forgetting them here would let those be
            // confirmed. They go with the connection.
            let text = "the log takes no messages now: what the transaction acknowledged is not settled, its messages may be there in part";
            return Err(Error::new(ReplyCode::ResourceError, text));
        }
        for (tag, how) in tx.settles {
            channel.unacked.unmark(tag);
            let taken = channel
                .unacked
                .take(tag)
                .expect("the mark was just taken off");
            match how {
                Settle::Done => self.done(channel, taken),
                Settle::Reject => self.reject(channel, taken),
                Settle::Requeue => self.requeue(channel, vec![taken]),
            }
        }
        self.flush_settled();
        self.unstall(channel);
        if self.refused > refused {
            return Err(Error::precondition_failed("partial tx completion"));
        }
        Ok(())
    }

    pub(super) fn tx_rollback(&mut self, channel: &mut Channel) -> Result<(), Error> {
        for (tag, _) in take_tx(channel)?.settles {
            channel.unacked.unmark(tag);
        }
        Ok(())
    }

    /// Keeps a publish for the commit; what is wrong with it is said now, so that a commit does not
    /// stop half way.
    pub(super) fn tx_publish(
        &mut self,
        channel: &mut Channel,
        stored: Vec<u8>,
        mandatory: bool,
    ) -> Result<(), Error> {
        let message = Record::read(&stored, 0);
        let content = message.content();
        self.publisher.check_exchange(content)?;
        self.check_user(message.header)?;
        let body = message.body;
        let changed = self.with_address(channel, message.header, body.len())?;
        self.publisher.check(content)?;
        let changed = changed.map(|header| {
            let mut whole = Vec::new();
            record::begin(
                &mut whole,
                message.flags,
                message.names,
                &header,
                body.len(),
            );
            whole.extend_from_slice(body);
            whole
        });
        let tx = channel.tx.as_mut().expect("only called on a tx channel");
        tx.publish(changed.unwrap_or(stored), mandatory)
    }
}

/// What waited; the channel stays in tx mode.
fn take_tx(channel: &mut Channel) -> Result<Tx, Error> {
    match &mut channel.tx {
        Some(tx) => Ok(std::mem::take(tx)),
        None => Err(Error::precondition_failed("channel is not transactional")),
    }
}
