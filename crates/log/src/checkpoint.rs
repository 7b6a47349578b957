//! The state of the log between two segments, so that recovery replays only what came after.
//!
//! ```text
//! magic 8 | version u32 | replay from (segment) u32 | identity u64 | applied u64 | length u64 | crc u32
//! | definitions u32 × (key length u32, value length u32, key, value)
//! | queues u32 × (queue u64, low u64, runs u32 × (from u64, until u64))
//! | segments u32 × (serial u32, first batch u64, next batch u64, size u32, end u32, references u32 × (serial u32, bytes u64),
//!                   groups u32 × (queue u64, count u32, bytes u64, min u64, max u64))
//! ```
//!
//! The checksum covers all but itself. Transient messages are left out. A checkpoint is written after
//! everything that it contains was synced, under a new name; the last two are kept.

use crate::disk::{self, Disk, Mode};
use crate::error::{LogError, Result};
use crate::format::{FORMAT_VERSION, check_version, number_in, u32_at, u64_at};
use crate::index::{Group, GroupKey, Place};
use crate::recovery::Damage;
use crate::settled::Settled;
use crate::state::{SegmentState, State};

const MAGIC: &[u8; 8] = b"BkbnChk\n";
const HEADER_BYTES: usize = 44;

/// A state encoded between two segments.
pub(crate) struct Snapshot {
    /// Number of the last batch in it.
    pub applied: u64,
    /// The segment that was opened next.
    pub replay_from: u32,
    pub bytes: Vec<u8>,
}

/// What a checkpoint says.
pub(crate) struct Checkpoint {
    pub identity: u64,
    pub applied: u64,
    pub replay_from: u32,
    pub state: State,
}

/// Encodes the state, all of whose segments are sealed.
pub(crate) fn encode(state: &State, identity: u64, replay_from: u32) -> Snapshot {
    let mut out = vec![0; HEADER_BYTES];
    put_u32(&mut out, state.definitions.len());
    for (key, value) in &state.definitions {
        put_u32(&mut out, key.len());
        put_u32(&mut out, value.len());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    put_u32(&mut out, state.queues.len());
    for (queue, settled) in &state.queues {
        put_u64(&mut out, *queue);
        put_u64(&mut out, settled.low());
        put_u32(&mut out, settled.runs().len());
        for run in settled.runs() {
            put_u64(&mut out, run.start);
            put_u64(&mut out, run.end);
        }
    }
    put_u32(&mut out, state.segments.len());
    for (serial, segment) in &state.segments {
        encode_segment(&mut out, *serial, segment);
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    put_u32(&mut header, FORMAT_VERSION as usize);
    put_u32(&mut header, replay_from as usize);
    put_u64(&mut header, identity);
    put_u64(&mut header, state.applied);
    put_u64(&mut header, out.len() as u64);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &out[HEADER_BYTES..]);
    put_u32(&mut header, crc as usize);
    out[..HEADER_BYTES].copy_from_slice(&header);
    Snapshot {
        applied: state.applied,
        replay_from,
        bytes: out,
    }
}

fn encode_segment(out: &mut Vec<u8>, serial: u32, segment: &SegmentState) {
    put_u32(out, serial as usize);
    put_u64(out, segment.first_batch);
    put_u64(out, segment.next_batch);
    put_u32(out, segment.size as usize);
    put_u32(out, segment.end as usize);
    put_u32(out, segment.references.len());
    for (other, bytes) in &segment.references {
        put_u32(out, *other as usize);
        put_u64(out, *bytes);
    }
    let groups = || segment.groups.iter().filter(|(key, _)| !key.transient);
    put_u32(out, groups().count());
    for (key, group) in groups() {
        put_u64(out, key.queue);
        put_u32(out, group.count as usize);
        for value in [group.bytes, group.min, group.max] {
            put_u64(out, value);
        }
    }
}

/// Reads a checkpoint; `None` when it is not whole, an error when its version is unknown.
pub(crate) fn decode(bytes: &[u8], file: &str) -> Result<Option<Checkpoint>> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Ok(None);
    };
    if &header[..8] != MAGIC {
        return Ok(None);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..HEADER_BYTES - 4]), rest);
    if crc != u32_at(header, HEADER_BYTES - 4) || u64_at(header, 32) != bytes.len() as u64 {
        return Ok(None);
    }
    check_version(u32_at(header, 8), file)?;
    let applied = u64_at(header, 24);
    let state = Reader(rest).state(applied);
    Ok(state.map(|state| Checkpoint {
        identity: u64_at(header, 16),
        applied,
        replay_from: u32_at(header, 12),
        state,
    }))
}

