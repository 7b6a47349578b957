//! Sessions against a model of what their clients must see.
//!
//! Each step is a number that decides what happens next, in the light of the model's state: a
//! batch of random methods on one of three connections, its bytes cut at random; a round of
//! deliveries; an end with or without a close. Every octet that comes out is parsed and compared.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod acts;
mod model;
mod state;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_broker::session::{Settings, State};
use backbone_broker::vhost::Vhost;
use backbone_log::Arena;
use backbone_wire::method::{Method, connection};
use backbone_wire::properties::Properties;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use acts::{Act, Scene};
use model::Model;
use state::{Conn, Expect, Message, Stored, Uid, Unacked};
use support::{Event, Peer, Rng};

const PEERS: usize = 3;
const MESSAGE_BYTES_MAX: usize = 320_000;

struct World {
    vhost: Arc<Vhost>,
    peers: Vec<Peer>,
    /// The rest of a publish of which the peer got only the beginning.
    halves: Vec<Option<(u16, Act, Vec<u8>)>>,
    model: Model,
    messages: u64,
    conns: u64,
    unacked_max: usize,
    quiet: bool,
    /// Little but consumers, their limits and what they hold.
    focus: bool,
    trace: Vec<String>,
}

/// What the peer may hear in answer to what was just done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Answers,
    Cancellations,
    Deliveries,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.trace.join("\n"));
        }
    }
}

impl World {
    fn new(unacked_max: usize) -> Self {
        let vhost = Arc::new(Vhost::new("/", 1, Arc::new(Arena::new())));
        let mut world = Self {
            vhost,
            peers: Vec::new(),
            halves: Vec::new(),
            model: Model {
                message_bytes_max: MESSAGE_BYTES_MAX,
                ..Model::default()
            },
            messages: 0,
            conns: 0,
            unacked_max,
            quiet: true,
            focus: false,
            trace: Vec::new(),
        };
        for c in 0..PEERS {
            let peer = world.connect(c);
            world.peers.push(peer);
            world.halves.push(None);
            world.model.conns.push(Conn::default());
        }
        world.prepare();
        world
    }

    /// Opens channels and declares queues, so that most of what follows means something.
    fn prepare(&mut self) {
        for c in 0..PEERS {
            let mut acts = vec![(1, Act::Open), (2, Act::Open)];
            if c == 0 {
                for (queue, exchange, key) in [
                    ("q0", "amq.topic", "a.#"),
                    ("q1", "amq.fanout", "x"),
                    ("q2", "amq.direct", "a"),
                ] {
                    let passive = false;
                    acts.push((1, Act::Declare { queue, passive }));
                    acts.push((1, Act::Bind(queue, exchange, key)));
                }
            }
            let mut bytes = Vec::new();
            for (ch, act) in acts {
                act.write(ch, 4096, &mut Rng(0), &mut bytes);
                self.apply(c, ch, &act);
            }
            self.peers[c].feed(&bytes, &mut Rng(0));
            self.hear(c, Stage::Answers);
        }
    }

    fn connect(&mut self, c: usize) -> Peer {
        self.conns += 1;
        let settings = Settings {
            frame_max: [4096, 131_072, 5000][c],
            channel_max: 10,
            message_bytes_max: MESSAGE_BYTES_MAX as u64,
            unacked_max: self.unacked_max,
            out_bytes_max: [1 << 20, 200, 20_000][c],
            cancel_notify: c != 1,
            timeout_closes_channel: false,
        };
        Peer::new(&self.vhost, self.conns, settings)
    }

    fn step(&mut self, seed: u64) {
        let mut rng = Rng(seed);
        let c = rng.below(PEERS);
        match rng.below(20) {
            0..=10 => self.batch(c, &mut rng),
            11..=13 => {
                self.peers[c].deliver();
                self.hear(c, Stage::Deliveries);
            }
            14..=17 => self.settle_down(),
            18 => {
                self.settle_down();
                self.batch(c, &mut rng);
            }
            _ if rng.once_in(3) => self.leave(c, &mut rng),
            _ => {}
        }
        self.check_queues();
    }

