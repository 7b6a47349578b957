//! Messages that were handed out and are either settled or go back.

use std::sync::Arc;

use backbone_broker::death::Cause;
use backbone_broker::durable::Reason;
use backbone_broker::publisher::{Dead, bury};
use backbone_broker::queue::{Queue, Wakes};
use backbone_broker::record::{Entry, Record};
use backbone_broker::vhost::Vhost;

use super::StoredMessage;

/// Messages taken from a queue, oldest first. Dropped without [`Taken::settle`] they go back to their
/// old places.
pub struct Taken {
    vhost: Arc<Vhost>,
    queue: Arc<Queue>,
    entries: Vec<Entry>,
    /// Ready messages that were left in the queue.
    left: u64,
}

impl Taken {
    pub(super) fn new(
        vhost: &Arc<Vhost>,
        queue: &Arc<Queue>,
        messages_max: usize,
        bytes_max: usize,
    ) -> Self {
        Self::by(Queue::take, vhost, queue, (messages_max, bytes_max))
    }

    fn by(
        take: fn(&Queue, usize, usize, &mut Vec<Entry>) -> u64,
        vhost: &Arc<Vhost>,
        queue: &Arc<Queue>,
        max: (usize, usize),
    ) -> Self {
        let mut entries = Vec::new();
        vhost.tell_time(super::now_ms());
        let left = vhost.take_with(queue, take, max, &mut entries);
        Self {
            vhost: Arc::clone(vhost),
            queue: Arc::clone(queue),
            entries,
            left,
        }
    }

    /// The same for an operator, who sees what is in a paused queue too. The queue is used by that: it does not expire.
    pub(super) fn by_operator(
        vhost: &Arc<Vhost>,
        queue: &Arc<Queue>,
        messages_max: usize,
        bytes_max: usize,
    ) -> Self {
        queue.used(super::now_ms());
        let max = (messages_max, bytes_max);
        Self::by(Queue::take_even_paused, vhost, queue, max)
    }

    /// Ready messages that were left in the queue.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Where they are.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The place of message number `index`, below [`Taken::len`], in its queue; it keeps it when it goes back.
    pub fn place(&self, index: usize) -> u64 {
        self.entries[index].seq
    }

    /// Shows message number `index`, below [`Taken::len`].
    pub fn with<R>(&self, index: usize, look: impl FnOnce(StoredMessage<'_>) -> R) -> R {
        self.with_record(index, |_, record| look(StoredMessage::of(&record)))
    }

    /// The same as it is stored.
    pub(super) fn with_record<R>(
        &self,
        index: usize,
        look: impl FnOnce(&Entry, Record<'_>) -> R,
    ) -> R {
        let entry = &self.entries[index];
        let segment = self.vhost.arena().segment(entry.segment);
        look(entry, Record::read(&segment, entry.offset))
    }

    /// Bytes of their records together.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.len as usize).sum()
    }

    /// Whether message number `index` was handed out before and came back.
    pub fn is_redelivered(&self, index: usize) -> bool {
        self.entries[index].redelivered()
    }

    /// Takes those messages out whose number `goes` says.
    #[must_use = "what is dropped goes back to the queue"]
    pub fn split(&mut self, mut goes: impl FnMut(usize) -> bool) -> Self {
        let (mut parted, mut index) = (Vec::new(), 0);
        self.entries.retain(|entry| {
            let stays = !goes(index);
            index += 1;
            if !stays {
                parted.push(*entry);
            }
            stays
        });
        Self {
            vhost: Arc::clone(&self.vhost),
            queue: Arc::clone(&self.queue),
            entries: parted,
            left: self.left,
        }
    }

    /// They have reached their reader and are gone from the queue.
    pub fn settle(mut self) {
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return;
        }
        let mut wakes = Wakes::default();
        self.vhost
            .settle_entries(&self.queue, &entries, Reason::Ack);
        self.queue.settle(None, entries.len() as u32, &mut wakes);
        self.release(&entries);
        wakes.ring();
    }

    /// They are rejected for good: dead letters, if the queue has somewhere to send these.
    pub fn reject(mut self) {
        if !self.queue.has_dead_letters() {
            return self.settle();
        }
        let entries = std::mem::take(&mut self.entries);
        let count = entries.len() as u32;
        let queue = Arc::clone(&self.queue);
        let cause = Cause::Rejected;
        let mut dead = vec![Dead {
            queue,
            cause,
            entries,
        }];
        let mut wakes = Wakes::default();
        self.queue.settle(None, count, &mut wakes);
        wakes.ring();
        bury(&self.vhost, &mut dead, super::now_ms(), &mut wakes);
    }

    /// Gives up the copies in the arena, in runs of one segment.
    fn release(&self, entries: &[Entry]) {
        for run in entries.chunk_by(|a, b| a.segment == b.segment) {
            self.vhost.arena().release(run[0].segment, run.len() as u64);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return;
        }
        let mut wakes = Wakes::default();
        let (now_ms, mut dead) = (super::now_ms(), Vec::new());
        let vhost = &self.vhost;
        if !vhost.put_back(&self.queue, None, &entries, now_ms, &mut dead, &mut wakes) {
            // The queue is deleted: nobody else will read them.
            self.release(&entries);
        }
        wakes.ring();
        bury(vhost, &mut dead, now_ms, &mut wakes);
    }
}