type Newest = (Vec<String>, Option<Checkpoint>, Vec<Damage>);

/// Names of the sound checkpoints, oldest first, the content of the newest, and what is damaged.
pub(crate) fn newest(disk: &dyn Disk, names: &[String]) -> Result<Newest> {
    let mut sorted: Vec<(u64, &String)> = names
        .iter()
        .filter_map(|name| Some((number_in(name, "checkpoint")?, name)))
        .collect();
    sorted.sort_unstable();
    let mut damages = Vec::new();
    while let Some((replay_from, name)) = sorted.last().copied() {
        let (checkpoint, bytes) = read(disk, name)?;
        if checkpoint.is_some() {
            let names = sorted.into_iter().map(|(_, name)| name.clone()).collect();
            return Ok((names, checkpoint, damages));
        }
        damages.push(Damage {
            file: name.clone(),
            segment: replay_from as u32,
            offset: 0,
            bytes,
            queues: Vec::new(),
        });
        sorted.pop();
    }
    Ok((Vec::new(), None, damages))
}

/// The content of a checkpoint's file, `None` when it is damaged; and its size in bytes.
pub(crate) fn read(disk: &dyn Disk, name: &str) -> Result<(Option<Checkpoint>, u32)> {
    let failed = |e| LogError::io(format!("read {name}"), e);
    let file = disk.open(name, Mode::Buffered).map_err(failed)?;
    let mut bytes = vec![0; file.size().map_err(failed)? as usize];
    disk::read_salvaging(&*file, &mut bytes, 0).map_err(failed)?;
    let checkpoint = decode(&bytes, name)?;
    let number = number_in(name, "checkpoint");
    let ours = checkpoint.filter(|c| Some(u64::from(c.replay_from)) == number);
    Ok((ours, bytes.len() as u32))
}

/// Takes integers and slices off the front, `None` at the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn state(mut self, applied: u64) -> Option<State> {
        let mut state = State {
            applied,
            ..State::default()
        };
        for _ in 0..self.u32()? {
            let (key, value) = (self.u32()?, self.u32()?);
            let key = self.take(key as usize)?.into();
            state
                .definitions
                .insert(key, self.take(value as usize)?.into());
        }
        for _ in 0..self.u32()? {
            let (queue, low, count) = (self.u64()?, self.u64()?, self.u32()?);
            let runs = self
                .take((count as usize).checked_mul(16)?)?
                .chunks_exact(16);
            let runs = runs.map(|run| u64_at(run, 0)..u64_at(run, 8));
            state.queues.insert(queue, Settled::from_parts(low, runs));
        }
        for _ in 0..self.u32()? {
            let (serial, segment) = self.segment()?;
            state.segments.insert(serial, segment);
        }
        self.0.is_empty().then_some(state)
    }

    fn segment(&mut self) -> Option<(u32, SegmentState)> {
        let (serial, first_batch) = (self.u32()?, self.u64()?);
        let next_batch = self.u64()?;
        let mut segment = SegmentState::new(first_batch, self.u32()?);
        segment.next_batch = next_batch;
        segment.end = self.u32()?;
        segment.sealed = true;
        for _ in 0..self.u32()? {
            let (other, bytes) = (self.u32()?, self.u64()?);
            segment.references.insert(other, bytes);
        }
        for _ in 0..self.u32()? {
            let key = GroupKey {
                queue: self.u64()?,
                transient: false,
            };
            let group = Group {
                count: self.u32()?,
                bytes: self.u64()?,
                min: self.u64()?,
                max: self.u64()?,
                place: Place::Unopened,
            };
            segment.groups.insert(key, group);
        }
        Some((serial, segment))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&(value as u32).to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}
