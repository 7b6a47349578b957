//! Messages on their way into one queue, as one batch.

use backbone_broker::access::Access;
use backbone_broker::durable::{Promise, Trouble};
use backbone_broker::publisher::{Origin, Publisher, Routed};
use backbone_broker::queue::Queue;
use backbone_broker::record;
use backbone_wire::properties::with_additions;

use super::{Engine, EngineError, Outgoing, Taken, now_ms};

/// What the engine publishes as; no permission is asked.
const USER: &str = "backbone";
/// What is set aside for a content header, bytes.
const HEADER_BYTES: usize = 256;

/// Messages for one queue in their order. [`Batch::commit`] puts them there; without it nothing is, but what had to go before the
/// rest because a batch of the broker was full.
pub struct Batch<'a> {
    engine: &'a Engine,
    queue: &'a Queue,
    /// Always there, until it is dropped.
    publisher: Option<Publisher>,
    now_ms: u64,
    names: Vec<u8>,
    header: Vec<u8>,
    added: usize,
    committed: usize,
    /// The publisher's when it was looked at last.
    epoch: u64,
    /// A part has gone since [`Batch::pace`] was asked.
    moved: bool,
}

impl Engine {
    /// An empty batch for `queue`.
    ///
    /// # Errors
    /// [`EngineError::Paused`]: try again later.
    pub fn batch<'a>(&'a self, queue: &'a Queue) -> Result<Batch<'a>, EngineError> {
        if let Some(trouble) = self.0.gate.trouble() {
            return Err(EngineError::Paused(trouble));
        }
        let mut names = Vec::with_capacity(2 + queue.name().len());
        record::write_names(&mut names, b"", queue.name().as_bytes());
        let publisher = self.publisher();
        Ok(Batch {
            engine: self,
            queue,
            now_ms: now_ms(),
            names,
            header: Vec::with_capacity(HEADER_BYTES),
            added: 0,
            committed: 0,
            epoch: publisher.epoch(),
            moved: false,
            publisher: Some(publisher),
        })
    }

    /// Puts one message into a queue, or on its way if the queue has a flow. It is as safe as the queue's level says
    /// when [`Engine::kept`] says so.
    ///
    /// # Errors
    /// [`EngineError::Paused`]: try again later. [`EngineError::NoQueue`], [`EngineError::QueueFull`].
    pub fn publish(&self, queue: &Queue, message: &Outgoing<'_>) -> Result<Promise, EngineError> {
        let mut batch = self.batch(queue)?;
        batch.add(message)?;
        batch.commit()
    }

    /// Puts a copy of message number `index` of `taken` into a queue, with headers added; see [`Engine::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn copy(
        &self,
        taken: &Taken,
        index: usize,
        queue: &Queue,
        headers: &[(&str, &[u8])],
    ) -> Result<Promise, EngineError> {
        let mut batch = self.batch(queue)?;
        taken.with_record(index, |_, record| {
            batch.header.extend(record::header_fixed(record.body.len()));
            let header = &mut batch.header;
            with_additions(record.properties(), headers, None, None, header);
            batch.put(record.body)
        })?;
        batch.commit()
    }

    fn publisher(&self) -> Publisher {
        self.0.publishers.pop().unwrap_or_else(|| {
            let origin = Origin {
                user: USER.into(),
                access: Access::Full,
            };
            Publisher::new(self.0.vhost.clone(), origin)
        })
    }
}

