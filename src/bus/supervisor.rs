//! The supervisor: adds and removes clients, one at a time, and brings all of them back at start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::client::{self, Client};
use super::topology::{ClientQueues, PUBLISH, queue_names};
use super::{BusError, CLIENTS_MAX, ClientRecord, NewClient, Registered, Shared, check_client_id};
use crate::actor::{Actor, Context, Reply};
use crate::auth::{ClientLogin, Secret, SecretHash, generate_secret};
use crate::state::{StateError, Table};

/// The one actor that changes the registry.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
}

/// What can be asked of the supervisor.
pub(super) enum SupervisorMessage {
    /// Register a client.
    Create(NewClient, Reply<Result<(ClientRecord, Secret), BusError>>),
    /// Remove a client.
    Delete(String, Reply<Result<(), BusError>>),
}

/// Brings back every client of the state store. What else of the bus's the broker brought back from the log was left when
/// the server ended between the two, and goes: the state store says which clients there are.
pub(super) async fn start_stored_clients(shared: &Arc<Shared>) -> Result<(), BusError> {
    let engine = &shared.engine;
    let mut bound: HashMap<String, Vec<String>> = HashMap::new();
    for (queue, pattern) in engine.bound_to(PUBLISH) {
        bound.entry(queue).or_default().push(pattern);
    }
    let own = shared.backbone.queues().map(|queue| queue.id());
    let mut known: HashSet<u64> = HashSet::from(own);
    for (_, record) in shared.state.list::<ClientRecord>(Table::Clients).await? {
        let [.., inbox] = queue_names(&record.client_id);
        let bound = bound.remove(&inbox).unwrap_or_default();
        let queues =
            ClientQueues::bring_back(engine, &shared.backbone, &record, shared.lenient, &bound)?;
        known.extend([&queues.outbox, &queues.notify, &queues.inbox].map(|queue| queue.id()));
        register(shared, record, queues);
    }
    let all = engine.own_queues().into_iter();
    for left in all.filter(|queue| !known.contains(&queue.id())) {
        tracing::warn!(queue = &**left.name(), "belongs to no client: deleted");
        engine.delete_queue(&left);
    }
    Ok(engine.settled().await?)
}

impl Supervisor {
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    fn create(
        &mut self,
        new: NewClient,
        reply: Reply<Result<(ClientRecord, Secret), BusError>>,
        ctx: &mut Context<'_, Self>,
    ) {
        if reply.is_abandoned() {
            // Nobody would ever learn the secret.
            return;
        }
        let secret = generate_secret();
        let record = match self.record(new, &secret) {
            Ok(record) => record,
            Err(error) => return reply.send(Err(error)),
        };
        // Before the disk, because only this can still be refused.
        let queues = match declare(&self.shared, &record) {
            Ok(queues) => queues,
            Err(error) => return reply.send(Err(error)),
        };
        let (state, stored) = (self.shared.state.clone(), record.clone());
        let engine = self.shared.engine.clone();
        let work = async move {
            engine.settled().await?;
            let id = &stored.client_id;
            let new = state.put_new(Table::Clients, id, &stored).await?;
            Ok::<bool, BusError>(new)
        };
        ctx.wait(work, move |this, stored, _| {
            let id = record.client_id.as_str();
            let refused = match stored {
                Ok(true) => {
                    register(&this.shared, record.clone(), queues);
                    this.shared.auth.put_client(id, &record.login);
                    return reply.send(Ok((record, secret)));
                }
                Ok(false) => taken(id),
                Err(error) => error,
            };
            queues.delete(&this.shared.engine, id);
            reply.send(Err(refused));
        });
    }

