//! From memory to the disk: the writing step and the syncing step of the group commit.
//!
//! There is no timer. Whatever was appended while the disk was busy goes with the next step; when it
//! was idle, the next batch goes at once.
//!
//! Whoever appended may write it too ([`Log::write_soon`]): into the page cache that is a copy, and takes less time than
//! waking a thread that does it. It is done only where it is most likely quick ([`Inline`]): a disk that stalls stalls
//! one of them at most, once, and the log's thread from then on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::disk::{self, File};
use crate::error::{LogError, Result};
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::log::{Front, Health, Item, Log, Shared};

/// Bytes of one write at most.
const STAGE_BYTES: usize = 1 << 20;
/// Batches from this size on are written from where they are, unless they have to be aligned.
const UNSTAGED_BYTES: usize = 32 << 10;
/// More than this is left to the log's thread, whoever appended it.
const INLINE_BYTES_MAX: usize = 512 << 10;
/// The same while so much is not synced: the system makes those wait who write faster than the disk.
const UNSYNCED_BYTES_MAX: usize = 64 << 20;
/// So much is synced at once, although nobody waits for that.
const SYNC_BYTES: usize = 16 << 20;
/// A write that takes longer is slow, ...
const SLOW: Duration = Duration::from_millis(2);
/// ... and for so long after one the log's thread writes; twice as long each time that it is soon slow again, ...
const REST_US: u64 = 100_000;
/// ... up to this.
const REST_US_MAX: u64 = 10_000_000;
/// Times that one who appended writes, if others append meanwhile.
const INLINE_ROUNDS: usize = 2;

/// What the writing step owns.
pub(crate) struct Io {
    /// Taken to be written, and not known to be.
    inflight: VecDeque<Item>,
    /// The segment that the last write went to.
    current: Option<(u32, Arc<dyn File>)>,
    stage: Stage,
}

impl Io {
    pub fn new(alignment: usize) -> Self {
        Self {
            inflight: VecDeque::new(),
            current: None,
            stage: Stage::new(alignment),
        }
    }
}

/// When others than the log's thread may write: while its threads run, and no write was slow lately.
pub(crate) struct Inline {
    began: Instant,
    /// There is a thread that does what is left.
    pub threads: AtomicBool,
    /// Not before, in microseconds since `began`.
    rests_until: AtomicU64,
    /// How long the last rest is.
    rest_us: AtomicU64,
}

impl Default for Inline {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            threads: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            rest_us: AtomicU64::new(0),
        }
    }
}

impl Inline {
    fn is_allowed(&self) -> bool {
        let until = self.rests_until.load(Ordering::Relaxed);
        self.threads.load(Ordering::Acquire) && (until == 0 || until <= self.now_us())
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Takes note of how long a write took, whoever did it.
    fn took(&self, since: Instant) {
        if since.elapsed() < SLOW {
            return;
        }
        let (now, last) = (self.now_us(), self.rest_us.load(Ordering::Relaxed));
        let soon = now <= self.rests_until.load(Ordering::Relaxed) + last;
        let rest = match soon {
            true => (2 * last).clamp(REST_US, REST_US_MAX),
            false => REST_US,
        };
        self.rest_us.store(rest, Ordering::Relaxed);
        self.rests_until.store(now + rest, Ordering::Relaxed);
    }
}

impl Log {
    /// Writes everything that waits. Says whether there was anything.
    ///
    /// # Errors
    /// [`LogError::Full`]: nothing is lost, the next step tries again. After any other error the
    /// log is [`Health::Failed`].
    pub fn write_step(&self) -> Result<bool> {
        let written = self.shared.write(self.shared.io.lock());
        // What was left to whoever writes: others may have come meanwhile.
        self.shared.wake_writer();
        written
    }

    /// Has written what waits: here and now if that is quick and nobody else is at it, else by the log's thread. Where
    /// no threads run ([`Log::start`]) it does nothing: the steps do. Call it without any lock; listeners are called.
    pub fn write_soon(&self) {
        let shared = &*self.shared;
        for _ in 0..INLINE_ROUNDS {
            if !shared.may_write_here() {
                break;
            }
            // Whoever has it looks once more after giving it back.
            let Some(io) = shared.io.try_lock() else {
                return;
            };
            // What went wrong is told by the log's health; the thread tries again if that may help.
            if shared.write(io).is_err() {
                break;
            }
        }
        shared.wake_writer();
    }

    /// Has the log's thread write what was appended quietly. For who may hold a lock.
    pub fn wake(&self) {
        self.shared.wake_writer();
    }

