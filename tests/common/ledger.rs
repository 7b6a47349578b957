//! What publishers were promised and what consumers were given, over any number of crashes.
//!
//! A *lane* is what one publisher sends to one queue, numbered from 0. A *run* is the life of one server, in which
//! each queue has at most one consumer that gives nothing back. So within a run the numbers of a lane only grow.
//!
//! Acknowledgements have no answer. One that *was handled* (a later method of its channel was answered) before a
//! publish was written that got its confirm in the same run stands in the log before that publish, so it must have
//! held: its message may not come back. Others may. This needs an order of events and no clock.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Octets at the front of a body: publisher, queue, number.
const HEAD: usize = 16;
/// Faults described one by one; the others are counted.
const FAULTS_TOLD: usize = 20;

/// A message: its lane and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    lane: usize,
    number: u64,
}

/// All that was sent, confirmed, delivered and acknowledged.
pub struct Ledger {
    queues: usize,
    lanes: Vec<Mutex<Lane>>,
    ticks: AtomicU64,
    /// The latest tick at which a publish was written that was confirmed.
    promised: AtomicU64,
    faults: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Lane {
    messages: Vec<Fate>,
    /// Where each run began.
    runs: Vec<usize>,
    /// The number delivered last in this run.
    last: Option<u64>,
}

#[derive(Default, Clone, Copy)]
struct Fate {
    confirmed: bool,
    seen: bool,
    ack: Ack,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Ack {
    #[default]
    None,
    Sent,
    /// Handled before this tick.
    Handled(u64),
    /// In the log when the run ended.
    Kept,
}

/// How many there were, for the note of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub sent: usize,
    pub confirmed: usize,
    pub seen: usize,
    pub acks_kept: usize,
}

impl Ledger {
    pub fn new(publishers: usize, queues: usize) -> Self {
        Self {
            queues,
            lanes: (0..publishers * queues).map(|_| Mutex::default()).collect(),
            ticks: AtomicU64::new(1),
            promised: AtomicU64::new(0),
            faults: Mutex::default(),
        }
    }

    /// The next moment of the order of events.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes a new message of `publisher` to `queue` and makes its body of at least 16 octets.
    pub fn sending(&self, publisher: usize, queue: usize, size: usize) -> (Id, Vec<u8>) {
        let lane = publisher * self.queues + queue;
        let mut locked = self.lanes[lane].lock();
        let number = locked.messages.len() as u64;
        locked.messages.push(Fate::default());
        drop(locked);
        (Id { lane, number }, body(publisher, queue, number, size))
    }

    /// Notes the confirm of a message that was written at `tick`.
    pub fn confirmed(&self, id: Id, tick: u64) {
        self.lanes[id.lane].lock().messages[id.number as usize].confirmed = true;
        self.promised.fetch_max(tick, Ordering::SeqCst);
    }

    /// Notes a delivery from `queue`. `None`: it is no message of ours, which is a fault.
    pub fn delivered(&self, queue: usize, got: &[u8]) -> Option<Id> {
        let Some(id) = self.identify(queue, got) else {
            self.fault(format!(
                "queue {queue} delivered what nobody has sent there, {} B",
                got.len()
            ));
            return None;
        };
        let mut lane = self.lanes[id.lane].lock();
        let fate = &mut lane.messages[id.number as usize];
        fate.seen = true;
        if fate.ack == Ack::Kept {
            let what = self.name(id);
            self.fault(format!("{what} came back although its ack was in the log"));
        }
        if let Some(last) = lane.last.filter(|&last| last >= id.number) {
            let what = self.name(id);
            self.fault(format!("{what} came after number {last}"));
        }
        lane.last = Some(id.number);
        Some(id)
    }

    /// Notes that acknowledgements are about to be written.
    pub fn acking(&self, ids: &[Id]) {
        self.set_ack(ids, Ack::Sent);
    }

    /// Notes that the server has handled acknowledgements.
    pub fn acks_handled(&self, ids: &[Id]) {
        self.set_ack(ids, Ack::Handled(self.tick()));
    }

