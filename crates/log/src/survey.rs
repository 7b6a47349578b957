//! Looking at a log without changing it: what `backbone log` shows.
//!
//! A survey reads the directory with recovery's own code, up to where recovery would begin to write, and then
//! what recovery does not need: the segments, checkpoints and indexes behind the newest checkpoint. There is no
//! second parser, so that it cannot find sound what a start would not, nor the other way round.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use crate::checkpoint;
use crate::disk::{Disk, File, Mode};
use crate::error::{LogError, Result};
use crate::format::{BATCH_HEADER_BYTES, index_name, number_in, segment_name};
use crate::index::{self, Entry, Group, GroupKey, Place};
use crate::load::{Definition, QueueInfo};
use crate::record::{self, Record};
use crate::recovery::{self, DAMAGES_MAX, Damage, Progress, Recovered, Replayed};
use crate::scan::{Scan, Walked};
use crate::state::{SegmentState, State};

type Index = BTreeMap<GroupKey, Vec<Entry>>;

/// A log's directory, read and locked, not changed.
pub struct Survey {
    disk: Arc<dyn Disk>,
    names: Vec<String>,
    replayed: Replayed,
}

/// A segment in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its serial number, which names its file in hexadecimal.
    pub serial: u32,
    /// Number of its first batch.
    pub first_batch: u64,
    /// The number behind its last batch.
    pub next_batch: u64,
    /// Bytes of the file.
    pub size: u32,
    /// Bytes in use: header and batches.
    pub used: u32,
    /// Bytes of records that are alive, estimated; the rest of what is in use is dead.
    pub live: u64,
}

/// A checkpoint's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Its name.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u32,
    /// Number of the last batch in it; `None` when it is damaged.
    pub applied: Option<u64>,
    /// The first segment that a start with it replays.
    pub replay_from: u32,
}

/// A record and where it stands.
#[derive(Debug, Clone)]
pub struct Inspected<'a> {
    /// Serial number of the segment.
    pub segment: u32,
    /// Offset of the record in it.
    pub offset: u32,
    /// Bytes of the record, with its header.
    pub length: u32,
    /// Number of its batch.
    pub lsn: u64,
    /// What it says.
    pub record: Record<'a>,
}

impl Survey {
    /// Locks the log's directory and reads what a start would. `progress` hears of that now and then.
    ///
    /// # Errors
    /// [`LogError::Locked`] while a process has the log open; [`LogError::Version`]; what the disk refuses.
    /// Damage is no error.
    pub fn open(disk: Arc<dyn Disk>, mut progress: impl FnMut(Progress)) -> Result<Self> {
        recovery::lock(&*disk)?;
        let names = recovery::list(&*disk)?;
        let replayed = recovery::replay(&*disk, &names, &mut progress)?;
        Ok(Self {
            disk,
            names,
            replayed,
        })
    }

    /// What a start would report.
    pub fn recovered(&self) -> &Recovered {
        &self.replayed.report
    }

    /// Where the log ends: the last segment, and the offset behind its last batch. The torn tail begins there,
    /// if [`Recovered::torn`] says that there is one. `None` when the log is empty.
    pub fn end(&self) -> Option<(u32, u32)> {
        let last = self.replayed.state.segments.last_key_value();
        last.map(|(serial, segment)| (*serial, segment.end))
    }

    /// All queues and streams.
    pub fn queues(&self) -> Vec<QueueInfo> {
        let state = &self.replayed.state;
        let ids = state.queue_ids().into_iter();
        ids.map(|queue| state.queue_info(queue)).collect()
    }

    /// The latest values of all keys.
    pub fn definitions(&self) -> impl Iterator<Item = Definition> {
        let all = self.replayed.state.definitions.iter();
        all.map(|(key, value)| (key.clone(), value.clone()))
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = &self.replayed.state;
        let live = state.live_bytes();
        let segments = state.segments.iter().map(|(serial, segment)| SegmentInfo {
            serial: *serial,
            first_batch: segment.first_batch,
            next_batch: segment.next_batch,
            size: segment.size,
            used: segment.end,
            live: live.get(serial).copied().unwrap_or(0),
        });
        segments.collect()
    }

