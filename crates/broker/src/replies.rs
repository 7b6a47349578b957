//! Direct reply-to: consumers that answers reach without a declared queue (specification of behaviour, §8).
//!
//! A channel that consumes from `amq.rabbitmq.reply-to` gets an address of its own, and behind it a queue that
//! stands in no topology: nobody can declare, bind, read or list it, the log never hears of it, and it goes with its
//! consumer. Publishing to the default exchange with the address as the routing key leads there ([`Vhost::route`]).
//! Such routes are not kept by publishers, so that an address that is gone is unroutable at once.

use std::sync::Arc;

use ahash::RandomState;
use backbone_wire::properties::Properties;
use dashmap::DashMap;

use crate::error::Error;
use crate::flow;
use crate::queue::{DeleteIf, Queue, QueueOptions};
use crate::topology::{Route, Targets};
use crate::vhost::Vhost;

/// What a client consumes from, and puts into `reply-to`, to be given an address.
pub(crate) const NAME: &str = "amq.rabbitmq.reply-to";
/// What addresses begin with.
const PREFIX: &str = "amq.rabbitmq.reply-to.";

/// Whose answers go where. Addresses cannot be guessed: they are 128 random bits.
#[derive(Default)]
pub(crate) struct Replies {
    queues: DashMap<Arc<str>, Arc<Queue>, RandomState>,
}

/// Whether `key` has the form of an address.
fn is_address(key: &[u8]) -> bool {
    key.starts_with(PREFIX.as_bytes())
}

impl Vhost {
    /// Makes an address and the queue behind it, which has its name.
    pub(crate) fn open_reply(&self) -> Arc<Queue> {
        let name = self.server_name(PREFIX);
        let id = self.numbers.next();
        let options = QueueOptions {
            auto_delete: true,
            ..QueueOptions::default()
        };
        let queue = Arc::new(Queue::new(&name, id, options));
        let before = self
            .replies()
            .queues
            .insert(Arc::clone(queue.name()), Arc::clone(&queue));
        debug_assert!(before.is_none(), "an address is made once");
        queue
    }

    /// Ends an address. False when `queue` is none.
    pub(crate) fn close_reply(&self, queue: &Queue) -> bool {
        if self.replies().queues.remove(queue.name()).is_none() {
            return false;
        }
        let deleted = queue.delete(DeleteIf::default());
        let emptied = deleted.expect("an unconditional delete is never refused");
        flow::release(self.arena(), &emptied.unwrap_or_default().entries);
        true
    }

    /// Whether a queue of this name may be declared, because answers go there: always for the name that clients consume
    /// from, for an address while it is there. `None`: it has nothing to do with answers.
    pub(crate) fn declare_reply(&self, name: &str) -> Option<Result<(), Error>> {
        let rest = name.strip_prefix(NAME)?;
        let there = rest.is_empty() || self.replies().queues.contains_key(name);
        Some(match there {
            true => Ok(()),
            false => Err(Error::no_queue(name, self.name())),
        })
    }

    /// As [`crate::topology::Topology::route_message`], to the addresses of answers too.
    pub(crate) fn route(
        &self,
        exchange: &[u8],
        (key, further): (&[u8], &[&[u8]]),
        properties: Properties<'_>,
        out: &mut Targets<Arc<Queue>>,
    ) -> Result<Route, Error> {
        let topology = self.topology();
        let mut keys = std::iter::once(key).chain(further.iter().copied());
        if !(exchange.is_empty() && keys.clone().any(is_address)) {
            return topology.route_message(exchange, (key, further), properties, out);
        }
        keys.try_for_each(|key| {
            if !is_address(key) {
                let found = topology.route_message(exchange, (key, &[]), properties, out);
                return found.map(drop);
            }
            let address = std::str::from_utf8(key).unwrap_or_default();
            if let Some(queue) = self.replies().queues.get(address)
                && !out.iter().any(|(id, _)| *id == queue.id())
            {
                out.push((queue.id(), Arc::clone(&queue)));
            }
            Ok::<_, Error>(())
        })?;
        Ok(Route {
            cacheable: false,
            generation: self.topology().generation(),
            deduplicates: false,
        })
    }
}
