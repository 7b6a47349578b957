//! What is durable of a vhost, on a disk that crashes in the middle of every call.
//!
//! Random changes are made to a vhost on a simulated disk, with messages in between; after each, what it then has of durable
//! things is remembered with the number of the log's last batch. Each call of the disk is a place for a power loss: what a
//! new vhost restores from the rest has to be what was remembered for the last batch that survived, and that batch no
//! earlier than what had been promised. Then it goes on, and crashes again.
//!
//! `BACKBONE_DEFINITIONS_SCRIPTS` sets the number of scripts.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod barrier;
mod leftovers;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod world;

use support::Rng;
use world::World;

const SCRIPTS: u64 = 40;
const STEPS: usize = 150;

#[test]
fn a_crash_at_any_call_leaves_what_was_durable_then() {
    let scripts = std::env::var("BACKBONE_DEFINITIONS_SCRIPTS");
    let scripts = scripts.map_or(SCRIPTS, |n| n.parse().unwrap());
    let (mut crashes, mut richest) = (0, 0);
    for seed in 0..scripts {
        let mut rng = Rng(seed);
        let mut world = World::new();
        for step in 0..STEPS {
            world.step(&mut rng);
            richest = richest.max(world.now().bindings.len());
            for snapshot in world.disk.take_snapshots() {
                crashes += 1;
                let context = format!("seed {seed}, step {step} ({})", snapshot.call);
                let disk = snapshot.after_power_loss(rng.next());
                let mut again = world.recover(disk, snapshot.promised, &context);
                if rng.once_in(20) {
                    crashes += again.live_on(&mut rng, &context);
                }
            }
        }
        world.restart_cleanly(&format!("seed {seed}, at the end"));
    }
    println!("{crashes} crash points in {scripts} scripts");
    assert!(crashes > 30 * scripts, "only {crashes} crash points");
    assert!(richest > 8, "never more than {richest} bindings");
}
