//! The log against a model, on a disk that crashes in the middle of every call.
//!
//! A script of random operations runs once; the disk keeps a snapshot of each call that changes something.
//! Each snapshot is made to lose power, opened, and has to be exactly the fold of a prefix of what was
//! appended: at least what had been promised at that moment, each batch whole or not at all, every message
//! as often as its queues say, in order, nothing settled back. Then it goes on, and crashes again.
//!
//! `BACKBONE_LOG_SCRIPTS` sets the number of scripts, each has some hundred crash points;
//! `BACKBONE_LOG_FIRST_SCRIPT` the first, to see one again or to go on elsewhere. Long runs say how far they are.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "ranges are what is settled"
)]

mod model;
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backbone_log::{Config, Counts, Disk, Listener, Log, SimDisk, Survey};

use parking_lot::Mutex;

use model::{Fold, Model, Random};
use script::Script;

const SCRIPTS: u64 = 60;
/// After so many scripts a long run says how far it is.
const TOLD_EVERY: u64 = 250;

/// Tiny limits, so that everything happens often.
fn config() -> Config {
    Config {
        segment_bytes: 16 << 10,
        tail_bytes: 4 << 10,
        waiting_bytes_max: 8 << 10,
        cached_blocks_max: 2,
        block_bytes: 2 << 10,
        reserve_segments: 1,
        spare_segments_max: 2,
        copy_below_percent: 45,
        copy_bytes_a_step: 2 << 10,
        batch_bytes_max: 1 << 20,
    }
}

fn open(disk: &SimDisk) -> (Log, backbone_log::Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Log::open(disk, config(), |_| ()).expect("the log opens")
}

/// Tells the disk what was promised.
struct Promises(Arc<AtomicU64>);

impl Listener for Promises {
    fn progressed(&self, written: u64, synced: u64) {
        assert!(synced <= written);
        self.0.store(synced, Ordering::SeqCst);
    }
}

/// No crash leaves anything that a survey takes for damage.
fn verify(disk: &SimDisk, context: &str) {
    let disk: Arc<dyn Disk> = Arc::new(disk.after_kill());
    let survey = Survey::open(disk, |_| ()).expect("it can be looked at");
    let damages = survey
        .verify(|_| ())
        .expect("the disk gives everything back");
    assert!(
        damages.is_empty(),
        "{context}: a crash is no damage: {damages:?}"
    );
}

/// Opens what a power loss left, and compares; gives the log that goes on.
fn recover(disk: &SimDisk, model: &Model, promised: u64, context: &str) -> (Log, u64) {
    let (log, recovered) = open(disk);
    let last = recovered.last;
    assert!(last >= promised, "{context}: {last} of {promised} promised");
    assert!(
        recovered.damages.is_empty(),
        "{context}: a crash is no damage: {:?}",
        recovered.damages
    );
    Fold::of(model, last, false).compare(&log, context);
    assert!(log.damages().is_empty(), "{context}: {:?}", log.damages());
    (log, last)
}

