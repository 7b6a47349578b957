//! From memory to the disk: the writing step and the syncing step of the group commit.
//!
//! There is no timer. Whatever was appended while the disk was busy goes with the next step; when it
//! was idle, the next batch goes at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::disk::{self, File};
use crate::error::{LogError, Result};
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::log::{Health, Item, Log, Shared};

/// Bytes of one write at most.
const STAGE_BYTES: usize = 1 << 20;

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

impl Log {
    /// Writes everything that waits. Says whether there was anything.
    ///
    /// # Errors
    /// [`LogError::Full`]: nothing is lost, the next step tries again. After any other error the
    /// log is [`Health::Failed`].
    pub fn write_step(&self) -> Result<bool> {
        let shared = &*self.shared;
        let mut io = shared.io.lock();
        shared.check_health()?;
        {
            let mut front = shared.front.lock();
            if !front.waiting.is_empty() {
                // What comes next begins at a block that this write does not touch.
                let aligned = front.offset.next_multiple_of(shared.alignment as u32);
                front.offset = aligned.min(front.size);
                io.inflight.append(&mut front.waiting);
            }
        }
        if io.inflight.is_empty() {
            return Ok(false);
        }
        let bytes = io.inflight.iter().map(Item::bytes).sum::<usize>();
        let last = match shared.write_items(&mut io) {
            Ok(last) => last,
            Err(error) => {
                match error {
                    LogError::Full => {
                        shared.write_starves.store(true, Ordering::Release);
                        shared.write_starved.store(true, Ordering::Release);
                        shared.set_health(Health::Full);
                    }
                    _ => shared.fail(&error),
                }
                return Err(error);
            }
        };
        shared.write_starves.store(false, Ordering::Release);
        let eager = io.inflight.iter().any(Item::is_eager);
        if let Some((serial, end)) = io.inflight.back().map(Item::end) {
            let until = u64::from(serial) << 32 | u64::from(end);
            shared.written_until.store(until, Ordering::Release);
        }
        io.inflight.clear();
        if let Some(last) = last {
            // Under the lock: of two that write, the later one must have the last word.
            shared.written.store(last, Ordering::Release);
        }
        drop(io);

        shared.front.lock().waiting_bytes -= bytes;
        if last.is_some() {
            if eager {
                shared.sync_due.store(true, Ordering::Release);
            }
            shared.report_progress();
        }
        shared.trim_tail();
        Ok(true)
    }

    /// Makes everything that is written durable. Says whether there was anything.
    ///
    /// # Errors
    /// After any error the log is [`Health::Failed`], and what [`Log::synced`] says stays true.
    pub fn sync_step(&self) -> Result<bool> {
        let shared = &*self.shared;
        let one_at_a_time = shared.syncing.lock();
        shared.check_health()?;
        shared.sync_due.store(false, Ordering::Release);
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

    fn bytes(&self) -> usize {
        match self {
            Self::Segment(_) => 0,
            Self::Batch(batch) => batch.data.len(),
        }
    }
}

impl Shared {
    fn report_progress(&self) {
        let written = self.written.load(Ordering::Acquire);
        let synced = self.synced.load(Ordering::Acquire);
        for listener in self.listeners() {
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
        let staged = &self.memory[self.start..self.start + self.filled];
        let written = disk::write_all(file, staged, self.at, self.alignment);
        written.map_err(|e| LogError::io("write a segment", e))?;
        self.at += self.filled as u64;
        self.filled = 0;
        self.wrote = true;
        Ok(())
    }
}
