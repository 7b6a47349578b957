//! The bytes on the disk: headers of segments and of batches.
//!
//! ```text
//! segment:  header block of 4096 bytes | batch | batch | ... | anything
//! header:   magic 8 | version u32 | serial u32 | identity u64 | first batch u64 | crc u32
//! batch:    magic u32 | length u32 | number u64 | synced u64 | serial u32 | records u32 | identity u32 | crc u32 | records
//! record:   crc u32 | length u32 | kind u8 | flags u8 | count u16 | fields          (record.rs)
//! ```
//!
//! A batch begins at a multiple of 8, right behind the last one or at the next block of 4096 bytes.
//! Integers are little-endian; lengths include the header, not the padding; checksums are CRC32C. A record's
//! checksum covers all of it behind the checksum; a batch's covers the records' checksums in order
//! and then its header up to the checksum, so that each byte is summed once.
//!
//! Segments are recycled, so what lies behind the last batch may be an older batch that is whole. It is
//! never taken for a new one: a batch names its segment's serial number, which is never used again, and
//! its own number, which has to be the next one.
//!
//! `synced` is the number below which all batches were on the disk when this one was written. With it
//! recovery tells a torn tail (nobody says that it was ever synced) from damage (somebody does).

use crate::disk::File;
use crate::error::{LogError, Result};

/// Version of everything that this crate writes.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes in front of the first batch of a segment.
pub const SEGMENT_HEADER_BYTES: u32 = 4096;
/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 40;
/// Where the next batch may begin if not right behind the last: direct writes end at a block.
pub const BLOCK_BYTES: u32 = 4096;
/// Batches begin at multiples of this.
pub const BATCH_ALIGNMENT: u32 = 8;
/// The largest segment; offsets are `u32`.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// The largest batch that fits into the largest segment.
pub const BATCH_BYTES_MAX: u32 = SEGMENT_BYTES_MAX - 2 * SEGMENT_HEADER_BYTES;

const SEGMENT_MAGIC: &[u8; 8] = b"BkbnSeg\n";
const SEGMENT_FIELDS: usize = 36;
const BATCH_MAGIC: u32 = 0x4862_6b42;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of the segment; grows, never used again.
    pub serial: u32,
    /// Random number of the log that it belongs to.
    pub identity: u64,
    /// Number of its first batch.
    pub first_batch: u64,
}

impl SegmentHeader {
    /// The header block.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        block.extend_from_slice(SEGMENT_MAGIC);
        block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        block.extend_from_slice(&self.serial.to_le_bytes());
        block.extend_from_slice(&self.identity.to_le_bytes());
        block.extend_from_slice(&self.first_batch.to_le_bytes());
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(block.len(), SEGMENT_FIELDS);
        block.resize(SEGMENT_HEADER_BYTES as usize, 0);
        block
    }

    /// The header in `block`; `None` when there is none, an error when its version is unknown.
    pub fn decode(block: &[u8], file: &str) -> Result<Option<Self>> {
        let fields = block.get(..SEGMENT_FIELDS);
        let Some(fields) = fields.filter(|f| &f[..8] == SEGMENT_MAGIC) else {
            return Ok(None);
        };
        let (summed, crc) = fields.split_at(SEGMENT_FIELDS - 4);
        if u32_at(crc, 0) != crc32c::crc32c(summed) {
            return Ok(None);
        }
        check_version(u32_at(fields, 8), file)?;
        Ok(Some(Self {
            serial: u32_at(fields, 12),
            identity: u64_at(fields, 16),
            first_batch: u64_at(fields, 24),
        }))
    }

    pub(crate) fn read(file: &dyn File, name: &str) -> Result<Option<Self>> {
        let mut block = [0; SEGMENT_FIELDS];
        let read = crate::disk::read_salvaging(file, &mut block, 0);
        read.map_err(|e| LogError::io(format!("read {name}"), e))?;
        Self::decode(&block, name)
    }
}

pub(crate) fn check_version(version: u32, file: &str) -> Result<()> {
    if version == FORMAT_VERSION {
        return Ok(());
    }
    Err(LogError::Version {
        file: file.to_owned(),
        version,
        supported: FORMAT_VERSION,
    })
}

/// What a batch says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Bytes of the batch with this header.
    pub length: u32,
    /// Its number; the next batch of the log has the next.
    pub number: u64,
    /// All batches below this number were synced when it was written.
    pub synced: u64,
    /// Serial number of its segment.
    pub serial: u32,
    /// Number of records.
    pub records: u32,
    /// Low half of the log's identity.
    pub identity: u32,
}

impl BatchHeader {
    /// Writes the header; `records_crc` is the checksum over the records' checksums.
    pub fn encode(&self, into: &mut [u8], records_crc: u32) {
        into[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        into[4..8].copy_from_slice(&self.length.to_le_bytes());
        into[8..16].copy_from_slice(&self.number.to_le_bytes());
        into[16..24].copy_from_slice(&self.synced.to_le_bytes());
        into[24..28].copy_from_slice(&self.serial.to_le_bytes());
        into[28..32].copy_from_slice(&self.records.to_le_bytes());
        into[32..36].copy_from_slice(&self.identity.to_le_bytes());
        let crc = crc32c::crc32c_append(records_crc, &into[..36]);
        into[36..40].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header without checking the records; gives the checksum with it. `None` when the
    /// bytes cannot be one.
    pub fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        if u32_at(bytes, 0) != BATCH_MAGIC {
            return None;
        }
        let header = Self {
            length: u32_at(bytes, 4),
            number: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            serial: u32_at(bytes, 24),
            records: u32_at(bytes, 28),
            identity: u32_at(bytes, 32),
        };
        let possible = header.length as usize >= BATCH_HEADER_BYTES
            && header.synced <= header.number
            && header.length <= SEGMENT_BYTES_MAX;
        possible.then(|| (header, u32_at(bytes, 36)))
    }
}

/// Whether a batch may begin with these bytes.
pub(crate) fn begins_batch(bytes: &[u8]) -> bool {
    u32_at(bytes, 0) == BATCH_MAGIC
}

/// Reads an integer that is known to be there.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// As [`u16_at`].
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// As [`u16_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The name of a segment's file.
pub(crate) fn segment_name(serial: u32) -> String {
    format!("{serial:08x}.segment")
}

/// The name of a sealed segment's index.
pub(crate) fn index_name(serial: u32) -> String {
    format!("{serial:08x}.index")
}

/// The number in a name with this ending.
pub(crate) fn number_in(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    let lower = digits
        .bytes()
        .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    u64::from_str_radix(digits, 16).ok().filter(|_| lower)
}
