//! The bus's flows, fused and moved by hand: whatever way a message takes, it comes once, in its
//! sender's order, unchanged but for what the bus adds.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use backbone_broker::access::Access;
use backbone_broker::flow::{Flow, FlowCounters, Mover};
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::queue::{Bell, ConsumerId, ConsumerSpec, Queue, Wakes};
use backbone_broker::record::{self, Content, Entry, Record};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_log::Arena;
use backbone_wire::ShortStr;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, TableBuf, Value};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use support::{Rng, TestBell};

const CLIENTS: usize = 3;
const NOW_MS: u64 = 1_700_000_000_999;
const PATTERNS: [&str; 4] = ["a.#", "*.b", "#", "c"];
const TOPICS: [&str; 5] = ["a", "a.b", "c", "c.b", "x.y"];

/// A mover and whether it has to be stepped: its bell rang, or it said that there is more.
struct Hand {
    mover: Mover,
    bell: Arc<TestBell>,
    told: bool,
}

impl Hand {
    fn new(vhost: &Arc<Vhost>, queue: &Arc<Queue>) -> Self {
        Self {
            mover: Mover::new(Arc::clone(vhost), Arc::clone(queue)).expect("it has a flow"),
            bell: Arc::default(),
            told: false,
        }
    }

    fn resume(&mut self) {
        self.mover.resume(spec(&self.bell)).unwrap();
    }

    fn pause(&mut self) {
        self.mover.pause();
        self.bell.rung.lock().clear();
        self.told = false;
    }

    /// One step, if there is reason for one.
    fn step(&mut self) -> bool {
        self.told |= !std::mem::take(&mut *self.bell.rung.lock()).is_empty();
        if self.told {
            self.told = self.mover.step();
            return true;
        }
        false
    }
}

fn spec(bell: &Arc<TestBell>) -> ConsumerSpec {
    ConsumerSpec {
        bell: Arc::clone(bell) as Arc<dyn Bell>,
        key: 0,
        prefetch: 0,
        shared: None,
        no_ack: false,
        exclusive: false,
    }
}

struct Client {
    inbox: Arc<Queue>,
    /// Outbox and notify.
    sources: [Arc<Queue>; 2],
    flows: [Arc<Flow>; 2],
}

struct Bus {
    vhost: Arc<Vhost>,
    dead: Arc<Queue>,
    clients: Vec<Client>,
    hands: Vec<Hand>,
}

impl Bus {
    fn new() -> Self {
        let vhost = Arc::new(Vhost::new("/", 7, Arc::new(Arena::new())));
        let dead = declare(&vhost, "soar-dead-letter");
        let mut hands = Vec::new();
        let mut shared = Vec::new();
        for (name, kind) in [("soar-publish", "topic"), ("soar-broadcast", "fanout")] {
            let exchange = ExchangeSpec {
                name,
                kind,
                passive: false,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Table::EMPTY,
            };
            vhost.topology().declare_exchange(&exchange).unwrap();
            let queue = declare(&vhost, name);
            let flow = flow(&dead, None, name, None, u64::MAX);
            vhost.install_flow(&queue, Some(flow));
            hands.push(Hand::new(&vhost, &queue));
            shared.push(queue);
        }
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let id = client_id(n);
            let inbox = declare(&vhost, &format!("{id}-inbox"));
            let bind = |exchange: &str, key: &str| {
                let topology = vhost.topology();
                let bound =
                    topology.bind_queue(inbox.name(), exchange, key.as_bytes(), Table::EMPTY);
                bound.unwrap();
            };
            bind("soar-broadcast", "");
            bind("soar-publish", PATTERNS[n]);
            let mut sources = Vec::new();
            let mut flows = Vec::new();
            for (role, via) in [("outbox", &shared[0]), ("notify", &shared[1])] {
                let queue = declare(&vhost, &format!("{id}-{role}"));
                let flow = flow(&dead, Some(via), via.name(), Some(&id), inbox.id());
                vhost.install_flow(&queue, Some(Arc::clone(&flow)));
                hands.push(Hand::new(&vhost, &queue));
                sources.push(queue);
                flows.push(flow);
            }
            clients.push(Client {
                inbox,
                sources: sources.try_into().unwrap(),
                flows: flows.try_into().unwrap_or_else(|_| unreachable!()),
            });
        }
        Self {
            vhost,
            dead,
            clients,
            hands,
        }
    }

    fn publisher(&self, client: usize) -> Publisher {
        let origin = Origin {
            user: client_id(client).into(),
            access: Access::Full,
        };
        Publisher::new(Arc::clone(&self.vhost), origin)
    }

    /// Lets everything move until nobody has a reason to.
    fn settle_down(&mut self) {
        for hand in &mut self.hands {
            hand.resume();
        }
        while self
            .hands
            .iter_mut()
            .fold(false, |any, hand| hand.step() | any)
        {}
        for client in &self.clients {
            for source in &client.sources {
                assert_eq!(source.stats().ready, 0, "{} is stuck", source.name());
            }
        }
    }

    /// What is in a queue, which is empty after.
    fn empty(&self, queue: &Queue) -> Vec<Got> {
        let mut entries: Vec<Entry> = Vec::new();
        queue.take(usize::MAX, usize::MAX, &mut entries);
        let mut seen = Vec::new();
        for entry in &entries {
            let segment = self.vhost.arena().segment(entry.segment);
            seen.push(Got::read(&Record::read(&segment, entry.offset)));
            assert!(!entry.redelivered());
            self.vhost.arena().release(entry.segment, 1);
        }
        let count = entries.len() as u32;
        queue.settle(None, count, &mut Wakes::default());
        seen
    }

    fn check_empty(self) {
        let Self { vhost, hands, .. } = self;
        drop(hands);
        for queue in vhost.topology().queues() {
            let stats = queue.stats();
            assert_eq!((stats.ready, stats.unsettled), (0, 0), "{}", queue.name());
        }
        assert_eq!((vhost.arena().segments(), vhost.arena().bytes()), (0, 0));
    }
}

