//! What an actor can ask of its host while it handles a message.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorContext, ActorFutureExt, AsyncContext};
use futures_util::FutureExt;

use super::host::Host;
use super::{Actor, Bell};

/// The actor's view of its own life.
pub struct Context<'a, A: Actor> {
    pub(super) inner: &'a mut actix::Context<Host<A>>,
    /// Which life this is; work that an earlier life left behind is dropped.
    pub(super) life: u64,
    pub(super) rung: &'a Arc<AtomicBool>,
}

impl<A: Actor> Context<'_, A> {
    /// Runs `future` and then `then`; messages wait meanwhile, so that operations stay in order.
    /// A panic in either counts as a panic of the actor.
    pub fn wait<F, T>(&mut self, future: F, then: T)
    where
        F: Future + 'static,
        T: FnOnce(&mut A, F::Output, &mut Context<'_, A>) + 'static,
    {
        let life = self.life;
        let work = AssertUnwindSafe(future).catch_unwind();
        self.inner.wait(
            wrap_future::<_, Host<A>>(work).map(move |outcome, host, ctx| {
                match outcome {
                    Ok(output) => host.run(life, ctx, |actor, ctx| then(actor, output, ctx)),
                    Err(panic) => host.run(life, ctx, |_, _| std::panic::resume_unwind(panic)),
                };
            }),
        );
    }

    /// Runs `future` beside the messages, for as long as the actor lives. A panic in it counts as a panic of the actor.
    pub fn spawn<F>(&mut self, future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        let life = self.life;
        let work = AssertUnwindSafe(future).catch_unwind();
        self.inner.spawn(
            wrap_future::<_, Host<A>>(work).map(move |outcome, host, ctx| {
                if let Err(panic) = outcome {
                    host.run(life, ctx, |_, _| std::panic::resume_unwind(panic));
                }
            }),
        );
    }

    /// Hands `message` to the actor after `delay`, unless it was restarted or has ended by then.
    pub fn after(&mut self, delay: Duration, message: A::Message) {
        let life = self.life;
        self.inner.run_later(delay, move |host, ctx| {
            host.run(life, ctx, |actor, ctx| actor.handle(message, ctx));
        });
    }

    /// A bell that wakes this actor.
    pub fn bell(&self) -> Bell<A> {
        Bell::new(self.inner.address().downgrade(), Arc::clone(self.rung))
    }

    /// Ends the actor after the current message; what waits in the mailbox is dropped.
    pub fn stop(&mut self) {
        self.inner.stop();
    }
}
