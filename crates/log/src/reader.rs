//! Bytes of messages, by position: from the batches in memory, else from blocks of the segments' files.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::arena::Position;
use crate::disk::{Disk, File, Mode, read_salvaging};
use crate::error::{LogError, Result};
use crate::format::segment_name;
use crate::index::{Page, Table};
use crate::log::{Log, Shared};
use crate::record::{RECORD_HEADER_BYTES, record_is_sound, record_length};
use crate::tail::Stored;

/// Open files at most, of those that are read.
const FILES_MAX: usize = 64;
/// Page tables kept: of one queue alone in a segment of small messages each is about 60 kB.
const TABLES_MAX: usize = 16;
/// Memory of blocks kept for use again.
const SPENT_MAX: usize = 4;

/// Bytes of a segment that do not change, shared: the payload that was asked for and its neighbours.
#[derive(Debug, Clone)]
pub struct Chunk(Source);

#[derive(Debug, Clone)]
enum Source {
    Memory(Arc<Stored>),
    Disk(Arc<Block>),
}

struct Block {
    segment: u32,
    offset: u32,
    data: Vec<u8>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}..{}", self.segment, self.offset, self.data.len())
    }
}

impl Chunk {
    /// The payload at `position`, if it is in this chunk whole and, when it came from the disk,
    /// sound. Otherwise ask [`Log::read`], which says what is wrong.
    pub fn get(&self, position: Position, len: u32) -> Option<&[u8]> {
        let (segment, offset, data) = match &self.0 {
            Source::Memory(stored) => (stored.serial, stored.offset, &stored.data),
            Source::Disk(block) => (block.segment, block.offset, &block.data),
        };
        if segment != position.segment {
            return None;
        }
        let from = position.offset.checked_sub(offset)? as usize;
        let payload = data.get(from..from.checked_add(len as usize)?)?;
        if matches!(self.0, Source::Disk(_)) {
            let record = data.get(from.checked_sub(RECORD_HEADER_BYTES)?..)?;
            let record = &record[..record_length(record)?];
            let inside = RECORD_HEADER_BYTES + len as usize <= record.len();
            if !inside || !record_is_sound(record) {
                return None;
            }
        }
        Some(payload)
    }
}

type KnownTable = (u32, u64, Arc<[Page]>);

