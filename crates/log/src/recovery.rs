//! Opening: the newest checkpoint, then the batches behind it, in order, each folded into the state by
//! the same code that folded it when it was appended.
//!
//! The log ends at the first batch that is missing or not sound, if no later batch says that it had been
//! synced: a torn tail, nobody was promised anything of it. If one says so, the bytes are damaged: they are
//! reported, and the replay goes on behind them.
//!
//! What the log ends with may be in the page cache only, or be there and not on the disk because a
//! sync failed. So the part of which no batch says that it was synced is written again and synced, before
//! anything builds on it. Nothing is appended to an old segment: the log goes on in a new one, whose header
//! says with which batch, so that leftovers behind the old end stay out for good.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::disk::{self, Disk, File, Mode};
use crate::error::{LogError, Result};
use crate::format::{
    BATCH_BYTES_MAX, BatchHeader, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, SegmentHeader,
    number_in, segment_name,
};
use crate::log::{Front, Health, Log, Shared};
use crate::maintain::{Maintenance, Snapshots};
use crate::observe::Histogram;
use crate::reader::Files;
use crate::scan::Scan;
use crate::space::Space;
use crate::state::State;
use crate::writer::{Inline, Io};

/// Damaged places that are remembered.
pub(crate) const DAMAGES_MAX: usize = 1000;

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes replayed.
    pub done_bytes: u64,
    /// Bytes to replay at most.
    pub total_bytes: u64,
}

/// Bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file.
    pub file: String,
    /// The segment; for a damaged checkpoint the segment that it stood before.
    pub segment: u32,
    /// Where the damage begins.
    pub offset: u32,
    /// How much is not readable; 0 if unknown.
    pub bytes: u32,
    /// Queues that have messages in the segment and may have had some there.
    pub queues: Vec<u64>,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Number of the last batch of the log.
    pub last: u64,
    /// Batches replayed behind the checkpoint.
    pub replayed: u64,
    /// Unfinished bytes at the end, which were never promised to anybody.
    pub torn: bool,
    /// Damage found on the way; the rest is readable.
    pub damages: Vec<Damage>,
}

/// A segment's file.
pub(crate) struct Found {
    pub header: SegmentHeader,
    pub file: Arc<dyn File>,
    pub size: u32,
}

/// No batch says of these that they were synced: segment, offset, length, number.
type Unsure = VecDeque<(u32, u32, u32, u64)>;

/// What the files say, before anything is written.
pub(crate) struct Replayed {
    pub identity: u64,
    pub state: State,
    pub report: Recovered,
    pub found: BTreeMap<u32, Found>,
    /// Names of the sound checkpoints, oldest first.
    pub checkpoints: Vec<String>,
    /// The first segment that the newest of them does not cover.
    pub replay_from: u32,
    unsure: Unsure,
}

struct Recovery {
    identity: u64,
    state: State,
    /// Number of the next batch.
    expected: u64,
    unsure: Unsure,
    report: Recovered,
}

