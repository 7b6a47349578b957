//! A queue's messages in the order of their numbers, from the indexes of all segments.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::arena::Position;
use crate::error::{LogError, Result};
use crate::format::{index_name, segment_name};
use crate::index::{self, Entry, Group, GroupKey, Page, Place, Table};
use crate::log::{Log, Shared};
use crate::recovery::{DAMAGES_MAX, Damage};
use crate::scan::{Scan, Walked};
use crate::state::State;

/// Attempts before a load gives up on indexes that are damaged or change while it reads.
const ATTEMPTS_MAX: usize = 64;

/// A message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Its number.
    pub seq: u64,
    /// Where its payload is.
    pub position: Position,
    /// Bytes of the payload.
    pub len: u32,
}

/// A key and its latest value, both opaque to the log.
pub type Definition = (Box<[u8]>, Box<[u8]>);

/// What the log knows of a queue or a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// The queue.
    pub queue: u64,
    /// All numbers below are settled; `u64::MAX` when it was deleted.
    pub low: u64,
    /// The lowest number that was never stored nor settled.
    pub next: u64,
    /// Messages in it, exact when its numbers have no gaps below `next`.
    pub live: u64,
}

/// A group of some segment.
struct GroupAt {
    min: u64,
    home: u32,
    key: GroupKey,
}

enum TablePlace {
    Memory(Vec<Page>),
    File(Table),
    Unopened,
}

/// The pages of a group, and where their bytes are.
#[derive(Default)]
struct OpenTable {
    pages: Arc<[Page]>,
    in_file: bool,
}

impl Log {
    /// Up to `max` messages of the queue that are not settled, in the order of their numbers, from
    /// number `from` on. Includes everything that was appended before the call.
    ///
    /// # Errors
    /// [`LogError::Io`](crate::LogError::Io) when an index cannot be read nor be made again.
    pub fn load(&self, queue: u64, from: u64, max: usize) -> Result<Vec<Located>> {
        let shared = &*self.shared;
        shared.apply();
        let (mut found, mut from) = (Vec::new(), from);
        while found.len() < max {
            from = match shared.state.lock().queues.get(&queue) {
                Some(settled) => settled.next_unsettled(from),
                None => from,
            };
            if from == u64::MAX {
                break;
            }
            let entries = shared.gather(queue, from, max - found.len())?;
            let Some(last) = entries.last() else { break };
            from = last.seq.saturating_add(1);
            let state = shared.state.lock();
            let live = entries.iter().filter(|e| !state.is_settled(queue, e.seq));
            found.extend(live.map(|entry| Located {
                seq: entry.seq,
                position: entry.position,
                len: entry.len,
            }));
        }
        Ok(found)
    }

    /// Where a message is now; `None` when it is settled.
    ///
    /// # Errors
    /// As [`Log::load`].
    pub fn resolve(&self, queue: u64, seq: u64) -> Result<Option<Located>> {
        let found = self.load(queue, seq, 1)?;
        Ok(found.into_iter().find(|located| located.seq == seq))
    }

    /// The numbers of a range that are not settled, whether or not the log has messages for them.
    pub fn unsettled(&self, queue: u64, range: Range<u64>) -> Vec<Range<u64>> {
        self.shared.apply();
        let state = self.shared.state.lock();
        match state.queues.get(&queue) {
            Some(settled) => settled.unsettled_in(range),
            None => vec![range],
        }
    }

    /// All queues and streams that ever had anything, except deleted ones of which nothing is left.
    pub fn queues(&self) -> Vec<QueueInfo> {
        self.shared.apply();
        let state = self.shared.state.lock();
        let ids = state.queue_ids().into_iter();
        ids.map(|queue| state.queue_info(queue)).collect()
    }

    /// The latest values of all keys.
    pub fn definitions(&self) -> Vec<Definition> {
        self.shared.apply();
        let state = self.shared.state.lock();
        let all = state.definitions.iter();
        all.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl State {
    pub fn queue_info(&self, queue: u64) -> QueueInfo {
        let (low, next) = (
            self.queues.get(&queue).map_or(0, |settled| settled.low()),
            self.next_seq(queue),
        );
        let settled = self.queues.get(&queue);
        let settled_above = settled.map_or(0, |settled| settled.count_in(low..next));
        QueueInfo {
            queue,
            low,
            next,
            live: next.saturating_sub(low) - settled_above.min(next.saturating_sub(low)),
        }
    }
}

impl Shared {
    /// At least the first `max` entries from `from` on, if there are so many; complete up to the
    /// last one, in order, each once.
    fn gather(&self, queue: u64, from: u64, max: usize) -> Result<Vec<Entry>> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(entries) = self.try_gather(queue, from, max)? {
                return Ok(entries);
            }
        }
        let busy = std::io::Error::other("the indexes change faster than they can be read");
        Err(LogError::io(format!("load queue {queue}"), busy))
    }

