//! What a connection has still to write: encoded frames, with large bodies left in their
//! segments and spliced in when the socket takes them.
//!
//! Invariants: bytes leave in the order in which they were appended; `splices` are in order of
//! their place `at` in `bytes`; `head` counts the bytes of the front piece that are gone.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use backbone_log::Segment;
use smallvec::SmallVec;

/// Bodies from this size on are not copied: `writev` pays only from about 4 KiB.
pub const SPLICE_FROM_BYTES: usize = 4096;

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub struct OutBuf {
    /// Encoded bytes; append frames here.
    pub bytes: Vec<u8>,
    splices: VecDeque<Splice>,
    /// Bytes of `bytes` that are written.
    head: usize,
    spliced: usize,
}

#[derive(Debug)]
struct Splice {
    /// Index in `bytes` before which the splice goes out.
    at: usize,
    segment: Arc<Segment>,
    start: usize,
    end: usize,
}

impl OutBuf {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait, spliced ones included.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.head + self.spliced
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    /// Appends `segment[start..end]` without copying it.
    pub fn splice(&mut self, segment: Arc<Segment>, start: usize, end: usize) {
        self.spliced += end - start;
        self.splices.push_back(Splice {
            at: self.bytes.len(),
            segment,
            start,
            end,
        });
    }

    /// The next pieces to write, 64 at most.
    pub fn slices(&self) -> SmallVec<[IoSlice<'_>; 64]> {
        let mut pieces = SmallVec::new();
        let mut from = self.head;
        for splice in self.splices.iter().take(31) {
            if splice.at > from {
                pieces.push(IoSlice::new(&self.bytes[from..splice.at]));
                from = splice.at;
            }
            pieces.push(IoSlice::new(&splice.segment[splice.start..splice.end]));
        }
        let end = self.splices.get(31).map_or(self.bytes.len(), |s| s.at);
        if end > from {
            pieces.push(IoSlice::new(&self.bytes[from..end]));
        }
        pieces
    }

    /// Takes note that the first `written` bytes of [`OutBuf::slices`] are gone.
    pub fn advance(&mut self, mut written: usize) {
        while let Some(splice) = self.splices.front_mut() {
            let plain = splice.at - self.head;
            if written < plain {
                break;
            }
            self.head = splice.at;
            written -= plain;
            let taken = written.min(splice.end - splice.start);
            splice.start += taken;
            self.spliced -= taken;
            written -= taken;
            if splice.start < splice.end {
                return;
            }
            self.splices.pop_front();
        }
        self.head += written;
        debug_assert!(self.head <= self.bytes.len());
        self.reclaim();
    }

    /// Drops what waits behind the first `pending` bytes; that is where a frame ends.
    pub fn truncate(&mut self, mut pending: usize) {
        let mut from = self.head;
        for (index, splice) in self.splices.iter().enumerate() {
            let plain = splice.at - from;
            if pending <= plain {
                self.splices.truncate(index);
                break;
            }
            pending -= plain + (splice.end - splice.start);
            from = splice.at;
        }
        self.bytes.truncate(from + pending);
        let spliced = self.splices.iter().map(|it| it.end - it.start);
        self.spliced = spliced.sum();
        self.reclaim();
    }

    fn reclaim(&mut self) {
        if self.head == self.bytes.len() && self.splices.is_empty() {
            self.bytes.clear();
            self.head = 0;
        } else if self.head > 64 * 1024 && self.head * 2 > self.bytes.len() {
            // What is left is less than what moves it: a stuck peer costs one copy a doubling.
            self.bytes.drain(..self.head);
            for splice in &mut self.splices {
                splice.at -= self.head;
            }
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backbone_log::Arena;

    #[test]
    fn what_is_cut_off_never_leaves_wherever_the_cut_is() {
        let arena = Arena::new();
        for frames in 0..6 {
            for gone in [0, 1, 35, 80] {
                let (mut out, mut expected, mut cut) = (OutBuf::new(), Vec::new(), 0);
                for i in 0..6_u8 {
                    let body = vec![i; 40];
                    out.bytes.extend_from_slice(&[i; 10]);
                    let segment = arena.commit(&mut body.clone(), 1);
                    out.splice(segment, 0, 40);
                    out.bytes.push(i);
                    if usize::from(i) < frames {
                        expected.extend_from_slice(&[i; 51]);
                        cut = out.pending();
                    }
                }
                let mut written = Vec::new();
                let mut take = |out: &mut OutBuf, count: usize| {
                    let whole: Vec<u8> = out.slices().iter().flat_map(|s| s.to_vec()).collect();
                    written.extend_from_slice(&whole[..count]);
                    out.advance(count);
                };
                let gone = gone.min(cut);
                take(&mut out, gone);
                out.truncate(cut - gone);
                assert_eq!(out.pending(), cut - gone);
                let rest = out.pending();
                take(&mut out, rest);
                assert_eq!(written, expected, "{frames} frames, {gone} written before");
            }
        }
    }

    #[test]
    fn bytes_leave_in_order_however_the_socket_takes_them() {
        let arena = Arena::new();
        for step in [1, 2, 3, 7, 1000, 100_000] {
            let mut out = OutBuf::new();
            let mut expected = Vec::new();
            for i in 0..80u8 {
                out.bytes.extend_from_slice(&[i; 1500]);
                expected.extend_from_slice(&[i; 1500]);
                if i % 2 == 0 {
                    let body: Vec<u8> = (0..50u8).map(|n| n ^ i).collect();
                    let segment = arena.commit(&mut body.clone(), 1);
                    out.splice(segment, 10, 50);
                    expected.extend_from_slice(&body[10..50]);
                }
            }
            let mut got = Vec::new();
            while !out.is_empty() {
                let before = out.pending();
                let mut left = step;
                for piece in out.slices() {
                    let n = piece.len().min(left);
                    got.extend_from_slice(&piece[..n]);
                    left -= n;
                }
                out.advance(step - left);
                assert_eq!(out.pending(), before - (step - left));
            }
            assert_eq!(got, expected, "step {step}");
        }
    }
}
