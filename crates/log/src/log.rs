//! The log itself: what all parts share, and how a batch gets its place.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::arena::Position;
use crate::batch::{Batch, Placed};
use crate::config::Config;
use crate::disk::{Disk, File, Mode};
use crate::error::{LogError, Result};
use crate::format::{
    BATCH_ALIGNMENT, BATCH_BYTES_MAX, BLOCK_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, segment_name,
};
use crate::maintain::{Maintenance, Snapshots, Stats};
use crate::observe::Histogram;
use crate::reader::Files;
use crate::recovery::Damage;
use crate::space::Space;
use crate::state::State;
use crate::tail::{Stored, Tail};
use crate::writer::{Inline, Io};

/// Capacity in bytes of the buffers handed out for batches.
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes of batches that are applied in one go. Fewer are applied by housekeeping, or by who asks for what they say.
pub(crate) const APPLY_BYTES: usize = 256 << 10;
/// Bytes of batches that wait to be applied at most, before whoever writes does it first.
const UNAPPLIED_BYTES_MAX: usize = 4 << 20;
/// Buffers kept for use again: 2 MiB at most.
const BUFFERS_MAX: usize = 8;

/// A durable, segmented, append-only log. Clones are the same log.
///
/// See the crate's documentation for the way of a record. Nothing here starts a thread: either
/// [`Log::start`](crate::Log::start) does, or the caller steps
/// [`write_step`](Log::write_step), [`sync_step`](Log::sync_step) and [`maintain`](Log::maintain).
#[derive(Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

/// What the log can do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Everything.
    Open,
    /// No room for messages; the rest goes. Becomes open by itself.
    Full,
    /// No file can be opened for messages, since the process or the system has too many open; the rest goes. Becomes open
    /// by itself.
    NoFiles,
    /// A write or a sync failed: it can be read only, until it is opened anew.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// Hears of progress, from the thread that made it. Must neither block nor call the log, but for
/// what reads an atomic: [`Log::written`] and [`Log::synced`].
pub trait Listener: Send + Sync {
    /// All batches up to number `written` are in the page cache, all up to `synced` on the disk.
    fn progressed(&self, written: u64, synced: u64);
    /// The log can do less, or more, than before.
    fn health_changed(&self, _health: &Health) {}
}

/// The place that a batch got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Number of the batch. Its records are in the page cache once [`Log::written`] is not below it,
    /// on the disk once [`Log::synced`] is not below it. Nothing is promised before.
    pub lsn: u64,
    /// Segment of the batch.
    pub segment: u32,
    /// Offset of the batch in its segment.
    pub offset: u32,
    /// More waits to be written than [`Config::waiting_bytes_max`]: publishers should pause until
    /// [`Log::waiting_bytes`] is below half of it.
    pub over: bool,
}

impl Appended {
    /// The position of a payload of the batch.
    pub fn position(&self, placed: Placed) -> Position {
        Position {
            segment: self.segment,
            offset: self.offset + placed.offset,
        }
    }
}

/// What all handles and threads of a log share. Lock order: `maintenance`, `preparing`, `io`, `state`, `front`;
/// the others are leaves.
pub(crate) struct Shared {
    pub config: Config,
    pub disk: Arc<dyn Disk>,
    pub identity: u64,
    pub alignment: usize,
    pub front: Mutex<Front>,
    /// Rung when there is something to do and the writer sleeps.
    pub wake: Condvar,
    /// When others than the writer's thread may write.
    pub inline: Inline,
    pub preparing: Mutex<()>,
    pub tail: RwLock<Tail>,
    /// Serial numbers of the segments that exist.
    pub live: RwLock<BTreeSet<u32>>,
    pub state: Mutex<State>,
    /// What was appended and is not in `state` yet.
    pub unapplied: Mutex<Unapplied>,
    /// Rung when there is enough of that, and the thread that applies it sleeps.
    pub apply_due: Condvar,
    pub io: Mutex<Io>,
    pub unsynced: Mutex<Vec<(u32, Arc<dyn File>)>>,
    pub syncing: Mutex<()>,
    /// Something was written that should be synced at once.
    pub sync_due: AtomicBool,
    /// Bytes written since the last sync began.
    pub unsynced_bytes: AtomicUsize,
    /// The last write found no room, although its file was there: room is not allocated in advance here.
    pub write_starves: AtomicBool,
    /// Some write did, since the log became full.
    pub write_starved: AtomicBool,
    pub written: AtomicU64,
    /// Where writing ended: serial number of the segment and, in the low half, the offset. Behind it a recycled
    /// file has what it had before.
    pub written_until: AtomicU64,
    pub synced: AtomicU64,
    pub listeners: RwLock<Vec<Arc<dyn Listener>>>,
    pub failed: AtomicBool,
    pub health: Mutex<Health>,
    pub space: Space,
    pub files: Files,
    pub maintenance: Mutex<Maintenance>,
    pub snapshots: Mutex<Snapshots>,
    pub damages: Mutex<Vec<Damage>>,
    /// How long syncs took.
    pub syncs: Histogram,
    /// The numbers of a moment ago.
    pub observed: Mutex<Stats>,
    pub buffers: Mutex<Vec<Vec<u8>>>,
}

