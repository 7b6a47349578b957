//! Leases on a real queue, on simulated time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::engine::{Engine, Outgoing, Queue};

/// A queue and the leases on it.
struct Bench {
    engine: Engine,
    queue: Arc<Queue>,
    table: Table,
    now_ms: u64,
    next_lease: u64,
    next_message: u32,
}

impl Bench {
    fn new() -> Self {
        let engine = Engine::for_tests(usize::MAX);
        let queue = engine.declare_queue("q", false).unwrap();
        Self {
            engine,
            queue,
            table: Table::default(),
            now_ms: 0,
            next_lease: 0,
            next_message: 0,
        }
    }

    fn publish(&mut self) -> u32 {
        let number = self.next_message;
        self.next_message += 1;
        let message = Outgoing {
            body: &number.to_be_bytes(),
            ..Outgoing::default()
        };
        self.engine.publish(&self.queue, &message).unwrap();
        number
    }

    fn publish_all(&mut self, count: usize) {
        for _ in 0..count {
            self.publish();
        }
    }

    /// Takes messages for a while: their ids and numbers, and whether each came back before.
    fn lease(&mut self, client: &str, count: usize, ms: u64) -> Vec<(AckId, u32, bool)> {
        let taken = self.engine.take(&self.queue, count, usize::MAX);
        self.next_lease += 1;
        let lease = Lease {
            id: self.next_lease,
            client: client.into(),
            duration: Duration::from_millis(ms),
        };
        let items = numbers(&taken).into_iter().enumerate();
        let items = items
            .map(|(index, number)| (lease.ack_id(index), number, taken.is_redelivered(index)))
            .collect();
        if !taken.is_empty() {
            self.table.begin(lease, taken, self.now_ms);
        }
        items
    }

    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        drop(self.table.expire(self.now_ms));
    }
}

fn numbers(taken: &Taken) -> Vec<u32> {
    let number = |index| {
        taken.with(index, |message| {
            u32::from_be_bytes(message.body.try_into().unwrap())
        })
    };
    (0..taken.len()).map(number).collect()
}

fn settle(found: Found) -> usize {
    let count = found.taken.iter().map(Taken::len).sum();
    found.taken.into_iter().for_each(Taken::settle);
    count
}

#[test]
fn what_is_not_acknowledged_in_time_comes_back_in_order_and_marked() {
    let mut bench = Bench::new();
    bench.publish_all(4);
    let first = bench.lease("a", 2, 100);
    let second = bench.lease("a", 2, 50);
    assert_eq!(settle(bench.table.take_out("a", vec![first[0].0])), 1);
    bench.advance(49);
    assert!(bench.lease("a", 9, 9).is_empty());
    bench.advance(1);
    let found = bench.table.take_out("a", vec![second[0].0]);
    assert_eq!((found.taken.len(), found.unknown), (0, vec![second[0].0]));
    bench.advance(50);
    let again = bench.lease("a", 9, 10);
    let seen: Vec<_> = again.iter().map(|it| (it.1, it.2)).collect();
    assert_eq!(seen, [(1, true), (2, true), (3, true)]);
    let all = again.iter().map(|it| it.0).collect();
    assert_eq!(settle(bench.table.take_out("a", all)), 3);
    assert_eq!(
        (bench.table.usage("a"), bench.engine.segments()),
        (Usage::default(), 0)
    );
    assert!(bench.table.due.is_empty() && bench.table.leases.is_empty());
}

#[test]
fn an_id_counts_once_and_for_its_client_only() {
    let mut bench = Bench::new();
    bench.publish();
    let id = bench.lease("a", 1, 100)[0].0;
    for (client, ids) in [("b", vec![id]), ("", vec![id])] {
        assert_eq!(bench.table.take_out(client, ids).unknown, [id]);
    }
    let found = bench.table.take_out("a", vec![id, id]);
    assert!(found.unknown.is_empty());
    assert_eq!(settle(found), 1);
    assert_eq!(bench.table.take_out("a", vec![id]).unknown, [id]);
}

#[test]
fn a_client_that_is_gone_has_nothing() {
    let mut bench = Bench::new();
    bench.publish_all(3);
    bench.lease("a", 1, 100);
    bench.lease("b", 1, 100);
    bench.lease("a", 1, 100);
    assert_eq!(bench.table.forget("a").len(), 2);
    assert_eq!(
        (bench.table.usage("a"), bench.table.usage("b").messages),
        (Usage::default(), 1)
    );
}

