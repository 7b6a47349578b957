//! A bus as the server makes it, messages for it, and what must come of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backbone_broker::access::Access;
use backbone_broker::flow::{Flow, FlowCounters, Mover};
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::queue::{Bell, ConsumerSpec, Queue, Wakes};
use backbone_broker::record::{self, Content, Entry, Record};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_log::Arena;
use backbone_wire::ShortStr;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, TableBuf, Value};

use crate::support::{Rng, TestBell};

pub const CLIENTS: usize = 3;
pub const NOW_MS: u64 = 1_700_000_000_999;
pub const PATTERNS: [&str; 4] = ["a.#", "*.b", "#", "c"];
pub const TOPICS: [&str; 5] = ["a", "a.b", "c", "c.b", "x.y"];

/// A mover and whether it has to be stepped: its bell rang, or it said that there is more.
pub struct Hand {
    pub mover: Mover,
    pub bell: Arc<TestBell>,
    pub told: bool,
}

impl Hand {
    pub fn new(vhost: &Arc<Vhost>, queue: &Arc<Queue>) -> Self {
        Self {
            mover: Mover::new(Arc::clone(vhost), Arc::clone(queue)).expect("it has a flow"),
            bell: Arc::default(),
            told: false,
        }
    }

    pub fn resume(&mut self) {
        self.mover.resume(spec(&self.bell)).unwrap();
    }

    pub fn pause(&mut self) {
        self.mover.pause();
        self.bell.rung.lock().clear();
        self.told = false;
    }

    /// One step, if there is reason for one.
    pub fn step(&mut self) -> bool {
        self.told |= !std::mem::take(&mut *self.bell.rung.lock()).is_empty();
        if self.told {
            self.told = self.mover.step(0);
            return true;
        }
        false
    }
}

pub fn spec(bell: &Arc<TestBell>) -> ConsumerSpec {
    ConsumerSpec {
        bell: Arc::clone(bell) as Arc<dyn Bell>,
        key: 0,
        prefetch: 0,
        shared: None,
        no_ack: false,
        exclusive: false,
        priority: 0,
    }
}

pub struct Client {
    pub inbox: Arc<Queue>,
    /// Outbox and notify.
    pub sources: [Arc<Queue>; 2],
    pub flows: [Arc<Flow>; 2],
}

pub struct Bus {
    pub vhost: Arc<Vhost>,
    pub dead: Arc<Queue>,
    pub clients: Vec<Client>,
    pub hands: Vec<Hand>,
}

impl Bus {
    pub fn new() -> Self {
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
        for (n, pattern) in PATTERNS.iter().take(CLIENTS).enumerate() {
            let id = client_id(n);
            let inbox = declare(&vhost, &format!("{id}-inbox"));
            let bind = |exchange: &str, key: &str| {
                let topology = vhost.topology();
                let bound =
                    topology.bind_queue(inbox.name(), exchange, key.as_bytes(), Table::EMPTY);
                bound.unwrap();
            };
            bind("soar-broadcast", "");
            bind("soar-publish", pattern);
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

    pub fn publisher(&self, client: usize) -> Publisher {
        let origin = Origin {
            user: client_id(client).into(),
            access: Access::Full,
        };
        Publisher::new(Arc::clone(&self.vhost), origin)
    }

    /// Lets everything move until nobody has a reason to.
    pub fn settle_down(&mut self) {
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
    pub fn empty(&self, queue: &Queue) -> Vec<Got> {
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

    pub fn check_empty(self) {
        let Self { vhost, hands, .. } = self;
        drop(hands);
        for queue in vhost.topology().queues() {
            let stats = queue.stats();
            assert_eq!((stats.ready, stats.unsettled), (0, 0), "{}", queue.name());
        }
        assert_eq!((vhost.arena().segments(), vhost.arena().bytes()), (0, 0));
    }
}

pub fn client_id(n: usize) -> String {
    format!("c{n}")
}

pub fn declare(vhost: &Vhost, name: &str) -> Arc<Queue> {
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

pub fn flow(
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
pub struct Got {
    pub number: i64,
    pub topic: String,
    pub sender: String,
    pub reason: String,
    pub message_id: String,
    pub timestamp: Option<u64>,
    pub exchange: String,
    pub key: String,
    pub body: Vec<u8>,
}

impl Got {
    pub fn read(record: &Record<'_>) -> Self {
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
pub struct Sent {
    pub client: usize,
    /// 0: through the outbox; 1: through notify.
    pub way: usize,
    pub topic: Option<String>,
    pub message_id: Option<String>,
    pub timestamp: Option<u64>,
    pub names: Vec<u8>,
    pub header: Vec<u8>,
    pub body: Vec<u8>,
}

impl Sent {
    pub fn random(number: i64, client: usize, rng: &mut Rng) -> Self {
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

    pub fn publish(&self, publisher: &mut Publisher, as_record: bool) {
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
    pub fn reason(&self) -> Option<&'static str> {
        match &self.topic {
            Some(topic) if topic.len() > 255 => Some("topic-too-long"),
            None if self.way == 0 => Some("no-topic"),
            _ => None,
        }
    }

    pub fn reaches(&self, inbox: usize, patterns: &[BTreeSet<&str>], excludes: &[bool]) -> bool {
        if self.reason().is_some() || (inbox == self.client && excludes[inbox]) {
            return false;
        }
        let topic = self.topic.as_deref().unwrap_or("");
        self.way == 1
            || patterns[inbox]
                .iter()
                .any(|pattern| matches(pattern, topic))
    }

    pub fn check(&self, got: &Got) {
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
pub fn matches(pattern: &str, topic: &str) -> bool {
    match pattern {
        "#" => true,
        "a.#" => topic == "a" || topic.starts_with("a."),
        "*.b" => topic.ends_with(".b") && topic.split('.').count() == 2,
        plain => plain == topic,
    }
}