/// What appending needs, under one short lock.
pub(crate) struct Front {
    pub serial: u32,
    /// Where the next batch goes.
    pub offset: u32,
    pub size: u32,
    pub next_number: u64,
    pub waiting: VecDeque<Item>,
    pub waiting_bytes: usize,
    /// The segment after this one.
    pub prepared: Option<Prepared>,
    pub next_serial: u32,
    /// Segments to which transfers may not refer any more.
    pub closing: BTreeSet<u32>,
    /// The segment is from the reserve: not for messages.
    pub privileged_only: bool,
    /// The writer sleeps and wants to be woken.
    pub writer_sleeps: bool,
    pub stopping: bool,
}

/// What is not applied yet, in the order of the log.
#[derive(Default)]
pub(crate) struct Unapplied {
    pub items: VecDeque<Item>,
    /// Of memory.
    pub bytes: usize,
    /// The thread that applies sleeps and wants to be woken.
    pub sleeps: bool,
}

/// Something to write, in the order of the log.
#[derive(Clone)]
pub(crate) enum Item {
    /// Batches go to another segment from here on.
    Segment(Arc<Opened>),
    Batch(Arc<Stored>),
}

/// The beginning of a segment.
pub(crate) struct Opened {
    pub serial: u32,
    pub first_batch: u64,
    pub size: u32,
    pub file: Arc<dyn File>,
}

/// A file that is ready to be a segment.
pub(crate) struct Prepared {
    pub serial: u32,
    pub size: u32,
    pub file: Arc<dyn File>,
    pub privileged: bool,
}

impl Log {
    /// Gives the batch its place behind all others and leaves it empty. Does not wait for the disk,
    /// but for a new segment if none is ready. When it fails, the batch is as it was.
    ///
    /// # Errors
    /// [`LogError::Full`] for batches with messages; [`LogError::Failed`]; [`LogError::Moved`] when a
    /// transfer refers to a segment that is gone or about to go; [`LogError::TooLarge`]. A segment that is
    /// about to go can be read until the copies are appended, and [`Log::resolve`] names it until then: transfer the
    /// payload itself ([`Batch::transfer_with`]) rather than try again.
    pub fn append(&self, batch: &mut Batch) -> Result<Appended> {
        let appended = self.append_quietly(batch)?;
        self.shared.wake_writer();
        Ok(appended)
    }

