//! What the rules of a queue do to the messages at hand, under its lock.
//!
//! What consumers have room for counts as delivered, although nobody has fetched it yet: limits look at what is behind it.

use std::sync::Arc;

use backbone_log::Arena;

use super::rules::{LOOK_AGAIN_MS, ROOM_WITHOUT_PREFETCH, read_expiries};
use super::{Overflow, State};
use crate::record::{Entry, Record};

impl State {
    /// Messages that consumers will take as soon as they look.
    pub(super) fn room(&self) -> usize {
        if self.paused {
            return 0;
        }
        let consumers = self.consumers.iter().flatten();
        consumers
            .map(|consumer| consumer.room(ROOM_WITHOUT_PREFETCH))
            .sum()
    }

    /// Messages at hand, in the order in which they will be taken.
    fn at_hand(&self) -> usize {
        match &self.levels {
            None => self.ready.len() + self.returned.len(),
            Some(levels) => levels.ready_len() as usize,
        }
    }

    /// Ready messages, and bytes of their bodies, for which no consumer has room, if so many were there too.
    pub(super) fn behind_consumers(&self, (more, more_bytes): (u64, u64)) -> (u64, u64) {
        let room = self.room();
        let due = room.min(self.at_hand());
        let room_left = (room - due) as u64;
        let count = (self.at_hand() - due) as u64 + self.spilled_len();
        let count = count + more.saturating_sub(room_left);
        let Some(rules) = self.rules.as_ref().filter(|rules| rules.weighs()) else {
            return (count, 0);
        };
        let more_bytes = if room_left > more { 0 } else { more_bytes };
        if let Some(levels) = &self.levels {
            let bytes = levels.body_bytes_behind(due);
            return (count, bytes + more_bytes);
        }
        let assigned = self.consumers.iter().flatten().flat_map(|it| &it.assigned);
        let assigned: u64 = assigned.map(|entry| u64::from(entry.body_len())).sum();
        let first: u64 = (0..due)
            .filter_map(|at| self.nth(at))
            .map(|it| u64::from(it.body_len()))
            .sum();
        (
            count,
            rules.body_bytes.saturating_sub(assigned + first) + more_bytes,
        )
    }

    /// Takes out what is beyond the limits, the oldest first.
    pub(super) fn overflow(&mut self, out: &mut Vec<Entry>) {
        let Some(rules) = &self.rules else { return };
        let settings = Arc::clone(&rules.settings);
        if !settings.has_room_limit() || settings.overflow() != Overflow::DropHead {
            return;
        }
        let (mut count, mut bytes) = self.behind_consumers((0, 0));
        let due = self.room().min(self.at_hand());
        let (count_max, bytes_max) = (
            settings.messages_max.unwrap_or(u64::MAX),
            settings.bytes_max.unwrap_or(u64::MAX),
        );
        let before = out.len();
        while (count > count_max || bytes > bytes_max)
            && let Some(entry) = self.remove_nth(due)
        {
            count -= 1;
            bytes = bytes.saturating_sub(u64::from(entry.body_len()));
            out.push(entry);
        }
        if let Some(rules) = &mut self.rules {
            rules.went(&out[before..]);
        }
    }

    /// Whether somebody has to look at the oldest message, consumer or not: it may expire, or there is more than
    /// there may be.
    pub(super) fn is_watched(&self) -> bool {
        let Some(rules) = &self.rules else {
            return false;
        };
        let settings = &rules.settings;
        settings.message_ttl_ms.is_some() || settings.dead_letters.is_some() || self.is_over()
    }

    /// Whether there is more than there may be.
    fn is_over(&self) -> bool {
        let Some(rules) = &self.rules else {
            return false;
        };
        let settings = &rules.settings;
        if !settings.has_room_limit() || settings.overflow() != Overflow::DropHead {
            return false;
        }
        let (count, bytes) = self.behind_consumers((0, 0));
        settings.messages_max.is_some_and(|max| count > max)
            || settings.bytes_max.is_some_and(|max| bytes > max)
    }

    /// Takes out those from number `first` on that had to be taken at once and that no consumer has room for.
    pub(super) fn take_not_at_once(&mut self, first: u64, out: &mut Vec<Entry>) {
        let due = self.room();
        let before = out.len();
        let mut at = self.ready.len();
        while at > 0 && self.returned.len() + at > due {
            at -= 1;
            let entry = self.ready[at];
            if entry.seq < first {
                break;
            }
            if entry.flags & Entry::AT_ONCE != 0 {
                self.forget_ready(at);
                out.push(entry);
            }
        }
        out[before..].reverse();
        if let Some(rules) = &mut self.rules {
            rules.went(&out[before..]);
        }
    }

