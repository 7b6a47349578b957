//! Reads a segment's file from the front: for recovery, for copying forward, for rebuilding an
//! index and for verification.

use std::ops::{ControlFlow, Range};

use crate::disk::{File, read_salvaging};
use crate::error::{LogError, Result};
use crate::format::{
    BATCH_ALIGNMENT, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, SEGMENT_BYTES_MAX,
    SEGMENT_HEADER_BYTES, begins_batch, segment_name,
};
use crate::record::{record_is_sound, record_length};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A position in one segment, with the bytes around it.
pub(crate) struct Scan<'f> {
    file: &'f dyn File,
    serial: u32,
    identity: u32,
    size: u32,
    at: u32,
    window: Vec<u8>,
    window_at: u32,
    /// Blocks of the window that the disk does not give back.
    lost: Vec<u64>,
}

/// What a walk comes by.
pub(crate) enum Walked<'a> {
    /// A sound batch, where it stands, and all its bytes.
    Batch(u32, BatchHeader, &'a [u8]),
    /// Bytes that are not what was written: where they begin, and how many there are.
    Damage(u32, u32),
}

impl<'f> Scan<'f> {
    /// At the first batch of the segment.
    pub fn new(file: &'f dyn File, serial: u32, identity: u64) -> Result<Self> {
        let size = file.size();
        let size =
            size.map_err(|e| LogError::io(format!("size of {}", segment_name(serial)), e))?;
        Ok(Self {
            file,
            serial,
            identity: identity as u32,
            size: size.min(u64::from(SEGMENT_BYTES_MAX)) as u32,
            at: SEGMENT_HEADER_BYTES,
            window: Vec::new(),
            window_at: 0,
            lost: Vec::new(),
        })
    }

    /// Where the next batch is looked for.
    pub fn at(&self) -> u32 {
        self.at
    }