    /// As [`Log::append`], for who calls [`Log::write_soon`] as soon as he holds no lock: nobody else may be told to
    /// write it.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_quietly(&self, batch: &mut Batch) -> Result<Appended> {
        let (bytes, max) = (batch.stored_len(), self.shared.config.batch_bytes_max);
        if bytes > max as usize {
            let max = max as usize;
            return Err(LogError::TooLarge { bytes, max });
        }
        self.append_whatever_size(batch)
    }

    /// As [`Log::append_quietly`], for what was accepted once, perhaps under a larger limit.
    pub(crate) fn append_whatever_size(&self, batch: &mut Batch) -> Result<Appended> {
        assert!(!batch.is_empty(), "an empty batch has nothing to promise");
        let shared = &*self.shared;
        let (bytes, max) = (batch.stored_len(), BATCH_BYTES_MAX as usize);
        if bytes > max {
            return Err(LogError::TooLarge { bytes, max });
        }
        let privileged = !batch.needs_room();
        batch.fit_memory(|buffer| shared.recycle(buffer));
        loop {
            let mut front = shared.front.lock();
            shared.check_health()?;
            shared.check_references(&front, batch)?;
            if front.privileged_only && !privileged {
                return Err(LogError::Full);
            }
            if front.size - front.offset >= bytes as u32 {
                let eager = batch.is_eager();
                let placed = shared.place(&mut front, batch);
                // To sync it the thread has to wake up anyway: the sooner it begins to, the better.
                if eager && std::mem::take(&mut front.writer_sleeps) {
                    shared.wake.notify_all();
                }
                return Ok(placed);
            }
            let needed = (bytes as u32 + SEGMENT_HEADER_BYTES).next_multiple_of(BLOCK_BYTES);
            if front.prepared.as_ref().is_some_and(|p| p.size >= needed) {
                shared.rotate(&mut front);
                continue;
            }
            drop(front);
            shared.prepare(needed, privileged)?;
        }
    }

    /// An empty buffer for a batch, recycled where possible.
    pub fn buffer(&self) -> Vec<u8> {
        let recycled = self.shared.buffers.lock().pop();
        recycled.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Number of the last batch that is in the page cache with all before it.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// Number of the last batch that is on the disk with all before it: that survives a power loss.
    pub fn synced(&self) -> u64 {
        self.shared.synced.load(Ordering::Acquire)
    }

    /// Number of the last batch that was appended.
    pub fn appended(&self) -> u64 {
        self.shared.front.lock().next_number - 1
    }

    /// Bytes that wait to be written.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.front.lock().waiting_bytes
    }

    /// What the log can do.
    pub fn health(&self) -> Health {
        self.shared.health.lock().clone()
    }

    /// Bytes on the disk that are not what was written, as far as anybody read them: found by recovery,
    /// by readers of indexes and by copying.
    pub fn damages(&self) -> Vec<Damage> {
        self.shared.damages.lock().clone()
    }

    /// Calls `listener` from now on.
    pub fn listen(&self, listener: Arc<dyn Listener>) {
        self.shared.listeners.write().push(listener);
    }
}

impl Unapplied {
    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.memory();
        Some(item)
    }
}

impl Shared {
    fn place(&self, front: &mut Front, batch: &mut Batch) -> Appended {
        let number = front.next_number;
        let eager = batch.is_eager();
        let data = batch.seal(BatchHeader {
            length: 0,
            number,
            synced: self.synced.load(Ordering::Acquire) + 1,
            serial: front.serial,
            records: 0,
            identity: self.identity as u32,
        });
        let offset = front.offset;
        debug_assert_eq!(offset % BATCH_ALIGNMENT, 0);
        front.offset += data.len() as u32;
        front.next_number += 1;
        front.waiting_bytes += data.len();
        let stored = Arc::new(Stored {
            serial: front.serial,
            offset,
            number,
            eager,
            data,
        });
        self.tail.write().push(Arc::clone(&stored));
        self.apply_later(Item::Batch(Arc::clone(&stored)));
        front.waiting.push_back(Item::Batch(stored));
        Appended {
            lsn: number,
            segment: front.serial,
            offset,
            over: front.waiting_bytes > self.config.waiting_bytes_max,
        }
    }

    /// Goes on in the prepared segment.
    pub fn rotate(&self, front: &mut Front) {
        let Some(prepared) = front.prepared.take() else {
            return;
        };
        front.serial = prepared.serial;
        front.offset = SEGMENT_HEADER_BYTES;
        front.size = prepared.size;
        front.privileged_only = prepared.privileged;
        let opened = Arc::new(Opened {
            serial: prepared.serial,
            first_batch: front.next_number,
            size: prepared.size,
            file: prepared.file,
        });
        self.apply_later(Item::Segment(Arc::clone(&opened)));
        front.waiting.push_back(Item::Segment(opened));
    }

