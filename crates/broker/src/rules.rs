//! What a vhost does for queues that are not plain: it takes out what has expired, puts back by the queue's rules, and looks
//! at the clock for them.
//!
//! It has no clock: [`Vhost::tick`] is called with the time, and says when it wants to be called again.

use std::ops::Range;
use std::sync::Arc;

use backbone_log::{Batch, Segment};

use crate::counters::add;
use crate::death::Cause;
use crate::publisher::{Dead, bury, note_lost};
use crate::queue::{ConsumerId, DeleteIf, Left, Lost, Queue, Settings, Wakes, read_expiries};
use crate::record::{Entry, Record};
use crate::vhost::Vhost;

/// Queues that one [`Vhost::tick`] looks at before it wants to be called again.
const TICK_QUEUES_MAX: usize = 256;
/// How long dead letters wait that the log refused, in ms.
const RETRY_MS: u64 = 100;

/// The last dead letters that went in a circle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circle {
    /// The queue that they died in last.
    pub queue: Arc<str>,
    /// How many were dropped since start, of whatever queue of the node.
    pub dropped: u64,
}

impl Vhost {
    /// Tells the time, in ms of Unix time, to whatever has to do with it and is not told otherwise.
    pub fn tell_time(&self, now_ms: u64) {
        self.now_ms
            .store(now_ms, std::sync::atomic::Ordering::Relaxed);
    }

    /// What it was told last.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Looks at the queues whose time has come: takes out what has expired, and deletes what is unused. Returns when
    /// to call again, unless the timetable tells before.
    pub fn tick(&self, now_ms: u64) -> Option<u64> {
        self.tell_time(now_ms);
        self.forget_orphans();
        let (mut wakes, mut dead) = (
            Wakes::default(),
            std::mem::take(&mut *self.postponed.lock()),
        );
        for _ in 0..TICK_QUEUES_MAX {
            let Some((time, queue)) = self.timetable().due(now_ms) else {
                break;
            };
            if queue.is_schedule() {
                self.tick_schedule(&queue, time, now_ms, &mut dead, &mut wakes);
                continue;
            }
            let tick = queue.tick(time, now_ms, self.arena(), &mut wakes);
            note_lost(&queue, tick.lost, &mut dead);
            if tick.unused {
                // Somebody who came meanwhile keeps it.
                let unused = DeleteIf {
                    unused: true,
                    empty: false,
                };
                let _ = self.remove_queue(&queue, unused);
            } else if let Some(next) = tick.next {
                self.timetable().enter(next, &queue);
            }
        }
        bury(self, &mut dead, now_ms, &mut wakes);
        wakes.ring();
        let retry = (!self.postponed.lock().is_empty()).then_some(now_ms + RETRY_MS);
        self.timetable().next().into_iter().chain(retry).min()
    }

    /// Has a new queue follow the policies, and what is timed of it looked at.
    pub(crate) fn wind_up(&self, queue: &Arc<Queue>) {
        if !self.policies().is_empty() || self.consumer_timeout_ms > 0 {
            self.follow_policies(queue);
        }
        let mut wakes = Wakes::default();
        queue.set_clock(&self.timetable().clock(queue), &mut wakes);
        queue.wind_up_levels(self.timetable(), &mut wakes);
        wakes.ring();
    }

    /// Makes dead letters of what expired of the messages that were just taken. True if there was any.
    pub(crate) fn bury_expired(
        &self,
        queue: &Arc<Queue>,
        out: &mut Vec<Entry>,
        from: usize,
    ) -> bool {
        let now_ms = self.now_ms();
        let mut dead = self.sort_out(queue, None, true, out, from, now_ms);
        let any = !dead.is_empty();
        bury(self, &mut dead, now_ms, &mut Wakes::default());
        any
    }

    /// Gives a queue the settings that hold for it as policies are now. Route caches have to be voided after that. Called under
    /// `control`, or before anybody else has the queue.
    pub(crate) fn follow_policies(&self, queue: &Queue) {
        let mut wakes = Wakes::default();
        let arguments = self.effective_arguments(queue);
        let mut settings = Settings::of(arguments.as_table());
        let by_default = Some(self.consumer_timeout_ms).filter(|ms| *ms > 0);
        settings.consumer_timeout_ms = settings.consumer_timeout_ms.or(by_default);
        queue.apply(settings, self.arena(), &mut wakes);
        wakes.ring();
    }

    /// Dead letters that the log refused: they are tried again.
    pub(crate) fn postpone(&self, dead: Dead) {
        self.postponed.lock().push(dead);
    }

    /// Dead letters would have gone in a circle.
    pub(crate) fn note_circle(&self, queue: &Queue, count: u64) {
        let counter = &self.counters().messages_dead_letter_circles;
        add(counter, count);
        *self.circle.lock() = Some(Circle {
            queue: Arc::clone(queue.name()),
            dropped: counter.load(std::sync::atomic::Ordering::Relaxed),
        });
    }

    /// The last dead letters that were dropped because they went in a circle, since somebody asked.
    pub fn take_circle(&self) -> Option<Circle> {
        self.circle.lock().take()
    }

