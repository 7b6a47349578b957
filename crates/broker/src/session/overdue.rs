//! Deliveries that nobody acknowledges in time, where a queue has a limit for that (`x-consumer-timeout`).
//!
//! A source notes when it delivered what, a few times in the limit's course, and has its queue ring the connection at the time at which
//! the first of it may be overdue: [`Core::look_at_alarms`], [`Core::look_for_overdue`]. What is overdue goes back to its queue, as if it had been returned, and counts as
//! that. The channel stays, and so does the place that the message took: who does not acknowledge gets no others for it. A late
//! acknowledgement means nothing but that the place is free again. Or, if so configured, the channel is closed as RabbitMQ does it.

use std::collections::VecDeque;
use std::sync::Arc;

use backbone_wire::error::ReplyCode;

use super::Core;
use super::channel::Channel;
use super::tx::Settle;
use super::unacked::Unacked;
use crate::counters::add;
use crate::error::Error;

/// Spans of the limit's course that are told apart: a message is found overdue later by one of them at most.
const SPANS: u64 = 16;

/// What a source delivered, and when: its spans, oldest first.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    spans: VecDeque<Span>,
    /// When the queue will ring; `u64::MAX`: never.
    alarm: u64,
}

/// Deliveries with tags from `from` to the next span's.
#[derive(Debug)]
struct Span {
    from: u64,
    first_ms: u64,
    last_ms: u64,
}

impl Deliveries {
    fn new() -> Box<Self> {
        Box::new(Self {
            alarm: u64::MAX,
            ..Self::default()
        })
    }

    /// Takes note of deliveries with tags from `tag` on.
    fn note(&mut self, tag: u64, now_ms: u64, limit_ms: u64) {
        match self.spans.back_mut() {
            Some(last) if now_ms < last.first_ms + limit_ms / SPANS => {
                last.last_ms = last.last_ms.max(now_ms);
            }
            _ => self.spans.push_back(Span {
                from: tag,
                first_ms: now_ms,
                last_ms: now_ms,
            }),
        }
    }

    /// Forgets the spans that are overdue; all tags below the returned one are. `end` is above all tags.
    fn pass(&mut self, now_ms: u64, limit_ms: u64, end: u64) -> Option<u64> {
        let mut below = None;
        while self
            .spans
            .front()
            .is_some_and(|span| span.last_ms + limit_ms <= now_ms)
        {
            self.spans.pop_front();
            below = Some(self.spans.front().map_or(end, |next| next.from));
        }
        below
    }

    fn next(&self, limit_ms: u64) -> Option<u64> {
        Some(self.spans.front()?.last_ms + limit_ms)
    }
}

impl Core {
    /// Takes note that the source delivered messages with tags from `from` on, if its queue limits how long they may be out.
    pub(super) fn note_delivered(&mut self, index: u32, from: u64) {
        let source = self.sources.get(index);
        let Some(limit) = source.queue.consumer_timeout() else {
            return;
        };
        let now_ms = self.now_ms;
        let deliveries = source.deliveries.get_or_insert_with(Deliveries::new);
        deliveries.note(from, now_ms, limit);
        if deliveries.alarm == u64::MAX
            && let Some(next) = deliveries.next(limit)
        {
            deliveries.alarm = next;
            source.queue.set_alarm(next, &self.bell, &mut self.wakes);
        }
    }

    /// A queue rang, because deliveries from it may be overdue: has those looked at that may be, and rung for the others.
    #[cold]
    pub(super) fn look_at_alarms(&mut self) {
        for index in self.sources.timed() {
            let source = self.sources.get(index);
            let alarm = source.deliveries.as_ref().map_or(u64::MAX, |it| it.alarm);
            if alarm <= self.now_ms {
                self.ready.push_back(index);
            } else if alarm < u64::MAX {
                source.queue.set_alarm(alarm, &self.bell, &mut self.wakes);
            }
        }
        self.wakes.ring();
    }

