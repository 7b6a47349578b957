//! The batches that are still in memory: all that are not written yet, and behind them as many as a
//! bound allows, so that deliveries right behind the publisher read no disk.

use std::collections::VecDeque;
use std::sync::Arc;

/// A batch that has its place in the log.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its segment.
    pub serial: u32,
    /// Where it stands in it.
    pub offset: u32,
    /// Its number.
    pub number: u64,
    /// Somebody may wait for its sync.
    pub eager: bool,
    /// All its bytes, with header and padding.
    pub data: Vec<u8>,
}

/// The last batches, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<Arc<Stored>>,
    bytes: usize,
}

impl Tail {
    pub fn push(&mut self, batch: Arc<Stored>) {
        self.bytes += batch.data.capacity();
        self.batches.push_back(batch);
    }

    /// The batch around that place.
    pub fn find(&self, segment: u32, offset: u32) -> Option<&Arc<Stored>> {
        let behind = self
            .batches
            .partition_point(|batch| (batch.serial, batch.offset) <= (segment, offset));
        let batch = self.batches.get(behind.checked_sub(1)?)?;
        let inside = batch.serial == segment && offset - batch.offset < batch.data.len() as u32;
        inside.then_some(batch)
    }

    /// Takes the oldest batch out if there are more than `max` bytes and it was written.
    pub fn pop_above(&mut self, max: usize, written: u64) -> Option<Arc<Stored>> {
        let oldest = self.batches.front()?;
        if self.bytes <= max || oldest.number > written {
            return None;
        }
        self.bytes -= oldest.data.capacity();
        self.batches.pop_front()
    }
}
