//! What of a queue waits in the log instead of in memory, and how it comes back.
//!
//! Up to a bound a queue keeps what is ready in memory. Beyond it, messages that are in the log are only counted
//! ([`Spill`]), and their copies in memory are given up. When what is ready runs low and somebody consumes, the queue
//! rings its page bell, and a [`crate::pager::Pager`] brings the next ones back: it asks what is wanted
//! ([`Queue::page_wanted`]), reads it without any lock of the queue, and hands it in ([`Queue::page_in`]).
//!
//! Numbers are reserved before a batch is appended, and the messages come in after it. So a number below others may
//! come in late; and the log may have messages that the queue does not know of yet. Paging stops at the lowest
//! number in flight, so that no message comes in twice.
//!
//! Messages that are not in the log wait between the others, in `spill.tail`, until they go there as well ([`super::shadow`]).
//!
//! Invariants:
//! - All numbers in `ready` and `returned` are below `spill.from`, all in `spill.tail` are not.
//! - Of the numbers from `spill.from` on, those that were pushed and are not in `spill.tail` are in the log alone,
//!   unsettled, and `spill.count` of them; nobody was ever handed one of them.
//! - A number is in flight, or it was pushed, given up, or never reserved.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::state::State;
use super::{Queue, Wakes};
use crate::durable::Level;
use crate::record::Entry;

/// How much of something there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In messages.
    pub messages: usize,
    /// In bytes of their records.
    pub bytes: usize,
}

impl Room {
    /// As much as there is.
    pub const ALL: Self = Self {
        messages: usize::MAX,
        bytes: usize::MAX,
    };

    /// What is read at once for a queue that keeps so much; one message always fits. The next page is wanted when less
    /// than one is ready, so that what comes in fits into what is kept.
    pub(crate) fn page(self) -> Self {
        Self {
            messages: (self.messages / 2).max(1),
            bytes: (self.bytes / 4).max(1),
        }
    }
}

/// The part of a queue that is in the log alone.
pub(crate) struct Spill {
    /// What the queue should keep in memory.
    pub keep: Room,
    /// Below this number, some were perhaps never stored: they were on their way when the process before this one
    /// ended.
    pub restored: u64,
    /// Messages from this number on are in the log alone, or in `tail`.
    pub from: u64,
    /// How many are in the log alone.
    pub count: u64,
    /// Messages between them that are in memory alone, in order.
    pub tail: VecDeque<Entry>,
    /// Of the records in `tail`.
    pub tail_bytes: usize,
}

/// What the pager should read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// The first number.
    pub from: u64,
    /// Stop before this number.
    pub limit: u64,
    /// Stop after so much.
    pub room: Room,
    /// As in [`Spill`].
    pub restored: u64,
    /// As in the state.
    pub shadow_from: u64,
    /// What [`State::unloads`] was.
    pub unloads: u64,
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// All entries are the queue's, but for those that it dropped.
    Taken,
    /// The queue is deleted: the copies stay the caller's.
    Deleted {
        /// Nothing is in flight any more: the log may forget the queue.
        last: bool,
    },
}

/// What a purge or a delete took out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Entries that own their copies.
    pub entries: Vec<Entry>,
    /// Numbers of messages that were in the log alone.
    pub spilled: Vec<Range<u64>>,
    /// The queue's shadow has nothing below this number any more.
    pub shadow_from: u64,
    /// How many messages there were in all.
    pub count: u64,
    /// Numbers are in flight still.
    pub in_flight: bool,
}

impl State {
    /// Puts an entry where its number belongs. False when it is in the log alone now: its copy is the caller's.
    pub(super) fn place(&mut self, entry: Entry, keep: Room) -> bool {
        if let Some(spill) = &mut self.spill
            && entry.seq >= spill.from
        {
            if entry.is_logged() {
                spill.count += 1;
                return false;
            }
            spill.tail_bytes += entry.len as usize;
            insert(&mut spill.tail, entry);
            return true;
        }
        let full = self.ready.len() >= keep.messages || self.ready_bytes >= keep.bytes;
        let last = self.ready.back().is_none_or(|last| last.seq < entry.seq);
        if full && last && entry.is_logged() && entry.seq >= self.handed_out {
            // A number that comes late may be below those that are in the log alone already.
            let spill = self.spill.get_or_insert_with(|| Box::new(Spill::new(keep)));
            spill.from = entry.seq;
            spill.count += 1;
            return false;
        }
        self.ready_bytes += entry.len as usize;
        insert(&mut self.ready, entry);
        true
    }