    /// `None` when an index had to be opened or made again, or changed its place meanwhile.
    fn try_gather(&self, queue: u64, from: u64, max: usize) -> Result<Option<Vec<Entry>>> {
        // Groups and pages are opened in the order of their lowest numbers, as far as needed.
        let mut groups = self.groups_from(queue, from);
        let (mut pages, mut open) = (Vec::new(), BinaryHeap::new());
        let (mut entries, mut until) = (Vec::new(), u64::MAX);
        loop {
            let group = groups.last().map(|group| group.min);
            let page = open.peek().map(|Reverse((min, _))| *min);
            let next = group.into_iter().chain(page).min();
            if next.is_none_or(|next| next > until) {
                break;
            }
            if group == next {
                let Some(group) = groups.pop() else { break };
                let Some(table) = self.table(group.home, group.key)? else {
                    return Ok(None);
                };
                for page in table.pages.iter().filter(|page| page.max >= from) {
                    open.push(Reverse((page.min, pages.len())));
                    pages.push((group.home, group.key, *page, table.in_file));
                }
                continue;
            }
            let Some(Reverse((_, at))) = open.pop() else {
                break;
            };
            let (home, key, page, in_file) = &pages[at];
            let Some(page) = self.page(*home, *key, page, *in_file)? else {
                return Ok(None);
            };
            let before = entries.len();
            let wanted = page.into_iter().filter(|e| (from..=until).contains(&e.seq));
            entries.extend(wanted.map(|entry| (entry, *home, at)));
            if entries.len() >= max && entries.len() > before {
                in_order(&mut entries, max);
                if entries.len() == max {
                    until = entries[max - 1].0.seq;
                }
            }
        }
        in_order(&mut entries, max);
        Ok(Some(entries.into_iter().map(|(entry, ..)| entry).collect()))
    }

    /// The groups that may hold numbers of the queue from `from` on, the one with the lowest last.
    fn groups_from(&self, queue: u64, from: u64) -> Vec<GroupAt> {
        let state = self.state.lock();
        let segments = state.segments.iter().flat_map(|(home, segment)| {
            [false, true].map(|transient| {
                let key = GroupKey { queue, transient };
                let group = segment.groups.get(&key).filter(|group| group.max >= from);
                group.map(|group| GroupAt {
                    min: group.min,
                    home: *home,
                    key,
                })
            })
        });
        let mut groups: Vec<GroupAt> = segments.flatten().collect();
        groups.sort_unstable_by_key(|group| Reverse(group.min));
        groups
    }

    /// All entries of a group; `None` as in `try_gather`.
    pub fn entries(&self, home: u32, key: GroupKey) -> Result<Option<Vec<Entry>>> {
        let Some(table) = self.table(home, key)? else {
            return Ok(None);
        };
        let mut entries = Vec::new();
        for page in table.pages.iter() {
            match self.page(home, key, page, table.in_file)? {
                Some(page) => entries.extend(page),
                None => return Ok(None),
            }
        }
        Ok(Some(entries))
    }

    /// A group's page table; empty when the group is gone.
    fn table(&self, home: u32, key: GroupKey) -> Result<Option<OpenTable>> {
        let mut place = self.place_of(home, key);
        if matches!(place, Some(TablePlace::Unopened)) {
            self.open_index(home)?;
            place = self.place_of(home, key);
        }
        let table = match place {
            None => return Ok(Some(OpenTable::default())),
            Some(TablePlace::Memory(pages)) => {
                return Ok(Some(OpenTable {
                    pages: pages.into(),
                    in_file: false,
                }));
            }
            Some(TablePlace::File(table)) => table,
            Some(TablePlace::Unopened) => return Ok(None),
        };
        let pages = match self.files.cached_table(home, &table) {
            Some(pages) => Some(pages),
            None => self.table_in_file(home, &table)?.map(|pages| {
                let pages: Arc<[Page]> = pages.into();
                self.files.keep_table(home, &table, &pages);
                pages
            }),
        };
        if pages.is_none() {
            self.rebuild_index(home)?;
        }
        Ok(pages.map(|pages| OpenTable {
            pages,
            in_file: true,
        }))
    }

    fn place_of(&self, home: u32, key: GroupKey) -> Option<TablePlace> {
        let state = self.state.lock();
        let group = state.segments.get(&home)?.groups.get(&key)?;
        Some(match &group.place {
            Place::Memory(runs) => TablePlace::Memory(runs.table()),
            Place::File(table) => TablePlace::File(*table),
            Place::Unopened => TablePlace::Unopened,
        })
    }

