//! What the fuzz targets of `crates/log` run; its tests run the same on the checked-in corpus, on a stable
//! compiler. Not only does nothing panic: a survey and a start have to agree, and what a start found has to be
//! the same after the next one.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_log::{Config, Definition, Log, LogError, SimDisk, Survey};

const SEGMENT_HEADER_BYTES: usize = 4096;
const SEGMENT_BYTES: usize = 32 << 10;
const NAME: &str = "00000001.segment";
const IDENTITY: u64 = 0x1234_5678_9abc_def0;
/// Messages looked at in a queue at most, and queues.
const LOOK_MAX: usize = 500;

/// Takes `data` for what stands behind a segment's header, checksums and all.
pub fn log_segment(data: &[u8]) {
    opens(segment(data));
}

/// Takes `data` for records, gives them the checksums that they should have, and makes a batch of each or of all:
/// what only a broken writer could have written, and what checksums keep a fuzzer from finding.
///
/// A record in `data`: kind u8 | flags u8 (the high bit ends the batch) | count u16 | length u16 | fields.
pub fn log_records(data: &[u8]) {
    opens(segment(&batches(data)));
}

/// The batches that `log_records` makes of `data`.
pub fn batches(data: &[u8]) -> Vec<u8> {
    let (mut rest, mut batches, mut records, mut number) = (data, Vec::new(), Vec::new(), 1);
    while let Some((head, behind)) = rest.split_at_checked(6) {
        let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
        let (fields, behind) = behind.split_at(length.min(behind.len()));
        let flags = head[1] & 0x7f;
        records.push(record(head[0], flags, [head[2], head[3]], fields));
        if head[1] & 0x80 != 0 {
            batch(&mut batches, number, &std::mem::take(&mut records));
            number += 1;
        }
        rest = behind;
    }
    batch(&mut batches, number, &records);
    batches
}

fn record(kind: u8, flags: u8, count: [u8; 2], fields: &[u8]) -> Vec<u8> {
    let length = (12 + fields.len()) as u32;
    let mut record = vec![0; 4];
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&[kind, flags, count[0], count[1]]);
    record.extend_from_slice(fields);
    let crc = crc32c::crc32c(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    record
}

fn batch(out: &mut Vec<u8>, number: u64, records: &[Vec<u8>]) {
    let length = 40 + records.iter().map(Vec::len).sum::<usize>();
    let mut header = Vec::new();
    header.extend_from_slice(&0x4862_6b42_u32.to_le_bytes());
    header.extend_from_slice(&(length as u32).to_le_bytes());
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&1_u32.to_le_bytes());
    header.extend_from_slice(&(records.len() as u32).to_le_bytes());
    header.extend_from_slice(&(IDENTITY as u32).to_le_bytes());
    let mut crc = 0;
    for record in records {
        crc = crc32c::crc32c_append(crc, &record[..4]);
    }
    let crc = crc32c::crc32c_append(crc, &header);
    out.extend_from_slice(&header);
    out.extend_from_slice(&crc.to_le_bytes());
    records
        .iter()
        .for_each(|record| out.extend_from_slice(record));
    out.resize(out.len().next_multiple_of(8), 0);
}

fn segment(batches: &[u8]) -> Vec<u8> {
    let mut segment = b"BkbnSeg\n".to_vec();
    segment.extend_from_slice(&1_u32.to_le_bytes());
    segment.extend_from_slice(&1_u32.to_le_bytes());
    segment.extend_from_slice(&IDENTITY.to_le_bytes());
    segment.extend_from_slice(&1_u64.to_le_bytes());
    let crc = crc32c::crc32c(&segment);
    segment.extend_from_slice(&crc.to_le_bytes());
    segment.resize(SEGMENT_HEADER_BYTES, 0);
    segment.extend_from_slice(batches);
    segment.resize(segment.len().max(SEGMENT_BYTES), 0);
    segment
}

fn opens(segment: Vec<u8>) {
    let disk = SimDisk::new();
    disk.put(NAME, segment);
    let survey = Survey::open(Arc::new(disk.after_kill()), |_| ()).expect("damage is no error");
    let found = survey
        .verify(|_| ())
        .expect("the disk gives everything back");
    survey
        .records(|_| std::ops::ControlFlow::Continue(()))
        .expect("as before");
    let log = open(&disk);
    assert_eq!(survey.queues(), log.queues());
    assert!(
        log.damages().len() <= found.len(),
        "{:?} but {found:?}",
        log.damages()
    );
    let before = seen(&log);
    for _ in 0..20 {
        log.write_step().expect("writes");
        log.sync_step().expect("syncs");
        log.maintain().expect("keeps house");
    }
    keeps(&before, &seen(&log));
    log.checkpoint().expect("a checkpoint");
    drop(log);
    keeps(&before, &seen(&open(&disk.after_power_loss(0))));
}

/// All messages that could be read still can be. Where a number came twice, and one of the two names a body that is not
/// there, the other may appear when housekeeping has dropped it.
fn keeps(before: &Seen, after: &Seen) {
    assert_eq!(before.1, after.1);
    for (queue, messages) in &before.0 {
        for (seq, payload) in messages {
            let now = after.0.get(queue).and_then(|messages| messages.get(seq));
            assert_eq!(now, Some(payload), "{queue}/{seq}");
        }
    }
}

fn open(disk: &SimDisk) -> Log {
    let config = Config {
        segment_bytes: SEGMENT_BYTES as u32,
        reserve_segments: 1,
        spare_segments_max: 1,
        ..Config::default()
    };
    let opened = Log::open(Arc::new(disk.after_kill()), config, |_| ());
    opened.expect("damage is no error").0
}

/// Messages by number: those that can be read. What a reference to nowhere names never could, and goes at the first
/// occasion.
type Messages = BTreeMap<u64, Vec<u8>>;
/// By queue, and the definitions.
type Seen = (BTreeMap<u64, Messages>, Vec<Definition>);

fn seen(log: &Log) -> Seen {
    let mut queues = BTreeMap::new();
    for info in log.queues().into_iter().take(LOOK_MAX) {
        let mut messages = Messages::new();
        for located in log.load(info.queue, 0, LOOK_MAX).expect("loads") {
            match log.read(located.position, located.len) {
                Ok(chunk) => {
                    let payload = chunk.get(located.position, located.len);
                    messages.insert(located.seq, payload.expect("was read").to_vec());
                }
                Err(LogError::Damaged { .. } | LogError::Moved(_)) => {}
                Err(other) => panic!("{other}"),
            };
        }
        if !messages.is_empty() {
            queues.insert(info.queue, messages);
        }
    }
    (queues, log.definitions())
}
