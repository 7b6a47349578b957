//! The threads on a real directory: what listeners hear, and a kill without warning.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "ranges are what is settled"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backbone_log::{Batch, Config, Disk, Health, Listener, Log, RealDisk, Reason, SimDisk, Target};
use parking_lot::{Condvar, Mutex};

use common::Directory;

fn config() -> Config {
    Config {
        segment_bytes: 1 << 20,
        ..Config::default()
    }
}

fn open(directory: &Directory, direct: bool) -> Log {
    let disk = RealDisk::new(directory.path(), direct).expect("a directory");
    Log::open(Arc::new(disk), config(), |_| ())
        .expect("opens")
        .0
}

#[derive(Default)]
struct Waiter {
    synced: Mutex<u64>,
    rung: Condvar,
    calls: AtomicU64,
}

impl Listener for Waiter {
    fn progressed(&self, written: u64, synced: u64) {
        assert!(synced <= written);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut known = self.synced.lock();
        *known = (*known).max(synced);
        self.rung.notify_all();
    }
}

impl Waiter {
    fn wait(&self, lsn: u64) {
        let mut synced = self.synced.lock();
        while *synced < lsn {
            self.rung.wait(&mut synced);
        }
    }
}

fn publish_and_settle(directory: &Directory, direct: bool, quietly: bool) {
    let log = open(directory, direct);
    let waiter = Arc::new(Waiter::default());
    log.listen(waiter.clone());
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    std::thread::scope(|scope| {
        for queue in 0..4 {
            let (log, waiter) = (log.clone(), waiter.clone());
            scope.spawn(move || {
                for round in 0..100_u64 {
                    let mut batch = Batch::with_buffer(log.buffer());
                    for seq in round * 20..round * 20 + 20 {
                        let target = Target { queue, seq };
                        batch.publish(&[target], false, |out| {
                            out.resize(out.len() + 500, queue as u8)
                        });
                    }
                    batch.settle(queue, &[0..round * 20], Reason::Ack);
                    let appended = match quietly {
                        true => log.append_quietly(&mut batch),
                        false => log.append(&mut batch),
                    };
                    let appended = appended.expect("appends");
                    if quietly {
                        log.write_soon();
                    }
                    waiter.wait(appended.lsn);
                    assert!(log.synced() >= appended.lsn);
                }
            });
        }
    });
    assert!(waiter.calls.load(Ordering::Relaxed) >= 100);
    // No clean end: the threads stop and the log is dropped.
    drop(running);
    drop(log);
    let log = open(directory, direct);
    for queue in 0..4 {
        let left = log.load(queue, 0, 1000).expect("loads");
        assert_eq!(
            left.iter().map(|l| l.seq).collect::<Vec<_>>(),
            (1980..2000).collect::<Vec<u64>>()
        );
        for located in left {
            let chunk = log.read(located.position, located.len).expect("reads");
            let payload = chunk.get(located.position, located.len).expect("is there");
            assert_eq!(payload, vec![queue as u8; 500]);
        }
    }
}

#[test]
fn what_was_reported_as_synced_is_there_after_the_end() {
    publish_and_settle(&Directory::new("threads"), false, false);
}

#[test]
fn direct_writes_do_the_same() {
    publish_and_settle(&Directory::new("threads-direct"), true, false);
}

#[test]
fn those_who_append_may_write_as_well() {
    publish_and_settle(&Directory::new("threads-inline"), false, true);
    publish_and_settle(&Directory::new("threads-inline-direct"), true, true);
}

#[test]
fn who_appends_quietly_writes_it_where_threads_run_that_sync_it() {
    let (log, _) = Log::open(Arc::new(SimDisk::new()), config(), |_| ()).expect("opens");
    let mut seq = 0;
    let mut publish = || {
        let mut batch = Batch::new();
        batch.publish(&[Target { queue: 1, seq }], false, |out| out.push(1));
        seq += 1;
        let lsn = log.append_quietly(&mut batch).expect("appends").lsn;
        log.write_soon();
        lsn
    };
    let lsn = publish();
    assert!(log.written() < lsn, "without threads the steps write");
    let waiter = Arc::new(Waiter::default());
    log.listen(waiter.clone());
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    // A write may be slow on a busy machine, or the log's thread be at it. But not always.
    loop {
        let lsn = publish();
        let at_once = log.written() >= lsn;
        waiter.wait(lsn);
        if at_once {
            break;
        }
    }
    drop(running);
}

#[test]
fn what_nobody_waits_for_is_synced_all_the_same() {
    let (log, _) = Log::open(Arc::new(SimDisk::new()), config(), |_| ()).expect("opens");
    let waiter = Arc::new(Waiter::default());
    log.listen(waiter.clone());
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    let mut batch = Batch::new();
    batch.publish(&[Target { queue: 1, seq: 0 }], false, |out| out.push(1));
    batch.relax();
    let lsn = log.append_quietly(&mut batch).expect("appends").lsn;
    // Not even told that there is something to write.
    waiter.wait(lsn);
    drop(running);
}

