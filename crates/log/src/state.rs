//! What the log means: a fold over its records, in their order. The same code folds a batch that was
//! just appended and one that recovery reads, so that a restart cannot see anything else.

use std::collections::BTreeMap;
use std::ops::Range;

use ahash::AHashMap;

use crate::arena::Position;
use crate::index::{Entry, Group, GroupKey, Place};
use crate::record::{self, Body, Record, Targets};
use crate::settled::Settled;

/// Bytes of a record with one target, besides its payload.
pub(crate) const PLACED_BYTES: u64 = 28;

/// All queues, definitions and segments, up to the batch that was applied last.
#[derive(Default)]
pub(crate) struct State {
    /// What is settled, of each queue of which anything is.
    pub queues: AHashMap<u64, Settled>,
    /// The latest value of each key.
    pub definitions: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// All segments that are not deleted.
    pub segments: BTreeMap<u32, SegmentState>,
    /// Number of the batch that was applied last.
    pub applied: u64,
}

/// What the log knows of one segment.
pub(crate) struct SegmentState {
    pub first_batch: u64,
    /// The number behind its last batch.
    pub next_batch: u64,
    /// Bytes of its file.
    pub size: u32,
    /// Bytes in use.
    pub end: u32,
    /// No more batches will come.
    pub sealed: bool,
    /// The queues that may have live messages in it.
    pub groups: AHashMap<GroupKey, Group>,
    /// Payload bytes in other segments that transfers in this one refer to.
    pub references: BTreeMap<u32, u64>,
}

impl SegmentState {
    pub fn new(first_batch: u64, size: u32) -> Self {
        Self {
            first_batch,
            next_batch: first_batch,
            size,
            end: crate::format::SEGMENT_HEADER_BYTES,
            sealed: false,
            groups: AHashMap::new(),
            references: BTreeMap::new(),
        }
    }

    /// Whether its groups are in memory and should go to an index file.
    pub fn wants_index(&self) -> bool {
        let mut places = self.groups.values().map(|group| &group.place);
        self.sealed && places.any(|place| matches!(place, Place::Memory(_)))
    }
}

impl State {
    /// The segment that batches are applied to from now on; the one before is sealed.
    pub fn open_segment(&mut self, serial: u32, first_batch: u64, size: u32) {
        self.seal_last();
        self.segments
            .insert(serial, SegmentState::new(first_batch, size));
    }

    /// Seals the last segment.
    pub fn seal_last(&mut self) {
        if let Some(mut last) = self.segments.last_entry() {
            let last = last.get_mut();
            last.sealed = true;
            for group in last.groups.values_mut() {
                group.shrink();
            }
        }
    }

    /// Applies the batch that stands at `at` in the last segment. `transient` says whether transient
    /// messages count.
    pub fn apply(&mut self, number: u64, at: u32, batch: &[u8], transient: bool) {
        let Some(last) = self.segments.last_entry() else {
            unreachable!("a segment is opened before its first batch");
        };
        let serial = *last.key();
        let segment = last.into_mut();
        segment.end = at + batch.len() as u32;
        segment.next_batch = number + 1;
        let mut fold = Fold {
            serial,
            segment,
            queues: &mut self.queues,
            definitions: &mut self.definitions,
        };
        for (distance, record) in record::records(batch) {
            fold.record(at + distance, record, transient);
        }
        debug_assert!(number > self.applied);
        self.applied = number;
    }

    /// Whether the message is done with.
    pub fn is_settled(&self, queue: u64, seq: u64) -> bool {
        self.queues.get(&queue).is_some_and(|q| q.contains(seq))
    }

    /// The number that the queue's next message may have: above all that were ever stored or settled.
    pub fn next_seq(&self, queue: u64) -> u64 {
        let settled = self.queues.get(&queue).map_or(0, |settled| {
            let highest = settled.runs().next_back().map(|run| run.end);
            highest.unwrap_or(0).max(settled.low())
        });
        let stored = self.segments.values().flat_map(|segment| {
            [false, true].map(|transient| {
                let group = segment.groups.get(&GroupKey { queue, transient });
                group.map_or(0, |group| group.max.saturating_add(1))
            })
        });
        stored.fold(settled, u64::max)
    }

