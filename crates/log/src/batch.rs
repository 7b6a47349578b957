//! A batch under construction: records are encoded here, once, straight into the bytes that go to
//! the disk.

use std::ops::Range;

use crate::arena::Position;
use crate::format::{BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader};
use crate::record::{
    BY_REFERENCE, COPY, DEFINE, PUBLISH, REMOVE, Reason, SETTLE, SETTLE_MANY, Source, TRANSFER,
    TRANSIENT, Target,
};

/// Records that become durable together, or not at all. Give it to [`Log::append`](crate::Log::append).
///
/// A queue's number has to be handed out before its record is appended, and every number that was
/// handed out has to be settled some day, appended or not: settled ranges may span numbers that never
/// were.
#[derive(Debug, Default)]
pub struct Batch {
    /// Empty, or room for the header and the records so far.
    data: Vec<u8>,
    records: u32,
    /// The checksums of all records, in order.
    sums: Vec<u8>,
    needs_room: bool,
    eager: bool,
    references: Vec<u32>,
}

/// Where a payload stands in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Distance from the beginning of the batch; [`Appended::position`](crate::Appended::position) makes a position of it.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Batch {
    /// Most queues that one record can name.
    pub const TARGETS_MAX: usize = u16::MAX as usize;
    /// Most ranges of one settle record or sources of one transfer.
    pub const RANGES_MAX: usize = u16::MAX as usize;

    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch in this buffer's memory (see [`Log::buffer`](crate::Log::buffer)).
    pub fn with_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            data: buffer,
            ..Self::default()
        }
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far, with the header.
    pub fn len(&self) -> usize {
        self.data.len().max(BATCH_HEADER_BYTES)
    }

    /// A message for some queues, or an event of a stream. `write` appends the payload. Transient
    /// ones are found like others, and are gone after a restart. Panics above
    /// [`Batch::TARGETS_MAX`] targets.
    pub fn publish(
        &mut self,
        targets: &[Target],
        transient: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Placed {
        self.needs_room = true;
        let flags = if transient { TRANSIENT } else { 0 };
        self.placed(PUBLISH, flags, targets, &[], write)
    }

    pub(crate) fn copy(&mut self, targets: &[Target], transient: bool, payload: &[u8]) -> Placed {
        let flags = if transient { TRANSIENT } else { 0 };
        self.placed(COPY, flags, targets, &[], |out| {
            out.extend_from_slice(payload)
        })
    }

    /// A message leaves the `sources` and comes to the `targets`, with the bytes that an earlier
    /// record has at `position`. That may be in this very batch's segment, or any that exists; see
    /// [`LogError::Moved`](crate::LogError::Moved).
    pub fn transfer_at(
        &mut self,
        sources: &[Source],
        targets: &[Target],
        position: Position,
        len: u32,
    ) {
        if !self.references.contains(&position.segment) {
            self.references.push(position.segment);
        }
        self.placed(TRANSFER, BY_REFERENCE, targets, sources, |out| {
            out.extend_from_slice(&position.segment.to_le_bytes());
            out.extend_from_slice(&position.offset.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        });
    }

    /// A message leaves the `sources` and comes to the `targets` with a new payload, which `write` appends.
    pub fn transfer_with(
        &mut self,
        sources: &[Source],
        targets: &[Target],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Placed {
        self.needs_room = true;
        self.placed(TRANSFER, 0, targets, sources, write)
    }

    /// Messages of a queue are done with; `0..u64::MAX` when the queue is deleted. A stream is
    /// truncated below `n` by settling `0..n`.
    pub fn settle(&mut self, queue: u64, ranges: &[Range<u64>], reason: Reason) {
        for ranges in ranges.chunks(Self::RANGES_MAX) {
            let start = self.begin(SETTLE, reason as u8, ranges.len());
            self.data.extend_from_slice(&queue.to_le_bytes());
            for range in ranges {
                self.data.extend_from_slice(&range.start.to_le_bytes());
                self.data.extend_from_slice(&range.end.to_le_bytes());
            }
            self.end(start);
        }
    }

    /// The same of several queues.
    pub fn settle_many(&mut self, sources: impl Iterator<Item = Source>, reason: Reason) {
        let mut sources = sources.peekable();
        while sources.peek().is_some() {
            let (start, mut count) = (self.begin(SETTLE_MANY, reason as u8, 0), 0_u16);
            for Source { queue, seqs } in sources.by_ref().take(Self::RANGES_MAX) {
                for value in [queue, seqs.start, seqs.end] {
                    self.data.extend_from_slice(&value.to_le_bytes());
                }
                count += 1;
            }
            self.data[start + 10..start + 12].copy_from_slice(&count.to_le_bytes());
            self.end(start);
        }
    }

    /// The value of a key from now on.
    pub fn define(&mut self, key: &[u8], value: &[u8]) {
        let start = self.begin(DEFINE, 0, 0);
        let length = key.len() as u32;
        self.data.extend_from_slice(&length.to_le_bytes());
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        self.end(start);
    }

    /// The key has no value any more.
    pub fn remove(&mut self, key: &[u8]) {
        let start = self.begin(REMOVE, 0, 0);
        self.data.extend_from_slice(key);
        self.end(start);
    }

    /// Has it synced at once, also if there is nothing but settlements in it: somebody waits for that.
    pub fn hurry(&mut self) {
        self.eager = true;
    }

    /// Leaves its sync to the next batch that somebody waits for, or to housekeeping: nobody waits for this one. The last
    /// word before it is appended.
    pub fn relax(&mut self) {
        self.eager = false;
    }

    /// Empties the batch; its memory stays.
    pub fn clear(&mut self) {
        let data = std::mem::take(&mut self.data);
        *self = Self::with_buffer(data);
    }

    fn placed(
        &mut self,
        kind: u8,
        flags: u8,
        targets: &[Target],
        sources: &[Source],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Placed {
        assert!(targets.len() <= Self::TARGETS_MAX && sources.len() <= Self::RANGES_MAX);
        let start = self.begin(kind, flags, targets.len());
        let payload = self.data.len();
        write(&mut self.data);
        let len = (self.data.len() - payload) as u32;
        for target in targets {
            self.data.extend_from_slice(&target.queue.to_le_bytes());
            self.data.extend_from_slice(&target.seq.to_le_bytes());
        }
        if kind == TRANSFER {
            for source in sources {
                self.data.extend_from_slice(&source.queue.to_le_bytes());
                self.data
                    .extend_from_slice(&source.seqs.start.to_le_bytes());
                self.data.extend_from_slice(&source.seqs.end.to_le_bytes());
            }
            let count = sources.len() as u16;
            self.data.extend_from_slice(&count.to_le_bytes());
        }
        self.end(start);
        Placed {
            offset: payload as u32,
            len,
        }
    }

    fn begin(&mut self, kind: u8, flags: u8, count: usize) -> usize {
        if self.data.is_empty() {
            self.data.resize(BATCH_HEADER_BYTES, 0);
        }
        // Nobody waits for settlements, nor for what a restart forgets.
        self.eager |= match kind {
            SETTLE | SETTLE_MANY => false,
            PUBLISH => flags & TRANSIENT == 0,
            _ => true,
        };
        let start = self.data.len();
        let count = (count as u16).to_le_bytes();
        self.data
            .extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, kind, flags, count[0], count[1]]);
        start
    }

    fn end(&mut self, start: usize) {
        let length = (self.data.len() - start) as u32;
        self.data[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&self.data[start + 4..]).to_le_bytes();
        self.data[start..start + 4].copy_from_slice(&crc);
        self.sums.extend_from_slice(&crc);
        self.records += 1;
    }

    /// Bytes that it will take in a segment.
    pub(crate) fn stored_len(&self) -> usize {
        self.len().next_multiple_of(BATCH_ALIGNMENT as usize)
    }

    /// Goes to memory of its own size if it fills less than a quarter of what it has, and hands that back.
    pub(crate) fn fit_memory(&mut self, recycle: impl FnOnce(Vec<u8>)) {
        if self.data.len() < self.data.capacity() / 4 {
            let mut exact = Vec::with_capacity(self.stored_len());
            exact.extend_from_slice(&self.data);
            recycle(std::mem::replace(&mut self.data, exact));
        }
    }

    /// Whether it may have to wait until the disk has room: it stores messages.
    pub(crate) fn needs_room(&self) -> bool {
        self.needs_room
    }

    /// Whether it should be synced at once: it is more than settlements and transient messages.
    pub(crate) fn is_eager(&self) -> bool {
        self.eager
    }

    /// Segments that transfers refer to.
    pub(crate) fn references(&self) -> &[u32] {
        &self.references
    }

    /// Completes the header and takes the bytes; the batch is empty then and has no memory.
    pub(crate) fn seal(&mut self, mut header: BatchHeader) -> Vec<u8> {
        header.length = self.data.len() as u32;
        header.records = self.records;
        let sum = crc32c::crc32c(&self.sums);
        header.encode(&mut self.data[..BATCH_HEADER_BYTES], sum);
        let mut data = std::mem::take(self).data;
        data.resize(data.len().next_multiple_of(BATCH_ALIGNMENT as usize), 0);
        data
    }
}
