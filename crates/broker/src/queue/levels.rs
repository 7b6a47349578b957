//! Priority queues: one queue for each priority in use, behind the one that clients know.
//!
//! The queue that clients know, the *front*, owns consumers, their credit, and the count of what is unsettled; it stores
//! nothing. Each priority in use is a *level*: a queue with a lock, numbers and an id in the log of its own, so that
//! spilling, paging in and restoring are what they are for any queue. Publishers put messages into levels
//! ([`Queue::home`]); a level rings the front, which hands out what the highest level has.
//!
//! - Ids: a queue with priorities up to n has n + 1 ids. Level k is known to the log by the front's id + k.
//! - Numbers: outside of its level, a message's number has the level in its highest octet, higher levels lower, so that
//!   the order of numbers is the order of deliveries ([`tag`]).
//! - A level that has messages, but none in memory, is waited for: nothing lower overtakes it.
//!
//! Locks: the front, then one of its levels.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use backbone_log::{Arena, Batch, Reason, Source};
use backbone_wire::properties::Properties;
use backbone_wire::table::Table;
use parking_lot::Mutex;

use super::{Bell, Features, Queue, QueueOptions, QueueStats, Settings, Wakes};
use crate::dedup::Dedup;
use crate::pager::Pager;
use crate::record::{Entry, HEADER_FIXED_LEN};
use crate::timetable::Timetable;

/// Where in a number its level stands.
const LEVEL_SHIFT: u32 = 56;

/// The levels of a priority queue.
pub(crate) struct Levels {
    name: Arc<str>,
    /// Of level 0.
    id: u64,
    options: QueueOptions,
    /// Of each level. Changed under the front's lock, under which levels are made too.
    settings: Mutex<Settings>,
    pager: Option<Arc<Pager>>,
    dedup: Option<Arc<Dedup>>,
    /// By priority; made when a first message comes.
    queues: Box<[OnceLock<Arc<Queue>>]>,
    /// A bit for each level that may have messages. It is taken off before the level is looked into, and put back if
    /// that has some; whoever puts messages in sets it afterwards.
    filled: [AtomicU64; 4],
    front: Weak<Queue>,
    /// Where levels are entered to be looked at.
    timetable: OnceLock<Timetable>,
}

/// Rung by a level that has got messages.
struct LevelBell(Weak<Queue>);

impl Bell for LevelBell {
    fn ring(&self, level: u64) {
        if let Some(front) = self.0.upgrade() {
            front.filled(level as u8);
        }
    }

    fn cancelled(&self, _level: u64) {}
}

/// The number outside of its level.
pub(super) fn tag(level: u8, seq: u64) -> u64 {
    debug_assert!(seq >> LEVEL_SHIFT == 0);
    u64::from(u8::MAX - level) << LEVEL_SHIFT | seq
}

/// The level, and the number in it.
fn untag(seq: u64) -> (u8, u64) {
    let level = u8::MAX - (seq >> LEVEL_SHIFT) as u8;
    (level, seq & ((1 << LEVEL_SHIFT) - 1))
}

fn tagged(level: u8, entry: Entry) -> Entry {
    let seq = tag(level, entry.seq);
    Entry { seq, ..entry }
}

impl Levels {
    pub(super) fn new(
        front: &Weak<Queue>,
        queue: &Queue,
        priority_max: u8,
        pager: Option<&Arc<Pager>>,
    ) -> Self {
        let options = &queue.options;
        let arguments = Table::assume_checked(&options.arguments);
        Self {
            name: Arc::clone(&queue.name),
            id: queue.id,
            options: options.clone(),
            dedup: queue.dedup.clone(),
            settings: Mutex::new(Settings::of(arguments).of_level()),
            pager: pager.cloned(),
            queues: (0..=priority_max).map(|_| OnceLock::new()).collect(),
            filled: Default::default(),
            front: Weak::clone(front),
            timetable: OnceLock::new(),
        }
    }

    /// The levels in use, lowest first.
    fn in_use(&self) -> impl DoubleEndedIterator<Item = (u8, &Arc<Queue>)> {
        let all = self.queues.iter().enumerate();
        all.filter_map(|(level, queue)| Some((level as u8, queue.get()?)))
    }

