//! The messages that are in memory alone.
//!
//! Owns the bytes of every message that no disk keeps. A publisher encodes the records of one batch into a
//! buffer ([`Arena::buffer`]) and commits the whole batch at once ([`Arena::commit`]); queues
//! keep [`Position`]s. The bytes never change after the commit, so readers share them without
//! a lock, and a record that goes to many queues is stored once.
//!
//! Everything is in memory: the durability level is `memory`.
//!
//! Invariants:
//! - A segment stays readable while its count of live copies is above zero, or while somebody
//!   holds its `Arc`.
//! - Each copy is released exactly once; a release below zero is a bug and panics.
//! - Buffers are recycled, within a bound, once nothing refers to them.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

/// Where a record begins: segment and byte offset inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Identity of the segment; used again after the segment died.
    pub segment: u32,
    /// Offset of the record's first byte.
    pub offset: u32,
}

/// Capacity in bytes of the buffers handed out for batches.
pub const BUFFER_BYTES: usize = 256 * 1024;
/// A batch below this size is copied into memory of its own size, so that a backlog of single
/// messages does not hold one large buffer each.
const COPY_BELOW_BYTES: usize = BUFFER_BYTES / 2;
/// Buffers kept for use again: 16 MiB, or twice that where all of them have grown.
const POOL_BUFFERS_MAX: usize = 64;
/// Bytes of larger buffers kept for use again.
const LARGE_POOL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One committed batch of records.
#[derive(Debug)]
pub struct Segment {
    id: u32,
    live: AtomicU64,
    data: Vec<u8>,
    pool: Arc<Pool>,
}

impl Drop for Segment {
    /// Whoever lets go of it last, be it a consumer's socket, gives the memory back.
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.data));
    }
}

