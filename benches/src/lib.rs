//! Fixed workloads over the broker's hot path, without sockets, clocks or threads.
//!
//! A workload is made once, with everything that it needs, and then run batch by batch; each
//! batch does the same. So the difference between two runs of different length is what the
//! batches cost: `scripts/instructions` counts instructions that way, `tests/allocations.rs`
//! counts allocations, and the program `hot_path` looks at the clock.

mod bus;
mod durable;
mod features;
mod parts;
mod peer;
mod queues;

/// One workload.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// What it is called on the command line and in tables.
    pub name: &'static str,
    /// Messages in a batch.
    pub batch: usize,
    /// Sets it up. What comes out runs one batch, each time that it is called.
    pub make: fn() -> Box<dyn FnMut()>,
}

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "publish_deliver_16",
        batch: queues::BATCH,
        make: queues::publish_deliver,
    },
    Workload {
        name: "publish_deliver_confirm_ack_16",
        batch: queues::BATCH,
        make: queues::publish_deliver_confirm_ack,
    },
    Workload {
        name: "durable_confirm_ack_16",
        batch: queues::BATCH,
        make: durable::one,
    },
    Workload {
        name: "durable_1000_in_turn",
        batch: queues::BATCH,
        make: durable::in_turn,
    },
    Workload {
        name: "fanout10_1k",
        batch: queues::FANOUT_BATCH,
        make: queues::fanout,
    },
    Workload {
        name: "queues_1000_in_turn",
        batch: queues::BATCH,
        make: queues::in_turn,
    },
    Workload {
        name: "topic_1000_bindings",
        batch: queues::BATCH,
        make: queues::topic,
    },
    Workload {
        name: "bus_fused_16",
        batch: bus::BATCH,
        make: bus::fused,
    },
    Workload {
        name: "publish_deliver_as_bus_16",
        batch: bus::BATCH,
        make: bus::plain,
    },
    Workload {
        name: "bus_fused_topics_16",
        batch: bus::BATCH,
        make: bus::fused_topics,
    },
    Workload {
        name: "publish_deliver_as_bus_topics_16",
        batch: bus::BATCH,
        make: bus::plain_topics,
    },
    Workload {
        name: "priorities_16",
        batch: queues::BATCH,
        make: features::priorities,
    },
    Workload {
        name: "time_to_live_16",
        batch: queues::BATCH,
        make: features::time_to_live,
    },
    Workload {
        name: "dead_letters_16",
        batch: queues::BATCH,
        make: features::dead_letters,
    },
    Workload {
        name: "headers_16",
        batch: queues::BATCH,
        make: features::headers,
    },
    Workload {
        name: "decode_16",
        batch: parts::BATCH,
        make: parts::decode,
    },
    Workload {
        name: "route_1",
        batch: parts::BATCH,
        make: parts::route::<1>,
    },
    Workload {
        name: "route_1000",
        batch: parts::BATCH,
        make: parts::route::<1_000>,
    },
    Workload {
        name: "route_10000",
        batch: parts::BATCH,
        make: parts::route::<10_000>,
    },
    Workload {
        name: "queue_push_fetch",
        batch: parts::BATCH,
        make: parts::queue,
    },
];

/// The workload `name`.
pub fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}
