//! When the messages of a queue expire, page by page, and when the queue itself does.
//!
//! Numbers of messages are taken together by [`PAGE`], and each page keeps the earliest time at which one of its messages
//! expires. What was taken meanwhile leaves its time behind, until somebody looks. The queue as a whole is entered in the
//! [`crate::timetable::Timetable`], once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_log::Arena;

use super::rules::{ALARM_KEY, Lost, rule};
use super::{Bell, Queue, State, Wakes};

/// Numbers of a page.
const PAGE: u64 = 64;
/// Messages that one look takes out at most, so that others come to the queue between.
const LOOK_MAX: usize = 4096;
/// Between two looks at one queue, in ms.
const REST_MS: u64 = 5;

/// The earliest time of each page in which there is one.
#[derive(Debug)]
pub(super) struct Expiries {
    /// Page and time, in the order of the pages.
    pages: VecDeque<(u64, u64)>,
    /// Not above any time in `pages`.
    earliest: u64,
}

impl Default for Expiries {
    fn default() -> Self {
        Self {
            pages: VecDeque::new(),
            earliest: u64::MAX,
        }
    }
}

impl Expiries {
    /// The message `seq` expires at `time`.
    pub fn note(&mut self, seq: u64, time: u64) {
        let page = seq / PAGE;
        self.earliest = self.earliest.min(time);
        let at = match self.pages.back() {
            Some((last, _)) if *last == page => self.pages.len() - 1,
            Some((last, _)) if *last > page => {
                self.pages.partition_point(|(other, _)| *other < page)
            }
            _ => self.pages.len(),
        };
        match self.pages.get_mut(at) {
            Some((other, earliest)) if *other == page => *earliest = time.min(*earliest),
            _ => self.pages.insert(at, (page, time)),
        }
    }

    /// Takes out a page in which something expired by `now`, the first one; returns its numbers.
    pub fn due(&mut self, now: u64) -> Option<Range<u64>> {
        if self.earliest > now {
            return None;
        }
        let mut earliest = u64::MAX;
        for at in 0..self.pages.len() {
            let (page, time) = self.pages[at];
            if time <= now {
                self.pages.remove(at);
                // Those before it are later than `now`, those behind it were not looked at.
                return Some(page * PAGE..(page + 1) * PAGE);
            }
            earliest = earliest.min(time);
        }
        self.earliest = earliest;
        None
    }

    /// Forgets pages below the number `lowest`.
    pub fn forget_below(&mut self, lowest: u64) {
        while self
            .pages
            .front()
            .is_some_and(|(page, _)| (page + 1) * PAGE <= lowest)
        {
            self.pages.pop_front();
        }
        if self.pages.is_empty() {
            self.earliest = u64::MAX;
        }
    }

    /// When to look next.
    pub fn earliest(&self) -> u64 {
        self.earliest
    }
}

/// What a look at the clock did to a queue.
#[derive(Debug, Default)]
pub(crate) struct Tick {
    /// What left it.
    pub lost: Lost,
    /// Nobody has used it for so long that it goes.
    pub unused: bool,
    /// When to look again.
    pub next: Option<u64>,
}

impl Queue {
    /// Has `clock` told when the timetable should look at the queue, and tells it if there is something to look at.
    pub(crate) fn set_clock(&self, clock: &Arc<dyn Bell>, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.clock = Some(Arc::clone(clock));
        if self.has_rule(rule::EXPIRES | rule::SCHEDULE)
            || (state.spill.is_some() && state.is_watched())
        {
            self.book(&state, 0, wakes);
        }
    }

    /// When the timetable will look at it; `u64::MAX`: never.
    pub(crate) fn booked(&self) -> u64 {
        self.booked.load(Ordering::Relaxed)
    }

    /// Has the timetable look at `time`, if it would not do so before.
    pub(super) fn book(&self, state: &State, time: u64, wakes: &mut Wakes) {
        if time < self.booked()
            && state.rules.is_some()
            && let Some(clock) = &state.clock
        {
            self.booked.store(time, Ordering::Relaxed);
            wakes.0.push((Arc::clone(clock), time));
        }
    }

    /// After its last consumer left: the queue is unused from now on, by the clock of who looks at it.
    pub(super) fn left_unused(&self, state: &mut State, wakes: &mut Wakes) {
        if let Some(rules) = &mut state.rules
            && rules.settings.expires_ms.is_some()
        {
            rules.unused_since = None;
            self.book(state, 0, wakes);
        }
    }

    /// Somebody uses it, at `now`.
    pub fn used(&self, now: u64) {
        if self.has_rule(rule::EXPIRES)
            && let Some(rules) = &mut self.state.lock().rules
        {
            rules.unused_since = Some(now);
        }
    }

    /// Looks what is over by `now`. `booked` is the time of the entry in the timetable; nothing happens if there is a
    /// newer one.
    pub(crate) fn tick(&self, booked: u64, now: u64, arena: &Arena, wakes: &mut Wakes) -> Tick {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut tick = Tick::default();
        if state.deleted || self.booked() != booked {
            return tick;
        }
        state.take_expired(now, arena, LOOK_MAX, &mut tick.lost.expired);
        state.overflow(&mut tick.lost.overflowed);
        let lowest = state.lowest();
        let in_use = state.consumer_count > 0;
        let Some(rules) = &mut state.rules else {
            return tick;
        };
        rules.expiries.forget_below(lowest);
        let mut next = rules.expiries.earliest();
        rules.alarms.retain(|alarm| {
            let later = alarm.time > now;
            match later {
                true => next = next.min(alarm.time),
                false => wakes.0.push((Arc::clone(&alarm.bell), ALARM_KEY)),
            }
            later
        });
        if let Some(expires) = rules.settings.expires_ms {
            match in_use {
                true => rules.unused_since = None,
                false => {
                    let end = *rules.unused_since.get_or_insert(now) + expires;
                    tick.unused = end <= now;
                    next = next.min(end);
                }
            }
        }
        if next != u64::MAX {
            next = next.max(now + REST_MS);
            tick.next = Some(next);
        }
        self.booked.store(next, Ordering::Relaxed);
        self.after(state, wakes);
        tick
    }
}

impl State {
    /// The lowest number at hand.
    fn lowest(&self) -> u64 {
        match self.levels {
            Some(_) => self.peek().map(|entry| entry.seq),
            None => self.lowest_here(),
        }
        .unwrap_or(self.next_seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_due_at_its_earliest_time_and_once() {
        let mut expiries = Expiries::default();
        assert_eq!(expiries.due(u64::MAX - 1), None);
        for (seq, time) in [(0, 50), (63, 40), (64, 90), (1000, 45), (70, 95), (3, 60)] {
            expiries.note(seq, time);
        }
        assert_eq!((expiries.earliest(), expiries.due(39)), (40, None));
        assert_eq!(expiries.due(45), Some(0..64));
        assert_eq!(expiries.due(45), Some(960..1024));
        assert_eq!((expiries.due(45), expiries.earliest()), (None, 90));
        // What is left of a page is noted again.
        expiries.note(3, 60);
        assert_eq!(expiries.due(60), Some(0..64));
        assert_eq!(expiries.due(89), None);
        expiries.forget_below(127);
        assert_eq!(expiries.due(90), Some(64..128));
        expiries.note(130, 7);
        expiries.forget_below(192);
        assert_eq!((expiries.earliest(), expiries.due(100)), (u64::MAX, None));
    }
}
