//! Brings messages that wait in the log alone back into memory, and gives up memory when it is tight: first the copies of
//! messages that are in the log, then messages that are not, which go there for that ([`Pager::relieve`]).
//!
//! One a node. It has no thread: whoever hears a queue's page bell calls [`Pager::page_in`], and whoever cannot wait
//! for that (a get) calls it itself.

mod reading;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use backbone_log::{Arena, Batch, Chunk, Located, LogError, Position, Reason, Segment, Target};

use crate::durable::{Durable, Level};
use crate::flow;
use crate::publisher::LARGE_FROM_BYTES;
use crate::queue::{Bell, Page, Queue, Room, Wakes};
use crate::record::{self, Entry, Record};
pub(crate) use reading::Reading;

/// Attempts to find a message that is copied from segment to segment meanwhile.
const MOVES_MAX: usize = 8;
/// Bytes that one [`Pager::relieve`] writes to the log at most, so that whoever waits for a page does not wait for long.
const RELIEF_BYTES_MAX: usize = 8 << 20;
/// What of a queue goes to the log at once.
const UNLOAD: Room = Room {
    messages: 2048,
    bytes: 192 << 10,
};
/// Bytes of a record of the log besides the message, at most.
const RECORD_BYTES: usize = 64;

/// What a queue keeps in memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When there is enough.
    pub resident: Room,
    /// When it is tight.
    pub tight: Room,
    /// When it stays tight with that.
    pub hard: Room,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resident: Room {
                messages: 32 * 1024,
                bytes: 8 << 20,
            },
            tight: Room {
                messages: 512,
                bytes: 64 << 10,
            },
            hard: Room {
                messages: 128,
                bytes: 16 << 10,
            },
        }
    }
}

