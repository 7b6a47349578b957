//! Looking at a log: it finds what is damaged and says where, and changes nothing.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use backbone_log::{
    Batch, Config, Damage, Disk, Log, LogError, RealDisk, Reason, Record, SimDisk, Survey,
};

use common::{config, open, publish, queue, settle_down};

/// Three queues, some segments with indexes, a checkpoint, and batches behind it.
fn filled() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk);
    for seq in 0..60 {
        publish(&log, seq % 3, seq / 3, &[seq as u8; 700]);
    }
    settle_down(&log);
    log.checkpoint().expect("a checkpoint");
    let mut batch = Batch::new();
    batch.settle(2, std::slice::from_ref(&(0..15)), Reason::Purge);
    batch.define(b"key", b"value");
    log.append(&mut batch).expect("appends");
    publish(&log, 0, 20, b"behind the checkpoint");
    log.write_step().expect("writes");
    log.sync_step().expect("syncs");
    publish(&log, 0, 21, b"says that the others were synced");
    log.write_step().expect("writes");
    log.sync_step().expect("syncs");
    drop(log);
    let disk = disk.after_kill();
    // Whatever would change something fails from here on.
    disk.set_read_only(true);
    disk
}

fn survey(disk: &SimDisk) -> Survey {
    Survey::open(Arc::new(disk.after_kill()), |_| ()).expect("opens")
}

fn verify(disk: &SimDisk) -> Vec<Damage> {
    let mut told = Vec::new();
    let damages = survey(disk).verify(|progress| told.push(progress));
    let last = told.last().expect("progress is told");
    assert_eq!(last.done_bytes, last.total_bytes);
    damages.expect("reads")
}

fn names(disk: &SimDisk, ending: &str) -> Vec<String> {
    let mut names = disk.list().expect("lists");
    names.retain(|name| name.ends_with(ending));
    names.sort();
    names
}

#[test]
fn a_sound_log_is_said_to_be() {
    let disk = filled();
    let (files, calls) = (disk.list().expect("lists"), disk.calls());
    assert_eq!(verify(&disk), []);
    let survey = survey(&disk);
    assert!(!survey.recovered().torn);
    assert_eq!((disk.list().expect("lists"), disk.calls()), (files, calls));
    let live: Vec<_> = survey
        .queues()
        .iter()
        .map(|q| (q.queue, q.low, q.live))
        .collect();
    assert_eq!(live, [(0, 0, 22), (1, 0, 20), (2, 15, 5)]);
    assert_eq!(survey.definitions().count(), 1);
    let checkpoints = survey.checkpoints().expect("reads");
    assert!(
        checkpoints.last().is_some_and(|c| c.applied == Some(60)),
        "{checkpoints:?}"
    );
    let segments = survey.segments();
    assert!(segments.len() >= 4, "{segments:?}");
    for pair in segments.windows(2) {
        assert_eq!(pair[0].next_batch, pair[1].first_batch);
    }
    let live: u64 = segments.iter().map(|s| s.live).sum();
    assert!(
        (30_000..36_000).contains(&live),
        "47 messages of 700 bytes: {live}"
    );
    assert!(segments.iter().all(|s| s.used <= s.size));
}

#[test]
fn it_says_the_same_as_a_start() {
    let disk = filled();
    let survey = survey(&disk);
    disk.set_read_only(false);
    let disk = disk.after_kill();
    let (log, recovered) = Log::open(Arc::new(disk), config(), |_| ()).expect("opens");
    assert_eq!(survey.recovered(), &recovered);
    assert_eq!(survey.queues(), log.queues());
}

#[test]
fn damage_is_named_by_file_and_place_and_by_the_queues_that_it_costs() {
    let disk = filled();
    let segments = survey(&disk).segments();
    let mut places = Vec::new();
    let walked = survey(&disk).records(|found| {
        places.push((found.segment, found.offset, found.length, found.lsn));
        ControlFlow::Continue(())
    });
    walked.expect("reads");
    assert_eq!(places.len(), 64);
    // Batch 5 holds number 1 of queue 1, in front of the checkpoint, in a segment with an index.
    let (segment, offset, length, lsn) = places[4];
    assert_eq!((segment, lsn), (segments[0].serial, 5));
    disk.damage(&format!("{segment:08x}.segment"), offset as usize + 300);
    let damages = verify(&disk);
    assert_eq!(damages.len(), 1, "{damages:?}");
    let damage = &damages[0];
    assert_eq!(damage.file, format!("{segment:08x}.segment"));
    assert!(damage.offset <= offset && damage.offset + damage.bytes >= offset + length);
    assert!(damage.bytes < 900, "{damage:?}");
    assert_eq!(damage.queues, [1], "the index tells which");
    // Without the index it is one of those in the segment.
    disk.damage(&format!("{segment:08x}.index"), 3);
    let damages = verify(&disk);
    assert_eq!(damages.len(), 2, "{damages:?}");
    assert_eq!(damages[0].queues, [0, 1, 2]);
    assert_eq!(damages[1].file, format!("{segment:08x}.index"));
}