    /// Some methods at once.
    fn batch(&mut self, c: usize, rng: &mut Rng) {
        let mut bytes = Vec::new();
        if let Some((ch, act, rest)) = self.halves[c].take() {
            bytes = rest;
            self.apply(c, ch, &act);
        }
        let frame_max = self.peers[c].settings.frame_max;
        for _ in 0..=rng.below(6) {
            let ch = 1 + rng.below(2) as u16;
            self.messages += 1;
            let scene = Scene {
                model: &self.model,
                channel: self.model.conns[c].channels.get(&ch),
                quiet: self.quiet && bytes.is_empty() && self.unacked_max > 100,
                frame_max,
                id: self.messages,
                focus: self.focus,
            };
            let act = acts::random(&scene, rng);
            let from = bytes.len();
            act.write(ch, frame_max, rng, &mut bytes);
            let may_wait = matches!(&act, Act::Publish(publish) if !publish.immediate);
            if may_wait && rng.once_in(8) {
                let rest = bytes.split_off(from + rng.below(bytes.len() - from));
                self.halves[c] = Some((ch, act, rest));
                break;
            }
            self.apply(c, ch, &act);
        }
        self.quiet = false;
        self.peers[c].feed(&bytes, rng);
        self.hear(c, Stage::Answers);
        self.pass_cancellations();
        if self.model.conns[c].dead {
            self.reconnect(c, rng);
        } else if self.halves[c].is_none() {
            assert_eq!(self.peers[c].unread(), 0, "input is left over");
        }
    }

    fn apply(&mut self, c: usize, ch: u16, act: &Act) {
        let mut text = format!("{c}/{ch}: {act:?}");
        text.truncate(160);
        self.trace.push(text);
        self.model.apply(c, ch, act);
    }

    /// The end of a connection that the session wants to close, and a new one.
    fn reconnect(&mut self, c: usize, rng: &mut Rng) {
        assert_eq!(self.peers[c].session.state(), State::Closing);
        let mut bytes = Vec::new();
        connection::CloseOk {}.write(0, &mut bytes);
        if self.halves[c].take().is_none() && rng.once_in(2) {
            self.peers[c].feed(&bytes, rng);
            assert_eq!(self.peers[c].session.state(), State::Closed);
        }
        self.renew(c);
    }

    fn renew(&mut self, c: usize) {
        let peer = self.connect(c);
        self.peers[c] = peer;
        self.halves[c] = None;
        self.model.conns[c] = Conn::default();
    }

    /// A connection goes, in order or not.
    fn leave(&mut self, c: usize, rng: &mut Rng) {
        let polite = self.halves[c].is_none() && rng.once_in(2);
        self.trace.push(format!("{c}: leaves, close: {polite}"));
        self.model.end_conn(c);
        if polite {
            let mut bytes = Vec::new();
            connection::Close::default().write(0, &mut bytes);
            self.peers[c].feed(&bytes, rng);
            assert_eq!(self.peers[c].session.state(), State::Closed);
            let events = self.peers[c].events();
            // Channels that closed before are answered before.
            let closed = std::mem::take(&mut self.model.conns[c].closed).len();
            assert!(matches!(
                Method::decode(&events[closed].method),
                Ok(Method::ConnectionCloseOk(_))
            ));
        }
        self.renew(c);
        self.quiet = false;
        self.pass_cancellations();
    }

    /// Tells everybody whose queue is gone.
    fn pass_cancellations(&mut self) {
        for c in 0..PEERS {
            let mut due = std::mem::take(&mut self.model.conns[c].cancels);
            for (ch, tag) in &due {
                let channel = self.model.conns[c].channels.get_mut(ch).unwrap();
                channel.consumers.remove(tag).unwrap();
            }
            if !self.peers[c].settings.cancel_notify {
                due.clear();
            }
            self.peers[c].cancellations();
            self.model.conns[c].cancels = due;
            self.hear(c, Stage::Cancellations);
            let left = &self.model.conns[c].cancels;
            assert!(left.is_empty(), "not told of {left:?}");
        }
    }

