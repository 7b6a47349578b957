//! What the hot path allocates once its buffers have their size.

use allocation_counter::measure;
use backbone_benches::find;

const WARM_UP_BATCHES: usize = 20;
const BATCHES: usize = 200;

/// Allocations in 200 batches, new sizes of old ones counted too.
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
    let count = info.count_total;
    let batches = count as f64 / BATCHES as f64;
    let messages = batches / workload.batch as f64;
    println!("{name}: {batches} allocations a batch, {messages:.5} a message");
    count
}

#[test]
fn plain_publish_to_deliver() {
    allocations("publish_deliver_16");
}
#[test]
fn bus() {
    allocations("bus_fused_16");
}
#[test]
fn others() {
    for w in backbone_benches::WORKLOADS { allocations(w.name); }
}