    /// Messages that are not among those at hand: in the log alone, or in memory between such.
    pub(super) fn spilled_len(&self) -> u64 {
        let spill = self.spill.as_ref();
        spill.map_or(0, |spill| spill.count + spill.tail.len() as u64) + self.away_len()
    }

    /// Messages that are in the log alone.
    pub(super) fn paged_out(&self) -> u64 {
        self.spill.as_ref().map_or(0, |spill| spill.count) + self.away_len()
    }

    /// What is to be read next, if anything is there to be read.
    fn next_page(&self) -> Option<Page> {
        let spill = self.spill.as_ref()?;
        let ahead = self.in_flight.iter().filter(|n| n.end > spill.from);
        let in_flight = ahead.map(|numbers| numbers.start).min();
        let limit = in_flight.unwrap_or(self.next_seq);
        let room = spill.keep.page();
        // What is in memory comes in with the page: not more of it than fits.
        let beyond = spill.tail.get(room.messages);
        let limit = beyond.map_or(limit, |entry| limit.min(entry.seq));
        (spill.from < limit).then_some(Page {
            from: spill.from,
            limit,
            room,
            restored: spill.restored,
            shadow_from: self.shadow_from,
            unloads: self.unloads,
        })
    }

    /// Whether somebody will want the next page soon.
    fn wants_page(&self) -> bool {
        let Some(spill) = &self.spill else {
            return false;
        };
        let page = spill.keep.page();
        let watched = !self.waiting() && self.is_watched();
        (self.has_takers() || self.front.is_some() || watched)
            && self.ready.len() < page.messages
            && self.ready_bytes < page.bytes
            && self.next_page().is_some()
    }

    /// Has the next page brought in if somebody will want it soon.
    pub(super) fn ask_for_page(&mut self, wakes: &mut Wakes) {
        if self.page_asked || !(self.wants_away() || self.wants_page()) {
            return;
        }
        if let Some(bell) = &self.page_bell {
            self.page_asked = true;
            wakes.0.push((Arc::clone(bell), 0));
        }
    }

    /// Takes everything that waits out of memory and forgets what is in the log alone.
    pub(super) fn empty(&mut self) -> Emptied {
        self.shadow_from = self.next_seq;
        let mut emptied = Emptied {
            in_flight: !self.in_flight.is_empty(),
            shadow_from: self.shadow_from,
            ..Emptied::default()
        };
        if let Some(rules) = &mut self.rules {
            rules.emptied();
        }
        emptied
            .entries
            .extend(std::mem::take(&mut self.returned).into_values());
        emptied.entries.extend(self.ready.drain(..));
        if let Some(schedule) = &mut self.schedule {
            emptied.entries.append(&mut schedule.empty());
        }
        self.ready.shrink_to(64);
        self.ready_bytes = 0;
        emptied.count = emptied.entries.len() as u64;
        if let Some(spill) = self.spill.take() {
            emptied.count += spill.count + spill.tail.len() as u64;
            emptied.entries.extend(spill.tail);
            emptied.spilled = without(spill.from..self.next_seq, &self.in_flight);
        }
        self.empty_away(&mut emptied);
        emptied
    }

    /// The first ready message that is in the log, was never handed out, and is more than what is to be kept. For
    /// consumers one stays in any case.
    fn first_above(&mut self, keep: Room) -> Option<usize> {
        let (len, mut bytes) = (self.ready.len(), self.ready_bytes);
        let now = Some((self.next_seq, len, keep));
        if len <= keep.messages && bytes <= keep.bytes || self.futile == now {
            return None;
        }
        let minded = self.front.is_some() || self.is_watched();
        let least = usize::from(self.consumer_count > 0 || minded);
        let (mut first, mut found) = (len, None);
        while first > least && (first > keep.messages || bytes > keep.bytes) {
            let entry = &self.ready[first - 1];
            if entry.seq < self.handed_out {
                break;
            }
            first -= 1;
            bytes -= entry.len as usize;
            if entry.is_logged() {
                found = Some(first);
            }
        }
        if found.is_none() {
            self.futile = now;
        }
        found
    }

    /// Takes the ready messages from that at `first` on out of what is at hand. The copies of `dropped`, which the log
    /// has, are the caller's.
    pub(super) fn spill_from(&mut self, first: usize, keep: Room, dropped: &mut Vec<Entry>) {
        let spill = self.spill.get_or_insert_with(|| Box::new(Spill::new(keep)));
        spill.keep = keep;
        spill.from = self.ready[first].seq;
        for entry in self.ready.drain(first..).rev() {
            self.ready_bytes -= entry.len as usize;
            match entry.is_logged() {
                true => {
                    spill.count += 1;
                    dropped.push(entry);
                }
                false => {
                    spill.tail_bytes += entry.len as usize;
                    spill.tail.push_front(entry);
                }
            }
        }
        // A queue that was long once should not hold the memory of that.
        if self.ready.capacity() > 4 * self.ready.len().max(64) {
            self.ready.shrink_to(2 * self.ready.len());
        }
    }

