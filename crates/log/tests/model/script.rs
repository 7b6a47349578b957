//! Random operations on a log, and the model that goes with them.

use backbone_log::{Batch, Located, Log, LogError, Reason, Source, Target};

use crate::model::{Fold, Model, Op, Random};

const QUEUES: u64 = 5;

pub struct Script {
    pub log: Log,
    pub model: Model,
    random: Random,
    /// Live queues and the next number of each.
    queues: Vec<(u64, u64)>,
    next_queue: u64,
}

impl Script {
    pub fn new(log: Log, seed: u64) -> Self {
        Self {
            log,
            model: Model::default(),
            random: Random(seed),
            queues: (1..=QUEUES).map(|queue| (queue, 0)).collect(),
            next_queue: QUEUES + 1,
        }
    }

    /// Goes on after a restart: numbers come from the log.
    pub fn continued(log: Log, model: Model, seed: u64) -> Self {
        let mut script = Self::new(log, seed);
        script.model = model;
        let known = script.log.queues();
        script.next_queue = 1_000_000 + seed % 1_000_000;
        script.queues.clear();
        for info in known.iter().filter(|info| info.next != u64::MAX) {
            script.queues.push((info.queue, info.next));
        }
        while (script.queues.len() as u64) < QUEUES {
            script.queues.push((script.next_queue, 0));
            script.next_queue += 1;
        }
        script
    }

    pub fn step(&mut self) {
        match self.random.below(20) {
            0..=8 => self.append(),
            9..=10 => drop(self.log.write_step().expect("writes")),
            11..=13 => {
                self.log.write_step().expect("writes");
                self.log.sync_step().expect("syncs");
            }
            14..=17 => drop(self.log.maintain().expect("keeps house")),
            18 => {
                let all = Fold::of(&self.model, u64::MAX, true);
                all.compare(&self.log, "the running log");
            }
            _ => {
                if self.random.below(4) == 0 {
                    self.log.checkpoint().expect("writes a checkpoint");
                } else {
                    self.settle_much();
                }
            }
        }
    }

    fn append(&mut self) {
        let mut batch = Batch::with_buffer(self.log.buffer());
        let mut ops = Vec::new();
        for _ in 0..=self.random.below(5) {
            match self.random.below(20) {
                0..=9 => self.publish(&mut batch, &mut ops),
                10..=14 => self.settle(&mut batch, &mut ops),
                15..=17 => self.transfer(&mut batch, &mut ops),
                18 => self.define(&mut batch, &mut ops),
                _ => self.delete_queue(&mut batch, &mut ops),
            }
        }
        self.commit(batch, ops);
    }

