//! Named append streams of the log: events that are appended, read by their numbers, and forgotten from the front.
//!
//! A stream is to the log what a queue is, and shares its batches and syncs; no vhost knows of it. One writer's handle has the
//! next number, so there is one handle for each stream.

use std::ops::Range;
use std::sync::Arc;

use backbone_broker::definitions::STREAMS;
use backbone_broker::durable::{Durable, Level, Promise, Reason, Trouble};
use backbone_log::{Batch, Chunk, Located, LogError, Target};
use parking_lot::Mutex;

use super::{Engine, EngineError};

/// How often an event that housekeeping moves meanwhile is looked for again.
const ATTEMPTS_MAX: usize = 8;

/// The streams that there are. A number is never used for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamId {
    /// Who did what.
    Audit = 1,
}

/// A stream.
pub struct Stream {
    durable: Arc<Durable>,
    id: u64,
    /// Held while an event is appended, so that numbers come in their order.
    next: Mutex<u64>,
}

impl Engine {
    /// The stream of that name, to be opened once. None: there is no log.
    pub fn stream(&self, id: StreamId) -> Option<Stream> {
        let durable = Arc::clone(self.0.vhost.durable()?);
        let id = STREAMS | id as u64;
        let mut known = durable.log().queues().into_iter();
        let next = known.find(|it| it.queue == id).map_or(0, |it| it.next);
        Some(Stream {
            durable,
            id,
            next: Mutex::new(next),
        })
    }
}

impl Stream {
    /// Appends an event. It is on the disk when the promise is kept ([`Engine::kept`]).
    ///
    /// # Errors
    /// The log takes nothing now.
    pub fn append(&self, event: &[u8]) -> Result<Promise, EngineError> {
        let mut next = self.next.lock();
        let target = Target {
            queue: self.id,
            seq: *next,
        };
        let mut batch = Batch::new();
        batch.publish(&[target], false, |out| out.extend_from_slice(event));
        let lsn = self.append_batch(&mut batch)?;
        *next += 1;
        Ok(Promise::new(lsn, Level::Synced))
    }

    /// The numbers from the first event that is kept to the next one that will be appended.
    pub fn range(&self) -> Range<u64> {
        let next = *self.next.lock();
        let kept = self.durable.log().unsettled(self.id, 0..next);
        kept.first().map_or(next, |range| range.start)..next
    }

    /// Up to `max` events from number `from` on. Those that damaged bytes made unreadable are left out. Reads from the
    /// disk: not for arbiters.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&self, from: u64, max: usize) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let located = self.durable.log().load(self.id, from, max);
        let mut chunk = None;
        let mut events = Vec::new();
        for at in located.map_err(|error| self.trouble(&error))? {
            let event = self.read_one(at, &mut chunk);
            events.extend(event.map(|event| (at.seq, event)));
        }
        Ok(events)
    }

    /// Forgets all events below a number.
    ///
    /// # Errors
    /// The log takes nothing now.
    pub fn truncate(&self, below: u64) -> Result<(), EngineError> {
        let mut batch = Batch::new();
        let all = 0..below;
        batch.settle(self.id, std::slice::from_ref(&all), Reason::Purge);
        self.append_batch(&mut batch).map(drop)
    }

    fn append_batch(&self, batch: &mut Batch) -> Result<u64, EngineError> {
        let appended = self.durable.append(batch);
        appended.map_err(|error| self.trouble(&error))
    }

    /// An event, by the chunk of the one before if it is in there.
    fn read_one(&self, mut at: Located, chunk: &mut Option<Chunk>) -> Option<Vec<u8>> {
        let log = self.durable.log();
        for _ in 0..ATTEMPTS_MAX {
            let found = chunk.as_ref().and_then(|it| it.get(at.position, at.len));
            if let Some(event) = found {
                return Some(event.to_vec());
            }
            match log.read(at.position, at.len) {
                Ok(read) => *chunk = Some(read),
                Err(LogError::Moved(_)) => at = log.resolve(self.id, at.seq).ok()??,
                Err(error) => {
                    tracing::warn!(%error, event = at.seq, "an event cannot be read");
                    return None;
                }
            }
        }
        None
    }

    fn trouble(&self, error: &LogError) -> EngineError {
        tracing::warn!(%error, "a stream of the log");
        EngineError::Paused(self.durable.trouble().unwrap_or(Trouble::Disk))
    }
}