    /// How many spare files there are.
    pub fn spares(&self) -> usize {
        let spares = self.names.iter().filter_map(|n| number_in(n, "spare"));
        spares.count()
    }

    /// How many index files there are.
    pub fn indexes(&self) -> usize {
        let indexes = self.names.iter().filter_map(|n| number_in(n, "index"));
        indexes.count()
    }

    /// All checkpoints, oldest first.
    ///
    /// # Errors
    /// As [`Survey::open`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        let mut all = Vec::new();
        for name in &self.names {
            let Some(replay_from) = number_in(name, "checkpoint") else {
                continue;
            };
            let (checkpoint, bytes) = checkpoint::read(&*self.disk, name)?;
            all.push(CheckpointInfo {
                file: name.clone(),
                bytes,
                applied: checkpoint.map(|checkpoint| checkpoint.applied),
                replay_from: replay_from as u32,
            });
        }
        all.sort_unstable_by_key(|checkpoint| checkpoint.replay_from);
        Ok(all)
    }

    /// Reads every batch of every segment, every checkpoint and every index, and compares each index with its
    /// segment. Gives all that is not what was written, a place once, at most so many as a log remembers.
    ///
    /// # Errors
    /// As [`Survey::open`].
    pub fn verify(&self, mut progress: impl FnMut(Progress)) -> Result<Vec<Damage>> {
        let replayed = &self.replayed;
        let mut damages = replayed.report.damages.clone();
        for checkpoint in self.checkpoints()? {
            let known = damages.iter().any(|d| d.file == checkpoint.file);
            if checkpoint.applied.is_none() && !known {
                damages.push(Damage {
                    file: checkpoint.file,
                    segment: checkpoint.replay_from,
                    offset: 0,
                    bytes: checkpoint.bytes,
                    queues: Vec::new(),
                });
            }
        }
        let sizes = replayed.state.segments.values().map(|s| u64::from(s.end));
        let (total_bytes, mut done_bytes) = (sizes.sum(), 0);
        for (serial, segment) in &replayed.state.segments {
            progress(Progress {
                done_bytes,
                total_bytes,
            });
            let found = self.verify_segment(*serial, segment)?;
            // The replay saw what is damaged behind the checkpoint already.
            damages.extend(found.into_iter().filter(|found| {
                *serial < replayed.replay_from || found.file != segment_name(*serial)
            }));
            damages.truncate(DAMAGES_MAX);
            done_bytes += u64::from(segment.end);
        }
        progress(Progress {
            done_bytes,
            total_bytes,
        });
        Ok(damages)
    }

    /// Shows `visit` every sound record, in the order of the log.
    ///
    /// # Errors
    /// As [`Survey::open`].
    pub fn records(&self, mut visit: impl FnMut(Inspected<'_>) -> ControlFlow<()>) -> Result<()> {
        let mut flow = ControlFlow::Continue(());
        for (serial, segment) in &self.replayed.state.segments {
            self.walk(*serial, segment, |walked| {
                let Walked::Batch(at, header, bytes) = walked else {
                    return flow;
                };
                let (mut records, mut end) = (record::records(bytes).peekable(), 0);
                while let Some((distance, record)) = records.next() {
                    debug_assert!(distance >= BATCH_HEADER_BYTES as u32 && distance >= end);
                    end = records.peek().map_or(header.length, |(next, _)| *next);
                    flow = visit(Inspected {
                        segment: *serial,
                        offset: at + distance,
                        length: end - distance,
                        lsn: header.number,
                        record,
                    });
                    if flow.is_break() {
                        break;
                    }
                }
                flow
            })?;
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn walk(
        &self,
        serial: u32,
        segment: &SegmentState,
        visit: impl FnMut(Walked<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let file = &self.replayed.found[&serial].file;
        let mut scan = Scan::new(&**file, serial, self.replayed.identity)?;
        let numbers = segment.first_batch..segment.next_batch;
        scan.walk(numbers, segment.end, visit)
    }

    /// What is damaged in a segment or its index.
    fn verify_segment(&self, serial: u32, segment: &SegmentState) -> Result<Vec<Damage>> {
        let queues = self.replayed.state.queues_in(serial);
        let damage = |file: String, offset, bytes| Damage {
            file,
            segment: serial,
            offset,
            bytes,
            queues: queues.clone(),
        };
        let (mut damages, mut read) = (Vec::new(), State::default());
        read.open_segment(serial, segment.first_batch, segment.size);
        self.walk(serial, segment, |walked| {
            match walked {
                Walked::Batch(at, header, bytes) => read.apply(header.number, at, bytes, true),
                Walked::Damage(at, bytes) => damages.push(damage(segment_name(serial), at, bytes)),
            }
            ControlFlow::Continue(())
        })?;
        let name = index_name(serial);
        if !self.names.contains(&name) {
            return Ok(damages);
        }
        let opened = self.disk.open(&name, Mode::Buffered);
        let file = opened.map_err(|e| LogError::io(format!("open {name}"), e))?;
        match self.read_index(&*file, serial)? {
            // A start makes the indexes of what it replays anew: there they may know of settlements that did
            // not survive.
            Ok(_) if damages.is_empty() && serial >= self.replayed.replay_from => {}
            Ok(index) if damages.is_empty() => {
                let groups = &read.segments[&serial].groups;
                let wrong = index.iter().find(|(key, entries)| {
                    let there = groups.get(key).map(|group| entries_of(group, serial));
                    let there = there.unwrap_or_default();
                    // Of a group that was once settled as a whole, an index has only what came later.
                    let live = |entries: Vec<Entry>| {
                        let state = &self.replayed.state;
                        let live = entries.into_iter();
                        let mut live: Vec<Entry> = live
                            .filter(|e| !state.is_settled(key.queue, e.seq))
                            .collect();
                        live.sort_by_key(|entry| entry.seq);
                        live
                    };
                    // Nobody looks for what a start does not know, such as queues deleted since.
                    segment.groups.contains_key(key) && live((*entries).clone()) != live(there)
                });
                // It is whole, and says something else than its segment.
                damages.extend(wrong.map(|_| damage(name, 0, 0)));
            }
            // It knows what the damaged bytes were.
            Ok(index) => {
                for damage in &mut damages {
                    let bytes = damage.offset..damage.offset.saturating_add(damage.bytes);
                    damage.queues = self.queues_at(serial, &bytes, &index);
                }
            }
            Err(at) => {
                let size = file.size();
                let size = size.map_err(|e| LogError::io(format!("size of {name}"), e))?;
                damages.push(damage(name, at, (size as u32).saturating_sub(at)));
            }
        }
        Ok(damages)
    }

    /// All entries of an index file; or where it is damaged.
    fn read_index(&self, file: &dyn File, serial: u32) -> Result<std::result::Result<Index, u32>> {
        let Some(directory) = index::read_directory(file, serial, self.replayed.identity)? else {
            return Ok(Err(0));
        };
        let mut all = Index::new();
        for (key, group) in directory {
            let Place::File(table) = &group.place else {
                continue;
            };
            let Some(pages) = index::read_table(file, table)? else {
                return Ok(Err(table.at as u32));
            };
            let entries = all.entry(key).or_default();
            for page in &pages {
                let Some(found) = index::read_page(file, page, serial)? else {
                    return Ok(Err(page.file_offset()));
                };
                entries.extend(found);
            }
        }
        Ok(Ok(all))
    }

    /// The queues that have a message there which is not settled.
    fn queues_at(&self, serial: u32, bytes: &Range<u32>, index: &Index) -> Vec<u64> {
        let state = &self.replayed.state;
        let hit = |key: &GroupKey, entry: &Entry| {
            let place = entry.position;
            place.segment == serial
                && bytes.contains(&place.offset)
                && !state.is_settled(key.queue, entry.seq)
        };
        let hit = index
            .iter()
            .filter(|(key, entries)| !key.transient && entries.iter().any(|entry| hit(key, entry)));
        hit.map(|(key, _)| key.queue).collect()
    }
}

/// The entries of a group in memory.
fn entries_of(group: &Group, home: u32) -> Vec<Entry> {
    let Place::Memory(runs) = &group.place else {
        return Vec::new();
    };
    let table = runs.table();
    let pages = table.iter();
    let decoded = pages.filter_map(|page| index::decode_page(page, runs.bytes(page), home));
    decoded.flatten().collect()
}
