//! Records: what one batch says happened.
//!
//! ```text
//! crc u32 | length u32 | kind u8 | flags u8 | count u16 | fields
//! publish, copy:  payload | count × (queue u64, number u64)
//! transfer:       payload or (segment u32, offset u32, length u32) | count × (queue, number)
//!                 | sources × (queue u64, from u64, until u64) | sources u16
//! settle:         queue u64 | count × (from u64, until u64)                 flags: the reason
//! settle many:    count × (queue u64, from u64, until u64)                  flags: the reason
//! define:         key length u32 | key | value
//! remove:         key
//! ```
//!
//! The payload stands at a fixed distance behind the record's beginning, so that a reader with the
//! payload's position can check the record's sum, and a delivery parses nothing.

use std::ops::Range;

use crate::arena::Position;
use crate::format::{u16_at, u32_at, u64_at};

/// Bytes before a record's fields.
pub const RECORD_HEADER_BYTES: usize = 12;
const TARGET_BYTES: usize = 16;
const SOURCE_BYTES: usize = 24;
const RANGE_BYTES: usize = 16;
const REFERENCE_BYTES: usize = 12;

pub(crate) const PUBLISH: u8 = 1;
pub(crate) const COPY: u8 = 2;
pub(crate) const TRANSFER: u8 = 3;
pub(crate) const SETTLE: u8 = 4;
pub(crate) const DEFINE: u8 = 5;
pub(crate) const REMOVE: u8 = 6;
pub(crate) const SETTLE_MANY: u8 = 7;

/// Flag of publish and copy: forgotten at a restart.
pub(crate) const TRANSIENT: u8 = 1;
/// Flag of transfer: the payload is where the reference says.
pub(crate) const BY_REFERENCE: u8 = 2;

/// A place in a queue: the identity of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The queue, or the stream: never used again.
    pub queue: u64,
    /// The message's number in it.
    pub seq: u64,
}

/// Numbers of one queue that are done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The queue.
    pub queue: u64,
    /// Its numbers.
    pub seqs: Range<u64>,
}

/// Why messages were settled: for statistics and for people who read the log; recovery treats all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// A consumer acknowledged them.
    Ack = 1,
    /// Their time was up.
    Expire = 2,
    /// The queue was purged or deleted, or the stream truncated.
    Purge = 3,
    /// A limit pushed them out.
    Drop = 4,
}

impl Reason {
    fn of(flags: u8) -> Option<Self> {
        let all = [Self::Ack, Self::Expire, Self::Purge, Self::Drop];
        all.into_iter().find(|reason| *reason as u8 == flags)
    }
}

/// One record, in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message came to some queues; or was copied forward, which changes nothing but its place.
    Publish {
        /// What the broker stored.
        payload: &'a [u8],
        /// The payload's distance from the beginning of the record.
        payload_at: u32,
        /// Where it stands.
        targets: Targets<'a>,
        /// Forgotten at a restart.
        transient: bool,
        /// Copied forward.
        copy: bool,
    },
    /// Messages went from some queues to others.
    Transfer {
        /// The message.
        body: Body<'a>,
        /// Where it stands now.
        targets: Targets<'a>,
        /// Where it no longer stands.
        sources: Sources<'a>,
    },
    /// Messages of a queue are done with.
    Settle {
        /// The queue.
        queue: u64,
        /// Which.
        ranges: Ranges<'a>,
        /// Why; `None` if this version does not know.
        reason: Option<Reason>,
    },
    /// Messages of several queues are done with.
    SettleMany {
        /// Which.
        sources: Sources<'a>,
        /// Why; `None` if this version does not know.
        reason: Option<Reason>,
    },
    /// The value of a key from now on.
    Define {
        /// Opaque here.
        key: &'a [u8],
        /// Opaque here.
        value: &'a [u8],
    },
    /// A key has no value any more.
    Remove {
        /// Opaque here.
        key: &'a [u8],
    },
}

/// The message of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// Its bytes, and their distance from the beginning of the record.
    Here(&'a [u8], u32),
    /// Where an earlier record has them, and their length.
    At(Position, u32),
}

/// Places of one message, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets<'a>(&'a [u8]);

/// Settled numbers of several queues, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources<'a>(&'a [u8]);

/// Settled numbers of one queue, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranges<'a>(&'a [u8]);