#[test]
fn every_index_and_every_checkpoint_is_read() {
    let disk = filled();
    let (indexes, checkpoints) = (names(&disk, "index"), names(&disk, "checkpoint"));
    assert!(indexes.len() >= 3 && checkpoints.len() == 2);
    for name in indexes.iter().chain(&checkpoints) {
        let length = disk.content(name).expect("is there").len();
        for offset in [0, 12, length / 2, length - 1] {
            let disk = disk.after_kill();
            disk.damage(name, offset);
            let damages = verify(&disk);
            assert_eq!(damages.len(), 1, "byte {offset} of {name}: {damages:?}");
            assert_eq!(&damages[0].file, name);
        }
    }
}

#[test]
fn damage_behind_the_checkpoint_is_named_once_and_a_torn_tail_is_none() {
    let disk = filled();
    let mut places = Vec::new();
    let walked = survey(&disk).records(|found| {
        places.push((found.segment, found.offset, found.lsn));
        ControlFlow::Continue(())
    });
    walked.expect("reads");
    let &(segment, offset, last) = places.last().expect("some");
    let name = format!("{segment:08x}.segment");
    let torn = disk.after_kill();
    torn.damage(&name, offset as usize + 20);
    assert_eq!(verify(&torn), []);
    let survey = survey(&torn);
    assert!(survey.recovered().torn && survey.recovered().last == last - 1);
    let (at, end) = survey.end().expect("it is not empty");
    assert!(at == segment && end <= offset && offset - end < 4200);
    let (_, before, _) = places[places.len() - 2];
    disk.damage(&name, before as usize + 20);
    let damages = verify(&disk);
    assert_eq!(damages.len(), 1, "{damages:?}");
    assert_eq!(damages[0].file, name);
}

#[test]
fn records_are_shown_until_enough() {
    let disk = filled();
    let (mut settled, mut shown) = (0, 0);
    let walked = survey(&disk).records(|found| {
        shown += 1;
        if let Record::Settle {
            queue,
            ranges,
            reason,
        } = found.record
        {
            assert_eq!((queue, reason), (2, Some(Reason::Purge)));
            assert!(ranges.iter().eq(std::iter::once(0..15)));
            settled += 1;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    walked.expect("reads");
    assert_eq!((settled, shown), (1, 61));
}

#[test]
fn a_directory_in_use_is_refused_and_one_at_rest_is_left_as_it_is() {
    let directory = common::Directory::new("survey");
    let missing = RealDisk::read_only(directory.path());
    assert_eq!(
        missing.err().map(|e| e.kind()),
        Some(std::io::ErrorKind::NotFound)
    );
    assert!(!directory.path().exists());
    let disk = RealDisk::new(directory.path(), false).expect("a directory");
    let opened = Log::open(Arc::new(disk), Config::default(), |_| ());
    let (log, _) = opened.expect("opens");
    publish(&log, 1, 0, b"a");
    let look = || {
        let disk = RealDisk::read_only(directory.path()).expect("is there");
        Survey::open(Arc::new(disk), |_| ())
    };
    assert!(matches!(look(), Err(LogError::Locked)));
    log.checkpoint().expect("writes");
    assert_eq!(queue(&log, 1), [b"a"]);
    drop(log);
    let content = || {
        let entries = std::fs::read_dir(directory.path()).expect("lists");
        let mut content: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| {
                (
                    path.clone(),
                    crc32c::crc32c(&std::fs::read(path).expect("reads")),
                )
            })
            .collect();
        content.sort();
        content
    };
    let before = content();
    let survey = look().expect("nobody has it");
    assert_eq!(survey.verify(|_| ()).expect("reads"), []);
    assert_eq!(survey.queues().len(), 1);
    assert_eq!(content(), before);
    // The look itself keeps a writer out.
    let disk = RealDisk::new(directory.path(), false).expect("a directory");
    let opened = Log::open(Arc::new(disk), Config::default(), |_| ());
    assert!(matches!(opened.err(), Some(LogError::Locked)));
}
