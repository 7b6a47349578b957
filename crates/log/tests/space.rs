//! Space comes back, and what is alive stays where its queue finds it.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "ranges are what is settled"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use backbone_log::{Batch, Config, Disk, Log, LogError, Reason, SimDisk, Source, Target};

use common::{config, open, publish, queue, settle_down};

fn settle(log: &Log, queue: u64, ranges: &[std::ops::Range<u64>]) {
    let mut batch = Batch::new();
    batch.settle(queue, ranges, Reason::Ack);
    log.append(&mut batch).expect("settles");
}

#[test]
fn one_stuck_message_in_each_segment_does_not_pin_the_disk() {
    let disk = SimDisk::new();
    let log = open(&disk);
    let mut names = BTreeSet::new();
    for seq in 0..600_u64 {
        publish(&log, 1, seq, &seq.to_le_bytes().repeat(100));
        settle_down(&log);
        names.extend(disk.list().expect("lists"));
    }
    let full = disk.used_bytes();
    let stuck: Vec<u64> = (0..600).step_by(16).collect();
    for seq in &stuck {
        settle(&log, 1, &[seq + 1..(seq + 16).min(600)]);
    }
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    let stats = log.stats();
    let left = disk.used_bytes();
    assert!(left < full / 4, "{left} of {full} bytes: {stats:?}");
    assert!(stats.counts.copied_segments > 5, "{stats:?}");
    let wanted: Vec<Vec<u8>> = stuck
        .iter()
        .map(|seq| seq.to_le_bytes().repeat(100))
        .collect();
    assert_eq!(queue(&log, 1), wanted);
    drop(log);
    let log = open(&disk.after_power_loss(11));
    assert_eq!(queue(&log, 1), wanted);
}

#[test]
fn serial_numbers_are_never_used_again() {
    let mut disk = SimDisk::new();
    let mut before = 0;
    for life in 0..10_u64 {
        let log = open(&disk);
        for seq in 0..40 {
            let appended = publish(&log, life, seq, &[1; 900]);
            assert!(
                appended.segment >= before,
                "{} after {before}",
                appended.segment
            );
            before = appended.segment;
            settle(&log, life, &[0..seq + 1]);
            settle_down(&log);
        }
        assert!(disk.used_bytes() < 12 * (16 << 10), "{:?}", log.stats());
        before += 1;
        disk = if life % 2 == 0 {
            disk.after_kill()
        } else {
            disk.after_power_loss(life)
        };
    }
}

#[test]
fn an_old_position_is_answered_with_moved_and_resolved() {
    let log = open(&SimDisk::new());
    let first = publish(&log, 1, 0, b"stuck");
    let old = log
        .resolve(1, 0)
        .expect("looks")
        .expect("is there")
        .position;
    for seq in 1..100 {
        publish(&log, 1, seq, &[1; 900]);
    }
    settle(&log, 1, &[1..100]);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    let read = log.read(old, 5).map(|_| ());
    let stats = log.stats();
    assert!(
        matches!(read, Err(LogError::Moved(s)) if s == first.segment),
        "{read:?} {stats:?}"
    );
    assert_eq!(queue(&log, 1), [b"stuck"]);
    // A transfer by the old position is refused, and the batch is as it was.
    let source = Source {
        queue: 1,
        seqs: 0..1,
    };
    let mut batch = Batch::new();
    batch.transfer_at(&[source], &[Target { queue: 2, seq: 0 }], old, 5);
    assert!(matches!(log.append(&mut batch), Err(LogError::Moved(_))));
    assert!(!batch.is_empty());
    settle(&log, 1, &[0..1]);
    assert_eq!(log.resolve(1, 0).expect("looks"), None);
}

#[test]
fn a_body_lives_as_long_as_something_refers_to_it() {
    let disk = SimDisk::new();
    let log = open(&disk);
    publish(&log, 1, 0, b"the body");
    let at = log.resolve(1, 0).expect("looks").expect("is there");
    for seq in 0..30 {
        publish(&log, 9, seq, &[1; 900]);
    }
    let mut batch = Batch::new();
    let source = Source {
        queue: 1,
        seqs: 0..1,
    };
    let targets = [2, 3].map(|queue| Target { queue, seq: 0 });
    batch.transfer_at(&[source], &targets, at.position, at.len);
    log.append(&mut batch).expect("transfers");
    settle(&log, 9, &[0..30]);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    assert!(queue(&log, 1).is_empty());
    assert_eq!(
        (queue(&log, 2), queue(&log, 3)),
        (vec![b"the body".to_vec()], vec![b"the body".to_vec()])
    );
    assert!(matches!(
        log.read(at.position, at.len),
        Err(LogError::Moved(_))
    ));
    let log = open(&disk.after_power_loss(1));
    assert_eq!(queue(&log, 3), [b"the body"]);
    settle(&log, 2, &[0..1]);
    settle(&log, 3, &[0..1]);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    assert!(disk.used_bytes() < 12 * (16 << 10));
}