impl Segment {
    /// The identity that [`Position::segment`] names.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

/// All segments of a node. Shared by every connection; locked once a batch, not once a message.
#[derive(Debug, Default)]
pub struct Arena {
    table: RwLock<Table>,
    pool: Arc<Pool>,
    bytes: AtomicUsize,
}

/// Memory of dead segments, to be used again.
#[derive(Debug, Default)]
struct Pool {
    /// Of batches.
    buffers: Mutex<Vec<Vec<u8>>>,
    large: Mutex<LargePool>,
}

/// Buffers of large messages, the one that was given back last at the end.
#[derive(Debug, Default)]
struct LargePool {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<Arc<Segment>>>,
    free: Vec<u32>,
}

impl Arena {
    /// An empty arena.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer to encode a batch into, recycled where possible.
    pub fn buffer(&self) -> Vec<u8> {
        let recycled = self.pool.buffers.lock().pop();
        recycled.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// A buffer that an earlier large message left behind, with room for `size` bytes and a quarter more at most:
    /// memory that was used before costs neither page faults nor growth. `None` when there is none.
    pub fn large_buffer(&self, size: usize) -> Option<Vec<u8>> {
        let mut large = self.pool.large.lock();
        let fits = |buffer: &Vec<u8>| (size..=size + size / 4).contains(&buffer.capacity());
        let index = large.buffers.iter().rposition(fits)?;
        let buffer = large.buffers.remove(index)?;
        large.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Takes the records in `data` as one segment with `copies` live copies. `data` is left without
    /// memory, so that whoever pauses holds none. `copies` must be above zero; add more with
    /// [`Arena::retain`].
    pub fn commit(&self, data: &mut Vec<u8>, copies: u64) -> Arc<Segment> {
        let mut stored = std::mem::take(data);
        if stored.len() < COPY_BELOW_BYTES {
            let exact = stored.as_slice().to_vec();
            self.pool.put(std::mem::replace(&mut stored, exact));
        }
        self.adopt(stored, copies)
    }

    /// Takes `data` itself as one segment with `copies` live copies: for a record that is large
    /// enough for a segment of its own.
    pub fn adopt(&self, stored: Vec<u8>, copies: u64) -> Arc<Segment> {
        assert!(copies > 0, "a segment without copies would never be freed");
        self.bytes.fetch_add(stored.capacity(), Ordering::Relaxed);
        let mut table = self.table.write();
        let id = table.free.pop().unwrap_or(table.slots.len() as u32);
        let segment = Arc::new(Segment {
            id,
            live: AtomicU64::new(copies),
            data: stored,
            pool: Arc::clone(&self.pool),
        });
        let slot = id as usize;
        if slot == table.slots.len() {
            table.slots.push(None);
        }
        debug_assert!(table.slots[slot].is_none());
        table.slots[slot] = Some(Arc::clone(&segment));
        segment
    }

    /// The segment `id`. Panics when it has no live copy: whoever asks must own one.
    pub fn segment(&self, id: u32) -> Arc<Segment> {
        let table = self.table.read();
        let slot = table.slots.get(id as usize).and_then(Option::as_ref);
        Arc::clone(slot.expect("the asker owns a live copy in this segment"))
    }

    /// Adds `copies` live copies. The caller must own one, so that the segment cannot die meanwhile.
    pub fn retain(&self, segment: &Segment, copies: u64) {
        let before = segment.live.fetch_add(copies, Ordering::Relaxed);
        assert!(before > 0, "retained a dead segment");
    }

    /// Gives back `copies` live copies of segment `id`; the last one frees it.
    pub fn release(&self, id: u32, copies: u64) {
        self.release_held(self.segment(id), copies);
    }

    /// As [`Arena::release`], for a segment at hand: saves the look-up.
    pub fn release_held(&self, segment: Arc<Segment>, copies: u64) {
        let before = segment.live.fetch_sub(copies, Ordering::AcqRel);
        assert!(before >= copies, "released more copies than there were");
        if before > copies {
            return;
        }
        let id = segment.id;
        {
            let mut table = self.table.write();
            table.slots[id as usize] = None;
            table.free.push(id);
        }
        self.bytes
            .fetch_sub(segment.data.capacity(), Ordering::Relaxed);
    }

    /// Bytes held for committed records.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Number of segments with live copies.
    pub fn segments(&self) -> usize {
        let table = self.table.read();
        table.slots.len() - table.free.len()
    }
}

impl Pool {
    /// Keeps `data` for use again, if it has a size that is asked for.
    fn put(&self, mut data: Vec<u8>) {
        data.clear();
        if data.capacity() > 2 * BUFFER_BYTES {
            return self.put_large(data);
        }
        if data.capacity() < BUFFER_BYTES {
            return;
        }
        let mut buffers = self.buffers.lock();
        if buffers.len() < POOL_BUFFERS_MAX {
            buffers.push(data);
        }
    }

    fn put_large(&self, data: Vec<u8>) {
        let mut large = self.large.lock();
        large.bytes += data.capacity();
        large.buffers.push_back(data);
        // What was not asked for again goes first.
        while large.bytes > LARGE_POOL_BYTES_MAX {
            let oldest = large.buffers.pop_front();
            large.bytes -= oldest.map_or(0, |buffer| buffer.capacity());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_lives_until_its_last_copy_is_released() {
        let arena = Arena::new();
        let mut batch = arena.buffer();
        batch.extend_from_slice(b"hello");
        let id = arena.commit(&mut batch, 1).id();
        assert!(batch.is_empty());
        arena.retain(&arena.segment(id), 2);
        arena.release(id, 2);
        assert_eq!(&arena.segment(id)[..], b"hello");
        assert_eq!(arena.segments(), 1);
        arena.release(id, 1);
        assert_eq!((arena.segments(), arena.bytes()), (0, 0));
    }

    #[test]
    fn identities_and_large_buffers_are_used_again() {
        let arena = Arena::new();
        let mut batch = arena.buffer();
        batch.resize(COPY_BELOW_BYTES, 7);
        let first = batch.as_ptr() as usize;
        let segment = arena.commit(&mut batch, 1);
        let id = segment.id();
        arena.release_held(segment, 1);
        let again = arena.buffer();
        assert_eq!(again.as_ptr() as usize, first);
        batch.push(1);
        assert_eq!(arena.commit(&mut batch, 1).id(), id);
    }

    #[test]
    fn a_small_batch_holds_no_more_than_its_size() {
        let arena = Arena::new();
        let mut batch = arena.buffer();
        batch.extend_from_slice(&[1; 100]);
        let _segment = arena.commit(&mut batch, 1);
        assert!(arena.bytes() < 200, "{} bytes", arena.bytes());
    }

    #[test]
    fn memory_of_large_messages_is_used_again_for_those_of_their_size() {
        let arena = Arena::new();
        let size = 1024 * 1024;
        let first = Vec::with_capacity(size);
        let at = first.as_ptr() as usize;
        arena.release_held(arena.adopt(first, 1), 1);
        assert!(arena.large_buffer(size / 2).is_none(), "twice the size");
        assert!(arena.large_buffer(size + 1).is_none(), "too small");
        let again = arena.large_buffer(size - 100).expect("it fits");
        assert_eq!(again.as_ptr() as usize, at);
        assert!(arena.large_buffer(size - 100).is_none(), "it is in use");
    }

    #[test]
    fn no_more_than_a_bound_of_large_memory_is_kept() {
        let arena = Arena::new();
        for mib in 1..=20 {
            let size = mib * 1024 * 1024;
            arena.release_held(arena.adopt(Vec::with_capacity(size), 1), 1);
            let kept = arena.pool.large.lock().bytes;
            assert!(kept <= LARGE_POOL_BYTES_MAX, "{kept} bytes after {mib} MiB");
        }
        assert_eq!(arena.bytes(), 0);
    }

    #[test]
    fn readers_keep_the_bytes_after_the_release() {
        let arena = Arena::new();
        let mut batch = b"abc".to_vec();
        let held = arena.commit(&mut batch, 1);
        arena.release(held.id(), 1);
        assert_eq!(&held[..], b"abc");
        assert_eq!(arena.segments(), 0);
    }

    #[test]
    #[should_panic(expected = "released more copies")]
    fn releasing_twice_is_a_bug() {
        let arena = Arena::new();
        let held = arena.commit(&mut b"abc".to_vec(), 1);
        let again = Arc::clone(&held);
        arena.release_held(held, 1);
        arena.release_held(again, 1);
    }
}
