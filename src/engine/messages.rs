//! Single messages for people and their tools: one is published, a few are looked at or taken.

use backbone_broker::Error;
use backbone_broker::counters::add;
use backbone_broker::durable::Trouble;
use backbone_broker::firehose::Party;
use backbone_broker::publisher::{Publisher, Routed};
use backbone_broker::record::{self, Content};
use backbone_wire::properties::Properties;
use serde_json::{Map, Value};

use super::acting::{Acting, Refusal, check_short};
use super::properties::{from_json, to_json};
use super::{EngineError, Taken, now_ms};

/// Messages that one call takes at most.
const MESSAGES_MAX: usize = 10_000;
/// Bytes of messages that one call takes at most, but always one message.
const BYTES_MAX: usize = 64 << 20;
/// Where answers go that a connection waits for, which nobody here does.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// What becomes of messages that were taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// They are gone.
    Done,
    /// They go back to their places.
    Requeue,
    /// They are rejected: dead letters, where the queue has somewhere to send these.
    Reject,
}

/// A message that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Got {
    /// The exchange that brought it, empty for the default exchange.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// It was handed out before and came back.
    pub redelivered: bool,
    /// Ready messages that were left behind it.
    pub left: u64,
    /// Its properties.
    pub properties: Map<String, Value>,
    /// How long its body is.
    pub body_len: usize,
    /// The body, or the beginning of it that was asked for.
    pub body: Vec<u8>,
}

impl Acting {
    /// Publishes a message. True: at least one queue took it. It is as safe then as its queues' levels say.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: &Map<String, Value>,
        body: &[u8],
    ) -> Result<bool, Refusal> {
        let gate = &self.engine.0.gate;
        if let Some(trouble) = gate.trouble() {
            return Err(EngineError::Paused(trouble).into());
        }
        let properties = from_json(properties).map_err(Refusal::Values)?;
        self.check_sender(Properties::assume_checked(&properties))?;
        check_short(exchange)?;
        check_short(key)?;
        let mut names = Vec::with_capacity(2 + exchange.len() + key.len());
        record::write_names(&mut names, exchange.as_bytes(), key.as_bytes());
        let mut header = Vec::with_capacity(256);
        record::write_header(&mut header, body.len(), &properties);
        let content = Content {
            names: &names,
            header: &header,
            body,
        };
        let (routed, promise) = {
            let mut publisher = Publisher::new(self.vhost.clone(), self.origin.clone());
            let routed = publisher.publish(content, now_ms())?;
            if self.vhost.is_traced() {
                publisher.trace_published(self.party(), content, now_ms());
            }
            publisher.commit();
            if publisher.is_stalled() {
                publisher.discard();
                let trouble = gate.trouble().unwrap_or(Trouble::Disk);
                return Err(EngineError::Paused(trouble).into());
            }
            (routed, publisher.promise())
        };
        let counters = self.vhost.counters();
        add(&counters.messages_received, 1);
        if routed == Routed::Nowhere {
            add(&counters.messages_unroutable_returned, 1);
        }
        self.engine.kept(promise).await?;
        Ok(routed == Routed::Queues)
    }

    /// Who this is, in traces.
    fn party(&self) -> Party<'_> {
        Party {
            connection: "",
            channel: 0,
            user: &self.origin.user,
        }
    }

    /// That a message says nothing false of its sender, and asks for no answer that could not come.
    fn check_sender(&self, properties: Properties<'_>) -> Result<(), Error> {
        let user = &self.origin.user;
        if let Some(named) = properties.user_id()
            && named.as_bytes() != user.as_bytes()
            && !self.origin.access.is_impersonator()
        {
            let named = String::from_utf8_lossy(named.as_bytes());
            return Err(Error::precondition_failed(format!(
                "user_id property set to '{named}' but authenticated user was '{user}'"
            )));
        }
        let asks = properties.reply_to();
        if asks.is_some_and(|asks| asks.as_bytes() == REPLY_TO.as_bytes()) {
            let text = "fast reply consumer does not exist";
            return Err(Error::precondition_failed(text));
        }
        Ok(())
    }

    /// Takes up to `count` of the oldest messages out of a queue, with at most `body_max` bytes of each body.
    ///
    /// # Errors
    /// As over AMQP.
    pub fn get(
        &self,
        queue: &str,
        count: usize,
        body_max: usize,
        afterwards: Afterwards,
    ) -> Result<Vec<Got>, Refusal> {
        let queue = self.allowed().readable(queue)?;
        let count = count.min(MESSAGES_MAX);
        let taken = Taken::by_operator(&self.vhost, &queue, count, BYTES_MAX);
        if self.vhost.is_traced() {
            let (entries, now_ms) = (taken.entries(), now_ms());
            let by = self.party();
            self.vhost.trace_deliveries(by, &queue, entries, now_ms);
        }
        let got = (0..taken.len()).map(|index| taken.look(index, body_max));
        let got: Vec<Got> = got.collect();
        let counters = self.vhost.counters();
        match got.len() as u64 {
            0 if count > 0 => add(&counters.messages_get_empty, 1),
            taken => add(&counters.messages_delivered_get_manual_ack, taken),
        }
        match afterwards {
            Afterwards::Done => {
                add(&counters.messages_acknowledged, got.len() as u64);
                taken.settle();
            }
            Afterwards::Requeue => drop(taken),
            Afterwards::Reject => taken.reject(),
        }
        Ok(got)
    }
}

impl Taken {
    /// What message number `index` says, below [`Taken::len`].
    fn look(&self, index: usize, body_max: usize) -> Got {
        let behind = (self.len() - 1 - index) as u64;
        self.with_record(index, |entry, record| Got {
            exchange: String::from_utf8_lossy(record.exchange()).into_owned(),
            routing_key: String::from_utf8_lossy(record.routing_key()).into_owned(),
            redelivered: entry.redelivered(),
            left: self.left() + behind,
            properties: to_json(record.properties()),
            body_len: record.body.len(),
            body: record.body[..record.body.len().min(body_max)].to_vec(),
        })
    }
}
