//! The messages of a delayed exchange that wait for their time: the exchange's own queue, which hands out nothing.
//!
//! Numbers, the log and its levels are those of any queue. Instead of ready messages it has a [`Schedule`]: for each message
//! when it is due, 16 bytes, and the entries of a bounded number of them. The others are in the log alone and are read
//! when they are due. What a start finds in the log is looked through page by page first, since a message's own record alone
//! says when it is due; until that is done nothing is due, so that the order stays.
//!
//! A message is taken out ([`Queue::take_due`]), moved on by the caller, and then [`Queue::moved`] or [`Queue::wait_on`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use ahash::AHashMap;

use super::rules::rule;
use super::spill::{Pushed, Room};
use super::{Queue, QueueOptions, Rules, State, Wakes};
use crate::record::Entry;

/// What waits.
#[derive(Default)]
pub(super) struct Schedule {
    /// Time and number of each message.
    times: BinaryHeap<Reverse<(u64, u64)>>,
    /// Those that are in memory.
    at_hand: AHashMap<u64, Entry>,
    /// Of their records.
    bytes: usize,
    /// Numbers of messages from before the start that nobody has looked at yet, and how many there are.
    unread: Option<(Range<u64>, u64)>,
    /// Taken out and not moved yet.
    moving: u64,
}

/// A message whose time has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub time: u64,
    pub seq: u64,
    /// `None`: it is in the log alone.
    pub entry: Option<Entry>,
}

impl Schedule {
    fn add(&mut self, time: u64, entry: Entry, keep: Room) -> bool {
        self.times.push(Reverse((time, entry.seq)));
        let full = self.at_hand.len() >= keep.messages || self.bytes >= keep.bytes;
        if full && entry.is_logged() {
            return false;
        }
        self.bytes += entry.len as usize;
        self.at_hand.insert(entry.seq, entry);
        true
    }

    fn len(&self) -> u64 {
        let unread = self.unread.as_ref().map_or(0, |(_, count)| *count);
        self.times.len() as u64 + self.moving + unread
    }

    /// When the next one is due; at once if there is something to be looked through.
    fn next(&self) -> u64 {
        match (&self.unread, self.times.peek()) {
            (Some(_), _) => 0,
            (None, Some(Reverse((time, _)))) => *time,
            (None, None) => u64::MAX,
        }
    }

    fn shrink(&mut self) {
        if self.times.capacity() > 4 * self.times.len().max(1024) {
            let len = self.times.len();
            self.times.shrink_to(2 * len);
        }
        if self.at_hand.capacity() > 4 * self.at_hand.len().max(1024) {
            let len = self.at_hand.len();
            self.at_hand.shrink_to(2 * len);
        }
    }

    /// Takes everything out.
    pub(super) fn empty(&mut self) -> Vec<Entry> {
        let gone = std::mem::take(self);
        self.moving = gone.moving;
        gone.at_hand.into_values().collect()
    }
}

impl Queue {
    /// The own queue of the exchange `name`.
    pub(crate) fn schedule(name: &str, id: u64, options: QueueOptions) -> Self {
        let mut queue = Self::new(name, id, options);
        queue.rules.store(rule::SCHEDULE, Ordering::Release);
        let state = queue.state.get_mut();
        state.rules = Some(Box::<Rules>::default());
        state.schedule = Some(Box::default());
        queue
    }

    /// Whether messages wait in it for their time.
    #[inline]
    pub(crate) fn is_schedule(&self) -> bool {
        self.has_rule(rule::SCHEDULE)
    }

    /// How many messages wait in it for their time.
    pub(crate) fn scheduled(&self) -> u64 {
        let state = self.state.lock();
        state.schedule.as_ref().map_or(0, |schedule| schedule.len())
    }

