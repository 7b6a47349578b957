//! Random messages, rests and restarts: each message comes once, when it is due and not before, in the order of their times.

use std::collections::BTreeMap;

use backbone_wire::table::Value;

use crate::support::Rng;
use crate::world::{Message, World};

/// What is known of a message that was published.
struct Known {
    due: u64,
    persistent: bool,
    /// Its confirm would have been sent.
    safe: bool,
    came: bool,
}

struct Case {
    world: World,
    rng: Rng,
    known: BTreeMap<u32, Known>,
    next: u32,
}

impl Case {
    fn publish(&mut self) {
        let (number, now) = (self.next, self.world.now);
        self.next += 1;
        let body = format!("{number:04}{}", "x".repeat(self.rng.below(300)));
        let mut message = Message::to("late", "q", &body);
        let delay = self.rng.below(120) as u64;
        let persistent = !self.rng.once_in(3);
        if !persistent {
            message = message.transient();
        }
        message = match self.rng.below(3) {
            0 => message.with("x-delay", Value::I64(delay as i64)),
            1 => message.with("x-deliver-at", Value::I64((now + delay) as i64)),
            _ => message.with("x-delay", Value::I32(delay as i32)),
        };
        self.world.publish(&message);
        let known = Known {
            due: now + delay,
            persistent,
            safe: false,
            came: false,
        };
        self.known.insert(number, known);
    }

    fn sync(&mut self) {
        self.world.sync();
        for known in self.known.values_mut() {
            known.safe = true;
        }
    }

    /// Takes what has come, and has it settled on the disk.
    fn drain(&mut self, in_order: bool) {
        let queue = self.world.vhost.topology().queue("q").unwrap();
        let mut last = 0;
        for body in self.world.drain(&queue) {
            let number: u32 = body[..4].parse().unwrap();
            let known = self.known.get_mut(&number).expect("it was published");
            assert!(!known.came, "{number} came twice");
            assert!(known.due <= self.world.now, "{number} came too early");
            assert!(!in_order || last <= known.due, "{number} is out of order");
            (known.came, last) = (true, known.due);
        }
        self.sync();
    }

    /// All that are due have come.
    fn check(&mut self) {
        self.world.pass(0);
        let queue = self.world.vhost.topology().queue("q").unwrap();
        let now = self.world.now;
        let waiting = self.known.values().filter(|it| !it.came && it.due > now);
        assert_eq!(
            self.world.vhost.delayed("late"),
            Some(waiting.count() as u64)
        );
        let here = self.known.values().filter(|it| !it.came && it.due <= now);
        assert_eq!(queue.stats().ready, here.count() as u64);
    }

    /// After a restart, which transient messages in the queue do not outlive, nor, with `lost`, what was not synced.
    fn restarted(&mut self, lost: bool) {
        let now = self.world.now;
        self.known
            .retain(|_, it| it.came || it.persistent || it.due > now);
        if lost {
            // Whether they are there is known when everything has come.
            self.world.pass(1000);
            let queue = self.world.vhost.topology().queue("q").unwrap();
            let came = self.world.drain(&queue);
            let came: Vec<u32> = came.iter().map(|body| body[..4].parse().unwrap()).collect();
            for (number, known) in &mut self.known {
                let times = came.iter().filter(|other| *other == number).count();
                let allowed = match (known.came, known.safe) {
                    (true, _) => 0..=0,
                    (false, true) => 1..=1,
                    (false, false) => 0..=1,
                };
                assert!(allowed.contains(&times), "{number} came {times} times");
            }
            self.known.clear();
            self.sync();
        }
    }
}

fn case(seed: u64) {
    let world = World::new();
    world.declare("late", "direct");
    world.queue("q", "late");
    world.sync();
    let mut case = Case {
        world,
        rng: Rng(seed),
        known: BTreeMap::new(),
        next: 0,
    };
    for _ in 0..120 {
        match case.rng.below(12) {
            0..=5 => case.publish(),
            6 | 7 => {
                let ms = case.rng.below(40) as u64;
                case.world.pass(ms);
            }
            8 => case.drain(true),
            9 => case.sync(),
            10 => {
                // Time goes on while nobody runs.
                case.world.pass(0);
                case.drain(true);
                case.world.restart();
                case.restarted(false);
                case.world.now += case.rng.below(30) as u64;
            }
            _ if case.rng.once_in(3) => {
                case.world.pass(0);
                // What came is settled; whether the transfer of the others was synced is open.
                let seed = case.rng.next();
                case.world.lose_power(seed);
                case.restarted(true);
            }
            _ => {
                case.world.pass(0);
                case.world.restart();
                case.restarted(false);
            }
        }
        case.check();
    }
    case.world.pass(1000);
    case.drain(false);
    assert!(
        case.known.values().all(|known| known.came),
        "some never came"
    );
    case.world.assert_empty();
}

#[test]
fn whatever_happens_each_message_comes_once_and_when_it_is_due() {
    for seed in 0..25 {
        case(seed);
    }
}
