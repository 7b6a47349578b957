//! The broker's numbers for a scrape, under RabbitMQ's stems.

use std::sync::atomic::Ordering;

use backbone_broker::durable::{Level, Trouble};

use super::{Engine, sample_log};
use crate::telemetry::Samples;

impl Engine {
    /// Adds the log's and the pager's numbers.
    fn sample_storage(&self, samples: &mut Samples) {
        let vhost = &self.0.vhost;
        samples.gauge(
            "backbone_durability_level",
            "What a confirm promises, unless the queue says otherwise: at level memory a restart loses messages",
            &[("level", vhost.level().name()), ("vhost", vhost.name())],
            1.0,
        );
        if let Some(durable) = vhost.durable() {
            let full = durable.trouble() == Some(Trouble::DiskFull);
            samples.gauge(
                "backbone_alarms_free_disk_space_watermark",
                "1 while publishers are held back for want of room on the disk",
                &[],
                u64::from(full) as f64,
            );
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
        let (mut ready, mut unacked, mut consumers, mut published) = (0, 0, 0, 0);
        let mut by_level = Level::ALL.map(|level| (level, 0_u64));
        for queue in vhost.topology().queues() {
            let stats = queue.stats();
            ready += stats.ready;
            unacked += stats.unsettled;
            consumers += u64::from(stats.consumers);
            published += stats.published;
            for (level, count) in &mut by_level {
                *count += u64::from(*level == queue.level());
            }
        }
        let counts = vhost.topology().counts();
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
                consumers,
            ),
            ("backbone_queues", "Queues", counts.queues as u64),
            ("backbone_exchanges", "Exchanges", counts.exchanges as u64),
            (
                "backbone_bindings",
                "Bindings, the default exchange's not counted",
                counts.bindings as u64,
            ),
            (
                "backbone_queue_messages",
                "Messages ready or unacknowledged",
                ready + unacked,
            ),
            (
                "backbone_queue_messages_ready",
                "Messages ready to be delivered",
                ready,
            ),
            (
                "backbone_queue_messages_unacked",
                "Messages delivered and not acknowledged",
                unacked,
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
        ];
        for (metric, help, value) in gauges {
            samples.gauge(metric, help, &[], value as f64);
        }
        for (level, count) in by_level {
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
            published as f64,
        );
    }
}