    /// Delivers until nobody has anything more.
    fn settle_down(&mut self) {
        loop {
            let mut more = false;
            for c in 0..PEERS {
                more |= self.peers[c].deliver();
                self.hear(c, Stage::Deliveries);
            }
            if !more {
                break;
            }
        }
        self.trace.push("all is quiet".to_owned());
        self.check_nobody_starves();
        self.quiet = true;
        let uids: Vec<Uid> = self.model.queues.keys().copied().collect();
        for uid in uids {
            let few = self.model.consumers_of(uid).len() < 2 && self.unacked_max > 100;
            self.model.queues.get_mut(&uid).unwrap().ordered |= few;
        }
        for conn in &mut self.model.conns {
            for channel in conn.channels.values_mut() {
                channel.loose &= self.unacked_max < 100;
            }
        }
    }

    fn hear(&mut self, c: usize, stage: Stage) {
        let mut delivered_all = false;
        for event in self.peers[c].events() {
            let channel = event.channel;
            let method = Method::decode(&event.method).expect("a method that can be decoded");
            let mut text = format!("    {c}/{channel} heard {method:?}");
            text.truncate(160);
            self.trace.push(text);
            match (stage, method) {
                (Stage::Answers, Method::BasicAck(ack)) => {
                    self.hear_confirm(c, channel, ack.delivery_tag, ack.multiple);
                }
                (Stage::Answers, method) => self.hear_answer(c, &event, &method),
                (Stage::Cancellations, Method::BasicCancel(cancel)) => {
                    let tag = cancel.consumer_tag.as_str().unwrap();
                    let due = &mut self.model.conns[c].cancels;
                    let at = due.iter().position(|d| (d.0, &*d.1) == (channel, tag));
                    due.remove(at.expect("a consumer that was there"));
                }
                (Stage::Deliveries, Method::ChannelCloseOk(_)) => {
                    delivered_all = true;
                    let due = self.model.conns[c].closed.pop_front();
                    assert_eq!(due, Some(channel), "closed in this order");
                }
                (Stage::Deliveries, Method::BasicDeliver(deliver)) => {
                    assert!(!delivered_all, "a close-ok goes behind what is ready");
                    let tag = deliver.consumer_tag.as_str().unwrap();
                    let head = (deliver.delivery_tag, deliver.redelivered);
                    let names = (deliver.exchange.as_bytes(), deliver.routing_key.as_bytes());
                    self.hear_delivery(c, channel, tag, head, names, &event);
                }
                (stage, method) => panic!("{method:?} among {stage:?}"),
            }
        }
        if stage == Stage::Deliveries {
            let left = &self.model.conns[c].closed;
            assert!(left.is_empty(), "not answered: {left:?}");
        }
        if stage == Stage::Answers {
            let conn = &self.model.conns[c];
            assert!(conn.expect.is_empty(), "not answered: {:?}", conn.expect);
            assert!(conn.late.is_empty(), "not confirmed: {:?}", conn.late);
            for channel in conn.channels.values() {
                if let Some((published, confirmed)) = channel.confirm {
                    assert_eq!(published, confirmed, "publishes without a confirm");
                }
            }
        }
    }

    fn hear_confirm(&mut self, c: usize, ch: u16, tag: u64, multiple: bool) {
        let conn = &mut self.model.conns[c];
        let is_late = conn.late.iter().any(|(late, _)| *late == ch);
        let overtaken = conn.expect.iter().any(|expect| {
            matches!(expect, Expect::Return(on, _, Some(confirm)) if *on == ch && *confirm <= tag)
        });
        assert!(is_late || !overtaken, "confirmed before it was returned");
        // A channel that closed within the batch had its confirms before.
        let late = conn.late.iter_mut().find(|(late, _)| *late == ch);
        let (published, confirmed) = match late {
            Some((_, confirm)) => confirm,
            None => {
                let channel = conn.channels.get_mut(&ch).expect("it is open");
                channel.confirm.as_mut().expect("a confirm channel")
            }
        };
        assert!(tag > *confirmed && tag <= *published, "confirmed {tag}");
        assert!(multiple || tag == *confirmed + 1, "a gap before {tag}");
        *confirmed = tag;
        conn.late
            .retain(|(_, (published, confirmed))| published > confirmed);
    }