fn crash_everywhere(seed: u64, counts: &Mutex<Counts>) -> u64 {
    let promised = Arc::new(AtomicU64::new(0));
    let disk = SimDisk::new();
    let mut random = Random(seed);
    disk.set_short_writes(random.below(4) == 0);
    disk.set_alignment(if random.below(3) == 0 { 4096 } else { 1 });
    disk.record(Arc::clone(&promised));
    let (log, _) = open(&disk);
    log.listen(Arc::new(Promises(promised)));
    let mut script = Script::new(log, seed);
    let mut crashes = 0;
    for step in 0..120 {
        script.step();
        for (n, snapshot) in disk.take_snapshots().into_iter().enumerate() {
            crashes += 1;
            let context = format!("seed {seed} step {step} call {n} ({})", snapshot.call);
            let after = snapshot.after_power_loss(random.next());
            if random.below(8) == 0 {
                verify(&after, &context);
            }
            let counter = Arc::new(AtomicU64::new(snapshot.promised));
            after.record(counter);
            let (log, last) = recover(&after, &script.model, snapshot.promised, &context);
            let again = after.take_snapshots();
            drop(log);
            // A crash in the middle of that recovery.
            if !again.is_empty() {
                crashes += 1;
                let inside = &again[random.below(again.len() as u64) as usize];
                let after = inside.after_power_loss(random.next());
                let context = format!("{context}, in the recovery ({})", inside.call);
                recover(&after, &script.model, snapshot.promised, &context);
            }
            // After a recovery everything that it found is durable.
            if random.below(8) == 0 {
                crashes += 1;
                let after = after.after_power_loss(random.next());
                let context = format!("{context}, and after the recovery");
                let (log, _) = recover(&after, &script.model, last, &context);
                crashes += go_on(&after, log, &script.model, last, random.next());
            }
        }
    }
    assert!(
        script.log.damages().is_empty(),
        "{:?}",
        script.log.damages()
    );
    let mut all = counts.lock();
    let these = script.log.stats().counts;
    all.deleted_segments += these.deleted_segments;
    all.copied_segments += these.copied_segments;
    all.copied_bytes += these.copied_bytes;
    all.indexes += these.indexes;
    all.checkpoints += these.checkpoints;
    crashes
}

/// A recovered log takes more, and loses power once more.
fn go_on(disk: &SimDisk, log: Log, model: &Model, last: u64, seed: u64) -> u64 {
    let promised = Arc::new(AtomicU64::new(last));
    disk.record(Arc::clone(&promised));
    log.listen(Arc::new(Promises(promised)));
    let mut script = Script::continued(log, model.until(last), seed);
    for _ in 0..25 {
        script.step();
    }
    assert!(
        script.log.damages().is_empty(),
        "{:?}",
        script.log.damages()
    );
    let mut random = Random(seed);
    let snapshots = disk.take_snapshots();
    if snapshots.is_empty() {
        return 0;
    }
    for _ in 0..3 {
        let snapshot = &snapshots[random.below(snapshots.len() as u64) as usize];
        let after = snapshot.after_power_loss(random.next());
        let context = format!("second life, seed {seed} ({})", snapshot.call);
        recover(&after, &script.model, snapshot.promised, &context);
    }
    3
}

#[test]
fn a_crash_at_any_call_leaves_a_prefix_with_all_that_was_promised() {
    let number = |variable: &str, default| {
        let value = std::env::var(variable);
        value.map_or(default, |n| n.parse().expect("a number"))
    };
    let scripts = number("BACKBONE_LOG_SCRIPTS", SCRIPTS);
    let first = number("BACKBONE_LOG_FIRST_SCRIPT", 0);
    let (next, began) = (AtomicU64::new(0), std::time::Instant::now());
    let crashes = AtomicU64::new(0);
    let counts = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let script = next.fetch_add(1, Ordering::Relaxed);
                    if script >= scripts {
                        return;
                    }
                    let these = crash_everywhere(first + script, &counts);
                    let all = crashes.fetch_add(these, Ordering::Relaxed) + these;
                    if script % TOLD_EVERY == TOLD_EVERY - 1 {
                        let (seconds, done) = (began.elapsed().as_secs(), script + 1);
                        println!("{all} crash points in {done} of {scripts} scripts, {seconds} s");
                    }
                }
            });
        }
    });
    let crashes = crashes.into_inner();
    let counts = counts.into_inner();
    println!("{crashes} crash points in {scripts} scripts: {counts:?}");
    let least = scripts * 2;
    assert!(
        counts.deleted_segments > least && counts.copied_segments > scripts / 2,
        "the scripts do not do what they should: {counts:?}"
    );
    assert!(
        counts.indexes > scripts && counts.checkpoints > least,
        "{counts:?}"
    );
    assert!(crashes > 200 * scripts, "only {crashes} crash points");
}
