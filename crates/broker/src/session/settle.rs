//! Settlements: acknowledgements and returns, batched by source.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_log::{Batch, Reason};

use super::Core;
use super::channel::Channel;
use super::source::Source;
use super::tx::Settle;
use super::unacked::Unacked;
use crate::counters::add;
use crate::death::Cause;
use crate::error::Error;
use crate::publisher::{Dead, add_number, bury};
use crate::queue::Queue;
use crate::record::Entry;

/// Sources that the memory of a list of them is kept for between batches.
const SETTLED_KEPT: usize = 1024;

impl Core {
    /// `basic.ack`, `basic.nack` and `basic.reject` on `tag`.
    pub(super) fn settle(
        &mut self,
        channel: &mut Channel,
        tag: u64,
        multiple: bool,
        how: Settle,
    ) -> Result<(), Error> {
        let all = multiple && tag == 0;
        let tag = if all { u64::MAX } else { tag };
        let known = all || channel.unacked.contains(tag);
        if !known {
            return self.settle_late(channel, tag, multiple, how);
        }
        self.settle_known(channel, tag, multiple, how);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn settle_known(
        &mut self,
        channel: &mut Channel,
        tag: u64,
        multiple: bool,
        how: Settle,
    ) {
        if multiple {
            self.free_overdue(channel, 0..=tag);
        }
        if let Some(tx) = &mut channel.tx {
            return tx.settle(channel.unacked.mark_in_tx(tag, multiple), how);
        }
        match (how, multiple) {
            (Settle::Done, false) => {
                let taken = channel.unacked.take(tag);
                self.done(channel, taken.expect("the tag was just seen"));
            }
            (Settle::Done, true) => {
                while let Some(taken) = channel.unacked.take_up_to(tag) {
                    self.done(channel, taken);
                }
            }
            (Settle::Reject, false) => {
                let taken = channel.unacked.take(tag);
                self.reject(channel, taken.expect("the tag was just seen"));
            }
            (Settle::Reject, true) => {
                while let Some(taken) = channel.unacked.take_up_to(tag) {
                    self.reject(channel, taken);
                }
            }
            (Settle::Requeue, false) => {
                let taken = channel.unacked.take(tag);
                self.requeue(channel, taken.into_iter().collect());
            }
            (Settle::Requeue, true) => {
                let mut taken = Vec::new();
                while let Some(next) = channel.unacked.take_up_to(tag) {
                    taken.push(next);
                }
                self.requeue(channel, taken);
            }
        }
        self.unstall(channel);
    }

    /// A message is done with: its copy goes, its queue hears of it with the batch.
    #[inline]
    pub(super) fn done(&mut self, channel: &Channel, unacked: Unacked) {
        if self.release_run.0 != unacked.segment {
            self.flush_release();
            self.release_run.0 = unacked.segment;
        }
        self.release_run.1 += 1;
        let source = self.sources.get(unacked.source());
        if unacked.is_logged() {
            add_number(&mut source.owed, unacked.seq);
        }
        self.settled_one(channel, unacked.source());
    }

    /// A message is rejected for good: if its queue has somewhere to send it, it becomes a dead letter with the batch.
    pub(super) fn reject(&mut self, channel: &Channel, unacked: Unacked) {
        let queue = &self.sources.get(unacked.source()).queue;
        if !queue.has_dead_letters() {
            return self.done(channel, unacked);
        }
        let entry = match unacked.entry() {
            // The queue has got its dead letters since.
            entry if entry.is_away() => match self.bring_one(&unacked) {
                Some(entry) => entry,
                None => return self.done(channel, unacked),
            },
            entry => entry,
        };
        let queue = &self.sources.get(unacked.source()).queue;
        match self.dead.last_mut() {
            Some(last) if Arc::ptr_eq(&last.queue, queue) => last.entries.push(entry),
            _ => self.dead.push(Dead {
                queue: Arc::clone(queue),
                cause: Cause::Rejected,
                entries: vec![entry],
            }),
        }
        self.settled_one(channel, unacked.source());
    }

    /// A message of which only the number was kept.
    #[cold]
    fn bring_one(&mut self, unacked: &Unacked) -> Option<Entry> {
        let queue = Arc::clone(&self.sources.get(unacked.source()).queue);
        let pager = self.publisher.vhost().pager()?;
        pager.bring_one(&queue, unacked.seq)
    }

    /// While memory is tight, only the numbers of messages in the log are kept that were just delivered, with tags above `tag`.
    #[cold]
    pub(super) fn let_go(&mut self, channel: &mut Channel, queue: &Queue, tag: u64) {
        if !queue.is_let_go_of() {
            return;
        }
        let arena = self.publisher.vhost().arena();
        // The round counts on a copy in its segment.
        self.round.leave_segment(arena);
        for (segment, count) in channel.unacked.let_go(tag) {
            arena.release(segment, count);
        }
    }

    #[inline]
    fn settled_one(&mut self, channel: &Channel, index: u32) {
        let source = self.sources.get(index);
        source.held -= 1;
        source.settled += 1;
        if source.shared
            && let Some(shared) = &channel.shared
        {
            shared.give(1);
        }
        if source.settled == 1 {
            self.settled.push(index);
        }
    }

    /// Tells the queues of what was settled since the last time.
    pub(super) fn flush_settled(&mut self) {
        self.flush_release();
        self.settle_in_log();
        let mut count = 0;
        let mut indexes = std::mem::take(&mut self.settled);
        for index in indexes.drain(..) {
            let source = self.sources.get(index);
            let settled = std::mem::take(&mut source.settled);
            count += u64::from(settled);
            source
                .queue
                .settle(source.consumer, settled, &mut self.wakes);
            self.poke_siblings(index);
            self.sources.sweep(index);
        }
        if indexes.capacity() <= SETTLED_KEPT {
            self.settled = indexes;
        }
        add(
            &self.publisher.vhost().counters().messages_acknowledged,
            count,
        );
        self.wakes.ring();
        self.bury();
    }

    /// Makes dead letters of what died since the last time.
    pub(super) fn bury(&mut self) {
        if !self.dead.is_empty() {
            let vhost = Arc::clone(self.publisher.vhost());
            bury(&vhost, &mut self.dead, self.now_ms, &mut self.wakes);
        }
    }

    /// Tells the log what was settled since the last time, in one batch.
    fn settle_in_log(&mut self) {
        let mut batch = Batch::new();
        if let [index] = self.settled[..] {
            let source = self.sources.get(index);
            if !source.owed.is_empty() && !source.queue.is_deleted() {
                source
                    .queue
                    .settle_in(&mut batch, &source.owed, Reason::Ack);
                forget_counts(source, &mut batch);
            }
            source.owed.clear();
        } else {
            let mut owed = std::mem::take(&mut self.owed_many);
            for index in &self.settled {
                let source = self.sources.get(*index);
                let there = !source.queue.is_deleted();
                forget_counts(source, &mut batch);
                let numbers = source.owed.drain(..).filter(|_| there);
                owed.extend(numbers.map(|numbers| source.queue.in_log(numbers)));
            }
            batch.settle_many(owed.drain(..), Reason::Ack);
            self.owed_many = owed;
        }
        if !batch.is_empty() {
            self.publisher.vhost().settle(&mut batch);
        }
    }

    /// Puts messages back, each into its queue and place.
    pub(super) fn requeue(&mut self, channel: &Channel, mut taken: Vec<Unacked>) {
        taken.sort_by_key(Unacked::source);
        for run in taken.chunk_by(|a, b| a.source() == b.source()) {
            let index = run[0].source();
            let entries = self.give_back(channel, index, run);
            let source = self.sources.get(index);
            let queue = Arc::clone(&source.queue);
            let (consumer, now_ms) = (source.consumer, self.now_ms);
            let vhost = self.publisher.vhost();
            let (dead, wakes) = (&mut self.dead, &mut self.wakes);
            if !vhost.put_back(&queue, consumer, &entries, now_ms, dead, wakes) {
                crate::flow::release(vhost.arena(), &entries);
            }
            self.poke_siblings(index);
            self.sources.sweep(index);
        }
        self.wakes.ring();
        self.bury();
    }

    /// Takes account of messages of one source that are put back, which are returned as entries.
    pub(super) fn give_back(
        &mut self,
        channel: &Channel,
        index: u32,
        held: &[Unacked],
    ) -> Vec<Entry> {
        let source = self.sources.get(index);
        source.held -= held.len() as u32;
        if source.shared
            && let Some(shared) = &channel.shared
        {
            shared.give(held.len() as u32);
        }
        held.iter().map(Unacked::entry).collect()
    }

    /// Room under a channel's shared limit is room for all its consumers.
    pub(super) fn poke_siblings(&mut self, index: u32) {
        let source = self.sources.get(index);
        if !source.shared {
            return;
        }
        let channel = source.channel;
        for sibling in self.sources.of_channel(channel) {
            let source = self.sources.get(sibling);
            if let Some(id) = source.consumer {
                source.queue.poke(id, &mut self.wakes);
            }
        }
    }

    /// Serves the sources again that waited for the channel to settle something.
    pub(super) fn unstall(&mut self, channel: &mut Channel) {
        if channel.unacked.len() < self.settings.unacked_max {
            self.ready.extend(channel.stalled.drain(..));
        }
    }

    fn flush_release(&mut self) {
        let (segment, count) = std::mem::take(&mut self.release_run);
        if count > 0 && segment != Entry::AWAY {
            self.publisher.vhost().arena().release(segment, count);
        }
    }

    /// Counts messages that were delivered again.
    pub(super) fn count_redelivered(&self, count: u64) {
        if count > 0 {
            let counters = self.publisher.vhost().counters();
            counters
                .messages_redelivered
                .fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// What a consumer is done with need not be counted any more.
fn forget_counts(source: &Source, batch: &mut Batch) {
    if source.queue.counts_returns() && !source.queue.is_deleted() {
        source.queue.forget_counts(&source.owed, batch);
    }
}
