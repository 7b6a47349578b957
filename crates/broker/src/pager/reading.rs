//! Messages that are read where they are in the log, and stay there: those that wait for their time.

use std::ops::Range;
use std::sync::atomic::Ordering;

use backbone_log::{Chunk, Located, LogError};

use super::{Pager, Stored};
use crate::queue::Queue;

/// Messages that are located together with one that is read.
const NEAR_MAX: usize = 64;

/// Where [`Pager::read_one`] has looked last.
#[derive(Default)]
pub(crate) struct Reading {
    /// In the order of their numbers.
    near: Vec<Located>,
    chunk: Option<Chunk>,
}

impl Pager {
    /// Calls `each` with number and record of the messages that the log has of `numbers`, from the first one on; of `max` of
    /// them at most. Returns the first number that was not looked at. Call it for numbers that the queue was restored with.
    ///
    /// # Errors
    /// The log cannot be read: some may have been called with.
    pub(crate) fn read_on(
        &self,
        queue: &Queue,
        numbers: Range<u64>,
        max: usize,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<u64, LogError> {
        let mut found = self.durable.log().load(queue.id(), numbers.start, max)?;
        found.retain(|at| at.seq < numbers.end);
        let until = match found.last() {
            Some(last) if found.len() == max => last.seq + 1,
            _ => numbers.end,
        };
        let queue = queue.id();
        let stored: Vec<_> = found.into_iter().map(|at| Stored { queue, at }).collect();
        let mut chunk = None;
        for message in &stored {
            self.read_record(message, &mut chunk, |record| each(message.at.seq, record))?;
        }
        self.never_stored(queue, numbers.start..until, &stored);
        Ok(until)
    }

    /// Calls `with` with the record of one message, if the log has it still.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) fn read_one(
        &self,
        queue: &Queue,
        seq: u64,
        reading: &mut Reading,
        with: impl FnOnce(&[u8]),
    ) -> Result<(), LogError> {
        let queue = queue.id();
        let at = |reading: &Reading| reading.near.binary_search_by_key(&seq, |it| it.seq);
        let place = match at(reading) {
            Ok(place) => place,
            Err(_) => {
                reading.near = self.durable.log().load(queue, seq, NEAR_MAX)?;
                match at(reading) {
                    Ok(place) => place,
                    Err(_) => return Ok(()),
                }
            }
        };
        let message = Stored {
            queue,
            at: reading.near[place],
        };
        self.read_record(&message, &mut reading.chunk, with)
    }

    /// Calls `with` with the record of a message. What is damaged is counted and passed over.
    fn read_record(
        &self,
        message: &Stored,
        chunk: &mut Option<Chunk>,
        with: impl FnOnce(&[u8]),
    ) -> Result<(), LogError> {
        match self.bytes_of(message, chunk) {
            Ok(Some((chunk, at))) => {
                with(chunk.get(at, message.at.len).expect("it was just there"));
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(LogError::Damaged { .. }) => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
