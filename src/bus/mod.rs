//! The communications bus: clients with an outbox and an inbox each.
//!
//! Owns the registry of clients, their queues, bindings and flows, which are made anew from the state
//! store at every start. What client A puts into `a-outbox` is forwarded to `soar-publish`, published by
//! its topic, and lands in the inboxes whose patterns match; what it puts into `a-notify` takes the
//! parallel way through `soar-broadcast` to every inbox. The rules for the way are data that the broker
//! compiles into routes; the actors here move only what could not go straight through.
//!
//! Invariants:
//! - The supervisor alone adds and removes clients, one at a time; changes of one client go through its
//!   own actor. What is answered is on disk and in force.
//! - A client is in the state store before it can be seen, and gone from it before it cannot be.
//! - A message that was accepted is in exactly one place: a queue, or handed out.

mod acking;
mod client;
pub mod envelope;
mod exchange;
mod idempotency;
mod item;
mod leases;
mod metrics;
mod movers;
mod nesting;
mod push;
mod record;
mod retry;
mod sending;
mod supervisor;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use actix_rt::ArbiterHandle;
use dashmap::DashMap;
use serde_json::value::RawValue;

use crate::actor::{self, AskError, Handle, Reply};
use crate::auth::{Authenticator, Secret};
use crate::config;
use crate::engine::{Engine, EngineError, Taken};
use crate::push::Courier;
use crate::state::{StateError, StateStore};
use crate::telemetry::Samples;
use client::{Client, ClientActor, ClientMessage};
use exchange::BusExchange;
use leases::Leases;
use metrics::BusCounters;
use supervisor::{Supervisor, SupervisorMessage};
use topology::Backbone;

pub use acking::Acknowledged;
pub use idempotency::{Idempotency, KEY_BYTES_MAX, KeyBounds, Turn, fingerprint};
pub use leases::{AckId, LEASED_BYTES_MAX, LEASED_MESSAGES_MAX, Lease};
pub use push::{PushFailure, PushState};
pub use record::*;
pub use sending::{BATCH_MESSAGES_MAX, Message};

/// Clients at most, so that a loop that registers cannot fill memory and disk.
pub const CLIENTS_MAX: usize = 100_000;
/// How long a change may take: it waits for the disk.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which a sender should try again while publishers are paused.
pub const RETRY_AFTER_S: u32 = 1;

/// Tells the AMQP side to end those connections of a client whose logins do not count any more: its id and the reason.
pub type Disconnect = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// Why the bus refused.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A field of the request is not valid.
    #[error("{field} {reason}")]
    Invalid {
        /// The field to blame.
        field: &'static str,
        /// What is wrong, to be read after the field's name.
        reason: String,
    },
    /// There is no such client.
    #[error("there is no client {0}")]
    NoClient(String),
    /// The client is disabled: it neither sends nor receives.
    #[error("the client {0} is disabled")]
    Disabled(String),
    /// The id is taken by another client, an operator or a queue.
    #[error("{0}")]
    Conflict(String),
    /// There are [`CLIENTS_MAX`] clients.
    #[error("there are {CLIENTS_MAX} clients already")]
    TooManyClients,
    /// The client has as many messages unacknowledged as it may have.
    #[error(
        "there are too many messages that were handed out and are neither acknowledged nor over: acknowledge some first"
    )]
    TooManyLeased,
    /// Not now: no message was taken. The text says when a change may have been made all the same.
    #[error("{0}")]
    Unavailable(String),
    /// The state store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The broker failed.
    #[error(transparent)]
    Broker(EngineError),
}

impl From<EngineError> for BusError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Paused(_) | EngineError::QueueFull(_) => {
                Self::Unavailable(error.to_string())
            }
            other => Self::Broker(other),
        }
    }
}