    /// Takes out up to `max` messages at hand that expired by `now`.
    pub(super) fn take_expired(
        &mut self,
        now: u64,
        arena: &Arena,
        max: usize,
        out: &mut Vec<Entry>,
    ) {
        let Some(mut rules) = self.rules.take() else {
            return;
        };
        let before = out.len();
        let waits = self.room() > 0;
        let ttl = rules.settings.message_ttl_ms;
        let mut expiries = Vec::new();
        while out.len() - before < max
            && let Some(numbers) = rules.expiries.due(now)
        {
            let from = self
                .ready
                .partition_point(|entry| entry.seq < numbers.start);
            let until = self.ready.partition_point(|entry| entry.seq < numbers.end);
            let returned = self
                .returned
                .range(numbers.clone())
                .map(|(_, entry)| *entry);
            let mut entries: Vec<Entry> = returned.collect();
            entries.extend(self.ready.range(from..until));
            entries.sort_unstable_by_key(|entry| entry.seq);
            expiries.clear();
            read_expiries(arena, &entries, ttl, &mut expiries);
            let mut gone = Vec::new();
            for (entry, expiry) in entries.iter().zip(&expiries) {
                if waits && entry.flags & Entry::AT_ONCE != 0 {
                    rules.expiries.note(entry.seq, now + LOOK_AGAIN_MS);
                } else if *expiry > now {
                    if *expiry != u64::MAX {
                        rules.expiries.note(entry.seq, *expiry);
                    }
                } else {
                    self.handed_out = self.handed_out.max(entry.seq + 1);
                    if self.returned.remove(&entry.seq).is_none() {
                        gone.push(entry.seq);
                    }
                    out.push(*entry);
                }
            }
            self.forget_numbers(&gone);
        }
        rules.went(&out[before..]);
        self.rules = Some(rules);
    }

    /// Takes these numbers, which grow, out of the ready messages.
    fn forget_numbers(&mut self, mut numbers: &[u64]) {
        // Most often the oldest ones are those that expire.
        while let (Some(first), Some((number, rest))) = (self.ready.front(), numbers.split_first())
            && first.seq == *number
        {
            self.ready_bytes -= first.len as usize;
            self.ready.pop_front();
            numbers = rest;
        }
        if numbers.is_empty() {
            return;
        }
        let mut bytes = 0;
        self.ready.retain(|entry| {
            let goes = numbers.binary_search(&entry.seq).is_ok();
            bytes += if goes { entry.len as usize } else { 0 };
            !goes
        });
        self.ready_bytes -= bytes;
    }

    pub(super) fn no_longer_admitted(&mut self, entries: &[Entry]) {
        if let Some(rules) = &mut self.rules {
            let admitted = entries
                .iter()
                .filter(|entry| entry.flags & Entry::ADMITTED != 0);
            for entry in admitted {
                rules.admitted.0 = rules.admitted.0.saturating_sub(1);
                rules.admitted.1 = rules.admitted.1.saturating_sub(u64::from(entry.body_len()));
            }
        }
    }

    /// Numbers entries as the push that follows will.
    pub(crate) fn number(&self, entries: &mut [Entry]) {
        for (entry, seq) in entries.iter_mut().zip(self.next_seq..) {
            entry.seq = seq;
        }
    }

    /// Takes the mark that they were let in from entries that come in now.
    pub(crate) fn enter(&mut self, entries: &mut [Entry]) {
        self.no_longer_admitted(entries);
        for entry in entries {
            entry.flags &= !Entry::ADMITTED;
        }
    }

    /// Weighs all that is in memory anew, and returns the bytes of the bodies.
    pub(super) fn weigh(&mut self, arena: &Arena) -> u64 {
        let tail = self
            .spill
            .iter_mut()
            .flat_map(|spill| spill.tail.iter_mut());
        let assigned = self
            .consumers
            .iter_mut()
            .flatten()
            .flat_map(|it| it.assigned.iter_mut());
        let all = self.ready.iter_mut().chain(self.returned.values_mut());
        let mut bytes = 0;
        for entry in all.chain(tail).chain(assigned) {
            let segment = arena.segment(entry.segment);
            entry.describe(&Record::read(&segment, entry.offset));
            bytes += u64::from(entry.body_len());
        }
        bytes
    }

    /// The message at hand with so many before it.
    pub(super) fn nth(&self, at: usize) -> Option<Entry> {
        if self.returned.is_empty() {
            return self.ready.get(at).copied();
        }
        let (mut ready, mut returned) = (
            self.ready.iter().peekable(),
            self.returned.values().peekable(),
        );
        let mut next = || match (ready.peek(), returned.peek()) {
            (Some(a), Some(b)) if a.seq < b.seq => ready.next(),
            (_, Some(_)) => returned.next(),
            (_, None) => ready.next(),
        };
        for _ in 0..at {
            next()?;
        }
        next().copied()
    }

    pub(super) fn remove_nth(&mut self, at: usize) -> Option<Entry> {
        if at == 0 {
            return self.pop();
        }
        if let Some(levels) = &self.levels {
            return levels.remove_nth(at);
        }
        let entry = self.nth(at)?;
        self.handed_out = self.handed_out.max(entry.seq + 1);
        if self.returned.remove(&entry.seq).is_none() {
            let at = self.ready.partition_point(|other| other.seq < entry.seq);
            self.forget_ready(at);
        }
        Some(entry)
    }

    fn forget_ready(&mut self, at: usize) {
        if let Some(entry) = self.ready.remove(at) {
            self.ready_bytes -= entry.len as usize;
            self.handed_out = self.handed_out.max(entry.seq + 1);
        }
    }
}
