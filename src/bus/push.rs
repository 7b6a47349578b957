//! Push: takes a client's inbox to its webhook, one message after the other.
//!
//! One actor a client that has a webhook and may receive. A message that fails goes back to its place and holds up those
//! behind it; during the pause it can be had over `/receive` and AMQP like any other. What is answered with 2xx is settled
//! in the inbox; what is given up is settled after `soar-dead-letter` has it. So a crash may double a message, and loses none.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::retry::{Retry, Verdict};
use super::{BusError, Shared, write_item};
use crate::actor::{self, Actor, Context, Handle, Start};
use crate::auth::hmac_sha256;
use crate::config::Secret;
use crate::engine::{Taken, now_ms};
use crate::push::{Call, Connection, Failure, Slot, Webhook};

/// How long to wait for a message before looking again.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// How it goes with a client's webhook, for pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushState {
    /// The last attempt failed, and why; none: nothing is wrong.
    pub failing: Option<PushFailure>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushFailure {
    /// Its number, of this message.
    pub attempt: u32,
    /// Why.
    pub error: String,
    /// When it is tried again, ms of Unix time.
    pub next_attempt_ms: u64,
}

/// Pushes for one client.
pub(super) struct PushActor(Arc<Job>);

/// What to push where.
struct Job {
    shared: Arc<Shared>,
    client: Arc<Client>,
    client_id: String,
    webhook: Webhook,
    secret: Secret,
    slot: Slot,
}

/// Starts the actor, if the client has a webhook and may receive.
pub(super) fn start(shared: &Arc<Shared>, client: &Arc<Client>) -> Option<Handle<PushActor>> {
    client.push_state.lock().failing = None;
    let record = client.record();
    let (url, secret) = (record.webhook_url.as_ref()?, record.webhook_secret.clone());
    if record.login.disabled {
        return None;
    }
    let (webhook, secret) = match (Webhook::parse(url), secret) {
        (Ok(webhook), Some(secret)) => (webhook, secret),
        (parsed, _) => {
            // Both come of records of earlier versions only.
            let reason = parsed.err().map_or_else(
                || "there is no webhook_secret: make one".to_owned(),
                |reason| format!("webhook_url {reason}"),
            );
            client.push_state.lock().failing = Some(PushFailure {
                attempt: 0,
                error: reason,
                next_attempt_ms: 0,
            });
            return None;
        }
    };
    let job = Arc::new(Job {
        slot: shared.courier.slot(&webhook),
        shared: Arc::clone(shared),
        client: Arc::clone(client),
        client_id: record.client_id.clone(),
        webhook,
        secret,
    });
    let turn = client.inbox.id() as usize % shared.arbiters.len();
    let arbiter = shared.arbiters[turn].clone();
    let start = Start::on(arbiter);
    Some(actor::start(start, move || PushActor(Arc::clone(&job))))
}

impl Actor for PushActor {
    /// Nothing is said to it: with another webhook there is another one.
    type Message = Infallible;

    const KIND: &'static str = "bus_push";

    fn started(&mut self, ctx: &mut Context<'_, Self>) {
        let job = Arc::clone(&self.0);
        ctx.spawn(async move { job.run().await });
    }

    fn handle(&mut self, message: Infallible, _: &mut Context<'_, Self>) {
        match message {}
    }
}