    /// Makes everything that is written durable. Says whether there was anything.
    ///
    /// # Errors
    /// After any error the log is [`Health::Failed`], and what [`Log::synced`] says stays true.
    pub fn sync_step(&self) -> Result<bool> {
        let shared = &*self.shared;
        let one_at_a_time = shared.syncing.lock();
        shared.check_health()?;
        // In one: what was written before somebody set it is seen below.
        shared.sync_due.swap(false, Ordering::AcqRel);
        shared.unsynced_bytes.store(0, Ordering::Relaxed);
        // The order matters: a file is in the list before `written` covers what is in it. If it is not
        // there any more, a step before this one synced it after the write.
        let target = shared.written.load(Ordering::Acquire);
        let files = std::mem::take(&mut *shared.unsynced.lock());
        let worked = !files.is_empty();
        let began = Instant::now();
        for (serial, file) in files {
            if let Err(error) = file.sync_data() {
                let error = LogError::Io {
                    what: format!("sync {}", segment_name(serial)),
                    source: error,
                };
                shared.fail(&error);
                return Err(error);
            }
        }
        if worked {
            shared.syncs.record(began.elapsed());
        }
        let before = shared.synced.swap(target, Ordering::AcqRel);
        drop(one_at_a_time);
        if before != target {
            shared.report_progress();
        }
        Ok(worked || before != target)
    }
}

impl Item {
    /// Whether somebody waits for its sync.
    fn is_eager(&self) -> bool {
        match self {
            Self::Segment(_) => false,
            Self::Batch(batch) => batch.eager,
        }
    }

    /// The segment, and where what is written to it ends with this.
    fn end(&self) -> (u32, u32) {
        match self {
            Self::Segment(opened) => (opened.serial, SEGMENT_HEADER_BYTES),
            Self::Batch(batch) => (batch.serial, batch.offset + batch.data.len() as u32),
        }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        match self {
            Self::Segment(_) => 0,
            Self::Batch(batch) => batch.data.capacity(),
        }
    }

    /// Bytes to write.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Segment(_) => 0,
            Self::Batch(batch) => batch.data.len(),
        }
    }
}

impl Shared {
    /// Writes everything that waits, as whoever has `io`. Says whether there was anything.
    fn write(&self, mut io: MutexGuard<'_, Io>) -> Result<bool> {
        self.check_health()?;
        {
            let mut front = self.front.lock();
            if !front.waiting.is_empty() {
                // What comes next begins at a block that this write does not touch.
                let aligned = front.offset.next_multiple_of(self.alignment as u32);
                front.offset = aligned.min(front.size);
                io.inflight.append(&mut front.waiting);
            }
        }
        if io.inflight.is_empty() {
            return Ok(false);
        }
        let began = Instant::now();
        let bytes = io.inflight.iter().map(Item::bytes).sum::<usize>();
        let last = match self.write_items(&mut io) {
            Ok(last) => last,
            Err(error) => {
                match error {
                    LogError::Full => {
                        self.write_starves.store(true, Ordering::Release);
                        self.write_starved.store(true, Ordering::Release);
                        self.set_health(Health::Full);
                    }
                    _ => self.fail(&error),
                }
                return Err(error);
            }
        };
        self.write_starves.store(false, Ordering::Release);
        let eager = io.inflight.iter().any(Item::is_eager);
        if let Some((serial, end)) = io.inflight.back().map(Item::end) {
            let until = u64::from(serial) << 32 | u64::from(end);
            self.written_until.store(until, Ordering::Release);
        }
        io.inflight.clear();
        if let Some(last) = last {
            // Under the lock: of two that write, the later one must have the last word.
            self.written.store(last, Ordering::Release);
        }
        drop(io);

        self.front.lock().waiting_bytes -= bytes;
        self.inline.took(began);
        let unsynced = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if last.is_some() {
            if eager || unsynced >= SYNC_BYTES {
                self.sync_due.store(true, Ordering::Release);
                self.wake_writer();
            }
            self.report_progress();
        }
        self.trim_tail();
        Ok(true)
    }

    /// Whether something waits that may be written by whoever appended it.
    fn may_write_here(&self) -> bool {
        if !self.inline.is_allowed()
            || self.write_starves.load(Ordering::Acquire)
            || self.unsynced_bytes.load(Ordering::Relaxed) > UNSYNCED_BYTES_MAX
        {
            return false;
        }
        let front = self.front.lock();
        !front.waiting.is_empty() && front.waiting_bytes <= INLINE_BYTES_MAX
    }

    /// Whether the log's thread has something to do.
    pub fn has_work(&self, front: &Front) -> bool {
        !front.waiting.is_empty()
            || self.sync_due.load(Ordering::Acquire)
            // What found no room waits in the writing step, not in front of it.
            || self.write_starves.load(Ordering::Acquire)
    }

    /// Wakes the log's thread if it sleeps and has something to do.
    pub fn wake_writer(&self) {
        let mut front = self.front.lock();
        if front.writer_sleeps && self.has_work(&front) {
            front.writer_sleeps = false;
            self.wake.notify_all();
        }
    }

