//! A queue's messages in the order of their numbers, from the indexes of all segments.

use crate::arena::Position;
use crate::error::{LogError, Result};
use crate::format::{index_name, segment_name};
use crate::index::{self, Entry, Group, GroupKey, Page, Place, Table};
use crate::log::{Log, Shared};
use crate::recovery::{DAMAGES_MAX, Damage};
use crate::scan::Scan;
use crate::state::State;

/// Attempts before a load gives up on segments that go while it reads.
const ATTEMPTS_MAX: usize = 8;

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

/// A page of some segment that may hold what is looked for.
struct Candidate {
    home: u32,
    page: Page,
    bytes: PageBytes,
}

enum PageBytes {
    Memory(Vec<u8>),
    File,
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
    fn queue_info(&self, queue: u64) -> QueueInfo {
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

    /// `None` when an index has to be, or was, made again, or a segment went meanwhile.
    fn try_gather(&self, queue: u64, from: u64, max: usize) -> Result<Option<Vec<Entry>>> {
        let Some(mut pages) = self.candidates(queue, from)? else {
            return Ok(None);
        };
        pages.sort_by_key(|candidate| candidate.page.min);
        let mut entries: Vec<(Entry, u32)> = Vec::new();
        let mut until = u64::MAX;
        for candidate in pages {
            if candidate.page.min > until {
                break;
            }
            let home = candidate.home;
            let page = match candidate.bytes {
                PageBytes::Memory(bytes) => index::decode_page(&candidate.page, &bytes, home),
                PageBytes::File => self.page_in_file(home, &candidate.page)?,
            };
            let Some(page) = page else {
                self.rebuild_index(home)?;
                return Ok(None);
            };
            let wanted = page.into_iter().filter(|entry| entry.seq >= from);
            entries.extend(wanted.map(|entry| (entry, home)));
            if entries.len() >= max {
                // Stable, so that of equal numbers in one segment the later one stays behind.
                entries.sort_by_key(|(entry, home)| (entry.seq, *home));
                dedup_newest(&mut entries);
                if entries.len() >= max {
                    entries.truncate(max);
                    until = entries[max - 1].0.seq;
                }
            }
        }
        entries.sort_by_key(|(entry, home)| (entry.seq, *home));
        dedup_newest(&mut entries);
        entries.truncate(max);
        Ok(Some(entries.into_iter().map(|(entry, _)| entry).collect()))
    }

    /// All pages that may hold numbers of the queue from `from` on.
    fn candidates(&self, queue: u64, from: u64) -> Result<Option<Vec<Candidate>>> {
        let (mut pages, mut tables, mut unopened) = (Vec::new(), Vec::new(), Vec::new());
        {
            let state = self.state.lock();
            for (serial, segment) in &state.segments {
                for transient in [false, true] {
                    let group = segment.groups.get(&GroupKey { queue, transient });
                    let Some(group) = group.filter(|group| group.max >= from) else {
                        continue;
                    };
                    match &group.place {
                        Place::Memory(all) => {
                            pages.extend(all.from(from).into_iter().map(|(page, bytes)| {
                                Candidate {
                                    home: *serial,
                                    page,
                                    bytes: PageBytes::Memory(bytes),
                                }
                            }));
                        }
                        Place::File(table) => tables.push((*serial, *table)),
                        Place::Unopened => unopened.push(*serial),
                    }
                }
            }
        }
        if !unopened.is_empty() {
            unopened.dedup();
            for serial in unopened {
                self.open_index(serial)?;
            }
            return Ok(None);
        }
        for (serial, table) in tables {
            let Some(table) = self.table_in_file(serial, &table)? else {
                self.rebuild_index(serial)?;
                return Ok(None);
            };
            let wanted = table.into_iter().filter(|page| page.max >= from);
            pages.extend(wanted.map(|page| Candidate {
                home: serial,
                page,
                bytes: PageBytes::File,
            }));
        }
        Ok(Some(pages))
    }

    /// All entries of a group; `None` when its index had to be opened or made again.
    pub fn entries(&self, serial: u32, key: GroupKey, place: Place) -> Result<Option<Vec<Entry>>> {
        let table = match place {
            Place::Memory(pages) => {
                let pages = pages.from(0);
                let decoded = pages
                    .iter()
                    .map(|(page, bytes)| index::decode_page(page, bytes, serial));
                return Ok(decoded.collect::<Option<Vec<_>>>().map(|all| all.concat()));
            }
            Place::File(table) => self.table_in_file(serial, &table)?,
            Place::Unopened => {
                self.open_index(serial)?;
                let state = self.state.lock();
                let group = state.segments.get(&serial).and_then(|s| s.groups.get(&key));
                let place = group.map(|group| group.place.clone());
                drop(state);
                return match place {
                    None | Some(Place::Unopened) => Ok(None),
                    Some(place) => self.entries(serial, key, place),
                };
            }
        };
        let mut entries = Vec::new();
        for page in table.iter().flatten() {
            match self.page_in_file(serial, page)? {
                Some(page) => entries.extend(page),
                None => {
                    self.rebuild_index(serial)?;
                    return Ok(None);
                }
            }
        }
        if table.is_none() {
            self.rebuild_index(serial)?;
            return Ok(None);
        }
        Ok(Some(entries))
    }

    fn table_in_file(&self, serial: u32, table: &Table) -> Result<Option<Vec<Page>>> {
        match self.files.open(&index_name(serial)) {
            Ok(file) => index::read_table(&*file, table),
            Err(_) => Ok(None),
        }
    }

    fn page_in_file(&self, serial: u32, page: &Page) -> Result<Option<Vec<Entry>>> {
        match self.files.open(&index_name(serial)) {
            Ok(file) => index::read_page(&*file, page, serial),
            Err(_) => Ok(None),
        }
    }

    /// Reads the directory of a segment's index file, or makes the index again.
    pub fn open_index(&self, serial: u32) -> Result<()> {
        let file = self.files.open(&index_name(serial));
        let directory = match file {
            Ok(file) => index::read_directory(&*file, serial, self.identity)?,
            Err(_) => None,
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
        let Ok(file) = self.files.open(&segment_name(serial)) else {
            self.lose_segment(serial);
            return Ok(());
        };
        let mut scratch = State::default();
        scratch.open_segment(serial, first_batch, 0);
        let mut scan = Scan::new(&*file, serial, self.identity)?;
        let mut number = first_batch;
        while number < limit {
            let Some((at, header)) = scan.next(number)? else {
                let Some((at, header)) = scan.search(number + 1..limit)? else {
                    self.note_damage(serial, scan.at(), segment_end.saturating_sub(scan.at()));
                    break;
                };
                self.note_damage(serial, scan.at(), at - scan.at());
                scan.seek(at);
                number = header.number;
                continue;
            };
            scratch.apply(number, at, scan.bytes(at, &header)?, true);
            number += 1;
        }
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

fn dedup_newest(entries: &mut Vec<(Entry, u32)>) {
    // `dedup_by` drops its first argument, the later of the two: keep its content.
    entries.dedup_by(|later, kept| {
        let same = later.0.seq == kept.0.seq;
        if same {
            *kept = *later;
        }
        same
    });
}