impl Job {
    async fn run(&self) {
        let (begin, mut retry) = (Instant::now(), Retry::new(&self.shared.push));
        loop {
            let engine = &self.shared.engine;
            engine.wait_ready(&self.client.inbox, LOOK_EVERY).await;
            if let Some(pause) = self.empty(&mut retry, begin).await {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Pushes until the inbox is empty, or a message fails: the pause before it is tried again.
    async fn empty(&self, retry: &mut Retry, begin: Instant) -> Option<Duration> {
        let mut connection = None;
        loop {
            let turn = self.slot.turn().await;
            let inbox = &self.client.inbox;
            let taken = self.shared.engine.take(inbox, 1, usize::MAX);
            if taken.is_empty() {
                return None;
            }
            let attempt = retry.begin(taken.place(0), begin.elapsed());
            let called = self.call(&taken, attempt, &mut connection).await;
            drop(turn);
            let failure = match called {
                Ok(()) => {
                    self.shared.counters.push.delivered();
                    taken.settle();
                    self.client.push_state.lock().failing = None;
                    continue;
                }
                Err(failure) => failure,
            };
            self.shared.counters.push.failed();
            let verdict = retry.failed(begin.elapsed(), chance());
            if let Some(pause) = self.failed(taken, attempt, &failure, verdict).await {
                return Some(pause);
            }
        }
    }

    async fn call(
        &self,
        taken: &Taken,
        attempt: u32,
        connection: &mut Option<Connection>,
    ) -> Result<(), Failure> {
        let mut body = Vec::new();
        write_item(taken, 0, None, &mut body);
        let timestamp = (now_ms() / 1000).to_string();
        let signed = [timestamp.as_bytes(), b".", &body];
        let code = hmac_sha256(self.secret.expose().as_bytes(), &signed);
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut headers = vec![
            ("x-backbone-attempt", attempt.to_string()),
            ("x-backbone-timestamp", timestamp),
            ("x-backbone-signature", format!("sha256={hex}")),
        ];
        taken.with(0, |message| {
            for (name, value) in [
                ("x-backbone-id", message.id),
                ("x-backbone-topic", message.topic),
                ("x-backbone-sender", message.sender),
            ] {
                headers.extend(value.map(|value| (name, value.to_owned())));
            }
        });
        let call = Call {
            headers: &headers,
            body: body.into(),
        };
        let courier = &self.shared.courier;
        courier.call(&self.webhook, &call, connection).await
    }

    /// Puts a message back, or away for good; then there is no pause.
    async fn failed(
        &self,
        taken: Taken,
        attempt: u32,
        failure: &Failure,
        verdict: Verdict,
    ) -> Option<Duration> {
        let client = self.client_id.as_str();
        let mut error = failure.to_string();
        let pause = match verdict {
            Verdict::Again(pause) => pause,
            Verdict::GiveUp => match self.bury(&taken, attempt, &error).await {
                Ok(()) => {
                    taken.settle();
                    self.shared.counters.push.dead_lettered();
                    tracing::warn!(
                        client,
                        attempt,
                        error,
                        "a message could not be pushed: dead letter"
                    );
                    self.client.push_state.lock().failing = None;
                    return None;
                }
                Err(refused) => {
                    error = format!("{error}; soar-dead-letter: {refused}");
                    Duration::from_millis(self.shared.push.retry_max_ms)
                }
            },
        };
        // Back in its place before the pause.
        drop(taken);
        if attempt == 1 {
            tracing::warn!(client, error, "a webhook fails");
        }
        let next_attempt_ms = now_ms() + pause.as_millis() as u64;
        self.client.push_state.lock().failing = Some(PushFailure {
            attempt,
            error,
            next_attempt_ms,
        });
        Some(pause)
    }

    /// Copies a message to the dead letters, as safely as these are kept.
    async fn bury(&self, taken: &Taken, attempts: u32, error: &str) -> Result<(), BusError> {
        let engine = &self.shared.engine;
        let reason = format!("webhook: {error}");
        let attempts = attempts.to_string();
        let headers = [
            ("reason", reason.as_bytes()),
            ("client", self.client_id.as_bytes()),
            ("queue", self.client.inbox.name().as_bytes()),
            ("attempts", attempts.as_bytes()),
        ];
        let promise = engine.copy(taken, 0, &self.shared.backbone.dead_letter, &headers)?;
        Ok(engine.kept(promise).await?)
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    let random = getrandom::u32().expect("the system has random numbers");
    f64::from(random) / f64::from(u32::MAX)
}