    /// Notes something wrong.
    pub fn fault(&self, what: String) {
        self.faults.lock().push(what);
    }

    /// The end of a server's life.
    pub fn end_run(&self) {
        let promised = self.promised.load(Ordering::SeqCst);
        for lane in &self.lanes {
            let mut lane = lane.lock();
            for fate in &mut lane.messages {
                match fate.ack {
                    Ack::Handled(tick) if tick < promised => fate.ack = Ack::Kept,
                    Ack::Handled(_) => fate.ack = Ack::Sent,
                    _ => {}
                }
            }
            lane.last = None;
            let end = lane.messages.len();
            lane.runs.push(end);
        }
    }

    /// To be called when all queues are drained and all is acknowledged.
    ///
    /// # Panics
    /// When something was lost, came back or came in another order.
    pub fn judge(&self) -> Totals {
        let mut totals = Totals::default();
        for (index, lane) in self.lanes.iter().enumerate() {
            let lane = lane.lock();
            totals.sent += lane.messages.len();
            for (number, fate) in lane.messages.iter().enumerate() {
                totals.confirmed += usize::from(fate.confirmed);
                totals.seen += usize::from(fate.seen);
                totals.acks_kept += usize::from(fate.ack == Ack::Kept);
                if fate.confirmed && fate.ack == Ack::None {
                    let what = self.name(Id {
                        lane: index,
                        number: number as u64,
                    });
                    self.fault(format!("{what} was confirmed, not acknowledged, and lost"));
                }
            }
            self.judge_holes(index, &lane);
        }
        let faults = self.faults.lock();
        let told: Vec<_> = faults.iter().take(FAULTS_TOLD).collect();
        assert!(faults.is_empty(), "{} faults: {told:#?}", faults.len());
        totals
    }

    /// What survives of a run of a lane is its beginning: no later message without the earlier ones.
    fn judge_holes(&self, index: usize, lane: &Lane) {
        let ends = lane.runs.iter().copied().chain([lane.messages.len()]);
        let mut start = 0;
        for end in ends {
            let run = &lane.messages[start..end];
            let first_missing = run.iter().position(|fate| !fate.seen);
            let hole = first_missing.filter(|&at| run[at..].iter().any(|fate| fate.seen));
            if let Some(at) = hole {
                let number = (start + at) as u64;
                let what = self.name(Id {
                    lane: index,
                    number,
                });
                self.fault(format!("{what} is missing, and later ones are there"));
            }
            start = end;
        }
    }

    fn set_ack(&self, ids: &[Id], ack: Ack) {
        for id in ids {
            self.lanes[id.lane].lock().messages[id.number as usize].ack = ack;
        }
    }

    fn identify(&self, queue: usize, got: &[u8]) -> Option<Id> {
        let (head, _) = got.split_first_chunk::<HEAD>()?;
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (publisher, to, number) = (word(0) as usize, word(4) as usize, u64::from(word(12)));
        let lane = publisher * self.queues + queue;
        let sent = self.lanes.get(lane)?.lock().messages.len() as u64;
        (to == queue && number < sent && got == body(publisher, queue, number, got.len()))
            .then_some(Id { lane, number })
    }

    fn name(&self, id: Id) -> String {
        let (publisher, queue) = (id.lane / self.queues, id.lane % self.queues);
        format!(
            "number {} of publisher {publisher} to queue {queue}",
            id.number
        )
    }
}

fn body(publisher: usize, queue: usize, number: u64, size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size.max(HEAD));
    body.extend_from_slice(&(publisher as u32).to_be_bytes());
    body.extend_from_slice(&(queue as u32).to_be_bytes());
    body.extend_from_slice(&number.to_be_bytes());
    let salt = (number as u8).wrapping_mul(31);
    // In pieces, because most of a test without optimisation would be spent here.
    let piece: [u8; 256] = std::array::from_fn(|at| salt.wrapping_add(at as u8));
    while body.len() < size {
        let length = piece.len().min(size - body.len());
        body.extend_from_slice(&piece[..length]);
    }
    body
}
