//! The moving of messages that could not go straight through, as part of an actor.

use std::sync::Arc;

use backbone_broker::flow::Mover;
use backbone_broker::queue::{Bell, ConsumerSpec, Queue};

use crate::actor::{self, Actor, Turn};
use crate::engine::Engine;

/// The movers of an actor's queues. Gone with it, and made anew with its next life.
pub(super) struct Movers {
    movers: Vec<Mover>,
    bell: Arc<dyn Bell>,
}

/// An actor's bell, as the broker rings it.
struct BrokerBell<A: Actor>(actor::Bell<A>);

impl<A: Actor> Bell for BrokerBell<A> {
    fn ring(&self, _key: u64) {
        self.0.ring();
    }

    fn cancelled(&self, _key: u64) {
        // The queue is deleted: there is nothing to move, and the actor ends with its client.
    }
}

impl Movers {
    /// Movers for `queues`, which must have flows; they are paused.
    pub fn new<A: Actor>(engine: &Engine, queues: &[&Arc<Queue>], bell: actor::Bell<A>) -> Self {
        let mover = |queue: &&Arc<Queue>| Mover::new(Arc::clone(engine.vhost()), Arc::clone(queue));
        Self {
            movers: queues.iter().filter_map(mover).collect(),
            bell: Arc::new(BrokerBell(bell)),
        }
    }

    /// Lets them move.
    pub fn resume(&mut self) {
        for (key, mover) in (0..).zip(&mut self.movers) {
            let spec = ConsumerSpec {
                bell: Arc::clone(&self.bell),
                key,
                prefetch: 0,
                shared: None,
                no_ack: false,
                exclusive: false,
            };
            // Refused only by a deleted queue, which has nothing to move.
            let _ = mover.resume(spec);
        }
    }

    /// Lets messages wait.
    pub fn pause(&mut self) {
        self.movers.iter_mut().for_each(Mover::pause);
    }

    /// Moves one batch of each queue.
    pub fn step(&mut self) -> Turn {
        let mut turn = Turn::Done;
        for mover in &mut self.movers {
            if mover.step() {
                turn = Turn::More;
            }
        }
        turn
    }
}