    /// Appends entries that are due at these times. With `reserved` they have their numbers; else they get them here. The
    /// copies of `dropped`, which are in the log alone from now on, are the caller's.
    pub(crate) fn push_scheduled(
        &self,
        entries: &mut [Entry],
        times: &[u64],
        reserved: bool,
        keep: Room,
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Pushed {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (true, Some(first), Some(last)) = (reserved, entries.first(), entries.last()) else {
            if state.deleted {
                return Pushed::Deleted { last: false };
            }
            state.number(entries);
            state.next_seq += entries.len() as u64;
            self.schedule_all(state, entries, times, Room::ALL, dropped, wakes);
            return Pushed::Taken;
        };
        state.end_flight(&(first.seq..last.seq + 1));
        if state.deleted {
            let last = state.in_flight.is_empty();
            return Pushed::Deleted { last };
        }
        self.schedule_all(state, entries, times, keep, dropped, wakes);
        Pushed::Taken
    }

    fn schedule_all(
        &self,
        state: &mut State,
        entries: &[Entry],
        times: &[u64],
        keep: Room,
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) {
        let count = entries.len() as u64;
        self.count_published(count);
        let Some(schedule) = &mut state.schedule else {
            return;
        };
        for (entry, time) in entries.iter().zip(times) {
            if !schedule.add(*time, *entry, keep) {
                dropped.push(*entry);
            }
        }
        let next = schedule.next();
        self.book(state, next, wakes);
    }

    /// Whether the entry of `booked` in the timetable counts: there is no newer one.
    pub(crate) fn is_due(&self, booked: u64) -> bool {
        let state = self.state.lock();
        !state.deleted && self.booked() == booked
    }

    /// The numbers that are to be looked through before anything is due.
    pub(crate) fn unread(&self) -> Option<Range<u64>> {
        let state = self.state.lock();
        let (numbers, _) = state.schedule.as_ref()?.unread.as_ref()?;
        Some(numbers.clone())
    }

    /// Takes note of when messages are due that were looked through: time and number of each. Those below `until` are done
    /// with.
    pub(crate) fn looked_through(&self, found: &[(u64, u64)], until: u64) {
        let mut state = self.state.lock();
        let Some(schedule) = &mut state.schedule else {
            return;
        };
        let Some((numbers, count)) = &mut schedule.unread else {
            return;
        };
        numbers.start = until;
        *count = count.saturating_sub(found.len() as u64);
        if numbers.is_empty() {
            schedule.unread = None;
        }
        schedule.times.extend(found.iter().copied().map(Reverse));
    }

    /// Takes out the messages that are due at `now`, at most `max` of them, in their order.
    pub(crate) fn take_due(&self, now: u64, max: usize) -> Vec<Due> {
        let mut state = self.state.lock();
        let mut due = Vec::new();
        let Some(schedule) = &mut state.schedule else {
            return due;
        };
        if schedule.unread.is_some() {
            return due;
        }
        while due.len() < max
            && let Some(Reverse((time, _))) = schedule.times.peek()
            && *time <= now
            && let Some(Reverse((time, seq))) = schedule.times.pop()
        {
            let entry = schedule.at_hand.remove(&seq);
            schedule.bytes -= entry.map_or(0, |entry| entry.len as usize);
            due.push(Due { time, seq, entry });
        }
        schedule.moving += due.len() as u64;
        schedule.shrink();
        due
    }

    /// So many that were taken out are not here any more.
    pub(crate) fn moved(&self, count: usize) {
        if let Some(schedule) = &mut self.state.lock().schedule {
            schedule.moving -= count as u64;
        }
    }

    /// Puts back what was taken out and cannot be moved now. False when the queue is deleted: the copies stay the caller's.
    pub(crate) fn wait_on(&self, due: &[Due]) -> bool {
        let mut state = self.state.lock();
        let deleted = state.deleted;
        let Some(schedule) = &mut state.schedule else {
            return false;
        };
        schedule.moving -= due.len() as u64;
        if deleted {
            return false;
        }
        for Due { time, seq, entry } in due {
            schedule.times.push(Reverse((*time, *seq)));
            if let Some(entry) = entry {
                schedule.bytes += entry.len as usize;
                schedule.at_hand.insert(*seq, *entry);
            }
        }
        true
    }

    /// When the timetable should look again, not before `earliest`.
    pub(crate) fn book_next(&self, earliest: u64) -> Option<u64> {
        let state = self.state.lock();
        let schedule = state.schedule.as_ref().filter(|_| !state.deleted)?;
        let next = schedule.next();
        let next = if next == u64::MAX {
            next
        } else {
            next.max(earliest)
        };
        self.booked.store(next, Ordering::Relaxed);
        (next < u64::MAX).then_some(next)
    }

    /// Sets what the log knows of it, as [`Queue::restore`].
    pub(crate) fn restore_schedule(&self, live: u64, low: u64, next: u64) {
        let mut state = self.state.lock();
        assert!(state.next_seq == 0, "a queue is restored before it is used");
        state.next_seq = next;
        if let Some(schedule) = &mut state.schedule
            && live > 0
            && low < next
        {
            schedule.unread = Some((low..next, live));
        }
    }
}
