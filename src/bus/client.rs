//! The actor of one client: forwards what waits in its outbox and notify queue, and makes changes to its
//! record one after another.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::movers::Movers;
use super::topology::ClientQueues;
use super::{BusError, ClientPatch, ClientRecord, Shared};
use crate::actor::{self, Actor, Context, Handle, Reply, Start, Turn};
use crate::auth::{Secret, SecretHash, generate_secret};
use crate::state::Table;

/// What is known of a client; outlives its actor's panics.
pub(super) struct Client {
    record: ArcSwap<ClientRecord>,
    queues: ClientQueues,
    paused: AtomicBool,
}

impl Client {
    pub fn new(record: ClientRecord, queues: ClientQueues) -> Self {
        Self {
            record: ArcSwap::from_pointee(record),
            queues,
            paused: AtomicBool::new(false),
        }
    }

    /// Whether it may not send and receive.
    pub fn is_disabled(&self) -> bool {
        self.record.load().login.disabled
    }

    /// The record now in force.
    pub fn record(&self) -> Arc<ClientRecord> {
        self.record.load_full()
    }
}

impl Deref for Client {
    type Target = ClientQueues;

    fn deref(&self) -> &ClientQueues {
        &self.queues
    }
}

/// Keeps one client's movers and its changes in order.
pub(super) struct ClientActor {
    shared: Arc<Shared>,
    client: Arc<Client>,
    movers: Option<Movers>,
    /// When the actor will look next whether the old secret is over, seconds of Unix time.
    watched_s: Option<u64>,
}

/// What can be asked of a client's actor.
pub(super) enum ClientMessage {
    /// Change the record.
    Update(ClientPatch, Reply<Result<Arc<ClientRecord>, BusError>>),
    /// Make a new secret; the old one counts for some time yet.
    RotateSecret(
        Duration,
        Reply<Result<(Arc<ClientRecord>, Secret), BusError>>,
    ),
    /// An old secret may be over.
    LookAtOldSecret,
    /// Stop moving (true) or go on.
    Pause(bool, Reply<()>),
}

/// Starts the actor of `client`; the clients share the arbiters evenly.
pub(super) fn start(shared: &Arc<Shared>, client: &Arc<Client>) -> Handle<ClientActor> {
    let turn = client.inbox.id() as usize % shared.arbiters.len();
    let arbiter = shared.arbiters[turn].clone();
    let (shared, client) = (Arc::clone(shared), Arc::clone(client));
    actor::start(Start::on(arbiter), move || ClientActor {
        shared: Arc::clone(&shared),
        client: Arc::clone(&client),
        movers: None,
        watched_s: None,
    })
}

impl Actor for ClientActor {
    type Message = ClientMessage;

    const KIND: &'static str = "bus_client";

    fn started(&mut self, ctx: &mut Context<'_, Self>) {
        let queues = [&self.client.outbox, &self.client.notify];
        let mut movers = Movers::new(&self.shared.engine, &queues, ctx.bell());
        if !self.client.paused.load(Ordering::Relaxed) {
            movers.resume();
        }
        self.movers = Some(movers);
        self.watch_old_secret(ctx);
    }

    fn handle(&mut self, message: ClientMessage, ctx: &mut Context<'_, Self>) {
        match message {
            ClientMessage::Update(patch, reply) => self.update(patch, reply, ctx),
            ClientMessage::RotateSecret(grace, reply) => self.rotate_secret(grace, reply, ctx),
            ClientMessage::LookAtOldSecret => {
                self.watched_s = None;
                // Whoever uses one that counts is left alone.
                let id = &self.client.record().client_id;
                (self.shared.disconnect)(id, "the client's old secret is over");
                self.watch_old_secret(ctx);
            }
            ClientMessage::Pause(paused, reply) => {
                self.client.paused.store(paused, Ordering::Relaxed);
                match (&mut self.movers, paused) {
                    (Some(movers), true) => movers.pause(),
                    (Some(movers), false) => movers.resume(),
                    (None, _) => {}
                }
                reply.send(());
            }
        }
    }

    fn woken(&mut self, _: &mut Context<'_, Self>) -> Turn {
        self.movers.as_mut().map_or(Turn::Done, Movers::step)
    }
}

impl ClientActor {
    fn update(
        &mut self,
        patch: ClientPatch,
        reply: Reply<Result<Arc<ClientRecord>, BusError>>,
        ctx: &mut Context<'_, Self>,
    ) {
        let old = self.client.record();
        let mut new = ClientRecord::clone(&old);
        patch.apply(&mut new);
        self.store(new, ctx, move |this, stored, ctx| {
            let engine = this.shared.engine.clone();
            let changed = stored.and_then(|new| {
                if new.login.disabled {
                    (this.shared.disconnect)(&new.client_id, "the client is disabled");
                }
                this.client.change(&engine, &old, &new)?;
                Ok(new)
            });
            let settled = async move { engine.settled().await };
            ctx.wait(settled, |_, settled, _| {
                reply.send(changed.and_then(|new| Ok(settled.map(|()| new)?)));
            });
        });
    }

    fn rotate_secret(
        &mut self,
        grace: Duration,
        reply: Reply<Result<(Arc<ClientRecord>, Secret), BusError>>,
        ctx: &mut Context<'_, Self>,
    ) {
        let secret = generate_secret();
        let mut new = ClientRecord::clone(&self.client.record());
        new.login.rotate(SecretHash::of(&secret), grace);
        self.store(new, ctx, move |this, stored, ctx| {
            let rotated = stored.map(|new| {
                this.watch_old_secret(ctx);
                (this.shared.disconnect)(&new.client_id, "the client's secret was changed");
                (new, secret)
            });
            reply.send(rotated);
        });
    }

    /// Looks again when the old secret, if there is one, is over. A look that is due before then is enough, since it
    /// comes here again: who rotates in a loop does not fill memory with timers.
    fn watch_old_secret(&mut self, ctx: &mut Context<'_, Self>) {
        let record = self.client.record();
        let old = record.login.old_secret.as_ref();
        let Some((old, left)) = old.and_then(|old| Some((old, old.left()?))) else {
            return;
        };
        if self
            .watched_s
            .is_none_or(|watched_s| old.ends_s < watched_s)
        {
            self.watched_s = Some(old.ends_s);
            ctx.after(left, ClientMessage::LookAtOldSecret);
        }
    }

    /// Writes a record to the state store; it is in force when `then` runs. Messages wait meanwhile.
    fn store(
        &mut self,
        record: ClientRecord,
        ctx: &mut Context<'_, Self>,
        then: impl FnOnce(&mut Self, Result<Arc<ClientRecord>, BusError>, &mut Context<'_, Self>)
        + 'static,
    ) {
        let (state, record) = (self.shared.state.clone(), Arc::new(record));
        let work = async move {
            let stored = state.put(Table::Clients, &record.client_id, &*record).await;
            stored.map(|()| record).map_err(BusError::from)
        };
        ctx.wait(work, |this, stored, ctx| {
            if let Ok(record) = &stored {
                this.client.record.store(Arc::clone(record));
                let auth = &this.shared.auth;
                auth.put_client(&record.client_id, &record.login);
            }
            then(this, stored, ctx);
        });
    }
}
