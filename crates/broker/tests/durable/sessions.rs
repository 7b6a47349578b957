//! Connections on a log that is stepped by hand: what they are told, and what is there after a power loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_broker::durable::{Level, Trouble};
use backbone_broker::out::OutBuf;
use backbone_broker::queue::Queue;
use backbone_broker::session::Settings;
use backbone_log::SimDisk;
use backbone_wire::ShortStr;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, channel, confirm, tx};
use backbone_wire::table::Table;

use crate::node::{Node, QUEUES, body};
use crate::support::{Peer, Rng};

const CASES: u64 = 150;
const STEPS: usize = 150;
/// All but the one with a flow.
const PLAIN: usize = 4;
pub const SETTINGS: Settings = Settings {
    frame_max: 4096,
    channel_max: 0,
    message_bytes_max: 1 << 20,
    unacked_max: 50,
    out_bytes_max: 8_000,
    cancel_notify: true,
    timeout_closes_channel: false,
};

#[derive(Clone)]
struct Message {
    queue: usize,
    /// The log is to have it.
    logged: bool,
    /// The last batch before it was published.
    before: u64,
    /// Its consumer is done with it, as far as that was told.
    done: bool,
}

/// A publishing channel.
#[derive(Default)]
struct Channel {
    published: Vec<u64>,
    confirmed: usize,
}

struct Publishing {
    peer: Peer,
    channels: BTreeMap<u16, Channel>,
}

/// A consuming connection, and what it holds by tag.
struct Consuming {
    peer: Peer,
    no_ack: bool,
    held: BTreeMap<u64, u64>,
}

struct World {
    node: Node,
    queues: Vec<Arc<Queue>>,
    messages: BTreeMap<u64, Message>,
    publishing: Vec<Publishing>,
    consuming: Vec<Consuming>,
    conns: u64,
}

impl World {
    fn new(disk: SimDisk) -> Self {
        let node = Node::open(disk, 0, BTreeMap::new());
        let queues = (0..PLAIN).map(|at| node.declare(at).0).collect();
        let mut world = Self {
            node,
            queues,
            messages: BTreeMap::new(),
            publishing: Vec::new(),
            consuming: Vec::new(),
            conns: 0,
        };
        for _ in 0..2 {
            let peer = world.peer();
            world.publishing.push(Publishing {
                peer,
                channels: BTreeMap::new(),
            });
        }
        world
    }

    fn peer(&mut self) -> Peer {
        self.conns += 1;
        Peer::new(&self.node.vhost, self.conns, SETTINGS)
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.below(20) {
            0..=6 => self.publish(rng),
            7..=9 => self.node.log_step(rng),
            10 | 11 => self.consume(rng),
            12..=14 => self.acknowledge(rng),
            15 | 16 => self.node.page_in_asked(rng),
            17 if rng.once_in(4) => self.close_channel(rng),
            18 if rng.once_in(4) => self.lose_consumer(rng),
            19 if rng.once_in(3) => {
                let used = self.node.used();
                if rng.once_in(2) {
                    self.node.disk.set_capacity(used);
                }
            }
            _ => {}
        }
        self.hear(rng);
    }

    fn publish(&mut self, rng: &mut Rng) {
        let who = rng.below(self.publishing.len());
        let id = 1 + rng.below(2) as u16;
        let mut bytes = Vec::new();
        let Publishing { peer, channels } = &mut self.publishing[who];
        if peer.session.is_stalled() {
            return;
        }
        let channel = channels.entry(id).or_insert_with(|| {
            channel::Open {}.write(id, &mut bytes);
            confirm::Select { no_wait: true }.write(id, &mut bytes);
            Channel::default()
        });
        for _ in 0..=rng.below(8) {
            let queue = rng.below(PLAIN);
            let persistent = !rng.once_in(4);
            let number = self.messages.len() as u64;
            let size = if rng.once_in(40) {
                50_000
            } else {
                8 + rng.below(300)
            };
            publish(id, queue, persistent, &body(number, size), &mut bytes);
            self.messages.insert(
                number,
                Message {
                    queue,
                    logged: persistent && self.queues[queue].level() != Level::Memory,
                    before: self.node.log.appended(),
                    done: false,
                },
            );
            channel.published.push(number);
        }
        peer.feed(&bytes, rng);
        self.confirms(who, rng);
    }