    /// All queues that have, or had, a message.
    pub fn queue_ids(&self) -> Vec<u64> {
        let stored = self.segments.values().flat_map(|s| s.groups.keys());
        let mut ids: Vec<u64> = stored.map(|key| key.queue).collect();
        ids.extend(self.queues.keys());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Queues that have messages in the segment.
    pub fn queues_in(&self, segment: u32) -> Vec<u64> {
        let groups = self.segments.get(&segment).map(|s| s.groups.keys());
        let mut queues: Vec<u64> = groups.into_iter().flatten().map(|key| key.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Forgets the groups in which everything is settled.
    pub fn prune(&mut self) {
        for segment in self.segments.values_mut() {
            segment.groups.retain(|key, group| {
                let settled = self.queues.get(&key.queue);
                !settled
                    .is_some_and(|settled| settled.covers(group.min..group.max.saturating_add(1)))
            });
        }
    }

    /// Forgets deleted queues of which no segment has anything. Call it when all that was appended is
    /// applied, and after [`State::prune`].
    pub fn forget_deleted(&mut self) {
        let segments = &self.segments;
        self.queues.retain(|queue, settled| {
            settled.low() != u64::MAX
                || segments.values().any(|segment| {
                    [false, true].iter().any(|transient| {
                        let (queue, transient) = (*queue, *transient);
                        segment.groups.contains_key(&GroupKey { queue, transient })
                    })
                })
        });
    }

    /// Sealed segments below `replay_from` that hold nothing that is alive, nor a body that something
    /// alive refers to.
    pub fn dead_segments(&self, replay_from: u32) -> Vec<u32> {
        let before = self.segments.range(..replay_from);
        let empty = before.filter(|(_, segment)| segment.sealed && segment.groups.is_empty());
        let dead = empty.map(|(serial, _)| *serial).filter(|serial| {
            let mut others = self.segments.values();
            !others.any(|o| !o.groups.is_empty() && o.references.contains_key(serial))
        });
        dead.collect()
    }

    /// Bytes of records that are alive in each segment, estimated from how much of each group is settled.
    pub fn live_bytes(&self) -> BTreeMap<u32, u64> {
        let mut live: BTreeMap<u32, u64> = self.segments.keys().map(|s| (*s, 0)).collect();
        for (serial, segment) in &self.segments {
            let (mut count, mut all, mut bytes) = (0.0, 0.0, 0.0);
            for (key, group) in &segment.groups {
                let span = group.min..group.max.saturating_add(1);
                let settled = self.queues.get(&key.queue);
                let settled = settled.map_or(0, |settled| settled.count_in(span.clone()));
                let part = 1.0 - settled as f64 / (span.end - span.start).max(1) as f64;
                count += part * f64::from(group.count);
                all += f64::from(group.count);
                let overhead = PLACED_BYTES as f64 * f64::from(group.count);
                bytes += part * (group.bytes as f64 + overhead);
            }
            let part = if all > 0.0 { count / all } else { 0.0 };
            let borrowed: u64 = segment.references.values().sum();
            let own = (bytes - part * borrowed as f64).max(0.0);
            *live.entry(*serial).or_default() += own as u64;
            for (other, borrowed) in &segment.references {
                if let Some(other) = live.get_mut(other) {
                    *other += (part * *borrowed as f64) as u64;
                }
            }
        }
        live
    }
}

/// What a batch changes.
struct Fold<'a> {
    serial: u32,
    segment: &'a mut SegmentState,
    queues: &'a mut AHashMap<u64, Settled>,
    definitions: &'a mut BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Fold<'_> {
    fn record(&mut self, at: u32, record: Record<'_>, transient: bool) {
        match record {
            Record::Publish {
                payload,
                payload_at,
                targets,
                transient: forgotten,
                ..
            } => {
                if forgotten && !transient {
                    return;
                }
                let position = self.position(at + payload_at);
                self.place(targets, forgotten, position, payload.len() as u32);
            }
            Record::Transfer {
                body,
                targets,
                sources,
            } => {
                let (position, len) = match body {
                    Body::At(position, len) => (position, len),
                    Body::Here(payload, payload_at) => {
                        (self.position(at + payload_at), payload.len() as u32)
                    }
                };
                if position.segment != self.serial {
                    let references = &mut self.segment.references;
                    *references.entry(position.segment).or_default() += u64::from(len);
                }
                self.place(targets, false, position, len);
                for source in sources.iter() {
                    self.settle(source.queue, source.seqs);
                }
            }
            Record::Settle { queue, ranges, .. } => {
                ranges.iter().for_each(|range| self.settle(queue, range));
            }
            Record::SettleMany { sources, .. } => {
                for source in sources.iter() {
                    self.settle(source.queue, source.seqs);
                }
            }
            Record::Define { key, value } => {
                self.definitions.insert(key.into(), value.into());
            }
            Record::Remove { key } => {
                self.definitions.remove(key);
            }
        }
    }

    fn position(&self, offset: u32) -> Position {
        Position {
            segment: self.serial,
            offset,
        }
    }

    fn place(&mut self, targets: Targets<'_>, transient: bool, position: Position, len: u32) {
        let (home, groups) = (self.serial, &mut self.segment.groups);
        for target in targets.iter() {
            let key = GroupKey {
                queue: target.queue,
                transient,
            };
            let seq = target.seq;
            let entry = Entry { seq, position, len };
            groups
                .entry(key)
                .and_modify(|group| group.push(home, entry))
                .or_insert_with(|| Group::new(home, entry));
        }
    }

    fn settle(&mut self, queue: u64, range: Range<u64>) {
        self.queues.entry(queue).or_default().insert(range);
    }
}