    pub(super) fn end_flight(&mut self, numbers: &Range<u64>) {
        let at = self.in_flight.iter().position(|other| other == numbers);
        self.in_flight
            .swap_remove(at.expect("the numbers were reserved"));
    }

    /// Numbers that the log will never have messages for.
    pub(super) fn add_gap(&mut self, numbers: Range<u64>) {
        match self.gaps.last_mut() {
            Some(last) if last.end == numbers.start => last.end = numbers.end,
            Some(last) if numbers.end == last.start => last.start = numbers.start,
            _ if numbers.is_empty() => {}
            _ => self.gaps.push(numbers),
        }
    }

    /// As [`Queue::give_up`], under the lock.
    pub(crate) fn give_up(
        &mut self,
        numbers: &Range<u64>,
        gaps: Vec<Range<u64>>,
        wakes: &mut Wakes,
    ) -> bool {
        self.end_flight(numbers);
        if self.deleted {
            return self.in_flight.is_empty();
        }
        gaps.into_iter().for_each(|gap| self.add_gap(gap));
        self.add_gap(numbers.clone());
        self.ask_for_page(wakes);
        false
    }

    /// As [`Queue::reserve`], under the lock.
    pub(crate) fn reserve(&mut self, count: u64, gaps: &mut Vec<Range<u64>>) -> Range<u64> {
        let numbers = self.next_seq..self.next_seq + count;
        self.next_seq += count;
        self.in_flight.push(numbers.clone());
        gaps.append(&mut self.gaps);
        numbers
    }
}

impl Queue {
    /// Reserves numbers for `count` messages, in order, which have to be pushed or given up; adds the numbers that the
    /// log has to be told of as settled to `gaps`. `None` when the queue is deleted.
    pub(crate) fn reserve(&self, count: u64, gaps: &mut Vec<Range<u64>>) -> Option<Range<u64>> {
        let mut state = self.state.lock();
        (!state.deleted).then(|| state.reserve(count, gaps))
    }

    /// Gives numbers up that were reserved: their messages were not appended, nor were `gaps` settled. True when the
    /// queue is deleted and nothing is in flight any more: the log may forget the queue.
    #[must_use]
    pub(crate) fn give_up(
        &self,
        numbers: &Range<u64>,
        gaps: Vec<Range<u64>>,
        wakes: &mut Wakes,
    ) -> bool {
        self.state.lock().give_up(numbers, gaps, wakes)
    }

