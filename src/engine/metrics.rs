//! The broker's numbers for a scrape, under RabbitMQ's stems.

use std::sync::atomic::Ordering;

use backbone_broker::dedup::Deduplication;
use backbone_broker::durable::Level;
use backbone_broker::vhost::Vhost;

use super::{Engine, sample_log};
use crate::telemetry::Samples;

impl Engine {
    /// Adds the log's and the pager's numbers.
    fn sample_storage(&self, samples: &mut Samples) {
        let vhost = &self.0.vhost;
        if let Some(durable) = vhost.durable() {
            sample_log(durable.log(), samples);
        }
        let Some(pager) = vhost.pager() else { return };
        let [paged_in, paged_out, unreadable] = pager.counts();
        for (metric, help, value) in [
            (
                "backbone_messages_paged_in_total",
                "Messages brought back into memory from the log",
                paged_in,
            ),
            (
                "backbone_messages_paged_out_total",
                "Messages that were left in the log alone because memory was tight",
                paged_out,
            ),
            (
                "backbone_messages_unreadable_total",
                "Messages that damaged bytes of the log made unreadable",
                unreadable,
            ),
        ] {
            samples.counter(metric, help, &[], value as f64);
        }
    }

    /// Adds the broker's numbers. Looks into each queue once.
    pub fn sample(&self, samples: &mut Samples) {
        let vhost = &self.0.vhost;
        for (metric, help, value) in vhost.counters().snapshot() {
            samples.counter(metric, help, &[], value as f64);
        }
        let mut total = Totals::default();
        for vhost in self.0.vhosts.list() {
            let of_vhost = Totals::of(&vhost);
            of_vhost.sample(&vhost, samples);
            total.add(&of_vhost);
        }
        let counters = vhost.counters();
        let opened = counters.channels_opened.load(Ordering::Relaxed);
        let closed = counters.channels_closed.load(Ordering::Relaxed);
        let gauges = [
            (
                "backbone_channels",
                "Channels open",
                opened.saturating_sub(closed),
            ),
            (
                "backbone_consumers",
                "Consumers, the bus's own not counted",
                total.consumers,
            ),
            ("backbone_queues", "Queues", total.queues),
            (
                "backbone_queues_paused",
                "Queues that are paused: they take messages and hand out none",
                total.paused,
            ),
            ("backbone_exchanges", "Exchanges", total.exchanges),
            (
                "backbone_bindings",
                "Bindings, the default exchange's not counted",
                total.bindings,
            ),
            (
                "backbone_queue_messages",
                "Messages ready or unacknowledged",
                total.ready + total.unacked,
            ),
            (
                "backbone_queue_messages_ready",
                "Messages ready to be delivered",
                total.ready,
            ),
            (
                "backbone_queue_messages_unacked",
                "Messages delivered and not acknowledged",
                total.unacked,
            ),
            (
                "backbone_exchange_messages_delayed",
                "Messages that wait at exchanges for their time",
                total.delayed,
            ),
            (
                "backbone_deduplication_keys",
                "Keys of messages that queues and exchanges remember, to drop those that come again",
                total.remembered.keys,
            ),
            (
                "backbone_deduplication_bytes",
                "Memory that these keys take",
                total.remembered.bytes,
            ),
            (
                "backbone_exchange_history_bytes",
                "Memory that messages take which recent-history exchanges keep",
                vhost.history_bytes(),
            ),
            (
                "backbone_message_store_bytes",
                "Memory that stored messages take",
                vhost.arena().bytes() as u64,
            ),
            (
                "backbone_message_store_segments",
                "Segments of the message store",
                vhost.arena().segments() as u64,
            ),
            (
                "backbone_alarms_memory_used_watermark",
                "1 while publishers are held back for want of memory",
                u64::from(self.0.gate.is_short_of_memory()),
            ),
            (
                "backbone_alarms_free_disk_space_watermark",
                "1 while publishers are held back for want of room on the disk",
                u64::from(self.0.gate.is_short_of_disk()),
            ),
            (
                "backbone_disk_space_available_limit_bytes",
                "Publishers are held back while there is less room",
                self.0.gate.disk_bytes().1,
            ),
        ];
        for (metric, help, value) in gauges {
            samples.gauge(metric, help, &[], value as f64);
        }
        for (level, count) in Level::ALL.into_iter().zip(total.by_level) {
            samples.gauge(
                "backbone_queues_by_level",
                "Queues by how safe a persistent message in them is before it is confirmed",
                &[("level", level.name())],
                count as f64,
            );
        }
        self.sample_storage(samples);
        let delivered = [
            &counters.messages_delivered_consume_auto_ack,
            &counters.messages_delivered_consume_manual_ack,
            &counters.messages_delivered_get_auto_ack,
            &counters.messages_delivered_get_manual_ack,
        ];
        let delivered: u64 = delivered.iter().map(|c| c.load(Ordering::Relaxed)).sum();
        let help = "Messages delivered to AMQP clients";
        samples.counter(
            "backbone_global_messages_delivered_total",
            help,
            &[],
            delivered as f64,
        );
        let help = "Messages put into the queues that there are";
        samples.counter(
            "backbone_queue_messages_published_total",
            help,
            &[],
            total.published as f64,
        );
    }
}