#[test]
fn a_write_that_fails_where_it_was_appended_fails_the_log() {
    let disk = SimDisk::new();
    let (log, _) = Log::open(Arc::new(disk.clone()), config(), |_| ()).expect("opens");
    let before = log.written();
    let running = log.start(drop).expect("starts");
    // Housekeeping writes too.
    disk.fail_writes(1000);
    let mut batch = Batch::new();
    batch.publish(&[Target { queue: 1, seq: 0 }], false, |out| out.push(1));
    log.append_quietly(&mut batch).expect("appends");
    log.write_soon();
    // By whichever thread.
    while log.health() == Health::Open {
        std::thread::yield_now();
    }
    log.write_soon();
    drop(running);
    assert!(matches!(log.health(), Health::Failed { .. }));
    assert_eq!((log.written(), log.synced()), (before, before));
}

#[test]
fn a_clean_stop_leaves_nothing_to_replay() {
    let directory = Directory::new("stop");
    let log = open(&directory, false);
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    let mut batch = Batch::new();
    batch.publish(&[Target { queue: 1, seq: 0 }], false, |out| out.push(1));
    batch.define(b"key", b"value");
    log.append(&mut batch).expect("appends");
    running.stop().expect("stops");
    drop(log);
    let disk = RealDisk::new(directory.path(), false).expect("a directory");
    let (log, recovered) = Log::open(Arc::new(disk), config(), |_| ()).expect("opens");
    assert_eq!(recovered.replayed, 0);
    assert_eq!(log.load(1, 0, 9).expect("loads").len(), 1);
    assert_eq!(log.definitions().len(), 1);
}

#[test]
fn only_a_new_directory_is_measured_and_nothing_is_left_of_it() {
    for direct in [false, true] {
        let directory = Directory::new(if direct { "measure-direct" } else { "measure" });
        let disk = RealDisk::new(directory.path(), direct).expect("a directory");
        let measured = backbone_log::measure_sync(&disk).expect("measures");
        assert!(measured.is_some_and(|sync| !sync.is_zero()), "{measured:?}");
        assert!(disk.list().expect("lists").is_empty());
        let disk: Arc<dyn Disk> = Arc::new(disk);
        drop(Log::open(Arc::clone(&disk), config(), |_| ()).expect("opens"));
        let again = backbone_log::measure_sync(&*disk).expect("looks");
        assert_eq!(again, None);
    }
}

#[test]
fn the_numbers_can_be_read_while_housekeeping_is_busy() {
    let directory = Directory::new("observe");
    let log = open(&directory, false);
    let waiter = Arc::new(Waiter::default());
    log.listen(waiter.clone());
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    let mut batch = Batch::new();
    for seq in 0..10 {
        batch.publish(&[Target { queue: 1, seq }], false, |out| out.push(1));
        waiter.wait(log.append(&mut batch).expect("appends").lsn);
    }
    let observed = log.observe();
    assert_eq!((observed.stats.appended, observed.stats.synced), (10, 10));
    assert_eq!(observed.stats.segments, 1);
    assert_eq!((observed.health, observed.damages), (Health::Open, 0));
    let syncs = observed.syncs;
    assert!(syncs.count >= 10 && !syncs.sum.is_zero(), "{syncs:?}");
    assert!(syncs.up_to.iter().all(|(_, count)| *count <= syncs.count));
    running.stop().expect("stops");
}

struct Panics(Arc<Waiter>);

impl Listener for Panics {
    fn progressed(&self, written: u64, synced: u64) {
        self.0.progressed(written, synced.max(written));
        panic!("as the test wants");
    }
}

#[test]
fn a_log_whose_thread_panicked_says_that_it_failed() {
    let directory = Directory::new("panic");
    let log = open(&directory, false);
    let waiter = Arc::new(Waiter::default());
    log.listen(Arc::new(Panics(waiter.clone())));
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    let mut batch = Batch::new();
    batch.define(b"key", b"value");
    waiter.wait(log.append(&mut batch).expect("appends").lsn);
    drop(running);
    assert!(matches!(log.health(), Health::Failed { .. }));
    batch.define(b"key", b"value");
    assert!(log.append(&mut batch).is_err());
}

#[test]
fn what_found_no_room_is_written_when_there_is_some_although_nobody_appends() {
    let disk = SimDisk::new();
    let (log, _) = Log::open(Arc::new(disk.clone()), config(), |_| ()).expect("opens");
    let waiter = Arc::new(Waiter::default());
    log.listen(waiter.clone());
    let mut batch = Batch::new();
    batch.publish(&[Target { queue: 1, seq: 0 }], false, |out| out.push(1));
    let lsn = log.append(&mut batch).expect("appends").lsn;
    disk.fail_writes_for_room(2);
    let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
    waiter.wait(lsn);
    drop(running);
    assert_eq!(log.synced(), lsn);
}

#[test]
fn a_log_can_be_started_again() {
    let directory = Directory::new("again");
    let log = open(&directory, false);
    let waiter = Arc::new(Waiter::default());
    log.listen(waiter.clone());
    for _ in 0..3 {
        let running = log.start(|trouble| panic!("{trouble}")).expect("starts");
        let mut batch = Batch::new();
        batch.define(b"key", b"value");
        waiter.wait(log.append(&mut batch).expect("appends").lsn);
        running.stop().expect("stops");
    }
}