impl Log {
    /// Opens the log of a directory, or makes a new one. Reads the newest checkpoint and replays what
    /// came after it; `progress` hears of that now and then.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Version`], and what the disk refuses. Damage is no error.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        mut progress: impl FnMut(Progress),
    ) -> Result<(Self, Recovered)> {
        lock(&*disk)?;
        let names = list(&*disk)?;
        let replayed = replay(&*disk, &names, &mut progress)?;
        replayed.secure_tail(&*disk)?;
        let Replayed {
            identity,
            state,
            report,
            found,
            checkpoints,
            replay_from,
            ..
        } = replayed;
        let config = Config {
            segment_bytes: config
                .segment_bytes
                .clamp(2 * SEGMENT_HEADER_BYTES, SEGMENT_BYTES_MAX)
                .next_multiple_of(SEGMENT_HEADER_BYTES),
            batch_bytes_max: config.batch_bytes_max.min(BATCH_BYTES_MAX),
            ..config
        };
        let shared = share(disk, config, identity, state, &names, &report);
        let known = checkpoints.clone();
        *shared.maintenance.lock() = Maintenance::new(replay_from, checkpoints);
        let log = Self {
            shared: Arc::new(shared),
        };
        log.begin(&names, &known, &found)?;
        log.leave_numbers();
        Ok((log, report))
    }

    /// Removes what is left over and opens the first segment of this run.
    fn begin(
        &self,
        names: &[String],
        checkpoints: &[String],
        found: &BTreeMap<u32, Found>,
    ) -> Result<()> {
        let shared = &*self.shared;
        let live = shared.live.read().clone();
        let leftovers = names.iter().filter(|name| {
            let number = |ending| number_in(name, ending).map(|serial| serial as u32);
            let foreign = number("segment").is_some_and(|serial| {
                let header = found.get(&serial).map(|found| found.header);
                header.is_some_and(|header| header.identity != shared.identity)
            });
            let numbered = number("segment").or_else(|| number("index"));
            let dead = numbered.is_some_and(|serial| !live.contains(&serial));
            let checkpoint = number("checkpoint").is_some() && !checkpoints.contains(name);
            (dead && !foreign) || checkpoint || name.ends_with(".tmp")
        });
        for name in leftovers {
            // Removed, not kept as a spare: the serial number of what was cut off may come again if
            // the power fails now, and must not find batches of its first life.
            let removed = shared.disk.remove(name);
            removed.map_err(|e| LogError::io(format!("remove {name}"), e))?;
        }
        match shared.prepare(SEGMENT_HEADER_BYTES, true) {
            // Then nothing can be appended until there is room.
            Err(LogError::Full) => return Ok(()),
            other => other?,
        }
        shared.rotate(&mut shared.front.lock());
        self.write_step()?;
        self.sync_step()?;
        shared.apply();
        Ok(())
    }
}

/// Takes the directory for this process.
pub(crate) fn lock(disk: &dyn Disk) -> Result<()> {
    disk.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => LogError::Locked,
        _ => LogError::io("lock the directory", error),
    })
}

/// Names of all files.
pub(crate) fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    let names = disk.list();
    names.map_err(|e| LogError::io("list the directory", e))
}

/// Reads the newest checkpoint among the files `names` and replays what came after it. Writes nothing.
pub(crate) fn replay(
    disk: &dyn Disk,
    names: &[String],
    progress: &mut impl FnMut(Progress),
) -> Result<Replayed> {
    let (checkpoints, checkpoint, damaged) = checkpoint::newest(disk, names)?;
    let (mut found, headless) = segments(disk, names)?;
    let mut recovery = Recovery::new(checkpoint, &found);
    recovery.report.damages = damaged;
    recovery.adopt(headless, &mut found)?;
    let newest = checkpoints
        .last()
        .and_then(|name| number_in(name, "checkpoint"));
    let replay_from = newest.unwrap_or(0) as u32;
    recovery.replay(&found, replay_from, progress)?;
    Ok(Replayed {
        identity: recovery.identity,
        state: recovery.state,
        report: recovery.report,
        found,
        checkpoints,
        replay_from,
        unsure: recovery.unsure,
    })
}

impl Recovery {
    fn new(checkpoint: Option<Checkpoint>, found: &BTreeMap<u32, Found>) -> Self {
        let identity = match (&checkpoint, found.values().next_back()) {
            (Some(checkpoint), _) => checkpoint.identity,
            (None, Some(newest)) => newest.header.identity,
            (None, None) => random(),
        };
        let (mut state, applied) = checkpoint.map_or_else(
            || (State::default(), 0),
            |checkpoint| (checkpoint.state, checkpoint.applied),
        );
        state.applied = applied;
        Self {
            identity,
            state,
            expected: applied + 1,
            unsure: VecDeque::new(),
            report: Recovered::default(),
        }
    }