    fn report_progress(&self) {
        // In this order: of two that report, none says that more is synced than written.
        let synced = self.synced.load(Ordering::Acquire);
        let written = self.written.load(Ordering::Acquire);
        for listener in &*self.listeners.read() {
            listener.progressed(written, synced);
        }
    }

    /// Writes all items in flight; gives the number of the last batch among them.
    fn write_items(&self, io: &mut Io) -> Result<Option<u64>> {
        let (mut last, mut current) = (None, io.current.clone());
        io.stage.restart();
        for item in &io.inflight {
            match item {
                Item::Segment(opened) => {
                    self.finish(&mut io.stage, current.as_ref())?;
                    current = Some((opened.serial, Arc::clone(&opened.file)));
                    let header = SegmentHeader {
                        serial: opened.serial,
                        identity: self.identity,
                        first_batch: opened.first_batch,
                    };
                    io.stage.seek(0);
                    io.stage.push(&header.encode(), &*opened.file)?;
                }
                Item::Batch(batch) => {
                    let (serial, file) = current.as_ref().expect("a segment comes first");
                    debug_assert_eq!(batch.serial, *serial);
                    io.stage.seek(u64::from(batch.offset));
                    io.stage.push(&batch.data, &**file)?;
                    last = Some(batch.number);
                }
            }
        }
        self.finish(&mut io.stage, current.as_ref())?;
        io.current = current;
        Ok(last)
    }

    fn finish(&self, stage: &mut Stage, current: Option<&(u32, Arc<dyn File>)>) -> Result<()> {
        let Some(current) = current else {
            return Ok(());
        };
        if stage.finish(&*current.1)? {
            let mut unsynced = self.unsynced.lock();
            if !unsynced.iter().any(|(serial, _)| *serial == current.0) {
                unsynced.push(current.clone());
            }
        }
        Ok(())
    }

    fn trim_tail(&self) {
        let written = self.written.load(Ordering::Acquire);
        loop {
            let popped = self.tail.write().pop_above(self.config.tail_bytes, written);
            let Some(batch) = popped else { return };
            if let Ok(batch) = Arc::try_unwrap(batch) {
                self.recycle(batch.data);
            }
        }
    }
}

/// Collects batches that stand behind each other, and writes them in large pieces from aligned memory.
struct Stage {
    memory: Vec<u8>,
    /// Where the aligned part of the memory begins.
    start: usize,
    alignment: usize,
    filled: usize,
    /// Where the first staged byte goes in the file.
    at: u64,
    wrote: bool,
}

impl Stage {
    fn new(alignment: usize) -> Self {
        let memory = vec![0; STAGE_BYTES + alignment];
        let start = memory.as_ptr().align_offset(alignment).min(alignment);
        Self {
            memory,
            start,
            alignment,
            filled: 0,
            at: 0,
            wrote: false,
        }
    }

    fn restart(&mut self) {
        (self.filled, self.wrote) = (0, false);
    }

    /// The next byte goes to `offset`, which is behind what is staged by less than a block.
    fn seek(&mut self, offset: u64) {
        if self.filled == 0 {
            self.at = offset;
            return;
        }
        let gap = (offset - self.at) as usize - self.filled;
        let from = self.start + self.filled;
        self.memory[from..from + gap].fill(0);
        self.filled += gap;
    }

    fn push(&mut self, mut data: &[u8], file: &dyn File) -> Result<()> {
        if self.alignment == 1 && data.len() >= UNSTAGED_BYTES {
            self.flush(file)?;
            return self.write(data, file);
        }
        while !data.is_empty() {
            let room = STAGE_BYTES - self.filled;
            let (now, later) = data.split_at(room.min(data.len()));
            let from = self.start + self.filled;
            self.memory[from..from + now.len()].copy_from_slice(now);
            self.filled += now.len();
            data = later;
            if self.filled == STAGE_BYTES {
                self.flush(file)?;
            }
        }
        Ok(())
    }

    /// Writes the rest; says whether this file was written to since the last time.
    fn finish(&mut self, file: &dyn File) -> Result<bool> {
        if self.filled > 0 {
            let whole = self.filled.next_multiple_of(self.alignment);
            let from = self.start;
            self.memory[from + self.filled..from + whole].fill(0);
            self.filled = whole;
            self.flush(file)?;
        }
        Ok(std::mem::take(&mut self.wrote))
    }

    fn flush(&mut self, file: &dyn File) -> Result<()> {
        if self.filled > 0 {
            let staged = self.start..self.start + std::mem::take(&mut self.filled);
            let memory = std::mem::take(&mut self.memory);
            let written = self.write(&memory[staged], file);
            self.memory = memory;
            written?;
        }
        Ok(())
    }

    fn write(&mut self, data: &[u8], file: &dyn File) -> Result<()> {
        let written = disk::write_all(file, data, self.at, self.alignment);
        written.map_err(|e| LogError::io("write a segment", e))?;
        self.at += data.len() as u64;
        self.wrote = true;
        Ok(())
    }
}
