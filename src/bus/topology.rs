//! Names, and what is declared for the bus and for each client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{BusError, ClientRecord};
use crate::engine::{Engine, ExchangeKind, Flow, FlowCounters, Queue};

/// The queue that all outboxes are forwarded to, and the topic exchange behind it.
pub(super) const PUBLISH: &str = "soar-publish";
/// The queue that all notify queues are forwarded to, and the fanout exchange behind it.
pub(super) const BROADCAST: &str = "soar-broadcast";
/// The queue for what cannot be moved on.
const DEAD_LETTER: &str = "soar-dead-letter";
/// A flow that nobody in particular sends through excludes the inbox of nobody: queue ids begin at one.
const NO_INBOX: u64 = 0;

/// The bus's own queues.
pub(super) struct Backbone {
    /// `soar-publish`.
    pub publish: Arc<Queue>,
    /// `soar-broadcast`.
    pub broadcast: Arc<Queue>,
    /// `soar-dead-letter`.
    pub dead_letter: Arc<Queue>,
}

impl Backbone {
    /// Declares the bus's queues and exchanges and installs the flows between them.
    pub fn declare(engine: &Engine, lenient: bool) -> Result<Self, BusError> {
        engine.declare_exchange(PUBLISH, ExchangeKind::Topic, lenient)?;
        engine.declare_exchange(BROADCAST, ExchangeKind::Fanout, lenient)?;
        let backbone = Self {
            publish: engine.declare_queue(PUBLISH, lenient)?,
            broadcast: engine.declare_queue(BROADCAST, lenient)?,
            dead_letter: engine.declare_queue(DEAD_LETTER, lenient)?,
        };
        for (queue, needs_topic) in [(&backbone.publish, true), (&backbone.broadcast, false)] {
            let flow = Flow {
                via: None,
                exchange: Arc::clone(queue.name()),
                needs_topic,
                sender: None,
                dead_letters: Arc::clone(&backbone.dead_letter),
                exclude_own: AtomicBool::new(false),
                own_inbox: NO_INBOX,
                counters: FlowCounters::default(),
            };
            engine.install_flow(queue, Arc::new(flow));
        }
        Ok(backbone)
    }

    /// All of them.
    pub fn queues(&self) -> [&Arc<Queue>; 3] {
        [&self.publish, &self.broadcast, &self.dead_letter]
    }
}

/// The queues and flows of one client.
pub(super) struct ClientQueues {
    pub outbox: Arc<Queue>,
    pub notify: Arc<Queue>,
    pub inbox: Arc<Queue>,
    pub publish_flow: Arc<Flow>,
    pub broadcast_flow: Arc<Flow>,
}

impl ClientQueues {
    /// Declares the client's queues, binds its inbox and installs its flows. Whatever was made is taken
    /// back if something fails.
    pub fn declare(
        engine: &Engine,
        backbone: &Backbone,
        record: &ClientRecord,
        lenient: bool,
    ) -> Result<Self, BusError> {
        let id = record.client_id.as_str();
        let names = queue_names(id);
        if let Some(taken) = names.iter().find(|name| engine.queue(name).is_some()) {
            return Err(BusError::Conflict(format!(
                "there is a queue {taken} already: delete it, or choose another client_id"
            )));
        }
        let mut made = Vec::new();
        let outcome = Self::declare_all(engine, backbone, record, lenient, &mut made);
        if outcome.is_err() {
            made.iter().for_each(|queue| engine.delete_queue(queue));
        }
        outcome
    }

    /// Finds the client's queues and bindings that the broker brought back from the log, makes what is missing, and installs the
    /// flows. `bound` are the patterns that the inbox is bound with: those that the record has not are what was left of a change
    /// when the server ended.
    pub fn bring_back(
        engine: &Engine,
        backbone: &Backbone,
        record: &ClientRecord,
        lenient: bool,
        bound: &[String],
    ) -> Result<Self, BusError> {
        let queues = Self::declare_all(engine, backbone, record, lenient, &mut Vec::new())?;
        for pattern in bound {
            if !record.subscriptions.contains(pattern) {
                engine.unbind(&queues.inbox, PUBLISH, pattern)?;
            }
        }
        Ok(queues)
    }