    /// Takes what is overdue away from a source, if its time has come. An error closes the channel.
    #[cold]
    pub(super) fn look_for_overdue(
        &mut self,
        channel: &mut Channel,
        index: u32,
    ) -> Result<(), Error> {
        let now_ms = self.now_ms;
        let source = self.sources.get(index);
        let queue = Arc::clone(&source.queue);
        let Some(deliveries) = source.deliveries.as_mut().filter(|it| it.alarm <= now_ms) else {
            return Ok(());
        };
        let Some(limit) = queue.consumer_timeout() else {
            source.deliveries = None;
            return Ok(());
        };
        let below = deliveries.pass(now_ms, limit, channel.last_tag + 1);
        let mut overdue = Vec::new();
        if let Some(below) = below {
            let in_tx = channel.unacked.mark_overdue(index, below, &mut overdue);
            if let Some(tag) = in_tx {
                // What a transaction is about to settle is looked at again, should that not come to it.
                deliveries.spans.push_front(Span {
                    from: tag,
                    first_ms: now_ms,
                    last_ms: now_ms,
                });
            }
        }
        deliveries.alarm = deliveries.next(limit).unwrap_or(u64::MAX);
        if deliveries.alarm < u64::MAX {
            queue.set_alarm(deliveries.alarm, &self.bell, &mut self.wakes);
        }
        if overdue.is_empty() {
            self.wakes.ring();
            return Ok(());
        }
        let counters = self.publisher.vhost().counters();
        let counter = &counters.messages_acknowledgement_timeouts;
        add(counter, overdue.len() as u64);
        if self.settings.timeout_closes_channel {
            channel.unacked.unmark_overdue(&overdue);
            return Err(timed_out(channel.id, limit));
        }
        let entries: Vec<_> = overdue.iter().map(Unacked::entry).collect();
        let vhost = Arc::clone(self.publisher.vhost());
        let (dead, wakes) = (&mut self.dead, &mut self.wakes);
        // The consumer gets no credit for them.
        if !vhost.put_back(&queue, None, &entries, now_ms, dead, wakes) {
            crate::flow::release(vhost.arena(), &entries);
        }
        self.wakes.ring();
        self.bury();
        Ok(())
    }

    /// A settlement of `tag`, which is not out: if it comes late, it is none, and what it says of others counts.
    #[cold]
    pub(super) fn settle_late(
        &mut self,
        channel: &mut Channel,
        tag: u64,
        multiple: bool,
        how: Settle,
    ) -> Result<(), Error> {
        if !channel.unacked.is_overdue(tag) {
            let text = format!("unknown delivery tag {tag}");
            return Err(Error::new(ReplyCode::PreconditionFailed, text));
        }
        match multiple {
            true => self.settle_known(channel, tag, true, how),
            false => {
                self.free_overdue(channel, tag..=tag);
                self.unstall(channel);
            }
        }
        Ok(())
    }

    /// The places of overdue messages with these tags are free.
    pub(super) fn free_overdue(
        &mut self,
        channel: &mut Channel,
        tags: std::ops::RangeInclusive<u64>,
    ) {
        for index in channel.unacked.take_overdue(tags) {
            let source = self.sources.get(index);
            source.held -= 1;
            if source.shared
                && let Some(shared) = &channel.shared
            {
                shared.give(1);
            }
            if let Some(id) = source.consumer {
                source.queue.give_credit(id, &mut self.wakes);
            }
            self.poke_siblings(index);
            self.sources.sweep(index);
        }
        self.wakes.ring();
    }
}

fn timed_out(channel: u16, limit_ms: u64) -> Error {
    Error::precondition_failed(format!(
        "delivery acknowledgement on channel {channel} timed out. Timeout value used: {limit_ms} ms. This timeout value can be \
         configured, see consumers doc guide to learn more"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_spans_are_kept_and_nothing_is_overdue_too_early() {
        let mut deliveries = Deliveries::new();
        let limit = 1000;
        let mut overdue = 0;
        for now in 0..10_000 {
            deliveries.note(now, now, limit);
            if let Some(below) = deliveries.pass(now, limit, u64::MAX) {
                overdue = below;
            }
            // The tag is the time of its delivery.
            assert!(overdue == 0 || overdue - 1 + limit <= now, "too early");
            assert!(overdue + limit + limit / SPANS + 1 >= now, "too late");
            assert!(deliveries.spans.len() as u64 <= SPANS + 2);
        }
        assert!(deliveries.next(limit).is_some());
    }
}