impl Batch<'_> {
    /// Adds a message.
    ///
    /// # Errors
    /// As [`Engine::publish`]: [`Batch::committed`] says what has gone already; the rest goes with the batch.
    pub fn add(&mut self, message: &Outgoing<'_>) -> Result<(), EngineError> {
        self.header.clear();
        message.write_header(self.now_ms / 1000, &mut self.header);
        self.put(message.body)
    }

    /// Adds a message with the header that is in `header`.
    fn put(&mut self, body: &[u8]) -> Result<(), EngineError> {
        let content = record::Content {
            names: &self.names,
            header: &self.header,
            body,
        };
        let publisher = self.publisher.as_mut().expect("it is there");
        let routed = publisher.publish(content, self.now_ms)?;
        if routed == Routed::Queues {
            self.added += 1;
            return self.look();
        }
        if self.added == self.committed {
            // A queue may want what it refuses as a dead letter.
            publisher.commit();
        }
        let queue = self.queue.name().to_string();
        Err(match routed {
            Routed::Refused => EngineError::QueueFull(queue),
            Routed::Queues | Routed::Nowhere => EngineError::NoQueue(queue),
        })
    }

    /// How many messages are where they belong, or will be whatever happens to the batch.
    pub fn committed(&self) -> usize {
        self.committed
    }

    /// What to wait for before there is more, if a part has gone since the last time: the log's backlog stays bounded.
    pub fn pace(&mut self) -> Option<Promise> {
        let moved = std::mem::take(&mut self.moved);
        let publisher = self.publisher.as_ref().filter(|_| moved);
        publisher.map(Publisher::pace)
    }

    /// Puts everything into the queue. It is as safe as the queue's level says when [`Engine::kept`] says so.
    ///
    /// # Errors
    /// [`EngineError::Paused`]: the log does not take it.
    pub fn commit(&mut self) -> Result<Promise, EngineError> {
        let publisher = self.publisher.as_mut().expect("it is there");
        publisher.commit();
        let promise = publisher.promise();
        if publisher.is_stalled() {
            return Err(self.stalled());
        }
        self.committed = self.added;
        Ok(promise)
    }

    /// Whether a part has gone with the message that was added last.
    fn look(&mut self) -> Result<(), EngineError> {
        let publisher = self.publisher.as_ref().expect("it is there");
        if publisher.is_stalled() {
            return Err(self.stalled());
        }
        if publisher.epoch() != self.epoch {
            (self.epoch, self.committed, self.moved) = (publisher.epoch(), self.added, true);
        }
        Ok(())
    }

    fn stalled(&self) -> EngineError {
        let trouble = self.engine.0.gate.trouble();
        EngineError::Paused(trouble.unwrap_or(Trouble::Disk))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let Some(mut publisher) = self.publisher.take() else {
            return;
        };
        if self.committed < self.added || publisher.is_stalled() {
            publisher.discard();
        }
        // Where enough are kept already, this one goes.
        drop(self.engine.0.publishers.push(publisher));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &[u8]) -> Outgoing<'_> {
        Outgoing {
            body,
            content_type: "text/plain",
            id: "id",
            topic: None,
            is_envelope: false,
        }
    }

    #[test]
    fn a_batch_that_is_not_committed_leaves_nothing() {
        let engine = Engine::for_tests(usize::MAX);
        let queue = engine.declare_queue("q", false).unwrap();
        let mut batch = engine.batch(&queue).unwrap();
        batch.add(&message(b"1")).unwrap();
        assert!(batch.pace().is_none());
        drop(batch);
        engine.publish(&queue, &message(b"2")).unwrap();
        let taken = engine.take(&queue, 10, usize::MAX);
        assert_eq!(taken.len(), 1);
        taken.with(0, |stored| assert_eq!(stored.body, b"2"));
        taken.settle();
        assert_eq!(engine.segments(), 0, "nothing is left in memory");
    }

    #[test]
    fn what_had_to_go_before_the_rest_is_told() {
        let engine = Engine::for_tests(usize::MAX);
        let queue = engine.declare_queue("q", false).unwrap();
        let mut batch = engine.batch(&queue).unwrap();
        let body = [7; 10_000];
        while batch.pace().is_none() {
            batch.add(&message(&body)).unwrap();
            assert!(batch.added < 100, "a batch is bounded");
        }
        let gone = batch.committed();
        assert_eq!(gone, batch.added);
        batch.add(&message(b"x")).unwrap();
        assert_eq!(batch.committed(), gone);
        drop(batch);
        assert_eq!(engine.take(&queue, 100, usize::MAX).len(), gone);
        let mut batch = engine.batch(&queue).unwrap();
        batch.add(&message(b"x")).unwrap();
        batch.commit().unwrap();
        assert_eq!(batch.committed(), 1);
    }

    #[test]
    fn a_queue_that_is_gone_takes_nothing() {
        let engine = Engine::for_tests(usize::MAX);
        let queue = engine.declare_queue("q", false).unwrap();
        engine.delete_queue(&queue);
        let mut batch = engine.batch(&queue).unwrap();
        assert!(matches!(
            batch.add(&message(b"1")),
            Err(EngineError::NoQueue(_))
        ));
        assert_eq!(batch.committed(), 0);
    }
}
