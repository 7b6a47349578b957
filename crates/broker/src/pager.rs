//! Brings messages that wait in the log alone back into memory, and gives up memory when it is tight.
//!
//! One a node. It has no thread: whoever hears a queue's page bell calls [`Pager::page_in`], and whoever cannot wait
//! for that (a get) calls it itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use backbone_log::{Arena, Chunk, Located, LogError, Position, Segment};

use crate::durable::Durable;
use crate::flow;
use crate::publisher::LARGE_FROM_BYTES;
use crate::queue::{Bell, PAGE_BYTES, PAGE_MESSAGES, Page, Queue, Wakes};
use crate::record::Entry;

/// Attempts to find a message that is copied from segment to segment meanwhile.
const MOVES_MAX: usize = 8;

/// Moves messages between the log and memory.
pub struct Pager {
    arena: Arc<Arena>,
    durable: Arc<Durable>,
    /// Above so many bytes of messages memory is tight.
    tight_bytes: usize,
    asked: Arc<Asked>,
    paged_in: AtomicU64,
    paged_out: AtomicU64,
    unreadable: AtomicU64,
}

type Asked = dyn Fn(Weak<Queue>) + Send + Sync;

struct PageBell {
    queue: Weak<Queue>,
    asked: Arc<Asked>,
}

impl Bell for PageBell {
    fn ring(&self, _key: u64) {
        (self.asked)(Weak::clone(&self.queue));
    }

    fn cancelled(&self, _key: u64) {}
}

/// Messages read from the log, in order.
#[derive(Default)]
struct Read {
    entries: Vec<Entry>,
    segments: Vec<Arc<Segment>>,
    /// The first number that was not looked at.
    until: u64,
    /// How many there were, unreadable ones included.
    found: u64,
}

impl Pager {
    /// A pager between `durable` and `arena`, where more than `tight_bytes` should not stay.
    /// `asked` is told, by anybody and under no lock, of queues that want [`Pager::page_in`] called; it must not block.
    pub fn new(
        arena: Arc<Arena>,
        durable: Arc<Durable>,
        tight_bytes: usize,
        asked: impl Fn(Weak<Queue>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            arena,
            durable,
            tight_bytes,
            asked: Arc::new(asked),
            paged_in: AtomicU64::new(0),
            paged_out: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
        }
    }

    /// What `queue` rings when it wants its next page.
    pub(crate) fn bell(&self, queue: &Arc<Queue>) -> Arc<dyn Bell> {
        Arc::new(PageBell {
            queue: Arc::downgrade(queue),
            asked: Arc::clone(&self.asked),
        })
    }

    /// Whether queues should keep less in memory.
    pub fn is_tight(&self) -> bool {
        self.arena.bytes() > self.tight_bytes
    }

    /// Messages brought back, given up, and not readable because of damage, since start.
    pub fn counts(&self) -> [u64; 3] {
        [&self.paged_in, &self.paged_out, &self.unreadable].map(|n| n.load(Ordering::Relaxed))
    }

    /// Brings the next messages of a queue into memory, if any wait in the log alone. False when there was nothing to
    /// bring.
    ///
    /// # Errors
    /// The log's index cannot be read. The queue stays as it is: try again.
    pub fn page_in(&self, queue: &Queue, wakes: &mut Wakes) -> Result<bool, LogError> {
        let Some(page) = queue.page_wanted() else {
            queue.page_done();
            return Ok(false);
        };
        let read = match self.read(queue.id(), page) {
            Ok(read) => read,
            Err(error) => {
                queue.page_done();
                return Err(error);
            }
        };
        let entries = &read.entries;
        let taken = queue.page_in(page, read.until, read.found, entries, wakes);
        if taken {
            self.paged_in
                .fetch_add(entries.len() as u64, Ordering::Relaxed);
        } else {
            flow::release(&self.arena, entries);
        }
        for guard in read.segments {
            self.arena.release_held(guard, 1);
        }
        Ok(true)
    }

    /// Gives up what `queue` has in memory and in the log, but for what it needs soon.
    pub fn page_out(&self, queue: &Queue) {
        let mut dropped = Vec::new();
        queue.page_out(&mut dropped);
        self.paged_out
            .fetch_add(dropped.len() as u64, Ordering::Relaxed);
        flow::release(&self.arena, &dropped);
    }