    /// Takes what expired by `now_ms` out of messages that were just handed out, from number `from` in `batch` on; returns
    /// how many. The queue knows of it; they go to `dead`. `counted`: the queue counts them as unsettled.
    pub(crate) fn sort_out(
        &self,
        queue: &Arc<Queue>,
        consumer: Option<ConsumerId>,
        counted: bool,
        batch: &mut Vec<Entry>,
        from: usize,
        now_ms: u64,
    ) -> Vec<Dead> {
        let mut expiries = Vec::new();
        let ttl = queue.settings().message_ttl_ms;
        read_expiries(self.arena(), &batch[from..], ttl, &mut expiries);
        let mut expired = Vec::new();
        let mut at = 0;
        batch.retain(|entry| {
            at += 1;
            let Some(index) = (at - 1_usize).checked_sub(from) else {
                return true;
            };
            let lives = expiries[index] > now_ms || entry.flags & Entry::AT_ONCE != 0;
            if !lives {
                expired.push(*entry);
            }
            lives
        });
        if expired.is_empty() {
            return Vec::new();
        }
        let mut wakes = Wakes::default();
        if counted {
            queue.settle(consumer, expired.len() as u32, &mut wakes);
        }
        wakes.ring();
        vec![Dead {
            queue: Arc::clone(queue),
            cause: Cause::Expired,
            entries: expired,
        }]
    }

    /// Counts that these came back to a quorum queue; takes those out that did so too often.
    fn count_returns(&self, queue: &Queue, entries: &mut Vec<(Entry, u64)>) -> Vec<Entry> {
        if !queue.counts_returns() {
            return Vec::new();
        }
        let mut batch = Batch::new();
        let over = queue.count_returns(entries, &mut batch);
        if !batch.is_empty() {
            self.settle(&mut batch);
        }
        over
    }

    /// Messages with these numbers are done with: nobody has to know any more how often they came back.
    pub(crate) fn forget_counts(&self, queue: &Queue, numbers: &[Range<u64>]) {
        let mut batch = Batch::new();
        queue.forget_counts(numbers, &mut batch);
        if !batch.is_empty() {
            self.settle(&mut batch);
        }
    }

    /// Puts back messages that were handed out, as [`Queue::requeue`]; those whose time is up at `now_ms`, and what they
    /// push out, goes to `dead`.
    pub fn put_back(
        &self,
        queue: &Arc<Queue>,
        consumer: Option<ConsumerId>,
        entries: &[Entry],
        now_ms: u64,
        dead: &mut Vec<Dead>,
        wakes: &mut Wakes,
    ) -> bool {
        if !queue.is_ruled() {
            return queue.requeue(consumer, entries, wakes);
        }
        let (away, here) = part_away(entries);
        if !away.is_empty() {
            // The pager tells the rules of them. Of a queue that is deleted they are nobody's.
            queue.requeue(consumer, &away, wakes);
        }
        let (rest, expiries) = self.sort_returned(queue, consumer, here, now_ms, dead, wakes);
        let mut lost = Lost::default();
        if rest.is_empty() {
            return true;
        }
        let kept = queue.requeue_by_rules(consumer, &rest, &expiries, &mut lost, wakes);
        note_lost(queue, lost, dead);
        if !kept {
            crate::flow::release(self.arena(), &rest);
        }
        true
    }

    /// As [`Queue::leave`], by the rules as [`Vhost::put_back`].
    pub(crate) fn leave(
        &self,
        queue: &Arc<Queue>,
        id: ConsumerId,
        held: &[Entry],
        now_ms: u64,
        dead: &mut Vec<Dead>,
        wakes: &mut Wakes,
    ) -> Left {
        if !queue.is_ruled() {
            return queue.leave(id, held, wakes);
        }
        let (away, here) = part_away(held);
        let (rest, expiries) = self.sort_returned(queue, None, here, now_ms, dead, wakes);
        let left = queue.leave(id, &[&rest[..], &away].concat(), wakes);
        if left.taken {
            let mut lost = Lost::default();
            queue.came_back(&rest, &expiries, &mut lost, wakes);
            note_lost(queue, lost, dead);
        } else {
            crate::flow::release(self.arena(), &rest);
        }
        Left {
            taken: true,
            ..left
        }
    }

    /// Of messages that are to be put back, those that may be, with the times at which they expire. The others are settled in
    /// the queue, and go to `dead`.
    fn sort_returned(
        &self,
        queue: &Arc<Queue>,
        consumer: Option<ConsumerId>,
        mut entries: Vec<Entry>,
        now_ms: u64,
        dead: &mut Vec<Dead>,
        wakes: &mut Wakes,
    ) -> (Vec<Entry>, Vec<u64>) {
        let mut held: Option<Arc<Segment>> = None;
        for entry in &mut entries {
            let same = held
                .as_ref()
                .filter(|segment| segment.id() == entry.segment);
            let segment = match same {
                Some(segment) => Arc::clone(segment),
                None => self.arena().segment(entry.segment),
            };
            entry.describe(&Record::read(&segment, entry.offset));
            held = Some(segment);
        }
        let ttl = queue.settings().message_ttl_ms;
        let mut expiries = Vec::new();
        read_expiries(self.arena(), &entries, ttl, &mut expiries);
        let both = entries.into_iter().zip(expiries);
        let (over, rest): (Vec<_>, Vec<_>) = both.partition(|(_, expiry)| *expiry <= now_ms);
        let (expired, _): (Vec<Entry>, Vec<u64>) = over.into_iter().unzip();
        let mut rest = rest;
        let too_often = self.count_returns(queue, &mut rest);
        let (rest, expiries): (Vec<Entry>, Vec<u64>) = rest.into_iter().unzip();
        for (cause, entries) in [(Cause::Expired, expired), (Cause::DeliveryLimit, too_often)] {
            if !entries.is_empty() {
                queue.settle(consumer, entries.len() as u32, wakes);
                let queue = Arc::clone(queue);
                dead.push(Dead {
                    queue,
                    cause,
                    entries,
                });
            }
        }
        (rest, expiries)
    }
}

/// Those that are in the log alone, since the queue was plain when they were handed out, and the others.
fn part_away(entries: &[Entry]) -> (Vec<Entry>, Vec<Entry>) {
    entries.iter().partition(|entry| entry.is_away())
}