    /// The record of a new client, its id made if it has none.
    fn record(&self, new: NewClient, secret: &Secret) -> Result<ClientRecord, BusError> {
        if self.shared.clients.len() >= CLIENTS_MAX {
            return Err(BusError::TooManyClients);
        }
        let client_id = match &new.client_id {
            Some(id) => {
                check_client_id(id)?;
                if self.is_taken(id) {
                    return Err(taken(id));
                }
                id.clone()
            }
            None => self.free_id(&new),
        };
        Ok(ClientRecord {
            client_name: new.client_name.unwrap_or_else(|| client_id.clone()),
            client_id,
            subscriptions: new.subscriptions,
            exclude_own: new.exclude_own,
            webhook_url: new.webhook_url,
            login: ClientLogin {
                disabled: new.disabled,
                ..ClientLogin::with(SecretHash::of(secret))
            },
        })
    }

    /// An id from the client's name, or a random one; unique in any case.
    fn free_id(&self, new: &NewClient) -> String {
        let base = new.id_from_name();
        if let Some(id) = base.as_ref().filter(|id| !self.is_taken(id)) {
            return id.clone();
        }
        let base = base.unwrap_or_else(|| "client".to_owned());
        loop {
            let random = uuid::Uuid::new_v4().as_u128() as u32;
            let id = format!("{base}-{random:08x}");
            if !self.is_taken(&id) {
                return id;
            }
        }
    }

    fn is_taken(&self, id: &str) -> bool {
        self.shared.clients.contains_key(id) || self.shared.auth.is_reserved(id)
    }

    fn delete(
        &mut self,
        id: String,
        reply: Reply<Result<(), BusError>>,
        ctx: &mut Context<'_, Self>,
    ) {
        let Some(found) = self
            .shared
            .clients
            .get(id.as_str())
            .map(|entry| entry.clone())
        else {
            return reply.send(Err(BusError::NoClient(id)));
        };
        let (state, key) = (self.shared.state.clone(), id.clone());
        let Registered { client, actor } = found;
        let work = async move {
            // Changes that were accepted before are made before; none comes after.
            actor.stop().await;
            state.delete(Table::Clients, &key).await
        };
        ctx.wait(
            work,
            move |this, deleted: Result<bool, StateError>, ctx| match deleted {
                Ok(_) => {
                    unregister(&this.shared, &id);
                    let engine = this.shared.engine.clone();
                    let settled = async move { engine.settled().await };
                    ctx.wait(settled, |_, settled, _| {
                        reply.send(settled.map_err(BusError::from));
                    });
                }
                Err(error) => {
                    let actor = client::start(&this.shared, &client);
                    let id = Arc::from(id);
                    this.shared.clients.insert(id, Registered { client, actor });
                    reply.send(Err(error.into()));
                }
            },
        );
    }
}

impl Actor for Supervisor {
    type Message = SupervisorMessage;

    const KIND: &'static str = "bus_supervisor";

    fn handle(&mut self, message: SupervisorMessage, ctx: &mut Context<'_, Self>) {
        match message {
            SupervisorMessage::Create(new, reply) => self.create(new, reply, ctx),
            SupervisorMessage::Delete(id, reply) => self.delete(id, reply, ctx),
        }
    }
}

fn declare(shared: &Shared, record: &ClientRecord) -> Result<ClientQueues, BusError> {
    ClientQueues::declare(&shared.engine, &shared.backbone, record, shared.lenient)
}

/// Starts a client's actor and lets the client be found.
fn register(shared: &Arc<Shared>, record: ClientRecord, queues: ClientQueues) {
    let id: Arc<str> = record.client_id.as_str().into();
    let client = Arc::new(Client::new(record, queues));
    let actor = client::start(shared, &client);
    shared.clients.insert(id, Registered { client, actor });
}

/// The opposite of [`register`], and the end of the client's rights.
fn unregister(shared: &Shared, id: &str) {
    shared.auth.remove_client(id);
    if let Some((_, Registered { client, .. })) = shared.clients.remove(id) {
        (shared.disconnect)(id, "the client was deleted");
        client.delete(&shared.engine, id);
        shared.counters.retire(&client);
    }
}

fn taken(id: &str) -> BusError {
    BusError::Conflict(format!("the client_id {id} is taken"))
}