    fn declare_all(
        engine: &Engine,
        backbone: &Backbone,
        record: &ClientRecord,
        lenient: bool,
        made: &mut Vec<Arc<Queue>>,
    ) -> Result<Self, BusError> {
        let [outbox, notify, alias, inbox] = queue_names(&record.client_id);
        let mut declare = |name: &str| -> Result<Arc<Queue>, BusError> {
            let queue = engine.declare_queue(name, lenient)?;
            made.push(Arc::clone(&queue));
            Ok(queue)
        };
        let (outbox, notify, inbox) = (declare(&outbox)?, declare(&notify)?, declare(&inbox)?);
        if !engine.alias_queue(&alias, &notify) {
            return Err(BusError::Conflict(format!(
                "there is a queue {alias} already"
            )));
        }
        engine.bind(&inbox, BROADCAST, "")?;
        for pattern in &record.subscriptions {
            engine.bind(&inbox, PUBLISH, pattern)?;
        }
        let flow = |exchange: &Arc<Queue>, needs_topic| {
            Arc::new(Flow {
                via: Some(Arc::clone(exchange)),
                exchange: Arc::clone(exchange.name()),
                needs_topic,
                sender: Some(record.client_id.as_str().into()),
                dead_letters: Arc::clone(&backbone.dead_letter),
                exclude_own: AtomicBool::new(record.exclude_own),
                own_inbox: inbox.id(),
                counters: FlowCounters::default(),
            })
        };
        let publish_flow = flow(&backbone.publish, true);
        let broadcast_flow = flow(&backbone.broadcast, false);
        engine.install_flow(&outbox, Arc::clone(&publish_flow));
        engine.install_flow(&notify, Arc::clone(&broadcast_flow));
        engine.exclude_own(&record.client_id, &inbox, record.exclude_own);
        Ok(Self {
            outbox,
            notify,
            inbox,
            publish_flow,
            broadcast_flow,
        })
    }

    /// Changes bindings and flags from what `old` says to what `new` says. What is new is bound before
    /// what is old ends, so that a message that both want arrives once.
    pub fn change(
        &self,
        engine: &Engine,
        old: &ClientRecord,
        new: &ClientRecord,
    ) -> Result<(), BusError> {
        let missing_in =
            |record: &ClientRecord, pattern: &&String| !record.subscriptions.contains(*pattern);
        for pattern in new
            .subscriptions
            .iter()
            .filter(|pattern| missing_in(old, pattern))
        {
            engine.bind(&self.inbox, PUBLISH, pattern)?;
        }
        for pattern in old
            .subscriptions
            .iter()
            .filter(|pattern| missing_in(new, pattern))
        {
            engine.unbind(&self.inbox, PUBLISH, pattern)?;
        }
        for flow in [&self.publish_flow, &self.broadcast_flow] {
            flow.exclude_own.store(new.exclude_own, Ordering::Relaxed);
        }
        engine.exclude_own(&new.client_id, &self.inbox, new.exclude_own);
        Ok(())
    }

    /// Deletes the client's queues with their bindings and messages.
    pub fn delete(&self, engine: &Engine, client_id: &str) {
        for queue in [&self.outbox, &self.notify, &self.inbox] {
            engine.delete_queue(queue);
        }
        engine.exclude_own(client_id, &self.inbox, false);
    }
}

/// The queues of a client: outbox, notify, its alias broadcast, inbox.
pub(super) fn queue_names(client_id: &str) -> [String; 4] {
    ["outbox", "notify", "broadcast", "inbox"].map(|role| format!("{client_id}-{role}"))
}

/// The bus's own queues.
#[cfg(test)]
pub(super) const OWN_QUEUES: [&str; 3] = [PUBLISH, BROADCAST, DEAD_LETTER];
