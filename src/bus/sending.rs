//! Messages into a client's outbox or notify queue.

use super::{Bus, BusError, Payload, check_topic, envelope};
use crate::engine::{Batch, Outgoing, Queue};

/// Messages in one call at most.
pub const BATCH_MESSAGES_MAX: usize = 10_000;

/// A message to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// What it is about.
    pub topic: Option<&'a str>,
    /// What is sent.
    pub payload: Payload<'a>,
}

impl Bus {
    /// Puts messages into the client's outbox, in their order; returns their ids once the broker has them all.
    ///
    /// # Errors
    /// As [`Bus::send`]. If the broker stops taking messages in the middle, the text says how many it has.
    ///
    /// # Panics
    /// There are more than [`BATCH_MESSAGES_MAX`].
    pub async fn send_all(
        &self,
        client_id: &str,
        messages: &[Message<'_>],
    ) -> Result<Vec<String>, BusError> {
        for message in messages {
            check_topic(message.topic.unwrap_or_default())?;
        }
        let client = self.enabled(client_id)?;
        self.put_all(&client.outbox, messages).await
    }

    /// Puts messages for everybody into the client's notify queue, as [`Bus::send_all`].
    ///
    /// # Errors
    /// As [`Bus::send_all`].
    ///
    /// # Panics
    /// There are more than [`BATCH_MESSAGES_MAX`].
    pub async fn notify_all(
        &self,
        client_id: &str,
        messages: &[Message<'_>],
    ) -> Result<Vec<String>, BusError> {
        for topic in messages.iter().filter_map(|message| message.topic) {
            check_topic(topic)?;
        }
        let client = self.enabled(client_id)?;
        self.put_all(&client.notify, messages).await
    }

    /// One message.
    pub(super) async fn put(
        &self,
        queue: &Queue,
        message: Message<'_>,
    ) -> Result<String, BusError> {
        let (id, mut enveloped) = (new_id(), Vec::new());
        let outgoing = outgoing(message, &id, &mut enveloped);
        let promise = self.shared.engine.publish(queue, &outgoing)?;
        self.shared.engine.kept(promise).await?;
        self.shared.counters.sent(1);
        Ok(id)
    }

    async fn put_all(
        &self,
        queue: &Queue,
        messages: &[Message<'_>],
    ) -> Result<Vec<String>, BusError> {
        assert!(
            messages.len() <= BATCH_MESSAGES_MAX,
            "whoever takes a batch looks at its size first"
        );
        let engine = &self.shared.engine;
        let (mut ids, mut enveloped) = (Vec::with_capacity(messages.len()), Vec::new());
        let mut batch = engine.batch(queue)?;
        for message in messages {
            let id = new_id();
            let added = batch.add(&outgoing(*message, &id, &mut enveloped));
            added.map_err(|error| after(&batch, messages.len(), error.into()))?;
            ids.push(id);
            if let Some(pace) = batch.pace() {
                // Others on this thread have waited for a whole batch of the broker, and the log may be behind.
                tokio::task::yield_now().await;
                let kept = engine.kept(pace).await;
                kept.map_err(|error| after(&batch, messages.len(), error.into()))?;
            }
        }
        let promise = batch.commit();
        let promise = promise.map_err(|error| after(&batch, messages.len(), error.into()))?;
        drop(batch);
        engine.kept(promise).await?;
        self.shared.counters.sent(messages.len() as u64);
        Ok(ids)
    }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// What the broker gets of a message; JSON is put into an envelope.
fn outgoing<'a>(message: Message<'a>, id: &'a str, enveloped: &'a mut Vec<u8>) -> Outgoing<'a> {
    let topic = message.topic;
    let (body, content_type, is_envelope) = match message.payload {
        Payload::Json(value) => {
            enveloped.clear();
            enveloped.reserve(value.get().len() + topic.map_or(0, str::len) + 32);
            envelope::wrap(topic, value, enveloped);
            (enveloped.as_slice(), "application/json", true)
        }
        Payload::Raw {
            bytes,
            content_type,
        } => (bytes, content_type, false),
    };
    Outgoing {
        body,
        content_type,
        id,
        topic,
        is_envelope,
    }
}

/// The same error, with what has gone before it.
fn after(batch: &Batch<'_>, count: usize, error: BusError) -> BusError {
    match (batch.committed(), error) {
        (0, error) => error,
        (sent, error) => BusError::Unavailable(format!(
            "only the first {sent} of {count} messages were sent: {error}"
        )),
    }
}
