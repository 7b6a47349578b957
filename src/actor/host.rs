//! The actix actor around each of ours: turns, panics, back-off, the end.
//!
//! actix would drop an actor that panics together with its mailbox. So every call into the actor goes
//! through [`Host::run`], which catches the panic, and the host with its mailbox lives on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor as _, ActorContext, ActorFutureExt, AsyncContext, Handler, Message};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::handle::{Credit, Handle, Mailbox};
use super::metrics::{self, count};
use super::{Actor, Context, MESSAGES_PER_TURN, Start, Supervision, Turn};

/// One message with its place in the mailbox.
pub(super) struct Envelope<M> {
    pub(super) message: M,
    pub(super) credit: Credit,
}

impl<M> Message for Envelope<M> {
    type Result = ();
}

/// The one message of a bell.
pub(super) struct Wake;

impl Message for Wake {
    type Result = ();
}

/// The last message of an orderly stop.
pub(super) struct Stop;

impl Message for Stop {
    type Result = ();
}

type Factory<A> = Box<dyn FnMut() -> A + Send>;

/// Keeps an actor, or waits to make it anew.
pub(super) struct Host<A: Actor> {
    factory: Factory<A>,
    /// `None` before the start and between a panic and the restart.
    actor: Option<A>,
    supervision: Supervision,
    /// Number of the current life; counts up with each panic.
    life: u64,
    /// Panics since the last quiet window.
    failures: u32,
    failed_last: Option<Instant>,
    /// Messages handled since other tasks had their turn.
    handled: u32,
    /// Whether another call of `woken` is already scheduled.
    turn_scheduled: bool,
    end: End,
}

/// Closes the mailbox and tells waiters when the host goes, whatever the way.
struct End {
    mailbox: Mailbox,
    _gone: watch::Sender<()>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.mailbox.credit.close();
        count(&self.mailbox.metrics.stopped);
    }
}

/// Starts the host on its arbiter.
pub(super) fn start<A: Actor>(start: Start, factory: Factory<A>) -> Handle<A> {
    let metrics = metrics::of(A::KIND);
    count(&metrics.started);
    let mailbox = Mailbox {
        credit: Arc::new(Semaphore::new(
            start.capacity.clamp(1, Semaphore::MAX_PERMITS),
        )),
        rung: Arc::new(AtomicBool::new(false)),
        metrics,
    };
    let (gone, gone_receiver) = watch::channel(());
    let end = End {
        mailbox: mailbox.clone(),
        _gone: gone,
    };
    let supervision = start.supervision;
    let host = Host::start_in_arbiter(&start.arbiter, move |_| Host {
        factory,
        actor: None,
        supervision,
        life: 0,
        failures: 0,
        failed_last: None,
        handled: 0,
        turn_scheduled: false,
        end,
    });
    Handle::new(host, mailbox, gone_receiver)
}

impl<A: Actor> Host<A> {
    /// Calls into the actor if it still lives the life in which the call was made.
    pub(super) fn run<R>(
        &mut self,
        life: u64,
        ctx: &mut actix::Context<Self>,
        call: impl FnOnce(&mut A, &mut Context<'_, A>) -> R,
    ) -> Option<R> {
        if life != self.life {
            return None;
        }
        let actor = self.actor.as_mut()?;
        let mut ctx_of_life = Context {
            inner: &mut *ctx,
            life,
            rung: &self.end.mailbox.rung,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| call(actor, &mut ctx_of_life)));
        match outcome {
            Ok(value) => Some(value),
            Err(panic) => {
                self.panicked(panic, ctx);
                None
            }
        }
    }

    /// Makes the actor and begins its life.
    fn begin(&mut self, ctx: &mut actix::Context<Self>) {
        match catch_unwind(AssertUnwindSafe(|| (self.factory)())) {
            Ok(actor) => {
                self.actor = Some(actor);
                self.run(self.life, ctx, A::started);
            }
            Err(panic) => self.panicked(panic, ctx),
        }
    }

    fn panicked(&mut self, panic: Box<dyn Any + Send>, ctx: &mut actix::Context<Self>) {
        let metrics = &self.end.mailbox.metrics;
        count(&metrics.panics);
        self.life += 1;
        // The state may be half changed, so its destructor may panic too.
        let broken = self.actor.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        let now = Instant::now();
        if self
            .failed_last
            .is_some_and(|last| now - last > self.supervision.window)
        {
            self.failures = 0;
        }
        self.failures += 1;
        self.failed_last = Some(now);
        let reason = panic_text(&*panic);
        if self.failures > self.supervision.restarts_max {
            count(&metrics.given_up);
            tracing::error!(
                kind = A::KIND,
                reason,
                "actor panicked too often and is given up"
            );
            ctx.stop();
            return;
        }
        let pause = backoff(&self.supervision, self.failures);
        tracing::error!(
            kind = A::KIND,
            reason,
            ?pause,
            "actor panicked and will be restarted"
        );
        let sleep = wrap_future::<_, Self>(tokio::time::sleep(pause));
        ctx.wait(sleep.map(|(), host, ctx| {
            count(&host.end.mailbox.metrics.restarts);
            host.begin(ctx);
            // A ring may have been lost with the life that should have heard it.
            host.wake(ctx);
        }));
    }

    /// One turn of `woken`, and the next one if the actor asks for it.
    fn wake(&mut self, ctx: &mut actix::Context<Self>) {
        // Before the work, so that a ring during it is heard again.
        self.end.mailbox.rung.swap(false, Ordering::AcqRel);
        if self.turn_scheduled {
            return;
        }
        count(&self.end.mailbox.metrics.wakes);
        if self.run(self.life, ctx, A::woken) == Some(Turn::More) {
            self.turn_scheduled = true;
            let pause = wrap_future::<_, Self>(tokio::task::yield_now());
            ctx.spawn(pause.map(|(), host, ctx| {
                host.turn_scheduled = false;
                host.wake(ctx);
            }));
        }
    }
}

impl<A: Actor> actix::Actor for Host<A> {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.begin(ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        if let Some(mut actor) = self.actor.take() {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                actor.stopped();
                drop(actor);
            }));
        }
    }
}

impl<A: Actor> Handler<Envelope<A::Message>> for Host<A> {
    type Result = ();

    fn handle(&mut self, envelope: Envelope<A::Message>, ctx: &mut Self::Context) {
        drop(envelope.credit);
        count(&self.end.mailbox.metrics.messages);
        self.run(self.life, ctx, |actor, ctx| {
            actor.handle(envelope.message, ctx)
        });
        self.handled += 1;
        if self.handled >= MESSAGES_PER_TURN {
            self.handled = 0;
            ctx.wait(wrap_future::<_, Self>(tokio::task::yield_now()));
        }
    }
}

impl<A: Actor> Handler<Wake> for Host<A> {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.wake(ctx);
    }
}

impl<A: Actor> Handler<Stop> for Host<A> {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// The pause before restart number `failures`, counted from one.
pub(super) fn backoff(supervision: &Supervision, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(30);
    supervision
        .backoff_min
        .saturating_mul(1 << doublings)
        .min(supervision.backoff_max)
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