    /// Checks the confirms that came: none before its time, each once, for the channel's oldest.
    fn confirms(&mut self, who: usize, rng: &mut Rng) {
        let (written, synced) = (self.node.log.written(), self.node.log.synced());
        let publishing = &mut self.publishing[who];
        for event in publishing.peer.events() {
            let Method::BasicAck(ack) = Method::decode(&event.method).unwrap() else {
                continue;
            };
            let channel = publishing.channels.get_mut(&event.channel);
            let channel = channel.expect("a confirm of a closed channel");
            let (first, last) = (channel.confirmed, ack.delivery_tag as usize);
            assert!(first < last && last <= channel.published.len());
            assert_eq!(ack.multiple, last - first > 1);
            channel.confirmed = last;
            let confirmed = &channel.published[first..last];
            for number in confirmed {
                let message = &self.messages[number];
                let safe = match self.queues[message.queue].level() {
                    _ if !message.logged => true,
                    Level::Synced => synced > message.before,
                    _ => written > message.before,
                };
                assert!(safe, "{number} was confirmed before it was safe");
            }
            if rng.once_in(20) {
                let lost = self.node.disk.after_power_loss(rng.next());
                let there = remaining(&lost, &self.node);
                for number in confirmed {
                    let message = &self.messages[number];
                    let synced = self.queues[message.queue].level() == Level::Synced;
                    let due = message.logged && synced && !message.done;
                    let name = QUEUES[message.queue].0;
                    assert!(!due || there[name].contains(number), "{number} is lost");
                }
            }
        }
    }

    fn consume(&mut self, rng: &mut Rng) {
        if self.consuming.len() >= 4 {
            return;
        }
        let no_ack = rng.once_in(3);
        let mut bytes = Vec::new();
        channel::Open {}.write(1, &mut bytes);
        let prefetch_count = rng.pick(&[0, 1, 5]);
        let qos = basic::Qos {
            prefetch_size: 0,
            prefetch_count,
            global: rng.once_in(3),
        };
        qos.write(1, &mut bytes);
        for (name, _) in &QUEUES[..PLAIN] {
            if rng.once_in(2) {
                let consume = basic::Consume {
                    queue: short(name),
                    consumer_tag: short(name),
                    no_local: false,
                    no_ack,
                    exclusive: false,
                    no_wait: true,
                    arguments: Table::EMPTY,
                };
                consume.write(1, &mut bytes);
            }
        }
        let mut peer = self.peer();
        peer.feed(&bytes, rng);
        self.consuming.push(Consuming {
            peer,
            no_ack,
            held: BTreeMap::new(),
        });
    }

    fn deliveries(&mut self, who: usize) {
        let consuming = &mut self.consuming[who];
        for event in consuming.peer.events() {
            let Method::BasicDeliver(deliver) = Method::decode(&event.method).unwrap() else {
                continue;
            };
            let body = event.content.unwrap().1;
            let number = u64::from_le_bytes(body[..8].try_into().unwrap());
            let message = self.messages.get_mut(&number).unwrap();
            let name = deliver.consumer_tag.as_str().unwrap();
            assert_eq!(name, QUEUES[message.queue].0);
            assert!(!message.done, "{number} was delivered after it was settled");
            if consuming.no_ack {
                message.done = true;
            } else {
                consuming.held.insert(deliver.delivery_tag, number);
            }
        }
    }