    /// Whether the batch with this number may be here, in bytes that the disk does not give back.
    pub fn hides(&mut self, number: u64) -> Result<bool> {
        for at in [self.at, self.at.next_multiple_of(BLOCK_BYTES)] {
            if u64::from(at) + BATCH_HEADER_BYTES as u64 > u64::from(self.size) {
                continue;
            }
            let serial = self.serial;
            let header = BatchHeader::decode(self.fill(at, BATCH_HEADER_BYTES)?);
            let header = header.map(|(header, _)| header);
            let header = header.filter(|h| h.number == number && h.serial == serial);
            let length = header.map_or(BATCH_HEADER_BYTES as u32, |header| header.length);
            let length = length.min(self.size - at);
            self.fill(at, length as usize)?;
            let block = u64::from(at / BLOCK_BYTES * BLOCK_BYTES);
            let place = block..u64::from(at + length);
            if self.lost.iter().any(|lost| place.contains(lost)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes to another place.
    pub fn seek(&mut self, at: u32) {
        self.at = at;
    }

    /// The batch with this number, if it is the next one and sound; steps behind it.
    pub fn next(&mut self, number: u64) -> Result<Option<(u32, BatchHeader)>> {
        for at in [self.at, self.at.next_multiple_of(BLOCK_BYTES)] {
            if let Some(header) = self.sound_at(at, |header| header.number == number)? {
                let end = at + header.length;
                self.at = end.next_multiple_of(BATCH_ALIGNMENT);
                return Ok(Some((at, header)));
            }
        }
        Ok(None)
    }

    /// Whether the batch with this number begins here, sound or not.
    pub fn begins(&mut self, number: u64) -> Result<bool> {
        for at in [self.at, self.at.next_multiple_of(BLOCK_BYTES)] {
            if u64::from(at) + BATCH_HEADER_BYTES as u64 > u64::from(self.size) {
                continue;
            }
            let serial = self.serial;
            let header = BatchHeader::decode(self.fill(at, BATCH_HEADER_BYTES)?);
            if header.is_some_and(|(h, _)| h.number == number && h.serial == serial) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next sound batch with a number in the range, wherever it begins; stays where it is.
    pub fn search(&mut self, numbers: Range<u64>) -> Result<Option<(u32, BatchHeader)>> {
        let mut at = self.at;
        while at + (BATCH_HEADER_BYTES as u32) <= self.size {
            self.fill(at, BATCH_HEADER_BYTES)?;
            let window = &self.window[(at - self.window_at) as usize..];
            let steps = window.chunks_exact(BATCH_ALIGNMENT as usize);
            let skipped = steps.take_while(|step| !begins_batch(step)).count() as u32;
            at += skipped * BATCH_ALIGNMENT;
            if let Some(header) = self.sound_at(at, |header| numbers.contains(&header.number))? {
                return Ok(Some((at, header)));
            }
            at += BATCH_ALIGNMENT;
        }
        Ok(None)
    }

    /// Walks the batches with these numbers, which are the rest of the segment, and the damage between them.
    /// What is in use of the file ends at `end`.
    pub fn walk(
        &mut self,
        numbers: Range<u64>,
        end: u32,
        mut visit: impl FnMut(Walked<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (mut number, mut flow) = (numbers.start, ControlFlow::Continue(()));
        while number < numbers.end && flow.is_continue() {
            if let Some((at, header)) = self.next(number)? {
                flow = visit(Walked::Batch(at, header, self.bytes(at, &header)?));
                number = header.number + 1;
                continue;
            }
            let damaged = self.at;
            let Some((at, header)) = self.search(number + 1..numbers.end)? else {
                let _ = visit(Walked::Damage(damaged, end.saturating_sub(damaged)));
                break;
            };
            flow = visit(Walked::Damage(damaged, at - damaged));
            (self.at, number) = (at, header.number);
        }
        Ok(())
    }

    /// The bytes of a batch that was found.
    pub fn bytes(&mut self, at: u32, header: &BatchHeader) -> Result<&[u8]> {
        self.fill(at, header.length as usize)
    }

    fn sound_at(
        &mut self,
        at: u32,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<BatchHeader>> {
        if u64::from(at) + BATCH_HEADER_BYTES as u64 > u64::from(self.size) {
            return Ok(None);
        }
        let (serial, identity) = (self.serial, self.identity);
        let Some((header, crc)) = BatchHeader::decode(self.fill(at, BATCH_HEADER_BYTES)?) else {
            return Ok(None);
        };
        let ours = header.serial == serial && header.identity == identity && wanted(&header);
        if !ours || u64::from(at) + u64::from(header.length) > u64::from(self.size) {
            return Ok(None);
        }
        let bytes = self.fill(at, header.length as usize)?;
        Ok(is_sound(bytes, &header, crc).then_some(header))
    }

    fn fill(&mut self, at: u32, length: usize) -> Result<&[u8]> {
        let have = self.window_at..self.window_at + self.window.len() as u32;
        if at < have.start || at as usize + length > have.end as usize {
            let wanted = length.max(WINDOW_BYTES).min((self.size - at) as usize);
            self.window.resize(wanted, 0);
            let read = read_salvaging(self.file, &mut self.window, u64::from(at));
            let name = segment_name(self.serial);
            let (read, lost) = read.map_err(|e| LogError::io(format!("read {name}"), e))?;
            self.lost = lost;
            // The file may have become shorter than it said.
            self.window[read..].fill(0);
            self.window_at = at;
        }
        let from = (at - self.window_at) as usize;
        Ok(&self.window[from..from + length])
    }
}

/// Whether all records and the batch's header are as they were written.
fn is_sound(batch: &[u8], header: &BatchHeader, crc: u32) -> bool {
    let (mut at, mut sum) = (BATCH_HEADER_BYTES, 0);
    for _ in 0..header.records {
        let Some(length) = record_length(&batch[at..]) else {
            return false;
        };
        let record = &batch[at..at + length];
        if !record_is_sound(record) {
            return false;
        }
        sum = crc32c::crc32c_append(sum, &record[..4]);
        at += length;
    }
    at == batch.len() && crc == crc32c::crc32c_append(sum, &batch[..BATCH_HEADER_BYTES - 4])
}