/// Files that were opened to be read, and blocks of them: the last used first.
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    open: Mutex<Vec<(String, Arc<dyn File>)>>,
    blocks: Mutex<Vec<Arc<Block>>>,
    /// Page tables by segment and place in its index file.
    tables: Mutex<Vec<KnownTable>>,
    /// Memory of blocks that nobody reads any more: fresh memory costs more than reading into it.
    spent: Mutex<Vec<Vec<u8>>>,
    blocks_max: usize,
    block_bytes: usize,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, blocks_max: usize, block_bytes: usize) -> Self {
        Self {
            disk,
            open: Mutex::default(),
            blocks: Mutex::default(),
            tables: Mutex::default(),
            spent: Mutex::default(),
            blocks_max,
            block_bytes,
        }
    }

    /// The file of that name, to be read.
    pub fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        let mut open = self.open.lock();
        let found = open.iter().position(|(known, _)| known == name);
        let entry = match found {
            Some(at) => open.remove(at),
            None => {
                let file = self.disk.open(name, Mode::Buffered);
                let file = file.map_err(|e| LogError::io(format!("open {name}"), e))?;
                (name.to_owned(), file)
            }
        };
        let file = Arc::clone(&entry.1);
        open.insert(0, entry);
        open.truncate(FILES_MAX);
        Ok(file)
    }

    /// As [`Files::open`], `None` when there is no such file. Any other failure, such as too many open
    /// files, says nothing about the file.
    pub fn open_if_there(&self, name: &str) -> Result<Option<Arc<dyn File>>> {
        match self.open(name) {
            Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Forgets what it has of a segment, which is about to be deleted.
    pub fn forget(&self, serial: u32) {
        let names = [segment_name(serial), crate::format::index_name(serial)];
        self.open.lock().retain(|(name, _)| !names.contains(name));
        self.blocks.lock().retain(|block| block.segment != serial);
        self.tables
            .lock()
            .retain(|(segment, ..)| *segment != serial);
    }

    /// A page table, if it was read lately.
    pub fn cached_table(&self, serial: u32, table: &Table) -> Option<Arc<[Page]>> {
        let tables = self.tables.lock();
        let found = tables
            .iter()
            .find(|(segment, at, _)| (*segment, *at) == (serial, table.at));
        found.map(|(.., pages)| Arc::clone(pages))
    }

    /// Keeps a page table for the next time.
    pub fn keep_table(&self, serial: u32, table: &Table, pages: &Arc<[Page]>) {
        let mut tables = self.tables.lock();
        tables.insert(0, (serial, table.at, Arc::clone(pages)));
        tables.truncate(TABLES_MAX);
    }

    fn cached(&self, position: Position, len: u32) -> Option<Chunk> {
        let mut blocks = self.blocks.lock();
        let until = position.offset.checked_add(len)?;
        let at = blocks.iter().position(|block| {
            block.segment == position.segment
                && block.offset + RECORD_HEADER_BYTES as u32 <= position.offset
                && until <= block.offset + block.data.len() as u32
        })?;
        let block = blocks.remove(at);
        blocks.insert(0, Arc::clone(&block));
        Some(Chunk(Source::Disk(block)))
    }

    /// A block that begins with the record at `position` and ends before `until`.
    fn load(&self, position: Position, len: usize, until: u32) -> Result<Arc<Block>> {
        let name = segment_name(position.segment);
        let file = self.open(&name)?;
        let offset = position.offset.saturating_sub(RECORD_HEADER_BYTES as u32);
        let size = file.size().unwrap_or_default();
        let left = size.min(u64::from(until)).saturating_sub(u64::from(offset)) as usize;
        let mut data = self.spent.lock().pop().unwrap_or_default();
        data.resize(len.max(self.block_bytes).min(left), 0);
        let read = read_salvaging(&*file, &mut data, u64::from(offset));
        let (read, _) = read.map_err(|e| LogError::io(format!("read {name}"), e))?;
        data.truncate(read);
        Ok(Arc::new(Block {
            segment: position.segment,
            offset,
            data,
        }))
    }

    fn keep(&self, block: &Arc<Block>) {
        if block.data.len() > self.block_bytes {
            return;
        }
        let mut blocks = self.blocks.lock();
        blocks.insert(0, Arc::clone(block));
        while blocks.len() > self.blocks_max {
            let spent = blocks.pop().and_then(Arc::into_inner);
            let mut memory = self.spent.lock();
            if let Some(block) = spent
                && memory.len() < SPENT_MAX
            {
                memory.push(block.data);
            }
        }
    }
}

impl Log {
    /// The payload of `len` bytes at `position`, in a chunk that has its neighbours too: whoever reads
    /// a run of messages asks [`Chunk::get`] first.
    ///
    /// # Errors
    /// [`LogError::Moved`]: ask [`Log::resolve`] where the message is now. [`LogError::Damaged`].
    pub fn read(&self, position: Position, len: u32) -> Result<Chunk> {
        let shared = &*self.shared;
        let found = shared
            .tail
            .read()
            .find(position.segment, position.offset)
            .cloned();
        if let Some(stored) = found {
            return Ok(Chunk(Source::Memory(stored)));
        }
        if !shared.live.read().contains(&position.segment) {
            return Err(LogError::Moved(position.segment));
        }
        if let Some(chunk) = shared.files.cached(position, len)
            && chunk.get(position, len).is_some()
        {
            return Ok(chunk);
        }
        let read = shared.read_block(position, len);
        // A segment that was deleted meanwhile may already be another: only now is it certain.
        if !shared.live.read().contains(&position.segment) {
            return Err(LogError::Moved(position.segment));
        }
        read
    }
}

impl Shared {
    fn read_block(&self, position: Position, len: u32) -> Result<Chunk> {
        // The record's end is known only when its header was read.
        let mut wanted = RECORD_HEADER_BYTES + len as usize;
        // Of a recycled file the bytes behind may be sound records of its earlier life.
        let written = self.written_until.load(Ordering::Acquire);
        let active = (written >> 32) as u32 == position.segment;
        let until = if active { written as u32 } else { u32::MAX };
        for _ in 0..2 {
            let block = self.files.load(position, wanted, until)?;
            let chunk = Chunk(Source::Disk(Arc::clone(&block)));
            if chunk.get(position, len).is_some() {
                self.files.keep(&block);
                return Ok(chunk);
            }
            if block.data.len() < RECORD_HEADER_BYTES {
                break;
            }
            wanted = crate::format::u32_at(&block.data, 4) as usize;
            if wanted <= block.data.len() {
                break;
            }
        }
        Err(LogError::Damaged {
            segment: position.segment,
            offset: position.offset,
        })
    }
}
