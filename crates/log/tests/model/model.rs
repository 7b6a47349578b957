//! What the log should say: a naive fold over the batches that were appended.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use backbone_log::{Log, Target};

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    Publish {
        targets: Vec<Target>,
        payload: Vec<u8>,
        transient: bool,
    },
    Settle {
        queue: u64,
        seqs: Range<u64>,
    },
    Define(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
}

/// Everything that was appended.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Number of the batch, and what it did.
    pub batches: Vec<(u64, Vec<Op>)>,
}

impl Model {
    /// What is left when the log ends with batch `last`, in a run that began after it.
    pub fn until(&self, last: u64) -> Self {
        let kept = self.batches.iter().filter(|(number, _)| *number <= last);
        let mut batches: Vec<_> = kept.cloned().collect();
        for (_, ops) in &mut batches {
            ops.retain(|op| {
                !matches!(
                    op,
                    Op::Publish {
                        transient: true,
                        ..
                    }
                )
            });
        }
        Self { batches }
    }
}

/// The state after a prefix of the batches.
#[derive(Debug, Default)]
pub struct Fold {
    pub queues: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    pub definitions: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Above all numbers that were stored or settled.
    pub next: BTreeMap<u64, u64>,
    deleted: BTreeSet<u64>,
}

impl Fold {
    pub fn of(model: &Model, last: u64, transient: bool) -> Self {
        let mut fold = Self::default();
        let kept = model.batches.iter().filter(|(number, _)| *number <= last);
        for op in kept.flat_map(|(_, ops)| ops) {
            fold.apply(op, transient);
        }
        fold
    }

    fn apply(&mut self, op: &Op, with_transient: bool) {
        match op {
            Op::Publish {
                targets,
                payload,
                transient,
            } => {
                for target in targets.iter().filter(|_| with_transient || !transient) {
                    let queue = self.queues.entry(target.queue).or_default();
                    let twin = queue.insert(target.seq, payload.clone());
                    assert!(twin.is_none(), "the script published a number twice");
                    let next = self.next.entry(target.queue).or_default();
                    *next = (*next).max(target.seq + 1);
                }
            }
            Op::Settle { seqs, .. } if seqs.is_empty() => {}
            Op::Settle { queue, seqs } => {
                let live = self.queues.entry(*queue).or_default();
                live.retain(|seq, _| !seqs.contains(seq));
                let next = self.next.entry(*queue).or_default();
                *next = (*next).max(seqs.end);
                if seqs.end == u64::MAX {
                    self.deleted.insert(*queue);
                }
            }
            Op::Define(key, value) => {
                self.definitions.insert(key.clone(), value.clone());
            }
            Op::Remove(key) => {
                self.definitions.remove(key);
            }
        }
    }

    /// Panics unless the log says exactly this.
    pub fn compare(&self, log: &Log, context: &str) {
        let known = log.queues();
        for info in &known {
            let id = info.queue;
            let expected = self.queues.contains_key(&id) || info.live == 0;
            assert!(
                expected,
                "{context}: queue {id} came from nowhere: {info:?}"
            );
        }
        for (id, expected) in &self.queues {
            self.compare_queue(log, *id, expected, context);
            let next = known.iter().find(|info| info.queue == *id);
            let next = next.map_or(0, |info| info.next);
            let forgotten = self.deleted.contains(id) && next == 0;
            assert!(
                forgotten || next >= self.next[id],
                "{context}: queue {id} would use {next} again"
            );
        }
        let definitions = log.definitions().into_iter();
        let definitions: BTreeMap<Vec<u8>, Vec<u8>> =
            definitions.map(|(k, v)| (k.into(), v.into())).collect();
        assert_eq!(definitions, self.definitions, "{context}: definitions");
    }

    fn compare_queue(&self, log: &Log, id: u64, expected: &BTreeMap<u64, Vec<u8>>, context: &str) {
        let found = log.load(id, 0, 10_000).expect("loads");
        let seqs: Vec<u64> = found.iter().map(|located| located.seq).collect();
        let wanted: Vec<u64> = expected.keys().copied().collect();
        assert_eq!(seqs, wanted, "{context}: queue {id}");
        let mut chunk: Option<backbone_log::Chunk> = None;
        for located in found {
            let held = chunk.take();
            let held = held.filter(|c| c.get(located.position, located.len).is_some());
            let here = held.unwrap_or_else(|| {
                let read = log.read(located.position, located.len);
                read.unwrap_or_else(|e| panic!("{context}: queue {id}, {located:?}: {e}"))
            });
            let payload = here.get(located.position, located.len);
            let payload = payload.expect("what was read for it has it");
            assert!(
                payload == expected[&located.seq],
                "{context}: queue {id}, {located:?}: other bytes"
            );
            chunk = Some(here);
        }
        // In small portions it is the same.
        let mut portions = Vec::new();
        let mut from = 0;
        loop {
            let portion = log.load(id, from, 3).expect("loads");
            let Some(last) = portion.last() else { break };
            from = last.seq + 1;
            portions.extend(portion.iter().map(|located| located.seq));
        }
        assert_eq!(portions, wanted, "{context}: queue {id} in portions");
    }
}