    /// Finds out what segments without a sound header are, and which the checkpoint knows and are gone.
    fn adopt(
        &mut self,
        headless: Vec<(Found, bool)>,
        found: &mut BTreeMap<u32, Found>,
    ) -> Result<()> {
        for (mut headless, blank) in headless {
            let serial = headless.header.serial;
            let mut scan = Scan::new(&*headless.file, serial, self.identity)?;
            let known = self
                .state
                .segments
                .get(&serial)
                .map(|segment| segment.first_batch);
            let first = match known {
                None if !blank => scan.search(0..u64::MAX)?.map(|(_, header)| header.number),
                known => known,
            };
            let Some(first_batch) = first else { continue };
            headless.header.first_batch = first_batch;
            headless.header.identity = self.identity;
            self.damage(serial, 0, SEGMENT_HEADER_BYTES);
            found.insert(serial, headless);
        }
        // What a checkpoint knows and is not there was deleted after it.
        let identity = self.identity;
        self.state.segments.retain(|serial, _| {
            found
                .get(serial)
                .is_some_and(|f| f.header.identity == identity)
        });
        Ok(())
    }

    fn replay(
        &mut self,
        found: &BTreeMap<u32, Found>,
        replay_from: u32,
        progress: &mut impl FnMut(Progress),
    ) -> Result<()> {
        let chain = self.chain(found, replay_from);
        let total_bytes = chain.iter().map(|found| u64::from(found.size)).sum();
        let mut done_bytes = 0;
        for at in 0..chain.len() {
            progress(Progress {
                done_bytes,
                total_bytes,
            });
            if !self.replay_segment(&chain, at)? {
                break;
            }
            done_bytes += u64::from(chain[at].size);
        }
        progress(Progress {
            done_bytes: total_bytes,
            total_bytes,
        });
        self.report.last = self.expected - 1;
        Ok(())
    }