    /// Appends entries whose numbers were reserved. Those that are in the log alone from now on go to `dropped`: their
    /// copies stay the caller's.
    pub(crate) fn push_reserved(
        &self,
        entries: &[Entry],
        keep: Room,
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Pushed {
        self.push_reserved_locked(&mut self.state.lock(), entries, keep, dropped, wakes)
    }

    pub(crate) fn push_reserved_locked(
        &self,
        state: &mut State,
        entries: &[Entry],
        keep: Room,
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Pushed {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Pushed::Taken;
        };
        let numbers = first.seq..last.seq + 1;
        self.push_numbered(state, &numbers, entries, keep, dropped, wakes)
    }

    /// The same where not all of the numbers that were reserved have entries.
    pub(crate) fn push_some_reserved(
        &self,
        state: &mut State,
        numbers: &Range<u64>,
        entries: &[Entry],
        keep: Room,
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Pushed {
        self.push_numbered(state, numbers, entries, keep, dropped, wakes)
    }

    // In either of the two: a call more is measured (benches/instructions.txt).
    #[inline(always)]
    fn push_numbered(
        &self,
        state: &mut State,
        numbers: &Range<u64>,
        entries: &[Entry],
        keep: Room,
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Pushed {
        state.end_flight(numbers);
        if state.deleted {
            let last = state.in_flight.is_empty();
            return Pushed::Deleted { last };
        }
        for entry in entries {
            if !state.place(*entry, keep) {
                dropped.push(*entry);
            }
        }
        self.pushed(state, entries, wakes);
        Pushed::Taken
    }

    /// What the pager should read now, for a queue that should keep so much in memory. After `None` it is asked again
    /// when there is something.
    pub(crate) fn page_wanted(&self, keep: Room) -> Option<Page> {
        let mut state = self.state.lock();
        if let Some(spill) = &mut state.spill {
            spill.keep = keep;
        }
        let page = state.next_page();
        state.page_asked &= page.is_some();
        page
    }

    /// Takes what the pager read: all messages of `page` below `until`, in order, each with its copy. False when the
    /// queue does not want them any more: the copies stay the caller's. `found` counts unreadable ones too.
    pub(crate) fn page_in(
        &self,
        page: Page,
        until: u64,
        found: u64,
        entries: &[Entry],
        wakes: &mut Wakes,
    ) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.page_asked = false;
        let spill = match &mut state.spill {
            Some(spill) if spill.from == page.from && state.unloads == page.unloads => spill,
            _ => {
                // Somebody else brought it in, or gave up more.
                state.ask_for_page(wakes);
                return false;
            }
        };
        debug_assert!(spill.count >= found, "{} < {found}", spill.count);
        spill.count = spill.count.saturating_sub(found);
        spill.from = until;
        state.shadow_from = state.shadow_from.max(until);
        let mut loaded = entries.iter().copied().peekable();
        loop {
            let in_memory = spill.tail.front().filter(|entry| entry.seq < until);
            let entry = match (loaded.peek(), in_memory) {
                (Some(entry), Some(other)) if entry.seq < other.seq => loaded.next(),
                (Some(_), None) => loaded.next(),
                (_, Some(other)) => {
                    spill.tail_bytes -= other.len as usize;
                    spill.tail.pop_front()
                }
                (None, None) => None,
            };
            let Some(mut entry) = entry else { break };
            let counts = state.rules.as_ref().map(|rules| &rules.counts);
            if entry.seq < state.delivered_below || counts.is_some_and(|it| it.has(entry.seq)) {
                entry.flags |= Entry::REDELIVERED;
            }
            state.ready_bytes += entry.len as usize;
            insert(&mut state.ready, entry);
        }
        // The log may have lost some to damage: with everything read, nothing more can come.
        let all_read = until == state.next_seq && state.in_flight.is_empty();
        if spill.count == 0 || all_read {
            let rest = std::mem::take(&mut spill.tail);
            state.spill = None;
            for entry in rest {
                state.ready_bytes += entry.len as usize;
                insert(&mut state.ready, entry);
            }
        }
        state.dispatch(wakes);
        self.after(state, wakes);
        true
    }

    /// Whether all that waits is in the log alone.
    pub(crate) fn is_all_spilled(&self) -> bool {
        let state = self.state.lock();
        (state.spill.is_some() || !state.away.is_empty()) && !state.waiting()
    }

    /// Sets what the log knows of the queue, before anybody uses it: `live` messages from number `low` on, and the next
    /// number.
    pub fn restore(&self, live: u64, low: u64, next: u64) {
        let mut state = self.state.lock();
        assert!(state.next_seq == 0, "a queue is restored before it is used");
        state.next_seq = next;
        if live > 0 {
            state.handed_out = low;
            state.spill = Some(Box::new(Spill {
                from: low,
                count: live,
                restored: next,
                ..Spill::new(Room::ALL)
            }));
        }
        self.note(&state);
        // A level's front has no other way to learn of what is in the log alone.
        let mut wakes = Wakes::default();
        if state.front.is_some() {
            state.ask_for_page(&mut wakes);
        }
        drop(state);
        wakes.ring();
    }

    /// Gives up the copies of ready messages that are in the log, from the back, down to what is to be kept. The copies
    /// of `dropped` are the caller's.
    pub(crate) fn page_out(&self, keep: Room, dropped: &mut Vec<Entry>) {
        if self.options.level == Level::Memory {
            return;
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(first) = state.first_above(keep) else {
            return;
        };
        state.spill_from(first, keep, dropped);
    }
}

impl Spill {
    fn new(keep: Room) -> Self {
        Self {
            keep,
            restored: 0,
            from: 0,
            count: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
        }
    }
}

/// Inserts by number; nearly always at the back.
#[inline]
fn insert(entries: &mut VecDeque<Entry>, entry: Entry) {
    if entries.back().is_none_or(|last| last.seq < entry.seq) {
        return entries.push_back(entry);
    }
    let at = entries.partition_point(|other| other.seq < entry.seq);
    entries.insert(at, entry);
}

/// `all` without the numbers in `taken`.
fn without(all: Range<u64>, taken: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut taken = taken.to_vec();
    taken.sort_by_key(|range| range.start);
    let (mut left, mut from) = (Vec::new(), all.start);
    for range in taken {
        if range.end <= from {
            continue;
        }
        if from < range.start {
            left.push(from..range.start);
        }
        from = range.end;
    }
    if from < all.end {
        left.push(from..all.end);
    }
    left
}
