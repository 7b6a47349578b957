//! Buffers that the connections of an arbiter share, so that an idle one holds none.

use std::cell::RefCell;

/// Buffers of each kind kept by a thread.
const KEEP_MAX: usize = 8;
/// Memory below this stays with its connection.
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

    /// Room for more, in a buffer of at least `size` bytes.
    pub fn room(&mut self, size: usize) -> &mut [u8] {
        if self.data.len() < size {
            self.enlarge(size);
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

    /// Gives the memory back before a wait, but for what the beginning of a frame takes.
    pub fn rest(&mut self) {
        let waiting = self.filled().len();
        if self.data.len() < SMALL_BYTES || waiting >= SMALL_BYTES {
            return;
        }
        let left = self.filled().to_vec();
        let data = std::mem::replace(&mut self.data, left);
        (self.start, self.end) = (0, waiting);
        READ.with_borrow_mut(|kept| keep(kept, data));
    }

    fn enlarge(&mut self, size: usize) {
        let recycled = READ.with_borrow_mut(Vec::pop);
        let mut data = recycled.unwrap_or_default();
        if data.len() < size {
            data.resize(size, 0);
        }
        let waiting = self.filled().len();
        data[..waiting].copy_from_slice(self.filled());
        self.data = data;
        (self.start, self.end) = (0, waiting);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_buffer_holds_no_more_than_what_waits() {
        let mut buffer = ReadBuffer::default();
        for size in [10_000, 20_000] {
            buffer.room(size)[..300].fill(7);
            buffer.grow(300);
            buffer.consume(100);
            buffer.rest();
            assert!(buffer.data.len() <= 400, "{} bytes", buffer.data.len());
        }
        assert_eq!(buffer.filled(), [7; 400]);
        assert!(buffer.room(20_000).len() >= 19_600);
        buffer.consume(400);
        buffer.rest();
        assert!(buffer.data.is_empty());
    }

    #[test]
    fn bytes_move_to_the_front_when_the_end_is_reached() {
        let mut buffer = ReadBuffer::default();
        let size = 8192;
        let room = buffer.room(size).len();
        buffer.room(size)[room - 2..].copy_from_slice(b"ab");
        buffer.grow(room);
        buffer.consume(room - 2);
        assert_eq!(buffer.filled(), b"ab");
        assert_eq!(buffer.room(size).len(), room - 2);
        assert_eq!(buffer.filled(), b"ab");
    }
}
