//! Messages that are in the log alone although they were handed out.
//!
//! While memory is tight, whoever holds a message of a plain queue that is in the log lets go of its copy once it was
//! delivered: of such a message there is only the number, in an [`Entry`] whose segment is [`Entry::AWAY`]. When it is
//! acknowledged, nothing more is needed. When it comes back, the queue keeps its number, and a [`crate::pager::Pager`] brings it
//! to its place when somebody consumes. What is behind it waits for that.
//!
//! Invariant: all these numbers are below `spill.from`, and nowhere else in the queue.

use super::state::State;
use super::{Queue, Wakes};
use crate::durable::Level;
use crate::publisher::add_number;
use crate::queue::Emptied;
use crate::record::Entry;

impl Entry {
    /// In place of a segment: the message is in the log alone.
    pub(crate) const AWAY: u32 = u32::MAX;

    /// Whether there is no copy of the message in memory.
    #[inline]
    pub(crate) fn is_away(&self) -> bool {
        self.segment == Self::AWAY
    }
}

impl State {
    /// Takes a message back that is in the log alone.
    pub(super) fn put_back_away(&mut self, seq: u64) {
        debug_assert!(self.levels.is_none(), "a priority queue is not plain");
        let new = self.away.insert(seq);
        assert!(new, "a message came back twice");
    }

    /// How many came back and are in the log alone.
    pub(super) fn away_len(&self) -> u64 {
        self.away.len() as u64
    }

    /// Whether the next message is one of them: then nothing is at hand.
    #[cold]
    pub(super) fn is_next_away(&self) -> bool {
        let (away, here) = (self.away.first(), self.lowest_here());
        away.is_some_and(|away| here.is_none_or(|here| *away < here))
    }

    /// The lowest number in memory.
    pub(super) fn lowest_here(&self) -> Option<u64> {
        let returned = self.returned.first_key_value().map(|(seq, _)| *seq);
        let ready = self.ready.front().map(|entry| entry.seq);
        returned.into_iter().chain(ready).min()
    }

    /// Whether they are wanted: nothing else that came back can be handed out.
    pub(super) fn wants_away(&self) -> bool {
        !self.away.is_empty()
            && self.has_takers()
            && (self.returned.is_empty() || self.is_next_away())
    }

    /// Forgets all of them.
    pub(super) fn empty_away(&mut self, emptied: &mut Emptied) {
        let away = std::mem::take(&mut self.away);
        emptied.count += away.len() as u64;
        for seq in away {
            add_number(&mut emptied.spilled, seq);
        }
    }
}

impl Queue {
    /// Whether who holds messages of it may let go of their copies.
    pub(crate) fn is_let_go_of(&self) -> bool {
        self.level() != Level::Memory && self.levels.is_none() && !self.is_ruled()
    }

    /// The lowest numbers of those that came back and are in the log alone, `max` at most.
    pub(crate) fn away(&self, max: usize) -> Vec<u64> {
        let state = self.state.lock();
        state.away.iter().take(max).copied().collect()
    }

    /// Takes what was read of `numbers`, which are looked for no more. Those that are not wanted any more, because the queue was
    /// purged, go to `dropped`: their copies are the caller's.
    pub(crate) fn come_back(
        &self,
        numbers: &[u64],
        entries: &[Entry],
        dropped: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.page_asked = false;
        let mut entries = entries.iter().peekable();
        for seq in numbers {
            let entry = entries.next_if(|entry| entry.seq == *seq);
            match (entry, state.away.remove(seq)) {
                (Some(entry), true) => drop(state.returned.insert(*seq, *entry)),
                (Some(entry), false) => dropped.push(*entry),
                // It cannot be read.
                (None, _) => {}
            }
        }
        state.dispatch(wakes);
        self.after(state, wakes);
    }
}