#[test]
fn a_stream_is_read_from_a_number_and_truncated_below_one() {
    let disk = SimDisk::new();
    let log = open(&disk);
    const STREAM: u64 = 1 << 63;
    for number in 0..200_u64 {
        publish(&log, STREAM, number, &number.to_le_bytes());
    }
    let mut batch = Batch::new();
    batch.settle(STREAM, &[0..120], Reason::Purge);
    log.append(&mut batch).expect("truncates");
    settle_down(&log);
    for log in [log, open(&disk.after_power_loss(1))] {
        let found = log.load(STREAM, 150, 3).expect("loads");
        assert_eq!(
            found.iter().map(|l| l.seq).collect::<Vec<_>>(),
            [150, 151, 152]
        );
        let found = log.load(STREAM, 0, 1).expect("loads");
        assert_eq!(found[0].seq, 120);
        let info = log.queues()[0];
        assert_eq!((info.low, info.next, info.live), (120, 200, 80));
    }
}

#[test]
fn transient_messages_are_found_until_the_restart() {
    let disk = SimDisk::new();
    let log = open(&disk);
    let mut batch = Batch::new();
    for seq in 0..100 {
        let transient = seq % 2 == 0;
        batch.publish(&[Target { queue: 1, seq }], transient, |out| {
            out.push(seq as u8)
        });
    }
    log.append(&mut batch).expect("appends");
    settle_down(&log);
    assert_eq!(queue(&log, 1).len(), 100);
    log.checkpoint().expect("a checkpoint");
    assert_eq!(queue(&log, 1).len(), 100);
    drop(log);
    let log = open(&disk.after_kill());
    let left: Vec<u8> = queue(&log, 1).concat();
    assert_eq!(left, (0..100).filter(|n| n % 2 == 1).collect::<Vec<u8>>());
}

#[test]
fn a_purge_is_one_record_whatever_it_purges() {
    let disk = SimDisk::new();
    let log = open(&disk);
    for seq in 0..300 {
        publish(&log, 1, seq, &[1; 500]);
    }
    settle_down(&log);
    let mut batch = Batch::new();
    batch.settle(1, &[0..5_000_000], Reason::Purge);
    assert!(batch.len() < 100);
    log.append(&mut batch).expect("purges");
    assert!(queue(&log, 1).is_empty());
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    assert!(log.stats().segments <= 2, "{:?}", log.stats());
    drop(log);
    let log = open(&disk.after_power_loss(1));
    assert!(queue(&log, 1).is_empty());
    assert_eq!(log.queues()[0].next, 5_000_000);
}

#[test]
fn a_clean_end_leaves_nothing_to_replay() {
    let disk = SimDisk::new();
    let log = open(&disk);
    for seq in 0..100 {
        publish(&log, seq % 7, seq / 7, &[1; 500]);
    }
    log.checkpoint().expect("a checkpoint");
    drop(log);
    let mut progress = Vec::new();
    let disk = Arc::new(disk.after_power_loss(2));
    let (log, recovered) = Log::open(disk, config(), |p| progress.push(p)).expect("opens");
    assert_eq!(recovered.replayed, 0);
    assert!(
        progress
            .last()
            .is_some_and(|p| p.done_bytes == p.total_bytes)
    );
    assert_eq!((0..7).map(|id| queue(&log, id).len()).sum::<usize>(), 100);
}

#[test]
fn deleted_queues_are_forgotten_in_the_end() {
    let disk = SimDisk::new();
    let log = open(&disk);
    for id in 0..200 {
        publish(&log, id, 0, &[1; 200]);
        let mut batch = Batch::new();
        batch.settle(id, &[0..u64::MAX], Reason::Purge);
        log.append(&mut batch).expect("deletes");
        settle_down(&log);
    }
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    assert!(log.queues().len() < 5, "{} left", log.queues().len());
}