    /// The segments to replay. One that does not begin before its successor does was cut off by an
    /// earlier recovery.
    fn chain<'f>(&self, found: &'f BTreeMap<u32, Found>, replay_from: u32) -> Vec<&'f Found> {
        let mut chain = Vec::new();
        let mut limit = u64::MAX;
        for found in found.range(replay_from..).rev().map(|(_, found)| found) {
            if found.header.identity == self.identity && found.header.first_batch < limit {
                limit = found.header.first_batch;
                chain.push(found);
            }
        }
        chain.reverse();
        chain
    }

    /// Replays one segment; says whether the log goes on behind it.
    fn replay_segment(&mut self, chain: &[&Found], at: usize) -> Result<bool> {
        let found = chain[at];
        let (serial, first) = (found.header.serial, found.header.first_batch);
        if first > self.expected {
            if !self.was_synced(chain, at, SEGMENT_HEADER_BYTES)? {
                self.report.torn = true;
                return Ok(false);
            }
            self.damage_before(serial);
            self.expected = first;
        }
        let next = chain.get(at + 1).map(|next| next.header.first_batch);
        let limit = next.unwrap_or(u64::MAX);
        self.state.open_segment(serial, first, found.size);
        let mut scan = Scan::new(&*found.file, serial, self.identity)?;
        while self.expected < limit {
            if let Some((offset, header)) = scan.next(self.expected)? {
                let batch = scan.bytes(offset, &header)?;
                self.apply(serial, offset, &header, batch);
                continue;
            }
            let (offset, end) = (scan.at(), self.expected);
            if !self.was_synced(chain, at, offset)? {
                self.report.torn = scan.begins(end)? || next.is_some();
                // Not a tail that was never finished: whatever was there, the disk does not give it back.
                if scan.hides(end)? {
                    self.damage(serial, offset, found.size.saturating_sub(offset));
                }
                return Ok(false);
            }
            let Some((sound, header)) = scan.search(end + 1..limit)? else {
                let bytes = found.size.saturating_sub(offset);
                self.damage(serial, offset, bytes);
                self.expected = limit;
                break;
            };
            self.damage(serial, offset, sound - offset);
            scan.seek(sound);
            self.expected = header.number;
        }
        Ok(next.is_some())
    }

    fn apply(&mut self, serial: u32, offset: u32, header: &BatchHeader, batch: &[u8]) {
        self.state.apply(header.number, offset, batch, false);
        self.unsure
            .push_back((serial, offset, header.length, header.number));
        while self
            .unsure
            .front()
            .is_some_and(|(.., number)| *number < header.synced)
        {
            self.unsure.pop_front();
        }
        self.expected = header.number + 1;
        self.report.replayed += 1;
    }

    /// Whether any sound batch from that place on says that the expected one was synced.
    fn was_synced(&self, chain: &[&Found], at: usize, offset: u32) -> Result<bool> {
        for (place, found) in chain.iter().enumerate().skip(at) {
            let serial = found.header.serial;
            let mut scan = Scan::new(&*found.file, serial, self.identity)?;
            if place == at {
                scan.seek(offset);
            }
            let limit = chain
                .get(place + 1)
                .map_or(u64::MAX, |next| next.header.first_batch);
            while let Some((sound, header)) = scan.search(self.expected + 1..limit)? {
                if header.synced > self.expected {
                    return Ok(true);
                }
                scan.seek(sound + header.length.next_multiple_of(8));
            }
        }
        Ok(false)
    }

    /// The batches before this segment are gone, with the file that had them or the end of it.
    fn damage_before(&mut self, serial: u32) {
        let previous = self.state.segments.range(..serial).next_back();
        let (segment, offset) = previous.map_or((serial, 0), |(s, segment)| (*s, segment.end));
        self.damage(segment, offset, 0);
    }

    fn damage(&mut self, segment: u32, offset: u32, bytes: u32) {
        if self.report.damages.len() < DAMAGES_MAX {
            self.report.damages.push(Damage {
                file: segment_name(segment),
                segment,
                offset,
                bytes,
                queues: self.state.queues_in(segment),
            });
        }
    }
}

impl Replayed {
    /// Makes the part that nobody says was synced durable.
    fn secure_tail(&self, disk: &dyn Disk) -> Result<()> {
        let mut serials: Vec<u32> = self.unsure.iter().map(|(serial, ..)| *serial).collect();
        serials.dedup();
        for serial in serials {
            let failed = |e| LogError::io(format!("secure {}", segment_name(serial)), e);
            let file = disk.open(&segment_name(serial), Mode::Buffered);
            let file = file.map_err(failed)?;
            let header = self.found[&serial].header.encode();
            disk::write_all(&*file, &header, 0, 1).map_err(failed)?;
            for (_, offset, length, _) in self.unsure.iter().filter(|(s, ..)| *s == serial) {
                let mut bytes = vec![0; *length as usize];
                disk::read_full(&*file, &mut bytes, u64::from(*offset)).map_err(failed)?;
                disk::write_all(&*file, &bytes, u64::from(*offset), 1).map_err(failed)?;
            }
            file.sync_data().map_err(failed)?;
        }
        Ok(())
    }
}

type Segments = (BTreeMap<u32, Found>, Vec<(Found, bool)>);