    fn commit(&mut self, mut batch: Batch, ops: Vec<Op>) {
        if batch.is_empty() {
            return;
        }
        match self.log.append(&mut batch) {
            Ok(appended) => self.model.batches.push((appended.lsn, ops)),
            // A transfer referred to what is being emptied: the broker would resolve again.
            Err(LogError::Moved(_)) => {}
            Err(error) => panic!("append: {error}"),
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let len = match self.random.below(30) {
            0 => 3000 + self.random.below(15_000),
            1..=6 => 500 + self.random.below(1500),
            _ => self.random.below(300),
        };
        let mut payload = vec![self.random.next() as u8; len as usize];
        payload.extend_from_slice(&self.random.next().to_le_bytes());
        payload
    }

    /// A number in one of the queues; each at most once.
    fn targets(&mut self) -> Vec<Target> {
        let first = self.random.below(self.queues.len() as u64) as usize;
        let count = [1, 1, 1, 2, 4][self.random.below(5) as usize].min(self.queues.len());
        let mut targets = Vec::new();
        for at in 0..count {
            let length = self.queues.len();
            let (queue, next) = &mut self.queues[(first + at) % length];
            targets.push(Target {
                queue: *queue,
                seq: *next,
            });
            *next += 1;
        }
        targets
    }

    fn publish(&mut self, batch: &mut Batch, ops: &mut Vec<Op>) {
        let (targets, payload) = (self.targets(), self.payload());
        let transient = self.random.below(8) == 0;
        batch.publish(&targets, transient, |out| out.extend_from_slice(&payload));
        ops.push(Op::Publish {
            targets,
            payload,
            transient,
        });
    }

    /// Some live message that this batch has not touched, with its payload.
    fn some_message(&mut self, ops: &[Op]) -> Option<(u64, Located, Vec<u8>)> {
        let (queue, next) = self.queues[self.random.below(self.queues.len() as u64) as usize];
        let from = self.random.below(next + 1);
        let located = self.log.load(queue, from, 1).expect("loads");
        let located = *located.first()?;
        let touched = ops.iter().any(|op| {
            matches!(op, Op::Settle { queue: q, seqs } if *q == queue && seqs.contains(&located.seq))
        });
        let chunk = self.log.read(located.position, located.len).expect("reads");
        let payload = chunk.get(located.position, located.len).expect("is there");
        (!touched).then(|| (queue, located, payload.to_vec()))
    }

    fn transfer(&mut self, batch: &mut Batch, ops: &mut Vec<Op>) {
        let Some((queue, located, payload)) = self.some_message(ops) else {
            return;
        };
        let source = Source {
            queue,
            seqs: located.seq..located.seq + 1,
        };
        let targets = self.targets();
        let seqs = source.seqs.clone();
        let payload = if self.random.below(3) == 0 {
            let payload = self.payload();
            batch.transfer_with(&[source], &targets, |out| out.extend_from_slice(&payload));
            payload
        } else {
            batch.transfer_at(&[source], &targets, located.position, located.len);
            payload
        };
        ops.push(Op::Publish {
            targets,
            payload,
            transient: false,
        });
        ops.push(Op::Settle { queue, seqs });
    }

    fn settle(&mut self, batch: &mut Batch, ops: &mut Vec<Op>) {
        let (queue, next) = self.queues[self.random.below(self.queues.len() as u64) as usize];
        let seqs = match self.random.below(6) {
            0 => 0..self.random.below(next + 1),
            1 => {
                let from = self.random.below(next + 1);
                from..next.min(from + self.random.below(20))
            }
            _ => match self.some_message(ops) {
                Some((other, located, _)) if other == queue => located.seq..located.seq + 1,
                _ => return,
            },
        };
        batch.settle(queue, std::slice::from_ref(&seqs), Reason::Ack);
        ops.push(Op::Settle { queue, seqs });
    }

    /// Most of most queues, so that segments die, with some messages stuck.
    fn settle_much(&mut self) {
        let mut batch = Batch::new();
        let (mut ops, mut sources) = (Vec::new(), Vec::new());
        let at_once = self.random.below(2) == 0;
        for (queue, next) in self.queues.clone() {
            let stuck = self.random.below(next + 1);
            for seqs in [0..stuck, stuck + 1..next] {
                if seqs.start < seqs.end && self.random.below(5) > 0 {
                    if at_once {
                        let seqs = seqs.clone();
                        sources.push(Source { queue, seqs });
                    } else {
                        batch.settle(queue, std::slice::from_ref(&seqs), Reason::Purge);
                    }
                    ops.push(Op::Settle { queue, seqs });
                }
            }
        }
        batch.settle_many(sources.into_iter(), Reason::Purge);
        self.commit(batch, ops);
    }

    fn define(&mut self, batch: &mut Batch, ops: &mut Vec<Op>) {
        let key = vec![b'k', self.random.below(6) as u8];
        if self.random.below(4) == 0 {
            batch.remove(&key);
            ops.push(Op::Remove(key));
        } else {
            let value = self.payload();
            batch.define(&key, &value);
            ops.push(Op::Define(key, value));
        }
    }

    fn delete_queue(&mut self, batch: &mut Batch, ops: &mut Vec<Op>) {
        if self.random.below(4) > 0 {
            return;
        }
        let at = self.random.below(self.queues.len() as u64) as usize;
        let (queue, _) = self.queues[at];
        batch.settle(queue, &[0..u64::MAX], Reason::Purge);
        ops.push(Op::Settle {
            queue,
            seqs: 0..u64::MAX,
        });
        self.queues[at] = (self.next_queue, 0);
        self.next_queue += 1;
    }
}