#[test]
fn a_reader_takes_no_bytes_of_a_files_earlier_life() {
    let config = Config {
        tail_bytes: 0,
        ..config()
    };
    let opened = Log::open(Arc::new(SimDisk::new()), config, |_| ());
    let log = opened.expect("opens").0;
    let payload = |seq: u64| seq.to_le_bytes().repeat(110);
    for seq in (0..200).step_by(2) {
        publish(&log, 1, seq, &payload(seq));
        log.write_step().expect("writes");
        // Where the second will be, the file has what it had before it was recycled: a whole record.
        publish(&log, 1, seq + 1, &payload(seq + 1));
        let located = log.load(1, seq, 2).expect("loads");
        let chunk = log.read(located[0].position, located[0].len);
        let chunk = chunk.expect("reads");
        let second = chunk.get(located[1].position, located[1].len);
        assert!(
            second.is_none_or(|second| second == payload(seq + 1)),
            "{seq}"
        );
        log.write_step().expect("writes");
        let chunk = log.read(located[1].position, located[1].len);
        let chunk = chunk.expect("reads");
        let second = chunk.get(located[1].position, located[1].len);
        assert_eq!(second, Some(&payload(seq + 1)[..]));
        settle(&log, 1, &[0..seq + 2]);
        settle_down(&log);
    }
    assert!(log.stats().counts.deleted_segments > 5, "{:?}", log.stats());
}

#[test]
fn a_copy_is_found_rather_than_the_transfer_before_it_in_the_same_segment() {
    let config = Config {
        segment_bytes: 128 << 10,
        ..config()
    };
    let opened = Log::open(Arc::new(SimDisk::new()), config, |_| ());
    let log = opened.expect("opens").0;
    for seq in 0..1000_u64 {
        publish(&log, 1, seq, &seq.to_le_bytes());
    }
    log.checkpoint().expect("a checkpoint");
    // Two pages and a bit of references into the first segment, then copies of them behind.
    let mut batch = Batch::new();
    for (seq, located) in (0..).zip(log.load(1, 0, 300).expect("loads")) {
        let source = Source {
            queue: 1,
            seqs: located.seq..located.seq + 1,
        };
        let target = Target { queue: 2, seq };
        batch.transfer_at(&[source], &[target], located.position, located.len);
    }
    batch.settle(1, &[300..1000], Reason::Ack);
    log.append(&mut batch).expect("transfers");
    settle_down(&log);
    assert_eq!(log.stats().counts.copied_segments, 1);
    let wanted: Vec<_> = (0..300_u64).map(|seq| seq.to_le_bytes().to_vec()).collect();
    assert_eq!(queue(&log, 2), wanted);
}

#[test]
fn a_copy_has_the_size_of_its_portion_whatever_it_is_copied_from() {
    // A batch of references to bodies, together far larger than a batch may be.
    let config = Config {
        batch_bytes_max: 8 << 10,
        ..config()
    };
    let disk = SimDisk::new();
    let opened = Log::open(Arc::new(disk.clone()), config, |_| ());
    let log = opened.expect("opens").0;
    publish(&log, 1, 0, &[7; 5000]);
    publish(&log, 9, 0, &[8; 5000]);
    log.checkpoint().expect("a checkpoint");
    let located = log.resolve(1, 0).expect("looks").expect("is there");
    let mut batch = Batch::new();
    for seq in 0..20 {
        let source = Source {
            queue: 1,
            seqs: seq..seq + 1,
        };
        let target = Target { queue: 2, seq };
        batch.transfer_at(&[source], &[target], located.position, located.len);
    }
    log.append(&mut batch).expect("transfers");
    log.checkpoint().expect("a checkpoint");
    settle(&log, 2, &[0..10]);
    settle(&log, 9, &[0..1]);
    settle_down(&log);
    let wanted = vec![vec![7; 5000]; 10];
    assert_eq!(queue(&log, 2), wanted);
}

#[test]
fn a_record_may_be_larger_than_batches_may_be_now() {
    let disk = SimDisk::new();
    let log = open(&disk);
    publish(&log, 1, 0, &[7; 100_000]);
    settle_down(&log);
    drop(log);
    let config = Config {
        batch_bytes_max: 8 << 10,
        segment_bytes: 8 << 10,
        ..config()
    };
    let opened = Log::open(Arc::new(disk.after_kill()), config, |_| ());
    let log = opened.expect("opens").0;
    assert_eq!(queue(&log, 1), [[7; 100_000]]);
}
