//! What of a batch goes to the log, and the one append that takes it there.
//!
//! All or nothing: the numbers of all messages are reserved in their queues, the batch is appended, and only then the
//! messages are pushed. If the log refuses, the numbers are given up, and everything stays with the sender, as if
//! nothing had happened.

use std::ops::Range;

use backbone_log::{Appended, Batch, LogError, Reason, Segment, Source, Target};
use smallvec::SmallVec;

use super::LARGE_FROM_BYTES;
use super::lists::{List, Lists, Reserved};
use crate::durable::{Durable, Level, Promise};
use crate::queue::{State, Wakes};
use crate::record::{Entry, Record};

/// Room behind a large message, for its targets and padding.
const ROOM_BEHIND: usize = 4096;

/// The messages of a batch that are to be logged.
#[derive(Default)]
pub(crate) struct Plan {
    items: Vec<Item>,
    /// For each message its targets: list, and place in it.
    targets: Vec<(u32, u32)>,
}

/// One message.
struct Item {
    segment: u32,
    offset: u32,
    /// Its number in the queue that it leaves, if it leaves one where it is logged.
    source: Option<u64>,
    /// Where its targets end.
    targets_end: u32,
}

/// What an append gave.
pub(crate) struct Logged {
    /// What the senders have to wait for.
    pub promise: Promise,
    /// The log has more to write than it likes: wait for this batch before the next.
    pub over: Option<u64>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.targets.clear();
    }

    /// Adds a message without targets; [`Plan::target`] adds them.
    pub fn add(&mut self, entry: &Entry, source: Option<u64>) {
        self.items.push(Item {
            segment: entry.segment,
            offset: entry.offset,
            source,
            targets_end: self.targets.len() as u32,
        });
    }

    /// The message that was added last goes to the list with number `index`, as its next entry.
    #[inline]
    pub fn target(&mut self, index: u32, list: &mut List) {
        list.logged = true;
        self.targets.push((index, list.entries.len() as u32));
        if let Some(item) = self.items.last_mut() {
            item.targets_end = self.targets.len() as u32;
        }
    }

    /// Puts an entry of the message that was added last, to be logged, into the list with number `index` of `lists`.
    #[inline]
    pub fn enlist(&mut self, lists: &mut Lists, index: u32, entry: Entry) {
        let list = lists.get_mut(index);
        self.target(index, list);
        let flags = entry.flags | Entry::LOGGED;
        list.entries.push(Entry { flags, ..entry });
    }

    /// Names the segment of messages that were in the batch.
    pub fn place(&mut self, before: u32, segment: u32) {
        for item in &mut self.items {
            if item.segment == before {
                item.segment = segment;
            }
        }
    }

    /// Reserves the numbers of all entries in logged `lists`, and appends the messages in one batch. Messages with a
    /// source leave the queue `from`. `locked` is the state of the only list's queue, if that is locked. The caller has
    /// them written ([`backbone_log::Log::write_soon`]) once it holds no lock.
    pub fn append<'a>(
        &self,
        durable: &Durable,
        lists: &mut [List],
        from: u64,
        mut locked: Option<&mut State>,
        mut segment: impl FnMut(u32) -> &'a Segment,
        wakes: &mut Wakes,
    ) -> Result<Logged, LogError> {
        let mut batch = Batch::with_buffer(durable.log().buffer());
        let mut level = Level::Memory;
        for list in lists.iter_mut().filter(|list| list.logged) {
            reserve(list, locked.as_deref_mut(), &mut batch);
            level = level.max(list.queue.level());
        }
        self.write(&mut batch, lists, from, &mut segment);
        if batch.is_empty() {
            return Ok(Logged {
                promise: Promise::KEPT,
                over: None,
            });
        }
        if level < Level::Synced {
            batch.relax();
        }
        match durable.log().append_quietly(&mut batch) {
            Ok(Appended { lsn, over, .. }) => {
                durable.settle_late();
                Ok(Logged {
                    promise: Promise::new(lsn, level),
                    over: over.then_some(lsn),
                })
            }
            Err(error) => {
                for list in lists.iter_mut() {
                    if give_up(list, locked.as_deref_mut(), wakes) {
                        durable.forget(list.queue.id());
                    }
                }
                Err(error)
            }
        }
    }

    fn write<'a>(
        &self,
        batch: &mut Batch,
        lists: &[List],
        from: u64,
        segment: &mut impl FnMut(u32) -> &'a Segment,
    ) {
        let mut start = 0;
        for item in &self.items {
            let end = item.targets_end as usize;
            let targets = self.targets[start..end].iter().filter_map(|(list, at)| {
                let list = &lists[*list as usize];
                let numbers = &list.reserved.as_ref()?.numbers;
                Some(Target {
                    queue: list.queue.id(),
                    seq: numbers.start + u64::from(*at),
                })
            });
            let targets: SmallVec<[Target; 8]> = targets.collect();
            start = end;
            let mut source = item.source.map(|seq| seq..seq + 1);
            // One record, but for messages to more queues than that can name.
            for targets in targets.chunks(Batch::TARGETS_MAX) {
                let bytes = Record::bytes(segment(item.segment), item.offset);
                let write = |out: &mut Vec<u8>| {
                    if bytes.len() >= LARGE_FROM_BYTES {
                        // With what follows it: growing for that would take twice the memory.
                        out.reserve_exact(bytes.len() + ROOM_BEHIND);
                    }
                    out.extend_from_slice(bytes);
                };
                match source.take() {
                    None => batch.publish(targets, false, write),
                    Some(seqs) => {
                        let queue = from;
                        batch.transfer_with(&[Source { queue, seqs }], targets, write)
                    }
                };
            }
            if let Some(seqs) = source {
                batch.settle(from, &[seqs], Reason::Drop);
            }
        }
    }
}

/// Reserves numbers for a list's entries, and tells the log of those that it will never see.
fn reserve(list: &mut List, locked: Option<&mut State>, batch: &mut Batch) {
    let (count, mut gaps) = (list.entries.len() as u64, Vec::new());
    let numbers = match locked {
        Some(state) => Some(state.reserve(count, &mut gaps)),
        None => list.queue.reserve(count, &mut gaps),
    };
    let Some(numbers) = numbers else { return };
    let mut never = gaps.clone();
    for (entry, seq) in list.entries.iter_mut().zip(numbers.start..) {
        entry.seq = seq;
        if !entry.is_logged() {
            add_number(&mut never, seq);
        }
    }
    if !never.is_empty() {
        batch.settle(list.queue.id(), &never, Reason::Drop);
    }
    list.reserved = Some(Reserved { numbers, gaps });
}

/// Gives up the numbers of a list; true when its queue is deleted, and the log may forget it.
fn give_up(list: &mut List, locked: Option<&mut State>, wakes: &mut Wakes) -> bool {
    let Some(Reserved { numbers, gaps }) = list.reserved.take() else {
        return false;
    };
    match locked {
        Some(state) => state.give_up(&numbers, gaps, wakes),
        None => list.queue.give_up(&numbers, gaps, wakes),
    }
}

/// Adds a number to ranges, of which it may continue the last.
pub(crate) fn add_number(ranges: &mut Vec<Range<u64>>, number: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == number => last.end += 1,
        _ => ranges.push(number..number + 1),
    }
}