    /// The entries of a page.
    fn page(
        &self,
        home: u32,
        key: GroupKey,
        page: &Page,
        in_file: bool,
    ) -> Result<Option<Vec<Entry>>> {
        if !in_file {
            let state = self.state.lock();
            let segment = state.segments.get(&home);
            return Ok(match segment.and_then(|s| s.groups.get(&key)) {
                Some(group) => match &group.place {
                    Place::Memory(runs) => index::decode_page(page, runs.bytes(page), home),
                    _ => None,
                },
                None => Some(Vec::new()),
            });
        }
        let entries = self.page_in_file(home, page)?;
        if entries.is_none() {
            self.rebuild_index(home)?;
        }
        Ok(entries)
    }

    fn table_in_file(&self, serial: u32, table: &Table) -> Result<Option<Vec<Page>>> {
        match self.files.open_if_there(&index_name(serial))? {
            Some(file) => index::read_table(&*file, table),
            None => Ok(None),
        }
    }

    fn page_in_file(&self, serial: u32, page: &Page) -> Result<Option<Vec<Entry>>> {
        match self.files.open_if_there(&index_name(serial))? {
            Some(file) => index::read_page(&*file, page, serial),
            None => Ok(None),
        }
    }

    /// Reads the directory of a segment's index file, or makes the index again.
    pub fn open_index(&self, serial: u32) -> Result<()> {
        let directory = match self.files.open_if_there(&index_name(serial))? {
            Some(file) => index::read_directory(&*file, serial, self.identity)?,
            None => None,
        };
        let Some(directory) = directory else {
            return self.rebuild_index(serial);
        };
        let mut places: ahash::AHashMap<GroupKey, Group> = directory.into_iter().collect();
        let mut state = self.state.lock();
        let Some(segment) = state.segments.get_mut(&serial) else {
            return Ok(());
        };
        let mut complete = true;
        for (key, group) in &mut segment.groups {
            if matches!(group.place, Place::Unopened) {
                match places.remove(key) {
                    Some(found) => group.place = found.place,
                    None => complete = false,
                }
            }
        }
        drop(state);
        if complete {
            Ok(())
        } else {
            self.rebuild_index(serial)
        }
    }

    /// Makes a sealed segment's index again from its batches. Groups that were forgotten stay so.
    fn rebuild_index(&self, serial: u32) -> Result<()> {
        let (first_batch, limit, segment_end) = match self.state.lock().segments.get(&serial) {
            Some(segment) => (segment.first_batch, segment.next_batch, segment.end),
            None => return Ok(()),
        };
        let Some(file) = self.files.open_if_there(&segment_name(serial))? else {
            self.lose_segment(serial);
            return Ok(());
        };
        let mut scratch = State::default();
        scratch.open_segment(serial, first_batch, 0);
        let mut scan = Scan::new(&*file, serial, self.identity)?;
        scan.walk(first_batch..limit, segment_end, |found| {
            match found {
                Walked::Batch(at, header, bytes) => scratch.apply(header.number, at, bytes, true),
                Walked::Damage(at, bytes) => self.note_damage(serial, at, bytes),
            }
            ControlFlow::Continue(())
        })?;
        let mut state = self.state.lock();
        let Some(segment) = state.segments.get_mut(&serial) else {
            return Ok(());
        };
        let mut rebuilt = scratch
            .segments
            .remove(&serial)
            .expect("opened above")
            .groups;
        segment.groups.retain(|key, group| {
            let again = rebuilt.remove(key);
            if let Some(again) = again {
                *group = again;
                return true;
            }
            false
        });
        Ok(())
    }

    /// The file of a segment is not there although nobody deleted it.
    fn lose_segment(&self, serial: u32) {
        if self.live.read().contains(&serial) {
            self.note_damage(serial, 0, u32::MAX);
            let mut state = self.state.lock();
            if let Some(segment) = state.segments.get_mut(&serial) {
                segment.groups.clear();
            }
        }
    }

    /// Remembers damaged bytes, each place once.
    pub fn note_damage(&self, segment: u32, offset: u32, bytes: u32) {
        let queues = self.state.lock().queues_in(segment);
        let damage = Damage {
            file: segment_name(segment),
            segment,
            offset,
            bytes,
            queues,
        };
        let mut damages = self.damages.lock();
        let known = damages
            .iter()
            .any(|d| (d.segment, d.offset) == (segment, offset));
        if !known && damages.len() < DAMAGES_MAX {
            damages.push(damage);
        }
    }
}

/// Sorts by number, keeps the newest of equal ones and the first `max`. A later segment is newer, in one
/// segment a later page, and in one page what stands behind: the sort is stable. Each entry comes with its
/// segment and its page's place among those of the segment.
fn in_order(entries: &mut Vec<(Entry, u32, usize)>, max: usize) {
    entries.sort_by_key(|(entry, home, page)| (entry.seq, *home, *page));
    // `dedup_by` drops its first argument, the later of the two: keep its content.
    entries.dedup_by(|later, kept| {
        let same = later.0.seq == kept.0.seq;
        if same {
            *kept = *later;
        }
        same
    });
    entries.truncate(max);
}
