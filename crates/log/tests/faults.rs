//! Disks that fail: nothing confirmed is lost, nothing lost is confirmed, and the log says what it can do.

mod common;

use std::sync::Arc;

use backbone_log::{Batch, Disk, Health, Log, LogError, RealDisk, Reason, SimDisk, Target};

use common::{config, open, publish, queue, settle_down, try_publish};

fn sync(log: &Log) -> backbone_log::Result<()> {
    log.write_step()?;
    log.sync_step()?;
    Ok(())
}

#[test]
fn nothing_is_promised_before_its_step() {
    let log = open(&SimDisk::new());
    let lsn = publish(&log, 1, 0, b"a").lsn;
    assert!(log.written() < lsn);
    log.write_step().expect("writes");
    assert!(log.written() >= lsn && log.synced() < lsn);
    log.sync_step().expect("syncs");
    assert!(log.synced() >= lsn);
}

#[test]
fn a_failed_write_stops_the_log_until_it_is_opened_again() {
    let disk = SimDisk::new();
    let log = open(&disk);
    publish(&log, 1, 0, b"safe");
    sync(&log).expect("syncs");
    let safe = log.synced();
    publish(&log, 1, 1, &[7; 4000]);
    disk.fail_writes(1);
    assert!(matches!(log.write_step(), Err(LogError::Io { .. })));
    assert!(matches!(log.health(), Health::Failed { .. }));
    assert_eq!((log.written(), log.synced()), (safe, safe));
    let refused = try_publish(&log, 1, 2, b"refused");
    assert!(matches!(refused, Err(LogError::Failed(_))));
    assert!(matches!(log.sync_step(), Err(LogError::Failed(_))));
    assert_eq!(queue(&log, 1)[0], b"safe", "it can still be read");
    drop(log);
    let log = open(&disk.after_power_loss(1));
    assert_eq!(queue(&log, 1), [b"safe"]);
    publish(&log, 1, 1, b"again");
    sync(&log).expect("syncs");
}

#[test]
fn a_failed_sync_is_never_tried_again_as_if_nothing_had_happened() {
    let disk = SimDisk::new();
    let log = open(&disk);
    publish(&log, 1, 0, b"safe");
    sync(&log).expect("syncs");
    let safe = log.synced();
    publish(&log, 1, 1, b"unsure");
    disk.fail_syncs(1);
    log.write_step().expect("writes");
    assert!(matches!(log.sync_step(), Err(LogError::Io { .. })));
    assert!(matches!(log.sync_step(), Err(LogError::Failed(_))));
    assert!(matches!(log.write_step(), Err(LogError::Failed(_))));
    assert_eq!(log.synced(), safe);
    drop(log);
    // The kernel believes that the pages are clean. Opening must not believe it: what it finds and
    // builds on has to be on the disk.
    let disk = disk.after_kill();
    let log = open(&disk);
    assert_eq!(queue(&log, 1), [&b"safe"[..], b"unsure"]);
    drop(log);
    let log = open(&disk.after_power_loss(3));
    assert_eq!(queue(&log, 1), [&b"safe"[..], b"unsure"]);
}

#[test]
fn a_full_disk_refuses_messages_and_takes_settlements_and_resumes_by_itself() {
    let disk = SimDisk::new();
    let log = open(&disk);
    while log.maintain().expect("keeps house") {}
    disk.set_capacity(disk.used_bytes() + (100 << 10));
    let mut seq = 0;
    let full = loop {
        match try_publish(&log, 1, seq, &[1; 1000]) {
            Ok(_) => seq += 1,
            Err(error) => break error,
        }
        sync(&log).expect("syncs");
        assert!(seq < 1000, "the disk never got full");
    };
    assert!(matches!(full, LogError::Full) && log.health() == Health::Full);
    // Settlements alone, many of them, more than fit into the segment that was open.
    let mut settled = 0;
    while settled < seq - 1 {
        let mut batch = Batch::new();
        let ranges: Vec<_> = (0..40).map(|n| settled..settled + 1 + n % 2).collect();
        batch.settle(1, &ranges, Reason::Ack);
        settled += 1;
        log.append(&mut batch).expect("settles on a full disk");
        sync(&log).expect("syncs");
        log.maintain().expect("keeps house");
    }
    for _ in 0..50 {
        sync(&log).expect("syncs");
        log.maintain().expect("keeps house");
    }
    assert_eq!(log.health(), Health::Open, "{:?}", log.stats());
    try_publish(&log, 1, seq, b"again").expect("takes messages again");
    sync(&log).expect("syncs");
    let log = open(&disk.after_power_loss(5));
    assert_eq!(queue(&log, 1).last().expect("something"), b"again");
    assert!(queue(&log, 1).len() <= 3);
}