    fn get_or_make(&self, level: u8) -> &Arc<Queue> {
        self.queues[usize::from(level)].get_or_init(|| {
            let id = self.id + u64::from(level);
            let queue = Arc::new(self.make(id));
            let front = Arc::new(LevelBell(Weak::clone(&self.front)));
            let mut state = queue.lock();
            state.front = Some((front, level));
            if let Some(pager) = &self.pager {
                state.page_bell = Some(pager.bell(&queue));
            }
            drop(state);
            if let Some(timetable) = self.timetable.get() {
                queue.set_clock(&timetable.clock(&queue), &mut Wakes::default());
            }
            queue
        })
    }

    fn make(&self, id: u64) -> Queue {
        let settings = self.settings.lock().clone();
        let (options, features) = (self.options.clone(), Features::default());
        let queue = Queue::with(&self.name, id, options, features, settings);
        let front = Weak::clone(&self.front);
        Queue { front, ..queue }.with_dedup(self.dedup.clone())
    }

    /// Has these settings hold for all levels. Called under the front's lock.
    pub(super) fn apply(&self, settings: &Settings, arena: &Arena, wakes: &mut Wakes) {
        settings.clone_into(&mut self.settings.lock());
        for (_, level) in self.in_use() {
            level.apply_own(&mut level.lock(), settings.clone(), arena, wakes);
        }
    }

    /// A queue into which nothing can be put, for messages to a front that is deleted.
    fn deleted(&self) -> Arc<Queue> {
        let queue = self.make(self.id);
        queue.lock().deleted = true;
        Arc::new(queue)
    }

    fn note_filled(&self, level: u8) {
        let bit = 1 << (level % 64);
        self.filled[usize::from(level / 64)].fetch_or(bit, Ordering::AcqRel);
    }

    /// Calls `look` with the levels that may have messages, highest first, until it says that it has seen enough. It also
    /// says whether there are more in the level.
    fn descend<'a>(&'a self, mut look: impl FnMut(u8, &'a Arc<Queue>) -> Look) {
        for word in (0..self.filled.len()).rev() {
            loop {
                let bits = self.filled[word].load(Ordering::Acquire);
                if bits == 0 {
                    break;
                }
                let bit = 63 - bits.leading_zeros();
                self.filled[word].fetch_and(!(1 << bit), Ordering::AcqRel);
                let level = (word * 64) as u8 + bit as u8;
                match look(level, self.get_or_make(level)) {
                    Look::Empty => {}
                    Look::Enough { more } => {
                        if more {
                            self.note_filled(level);
                        }
                        return;
                    }
                }
            }
        }
    }

    /// The first message of the highest level that has any.
    pub(super) fn peek(&self) -> Option<Entry> {
        let mut first = None;
        self.descend(|level, queue| {
            let state = queue.lock();
            first = state.peek().map(|entry| tagged(level, entry));
            Look::at(state.ready_len())
        });
        first
    }

    /// Moves messages from the highest levels to `out`: at most `count_max`, and none after the one that reaches
    /// `bytes_max`.
    pub(super) fn draw(
        &self,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) {
        let (mut count, mut bytes) = (0, 0);
        if count_max == 0 {
            return;
        }
        self.descend(|level, queue| {
            let mut state = queue.lock();
            let before = out.len();
            while count < count_max && bytes < bytes_max {
                let Some(entry) = state.pop() else { break };
                (count, bytes) = (count + 1, bytes + entry.len as usize);
                out.push(tagged(level, entry));
            }
            if let Some(rules) = &mut state.rules {
                rules.went(&out[before..]);
            }
            queue.after(&mut state, wakes);
            Look::at(state.ready_len())
        });
    }

    /// Puts a message back into its level.
    pub(super) fn put_back(&self, entry: Entry) {
        let (level, seq) = untag(entry.seq);
        let mut state = self.get_or_make(level).lock();
        let entry = Entry { seq, ..entry };
        state.put_back(entry);
        if let Some(rules) = &mut state.rules {
            rules.came(&[entry]);
        }
        drop(state);
        self.note_filled(level);
    }

    /// Bytes of the bodies that wait in memory behind the first `due` messages.
    pub(super) fn body_bytes_behind(&self, mut due: usize) -> u64 {
        let mut bytes = 0;
        for (_, level) in self.in_use().rev() {
            let state = level.lock();
            let all = state.rules.as_ref().map_or(0, |rules| rules.body_bytes);
            let first = due.min(state.ready.len() + state.returned.len());
            let first_bytes = (0..first).filter_map(|at| state.nth(at));
            let first_bytes: u64 = first_bytes.map(|it| u64::from(it.body_len())).sum();
            bytes += all.saturating_sub(first_bytes);
            due -= first;
        }
        bytes
    }

