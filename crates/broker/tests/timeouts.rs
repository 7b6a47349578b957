//! Deliveries that are not acknowledged in time, on simulated time: what goes back, what a late acknowledgement does, and that
//! each message ends once.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_broker::queue::Queue;
use backbone_broker::session::Settings;
use backbone_broker::vhost::Vhost;
use backbone_wire::ShortStr;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, channel, queue, tx};
use backbone_wire::table::{TableBuf, Value};
use support::{Event, Peer, Rng};

const START: u64 = 1_800_000_000_000;
const LIMIT: u64 = 160;
/// How much later than that somebody looks, at most: a sixteenth, and the rest between two looks.
const SLACK: u64 = LIMIT / 16 + 6;

struct World {
    vhost: Arc<Vhost>,
    peers: Vec<Peer>,
    /// What each was sent, and when.
    seen: Vec<Vec<(u64, Event)>>,
    now: u64,
}

/// A message that came: delivery tag, body, whether it came before.
type Came = (u64, String, bool);

impl World {
    fn new(default_ms: u64, closes: bool, peers: usize) -> Self {
        let vhost = Vhost::new("/", 1, Arc::default()).with_consumer_timeout(default_ms);
        let vhost = Arc::new(vhost);
        let settings = Settings {
            frame_max: 131_072,
            channel_max: 10,
            message_bytes_max: 1 << 20,
            unacked_max: 1000,
            out_bytes_max: 1 << 20,
            cancel_notify: true,
            timeout_closes_channel: closes,
        };
        let peers = (0..peers).map(|conn| Peer::new(&vhost, conn as u64, settings));
        let mut world = Self {
            seen: vec![Vec::new(); peers.len()],
            peers: peers.collect(),
            vhost,
            now: START,
        };
        (0..peers_of(&world))
            .for_each(|peer| world.send(peer, |out| channel::Open {}.write(1, out)));
        world
    }

    fn send(&mut self, peer: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let peer = &mut self.peers[peer];
        peer.now_ms = self.now;
        let mut bytes = Vec::new();
        write(&mut bytes);
        peer.feed(&bytes, &mut Rng(1));
        assert!(peer.is_open());
    }

