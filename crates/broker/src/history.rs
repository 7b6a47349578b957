//! Exchanges of the type `x-recent-history`: fanouts that keep their last messages, and send them to each queue or exchange that is newly bound.
//!
//! Such an exchange has a queue of its own ([`crate::queue`]'s `history`), and whatever visits it goes there as one more queue. So it is kept as what it
//! was published as, whichever way it came: from another exchange, as a dead letter, when its time had come.
//!
//! Who is bound gets each message once and in order, from the history or by the binding: [`Vhost::joins`] is held by who binds, and
//! shared by who publishes from before the route is found until the message is in its queues. It comes before all other locks, and only who meets such an
//! exchange takes it, and dead letters and what is due, once a batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_wire::properties::Properties;
use backbone_wire::table::{Table, Value};

use crate::counters::add;
use crate::delay;
use crate::error::Error;
use crate::publisher::{Dead, Going, Transfer, bury};
use crate::queue::{Queue, Wakes, arguments};
use crate::record::{HEADER_FIXED_LEN, Record};
use crate::topology::{Targets, clean_name};
use crate::vhost::Vhost;

/// The argument that says how many messages an exchange keeps.
const LENGTH: &str = "x-recent-history-length";
/// How many it keeps that does not say it.
const LENGTH_DEFAULT: u64 = 20;
/// The header of a message that is not kept.
const NO_STORE: &str = "x-recent-history-no-store";

/// How many messages an exchange with these arguments keeps.
///
/// # Errors
/// 406: it is no positive number. RabbitMQ's plugin takes signed integers alone.
pub(crate) fn length(arguments: Table<'_>) -> Result<u64, Error> {
    let Some(value) = arguments.get(LENGTH) else {
        return Ok(LENGTH_DEFAULT);
    };
    let number = match value {
        Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) => value.as_i64(),
        _ => None,
    };
    let number = number.and_then(|number| u64::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        let value = crate::topology::Term(&value);
        Error::precondition_failed(format!(
            "Invalid argument {value}, '{LENGTH}' must be a positive integer"
        ))
    })
}

/// Whether a message with these headers is kept.
pub(crate) fn is_wanted(headers: Option<Table<'_>>) -> bool {
    let no_store = headers.and_then(|headers| headers.get(NO_STORE));
    !matches!(no_store, Some(Value::Bool(true)))
}

/// Where a new binding leads.
enum Joined<'a> {
    Queue(Arc<Queue>),
    Exchange(&'a str),
}

impl Vhost {
    /// Bytes that exchanges of all vhosts of the node keep.
    pub fn history_bytes(&self) -> u64 {
        self.history_bytes.load(Ordering::Relaxed) as u64
    }

    /// As [`crate::topology::Topology::bind_queue`]; the queue gets what the exchange keeps.
    ///
    /// # Errors
    /// As there.
    pub fn bind_queue(
        &self,
        queue: &str,
        exchange: &str,
        key: &[u8],
        arguments: Table<'_>,
    ) -> Result<(), Error> {
        let topology = self.topology();
        let bind = || topology.bind_new_queue(queue, exchange, key, arguments);
        let to = || topology.queue(&clean_name(queue)).map(Joined::Queue);
        self.join(exchange, bind, to)
    }

    /// As [`crate::topology::Topology::bind_exchange`]; what `source` keeps is routed from `destination` on.
    ///
    /// # Errors
    /// As there.
    pub fn bind_exchange(
        &self,
        destination: &str,
        source: &str,
        key: &[u8],
        arguments: Table<'_>,
    ) -> Result<(), Error> {
        let topology = self.topology();
        let bind = || topology.bind_new_exchange(destination, source, key, arguments);
        let clean = clean_name(destination);
        self.join(source, bind, || Some(Joined::Exchange(&clean)))
    }

    /// Has `bind` done, and then, if it made a new binding of an exchange that keeps messages, sends these `to` where it leads.
    fn join<'a>(
        &self,
        source: &str,
        bind: impl FnOnce() -> Result<bool, Error>,
        to: impl FnOnce() -> Option<Joined<'a>>,
    ) -> Result<(), Error> {
        let store = self.topology().store(&clean_name(source));
        let Some(store) = store.filter(|store| store.is_history()) else {
            return bind().map(drop);
        };
        let joins = self.joins.write();
        let (mut dead, mut wakes) = (Vec::new(), Wakes::default());
        if bind()?
            && let Some(to) = to()
        {
            self.tell(&store, &to, &mut dead, &mut wakes);
        }
        drop(joins);
        bury(self, &mut dead, self.now_ms(), &mut wakes);
        wakes.ring();
        Ok(())
    }

    /// Sends what `store` keeps, the oldest first. What the log refuses is not sent: it refuses new messages, too.
    fn tell(&self, store: &Queue, to: &Joined<'_>, dead: &mut Vec<Dead>, wakes: &mut Wakes) {
        let (mut transfer, mut routed) = (Transfer::default(), 0);
        for record in store.remembered() {
            let message = Record::read(&record, 0);
            let targets = self.targets_of(&message, to);
            if targets.is_empty() {
                continue;
            }
            let expiration = message.properties().expiration();
            let expiration = expiration.map(|text| arguments::expiration(text.as_bytes()));
            let going = Going {
                source: None,
                content: message.content(),
                expiration: expiration.and_then(Result::ok),
            };
            transfer.add(self, &going, targets, self.now_ms());
            if transfer.is_full() {
                routed += std::mem::take(&mut transfer).send(self, dead, wakes);
            }
        }
        routed += transfer.send(self, dead, wakes);
        add(&self.counters().messages_routed, routed);
    }

    fn targets_of(&self, message: &Record<'_>, to: &Joined<'_>) -> Targets<Arc<Queue>> {
        let mut targets = Targets::new();
        match to {
            Joined::Queue(queue) => targets.push((queue.id(), Arc::clone(queue))),
            Joined::Exchange(exchange) => {
                let properties = Properties::assume_checked(&message.header[HEADER_FIXED_LEN..]);
                let further = properties.headers().map(delay::further_keys);
                let further = further.unwrap_or_default();
                let keys = (message.routing_key(), &further[..]);
                // If it is gone meanwhile, so is what led to it.
                let _ = self.topology().route_on(
                    exchange.as_bytes(),
                    keys,
                    properties,
                    false,
                    &mut targets,
                );
            }
        }
        // What a flow takes in has to be published to it.
        targets.retain(|(_, queue)| queue.flow().is_none());
        targets
    }
}