/// What the bus is made of.
pub struct BusParts {
    /// The broker.
    pub engine: Engine,
    /// Where the records live.
    pub state: StateStore,
    /// Where clients' secrets are checked.
    pub auth: Arc<Authenticator>,
    /// The threads that the actors live on, at least one.
    pub arbiters: Vec<ArbiterHandle>,
    /// Ends AMQP connections.
    pub disconnect: Disconnect,
    /// How pushed messages are tried again, and given up.
    pub push: config::Push,
    /// Calls webhooks.
    pub courier: Arc<Courier>,
    /// Whether clients may declare the bus's queues with other properties.
    pub lenient_declare: bool,
    /// How much is kept of calls that were made under a key.
    pub idempotency: KeyBounds,
}

/// A handle on the bus; clones share it.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
    supervisor: Handle<Supervisor>,
    _exchanges: Arc<[Handle<BusExchange>]>,
}

/// What the bus's actors share.
struct Shared {
    engine: Engine,
    state: StateStore,
    auth: Arc<Authenticator>,
    arbiters: Vec<ArbiterHandle>,
    disconnect: Disconnect,
    push: config::Push,
    courier: Arc<Courier>,
    lenient: bool,
    backbone: Backbone,
    clients: DashMap<Arc<str>, Registered>,
    leases: Arc<Leases>,
    idempotency: Idempotency,
    counters: BusCounters,
}

/// A client after a change.
#[derive(Debug, Clone)]
pub struct Changed {
    /// As it is now.
    pub record: Arc<ClientRecord>,
    /// Its webhook's secret was made with this change, and can be shown this once.
    pub has_new_webhook_secret: bool,
}

/// A client in the registry.
#[derive(Clone)]
struct Registered {
    client: Arc<Client>,
    actor: Handle<ClientActor>,
}

/// What a sender gives: JSON, which is put into an envelope, or bytes of another type.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// A JSON value, kept byte for byte.
    Json(&'a RawValue),
    /// Bytes and their content type, at most 255 bytes.
    Raw {
        /// The bytes.
        bytes: &'a [u8],
        /// Their type.
        content_type: &'a str,
    },
}

impl Bus {
    /// Declares the bus's own queues and exchanges, then those of every client in the state store, and
    /// starts all actors.
    ///
    /// # Errors
    /// The state store failed, or a queue of the bus's is there with other properties.
    pub async fn open(parts: BusParts) -> Result<Self, BusError> {
        assert!(
            !parts.arbiters.is_empty(),
            "actors need a thread to live on"
        );
        let backbone = Backbone::declare(&parts.engine, parts.lenient_declare)?;
        let shared = Arc::new(Shared {
            leases: Leases::start(&parts.arbiters[0]),
            idempotency: Idempotency::new(parts.idempotency),
            engine: parts.engine,
            state: parts.state,
            auth: parts.auth,
            arbiters: parts.arbiters,
            disconnect: parts.disconnect,
            push: parts.push,
            courier: parts.courier,
            lenient: parts.lenient_declare,
            backbone,
            clients: DashMap::new(),
            counters: BusCounters::default(),
        });
        let exchanges = exchange::start_all(&shared);
        supervisor::start_stored_clients(&shared).await?;
        let supervised = Arc::clone(&shared);
        let start = actor::Start::on(shared.arbiters[0].clone());
        let supervisor = actor::start(start, move || Supervisor::new(&supervised));
        Ok(Self {
            shared,
            supervisor,
            _exchanges: exchanges.into(),
        })
    }

    /// Registers a client; it works when this returns. The secret can be had only here.
    ///
    /// # Errors
    /// [`BusError::Conflict`] for an id that is taken, [`BusError::Invalid`] for a reserved one,
    /// [`BusError::TooManyClients`], or a failed store.
    pub async fn create_client(&self, new: NewClient) -> Result<(ClientRecord, Secret), BusError> {
        let create = |reply| SupervisorMessage::Create(new, reply);
        let asked = self.supervisor.ask(CHANGE_TIMEOUT, create).await;
        asked.map_err(unanswered)?
    }

    /// Removes a client with its queues, bindings, messages and rights.
    ///
    /// # Errors
    /// [`BusError::NoClient`], or a failed store: the client stays then.
    pub async fn delete_client(&self, client_id: &str) -> Result<(), BusError> {
        let delete = |reply| SupervisorMessage::Delete(client_id.to_owned(), reply);
        let asked = self.supervisor.ask(CHANGE_TIMEOUT, delete).await;
        asked.map_err(unanswered)??;
        self.shared.leases.forget(client_id);
        Ok(())
    }