    fn declare(&mut self, arguments: &[(&str, Value<'_>)]) -> Arc<Queue> {
        let mut table = TableBuf::new();
        for (name, value) in arguments {
            table.put(name, value);
        }
        let declare = queue::Declare {
            queue: ShortStr::lit("q"),
            durable: true,
            arguments: table.as_table(),
            ..queue::Declare::default()
        };
        self.send(0, |out| declare.write(1, out));
        self.vhost.topology().queue("q").unwrap()
    }

    fn consume(&mut self, peer: usize, prefetch_count: u16, global: bool) {
        let qos = basic::Qos {
            prefetch_size: 0,
            prefetch_count,
            global,
        };
        let consume = basic::Consume {
            queue: ShortStr::lit("q"),
            ..basic::Consume::default()
        };
        self.send(peer, |out| {
            qos.write(1, out);
            consume.write(1, out);
        });
    }

    fn publish(&mut self, body: &str) {
        let publish = basic::Publish {
            routing_key: ShortStr::lit("q"),
            ..basic::Publish::default()
        };
        let mut header = Vec::new();
        backbone_broker::record::write_header(&mut header, body.len(), &[0, 0]);
        self.send(0, |out| {
            publish.write(1, out);
            for (kind, payload) in [
                (FrameKind::Header, &*header),
                (FrameKind::Body, body.as_bytes()),
            ] {
                out.extend_from_slice(&frame::header(kind, 1, payload.len() as u32));
                out.extend_from_slice(payload);
                out.push(frame::END);
            }
        });
    }

    fn ack(&mut self, peer: usize, delivery_tag: u64, multiple: bool) {
        let ack = basic::Ack {
            delivery_tag,
            multiple,
        };
        self.send(peer, |out| ack.write(1, out));
    }

    fn get(&mut self, peer: usize) {
        let get = basic::Get {
            queue: ShortStr::lit("q"),
            ..basic::Get::default()
        };
        self.send(peer, |out| get.write(1, out));
    }

    fn deliver(&mut self) {
        for (peer, seen) in self.peers.iter_mut().zip(&mut self.seen) {
            peer.now_ms = self.now;
            while peer.deliver() {}
            seen.extend(peer.events().into_iter().map(|event| (self.now, event)));
        }
    }

    /// Lets time pass, and everybody do what is due.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        self.deliver();
        while let Some(next) = self.vhost.tick(self.now) {
            self.deliver();
            if next > end {
                break;
            }
            self.now = next.max(self.now + 1);
        }
        self.now = end;
        self.vhost.tick(end);
        self.deliver();
    }

    /// What came to a peer since the last time.
    fn came(&mut self, peer: usize) -> Vec<Came> {
        let came = self.came_at(peer).into_iter();
        came.map(|(_, came)| came).collect()
    }

    /// The same with the times.
    fn came_at(&mut self, peer: usize) -> Vec<(u64, Came)> {
        self.deliver();
        let events = std::mem::take(&mut self.seen[peer]).into_iter();
        let came = events.filter_map(|(time, event)| {
            let body = String::from_utf8(event.content?.1).unwrap();
            match Method::decode(&event.method).unwrap() {
                Method::BasicDeliver(it) => Some((time, (it.delivery_tag, body, it.redelivered))),
                Method::BasicGetOk(it) => Some((time, (it.delivery_tag, body, it.redelivered))),
                _ => None,
            }
        });
        came.collect()
    }

    /// With which text a peer's channel was closed.
    fn closed(&mut self, peer: usize) -> Option<String> {
        self.deliver();
        self.seen[peer]
            .iter()
            .find_map(|(_, event)| match Method::decode(&event.method) {
                Ok(Method::ChannelClose(close)) => {
                    let text = String::from_utf8_lossy(close.reply_text.as_bytes()).into_owned();
                    Some(format!("{} {text}", close.reply_code))
                }
                _ => None,
            })
    }

    fn acknowledged(&self) -> u64 {
        let counter = &self.vhost.counters().messages_acknowledged;
        counter.load(Ordering::Relaxed)
    }

    fn timeouts(&self) -> u64 {
        let counter = &self.vhost.counters().messages_acknowledgement_timeouts;
        counter.load(Ordering::Relaxed)
    }
}

fn peers_of(world: &World) -> usize {
    world.peers.len()
}

fn timeout() -> (&'static str, Value<'static>) {
    ("x-consumer-timeout", Value::I64(LIMIT as i64))
}

fn stats(queue: &Queue) -> (u64, u64) {
    let stats = queue.stats();
    (stats.ready, stats.unsettled)
}

#[test]
fn one_message_goes_back_alone_and_its_late_acknowledgement_only_frees_its_place() {
    let mut world = World::new(0, false, 2);
    let queue = world.declare(&[timeout()]);
    world.consume(0, 2, false);
    world.publish("slow");
    world.pass(LIMIT / 2);
    world.publish("good");
    let came = world.came(0);
    assert_eq!(came, [(1, "slow".into(), false), (2, "good".into(), false)]);
    world.pass(LIMIT / 2 + SLACK);
    assert_eq!((stats(&queue), world.timeouts()), ((1, 1), 1));
    world.consume(1, 10, false);
    assert_eq!(world.came(1), [(1, "slow".into(), true)]);
    world.publish("next");
    assert_eq!(
        world.came(1),
        [(2, "next".into(), false)],
        "the first has no room"
    );
    // Too late: the message is another's.
    world.ack(0, 1, false);
    assert_eq!(stats(&queue), (0, 3));
    assert!(world.peers[0].is_open());
    // Now it has.
    world.publish("a");
    world.publish("b");
    let (a, b) = (world.came(0), world.came(1));
    assert_eq!((a.len(), b.len()), (1, 1));
    world.ack(1, 0, true);
    world.ack(0, 0, true);
    assert_eq!(stats(&queue), (0, 0));
    // A tag that was settled so is unknown from then on.
    world.ack(0, 1, false);
    assert!(
        world
            .closed(0)
            .unwrap()
            .contains("406 PRECONDITION_FAILED - unknown delivery tag 1")
    );
    assert_eq!(world.vhost.arena().segments(), 0);
}

#[test]
fn messages_that_were_got_go_back_too_and_those_in_a_transaction_when_it_ends() {
    let mut world = World::new(LIMIT, false, 1);
    let queue = world.declare(&[]);
    for body in ["a", "b"] {
        world.publish(body);
        world.get(0);
    }
    assert_eq!(world.came(0).len(), 2);
    world.send(0, |out| tx::Select {}.write(1, out));
    world.ack(0, 1, false);
    world.pass(LIMIT + SLACK);
    assert_eq!(stats(&queue), (1, 1), "the transaction has the first");
    world.send(0, |out| tx::Rollback {}.write(1, out));
    world.pass(LIMIT + SLACK);
    assert_eq!(stats(&queue), (2, 0));
    world.ack(0, 2, true);
    world.send(0, |out| tx::Commit {}.write(1, out));
    assert_eq!(stats(&queue), (2, 0));
    world.get(0);
    assert_eq!(world.came(0), [(3, "a".into(), true)]);
}

#[test]
fn gets_that_are_settled_leave_nothing_to_be_looked_at_behind() {
    let mut world = World::new(LIMIT, false, 1);
    let queue = world.declare(&[]);
    for round in 0..1000 {
        world.publish("m");
        world.get(0);
        let came = world.came(0);
        assert_eq!(came, [(round + 1, "m".into(), false)]);
        world.ack(0, round + 1, false);
    }
    world.pass(LIMIT + SLACK);
    assert_eq!((stats(&queue), world.timeouts()), ((0, 0), 0));
    assert_eq!(world.vhost.tick(world.now), None);
}

#[test]
fn a_quorum_queue_counts_what_was_not_acknowledged_and_gives_up_at_its_limit() {
    let mut world = World::new(0, false, 1);
    let queue = world.declare(&[
        timeout(),
        ("x-queue-type", Value::from("quorum")),
        ("x-delivery-limit", Value::I32(1)),
    ]);
    world.consume(0, 1, false);
    world.publish("poison");
    world.pass(LIMIT + SLACK);
    assert_eq!(stats(&queue), (1, 0));
    world.ack(0, 1, false);
    assert_eq!(world.came(0).last().unwrap(), &(2, "poison".into(), true));
    world.pass(LIMIT + SLACK);
    assert_eq!(stats(&queue), (0, 0), "it is a dead letter");
    let dead = &world.vhost.counters().messages_dead_lettered_delivery_limit;
    assert_eq!((dead.load(Ordering::Relaxed), world.timeouts()), (0, 2));
    assert_eq!(world.vhost.arena().segments(), 0);
}

#[test]
fn if_configured_so_the_channel_is_closed_and_everything_goes_back() {
    let mut world = World::new(LIMIT, true, 1);
    let queue = world.declare(&[]);
    world.consume(0, 0, false);
    world.publish("a");
    world.pass(LIMIT / 2);
    world.publish("b");
    world.pass(LIMIT / 2 + SLACK);
    let text = "406 PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 160 ms. This \
                timeout value can be configured, see consumers doc guide to learn more";
    assert_eq!(world.closed(0).unwrap(), text);
    assert_eq!(stats(&queue), (2, 0));
}

#[test]
fn without_a_limit_nothing_is_ever_overdue_and_a_queue_says_it_for_itself() {
    let mut world = World::new(0, false, 1);
    let queue = world.declare(&[]);
    world.consume(0, 0, false);
    world.publish("a");
    world.pass(1_000_000_000);
    assert_eq!(stats(&queue), (0, 1));
    assert_eq!(world.vhost.tick(world.now), None, "nobody looks");
    let mut world = World::new(10, false, 1);
    let queue = world.declare(&[timeout()]);
    world.consume(0, 0, false);
    world.publish("a");
    world.pass(LIMIT - 1);
    assert_eq!(stats(&queue), (0, 1));
    world.pass(1 + SLACK);
    assert_eq!(stats(&queue), (0, 1));
    assert_eq!(world.timeouts(), 1, "it came again, since there is room");
}

#[test]
fn what_a_channel_holds_when_it_ends_goes_back_once() {
    let mut world = World::new(LIMIT, false, 1);
    let queue = world.declare(&[]);
    world.consume(0, 2, true);
    for body in ["a", "b", "c"] {
        world.publish(body);
        world.pass(LIMIT / 3);
    }
    world.pass(SLACK);
    assert_eq!(stats(&queue), (2, 1));
    world.peers.clear();
    assert_eq!(stats(&queue), (3, 0));
}

/// What the test knows of a message.
#[derive(Default)]
struct Known {
    /// Peer, tag, and when it came there; those before the last one are late.
    holders: Vec<(usize, u64, u64)>,
    done: bool,
}

/// Publishes, rests and acknowledgements, in time and late: each message ends once, none is taken away too early or too late.
#[test]
fn whatever_happens_each_message_ends_once() {
    for seed in 0..30 {
        let mut rng = Rng(seed);
        let mut world = World::new(LIMIT, false, 3);
        let queue = world.declare(&[]);
        for peer in 0..3 {
            world.consume(peer, 1 + rng.below(4) as u16, peer == 1);
        }
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        for _ in 0..150 {
            match rng.below(5) {
                0 | 1 => {
                    let body = format!("{:03}", known.len());
                    known.insert(body.clone(), Known::default());
                    world.publish(&body);
                }
                2 => {
                    let ms = rng.below(LIMIT as usize / 2) as u64;
                    world.pass(ms);
                }
                _ => acknowledge(&mut world, &mut rng, &mut known),
            }
            note(&mut world, &mut known, seed);
            let out = known.values().filter(|it| !it.done);
            let out: Vec<u64> = out.filter_map(|it| Some(it.holders.last()?.2)).collect();
            let in_time = |slack| {
                out.iter()
                    .filter(|at| *at + LIMIT + slack > world.now)
                    .count()
            };
            let unsettled = queue.stats().unsettled as usize;
            assert!(unsettled >= in_time(0), "seed {seed}: taken away too early");
            assert!(unsettled <= in_time(SLACK), "seed {seed}: not taken away");
        }
        for _ in 0..200 {
            for peer in 0..3 {
                world.ack(peer, 0, true);
            }
            note(&mut world, &mut known, seed);
        }
        assert_eq!(stats(&queue), (0, 0), "seed {seed}");
        assert_eq!(world.vhost.arena().segments(), 0, "seed {seed}");
    }
}

/// Acknowledges a message of a random peer; whether that was in time is what the broker counts.
fn acknowledge(world: &mut World, rng: &mut Rng, known: &mut BTreeMap<String, Known>) {
    let held = known
        .values_mut()
        .filter(|it| !it.done && !it.holders.is_empty());
    let mut held: Vec<&mut Known> = held.collect();
    if held.is_empty() {
        return;
    }
    let at = rng.below(held.len());
    let message = &mut held[at];
    let which = rng.below(message.holders.len());
    let (peer, tag, since) = message.holders.remove(which);
    let is_last = which == message.holders.len();
    let before = world.acknowledged();
    world.ack(peer, tag, false);
    let counted = world.acknowledged() - before;
    assert!(counted == 0 || is_last, "a late one counted");
    assert!(counted == 1 || !is_last || since + LIMIT <= world.now);
    message.done = counted == 1;
}

/// Takes note of what came.
fn note(world: &mut World, known: &mut BTreeMap<String, Known>, seed: u64) {
    for peer in 0..3 {
        for (now, (tag, body, redelivered)) in world.came_at(peer) {
            let message = known.get_mut(&body).unwrap();
            assert!(!message.done, "seed {seed}: {body} came after its end");
            if let Some((_, _, since)) = message.holders.last() {
                assert!(redelivered && since + LIMIT <= now, "seed {seed}: {body}");
            }
            message.holders.push((peer, tag, now));
        }
    }
}
