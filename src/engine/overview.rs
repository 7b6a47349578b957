//! What there is in all, and what is wrong, for pages of the whole server.

use std::sync::atomic::Ordering;

use super::{Engine, ExchangeKind};

/// What there is in some vhosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages ready to be delivered.
    pub ready: u64,
    /// Messages delivered and not acknowledged.
    pub unacked: u64,
    /// Consumers, the bus's own not counted.
    pub consumers: u64,
    /// Queues.
    pub queues: u64,
    /// Exchanges.
    pub exchanges: u64,
}

/// Counts since the start of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the names are those of RabbitMQ's message_stats"
)]
pub struct Counts {
    pub publish: u64,
    pub confirm: u64,
    pub return_unroutable: u64,
    pub drop_unroutable: u64,
    pub deliver: u64,
    pub deliver_no_ack: u64,
    pub get: u64,
    pub get_no_ack: u64,
    pub get_empty: u64,
    pub redeliver: u64,
    pub ack: u64,
    pub channels_opened: u64,
    pub channels_closed: u64,
    pub queues_declared: u64,
    pub queues_deleted: u64,
}

impl Engine {
    /// What there is in the vhosts that are `wanted`. Looks into each queue.
    pub fn totals(&self, wanted: impl Fn(&str) -> bool) -> Totals {
        let mut totals = Totals::default();
        for vhost in self.0.vhosts.list() {
            if !wanted(vhost.name()) {
                continue;
            }
            let counts = vhost.topology().counts();
            totals.queues += counts.queues as u64;
            totals.exchanges += counts.exchanges as u64;
            for queue in vhost.topology().queues() {
                let stats = queue.stats();
                totals.ready += stats.ready;
                totals.unacked += stats.unsettled;
                totals.consumers += u64::from(stats.consumers);
            }
        }
        totals
    }

    /// What happened since the start.
    pub fn counts(&self) -> Counts {
        let counters = self.0.vhost.counters();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            publish: count(&counters.messages_received),
            confirm: count(&counters.messages_confirmed),
            return_unroutable: count(&counters.messages_unroutable_returned),
            drop_unroutable: count(&counters.messages_unroutable_dropped),
            deliver: count(&counters.messages_delivered_consume_manual_ack),
            deliver_no_ack: count(&counters.messages_delivered_consume_auto_ack),
            get: count(&counters.messages_delivered_get_manual_ack),
            get_no_ack: count(&counters.messages_delivered_get_auto_ack),
            get_empty: count(&counters.messages_get_empty),
            redeliver: count(&counters.messages_redelivered),
            ack: count(&counters.messages_acknowledged),
            channels_opened: count(&counters.channels_opened),
            channels_closed: count(&counters.channels_closed),
            queues_declared: count(&counters.queues_declared),
            queues_deleted: count(&counters.queues_deleted),
        }
    }

    /// The types that an exchange can have.
    pub fn exchange_types(&self) -> impl Iterator<Item = &'static str> {
        ExchangeKind::ALL.iter().map(|kind| kind.name())
    }
}