    fn acknowledge(&mut self, rng: &mut Rng) {
        if self.consuming.is_empty() {
            return;
        }
        let who = rng.below(self.consuming.len());
        let consuming = &mut self.consuming[who];
        let tags: Vec<u64> = consuming.held.keys().copied().collect();
        if tags.is_empty() {
            return;
        }
        let tag = rng.pick(&tags);
        let multiple = rng.once_in(2);
        let requeue = rng.once_in(5);
        let mut bytes = Vec::new();
        if requeue {
            let delivery_tag = tag;
            let nack = basic::Nack {
                delivery_tag,
                multiple,
                requeue,
            };
            nack.write(1, &mut bytes);
        } else {
            let delivery_tag = tag;
            basic::Ack {
                delivery_tag,
                multiple,
            }
            .write(1, &mut bytes);
        }
        consuming.held.retain(|held, number| {
            let meant = *held == tag || (multiple && *held < tag);
            if meant && !requeue {
                let message = self.messages.get_mut(number).unwrap();
                message.done = true;
            }
            !meant
        });
        consuming.peer.feed(&bytes, rng);
        self.deliveries(who);
    }

    /// What was not confirmed on it never is.
    fn close_channel(&mut self, rng: &mut Rng) {
        let who = rng.below(self.publishing.len());
        let publishing = &mut self.publishing[who];
        if publishing.peer.session.is_stalled() {
            return;
        }
        let Some(id) = publishing.channels.keys().next().copied() else {
            return;
        };
        let mut bytes = Vec::new();
        let close = channel::Close {
            reply_code: 200,
            reply_text: short("bye"),
            class_id: 0,
            method_id: 0,
        };
        close.write(id, &mut bytes);
        publishing.peer.feed(&bytes, rng);
        self.confirms(who, rng);
        self.publishing[who].channels.remove(&id);
    }

    fn lose_consumer(&mut self, rng: &mut Rng) {
        if !self.consuming.is_empty() {
            let who = rng.below(self.consuming.len());
            self.deliveries(who);
            self.consuming.remove(who);
        }
    }

    /// Passes on what bells rang.
    fn hear(&mut self, rng: &mut Rng) {
        for who in 0..self.publishing.len() {
            self.publishing[who].peer.progress();
            self.confirms(who, rng);
        }
        for who in 0..self.consuming.len() {
            if rng.once_in(2) {
                self.consuming[who].peer.deliver();
                self.deliveries(who);
            }
        }
    }

    fn finish(mut self, rng: &mut Rng) {
        self.node.disk.set_capacity(u64::MAX);
        for _ in 0..60 {
            self.node.log.write_step().unwrap();
            self.node.log.sync_step().unwrap();
            self.node.log.maintain().unwrap();
            self.hear(rng);
        }
        for publishing in &self.publishing {
            for channel in publishing.channels.values() {
                let all = channel.published.len();
                assert_eq!(channel.confirmed, all, "a confirm is missing");
            }
        }
        let lost = self.node.disk.after_power_loss(rng.next());
        let there = remaining(&lost, &self.node);
        for (at, (name, _)) in QUEUES.iter().enumerate().take(PLAIN) {
            let logged = self.messages.iter().filter(|(_, it)| it.logged);
            let due = logged.filter(|(_, it)| it.queue == at && !it.done);
            let due: Vec<u64> = due.map(|(number, _)| *number).collect();
            let mut found = there[name].clone();
            // Two connections' batches have no order between them.
            found.sort_unstable();
            assert_eq!(found, due, "in {name} after a power loss");
        }
    }
}

/// What queues have after a restart on `disk`, by name.
fn remaining(disk: &SimDisk, before: &Node) -> BTreeMap<&'static str, Vec<u64>> {
    disk.set_capacity(u64::MAX);
    let node = Node::open(disk.clone(), before.log.synced(), before.sizes().clone());
    let mut there = BTreeMap::new();
    for (name, _) in &QUEUES[..PLAIN] {
        // Not even its definition may be safe.
        let Some(queue) = node.vhost.topology().queue(name) else {
            there.insert(*name, Vec::new());
            continue;
        };
        let mut got = Vec::new();
        let left = node.vhost.take(&queue, usize::MAX, usize::MAX, &mut got);
        assert_eq!(left, 0);
        let numbers = got.iter().map(|entry| {
            let segment = node.arena.segment(entry.segment);
            let body = backbone_broker::record::Record::read(&segment, entry.offset).body;
            u64::from_le_bytes(body[..8].try_into().unwrap())
        });
        there.insert(*name, numbers.collect());
    }
    there
}

