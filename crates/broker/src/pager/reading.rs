//! Messages that are read one by one: those that stay in the log, since they wait for their time, and those that were handed
//! out and came back.

use std::ops::Range;
use std::sync::atomic::Ordering;

use backbone_log::{Chunk, Located, LogError};

use super::{Fill, Pager, Read, Stored};
use crate::flow;
use crate::queue::{Queue, Room, Wakes};
use crate::record::Entry;

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
    /// Brings the next of those messages into memory that came back and are in the log alone. False when there are none.
    pub(super) fn bring_back(&self, queue: &Queue, wakes: &mut Wakes) -> Result<bool, LogError> {
        let page = self.keep().page();
        let numbers = queue.away(page.messages);
        if numbers.is_empty() {
            return Ok(false);
        }
        let read = self.read_back(queue, &numbers, page)?;
        let looked = numbers.partition_point(|seq| *seq < read.until);
        let mut dropped = Vec::new();
        queue.come_back(&numbers[..looked], &read.entries, &mut dropped, wakes);
        if read.ruled {
            queue.paged(&read.entries, &self.arena, u64::MAX, wakes);
        }
        self.paged_in
            .fetch_add(read.entries.len() as u64, Ordering::Relaxed);
        flow::release(&self.arena, &dropped);
        self.let_go_of(read);
        Ok(true)
    }

    /// Brings one message of `queue` into memory that is in the log alone, and was handed out. `None` when it cannot be read.
    pub(crate) fn bring_one(&self, queue: &Queue, seq: u64) -> Option<Entry> {
        let read = self.read_back(queue, &[seq], Room::ALL).ok()?;
        let entry = read.entries.first().copied();
        self.let_go_of(read);
        entry
    }

    /// The copies are whosever entries they are.
    fn let_go_of(&self, read: Read) {
        for guard in read.segments {
            self.arena.release_held(guard, 1);
        }
    }

    /// Reads messages with these numbers, which grow, until there is no room for more.
    fn read_back(&self, queue: &Queue, numbers: &[u64], room: Room) -> Result<Read, LogError> {
        let mut read = Read::default();
        let mut fill = Fill::new(&self.arena, queue.is_ruled());
        let (mut reading, mut bytes) = (Reading::default(), 0);
        for seq in numbers {
            let found = self.read_one(queue, *seq, &mut reading, |payload| {
                bytes += payload.len();
                let flags = Entry::LOGGED | Entry::REDELIVERED;
                fill.add(*seq, flags, payload, &mut read);
            });
            if let Err(error) = found {
                fill.end(&mut read);
                self.discard(read);
                return Err(error);
            }
            read.until = seq + 1;
            if bytes >= room.bytes {
                break;
            }
        }
        if fill.timed {
            queue.expect_timed();
        }
        read.ruled = queue.is_ruled();
        fill.end(&mut read);
        Ok(read)
    }

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