/// Moves messages between the log and memory.
pub struct Pager {
    arena: Arc<Arena>,
    durable: Arc<Durable>,
    limits: Limits,
    /// Above so many bytes of messages memory is tight.
    tight_bytes: usize,
    /// Where among the queues giving up goes on.
    turn: AtomicUsize,
    asked: Arc<Asked>,
    /// The disk has too little room for more.
    disk_is_short: AtomicBool,
    /// Somebody said that memory is tight, and nothing was done about it yet.
    called: AtomicBool,
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

/// A message in the log, under the id of a queue or of its shadow.
struct Stored {
    queue: u64,
    at: Located,
}

/// What putting messages into a shadow came to.
enum Unloaded {
    /// So many bytes went there.
    Some(usize),
    /// Some went there, and the log has enough to write now.
    Enough,
    /// Nothing can go there.
    Nothing,
    /// The log takes nothing.
    Refused,
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
    /// The queue has rules for them.
    ruled: bool,
}

impl Pager {
    /// A pager between `durable` and `arena`, where more than `tight_bytes` should not stay.
    /// `asked` is told, by anybody and under no lock, of queues that want [`Pager::page_in`] called, and of none when
    /// [`Pager::relieve`] should be called soon; it must not block.
    pub fn new(
        arena: Arc<Arena>,
        durable: Arc<Durable>,
        tight_bytes: usize,
        asked: impl Fn(Weak<Queue>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            arena,
            durable,
            limits: Limits::default(),
            tight_bytes,
            turn: AtomicUsize::new(0),
            asked: Arc::new(asked),
            disk_is_short: AtomicBool::new(false),
            called: AtomicBool::new(false),
            paged_in: AtomicU64::new(0),
            paged_out: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
        }
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What `queue` rings when it wants its next page.
    pub(crate) fn bell(&self, queue: &Arc<Queue>) -> Arc<dyn Bell> {
        Arc::new(PageBell {
            queue: Arc::downgrade(queue),
            asked: Arc::clone(&self.asked),
        })
    }

    /// Says whether the disk has too little room for more: then nothing goes there that is not there yet, since each queue would
    /// write a copy of its own of what is in memory once.
    pub fn tell_disk(&self, is_short: bool) {
        self.disk_is_short.store(is_short, Ordering::Relaxed);
    }

    /// Whether queues should keep less in memory.
    pub fn is_tight(&self) -> bool {
        self.arena.bytes() > self.tight_bytes
    }

    /// Has [`Pager::relieve`] called soon if memory is tight; whoever stores messages calls it now and then.
    #[inline]
    pub fn call_if_tight(&self) {
        if self.is_tight() && !self.called.swap(true, Ordering::Relaxed) {
            (self.asked)(Weak::new());
        }
    }

    /// From now on [`Pager::call_if_tight`] calls again.
    pub fn heard_call(&self) {
        self.called.store(false, Ordering::Relaxed);
    }

    /// What a queue should keep in memory now.
    pub(crate) fn keep(&self) -> Room {
        let bytes = self.arena.bytes();
        if bytes <= self.tight_bytes {
            self.limits.resident
        } else if bytes - self.tight_bytes <= self.tight_bytes / 4 {
            self.limits.tight
        } else {
            self.limits.hard
        }
    }

    /// Messages brought back, given up, and not readable because of damage, since start.
    pub fn counts(&self) -> [u64; 3] {
        [&self.paged_in, &self.paged_out, &self.unreadable].map(|n| n.load(Ordering::Relaxed))
    }

    /// Brings the next messages of a queue into memory, if any wait in the log alone. False when there was nothing to
    /// bring.
    ///
    /// # Errors
    /// The log cannot be read. The queue stays as it is, and does not ask again: whoever was asked has to try again.
    pub fn page_in(&self, queue: &Queue, wakes: &mut Wakes) -> Result<bool, LogError> {
        if self.bring_back(queue, wakes)? {
            return Ok(true);
        }
        let Some(page) = queue.page_wanted(self.keep()) else {
            return Ok(false);
        };
        let read = self.read(queue, page)?;
        let entries = &read.entries;
        let taken = queue.page_in(page, read.until, read.found, entries, wakes);
        if taken && read.ruled {
            queue.paged(entries, &self.arena, page.restored, wakes);
        }
        if taken {
            self.paged_in
                .fetch_add(entries.len() as u64, Ordering::Relaxed);
            self.settle_shadow(queue, read.until);
        } else {
            flow::release(&self.arena, entries);
        }
        for guard in read.segments {
            self.arena.release_held(guard, 1);
        }
        Ok(true)
    }

    /// While memory is tight, lets queues give up what they have in memory and in the log, but for what they need soon;
    /// the next call goes on with those behind. If that is not enough, messages that are not in the log go there, those of
    /// the queue that has most first. True when that should go on soon: the log has more to write than it likes, or
    /// somebody else may want something meanwhile. Costs little where nothing can be given up.
    pub fn relieve(&self, queues: &[Arc<Queue>]) -> bool {
        for _ in 0..queues.len() {
            if !self.is_tight() {
                return false;
            }
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            self.give_up(&queues[turn % queues.len()]);
        }
        if !self.is_tight() {
            return false;
        }
        let sized = queues.iter().map(|queue| (queue.bytes_in_memory(), queue));
        let mut longest: Vec<_> = sized.filter(|(bytes, _)| *bytes > 0).collect();
        longest.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let mut left = RELIEF_BYTES_MAX;
        for (_, queue) in longest {
            while self.is_tight() {
                match self.unload(queue) {
                    Unloaded::Some(bytes) if bytes < left => left -= bytes,
                    Unloaded::Some(_) | Unloaded::Enough => return true,
                    Unloaded::Nothing => break,
                    Unloaded::Refused => return false,
                }
            }
        }
        false
    }

    /// Lets `queue` give up all that it has in memory, but for what it needs soon.
    pub fn page_out(&self, queue: &Queue) {
        queue.each_part(|part| {
            self.give_up(part);
            while matches!(self.unload(part), Unloaded::Some(_) | Unloaded::Enough) {}
        });
    }

    /// Lets `queue` give up what it has in memory and in the log, but for what it needs soon.
    fn give_up(&self, queue: &Queue) {
        let mut dropped = Vec::new();
        queue.page_out(self.keep(), &mut dropped);
        self.forget(&dropped);
    }

    /// Gives up the copies of messages that are in the log.
    fn forget(&self, entries: &[Entry]) {
        self.paged_out
            .fetch_add(entries.len() as u64, Ordering::Relaxed);
        flow::release(&self.arena, entries);
    }

    /// Puts some messages of `queue` that are in memory alone into its shadow.
    fn unload(&self, queue: &Queue) -> Unloaded {
        if self.durable.trouble().is_some() || self.disk_is_short.load(Ordering::Relaxed) {
            return Unloaded::Refused;
        }
        let mut dropped = Vec::new();
        let load = queue.to_unload(self.keep(), UNLOAD, &self.arena, &mut dropped);
        self.forget(&dropped);
        if load.entries.is_empty() {
            return Unloaded::Nothing;
        }
        let log = self.durable.log();
        let mut batch = Batch::with_buffer(log.buffer());
        for (entry, segment) in load.messages() {
            let target = Target {
                queue: queue.shadow(),
                seq: entry.seq,
            };
            batch.publish(&[target], true, |out| {
                let bytes = Record::bytes(segment, entry.offset);
                out.reserve(bytes.len() + RECORD_BYTES);
                out.extend_from_slice(bytes);
            });
        }
        let bytes = batch.len();
        match queue.unload(&load.entries, || log.append(&mut batch)) {
            Ok(Some(appended)) => {
                self.forget(&load.entries);
                match appended.over {
                    true => Unloaded::Enough,
                    false => Unloaded::Some(bytes),
                }
            }
            // Somebody took them meanwhile: there are better ones than these.
            Ok(None) => Unloaded::Nothing,
            Err(_) => Unloaded::Refused,
        }
    }

    /// What came back from a queue's shadow below `until` is in memory alone again.
    fn settle_shadow(&self, queue: &Queue, until: u64) {
        if queue.has_shadow() && !queue.is_deleted() {
            let (mut batch, gone) = (Batch::new(), 0..until);
            batch.settle(queue.shadow(), std::slice::from_ref(&gone), Reason::Drop);
            self.durable.settle(&mut batch);
        }
    }

    /// Where the messages of a page are in the log, in order, and the first number that was not looked at.
    fn locate(&self, queue: &Queue, page: Page) -> Result<(Vec<Stored>, u64), LogError> {
        let (log, max) = (self.durable.log(), page.room.messages);
        let (mut stored, mut until) = (Vec::new(), page.limit);
        let own = (queue.level() != Level::Memory).then_some((queue.id(), page.from));
        let shadow = (queue.shadow(), page.from.max(page.shadow_from));
        let shadow = queue.has_shadow().then_some(shadow);
        for (id, from) in own.into_iter().chain(shadow) {
            let found = log.load(id, from, max)?;
            if let (Some(last), true) = (found.last(), found.len() >= max) {
                // A full load may end below the limit.
                until = until.min(last.seq + 1);
            }
            stored.extend(found.into_iter().map(|at| Stored { queue: id, at }));
        }
        if shadow.is_some() {
            stored.sort_by_key(|message| message.at.seq);
        }
        let mut bytes = 0;
        let behind = stored
            .iter()
            .zip(0..)
            .position(|(Stored { at, .. }, count)| {
                bytes += at.len as usize;
                at.seq >= until || count >= max || (count > 0 && bytes > page.room.bytes)
            });
        if let Some(behind) = behind {
            until = until.min(stored[behind].at.seq);
            stored.truncate(behind);
        }
        Ok((stored, until))
    }

    fn read(&self, queue: &Queue, page: Page) -> Result<Read, LogError> {
        let (stored, until) = self.locate(queue, page)?;
        let before = page.from..until.min(page.restored);
        let mut read = Read {
            until,
            found: stored.len() as u64 + self.never_stored(queue.id(), before, &stored),
            ..Read::default()
        };
        let mut fill = Fill::new(&self.arena, queue.is_ruled());
        let (mut of_queue, mut of_shadow) = (None, None);
        for message in &stored {
            let (chunk, flags) = match message.queue == queue.id() {
                true => (&mut of_queue, Entry::LOGGED),
                false => (&mut of_shadow, 0),
            };
            let (seq, len) = (message.at.seq, message.at.len);
            match self.bytes_of(message, chunk) {
                Ok(Some((chunk, at))) => {
                    let payload = chunk.get(at, len).expect("it was just there");
                    fill.add(seq, flags, payload, &mut read);
                }
                // Purged meanwhile: the queue will not want the page.
                Ok(None) => {}
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
        if fill.timed {
            queue.expect_timed();
        }
        read.ruled = queue.is_ruled();
        fill.end(&mut read);
        Ok(read)
    }

    /// How many of some numbers that the queue was restored with the log has no message for: they were on their way when
    /// the process before this one ended. They are settled, unless damage may be the reason.
    fn never_stored(&self, queue: u64, numbers: Range<u64>, stored: &[Stored]) -> u64 {
        if numbers.is_empty() {
            return 0;
        }
        let log = self.durable.log();
        let mut missing = Vec::new();
        let mut stored = stored.iter().map(|message| message.at.seq).peekable();
        for open in log.unsettled(queue, numbers) {
            let mut from = open.start;
            while let Some(seq) = stored.next_if(|seq| *seq < open.end) {
                if from < seq {
                    missing.push(from..seq);
                }
                from = from.max(seq + 1);
            }
            if from < open.end {
                missing.push(from..open.end);
            }
        }
        if !missing.is_empty() && log.damages().is_empty() {
            let mut batch = Batch::new();
            batch.settle(queue, &missing, Reason::Drop);
            // Otherwise they are missing again after the next restart.
            let _ = self.durable.append(&mut batch);
        }
        missing.iter().map(|range| range.end - range.start).sum()
    }

    /// The chunk that has a message, and where in it; `None` when it is settled.
    fn bytes_of<'a>(
        &self,
        message: &Stored,
        chunk: &'a mut Option<Chunk>,
    ) -> Result<Option<(&'a Chunk, Position)>, LogError> {
        let log = self.durable.log();
        let Stored { queue, at: message } = message;
        let mut at = message.position;
        let here = |chunk: &Chunk| chunk.get(at, message.len).is_some();
        if !chunk.as_ref().is_some_and(here) {
            let mut read = log.read(at, message.len);
            for _ in 0..MOVES_MAX {
                if !matches!(read, Err(LogError::Moved(_))) {
                    break;
                }
                let Some(moved) = log.resolve(*queue, message.seq)? else {
                    return Ok(None);
                };
                at = moved.position;
                read = log.read(at, message.len);
            }
            *chunk = Some(read?);
        }
        Ok(Some((chunk.as_ref().expect("it was just set"), at)))
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
    /// The queue wants entries to say more than where the messages are.
    ruled: bool,
    /// There was one that can expire.
    timed: bool,
}

impl<'a> Fill<'a> {
    fn new(arena: &'a Arena, ruled: bool) -> Self {
        Self {
            ruled,
            timed: false,
            arena,
            buffer: Vec::new(),
            first: 0,
        }
    }

    fn add(&mut self, seq: u64, flags: u32, payload: &[u8], read: &mut Read) {
        let len = payload.len() as u32;
        let mut entry = Entry {
            seq,
            segment: 0,
            offset: 0,
            len,
            flags,
        };
        let record = Record::read(payload, 0);
        if self.ruled || record.flags & record::TIMED != 0 {
            entry.describe(&record);
            self.timed |= entry.flags & Entry::TIMED != 0;
        }
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