impl<'a> Targets<'a> {
    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Target> + 'a {
        self.0.chunks_exact(TARGET_BYTES).map(|bytes| Target {
            queue: u64_at(bytes, 0),
            seq: u64_at(bytes, 8),
        })
    }
}

impl<'a> Sources<'a> {
    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Source> + 'a {
        self.0.chunks_exact(SOURCE_BYTES).map(|bytes| Source {
            queue: u64_at(bytes, 0),
            seqs: u64_at(bytes, 8)..u64_at(bytes, 16),
        })
    }
}

impl<'a> Ranges<'a> {
    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Range<u64>> + 'a {
        let ranges = self.0.chunks_exact(RANGE_BYTES);
        ranges.map(|bytes| u64_at(bytes, 0)..u64_at(bytes, 8))
    }
}

/// The length of the record at the front, if it can be one.
pub(crate) fn record_length(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return None;
    }
    let length = u32_at(bytes, 4) as usize;
    (length >= RECORD_HEADER_BYTES && length <= bytes.len()).then_some(length)
}

/// Whether the whole record's checksum holds.
pub(crate) fn record_is_sound(record: &[u8]) -> bool {
    u32_at(record, 0) == crc32c::crc32c(&record[4..])
}

/// Reads one whole record. `None` for bytes that no [`Batch`](crate::Batch) wrote.
pub fn decode(record: &[u8]) -> Option<Record<'_>> {
    if record_length(record)? != record.len() {
        return None;
    }
    let (kind, flags, count) = (record[8], record[9], u16_at(record, 10) as usize);
    let fields = &record[RECORD_HEADER_BYTES..];
    match kind {
        PUBLISH | COPY => {
            let (payload, targets) = split_back(fields, count * TARGET_BYTES)?;
            Some(Record::Publish {
                payload,
                payload_at: RECORD_HEADER_BYTES as u32,
                targets: Targets(targets),
                transient: flags & TRANSIENT != 0,
                copy: kind == COPY,
            })
        }
        TRANSFER => transfer(fields, flags, count),
        SETTLE => {
            let (queue, ranges) = split_back(fields, count * RANGE_BYTES)?;
            (queue.len() == 8).then(|| Record::Settle {
                queue: u64_at(queue, 0),
                ranges: Ranges(ranges),
                reason: Reason::of(flags),
            })
        }
        SETTLE_MANY => (fields.len() == count * SOURCE_BYTES).then(|| Record::SettleMany {
            sources: Sources(fields),
            reason: Reason::of(flags),
        }),
        DEFINE => {
            let length = fields.get(..4).map(|f| u32_at(f, 0) as usize)?;
            let (key, value) = fields[4..].split_at_checked(length)?;
            Some(Record::Define { key, value })
        }
        REMOVE => Some(Record::Remove { key: fields }),
        _ => None,
    }
}

fn transfer(fields: &[u8], flags: u8, count: usize) -> Option<Record<'_>> {
    let (fields, sources) = split_back(fields, 2)?;
    let (fields, sources) = split_back(fields, u16_at(sources, 0) as usize * SOURCE_BYTES)?;
    let (body, targets) = split_back(fields, count * TARGET_BYTES)?;
    let body = if flags & BY_REFERENCE == 0 {
        Body::Here(body, RECORD_HEADER_BYTES as u32)
    } else {
        if body.len() != REFERENCE_BYTES {
            return None;
        }
        let position = Position {
            segment: u32_at(body, 0),
            offset: u32_at(body, 4),
        };
        Body::At(position, u32_at(body, 8))
    };
    Some(Record::Transfer {
        body,
        targets: Targets(targets),
        sources: Sources(sources),
    })
}

fn split_back(bytes: &[u8], back: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(bytes.len().checked_sub(back)?)
}

/// All records of a batch's bytes behind its header, which are known to be sound, each with its
/// distance from the beginning of the batch.
pub(crate) fn records(batch: &[u8]) -> impl Iterator<Item = (u32, Record<'_>)> {
    let mut at = crate::format::BATCH_HEADER_BYTES;
    std::iter::from_fn(move || {
        let rest = batch.get(at..)?;
        let length = record_length(rest)?;
        let record = decode(&rest[..length])?;
        let found = (at as u32, record);
        at += length;
        Some(found)
    })
}
