//! The moving of messages that could not go straight through, as part of an actor.

use std::sync::Arc;

use crate::actor::{self, Actor, Turn};
use crate::engine::{Engine, Mover, Queue, Wake};

/// The movers of an actor's queues. Gone with it, and made anew with its next life.
pub(super) struct Movers(Vec<Mover>);

impl Movers {
    /// Movers for `queues`, which must have flows; they are paused.
    pub fn new<A: Actor>(engine: &Engine, queues: &[&Arc<Queue>], bell: actor::Bell<A>) -> Self {
        let wake: Wake = Arc::new(move || bell.ring());
        let mover = |queue: &&Arc<Queue>| engine.mover(queue, Arc::clone(&wake));
        Self(queues.iter().filter_map(mover).collect())
    }

    /// Lets them move.
    pub fn resume(&mut self) {
        self.0.iter_mut().for_each(Mover::resume);
    }

    /// Lets messages wait.
    pub fn pause(&mut self) {
        self.0.iter_mut().for_each(Mover::pause);
    }

    /// Moves one batch of each queue.
    pub fn step(&mut self) -> Turn {
        let mut turn = Turn::Done;
        for mover in &mut self.0 {
            if mover.step() {
                turn = Turn::More;
            }
        }
        turn
    }
}