    /// Takes out the message with so many before it, unless some of these are in the log alone.
    pub(super) fn remove_nth(&self, mut at: usize) -> Option<Entry> {
        for (level, queue) in self.in_use().rev() {
            let mut state = queue.lock();
            let here = state.ready.len() + state.returned.len();
            if at < here {
                let entry = state.remove_nth(at)?;
                if let Some(rules) = &mut state.rules {
                    rules.went(&[entry]);
                }
                return Some(tagged(level, entry));
            }
            if state.spilled_len() > 0 {
                return None;
            }
            at -= here;
        }
        None
    }

    pub(super) fn ready_len(&self) -> u64 {
        self.in_use()
            .map(|(_, level)| level.lock().ready_len())
            .sum()
    }

    /// The level whose messages are next, if they are in the log alone.
    fn first_spilled(&self) -> Option<Arc<Queue>> {
        let mut first = None;
        self.descend(|_, queue| {
            let state = queue.lock();
            if state.ready_len() > 0 && !state.waiting() {
                first = Some(Arc::clone(queue));
            }
            Look::at(state.ready_len())
        });
        first
    }
}

/// What was found in a level.
enum Look {
    /// Nothing at all.
    Empty,
    /// Something: nobody should look further.
    Enough { more: bool },
}

impl Look {
    fn at(ready: u64) -> Self {
        match ready {
            0 => Self::Empty,
            _ => Self::Enough { more: true },
        }
    }
}

impl Queue {
    /// A queue to be shared, and all that it is made of. Its pages are brought in by `pager`.
    pub(crate) fn shared(
        name: &str,
        id: u64,
        options: QueueOptions,
        features: Features,
        pager: Option<&Arc<Pager>>,
    ) -> Arc<Self> {
        let queue = Arc::new_cyclic(|front| {
            let mut queue = Self::declared(&name.into(), id, options, features);
            if let Some(max) = features.priority_max {
                let levels = Levels::new(front, &queue, max, pager);
                let levels = Arc::new(levels);
                queue.state.get_mut().levels = Some(Arc::clone(&levels));
                queue.levels = Some(levels);
            }
            queue
        });
        if let (Some(pager), None) = (pager, &queue.levels) {
            queue.set_page_bell(pager.bell(&queue));
        }
        queue
    }

    /// The highest priority of a priority queue.
    pub(crate) fn priority_max(&self) -> Option<u8> {
        let levels = self.levels.as_ref()?;
        Some((levels.queues.len() - 1) as u8)
    }

    /// Whether it is a priority queue.
    pub(crate) fn is_ranked(&self) -> bool {
        self.levels.is_some()
    }

    /// Where a message with this content header is put: the level of its priority, in a queue that has such.
    pub(crate) fn home(self: &Arc<Self>, header: &[u8]) -> Arc<Self> {
        let Some(levels) = &self.levels else {
            return Arc::clone(self);
        };
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let highest = (levels.queues.len() - 1) as u8;
        self.level_queue(levels, properties.priority().unwrap_or(0).min(highest))
    }

    fn level_queue(&self, levels: &Levels, level: u8) -> Arc<Self> {
        if let Some(queue) = levels.queues[usize::from(level)].get() {
            return Arc::clone(queue);
        }
        // Under the front's lock: its deletion finds all levels.
        let state = self.state.lock();
        match state.deleted {
            true => levels.deleted(),
            false => Arc::clone(levels.get_or_make(level)),
        }
    }

    /// The queues that have its messages.
    pub(crate) fn stores(self: &Arc<Self>) -> Vec<Arc<Self>> {
        match &self.levels {
            None => vec![Arc::clone(self)],
            Some(levels) => levels
                .in_use()
                .map(|(_, level)| Arc::clone(level))
                .collect(),
        }
    }

    /// Of a priority queue, where messages go of which nobody said more.
    pub(super) fn lowest(&self) -> Option<Arc<Self>> {
        let levels = self.levels.as_ref()?;
        Some(self.level_queue(levels, 0))
    }