/// What there is in a vhost, or in all.
#[derive(Default)]
struct Totals {
    ready: u64,
    unacked: u64,
    /// At exchanges.
    delayed: u64,
    consumers: u64,
    published: u64,
    queues: u64,
    paused: u64,
    /// What is remembered of messages that came.
    remembered: Deduplication,
    exchanges: u64,
    bindings: u64,
    /// Queues of each level, in the order of [`Level::ALL`].
    by_level: [u64; Level::ALL.len()],
}

impl Totals {
    fn of(vhost: &Vhost) -> Self {
        let counts = vhost.topology().counts();
        let mut totals = Self {
            queues: counts.queues as u64,
            exchanges: counts.exchanges as u64,
            bindings: counts.bindings as u64,
            delayed: vhost.delayed_in_all(),
            remembered: vhost.deduplication(),
            ..Self::default()
        };
        for queue in vhost.topology().queues() {
            let stats = queue.stats();
            totals.ready += stats.ready;
            totals.unacked += stats.unsettled;
            totals.consumers += u64::from(stats.consumers);
            totals.published += stats.published;
            totals.paused += u64::from(stats.paused);
            for (level, count) in Level::ALL.into_iter().zip(&mut totals.by_level) {
                *count += u64::from(level == queue.level());
            }
        }
        totals
    }

    fn add(&mut self, other: &Self) {
        self.ready += other.ready;
        self.unacked += other.unacked;
        self.delayed += other.delayed;
        self.consumers += other.consumers;
        self.published += other.published;
        self.queues += other.queues;
        self.paused += other.paused;
        self.remembered = self.remembered.and(other.remembered);
        self.exchanges += other.exchanges;
        self.bindings += other.bindings;
        for (mine, others) in self.by_level.iter_mut().zip(other.by_level) {
            *mine += others;
        }
    }

    fn sample(&self, vhost: &Vhost, samples: &mut Samples) {
        samples.gauge(
            "backbone_durability_level",
            "What a confirm promises, unless the queue says otherwise: at level memory a restart loses messages",
            &[("level", vhost.level().name()), ("vhost", vhost.name())],
            1.0,
        );
        let gauges = [
            (
                "backbone_vhost_connections",
                "AMQP connections open to the vhost",
                vhost.connections().used(),
            ),
            ("backbone_vhost_queues", "Queues of the vhost", self.queues),
            (
                "backbone_vhost_messages_ready",
                "Messages ready to be delivered in the vhost",
                self.ready,
            ),
            (
                "backbone_vhost_messages_unacked",
                "Messages of the vhost delivered and not acknowledged",
                self.unacked,
            ),
        ];
        for (metric, help, value) in gauges {
            samples.gauge(metric, help, &[("vhost", vhost.name())], value as f64);
        }
    }
}