    /// The record of a client.
    ///
    /// # Errors
    /// [`BusError::NoClient`].
    pub fn client(&self, client_id: &str) -> Result<Arc<ClientRecord>, BusError> {
        Ok(self.registered(client_id)?.client.record())
    }

    /// All records, by id.
    pub fn clients(&self) -> Vec<Arc<ClientRecord>> {
        let clients = &self.shared.clients;
        let mut records: Vec<_> = clients.iter().map(|entry| entry.client.record()).collect();
        records.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
        records
    }

    /// Changes a client. Messages for patterns that stay are neither lost nor doubled.
    ///
    /// # Errors
    /// [`BusError::NoClient`], or a failed store: nothing is changed then.
    pub async fn update_client(
        &self,
        client_id: &str,
        patch: ClientPatch,
    ) -> Result<Changed, BusError> {
        self.ask(client_id, |reply| ClientMessage::Update(patch, reply))
            .await?
    }

    /// Gives a client a new secret to check pushed messages with, which is in the record; the old one ends at once.
    ///
    /// # Errors
    /// [`BusError::NoClient`], [`BusError::Invalid`] for one without a webhook, or a failed store: the old one stays then.
    pub async fn rotate_webhook_secret(
        &self,
        client_id: &str,
    ) -> Result<Arc<ClientRecord>, BusError> {
        self.ask(client_id, ClientMessage::RotateWebhookSecret)
            .await?
    }

    /// How it goes with a client's webhook.
    ///
    /// # Errors
    /// [`BusError::NoClient`].
    pub fn push_state(&self, client_id: &str) -> Result<PushState, BusError> {
        let client = self.registered(client_id)?.client;
        let state = client.push_state.lock().clone();
        Ok(state)
    }

    /// Gives a client a new secret. The old one ends after `grace`, and with it tokens and AMQP connections that were
    /// made with it; one from before that ends at once.
    ///
    /// # Errors
    /// [`BusError::NoClient`], or a failed store: the old secret stays then.
    pub async fn rotate_secret(
        &self,
        client_id: &str,
        grace: Duration,
    ) -> Result<(Arc<ClientRecord>, Secret), BusError> {
        let rotate = |reply| ClientMessage::RotateSecret(grace, reply);
        self.ask(client_id, rotate).await?
    }

    /// Stops (or lets go on) the moving of a client's outbox and notify queue: messages wait there.
    ///
    /// # Errors
    /// [`BusError::NoClient`].
    pub async fn pause(&self, client_id: &str, paused: bool) -> Result<(), BusError> {
        self.ask(client_id, |reply| ClientMessage::Pause(paused, reply))
            .await
    }

    /// Puts a message into the client's outbox; returns its id once the broker has it.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for the topic, [`BusError::Disabled`], [`BusError::Unavailable`] while the broker takes no messages.
    pub async fn send(
        &self,
        client_id: &str,
        topic: &str,
        payload: Payload<'_>,
    ) -> Result<String, BusError> {
        check_topic(topic)?;
        let client = self.enabled(client_id)?;
        self.put(
            &client.outbox,
            Message {
                topic: Some(topic),
                payload,
            },
        )
        .await
    }

    /// Puts a message for everybody into the client's notify queue; the topic is information.
    ///
    /// # Errors
    /// As [`Bus::send`].
    pub async fn notify(
        &self,
        client_id: &str,
        topic: Option<&str>,
        payload: Payload<'_>,
    ) -> Result<String, BusError> {
        topic.map(check_topic).transpose()?;
        let client = self.enabled(client_id)?;
        self.put(&client.notify, Message { topic, payload }).await
    }

