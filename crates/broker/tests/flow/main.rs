//! The bus's flows, fused and moved by hand: whatever way a message takes, it comes once, in its
//! sender's order, unchanged but for what the bus adds.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod bus;
mod marks;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use backbone_broker::publisher::Publisher;
use backbone_broker::queue::{ConsumerId, Queue, Wakes};
use backbone_broker::record::{Entry, Record};
use backbone_wire::table::Table;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use bus::{Bus, CLIENTS, Got, PATTERNS, Sent, client_id, spec};
use support::Rng;

/// Somebody else who consumes from an outbox.
struct Rival {
    source: Arc<Queue>,
    id: Option<ConsumerId>,
    held: Vec<Entry>,
}

struct World {
    bus: Bus,
    publishers: Vec<Publisher>,
    sent: BTreeMap<i64, Sent>,
    /// By inbox, sender and way: the numbers of what must come, in order.
    expected: BTreeMap<(usize, usize, usize), Vec<i64>>,
    dead: Vec<i64>,
    patterns: Vec<BTreeSet<&'static str>>,
    excludes: Vec<bool>,
    rivals: Vec<Rival>,
    /// Taken by rivals for good.
    stolen: BTreeSet<i64>,
    /// Senders and ways whose order a rival may have mixed up.
    mixed: BTreeSet<(usize, usize)>,
    /// Movers never stop, and there are no rivals: all is fused.
    calm: bool,
}

impl World {
    fn new(calm: bool) -> Self {
        let mut bus = Bus::new();
        bus.settle_down();
        Self {
            publishers: (0..CLIENTS).map(|n| bus.publisher(n)).collect(),
            bus,
            sent: BTreeMap::new(),
            expected: BTreeMap::new(),
            dead: Vec::new(),
            patterns: (0..CLIENTS)
                .map(|n| BTreeSet::from([PATTERNS[n]]))
                .collect(),
            excludes: vec![false; CLIENTS],
            rivals: Vec::new(),
            stolen: BTreeSet::new(),
            mixed: BTreeSet::new(),
            calm,
        }
    }

    fn step(&mut self, seed: u64) {
        let mut rng = Rng(seed);
        let client = rng.below(CLIENTS);
        // The two that all others go through decide most.
        let hand = match rng.below(2) {
            0 => rng.below(2),
            _ => rng.below(self.bus.hands.len()),
        };
        match rng.below(20) {
            0..=6 => self.publish(client, &mut rng),
            7..=9 => self.publishers[client].commit(),
            10 | 11 if !self.calm => self.bus.hands[hand].pause(),
            12 | 13 => self.bus.hands[hand].resume(),
            14..=16 => drop(self.bus.hands[hand].step()),
            17 if !self.calm && rng.once_in(8) => self.rival(client, &mut rng),
            18 if !self.calm => self.rival_ends(&mut rng),
            19 if rng.once_in(4) => self.settle_down(),
            19 if rng.once_in(4) => self.change(client, &mut rng),
            _ => {}
        }
    }

    fn publish(&mut self, client: usize, rng: &mut Rng) {
        for _ in 0..=rng.below(5) {
            let number = self.sent.len() as i64;
            let sent = Sent::random(number, client, rng);
            sent.publish(&mut self.publishers[client], rng.once_in(3));
            if sent.reason().is_some() {
                self.dead.push(number);
            }
            for inbox in 0..CLIENTS {
                if sent.reaches(inbox, &self.patterns, &self.excludes) {
                    let key = (inbox, client, sent.way);
                    self.expected.entry(key).or_default().push(number);
                }
            }
            self.sent.insert(number, sent);
        }
    }

    fn settle_down(&mut self) {
        for publisher in &mut self.publishers {
            publisher.commit();
        }
        while !self.rivals.is_empty() {
            self.rival_ends(&mut Rng(0));
        }
        self.bus.settle_down();
    }

    /// Other bindings or another mind about own messages, while nothing is on its way.
    fn change(&mut self, client: usize, rng: &mut Rng) {
        self.settle_down();
        let Bus { vhost, clients, .. } = &self.bus;
        let inbox = &clients[client].inbox;
        if rng.once_in(2) {
            let exclude = !self.excludes[client];
            self.excludes[client] = exclude;
            for flow in &clients[client].flows {
                flow.exclude_own.store(exclude, Ordering::Relaxed);
            }
            vhost.set_exclude_own(&client_id(client), inbox.id(), exclude);
            return;
        }
        let pattern = rng.pick(&PATTERNS);
        let (name, key) = (inbox.name(), pattern.as_bytes());
        let topology = vhost.topology();
        if self.patterns[client].remove(pattern) {
            topology
                .unbind_queue(name, "soar-publish", key, Table::EMPTY)
                .unwrap();
        } else {
            self.patterns[client].insert(pattern);
            topology
                .bind_queue(name, "soar-publish", key, Table::EMPTY)
                .unwrap();
        }
    }

    /// Somebody consumes from a source, and may get something.
    fn rival(&mut self, client: usize, rng: &mut Rng) {
        let way = rng.below(2);
        let source = Arc::clone(&self.bus.clients[client].sources[way]);
        // What it is assigned and never fetches goes back behind what the mover is assigned.
        self.mixed.insert((client, way));
        let mut wakes = Wakes::default();
        let id = source.consume(spec(&Arc::default()), &mut wakes).unwrap();
        let mut held = Vec::new();
        let most = 1 + rng.below(3);
        source.fetch(id, most, usize::MAX, &mut held, &mut wakes);
        let id = if rng.once_in(2) {
            source.cancel(id, &mut wakes);
            None
        } else {
            Some(id)
        };
        wakes.ring();
        self.rivals.push(Rival { source, id, held });
    }