#[test]
fn a_write_without_room_is_tried_again() {
    // Where room is not allocated in advance, it may be missing at the write.
    let disk = SimDisk::new();
    let log = open(&disk);
    let lsn = publish(&log, 1, 0, b"a").lsn;
    disk.fail_writes_for_room(2);
    for _ in 0..2 {
        assert!(matches!(log.write_step(), Err(LogError::Full)));
        assert_eq!(log.health(), Health::Full);
        assert!(log.written() < lsn);
    }
    publish(&log, 1, 1, b"b");
    sync(&log).expect("there is room now");
    log.maintain().expect("keeps house");
    assert_eq!(log.health(), Health::Open);
    assert_eq!(queue(&open(&disk.after_power_loss(0)), 1), [b"a", b"b"]);
}

#[test]
fn a_read_only_disk_fails_the_log_and_leaves_what_was_safe() {
    let disk = SimDisk::new();
    let log = open(&disk);
    publish(&log, 1, 0, b"safe");
    sync(&log).expect("syncs");
    publish(&log, 1, 1, b"lost");
    disk.set_read_only(true);
    assert!(log.write_step().is_err());
    assert!(matches!(log.health(), Health::Failed { .. }));
    disk.set_read_only(false);
    assert_eq!(queue(&open(&disk.after_power_loss(0)), 1), [b"safe"]);
}

#[test]
fn short_writes_are_completed() {
    let disk = SimDisk::new();
    disk.set_short_writes(true);
    let log = open(&disk);
    for seq in 0..20 {
        publish(&log, 1, seq, &[seq as u8; 3000]);
    }
    sync(&log).expect("syncs");
    let log = open(&disk.after_power_loss(0));
    assert_eq!(queue(&log, 1).len(), 20);
}

#[test]
fn a_second_process_is_told() {
    let disk = SimDisk::new();
    let _log = open(&disk);
    let again = Log::open(Arc::new(disk), config(), |_| ());
    assert!(matches!(again, Err(LogError::Locked)));
    let directory = common::Directory::new("locked");
    let first = RealDisk::new(directory.path(), false).expect("a directory");
    first.lock().expect("locks");
    let second = RealDisk::new(directory.path(), false).expect("a directory");
    let again = Log::open(Arc::new(second), config(), |_| ());
    assert!(matches!(again, Err(LogError::Locked)));
}

#[test]
fn a_file_that_cannot_be_opened_now_is_not_taken_for_lost() {
    let disk = SimDisk::new();
    let log = open(&disk);
    for seq in 0..60 {
        publish(&log, 1, seq, &[seq as u8; 700]);
    }
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    drop(log);
    let wanted: Vec<_> = (0..60).step_by(12).map(|seq| vec![seq; 700]).collect();
    for failures in 1..8 {
        let disk = disk.after_kill();
        let log = open(&disk);
        disk.fail_opens(failures);
        for _ in 0..=failures {
            // The index and the segment behind it: neither may be given up.
            let _ = log.load(1, 0, 100);
        }
        disk.fail_opens(0);
        assert_eq!(queue(&log, 1).len(), 60, "{failures} failures");
        // The same while segments are copied.
        let mut batch = Batch::new();
        let ranges: Vec<_> = (0..60).step_by(12).map(|n| n + 1..n + 12).collect();
        batch.settle(1, &ranges, Reason::Ack);
        log.append(&mut batch).expect("settles");
        drop(log);
        for at in 0..20 {
            let disk = disk.after_kill();
            let log = open(&disk);
            let mut batch = Batch::new();
            batch.settle(1, &ranges, Reason::Ack);
            log.append(&mut batch).expect("settles");
            for step in 0..60 {
                sync(&log).expect("syncs");
                if step == at {
                    disk.fail_opens(failures);
                }
                let _ = log.maintain();
            }
            disk.fail_opens(0);
            settle_down(&log);
            assert_eq!(queue(&log, 1), wanted, "{failures} failures at {at}");
            assert!(log.damages().is_empty(), "{:?}", log.damages());
        }
    }
}

