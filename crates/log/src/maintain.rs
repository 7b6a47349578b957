//! Housekeeping: index files, checkpoints, deletion of dead segments, copying mostly dead ones
//! forward, and segments made ready in advance.
//!
//! What keeps a segment: a message in it that is not settled, or one elsewhere that refers to a body in
//! it; or that it is not before the last checkpoint, so that its settlements and definitions are nowhere else.
//! A segment without any of that is deleted only once all that made it dead is synced: the settlements, the
//! transfers and the copies.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::checkpoint::{self, Snapshot};
use crate::copy::Job;
use crate::disk::{self, Mode};
use crate::error::{LogError, Result};
use crate::format::{SEGMENT_HEADER_BYTES, index_name, segment_name};
use crate::index;
use crate::log::{Health, Log, Shared};
use crate::state::State;

/// A checkpoint is due when this many times its size was written since the last.
const CHECKPOINT_WORTH: u64 = 4;
/// Checkpoints kept.
const CHECKPOINTS_MAX: usize = 2;

/// What housekeeping knows; one at a time does it.
#[derive(Default)]
pub(crate) struct Maintenance {
    /// The first segment that the newest checkpoint does not cover.
    pub replay_from: u32,
    /// Names of the checkpoints on the disk, oldest first.
    pub checkpoints: Vec<String>,
    /// Dead segments, each with the batch that has to be synced before it may go.
    dying: BTreeMap<u32, u64>,
    pub job: Option<Job>,
    pub counts: Counts,
    /// What was estimated to be alive in segments that may be copied, the last time.
    pub seen: BTreeMap<u32, u64>,
    /// What was estimated to be alive in segments when it was counted and found to be too much to copy.
    pub counted: BTreeMap<u32, u64>,
    /// Segments that are damaged where somebody lives: never copied, so never deleted.
    pub quarantined: std::collections::BTreeSet<u32>,
}

/// What housekeeping did since the log was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments deleted because nothing in them was needed.
    pub deleted_segments: u64,
    /// Segments whose live messages were copied forward.
    pub copied_segments: u64,
    /// Bytes of those copies.
    pub copied_bytes: u64,
    /// Index files written.
    pub indexes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
}

/// A log in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of the last batch that was appended.
    pub appended: u64,
    /// Number of the last batch in the page cache.
    pub written: u64,
    /// Number of the last batch on the disk.
    pub synced: u64,
    /// Bytes that wait to be written.
    pub waiting_bytes: usize,
    /// Segments with messages or settlements in them.
    pub segments: usize,
    /// Bytes of their files.
    pub segment_bytes: u64,
    /// Payload bytes alive in them, estimated.
    pub live_bytes: u64,
    /// Spare files.
    pub spares: usize,
    /// What housekeeping did.
    pub counts: Counts,
}

/// The state at the last boundary between segments.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// Not on the disk yet.
    pending: Option<Snapshot>,
    last_bytes: u64,
    /// Segments since the last one.
    segments: u64,
    /// Take one before this segment, or the first after it, whatever it costs.
    pub wanted: Option<u32>,
}

impl Maintenance {
    /// At the beginning of a run.
    pub fn new(replay_from: u32, checkpoints: Vec<String>) -> Self {
        Self {
            replay_from,
            checkpoints,
            ..Self::default()
        }
    }
}

impl Log {
    /// Does one portion of housekeeping; says whether there is more to do at once. Call it
    /// regularly, also when nothing is appended.
    ///
    /// # Errors
    /// What a disk can refuse. Nothing is lost; it is tried again the next time.
    pub fn maintain(&self) -> Result<bool> {
        let shared = &*self.shared;
        let mut maintenance = shared.maintenance.lock();
        shared.apply();
        shared.check_health()?;
        shared.resume()?;
        shared.prepare_ahead()?;
        let mut more = shared.write_checkpoint(&mut maintenance)?;
        let indexed = shared.write_one_index()?;
        maintenance.counts.indexes += u64::from(indexed);
        more |= indexed;
        more |= shared.delete_dead(&mut maintenance)?;
        more |= self.copy_forward(&mut maintenance)?;
        Ok(more)
    }

