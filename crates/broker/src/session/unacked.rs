//! The messages that a channel holds unsettled, by delivery tag.
//!
//! Invariant: tags grow from front to back; the front is never a settled one.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::record::Entry;

/// A message out for acknowledgement. 32 bytes, because a channel may hold a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unacked {
    pub tag: u64,
    pub seq: u64,
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
    /// [`SETTLED`], or the index of the session's source with the bits [`IN_TX`], [`LOGGED`] and [`OVERDUE`].
    source: u32,
}

const _: () = assert!(size_of::<Unacked>() == 32);

const SETTLED: u32 = u32::MAX;
/// Settled slots that may stay in the ring, besides as many as are held: taking one out is
/// constant time on average.
const SETTLED_MAX: usize = 1024;
/// A transaction that is not committed settles it.
const IN_TX: u32 = 1 << 31;
/// The message is in the log.
const LOGGED: u32 = 1 << 30;
/// It went back to its queue, since nobody acknowledged it in time; its place is still taken.
const OVERDUE: u32 = 1 << 29;

impl Unacked {
    pub fn new(tag: u64, source: u32, entry: &Entry) -> Self {
        debug_assert!(source < OVERDUE);
        let logged = if entry.is_logged() { LOGGED } else { 0 };
        Self {
            tag,
            seq: entry.seq,
            segment: entry.segment,
            offset: entry.offset,
            len: entry.len,
            source: source | logged,
        }
    }

    /// The source that it came from.
    pub fn source(&self) -> u32 {
        self.source & !(IN_TX | LOGGED | OVERDUE)
    }

    /// Whether the log has to hear when it is settled.
    pub fn is_logged(&self) -> bool {
        self.source & LOGGED != 0
    }

    /// The entry to put back.
    pub fn entry(&self) -> Entry {
        Entry {
            seq: self.seq,
            segment: self.segment,
            offset: self.offset,
            len: self.len,
            flags: if self.is_logged() { Entry::LOGGED } else { 0 },
        }
    }

    fn is_open(&self) -> bool {
        self.source & (IN_TX | OVERDUE) == 0
    }

    fn is_overdue(&self) -> bool {
        self.source & OVERDUE != 0 && self.source != SETTLED
    }
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    slots: VecDeque<Unacked>,
    /// Slots that are not settled, marked ones included.
    held: usize,
    /// Of these, the overdue ones.
    overdue: usize,
}

impl Ring {
    /// Messages not settled. What an open transaction settles is still held.
    pub fn len(&self) -> usize {
        self.held
    }

    /// Adds a message; its tag is above all others.
    #[inline]
    pub fn push(&mut self, unacked: Unacked) {
        debug_assert!(self.slots.back().is_none_or(|last| last.tag < unacked.tag));
        self.slots.push_back(unacked);
        self.held += 1;
    }

    /// Of the messages in the log with tags above `tag`, only the number is kept. Returns the segments in which that leaves copies,
    /// with how many.
    #[cold]
    pub fn let_go(&mut self, tag: u64) -> Vec<(u32, u64)> {
        let mut copies: Vec<(u32, u64)> = Vec::new();
        let new = self.slots.iter_mut().rev();
        for slot in new.take_while(|slot| slot.tag > tag) {
            if slot.source == SETTLED || !slot.is_logged() || slot.segment == Entry::AWAY {
                continue;
            }
            let segment = std::mem::replace(&mut slot.segment, Entry::AWAY);
            match copies.last_mut() {
                Some((last, count)) if *last == segment => *count += 1,
                _ => copies.push((segment, 1)),
            }
        }
        copies
    }

    /// Takes out the message with `tag`; `None` when there is none to be settled.
    #[inline]
    pub fn take(&mut self, tag: u64) -> Option<Unacked> {
        let index = self.find(tag)?;
        self.slots[index].is_open().then(|| self.take_at(index))
    }

