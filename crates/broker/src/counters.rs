//! Counts of what happened, for metrics. Each is raised once a batch, not once a message.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident: $help:literal,)*) => {
        /// Totals since start. Names follow RabbitMQ's metric stems.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Each counter's name, what it counts, and its value.
            pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $help, self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    messages_received: "Messages received from publishers.",
    messages_received_confirm: "Messages received on channels with publisher confirms.",
    messages_routed: "Copies of messages put into queues.",
    messages_confirmed: "Messages confirmed to publishers.",
    messages_unroutable_dropped: "Messages that no queue took, dropped.",
    messages_unroutable_returned: "Mandatory messages that no queue took, returned.",
    messages_delivered_consume_auto_ack: "Messages delivered to consumers without acknowledgement.",
    messages_delivered_consume_manual_ack: "Messages delivered to consumers that acknowledge.",
    messages_delivered_get_auto_ack: "Messages fetched by basic.get without acknowledgement.",
    messages_delivered_get_manual_ack: "Messages fetched by basic.get that are acknowledged.",
    messages_get_empty: "basic.get that found nothing.",
    messages_redelivered: "Messages delivered again after they came back.",
    messages_acknowledged: "Messages acknowledged or rejected without requeue.",
    queues_declared: "Queues created.",
    queues_deleted: "Queues deleted.",
    channels_opened: "Channels opened.",
    channels_closed: "Channels closed.",
}

/// Raises `counter` by `count`; nothing is touched for 0.
pub fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
