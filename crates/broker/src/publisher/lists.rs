//! What a batch brings to each queue, until the commit takes it there.

use std::ops::Range;
use std::sync::Arc;

use ahash::AHashMap;

use crate::flow::Flow;
use crate::queue::Queue;
use crate::record::Entry;

/// Up to here looking at each list is cheaper than hashing.
const SCAN_MAX: usize = 8;
/// Entries that the memory of spare lists has room for, all together: 3 MiB.
const SPARE_ENTRIES_MAX: usize = 128 * 1024;

/// Entries for one queue.
pub(crate) struct List {
    pub queue: Arc<Queue>,
    /// The flow that accepts them instead of the queue.
    pub flow: Option<Arc<Flow>>,
    pub entries: Vec<Entry>,
    /// Some of them are to be logged.
    pub logged: bool,
    /// The numbers of all entries, once the log has the batch.
    pub reserved: Option<Reserved>,
}

/// Numbers that a queue reserved.
pub(crate) struct Reserved {
    pub numbers: Range<u64>,
    /// What the log was told of with them.
    pub gaps: Vec<Range<u64>>,
}

/// A batch's lists, in the order of their first messages. Empty between commits.
#[derive(Default)]
pub(crate) struct Lists {
    lists: Vec<List>,
    /// By [`key`], while there are more than [`SCAN_MAX`].
    places: AHashMap<(usize, usize), u32>,
}

/// Empty lists of entries for the next batches, so that these cost no allocation.
#[derive(Default)]
pub(crate) struct Spare {
    lists: Vec<Vec<Entry>>,
    /// What they have room for.
    entries: usize,
}

impl Lists {
    /// The index of the entries for `queue`, or for its `flow`. They are begun if they are not there.
    pub fn of(&mut self, queue: &Arc<Queue>, flow: Option<&Arc<Flow>>, spare: &mut Spare) -> u32 {
        let wanted = key(queue, flow);
        if let Some(index) = self.find(wanted) {
            return index;
        }
        let index = self.lists.len() as u32;
        self.lists.push(List {
            queue: Arc::clone(queue),
            flow: flow.cloned(),
            entries: spare.take(),
            logged: false,
            reserved: None,
        });
        match self.lists.len() - 1 {
            ..SCAN_MAX => {}
            SCAN_MAX => {
                let lists = self.lists.iter().zip(0..);
                self.places.extend(lists.map(|(list, at)| (list.key(), at)));
            }
            _ => {
                self.places.insert(wanted, index);
            }
        }
        index
    }

    fn find(&self, wanted: (usize, usize)) -> Option<u32> {
        if self.lists.len() > SCAN_MAX {
            return self.places.get(&wanted).copied();
        }
        let at = self.lists.iter().position(|list| list.key() == wanted);
        at.map(|at| at as u32)
    }

    /// The list that [`Lists::of`] named.
    #[inline]
    pub fn get(&self, index: u32) -> &List {
        &self.lists[index as usize]
    }

    /// Adds to the list that [`Lists::of`] named.
    #[inline]
    pub fn push(&mut self, index: u32, entry: Entry) {
        self.lists[index as usize].entries.push(entry);
    }

    /// Takes all lists out; the memory of the outer one may come back by [`Lists::reuse`].
    pub fn take(&mut self) -> Vec<List> {
        self.places.clear();
        std::mem::take(&mut self.lists)
    }

    /// The list that [`Lists::of`] named, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> &mut List {
        &mut self.lists[index as usize]
    }

    /// All lists.
    pub fn all(&mut self) -> &mut [List] {
        &mut self.lists
    }

    /// Puts back lists that [`Lists::take`] gave, before others were begun.
    pub fn put_back(&mut self, lists: Vec<List>) {
        debug_assert!(self.lists.is_empty());
        self.lists = lists;
        if self.lists.len() > SCAN_MAX {
            let lists = self.lists.iter().zip(0..);
            self.places.extend(lists.map(|(list, at)| (list.key(), at)));
        }
    }

    /// Uses the memory of what [`Lists::take`] gave, which is empty now, for the next batch.
    pub fn reuse(&mut self, lists: Vec<List>) {
        debug_assert!(lists.is_empty() && self.lists.is_empty());
        self.lists = lists;
    }
}

impl List {
    fn key(&self) -> (usize, usize) {
        key(&self.queue, self.flow.as_ref())
    }
}

/// Says which queue and flow it is, as long as both are held.
fn key(queue: &Arc<Queue>, flow: Option<&Arc<Flow>>) -> (usize, usize) {
    let flow = flow.map_or(0, |flow| Arc::as_ptr(flow).addr());
    (Arc::as_ptr(queue).addr(), flow)
}

impl Spare {
    /// An empty list.
    pub fn take(&mut self) -> Vec<Entry> {
        let entries = self.lists.pop().unwrap_or_default();
        self.entries -= entries.capacity();
        entries
    }

    /// Takes a list whose entries are not needed any more.
    pub fn keep(&mut self, mut entries: Vec<Entry>) {
        let room = self.entries + entries.capacity();
        if room <= SPARE_ENTRIES_MAX {
            entries.clear();
            self.entries = room;
            self.lists.push(entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueOptions;

    fn queues(count: u64) -> Vec<Arc<Queue>> {
        let queue = |n| Arc::new(Queue::new(&format!("q{n}"), n, QueueOptions::default()));
        (0..count).map(queue).collect()
    }

    #[test]
    fn each_queue_has_one_list_however_many_there_are() {
        let (mut lists, mut spare) = (Lists::default(), Spare::default());
        let queues = queues(100);
        for count in [1, SCAN_MAX, SCAN_MAX + 1, SCAN_MAX + 2, 100, 3] {
            for _ in 0..2 {
                for (queue, index) in queues[..count].iter().zip(0..) {
                    assert_eq!(lists.of(queue, None, &mut spare), index);
                    assert_eq!(lists.find(key(queue, None)), Some(index));
                }
            }
            let mut taken = lists.take();
            assert_eq!(taken.len(), count);
            for (list, queue) in taken.drain(..).zip(&queues) {
                assert!(Arc::ptr_eq(&list.queue, queue));
            }
            lists.reuse(taken);
            assert!(queues.iter().all(|q| lists.find(key(q, None)).is_none()));
        }
    }

    #[test]
    fn spare_lists_are_bounded_by_their_memory() {
        let mut spare = Spare::default();
        let half = SPARE_ENTRIES_MAX / 2;
        for _ in 0..3 {
            spare.keep(Vec::with_capacity(half));
        }
        assert_eq!((spare.lists.len(), spare.entries), (2, 2 * half));
        assert_eq!(spare.take().capacity(), half);
        spare.keep(Vec::with_capacity(half + 1));
        assert_eq!((spare.lists.len(), spare.entries), (1, half));
        spare.take();
        assert_eq!((spare.take().capacity(), spare.entries), (0, 0));
    }
}