    /// Makes the next segment ready, for a batch that needs so many bytes. Nothing to do if it is.
    pub fn prepare(&self, needed: u32, privileged: bool) -> Result<()> {
        let _one_at_a_time = self.preparing.lock();
        let (serial, unfit) = {
            let mut front = self.front.lock();
            if front.prepared.as_ref().is_some_and(|p| p.size >= needed) {
                return Ok(());
            }
            front.next_serial += 1;
            (front.next_serial - 1, front.prepared.take())
        };
        if let Some(unfit) = unfit {
            self.live.write().remove(&unfit.serial);
            self.space.give(&segment_name(unfit.serial), unfit.size)?;
        }
        let spare = self.space.take(needed, privileged);
        match &spare {
            Ok(spare) => spare.lack.clone().map(|lack| self.set_health(lack)),
            Err(error) => error.is_full().then(|| self.set_health(Health::Full)),
        };
        let spare = spare.map_err(|error| self.no_file_now(error))?;
        self.space
            .activate(&spare.name, serial)
            .inspect_err(|error| self.fail(error))?;
        let name = segment_name(serial);
        let file = self.disk.open(&name, Mode::Append).map_err(|source| {
            let error = self.no_file_now(LogError::io(format!("open {name}"), source));
            if error.is_full() {
                // As a spare it waits for the next time; if that fails, it is a leftover that a start removes.
                let _ = self.space.give(&name, spare.bytes);
            } else {
                self.fail(&error);
            }
            error
        })?;
        self.live.write().insert(serial);
        self.front.lock().prepared = Some(Prepared {
            serial,
            size: spare.bytes,
            file,
            privileged: spare.lack.is_some(),
        });
        Ok(())
    }

    /// An error in making a file; too many open ones are as no room: not the log's end, and nobody's fault here.
    fn no_file_now(&self, error: LogError) -> LogError {
        if !error.is_out_of_files() {
            return error;
        }
        self.set_health(Health::NoFiles);
        LogError::Full
    }

    fn check_references(&self, front: &Front, batch: &Batch) -> Result<()> {
        for segment in batch.references() {
            if front.closing.contains(segment) || !self.live.read().contains(segment) {
                return Err(LogError::Moved(*segment));
            }
        }
        Ok(())
    }

    pub fn check_health(&self) -> Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match &*self.health.lock() {
            Health::Failed { reason } => Err(LogError::Failed(reason.clone())),
            _ => Ok(()),
        }
    }

    /// Nothing is written any more: the disk cannot be trusted until it was read again.
    pub fn fail(&self, error: &LogError) {
        let reason = error.to_string();
        self.set_health(Health::Failed { reason });
    }

    pub fn set_health(&self, health: Health) {
        {
            let mut now = self.health.lock();
            if *now == health || matches!(*now, Health::Failed { .. }) {
                return;
            }
            now.clone_from(&health);
            let failed = matches!(health, Health::Failed { .. });
            self.failed.store(failed, Ordering::Release);
        }
        for listener in &*self.listeners.read() {
            listener.health_changed(&health);
        }
    }

    /// Applies everything that was appended to the state.
    pub fn apply(&self) {
        loop {
            let mut state = self.state.lock();
            let Some(item) = self.unapplied.lock().pop() else {
                return;
            };
            match item {
                Item::Segment(opened) => {
                    self.take_snapshot(&mut state, opened.serial);
                    state.open_segment(opened.serial, opened.first_batch, opened.size);
                }
                Item::Batch(batch) => {
                    state.apply(batch.number, batch.offset, &batch.data, true);
                }
            }
        }
    }

    fn apply_later(&self, item: Item) {
        let mut unapplied = self.unapplied.lock();
        unapplied.bytes += item.memory();
        unapplied.items.push_back(item);
        if unapplied.bytes >= APPLY_BYTES && std::mem::take(&mut unapplied.sleeps) {
            self.apply_due.notify_all();
        }
    }

    /// Whether much more is left to apply than should be: then whoever comes by helps.
    pub fn applying_lags(&self) -> bool {
        self.unapplied.lock().bytes >= UNAPPLIED_BYTES_MAX
    }

    pub fn recycle(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < BUFFER_BYTES || buffer.capacity() > 2 * BUFFER_BYTES {
            return;
        }
        buffer.clear();
        let mut buffers = self.buffers.lock();
        if buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }
}
