//! Buffers that the connections of an arbiter share, so that an idle one holds none.

use std::cell::RefCell;

/// Buffers of each kind kept by a thread.
const KEEP_MAX: usize = 8;
/// Out-buffers below this capacity stay with their connection.
const SMALL_BYTES: usize = 4096;

thread_local! {
    static READ: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read and not yet handled. Holds memory only while there are some.
#[derive(Default)]
pub(super) struct ReadBuffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// The bytes that wait.
    pub fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// Room for more, after making `size` bytes in all.
    pub fn room(&mut self, size: usize) -> &mut [u8] {
        if self.data.is_empty() {
            let recycled = READ.with_borrow_mut(Vec::pop);
            self.data = recycled
                .filter(|b| b.len() >= size)
                .unwrap_or_else(|| vec![0; size]);
        }
        if self.start > 0 && self.end == self.data.len() {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.data[self.end..]
    }

    /// Takes note of `count` bytes read into the room.
    pub fn grow(&mut self, count: usize) {
        self.end += count;
    }

    /// Takes note that the first `count` bytes are handled.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives the memory back if nothing waits.
    pub fn rest(&mut self) {
        if self.end == 0 && !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            READ.with_borrow_mut(|kept| keep(kept, data));
        }
    }
}

/// Gives an empty out-buffer memory that another one used.
pub(super) fn lend(bytes: &mut Vec<u8>) {
    if bytes.capacity() == 0
        && let Some(recycled) = WRITE.with_borrow_mut(Vec::pop)
    {
        *bytes = recycled;
    }
}

/// Takes the memory of an empty out-buffer back.
pub(super) fn give_back(bytes: &mut Vec<u8>) {
    if bytes.is_empty() && bytes.capacity() > SMALL_BYTES {
        let bytes = std::mem::take(bytes);
        WRITE.with_borrow_mut(|kept| keep(kept, bytes));
    }
}

fn keep(kept: &mut Vec<Vec<u8>>, buffer: Vec<u8>) {
    if kept.len() < KEEP_MAX {
        kept.push(buffer);
    }
}