fn publish(id: u16, queue: usize, persistent: bool, body: &[u8], out: &mut Vec<u8>) {
    basic::Publish {
        exchange: short(""),
        routing_key: short(QUEUES[queue].0),
        mandatory: false,
        immediate: false,
    }
    .write(id, out);
    let mark = frame::begin(out, FrameKind::Header, id);
    out.extend_from_slice(&[0, 60, 0, 0]);
    out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    out.extend_from_slice(&[0x10, 0, if persistent { 2 } else { 1 }]);
    frame::finish(out, mark);
    for piece in body.chunks(SETTINGS.frame_max - frame::OVERHEAD) {
        let mark = frame::begin(out, FrameKind::Body, id);
        out.extend_from_slice(piece);
        frame::finish(out, mark);
    }
}

fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text.as_bytes()).unwrap()
}

#[test]
fn confirms_and_settlements_are_true() {
    for seed in 1..=CASES {
        let mut rng = Rng(seed);
        let mut world = World::new(SimDisk::new());
        for _ in 0..STEPS {
            world.step(&mut rng);
        }
        world.finish(&mut rng);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_confirmed_any_more() {
    let mut rng = Rng(1);
    let mut world = World::new(SimDisk::new());
    let mut bytes = Vec::new();
    channel::Open {}.write(1, &mut bytes);
    confirm::Select { no_wait: false }.write(1, &mut bytes);
    publish(1, 0, true, &body(0, 8), &mut bytes);
    let peer = &mut world.publishing[0].peer;
    peer.feed(&bytes, &mut rng);
    world.node.disk.fail_syncs(1);
    world.node.log.write_step().unwrap();
    world.node.log.sync_step().unwrap_err();
    assert_eq!(world.node.durable.trouble(), Some(Trouble::LogFailed));
    for _ in 0..3 {
        drop(world.node.log.sync_step());
        peer.progress();
    }
    let events = peer.events();
    let acks = events
        .iter()
        .map(|event| Method::decode(&event.method).unwrap());
    assert_eq!(
        acks.filter(|it| matches!(it, Method::BasicAck(_))).count(),
        0
    );
}

#[test]
fn a_commit_that_the_log_refuses_confirms_nothing_of_other_channels() {
    let mut rng = Rng(1);
    let mut node = Node::open(SimDisk::new(), 0, BTreeMap::new());
    let queue = 0;
    node.declare(queue);
    let used = node.used();
    node.disk.set_capacity(used);
    let mut filler = node.publisher();
    while !filler.is_stalled() {
        node.publish(&mut filler, "", QUEUES[queue].0, true, &mut rng);
        filler.commit();
    }
    let mut peer = Peer::new(&node.vhost, 1, SETTINGS);
    let mut bytes = Vec::new();
    channel::Open {}.write(1, &mut bytes);
    confirm::Select { no_wait: true }.write(1, &mut bytes);
    channel::Open {}.write(2, &mut bytes);
    tx::Select {}.write(2, &mut bytes);
    // More than may be left of the segment, less than has a batch of its own.
    publish(1, queue, true, &[1; 40_000], &mut bytes);
    publish(2, queue, true, b"in a transaction", &mut bytes);
    tx::Commit {}.write(2, &mut bytes);
    // In one piece: cut in front of the commit, the connection is not read any further.
    let mut out = OutBuf::new();
    peer.session.receive(&bytes, 0, &mut out);
    peer.session.end_of_batch(&mut out);
    let written = &out.bytes[..];
    let says = |class: u8, method: u8| {
        let id = [0, class, 0, method];
        written.windows(4).any(|octets| octets == id)
    };
    assert!(says(10, 50), "connection.close");
    assert!(!says(60, 80), "a confirm of what was refused");
    assert!(!says(90, 21), "tx.commit-ok");
}
