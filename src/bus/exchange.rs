//! The actors of the bus's exchanges: publish (queue to topic exchange) and broadcast (queue to fanout).

use std::sync::Arc;

use super::Shared;
use super::movers::Movers;
use crate::actor::{self, Actor, Context, Handle, Start, Turn};
use crate::engine::Queue;

/// Moves what waits in `soar-publish` or `soar-broadcast` to the exchange of that name.
pub(super) struct BusExchange {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    movers: Option<Movers>,
}

/// Starts both.
pub(super) fn start_all(shared: &Arc<Shared>) -> Vec<Handle<BusExchange>> {
    let queues = [&shared.backbone.publish, &shared.backbone.broadcast];
    let start_one = |(index, queue): (usize, &Arc<Queue>)| {
        let arbiter = shared.arbiters[index % shared.arbiters.len()].clone();
        let (shared, queue) = (Arc::clone(shared), Arc::clone(queue));
        actor::start(Start::on(arbiter), move || BusExchange {
            shared: Arc::clone(&shared),
            queue: Arc::clone(&queue),
            movers: None,
        })
    };
    queues.into_iter().enumerate().map(start_one).collect()
}

impl Actor for BusExchange {
    /// Nothing is said to an exchange: it only hears its bell.
    type Message = std::convert::Infallible;

    const KIND: &'static str = "bus_exchange";

    fn started(&mut self, ctx: &mut Context<'_, Self>) {
        let mut movers = Movers::new(&self.shared.engine, &[&self.queue], ctx.bell());
        movers.resume();
        self.movers = Some(movers);
    }

    fn handle(&mut self, message: Self::Message, _: &mut Context<'_, Self>) {
        match message {}
    }

    fn woken(&mut self, _: &mut Context<'_, Self>) -> Turn {
        self.movers.as_mut().map_or(Turn::Done, Movers::step)
    }
}