fn client_id(n: usize) -> String {
    format!("c{n}")
}

fn declare(vhost: &Vhost, name: &str) -> Arc<Queue> {
    let declare = QueueDeclare {
        name,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Table::EMPTY,
        protected: true,
        lenient: true,
    };
    vhost.declare_queue(declare, 0).unwrap()
}

fn flow(
    dead: &Arc<Queue>,
    via: Option<&Arc<Queue>>,
    exchange: &str,
    sender: Option<&str>,
    own_inbox: u64,
) -> Arc<Flow> {
    Arc::new(Flow {
        via: via.cloned(),
        exchange: exchange.into(),
        needs_topic: exchange == "soar-publish",
        sender: sender.map(Into::into),
        dead_letters: Arc::clone(dead),
        exclude_own: AtomicBool::new(false),
        own_inbox,
        counters: FlowCounters::default(),
    })
}

/// What came out, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    number: i64,
    topic: String,
    sender: String,
    reason: String,
    message_id: String,
    timestamp: Option<u64>,
    exchange: String,
    key: String,
    body: Vec<u8>,
}

impl Got {
    fn read(record: &Record<'_>) -> Self {
        let properties = record.properties();
        let headers = properties.headers().expect("the number is in the headers");
        let text = |name: &str| match headers.get(name) {
            Some(value) => value.as_str().expect("a string").to_owned(),
            None => String::new(),
        };
        let id = properties.message_id().map(|id| id.as_str().unwrap());
        // Dead letters name their client, and keep a header `sender` as it came.
        let sender = text("client");
        let sender = if sender.is_empty() {
            text("sender")
        } else {
            sender
        };
        Self {
            number: headers.get("n").unwrap().as_i64().unwrap(),
            topic: text("topic"),
            sender,
            reason: text("reason"),
            message_id: id.unwrap_or_default().to_owned(),
            timestamp: properties.timestamp(),
            exchange: String::from_utf8(record.exchange().to_vec()).unwrap(),
            key: String::from_utf8(record.routing_key().to_vec()).unwrap(),
            body: record.body.to_vec(),
        }
    }
}

/// A message before it is sent, and what must come out of it.
struct Sent {
    client: usize,
    /// 0: through the outbox; 1: through notify.
    way: usize,
    topic: Option<String>,
    message_id: Option<String>,
    timestamp: Option<u64>,
    names: Vec<u8>,
    header: Vec<u8>,
    body: Vec<u8>,
}