    fn read(&self, queue: u64, page: Page) -> Result<Read, LogError> {
        let log = self.durable.log();
        let mut located = log.load(queue, page.from, PAGE_MESSAGES)?;
        let loaded = located.len();
        located.retain(|message| message.seq < page.limit);
        let all = loaded < PAGE_MESSAGES || located.len() < loaded;
        let mut read = Read::default();
        let mut fill = Fill::new(&self.arena);
        let mut chunk = None;
        let mut bytes = 0;
        for message in &located {
            if bytes > 0 && bytes + message.len as usize > PAGE_BYTES {
                read.until = message.seq;
                break;
            }
            bytes += message.len as usize;
            read.found += 1;
            match self.bytes_of(queue, message, &mut chunk) {
                Ok((chunk, at)) => {
                    let payload = chunk.get(at, message.len).expect("it was just there");
                    fill.add(message.seq, payload, &mut read);
                }
                // Purged meanwhile: the queue will not want the page.
                Err(LogError::Moved(_)) => {}
                Err(LogError::Damaged { .. }) => {
                    self.unreadable.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    fill.end(&mut read);
                    self.discard(read);
                    return Err(error);
                }
            }
        }
        fill.end(&mut read);
        if read.until == 0 {
            // A full load may end below the limit.
            let last = located.last().map_or(page.limit, |last| last.seq + 1);
            read.until = if all { page.limit } else { last };
        }
        Ok(read)
    }

    /// The chunk that has a message, and where in it.
    fn bytes_of<'a>(
        &self,
        queue: u64,
        message: &Located,
        chunk: &'a mut Option<Chunk>,
    ) -> Result<(&'a Chunk, Position), LogError> {
        let log = self.durable.log();
        let mut at = message.position;
        let here = |chunk: &Chunk| chunk.get(at, message.len).is_some();
        if !chunk.as_ref().is_some_and(here) {
            let mut read = log.read(at, message.len);
            for _ in 0..MOVES_MAX {
                if !matches!(read, Err(LogError::Moved(_))) {
                    break;
                }
                let Some(moved) = log.resolve(queue, message.seq)? else {
                    break;
                };
                at = moved.position;
                read = log.read(at, message.len);
            }
            *chunk = Some(read?);
        }
        Ok((chunk.as_ref().expect("it was just set"), at))
    }

    fn discard(&self, read: Read) {
        flow::release(&self.arena, &read.entries);
        for guard in read.segments {
            self.arena.release_held(guard, 1);
        }
    }
}

/// Puts messages into the arena, small ones together.
struct Fill<'a> {
    arena: &'a Arena,
    buffer: Vec<u8>,
    /// The first entry that is in `buffer`.
    first: usize,
}

impl<'a> Fill<'a> {
    fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            buffer: Vec::new(),
            first: 0,
        }
    }

    fn add(&mut self, seq: u64, payload: &[u8], read: &mut Read) {
        let len = payload.len() as u32;
        let mut entry = Entry {
            seq,
            segment: 0,
            offset: 0,
            len,
            flags: Entry::LOGGED,
        };
        if payload.len() >= LARGE_FROM_BYTES {
            self.end(read);
            let mut own = self.arena.large_buffer(payload.len()).unwrap_or_default();
            own.extend_from_slice(payload);
            let segment = self.arena.adopt(own, 2);
            entry.segment = segment.id();
            read.segments.push(segment);
            read.entries.push(entry);
            self.first = read.entries.len();
            return;
        }
        if self.buffer.capacity() == 0 {
            self.buffer = self.arena.buffer();
        }
        entry.offset = self.buffer.len() as u32;
        self.buffer.extend_from_slice(payload);
        read.entries.push(entry);
        if self.buffer.len() + LARGE_FROM_BYTES > backbone_log::BUFFER_BYTES {
            self.end(read);
        }
    }

    fn end(&mut self, read: &mut Read) {
        let entries = &mut read.entries[self.first..];
        if !entries.is_empty() {
            let copies = entries.len() as u64;
            let segment = self.arena.commit(&mut self.buffer, 1 + copies);
            for entry in entries {
                entry.segment = segment.id();
            }
            read.segments.push(segment);
        }
        self.first = read.entries.len();
    }
}