/// All segments with a header, by serial number; and files without one, each with whether it begins
/// with zeros, as a spare does that was never used.
fn segments(disk: &dyn Disk, names: &[String]) -> Result<Segments> {
    let (mut found, mut headless) = (BTreeMap::new(), Vec::new());
    for name in names {
        let Some(serial) = number_in(name, "segment") else {
            continue;
        };
        let file = disk.open(name, Mode::Buffered);
        let file = file.map_err(|e| LogError::io(format!("open {name}"), e))?;
        let size = file
            .size()
            .map_err(|e| LogError::io(format!("open {name}"), e))?;
        let size = size.min(u64::from(u32::MAX)) as u32;
        match SegmentHeader::read(&*file, name)? {
            Some(header) if u64::from(header.serial) == serial => {
                found.insert(header.serial, Found { header, file, size });
            }
            // A used spare that was renamed and not yet written.
            Some(_) => {}
            None => {
                let mut beginning = [0; 8];
                let read = disk::read_salvaging(&*file, &mut beginning, 0);
                let (_, lost) = read.map_err(|e| LogError::io(format!("read {name}"), e))?;
                let header = SegmentHeader {
                    serial: serial as u32,
                    identity: 0,
                    first_batch: 0,
                };
                let blank = beginning == [0; 8] && lost.is_empty();
                headless.push((Found { header, file, size }, blank));
            }
        }
    }
    Ok((found, headless))
}

fn share(
    disk: Arc<dyn Disk>,
    config: Config,
    identity: u64,
    mut state: State,
    names: &[String],
    report: &Recovered,
) -> Shared {
    state.seal_last();
    state.applied = report.last;
    let numbers = names.iter().filter_map(|name| {
        let endings = ["segment", "index", "checkpoint"];
        endings.iter().find_map(|ending| number_in(name, ending))
    });
    let highest = numbers.max().unwrap_or(0) as u32;
    let spares = usable_spares(&*disk, &config, names);
    let (blocks_max, block_bytes) = (config.cached_blocks_max, config.block_bytes);
    let (reserve, spares_max) = (config.reserve_segments, config.spare_segments_max);
    let alignment = disk.alignment();
    Shared {
        space: Space::new(
            Arc::clone(&disk),
            config.segment_bytes,
            reserve,
            spares_max,
            &spares,
        ),
        files: Files::new(Arc::clone(&disk), blocks_max, block_bytes),
        front: Mutex::new(Front {
            serial: 0,
            offset: 0,
            size: 0,
            next_number: report.last + 1,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            prepared: None,
            next_serial: highest + 1,
            closing: Default::default(),
            privileged_only: false,
            writer_sleeps: false,
            stopping: false,
        }),
        live: RwLock::new(state.segments.keys().copied().collect()),
        state: Mutex::new(state),
        io: Mutex::new(Io::new(alignment)),
        written: AtomicU64::new(report.last),
        written_until: AtomicU64::new(0),
        synced: AtomicU64::new(report.last),
        damages: Mutex::new(report.damages.clone()),
        syncs: Histogram::default(),
        observed: Mutex::default(),
        health: Mutex::new(Health::Open),
        config,
        disk,
        identity,
        alignment,
        wake: Condvar::new(),
        preparing: Mutex::default(),
        tail: RwLock::default(),
        unapplied: Mutex::default(),
        apply_due: Condvar::new(),
        inline: Inline::default(),
        unsynced_bytes: AtomicUsize::new(0),
        unsynced: Mutex::default(),
        syncing: Mutex::default(),
        listeners: RwLock::default(),
        failed: AtomicBool::new(false),
        sync_due: AtomicBool::new(false),
        write_starves: AtomicBool::new(false),
        write_starved: AtomicBool::new(false),
        maintenance: Mutex::default(),
        snapshots: Mutex::new(Snapshots::default()),
        buffers: Mutex::default(),
    }
}

/// The spare files of the right size; others are removed.
fn usable_spares(disk: &dyn Disk, config: &Config, names: &[String]) -> Vec<String> {
    let spares = names
        .iter()
        .filter(|name| number_in(name, "spare").is_some());
    let usable = spares.filter(|name| {
        let size = disk.open(name, Mode::Buffered).and_then(|file| file.size());
        let fits = size.is_ok_and(|size| size == u64::from(config.segment_bytes));
        if !fits {
            // If it cannot be removed, it stays and takes room; nothing reads it.
            let _ = disk.remove(name);
        }
        fits
    });
    usable.cloned().collect()
}

/// A number that no other log has, most probably.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