impl Sent {
    fn random(number: i64, client: usize, rng: &mut Rng) -> Self {
        let way = rng.below(2);
        let mut topic = Some(rng.pick(&TOPICS).to_owned());
        let mut headers = TableBuf::new();
        headers.put("n", &Value::I64(number));
        let there = topic.clone().unwrap();
        let mut body = format!("message {number}").into_bytes();
        match rng.below(9) {
            0 | 1 => drop(headers.put("topic", &Value::LongStr(there.as_bytes()))),
            2 => drop(headers.put("x-topic", &Value::LongStr(there.as_bytes()))),
            3 | 4 => body = format!("{{\"topic\":\"{there}\",\"message\":{number}}}").into_bytes(),
            5 => body = format!("{{\"header\":{{\"destination\":\"{there}\"}}}}").into_bytes(),
            6 => {
                let inner = "{\"body\":{\"header\":{\"destination\":\"";
                body = format!("{inner}{there}\"}}}}}}").into_bytes();
            }
            7 => topic = None,
            _ => {
                let long = "x".repeat(256);
                headers.put("topic", &Value::LongStr(long.as_bytes()));
                topic = Some(long);
            }
        }
        // Spoofed, and replaced.
        if rng.once_in(5) {
            headers.put("sender", &Value::LongStr(b"somebody"));
        }
        if rng.once_in(25) && body.starts_with(b"m") {
            body.resize(60_000, b'.');
        }
        let message_id = rng.once_in(4).then(|| format!("id-{number}"));
        let timestamp = rng.once_in(4).then_some(5);
        let id = message_id.clone().unwrap_or_default();
        let properties = PropertiesBuilder {
            headers: Some(headers.as_table()),
            message_id: message_id
                .is_some()
                .then(|| ShortStr::new(id.as_bytes()).unwrap()),
            timestamp,
            ..PropertiesBuilder::default()
        };
        let mut header = Vec::new();
        record::write_header(&mut header, body.len(), &properties.build());
        let mut names = Vec::new();
        let role = ["outbox", "notify"][way];
        record::write_names(&mut names, b"", format!("c{client}-{role}").as_bytes());
        Self {
            client,
            way,
            topic,
            message_id,
            timestamp,
            names,
            header,
            body,
        }
    }

    fn publish(&self, publisher: &mut Publisher, as_record: bool) {
        let content = Content {
            names: &self.names,
            header: &self.header,
            body: &self.body,
        };
        if as_record {
            let mut stored = Vec::new();
            record::write(&mut stored, 0, content);
            publisher.publish_record(stored, NOW_MS).unwrap();
        } else {
            publisher.publish(content, NOW_MS).unwrap();
        }
    }

    /// Why it goes to the dead letters, if it does.
    fn reason(&self) -> Option<&'static str> {
        match &self.topic {
            Some(topic) if topic.len() > 255 => Some("topic-too-long"),
            None if self.way == 0 => Some("no-topic"),
            _ => None,
        }
    }

    fn reaches(&self, inbox: usize, patterns: &[BTreeSet<&str>], excludes: &[bool]) -> bool {
        if self.reason().is_some() || (inbox == self.client && excludes[inbox]) {
            return false;
        }
        let topic = self.topic.as_deref().unwrap_or("");
        self.way == 1
            || patterns[inbox]
                .iter()
                .any(|pattern| matches(pattern, topic))
    }

    fn check(&self, got: &Got) {
        assert!(got.body == self.body, "body of {}", got.number);
        let sender = client_id(self.client);
        assert_eq!(got.sender, sender);
        match &self.message_id {
            Some(id) => assert_eq!(got.message_id, *id),
            None => assert!(!got.message_id.is_empty()),
        }
        assert_eq!(got.timestamp, Some(self.timestamp.unwrap_or(NOW_MS / 1000)));
        if let Some(reason) = self.reason() {
            assert_eq!(got.reason, reason);
            return;
        }
        let topic = self.topic.as_deref().unwrap_or("");
        let exchange = ["soar-publish", "soar-broadcast"][self.way];
        assert_eq!(
            (&*got.topic, &*got.key, &*got.exchange),
            (topic, topic, exchange)
        );
        assert_eq!(got.reason, "");
    }
}

/// Only for [`PATTERNS`].
fn matches(pattern: &str, topic: &str) -> bool {
    match pattern {
        "#" => true,
        "a.#" => topic == "a" || topic.starts_with("a."),
        "*.b" => topic.ends_with(".b") && topic.split('.').count() == 2,
        plain => plain == topic,
    }
}

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
    /// Senders and ways whose order a rival mixed up by giving something back.
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
        let hand = rng.below(self.bus.hands.len());
        match rng.below(20) {
            0..=7 => self.publish(client, &mut rng),
            8..=10 => self.publishers[client].commit(),
            11 | 12 if !self.calm => self.bus.hands[hand].pause(),
            13 => self.bus.hands[hand].resume(),
            14 | 15 => drop(self.bus.hands[hand].step()),
            16 if !self.calm => self.rival(client, &mut rng),
            17 if !self.calm => self.rival_ends(&mut rng),
            18 => self.settle_down(),
            19 => self.change(client, &mut rng),
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
        let source = Arc::clone(&self.bus.clients[client].sources[rng.below(2)]);
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
            let sent = &self.sent[&number];
            if back {
                self.mixed.insert((sent.client, sent.way));
            } else {
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
            // What it was assigned and never fetched goes back behind what the mover has.
            let sender = self
                .bus
                .clients
                .iter()
                .position(|c| c.sources.iter().any(|s| Arc::ptr_eq(s, &source)));
            let sender = sender.expect("a client's source");
            self.mixed.extend([(sender, 0), (sender, 1)]);
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
        steps in proptest::collection::vec(any::<u64>(), 1..150)
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
