//! What the hot path allocates once its buffers have their size.

use allocation_counter::measure;
use backbone_benches::{WORKLOADS, find};

const WARM_UP_BATCHES: usize = 20;
const BATCHES: usize = 200;
/// Each committed batch is stored in memory of its own size: its bytes, and the count of those
/// who refer to them.
const STORE_A_BATCH: u64 = 2;

/// Allocations in [`BATCHES`] batches; one that was made larger counts again.
fn allocations(name: &str) -> u64 {
    let workload = find(name).expect("a workload");
    let mut batch = (workload.make)();
    for _ in 0..WARM_UP_BATCHES {
        batch();
    }
    let info = measure(|| {
        for _ in 0..BATCHES {
            batch();
        }
    });
    let a_batch = info.count_total as f64 / BATCHES as f64;
    let a_message = a_batch / workload.batch as f64;
    println!("{name}: {a_batch} allocations a batch, {a_message:.5} a message");
    assert_eq!(info.count_current, 0, "{name} leaks or grows");
    info.count_total
}

#[test]
fn publish_to_delivery_allocates_nothing_but_the_batch_that_is_stored() {
    let plain = [
        "publish_deliver_16",
        "publish_deliver_confirm_ack_16",
        "queues_1000_in_turn",
        "publish_deliver_as_bus_16",
        "publish_deliver_as_bus_topics_16",
        "topic_1000_bindings",
    ];
    for name in plain {
        assert_eq!(allocations(name), BATCHES as u64 * STORE_A_BATCH, "{name}");
    }
}

#[test]
fn the_fused_bus_path_allocates_nothing_but_the_batch_that_is_stored() {
    for name in ["bus_fused_16", "bus_fused_topics_16"] {
        assert_eq!(allocations(name), BATCHES as u64 * STORE_A_BATCH, "{name}");
    }
}

#[test]
fn decoding_routing_and_queueing_allocate_nothing() {
    for name in ["decode_16", "route_1", "route_1000", "route_10000"] {
        assert_eq!(allocations(name), 0, "{name}");
    }
}

#[test]
fn every_workload_runs() {
    for workload in WORKLOADS {
        let mut batch = (workload.make)();
        for _ in 0..3 {
            batch();
        }
    }
}