    fn hear_answer(&mut self, c: usize, event: &Event, method: &Method<'_>) {
        let expect = self.model.conns[c].expect.pop_front();
        let expect = expect.unwrap_or_else(|| panic!("{method:?} was not expected"));
        match (&expect, method) {
            (Expect::Method(ch, payload), _) => {
                assert_eq!((*ch, payload), (event.channel, &event.method), "{method:?}");
            }
            (
                Expect::Got {
                    channel,
                    tag,
                    left,
                    stored,
                },
                Method::BasicGetOk(got),
            ) => {
                assert_eq!(
                    (*channel, *tag, *left as u32, stored.redelivered),
                    (
                        event.channel,
                        got.delivery_tag,
                        got.message_count,
                        got.redelivered
                    )
                );
                let names = (got.exchange.as_bytes(), got.routing_key.as_bytes());
                check_content(&stored.message, names, event);
            }
            (Expect::Return(ch, message, _), Method::BasicReturn(back)) => {
                assert_eq!((*ch, back.reply_code), (event.channel, 312));
                let names = (back.exchange.as_bytes(), back.routing_key.as_bytes());
                check_content(message, names, event);
            }
            (Expect::Close(ch, code, ids), Method::ChannelClose(close)) => {
                let got = (close.reply_code, (close.class_id, close.method_id));
                assert_eq!((*ch, (*code, *ids)), (event.channel, got), "{close:?}");
            }
            (Expect::Close(0, code, ids), Method::ConnectionClose(close)) => {
                let got = (close.reply_code, (close.class_id, close.method_id));
                assert_eq!((*code, *ids), got, "{close:?}");
            }
            _ => panic!("expected {expect:?}, heard {method:?}"),
        }
    }

    fn hear_delivery(
        &mut self,
        c: usize,
        ch: u16,
        consumer_tag: &str,
        (tag, redelivered): (u64, bool),
        names: (&[u8], &[u8]),
        event: &Event,
    ) {
        let channel = self.model.conns[c]
            .channels
            .get_mut(&ch)
            .expect("it is open");
        let consumer = channel.consumers.get(consumer_tag).expect("it consumes");
        assert!(!consumer.gone && !channel.closing);
        let queue = self.model.queues.get_mut(&consumer.queue).unwrap();
        let id = id_of(event);
        let found = queue.ready.iter().find(|(_, s)| s.message.id == id);
        let seq = *found.expect("a message that waits in the queue").0;
        let lowest = *queue.ready.first_key_value().unwrap().0;
        assert!(!queue.ordered || seq == lowest, "{id} before its turn");
        let stored: Stored = queue.ready.remove(&seq).unwrap();
        channel.last_tag += 1;
        assert_eq!((tag, redelivered), (channel.last_tag, stored.redelivered));
        check_content(&stored.message, names, event);
        if consumer.no_ack {
            return;
        }
        let held = held(&channel.unacked, consumer.uid);
        assert!(consumer.prefetch == 0 || held < consumer.prefetch as usize);
        if let (true, Some(limit)) = (consumer.shared && !channel.loose, channel.limit) {
            let used = channel
                .unacked
                .values()
                .filter(|u| u.consumer.is_some_and(|uid| channel.sharers.contains(&uid)));
            assert!(
                limit == 0 || used.count() < limit as usize,
                "over the limit"
            );
        }
        let open = channel.unacked.len();
        assert!(open < self.unacked_max, "more than a channel may hold");
        let unacked = Unacked {
            queue: consumer.queue,
            seq,
            stored,
            consumer: Some(consumer.uid),
            in_tx: false,
        };
        channel.unacked.insert(tag, unacked);
    }