    /// Calls `each` with the queues that have its messages: its levels in use, or itself.
    pub(crate) fn each_part(&self, mut each: impl FnMut(&Queue)) {
        match &self.levels {
            None => each(self),
            Some(levels) => levels.in_use().for_each(|(_, level)| each(level)),
        }
    }

    /// Whether its messages are known to the log by one of `ids`.
    pub fn has_any_id(&self, ids: &[u64]) -> bool {
        let mut any = false;
        self.each_part(|part| any |= ids.contains(&part.id()));
        any
    }

    /// What its parts know that the front does not: what is ready, how much of that in the log alone, and what was ever
    /// put in.
    pub(super) fn add_levels(&self, stats: &mut QueueStats) {
        for (_, level) in self.levels.iter().flat_map(|levels| levels.in_use()) {
            let part = level.stats();
            stats.paged_out += part.paged_out;
            stats.published += part.published;
        }
    }

    /// Of a priority queue, the level whose messages are next, if they are in the log alone.
    pub(crate) fn spilled_level(&self) -> Option<Arc<Self>> {
        self.levels.as_ref()?.first_spilled()
    }

    /// What messages with these numbers, as they were handed out, are in the log.
    pub(crate) fn in_log(&self, numbers: Range<u64>) -> Source {
        let (queue, seqs) = match &self.levels {
            None => (self.id, numbers),
            Some(_) => {
                let (level, start) = untag(numbers.start);
                let end = start + (numbers.end - numbers.start);
                (self.id + u64::from(level), start..end)
            }
        };
        Source { queue, seqs }
    }

    /// Adds to `batch` that the messages with these numbers, as they were handed out, are done with.
    pub(crate) fn settle_in(&self, batch: &mut Batch, numbers: &[Range<u64>], reason: Reason) {
        match self.levels {
            None => batch.settle(self.id, numbers, reason),
            Some(_) => batch.settle_many(numbers.iter().cloned().map(|n| self.in_log(n)), reason),
        }
    }

    /// Sets what the log knows of the messages of level `level`, as [`Queue::restore`].
    pub(crate) fn restore_level(&self, level: u8, live: u64, low: u64, next: u64) {
        let Some(levels) = &self.levels else { return };
        let queue = self.level_queue(levels, level);
        queue.restore(live, low, next);
        levels.note_filled(level);
    }

    /// Takes note that one of its levels may have messages.
    pub(super) fn note_level(&self, level: &Queue) {
        if let Some(levels) = &self.levels {
            levels.note_filled((level.id - self.id) as u8);
        }
    }

    /// A level has got messages.
    fn filled(&self, level: u8) {
        let Some(levels) = &self.levels else { return };
        levels.note_filled(level);
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        state.dispatch(&mut wakes);
        if state.is_watched() {
            // There may be more than there may be.
            self.book(&state, 0, &mut wakes);
        }
        self.after(&mut state, &mut wakes);
        drop(state);
        wakes.ring();
    }

    /// Has levels looked at when their messages expire.
    pub(crate) fn wind_up_levels(&self, timetable: &Timetable, wakes: &mut Wakes) {
        let Some(levels) = &self.levels else { return };
        // Nobody else does it.
        let _ = levels.timetable.set(timetable.clone());
        for (_, level) in levels.in_use() {
            level.set_clock(&timetable.clock(level), wakes);
        }
    }

    /// Of a priority queue, the level; else the queue itself.
    pub(crate) fn part(self: &Arc<Self>, level: u8) -> Arc<Self> {
        match &self.levels {
            None => Arc::clone(self),
            Some(levels) => self.level_queue(levels, level),
        }
    }

    /// Entries as they were handed out, with the queues that the log knows them of, as these number them.
    pub(crate) fn in_parts(self: &Arc<Self>, entries: Vec<Entry>) -> Vec<(Arc<Self>, Vec<Entry>)> {
        if self.levels.is_none() {
            return vec![(Arc::clone(self), entries)];
        }
        let mut parts: Vec<(u8, Vec<Entry>)> = Vec::new();
        for entry in entries {
            let (level, seq) = untag(entry.seq);
            let entry = Entry { seq, ..entry };
            match parts.last_mut() {
                Some((last, entries)) if *last == level => entries.push(entry),
                _ => parts.push((level, vec![entry])),
            }
        }
        let parts = parts.into_iter();
        parts
            .map(|(level, entries)| (self.part(level), entries))
            .collect()
    }
}