    /// Takes out the oldest message whose tag is at most `tag`.
    #[inline]
    pub fn take_up_to(&mut self, tag: u64) -> Option<Unacked> {
        let index = self.slots.iter().position(Unacked::is_open)?;
        (self.slots[index].tag <= tag).then(|| self.take_at(index))
    }

    #[inline(always)]
    fn take_at(&mut self, index: usize) -> Unacked {
        let slot = &mut self.slots[index];
        let taken = *slot;
        slot.source = SETTLED;
        self.held -= 1;
        self.trim();
        taken
    }

    /// Whether `tag` is there to be settled.
    pub fn contains(&self, tag: u64) -> bool {
        self.find(tag)
            .is_some_and(|index| self.slots[index].is_open())
    }

    /// Marks `tag`, and with `multiple` all open ones below, as settled by a transaction that is
    /// not committed; returns their tags.
    pub fn mark_in_tx(&mut self, tag: u64, multiple: bool) -> Vec<u64> {
        let mut marked = Vec::new();
        for slot in &mut self.slots {
            if slot.is_open() && (slot.tag == tag || (multiple && slot.tag < tag)) {
                slot.source |= IN_TX;
                marked.push(slot.tag);
            }
        }
        marked
    }

    /// Takes the mark of a transaction from `tag`.
    pub fn unmark(&mut self, tag: u64) {
        let index = self.find(tag).expect("a marked message stays in the ring");
        self.slots[index].source &= !IN_TX;
    }

    /// Takes out all, marked ones too, oldest first.
    pub fn take_all(&mut self) -> impl Iterator<Item = Unacked> {
        self.held = 0;
        std::mem::take(&mut self.slots)
            .into_iter()
            .filter(|slot| slot.source != SETTLED)
    }

    /// Takes out all but what an open transaction settles, oldest first.
    pub fn take_open(&mut self) -> Vec<Unacked> {
        let held = std::mem::take(&mut self.slots).into_iter();
        let held = held.filter(|slot| slot.source != SETTLED);
        let (open, marked): (Vec<_>, Vec<_>) = held.partition(Unacked::is_open);
        self.slots = marked.into();
        self.held = self.slots.len();
        open
    }

    /// Marks the open ones of `source` with tags below `below` as overdue, and adds them to `out`. Returns the lowest tag that a
    /// transaction keeps from that.
    pub fn mark_overdue(&mut self, source: u32, below: u64, out: &mut Vec<Unacked>) -> Option<u64> {
        let mut in_tx = None;
        for slot in self.slots.iter_mut().take_while(|slot| slot.tag < below) {
            if slot.source == SETTLED || slot.source() != source || slot.is_overdue() {
                continue;
            }
            if slot.is_open() {
                out.push(*slot);
                slot.source |= OVERDUE;
                self.overdue += 1;
            } else {
                in_tx = in_tx.or(Some(slot.tag));
            }
        }
        in_tx
    }

    /// Takes the marks off again.
    pub fn unmark_overdue(&mut self, marked: &[Unacked]) {
        for Unacked { tag, .. } in marked {
            let index = self.find(*tag).expect("a marked message stays in the ring");
            self.slots[index].source &= !OVERDUE;
        }
        self.overdue -= marked.len();
    }

    /// Whether `tag` is an overdue one's.
    pub fn is_overdue(&self, tag: u64) -> bool {
        self.find(tag)
            .is_some_and(|index| self.slots[index].is_overdue())
    }

    /// Takes out the overdue ones with these tags; returns their sources.
    pub fn take_overdue(&mut self, tags: RangeInclusive<u64>) -> Vec<u32> {
        let mut sources = Vec::new();
        if self.overdue == 0 {
            return sources;
        }
        let from = self.slots.partition_point(|slot| slot.tag < *tags.start());
        for slot in self.slots.iter_mut().skip(from) {
            if slot.tag > *tags.end() {
                break;
            }
            if slot.is_overdue() {
                sources.push(slot.source());
                slot.source = SETTLED;
            }
        }
        self.overdue -= sources.len();
        self.held -= sources.len();
        self.trim();
        sources
    }