    /// The log in numbers. Waits for housekeeping; [`Log::observe`] does not.
    pub fn stats(&self) -> Stats {
        let shared = &*self.shared;
        let counts = shared.maintenance.lock().counts;
        shared.apply();
        let (segments, segment_bytes, live_bytes) = {
            let state = shared.state.lock();
            let sizes = state.segments.values().map(|s| u64::from(s.size));
            let live = state.live_bytes();
            (state.segments.len(), sizes.sum(), live.values().sum())
        };
        Stats {
            appended: self.appended(),
            written: self.written(),
            synced: self.synced(),
            waiting_bytes: self.waiting_bytes(),
            segments,
            segment_bytes,
            live_bytes,
            spares: shared.space.spares(),
            counts,
        }
    }

    /// Makes everything so far durable and writes a checkpoint of it, so that the next start replays
    /// nothing. For a clean end; costs a segment.
    ///
    /// # Errors
    /// As of the steps.
    pub fn checkpoint(&self) -> Result<()> {
        let shared = &*self.shared;
        let prepared = shared.prepare(SEGMENT_HEADER_BYTES, true);
        {
            let mut front = shared.front.lock();
            let next = front.prepared.as_ref().map_or(0, |next| next.serial);
            shared.snapshots.lock().wanted = Some(next);
            if prepared.is_ok() {
                shared.rotate(&mut front);
            }
        }
        self.write_step()?;
        self.sync_step()?;
        // Without room for another segment what waited is durable all the same.
        prepared?;
        let mut maintenance = shared.maintenance.lock();
        shared.apply();
        while shared.write_one_index()? {}
        shared.write_checkpoint(&mut maintenance)?;
        Ok(())
    }
}

impl Shared {
    /// Called at the boundary before the segment `next`, when all before is applied.
    pub fn take_snapshot(&self, state: &mut State, next: u32) {
        let mut snapshots = self.snapshots.lock();
        snapshots.segments += 1;
        // On a slow disk the one that waits would never be synced before the next.
        let wanted = snapshots.wanted.is_some_and(|from| next >= from);
        if snapshots.pending.is_some() && !wanted {
            return;
        }
        let written = snapshots.segments * u64::from(self.config.segment_bytes);
        if !wanted && written < CHECKPOINT_WORTH * snapshots.last_bytes {
            return;
        }
        state.prune();
        let snapshot = checkpoint::encode(state, self.identity, next);
        *snapshots = Snapshots {
            last_bytes: snapshot.bytes.len() as u64,
            pending: Some(snapshot),
            segments: 0,
            wanted: snapshots.wanted.filter(|_| !wanted),
        };
    }

    /// Takes messages again when there is room again.
    fn resume(&self) -> Result<()> {
        // Also when a segment from the reserve was opened in the moment in which the log became open.
        let full = matches!(*self.health.lock(), Health::Full | Health::NoFiles)
            || self.front.lock().privileged_only;
        if !full || self.write_starves.load(Ordering::Acquire) {
            return Ok(());
        }
        // Where making files takes no room, a write must not be what tells that there is none, again and again.
        let free = || self.disk.free_bytes().unwrap_or(u64::MAX);
        if self.write_starved.load(Ordering::Acquire)
            && free() < u64::from(self.config.segment_bytes)
        {
            return Ok(());
        }
        if self.space.has_room()? {
            self.write_starved.store(false, Ordering::Release);
            self.front.lock().privileged_only = false;
            self.set_health(Health::Open);
        }
        Ok(())
    }

    fn prepare_ahead(&self) -> Result<()> {
        let prepared = self.prepare(SEGMENT_HEADER_BYTES, false);
        match prepared.and_then(|()| self.space.fill_reserve()) {
            Err(LogError::Full) => Ok(()),
            other => other,
        }
    }

    fn write_checkpoint(&self, maintenance: &mut Maintenance) -> Result<bool> {
        let snapshot = {
            let mut snapshots = self.snapshots.lock();
            let synced = self.synced.load(Ordering::Acquire);
            let due = snapshots
                .pending
                .as_ref()
                .is_some_and(|s| s.applied <= synced);
            if !due {
                return Ok(false);
            }
            snapshots.pending.take()
        };
        let Some(snapshot) = snapshot else {
            return Ok(false);
        };
        let name = format!("{:016x}.checkpoint", snapshot.replay_from);
        if let Err(error) = self.write_file(&name, &snapshot.bytes) {
            if error.is_full() && self.space.sacrifice() {
                self.set_health(Health::Full);
            }
            let mut snapshots = self.snapshots.lock();
            // By then a newer one is worth more.
            snapshots.wanted = Some(0);
            if snapshots.pending.is_none() {
                snapshots.pending = Some(snapshot);
            }
            return if error.is_full() {
                Ok(false)
            } else {
                Err(error)
            };
        }
        let synced = self.disk.sync_dir();
        synced.map_err(|e| LogError::io(format!("sync {name}"), e))?;
        maintenance.replay_from = snapshot.replay_from;
        maintenance.counts.checkpoints += 1;
        maintenance.checkpoints.retain(|known| *known != name);
        maintenance.checkpoints.push(name);
        while maintenance.checkpoints.len() > CHECKPOINTS_MAX {
            let old = maintenance.checkpoints.remove(0);
            let removed = self.disk.remove(&old);
            removed.map_err(|e| LogError::io(format!("remove {old}"), e))?;
        }
        Ok(true)
    }

