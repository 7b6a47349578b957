//! How messages that are in memory alone get into the log when memory is short: into the queue's *shadow*.
//!
//! The shadow of a queue is another one of the log, with this one's id and the bit [`SHADOW`]; a message has the same
//! number in both. It holds transient records, which a restart forgets. A message goes there once at most
//! ([`Queue::to_unload`], then [`Queue::unload`]), comes back as others that were spilled ([`super::spill`]), and is in
//! memory alone again then. So the shadow is done with from below, and one number, [`State::shadow_from`], says how far.
//!
//! Only what waits at the back goes there, beyond what the queue should keep; never what was handed out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_log::{Arena, Segment};

use super::state::State;
use super::{Queue, Room};
use crate::definitions::SHADOW;
use crate::record::Entry;

/// Messages that may go to the shadow.
#[derive(Default)]
pub(crate) struct Load {
    /// In order; they are the queue's still.
    pub entries: Vec<Entry>,
    /// The segments that they are in, one for each run of equal ones.
    segments: Vec<Arc<Segment>>,
}

impl Load {
    /// The messages with their segments.
    pub fn messages(&self) -> impl Iterator<Item = (&Entry, &Segment)> {
        let runs = self.entries.chunk_by(|a, b| a.segment == b.segment);
        let runs = runs.zip(&self.segments);
        runs.flat_map(|(run, segment)| run.iter().map(move |entry| (entry, &**segment)))
    }
}

impl State {
    /// The first ready message behind which there is too much, and that may go to the shadow with all behind it. For
    /// consumers one stays in any case.
    fn first_to_unload(&self, keep: Room) -> Option<usize> {
        let (len, mut bytes) = (self.ready.len(), self.ready_bytes);
        let minded = self.front.is_some() || self.is_watched();
        let least = usize::from(self.consumer_count > 0 || minded);
        let mut first = len;
        while first > least && (first > keep.messages || bytes > keep.bytes) {
            let entry = &self.ready[first - 1];
            if entry.seq < self.handed_out.max(self.shadow_from) {
                break;
            }
            first -= 1;
            bytes -= entry.len as usize;
        }
        (first < len).then_some(first)
    }
}

impl Queue {
    /// The id of its shadow.
    pub(crate) fn shadow(&self) -> u64 {
        self.id | SHADOW
    }

    /// Whether anything ever went to its shadow.
    pub(crate) fn has_shadow(&self) -> bool {
        self.has_shadow.load(Ordering::Acquire)
    }

    /// Bytes of waiting messages that are in memory.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        let state = self.state.lock();
        let tail = state.spill.as_ref().map_or(0, |spill| spill.tail_bytes);
        state.ready_bytes + tail
    }

    /// Messages at the back, beyond `keep`, that are in memory alone: at most `batch` of them, but one if there is any. The
    /// copies of `dropped`, which the log has anyway, are the caller's.
    pub(crate) fn to_unload(
        &self,
        keep: Room,
        batch: Room,
        arena: &Arena,
        dropped: &mut Vec<Entry>,
    ) -> Load {
        let mut load = Load::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.deleted {
            return load;
        }
        if let Some(first) = state.first_to_unload(keep) {
            state.spill_from(first, keep, dropped);
        }
        let Some(spill) = &state.spill else {
            return load;
        };
        let mut bytes = 0;
        for entry in spill.tail.iter().rev() {
            bytes += entry.len as usize;
            let full = load.entries.len() >= batch.messages || bytes > batch.bytes;
            if entry.seq < state.shadow_from || (full && !load.entries.is_empty()) {
                break;
            }
            load.entries.push(*entry);
        }
        load.entries.reverse();
        let runs = load.entries.chunk_by(|a, b| a.segment == b.segment);
        load.segments = runs.map(|run| arena.segment(run[0].segment)).collect();
        load
    }

    /// Has `append` put `entries` of a [`Load`] into the shadow, under the lock, if they wait here still: from then on they
    /// are in the log alone, and their copies in memory are the caller's. `None` if they do not wait here any more.
    pub(crate) fn unload<T, E>(
        &self,
        entries: &[Entry],
        append: impl FnOnce() -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (Some(spill), Some(first)) = (&mut state.spill, entries.first()) else {
            return Ok(None);
        };
        let at = spill.tail.partition_point(|entry| entry.seq < first.seq);
        let there = at..(at + entries.len()).min(spill.tail.len());
        let settled = first.seq < state.shadow_from;
        if state.deleted || settled || !spill.tail.range(there.clone()).eq(entries) {
            return Ok(None);
        }
        let appended = append()?;
        for entry in spill.tail.drain(there) {
            spill.tail_bytes -= entry.len as usize;
        }
        if spill.tail.capacity() > 4 * spill.tail.len().max(64) {
            spill.tail.shrink_to(2 * spill.tail.len());
        }
        spill.count += entries.len() as u64;
        state.unloads += 1;
        self.has_shadow.store(true, Ordering::Release);
        Ok(Some(appended))
    }
}