    fn rival_ends(&mut self, rng: &mut Rng) {
        let Some(rival) = self.rivals.pop() else {
            return;
        };
        let Rival { source, id, held } = rival;
        let mut wakes = Wakes::default();
        let arena = self.bus.vhost.arena();
        let back = rng.once_in(2);
        for entry in &held {
            let segment = arena.segment(entry.segment);
            let number = Got::read(&Record::read(&segment, entry.offset)).number;
            if !back {
                self.stolen.insert(number);
                arena.release(entry.segment, 1);
            }
        }
        if back {
            assert!(source.requeue(id, &held, &mut wakes));
        } else {
            source.settle(id, held.len() as u32, &mut wakes);
        }
        if let Some(id) = id {
            source.cancel(id, &mut wakes);
        }
        wakes.ring();
    }

    fn end(mut self) {
        self.settle_down();
        for inbox in 0..CLIENTS {
            let got = self.bus.empty(&self.bus.clients[inbox].inbox);
            let mut came: BTreeMap<(usize, usize), Vec<i64>> = BTreeMap::new();
            for got in &got {
                let sent = &self.sent[&got.number];
                sent.check(got);
                let numbers = came.entry((sent.client, sent.way)).or_default();
                numbers.push(got.number);
            }
            for client in 0..CLIENTS {
                for way in 0..2 {
                    let mut came = came.remove(&(client, way)).unwrap_or_default();
                    let due = self.expected.remove(&(inbox, client, way));
                    let mut due = due.unwrap_or_default();
                    due.retain(|number| !self.stolen.contains(number));
                    if self.mixed.contains(&(client, way)) {
                        came.sort_unstable();
                        due.sort_unstable();
                    }
                    assert_eq!(came, due, "to {inbox} from {client} by way {way}");
                }
            }
        }
        let mut dead: Vec<i64> = Vec::new();
        for got in self.bus.empty(&self.bus.dead) {
            self.sent[&got.number].check(&got);
            dead.push(got.number);
        }
        dead.sort_unstable();
        assert_eq!(dead, self.dead);
        self.check_counters();
        self.publishers.clear();
        self.bus.check_empty();
    }

    fn check_counters(&self) {
        let (mut accepted, mut fused) = (0, 0);
        for flow in self.bus.clients.iter().flat_map(|c| &c.flows) {
            accepted += flow.counters.accepted.load(Ordering::Relaxed);
            fused += flow.counters.fused.load(Ordering::Relaxed);
        }
        assert_eq!(accepted as usize, self.sent.len() - self.dead.len());
        assert!(fused <= accepted);
        if self.calm {
            assert_eq!(fused, accepted, "the way was always free");
        }
    }
}

fn run(calm: bool, steps: &[u64]) {
    let mut world = World::new(calm);
    for step in steps {
        world.step(*step);
    }
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn messages_come_once_and_in_order_however_they_are_moved(
        steps in proptest::collection::vec(any::<u64>(), 1..300)
    ) {
        run(false, &steps);
    }

    #[test]
    fn messages_are_fused_while_nothing_waits(
        steps in proptest::collection::vec(any::<u64>(), 1..100)
    ) {
        run(true, &steps);
    }
}

/// Threads publish while another one moves, pausing now and then.
#[test]
fn order_holds_while_movers_come_and_go() {
    const MESSAGES: i64 = 3000;
    let mut bus = Bus::new();
    bus.settle_down();
    let left = AtomicUsize::new(CLIENTS);
    let publishers: Vec<Publisher> = (0..CLIENTS).map(|n| bus.publisher(n)).collect();
    let mut sent: BTreeMap<i64, Sent> = BTreeMap::new();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (client, mut publisher) in publishers.into_iter().enumerate() {
            let left = &left;
            threads.push(scope.spawn(move || {
                let mut rng = Rng(client as u64);
                let mut sent = Vec::new();
                for number in 0..MESSAGES {
                    let number = number * CLIENTS as i64 + client as i64;
                    let message = Sent::random(number, client, &mut rng);
                    message.publish(&mut publisher, false);
                    sent.push((number, message));
                    if rng.once_in(4) {
                        publisher.commit();
                    }
                }
                publisher.commit();
                left.fetch_sub(1, Ordering::AcqRel);
                sent
            }));
        }
        let mut rng = Rng(99);
        while left.load(Ordering::Acquire) > 0 {
            let which = rng.below(bus.hands.len());
            let hand = &mut bus.hands[which];
            match rng.below(12) {
                0 => hand.pause(),
                1..=3 => hand.resume(),
                _ => drop(hand.step()),
            }
        }
        for thread in threads {
            sent.extend(thread.join().unwrap());
        }
    });
    bus.settle_down();
    let patterns: Vec<_> = (0..CLIENTS)
        .map(|n| BTreeSet::from([PATTERNS[n]]))
        .collect();
    for inbox in 0..CLIENTS {
        let got = bus.empty(&bus.clients[inbox].inbox);
        for client in 0..CLIENTS {
            for way in 0..2 {
                let from = |s: &Sent| s.client == client && s.way == way;
                let due = sent.iter().filter(|(_, s)| from(s));
                let due = due.filter(|(_, s)| s.reaches(inbox, &patterns, &[false; CLIENTS]));
                let due: Vec<i64> = due.map(|(number, _)| *number).collect();
                let came = got.iter().map(|g| g.number).filter(|n| from(&sent[n]));
                let came: Vec<i64> = came.collect();
                assert!(came == due, "to {inbox} from {client} by way {way}");
            }
        }
    }
    let dead = bus.empty(&bus.dead).len();
    assert_eq!(dead, sent.values().filter(|s| s.reason().is_some()).count());
    bus.check_empty();
}