#[test]
fn ids_are_read_as_they_are_written() {
    let id = AckId {
        lease: u64::MAX - 1,
        number: 70,
    };
    assert_eq!(id.to_string().parse(), Ok(id));
    for text in [
        "",
        "-",
        "1-1",
        "fffffffffffffffe",
        "fffffffffffffffe-",
        "+ffffffffffffffe-7",
        "fffffffffffffffe-+7",
        "fffffffffffffffe-99999999999",
        "fffffffffffffffe-7 ",
    ] {
        assert_eq!(text.parse::<AckId>(), Err(NoAckId), "{text}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Lease(usize, u64),
    /// What is removed on writing, as by a call without acknowledgements.
    Take(usize),
    /// Ids of what was ever handed out, by their place there.
    Acknowledge(Vec<usize>),
    GiveBack(Vec<usize>),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(0..60usize, 0..6);
    prop_oneof![
        4 => Just(Step::Publish),
        3 => (1..5usize, 1..40u64).prop_map(|(count, ms)| Step::Lease(count, ms)),
        1 => (1..3usize).prop_map(Step::Take),
        3 => some().prop_map(Step::Acknowledge),
        1 => some().prop_map(Step::GiveBack),
        2 => (1..30u64).prop_map(Step::Advance),
    ]
}

/// What should be: which messages wait, and who has the others until when.
#[derive(Default)]
struct Model {
    waiting: BTreeSet<u32>,
    came_back: BTreeSet<u32>,
    leased: BTreeMap<AckId, (u32, u64)>,
}

impl Model {
    fn take(&mut self, count: usize) -> Vec<u32> {
        let first: Vec<u32> = self.waiting.iter().copied().take(count).collect();
        self.waiting.retain(|number| !first.contains(number));
        first
    }

    fn give_back(&mut self, number: u32) {
        self.waiting.insert(number);
        self.came_back.insert(number);
    }
}

proptest! {
    /// No message is with two readers, lost, or out of order, whatever is acknowledged, given back, or late.
    #[test]
    fn each_message_is_in_one_place(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        let mut ever: Vec<AckId> = Vec::new();
        let some = |ever: &[AckId], places: &[usize]| -> Vec<AckId> {
            places.iter().filter_map(|place| ever.get(*place).copied()).collect()
        };
        for step in steps {
            match step {
                Step::Publish => {
                    let number = bench.publish();
                    model.waiting.insert(number);
                }
                Step::Lease(count, ms) => {
                    let got = bench.lease("a", count, ms);
                    let expected = model.take(count);
                    let seen: Vec<_> = got.iter().map(|it| (it.1, it.2)).collect();
                    let expected: Vec<_> = expected.iter().map(|it| (*it, model.came_back.contains(it))).collect();
                    prop_assert_eq!(seen, expected);
                    for (id, number, _) in got {
                        ever.push(id);
                        model.leased.insert(id, (number, bench.now_ms + ms));
                    }
                }
                Step::Take(count) => {
                    let taken = bench.engine.take(&bench.queue, count, usize::MAX);
                    prop_assert_eq!(numbers(&taken), model.take(count));
                    taken.settle();
                }
                Step::Acknowledge(places) => {
                    let ids = some(&ever, &places);
                    let known = ids.iter().filter(|id| model.leased.remove(id).is_some()).count();
                    prop_assert_eq!(settle(bench.table.take_out("a", ids)), known);
                }
                Step::GiveBack(places) => {
                    let ids = some(&ever, &places);
                    for id in &ids {
                        if let Some((number, _)) = model.leased.remove(id) {
                            model.give_back(number);
                        }
                    }
                    drop(bench.table.take_out("a", ids));
                }
                Step::Advance(ms) => {
                    bench.advance(ms);
                    let now_ms = bench.now_ms;
                    let over = |until: u64| until <= now_ms;
                    let late: Vec<_> = model.leased.iter().filter(|(_, it)| over(it.1)).map(|(id, it)| (*id, it.0)).collect();
                    for (id, number) in late {
                        model.leased.remove(&id);
                        model.give_back(number);
                    }
                }
            }
            let stats = bench.queue.stats();
            prop_assert_eq!(stats.ready as usize, model.waiting.len());
            prop_assert_eq!(stats.unsettled as usize, model.leased.len());
            prop_assert_eq!(bench.table.usage("a").messages, model.leased.len());
        }
        bench.advance(1000);
        let left = bench.engine.take(&bench.queue, usize::MAX, usize::MAX);
        let leased = model.leased.values().map(|it| it.0);
        let expected: BTreeSet<u32> = leased.chain(model.waiting.iter().copied()).collect();
        prop_assert_eq!(numbers(&left), expected.into_iter().collect::<Vec<_>>());
    }
}
