//! Damaged bytes: reported with their place, and everything else stays readable.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "ranges are what is settled"
)]

mod common;

use std::sync::Arc;

use backbone_log::{Appended, Log, LogError, Recovered, SimDisk};

use common::{config, open, publish, queue, settle_down};

fn reopen(disk: &SimDisk) -> (Log, Recovered) {
    Log::open(Arc::new(disk.after_kill()), config(), |_| ()).expect("damage is no error")
}

fn segment(serial: u32) -> String {
    format!("{serial:08x}.segment")
}

/// A log with `count` messages in batches of their own, each synced before the next.
fn filled(disk: &SimDisk, count: u64) -> (Log, Vec<Appended>) {
    let log = open(disk);
    let appended = (0..count).map(|seq| {
        let appended = publish(&log, seq % 3, seq / 3, &[seq as u8; 700]);
        log.write_step().expect("writes");
        log.sync_step().expect("syncs");
        appended
    });
    let appended = appended.collect();
    (log, appended)
}

#[test]
fn a_damaged_middle_is_quarantined_and_the_rest_is_there() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 12);
    drop(log);
    let hit = appended[4];
    disk.damage(&segment(hit.segment), hit.offset as usize + 300);
    let (log, recovered) = reopen(&disk);
    let damage = &recovered.damages[..];
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(
        (damage[0].segment, damage[0].offset),
        (hit.segment, hit.offset)
    );
    assert_eq!(damage[0].bytes, appended[5].offset - hit.offset);
    assert_eq!(damage[0].queues, [0, 1, 2]);
    assert_eq!(log.damages(), recovered.damages);
    // Message 4 is the second of queue 1.
    assert_eq!([0, 1, 2].map(|id| queue(&log, id).len()), [4, 3, 4]);
    assert_eq!(queue(&log, 1)[1], [7; 700]);
    publish(&log, 1, 9, b"goes on");
}

#[test]
fn damage_over_the_end_of_a_segment_is_quarantined_too() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 40);
    drop(log);
    let first = appended[0].segment;
    let in_first: Vec<_> = appended.iter().filter(|a| a.segment == first).collect();
    for hit in &in_first[in_first.len() - 3..] {
        disk.damage(&segment(first), hit.offset as usize + 20);
    }
    let (log, recovered) = reopen(&disk);
    assert_eq!(recovered.damages.len(), 1, "{:?}", recovered.damages);
    let left: usize = [0, 1, 2].iter().map(|id| queue(&log, *id).len()).sum();
    assert_eq!(left, 40 - 3);
}

#[test]
fn an_unfinished_end_is_no_damage() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 5);
    publish(&log, 1, 9, &[9; 700]);
    log.write_step().expect("writes");
    let torn = appended[4].offset + (appended[4].offset - appended[3].offset);
    disk.damage(&segment(appended[4].segment), torn as usize + 100);
    drop(log);
    let (log, recovered) = reopen(&disk);
    assert!(recovered.damages.is_empty() && recovered.torn);
    assert_eq!(recovered.last, appended[4].lsn);
    assert_eq!(queue(&log, 1).len(), 2);
}

#[test]
fn a_damaged_message_is_said_to_be_and_its_segment_stays() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 60);
    let hit = appended[4];
    disk.damage(&segment(hit.segment), hit.offset as usize + 300);
    // Everything but the damaged one, number 1 of queue 1, and one beside it goes.
    let mut batch = backbone_log::Batch::new();
    batch.settle(0, &[1..20], backbone_log::Reason::Ack);
    batch.settle(1, &[0..1, 2..20], backbone_log::Reason::Ack);
    batch.settle(2, &[0..20], backbone_log::Reason::Ack);
    log.append(&mut batch).expect("settles");
    log.checkpoint().expect("a checkpoint");
    settle_down(&log);
    let located = log.resolve(1, 1).expect("looks").expect("is not settled");
    let read = log.read(located.position, located.len);
    assert!(matches!(read, Err(LogError::Damaged { .. })), "{read:?}");
    assert_eq!(queue(&log, 0), [[0; 700]]);
    assert!(
        disk.content(&segment(hit.segment)).is_some(),
        "copied and deleted in spite of damage"
    );
    assert_eq!(log.damages().len(), 1);
    // Others are copied and deleted all the same.
    assert!(log.stats().counts.deleted_segments > 0);
}

#[test]
fn a_lost_or_damaged_index_is_made_again() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 60);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    drop(log);
    let index = format!("{:08x}.index", appended[0].segment);
    let length = disk.content(&index).expect("an index was written").len();
    for offset in [0, 30, 60, length / 2, length - 20] {
        let damaged = disk.after_kill();
        damaged.damage(&index, offset);
        let (log, recovered) = reopen(&damaged);
        assert_eq!((recovered.replayed, recovered.damages.len()), (0, 0));
        assert!(
            (0..3).all(|id| queue(&log, id).len() == 20),
            "byte {offset}"
        );
    }
    let lost = disk.after_kill();
    backbone_log::Disk::remove(&lost, &index).expect("removes");
    assert!((0..3).all(|id| queue(&reopen(&lost).0, id).len() == 20));
}

#[test]
fn a_damaged_checkpoint_leaves_the_one_before() {
    let disk = SimDisk::new();
    let (log, _) = filled(&disk, 30);
    log.checkpoint().expect("a checkpoint");
    publish(&log, 0, 10, &[0; 700]);
    log.checkpoint().expect("a checkpoint");
    drop(log);
    let mut names = backbone_log::Disk::list(&disk).expect("lists");
    names.retain(|name| name.ends_with(".checkpoint"));
    names.sort();
    assert_eq!(names.len(), 2);
    disk.damage(&names[1], 50);
    let (log, recovered) = reopen(&disk);
    assert_eq!(recovered.damages.len(), 1);
    assert_eq!([0, 1, 2].map(|id| queue(&log, id).len()), [11, 10, 10]);
}

