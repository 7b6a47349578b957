//! What holds for a queue's messages and its life.

use std::sync::Arc;

use backbone_wire::table::{Table, Value};

use super::arguments::QueueType;

/// What happens to messages for which a queue has no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest ready ones go.
    #[default]
    DropHead,
    /// The new ones are refused.
    Reject,
    /// The new ones are refused, and are dead letters.
    RejectToDeadLetters,
}

/// Where a queue's dead letters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterTo {
    /// The exchange that they are published to.
    pub exchange: Box<[u8]>,
    /// The routing key that they get; else they keep theirs.
    pub key: Option<Box<[u8]>>,
}

/// The settings of a queue. They can be replaced while it is in use ([`super::Queue::apply`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long a message may wait, in ms.
    pub message_ttl_ms: Option<u64>,
    /// How long the queue may be unused, in ms.
    pub expires_ms: Option<u64>,
    /// Ready messages.
    pub messages_max: Option<u64>,
    /// Bytes of their bodies.
    pub bytes_max: Option<u64>,
    /// What happens beyond.
    pub overflow: Option<Overflow>,
    /// Where dead letters go; without it they are dropped.
    pub dead_letters: Option<Arc<DeadLetterTo>>,
    /// How often a message may come back.
    pub delivery_limit: Option<u64>,
    /// Of a level of a priority queue that has limits of length: messages that come have these looked at.
    pub part: bool,
    /// The same, and there is a limit to bytes.
    pub weighed: bool,
    /// Within how many ms a delivery has to be acknowledged.
    pub consumer_timeout_ms: Option<u64>,
}

impl Settings {
    /// What a queue's arguments say, with what policies lay over them ([`crate::policy::effective`]). What a declare would not
    /// take is passed over.
    pub fn of(arguments: Table<'_>) -> Self {
        let number = |name: &str| u64::try_from(arguments.get(name)?.as_i64()?).ok();
        let text = |name: &str| match arguments.get(name)? {
            Value::LongStr(text) => Some(Box::<[u8]>::from(text)),
            _ => None,
        };
        let quorum = QueueType::of(arguments) == QueueType::Quorum;
        Self {
            message_ttl_ms: number("x-message-ttl"),
            expires_ms: number("x-expires").filter(|ms| *ms > 0),
            messages_max: number("x-max-length"),
            bytes_max: number("x-max-length-bytes"),
            overflow: text("x-overflow").and_then(|name| match &*name {
                b"drop-head" => Some(Overflow::DropHead),
                b"reject-publish" => Some(Overflow::Reject),
                b"reject-publish-dlx" => Some(Overflow::RejectToDeadLetters),
                _ => None,
            }),
            dead_letters: text("x-dead-letter-exchange").map(|exchange| {
                let key = text("x-dead-letter-routing-key");
                Arc::new(DeadLetterTo { exchange, key })
            }),
            delivery_limit: number("x-delivery-limit").filter(|_| quorum),
            part: false,
            weighed: false,
            consumer_timeout_ms: number("x-consumer-timeout").filter(|ms| *ms > 0),
        }
    }

    /// What a level of a priority queue does: without what holds for all of them together.
    #[must_use]
    pub(super) fn of_level(&self) -> Self {
        Self {
            part: self.has_room_limit(),
            weighed: self.bytes_max.is_some(),
            messages_max: None,
            bytes_max: None,
            expires_ms: None,
            consumer_timeout_ms: None,
            ..self.clone()
        }
    }

    /// What happens to messages for which there is no room.
    pub fn overflow(&self) -> Overflow {
        self.overflow.unwrap_or_default()
    }

    /// Whether bytes of bodies are counted.
    pub(super) fn weighs(&self) -> bool {
        self.bytes_max.is_some() || self.weighed
    }

    /// Whether there is a limit to what may be ready.
    pub fn has_room_limit(&self) -> bool {
        self.messages_max.is_some() || self.bytes_max.is_some()
    }
}

#[cfg(test)]
mod tests {
    use backbone_wire::table::TableBuf;

    use super::*;

    #[test]
    fn a_delivery_limit_is_for_quorum_queues() {
        let mut table = TableBuf::new();
        table.put("x-delivery-limit", &Value::I32(3));
        assert_eq!(Settings::of(table.as_table()).delivery_limit, None);
        table.put("x-queue-type", &Value::from("quorum"));
        assert_eq!(Settings::of(table.as_table()).delivery_limit, Some(3));
    }

    #[test]
    fn what_no_declare_would_take_is_passed_over() {
        let mut table = TableBuf::new();
        table
            .put("x-message-ttl", &Value::I32(-1))
            .put("x-max-length", &Value::from("7"))
            .put("x-overflow", &Value::from("?"))
            .put("x-expires", &Value::I32(0));
        assert_eq!(Settings::of(table.as_table()), Settings::default());
    }
}