    /// Nothing waits in a queue with a consumer who has room for it.
    fn check_nobody_starves(&self) {
        for conn in &self.model.conns {
            for channel in conn.channels.values() {
                let open = channel.unacked.len();
                let shared = channel
                    .unacked
                    .values()
                    .filter(|u| u.consumer.is_some_and(|uid| channel.sharers.contains(&uid)));
                let used = shared.count() as u32;
                for (tag, consumer) in &channel.consumers {
                    let queue = &self.model.queues[&consumer.queue];
                    // Another one who is held up may have something assigned that he cannot fetch.
                    let alone = self.model.consumers_of(consumer.queue).len() == 1;
                    if queue.ready.is_empty() || !(alone || self.unacked_max > 100) {
                        continue;
                    }
                    let held = held(&channel.unacked, consumer.uid) as u32;
                    let room = consumer.no_ack
                        || (open < self.unacked_max
                            && (consumer.prefetch == 0 || held < consumer.prefetch)
                            && !(consumer.shared
                                && channel.limit.is_some_and(|l| l != 0 && used >= l)));
                    assert!(!room, "{tag} starves at {} ready", queue.ready.len());
                }
            }
        }
    }

    fn check_queues(&self) {
        for (uid, queue) in &self.model.queues {
            let real = self.vhost.topology().queue(&queue.name).expect("it exists");
            let stats = real.stats();
            let channels = self.model.conns.iter().flat_map(|c| c.channels.values());
            let unacked = channels.flat_map(|ch| ch.unacked.values());
            let unsettled = unacked.filter(|u| u.queue == *uid).count();
            assert_eq!(
                (stats.ready, stats.unsettled, stats.published),
                (queue.ready.len() as u64, unsettled as u64, queue.published),
                "{}",
                queue.name
            );
            let consumers = self.model.consumers_of(*uid).len();
            assert_eq!(stats.consumers as usize, consumers, "{}", queue.name);
        }
        assert_eq!(
            self.vhost.topology().queues().len(),
            self.model.queues.len()
        );
    }

    /// Everybody goes, everything is purged: no message may be left anywhere.
    fn end(mut self) {
        self.settle_down();
        for (c, peer) in std::mem::take(&mut self.peers).into_iter().enumerate() {
            self.model.end_conn(c);
            drop(peer);
            self.check_queues();
        }
        for queue in self.vhost.topology().queues() {
            let uid = self.model.named(queue.name()).unwrap();
            let ready = self.model.queues[&uid].ready.len() as u64;
            assert_eq!(self.vhost.purge(&queue), ready);
        }
        let arena = self.vhost.arena();
        assert_eq!((arena.segments(), arena.bytes()), (0, 0));
    }
}

fn held(unacked: &BTreeMap<u64, Unacked>, uid: Uid) -> usize {
    let its = unacked.values().filter(|u| u.consumer == Some(uid));
    its.count()
}

fn id_of(event: &Event) -> String {
    let (properties, _) = event.content.as_ref().expect("a content");
    let properties = Properties::from_bytes(properties).unwrap();
    properties
        .message_id()
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

fn check_content(message: &Message, (exchange, key): (&[u8], &[u8]), event: &Event) {
    let (properties, body) = event.content.as_ref().expect("a content");
    assert_eq!(id_of(event), message.id);
    assert_eq!(
        (exchange, key),
        (message.exchange.as_bytes(), message.key.as_bytes())
    );
    assert_eq!(
        *properties, message.properties,
        "properties of {}",
        message.id
    );
    assert!(*body == message.body, "body of {}", message.id);
}

fn run(unacked_max: usize, steps: &[u64]) {
    let mut world = World::new(unacked_max);
    world.focus = steps[0] & 1 == 1;
    for step in steps {
        world.step(*step);
    }
    world.end();
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(40))]

    #[test]
    fn clients_see_what_the_model_says(steps in proptest::collection::vec(any::<u64>(), 1..250)) {
        run(1000, &steps);
    }

    #[test]
    fn a_channel_holds_no_more_than_it_may(steps in proptest::collection::vec(any::<u64>(), 1..250)) {
        run(3, &steps);
    }
}