#[test]
fn a_damaged_header_of_a_segment_loses_nothing() {
    for covered in [false, true] {
        let disk = SimDisk::new();
        let (log, appended) = filled(&disk, 40);
        if covered {
            log.checkpoint().expect("a checkpoint");
        }
        drop(log);
        disk.damage(&segment(appended[0].segment), 9);
        disk.damage(&segment(appended[0].segment), 20);
        let opened = Log::open(Arc::new(disk.after_kill()), config(), |_| ());
        // Byte 9 is in the version: a sound header of another version is an error, this one is not sound.
        let (log, recovered) = opened.expect("opens");
        assert_eq!(
            recovered.damages.len(),
            1,
            "{covered}: {:?}",
            recovered.damages
        );
        let left: usize = [0, 1, 2].iter().map(|id| queue(&log, *id).len()).sum();
        assert_eq!(left, 40, "covered by a checkpoint: {covered}");
    }
}

#[test]
fn what_the_disk_does_not_give_back_is_damage_and_keeps_nobody_from_starting() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 60);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    let behind = publish(&log, 0, 20, &[0; 700]);
    publish(&log, 0, 21, &[0; 700]);
    settle_down(&log);
    publish(&log, 0, 22, &[0; 700]);
    settle_down(&log);
    drop(log);
    let names = backbone_log::Disk::list(&disk).expect("lists");
    let index = format!("{:08x}.index", appended[0].segment);
    let newest = names.iter().filter(|n| n.ends_with(".checkpoint")).max();
    let places = [
        (segment(appended[4].segment), appended[4].offset + 300, 1, 1),
        (segment(behind.segment), behind.offset + 300, 1, 1),
        (segment(appended[0].segment), 0, 0, 1),
        (segment(behind.segment), 0, 0, 1),
        (index, 600, 0, 0),
        (newest.expect("one").clone(), 0, 0, 1),
    ];
    for (name, offset, messages, places) in places {
        let damaged = disk.after_kill();
        damaged.lose_sector(&name, offset as usize);
        let (log, _) = reopen(&damaged);
        let mut readable = 0;
        for id in 0..3 {
            for located in log.load(id, 0, 1000).expect("loads") {
                match log.read(located.position, located.len) {
                    Ok(_) => readable += 1,
                    Err(LogError::Damaged { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
        // What stands in the same block cannot be read either.
        let lost = 63 - readable;
        assert!(
            lost >= messages && lost <= 7 * messages,
            "{lost} by {offset} of {name}"
        );
        settle_down(&log);
        assert!(log.damages().len() <= places, "{:?}", log.damages());
        publish(&log, 0, 23, b"goes on");
        settle_down(&log);
    }
}

#[test]
fn an_end_that_the_disk_does_not_give_back_is_damage() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 5);
    drop(log);
    let last = appended[4];
    disk.lose_sector(&segment(last.segment), last.offset as usize + 300);
    let (log, recovered) = reopen(&disk);
    let damage = &recovered.damages[..];
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(damage[0].segment, last.segment);
    assert!(damage[0].offset <= last.offset && damage[0].bytes > 0);
    assert!(recovered.last < last.lsn);
    publish(&log, 1, 9, b"goes on");
}

#[test]
fn a_segment_of_which_something_cannot_be_read_is_not_copied_again_and_again() {
    let disk = SimDisk::new();
    let (log, appended) = filled(&disk, 60);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    let hit = appended[4];
    disk.lose_sector(&segment(hit.segment), hit.offset as usize + 300);
    let mut batch = backbone_log::Batch::new();
    for id in 0..3 {
        batch.settle(id, &[2..20], backbone_log::Reason::Ack);
    }
    log.append(&mut batch).expect("settles");
    settle_down(&log);
    assert!(disk.content(&segment(hit.segment)).is_some());
    assert_eq!(log.damages().len(), 1, "{:?}", log.damages());
    assert!(log.stats().counts.deleted_segments > 0);
}

#[test]
fn arbitrary_bytes_never_panic() {
    let disk = SimDisk::new();
    let (log, _) = filled(&disk, 60);
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    publish(&log, 0, 20, &[0; 700]);
    settle_down(&log);
    drop(log);
    let names = backbone_log::Disk::list(&disk).expect("lists");
    let mut random = 7_u64;
    let mut next = move |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below.max(1)
    };
    for _ in 0..400 {
        let damaged = disk.after_kill();
        for _ in 0..=next(3) {
            let name = &names[next(names.len())];
            let mut content = damaged.content(name).expect("is there");
            match next(4) {
                0 => content.truncate(next(content.len())),
                1 => {
                    let from = next(content.len());
                    content[from..]
                        .iter_mut()
                        .for_each(|byte| *byte = next(256) as u8);
                }
                _ => {
                    for _ in 0..=next(40) {
                        let (at, value) = (next(content.len()), next(256) as u8);
                        if let Some(byte) = content.get_mut(at) {
                            *byte = value;
                        }
                    }
                }
            }
            damaged.put(name, content);
        }
        // Any answer but a panic will do; what is read has to be sound.
        let Ok((log, _)) = Log::open(Arc::new(damaged), config(), |_| ()) else {
            continue;
        };
        for id in 0..3 {
            for located in log.load(id, 0, 1000).unwrap_or_default() {
                if let Ok(chunk) = log.read(located.position, located.len) {
                    let payload = chunk.get(located.position, located.len).expect("was read");
                    assert!(payload.len() == 700 && payload.iter().all(|b| *b == payload[0]));
                }
            }
        }
        let _ = log.maintain();
    }
}