    fn find(&self, tag: u64) -> Option<usize> {
        let first = self.slots.front()?.tag;
        let guess = usize::try_from(tag.checked_sub(first)?).ok()?;
        match self.slots.get(guess) {
            Some(slot) if slot.tag == tag => Some(guess),
            _ => self.slots.binary_search_by_key(&tag, |slot| slot.tag).ok(),
        }
    }

    fn trim(&mut self) {
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.source == SETTLED)
        {
            self.slots.pop_front();
        }
        // Behind one that stays unsettled for long, the settled ones must not pile up.
        if self.slots.len() > 2 * self.held + SETTLED_MAX {
            self.slots.retain(|slot| slot.source != SETTLED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(tags: &[u64]) -> Ring {
        let mut ring = Ring::default();
        let entry = Entry {
            seq: 0,
            segment: 0,
            offset: 0,
            len: 0,
            flags: 0,
        };
        for tag in tags {
            ring.push(Unacked::new(*tag, 3, &entry));
        }
        ring
    }

    #[test]
    fn each_tag_is_settled_once() {
        let mut ring = ring(&[1, 2, 4, 8, 9]);
        assert_eq!(ring.take(4).unwrap().source(), 3);
        assert!(ring.take(4).is_none() && ring.take(3).is_none() && ring.take(0).is_none());
        assert_eq!(ring.take_up_to(8).unwrap().tag, 1);
        assert_eq!(ring.take_up_to(8).unwrap().tag, 2);
        assert_eq!(ring.take_up_to(8).unwrap().tag, 8);
        assert!(ring.take_up_to(8).is_none());
        assert_eq!(
            (ring.len(), ring.contains(9), ring.contains(8)),
            (1, true, false)
        );
    }

    #[test]
    fn one_that_stays_does_not_keep_the_others() {
        let mut ring = ring(&[1, 2]);
        for tag in 3..100_000 {
            ring.push(Unacked {
                tag,
                ..ring.slots[0]
            });
            assert_eq!(ring.take(tag - 1).unwrap().tag, tag - 1);
            assert!(ring.slots.len() <= 2 * ring.len() + SETTLED_MAX);
        }
        assert!(ring.contains(1) && !ring.contains(2) && ring.contains(99_999));
        assert_eq!(ring.len(), 2);
    }

    #[test]
    fn an_overdue_one_takes_its_place_until_its_tag_is_named() {
        let mut ring = ring(&[1, 2, 3, 4]);
        ring.mark_in_tx(2, false);
        let mut overdue = Vec::new();
        assert_eq!(ring.mark_overdue(9, 5, &mut overdue), None);
        assert_eq!(ring.mark_overdue(3, 4, &mut overdue), Some(2));
        let tags: Vec<u64> = overdue.iter().map(|slot| slot.tag).collect();
        assert_eq!((tags, ring.len()), (vec![1, 3], 4));
        assert!(!ring.contains(1) && ring.take(1).is_none() && ring.is_overdue(1));
        assert!(!ring.is_overdue(2) && !ring.is_overdue(4));
        assert_eq!(ring.take_overdue(1..=1), [3]);
        assert_eq!((ring.len(), ring.is_overdue(1)), (3, false));
        ring.unmark(2);
        assert_eq!(ring.take_up_to(4).unwrap().tag, 2);
        assert_eq!(ring.take_up_to(4).unwrap().tag, 4);
        assert_eq!(ring.take_overdue(0..=9), [3]);
        assert_eq!((ring.len(), ring.slots.len()), (0, 0));
    }

    #[test]
    fn a_transaction_holds_what_it_settles_until_rollback() {
        let mut ring = ring(&[1, 2, 3]);
        assert_eq!(ring.mark_in_tx(2, true), [1, 2]);
        assert!(ring.take(1).is_none() && ring.len() == 3);
        ring.unmark(1);
        assert!(ring.contains(1) && !ring.contains(2));
        assert_eq!(
            ring.take_all().map(|u| u.tag).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }
}