#[test]
fn too_many_open_files_are_no_failure_of_the_log() {
    for failures in 1..6 {
        let disk = SimDisk::new();
        let log = open(&disk);
        disk.fail_files(failures);
        let (mut seq, mut refused) = (0, 0);
        while seq < 60 {
            match try_publish(&log, 1, seq, &[1; 1000]) {
                Ok(_) => seq += 1,
                Err(LogError::Full) => {
                    refused += 1;
                    assert_eq!(log.health(), Health::NoFiles, "the disk is not full");
                }
                Err(other) => panic!("{other}"),
            }
            assert!(refused <= failures, "it never takes messages again");
            sync(&log).expect("syncs");
            // It says what is wrong, and goes on the next time.
            let _ = log.maintain();
        }
        settle_down(&log);
        assert_eq!(log.health(), Health::Open);
        assert_eq!(queue(&open(&disk.after_power_loss(2)), 1).len(), 60);
    }
}

/// Counts how often the log says that it can do less, or more.
#[derive(Default)]
struct Changes(std::sync::atomic::AtomicU32);

impl backbone_log::Listener for Changes {
    fn progressed(&self, _: u64, _: u64) {}
    fn health_changed(&self, _: &Health) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_disk_that_finds_no_room_only_when_written_to_is_full_until_it_finds_some() {
    let disk = SimDisk::new();
    let log = open(&disk);
    let changes = Arc::new(Changes::default());
    log.listen(changes.clone());
    let count = || changes.0.load(std::sync::atomic::Ordering::Relaxed);
    publish(&log, 1, 0, b"a");
    disk.fail_writes_for_room(1000);
    for _ in 0..20 {
        assert!(matches!(log.write_step(), Err(LogError::Full)));
        log.maintain().expect("keeps house");
        assert_eq!((log.health(), count()), (Health::Full, 1));
    }
    // One write went through; that is not yet room for more.
    disk.fail_writes_for_room(0);
    disk.set_capacity(disk.used_bytes() + 1000);
    sync(&log).expect("there is room for this");
    for _ in 0..5 {
        log.maintain().expect("keeps house");
        assert_eq!((log.health(), count()), (Health::Full, 1));
    }
    disk.set_capacity(u64::MAX);
    log.maintain().expect("keeps house");
    assert_eq!((log.health(), count()), (Health::Open, 2));
}

#[test]
fn a_checkpoint_that_waits_for_a_slow_disk_is_not_replaced_for_ever() {
    let log = open(&SimDisk::new());
    let mut seq = 0;
    for _ in 0..6 {
        // A segment is full before the one before it is synced.
        let segment = publish(&log, 1, seq, &[1; 1000]).segment;
        seq += 1;
        while publish(&log, 1, seq, &[1; 1000]).segment == segment {
            seq += 1;
        }
        seq += 1;
        log.maintain().expect("keeps house");
        sync(&log).expect("syncs");
    }
    let checkpoints = log.stats().counts.checkpoints;
    assert!(checkpoints >= 3, "{checkpoints} checkpoints");
}

#[test]
fn a_batch_is_bounded() {
    let log = open(&SimDisk::new());
    let mut batch = Batch::new();
    batch.publish(&[Target { queue: 1, seq: 0 }], false, |out| {
        out.resize(2 << 20, 0)
    });
    let refused = log.append(&mut batch);
    assert!(matches!(refused, Err(LogError::TooLarge { .. })));
    assert!(!batch.is_empty());
}

#[test]
fn more_than_may_wait_is_said() {
    let log = open(&SimDisk::new());
    assert!(!publish(&log, 1, 0, &[0; 100]).over);
    let mut seq = 1;
    while !publish(&log, 1, seq, &[0; 1000]).over {
        seq += 1;
    }
    assert!(log.waiting_bytes() > config().waiting_bytes_max && seq < 20);
    log.write_step().expect("writes");
    assert_eq!(log.waiting_bytes(), 0);
}
