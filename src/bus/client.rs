//! The actor of one client: forwards what waits in its outbox and notify queue, and makes changes to its
//! record one after another.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::movers::Movers;
use super::push::{self, PushActor, PushState};
use super::record::invalid;
use super::topology::ClientQueues;
use super::{BusError, Changed, ClientPatch, ClientRecord, Shared};
use crate::actor::{self, Actor, Context, Handle, Reply, Start, Turn};
use crate::auth::{Secret, SecretHash, generate_secret};
use crate::state::Table;

/// What is known of a client; outlives its actor's panics.
pub(super) struct Client {
    record: ArcSwap<ClientRecord>,
    queues: ClientQueues,
    paused: AtomicBool,
    pub push_state: Mutex<PushState>,
}

impl Client {
    pub fn new(record: ClientRecord, queues: ClientQueues) -> Self {
        Self {
            record: ArcSwap::from_pointee(record),
            queues,
            paused: AtomicBool::new(false),
            push_state: Mutex::default(),
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
    /// Pushes, while there is a webhook and the client may receive.
    push: Option<Handle<PushActor>>,
    /// When the actor will look next whether the old secret is over, seconds of Unix time.
    watched_s: Option<u64>,
}

/// What can be asked of a client's actor.
pub(super) enum ClientMessage {
    /// Change the record.
    Update(ClientPatch, Reply<Result<Changed, BusError>>),
    /// Make a new secret for the webhook.
    RotateWebhookSecret(Reply<Result<Arc<ClientRecord>, BusError>>),
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
        push: None,
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
        self.push = push::start(&self.shared, &self.client);
        self.watch_old_secret(ctx);
    }

    fn handle(&mut self, message: ClientMessage, ctx: &mut Context<'_, Self>) {
        match message {
            ClientMessage::Update(patch, reply) => self.update(patch, reply, ctx),
            ClientMessage::RotateSecret(grace, reply) => self.rotate_secret(grace, reply, ctx),
            ClientMessage::RotateWebhookSecret(reply) => self.rotate_webhook_secret(reply, ctx),
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
        reply: Reply<Result<Changed, BusError>>,
        ctx: &mut Context<'_, Self>,
    ) {
        let old = self.client.record();
        let mut new = ClientRecord::clone(&old);
        patch.apply(&mut new);
        let has_new_webhook_secret = new.keep_webhook_secret();
        self.store(new, ctx, move |this, stored, ctx| {
            let engine = this.shared.engine.clone();
            let changed = stored.and_then(|new| {
                if new.login.disabled {
                    (this.shared.disconnect)(&new.client_id, "the client is disabled");
                }
                this.client.change(&engine, &old, &new)?;
                Ok(new)
            });
            this.restart_push(&old, ctx, move |_, ctx| {
                let settled = async move { engine.settled().await };
                ctx.wait(settled, move |_, settled, _| {
                    let changed = changed.map(|record| Changed {
                        record,
                        has_new_webhook_secret,
                    });
                    reply.send(changed.and_then(|changed| Ok(settled.map(|()| changed)?)));
                });
            });
        });
    }

    /// Ends the pushing that `old` wanted, and begins what the record of now wants, if that is something else.
    fn restart_push(
        &mut self,
        old: &ClientRecord,
        ctx: &mut Context<'_, Self>,
        then: impl FnOnce(&mut Self, &mut Context<'_, Self>) + 'static,
    ) {
        let new = self.client.record();
        let is_same = new.webhook_url == old.webhook_url
            && new.webhook_secret == old.webhook_secret
            && new.login.disabled == old.login.disabled;
        if is_same {
            return then(self, ctx);
        }
        let push = self.push.take();
        let stopped = async move {
            if let Some(push) = push {
                push.stop().await;
            }
        };
        ctx.wait(stopped, |this, (), ctx| {
            this.push = push::start(&this.shared, &this.client);
            then(this, ctx);
        });
    }

    fn rotate_webhook_secret(
        &mut self,
        reply: Reply<Result<Arc<ClientRecord>, BusError>>,
        ctx: &mut Context<'_, Self>,
    ) {
        let old = self.client.record();
        if old.webhook_url.is_none() {
            let refused = invalid("webhook_url", "is not set, so there is nothing to sign");
            return reply.send(Err(refused));
        }
        let mut new = ClientRecord::clone(&old);
        new.webhook_secret = Some(generate_secret());
        self.store(new, ctx, move |this, stored, ctx| {
            this.restart_push(&old, ctx, |_, _| reply.send(stored));
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