    /// Takes the oldest messages out of the client's inbox: at most `messages_max`, and at most
    /// `bytes_max` unless the first alone is larger. They go back if they are dropped unsettled.
    ///
    /// # Errors
    /// [`BusError::NoClient`], [`BusError::Disabled`].
    pub fn receive(
        &self,
        client_id: &str,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Received, BusError> {
        let client = self.enabled(client_id)?;
        let taken = self
            .shared
            .engine
            .take(&client.inbox, messages_max, bytes_max);
        let shared = Arc::clone(&self.shared);
        Ok(Received { taken, shared })
    }

    /// Returns once something is in the client's inbox, or after `patience`; another call may be quicker to
    /// receive it.
    ///
    /// # Errors
    /// There is no such client.
    pub async fn wait_for_message(
        &self,
        client_id: &str,
        patience: Duration,
    ) -> Result<(), BusError> {
        let inbox = Arc::clone(&self.registered(client_id)?.client.inbox);
        self.shared.engine.wait_ready(&inbox, patience).await;
        Ok(())
    }

    /// The keys under which calls are made once.
    pub fn idempotency(&self) -> &Idempotency {
        &self.shared.idempotency
    }

    /// Numbers for metrics.
    pub fn sample(&self, samples: &mut Samples) {
        metrics::sample(&self.shared, samples);
    }

    /// The client, if it may send and receive. One that was disabled while it waited may not any more.
    fn enabled(&self, client_id: &str) -> Result<Arc<Client>, BusError> {
        let client = self.registered(client_id)?.client;
        match client.is_disabled() {
            true => Err(BusError::Disabled(client_id.to_owned())),
            false => Ok(client),
        }
    }

    fn registered(&self, client_id: &str) -> Result<Registered, BusError> {
        let found = self
            .shared
            .clients
            .get(client_id)
            .map(|entry| entry.clone());
        found.ok_or_else(|| BusError::NoClient(client_id.to_owned()))
    }

    async fn ask<T>(
        &self,
        client_id: &str,
        question: impl FnOnce(Reply<T>) -> ClientMessage,
    ) -> Result<T, BusError> {
        let actor = self.registered(client_id)?.actor;
        let asked = actor.ask(CHANGE_TIMEOUT, question).await;
        if asked.is_err() {
            // It may have been deleted meanwhile.
            self.registered(client_id)?;
        }
        asked.map_err(unanswered)
    }
}

/// Messages handed out from an inbox. Dropped without [`Received::settle`] they go back in order.
pub struct Received {
    taken: Taken,
    shared: Arc<Shared>,
}

impl Received {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Appends message number `index`, below [`Received::len`], as a JSON object; of a `lease` with the id for its acknowledgement.
    pub fn write_item(&self, index: usize, lease: Option<&Lease>, out: &mut Vec<u8>) {
        let receipt = lease.map(|lease| item::Receipt {
            ack: lease.ack_id(index),
            redelivered: self.taken.is_redelivered(index),
        });
        write_item(&self.taken, index, receipt, out);
    }

    /// The id of message number `index`, below [`Received::len`].
    pub fn id(&self, index: usize) -> Option<String> {
        self.taken
            .with(index, |message| message.id.map(str::to_owned))
    }

    /// They have reached the client and are gone from its inbox.
    pub fn settle(self) {
        self.shared.counters.received(self.taken.len() as u64);
        self.taken.settle();
    }
}

/// Appends a message, of an inbox, as a JSON object.
fn write_item(taken: &Taken, index: usize, receipt: Option<item::Receipt>, out: &mut Vec<u8>) {
    taken.with(index, |message| {
        let unwrapped = envelope::unwrap(message.body, message.is_envelope, message.content_type);
        let item = item::Item {
            topic: message.topic.or(unwrapped.topic.as_deref()),
            content: unwrapped.content,
            sender: message.sender,
            id: message.id,
            timestamp_s: message.timestamp_s,
            is_broadcast: message.exchange == topology::BROADCAST,
            receipt,
        };
        item.write(out);
    });
}

fn unanswered(error: AskError) -> BusError {
    BusError::Unavailable(match error {
        AskError::Full => format!("the change was not made: {error}"),
        AskError::Timeout | AskError::Dead => {
            format!("whether the change was made is not certain: {error}")
        }
    })
}
