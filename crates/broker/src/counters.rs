//! Counts of what happened, for metrics. Each is raised once a batch, not once a message.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::death::Cause;

macro_rules! counters {
    ($($name:ident = $metric:literal: $help:literal,)*) => {
        /// Totals since start. Names follow RabbitMQ's metric stems.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Each counter's metric, what it counts, and its value.
            pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$(($metric, $help, self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    messages_received = "backbone_global_messages_received_total": "Messages received from publishers.",
    messages_received_confirm = "backbone_global_messages_received_confirm_total": "Messages received on channels with publisher confirms.",
    messages_routed = "backbone_global_messages_routed_total": "Copies of messages put into queues.",
    messages_confirmed = "backbone_global_messages_confirmed_total": "Messages confirmed to publishers.",
    messages_unroutable_dropped = "backbone_channel_messages_unroutable_dropped_total": "Messages that no queue took, dropped.",
    messages_unroutable_returned = "backbone_channel_messages_unroutable_returned_total": "Mandatory messages that no queue took, returned.",
    messages_delivered_consume_auto_ack = "backbone_global_messages_delivered_consume_auto_ack_total": "Messages delivered to consumers without acknowledgement.",
    messages_delivered_consume_manual_ack = "backbone_global_messages_delivered_consume_manual_ack_total": "Messages delivered to consumers that acknowledge.",
    messages_delivered_get_auto_ack = "backbone_global_messages_delivered_get_auto_ack_total": "Messages fetched by basic.get without acknowledgement.",
    messages_delivered_get_manual_ack = "backbone_global_messages_delivered_get_manual_ack_total": "Messages fetched by basic.get that are acknowledged.",
    messages_get_empty = "backbone_global_messages_get_empty_total": "basic.get that found nothing.",
    messages_redelivered = "backbone_global_messages_redelivered_total": "Messages delivered again after they came back.",
    messages_acknowledged = "backbone_global_messages_acknowledged_total": "Messages acknowledged or rejected without requeue.",
    messages_dead_lettered_rejected = "backbone_global_messages_dead_lettered_rejected_total": "Messages dead-lettered because a consumer rejected them.",
    messages_dead_lettered_expired = "backbone_global_messages_dead_lettered_expired_total": "Messages dead-lettered because their time was up.",
    messages_dead_lettered_maxlen = "backbone_global_messages_dead_lettered_maxlen_total": "Messages dead-lettered because there was no room for them.",
    messages_dead_lettered_delivery_limit = "backbone_global_messages_dead_lettered_delivery_limit_total": "Messages dead-lettered because they came back too often.",
    messages_dead_letter_circles = "backbone_global_messages_dead_letter_circles_total": "Dead letters dropped because they went in a circle.",
    messages_acknowledgement_timeouts = "backbone_global_messages_acknowledgement_timeouts_total": "Deliveries that were not acknowledged in time.",
    messages_refused = "backbone_global_messages_refused_total": "Messages that a queue refused because it had no room.",
    messages_deduplicated = "backbone_global_messages_deduplicated_total": "Messages dropped because they came before.",
    queues_declared = "backbone_queues_declared_total": "Queues created.",
    queues_deleted = "backbone_queues_deleted_total": "Queues deleted.",
    channels_opened = "backbone_channels_opened_total": "Channels opened.",
    channels_closed = "backbone_channels_closed_total": "Channels closed.",
}

impl Counters {
    /// The counter of dead letters that died of this.
    pub(crate) fn dead_lettered(&self, cause: Cause) -> &AtomicU64 {
        match cause {
            Cause::Rejected => &self.messages_dead_lettered_rejected,
            Cause::Expired => &self.messages_dead_lettered_expired,
            Cause::MaxLen => &self.messages_dead_lettered_maxlen,
            Cause::DeliveryLimit => &self.messages_dead_lettered_delivery_limit,
        }
    }
}

/// Raises `counter` by `count`; nothing is touched for 0.
pub fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