    /// Writes a whole file, synced, in place of any of that name.
    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = format!("{name}.tmp");
        let _ = self.disk.remove(&temporary);
        let written = self
            .disk
            .create(&temporary, bytes.len() as u64)
            .and_then(|()| {
                let file = self.disk.open(&temporary, Mode::Buffered)?;
                disk::write_all(&*file, bytes, 0, 1)?;
                file.sync_data()?;
                self.disk.rename(&temporary, name)
            });
        written.map_err(|error| {
            let _ = self.disk.remove(&temporary);
            LogError::io(format!("write {name}"), error)
        })
    }

    /// Moves the index of one sealed segment from memory to a file.
    fn write_one_index(&self) -> Result<bool> {
        let synced = self.synced.load(Ordering::Acquire);
        let found = {
            let mut state = self.state.lock();
            state.prune();
            let mut segments = state.segments.iter();
            // Only of segments that could be scanned if the file were damaged.
            let found = segments.find(|(_, s)| s.wants_index() && s.next_batch <= synced + 1);
            found.map(|(serial, segment)| {
                let groups = segment.groups.iter();
                (*serial, index::encode_file(*serial, self.identity, groups))
            })
        };
        let Some((serial, bytes)) = found else {
            return Ok(false);
        };
        match self.write_file(&index_name(serial), &bytes) {
            Ok(()) => {}
            Err(LogError::Full) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.move_to_file(serial)?;
        Ok(true)
    }

    fn move_to_file(&self, serial: u32) -> Result<()> {
        let name = index_name(serial);
        self.files.forget(serial);
        let file = self.files.open(&name)?;
        let directory = index::read_directory(&*file, serial, self.identity)?;
        let mut state = self.state.lock();
        let segment = state.segments.get_mut(&serial);
        if let (Some(directory), Some(segment)) = (directory, segment) {
            for (key, found) in directory {
                if let Some(group) = segment.groups.get_mut(&key) {
                    group.place = found.place;
                }
            }
        }
        Ok(())
    }

    /// Deletes the segments that nothing needs, once that is certain to stay so.
    fn delete_dead(&self, maintenance: &mut Maintenance) -> Result<bool> {
        let synced = self.synced.load(Ordering::Acquire);
        let dead = {
            let mut state = self.state.lock();
            state.prune();
            let applied = state.applied;
            let dead = state.dead_segments(maintenance.replay_from);
            maintenance.dying.retain(|serial, _| dead.contains(serial));
            for serial in &dead {
                maintenance.dying.entry(*serial).or_insert(applied);
            }
            dead
        };
        let mut deleted = false;
        for serial in dead {
            if maintenance.dying[&serial] <= synced && self.delete(serial)? {
                maintenance.dying.remove(&serial);
                maintenance.counts.deleted_segments += 1;
                deleted = true;
            }
        }
        if self.unapplied.lock().items.is_empty() {
            self.state.lock().forget_deleted();
        }
        Ok(deleted)
    }

    /// Deletes a dead segment, unless a transfer referred to it a moment ago.
    fn delete(&self, serial: u32) -> Result<bool> {
        self.front.lock().closing.insert(serial);
        self.apply();
        let size = {
            let mut state = self.state.lock();
            if !state.dead_segments(serial + 1).contains(&serial) {
                self.front.lock().closing.remove(&serial);
                return Ok(false);
            }
            self.live.write().remove(&serial);
            let segment = state.segments.remove(&serial);
            segment.map_or(0, |segment| segment.size)
        };
        self.front.lock().closing.remove(&serial);
        self.files.forget(serial);
        // Without its segment an index is nothing; recovery removes it if this does not.
        let _ = self.disk.remove(&index_name(serial));
        self.space.give(&segment_name(serial), size)?;
        Ok(true)
    }
}
