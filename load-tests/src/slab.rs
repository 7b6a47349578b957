//! Prepared messages of a publisher: whole publishes laid end to end, of which only the first 16
//! octets of each body change from message to message.
//!
//! The slab is a ring of messages of equal length, one for each routing key (or topic) in turn, repeated until
//! it fills a large write. Publishing is patching the next messages in place and writing them.

use crate::amqp::{self, FRAME_HEADER};
use crate::bus::{SENDER_HEADER, TOPIC_HEADER};
use crate::options::{Exchange, Scenario};
use crate::scan::HEAD;

/// Octets that one write shall have, if the messages are small.
pub const WRITE_SIZE: usize = 256 * 1024;
/// The header that a headers exchange matches.
pub const HEADER_NAME: &str = "k";
/// Bits of the stamp that hold the time in nanoseconds; the others hold the publisher's number.
const TIME_BITS: u32 = 48;

/// The exchange that the bus delivers from.
const BUS_EXCHANGE: &str = "soar-publish";
/// A message id of the length that the bus gives, when it has seen some million messages.
const BUS_ID: &str = "0123456789abcdef-1f-1fffff";
/// Any time of the length that the bus adds.
const BUS_TIME_S: u64 = 1_800_000_000;

/// The names of a run's queues, exchange and clients. Those of one kind have one length.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
    bus: bool,
    marked: bool,
    topics: usize,
    /// Whether each queue has a sender of its own, instead of each publisher.
    sender_each: bool,
    digits: usize,
}

/// A ring of prepared messages.
#[derive(Debug)]
pub struct Slab {
    bytes: Vec<u8>,
    /// Octets of one message with its frames.
    stride: usize,
    /// Where in a message the body starts.
    body_at: usize,
    count: usize,
    next: usize,
}

impl Names {
    /// Names that begin with `prefix`; with the bus, queues are the inboxes of receivers.
    pub fn new(prefix: String, scenario: &Scenario) -> Self {
        Names {
            prefix,
            bus: scenario.bus,
            marked: scenario.marked,
            topics: scenario.topics,
            sender_each: scenario.queues_in_turn(),
            digits: (scenario.queues - 1).max(1).ilog10() as usize + 1,
        }
    }

    /// The name of queue `index`.
    pub fn queue(&self, index: usize) -> String {
        if self.bus {
            return format!("{}-inbox", self.receiver(index));
        }
        // As long as what a delivery of the bus names: its exchange and a topic.
        let tail = if self.marked { BUS_EXCHANGE } else { "" };
        format!("{}-{}{tail}", self.prefix, self.number(index))
    }

    /// The id of the client that publishes: as publisher `index`, or to the receiver of queue `index` where each has a
    /// sender of its own.
    pub fn sender(&self, index: usize) -> String {
        format!("{}-s{}", self.prefix, self.number(index))
    }

    /// The id of the client whose inbox queue `index` is.
    pub fn receiver(&self, index: usize) -> String {
        format!("{}-r{}", self.prefix, self.number(index))
    }

    /// The id of a client that does nothing.
    pub fn idler(&self, index: usize) -> String {
        format!("{}-i{index}", self.prefix)
    }

    /// What the receiver of queue `index` subscribes to.
    pub fn pattern(&self, index: usize) -> String {
        match self.topics {
            1 => self.topic(index, 0),
            _ => format!("{}.{}.*", self.prefix, self.number(index)),
        }
    }

    /// Topic number `topic` of the receiver of queue `index`.
    fn topic(&self, index: usize, topic: usize) -> String {
        let one = format!("{}.{}", self.prefix, self.number(index));
        match self.topics {
            1 => one,
            _ => format!("{one}.{topic:06}"),
        }
    }

    fn number(&self, index: usize) -> String {
        format!("{index:0width$}", width = self.digits)
    }

    /// The key that publisher `publisher` writes to `queue` with.
    fn key(&self, publisher: usize, queue: usize) -> String {
        if !self.bus {
            return self.queue(queue);
        }
        let sender = if self.sender_each { queue } else { publisher };
        format!("{}-outbox", self.sender(sender))
    }

    /// The headers that go with it.
    fn headers(&self, publisher: usize, queue: usize, topic: usize) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if self.bus || self.marked {
            headers.push((TOPIC_HEADER, self.topic(queue, topic)));
        }
        if self.marked {
            headers.push((SENDER_HEADER, self.sender(publisher)));
        }
        headers
    }

    /// The name of the exchange; empty for the default one.
    pub fn exchange(&self, kind: Exchange) -> String {
        match kind {
            Exchange::Default => String::new(),
            _ => format!("{}-x", self.prefix),
        }
    }
}

/// Key number `index` as it is published.
pub fn publish_key(kind: Exchange, index: usize) -> String {
    match kind {
        Exchange::Topic => format!("perf.{index:06}.x"),
        _ => format!("{index:06}"),
    }
}

/// Key number `index` as it is bound; topic patterns take turns among the kinds of wildcard, and
/// each matches the published key of its number only.
pub fn binding_key(kind: Exchange, index: usize) -> String {
    match (kind, index % 3) {
        (Exchange::Topic, 0) => format!("perf.{index:06}.*"),
        (Exchange::Topic, 1) => format!("*.{index:06}.x"),
        (Exchange::Topic, _) => format!("perf.{index:06}.#"),
        _ => publish_key(kind, index),
    }
}

/// The topic pattern that takes every published key.
pub const BINDING_FOR_ALL: &str = "perf.#";

/// The octet that stands at `offset` of each body, behind the first 16.
fn filler(offset: usize) -> u8 {
    (offset as u8)
        .wrapping_mul(31)
        .wrapping_add((offset >> 8) as u8)
}

/// A body as publishers write it, without its first 16 octets.
pub fn body_template(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| if at < HEAD { 0 } else { filler(at) })
        .collect()
}

/// A publisher's number and a time in nanoseconds in one word.
pub fn stamp(publisher: usize, now_ns: u64) -> u64 {
    (publisher as u64) << TIME_BITS | now_ns & ((1 << TIME_BITS) - 1)
}

/// The number and the time out of a stamp.
pub fn unstamp(stamp: u64) -> (usize, u64) {
    (
        (stamp >> TIME_BITS) as usize,
        stamp & ((1 << TIME_BITS) - 1),
    )
}

/// The sequence number and the stamp at the front of a body.
#[inline]
pub fn read_head(head: &[u8; HEAD]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *head;
    (
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes(rest),
    )
}

impl Slab {
    /// Prepares the messages of `publisher`.
    pub fn new(scenario: &Scenario, names: &Names, publisher: usize, frame_max: usize) -> Slab {
        let body = body_template(scenario.size);
        let mut bytes = Vec::new();
        let mut body_at = 0;
        let keys = scenario.slab_keys();
        for index in 0..keys {
            let start = bytes.len();
            push_head(&mut bytes, scenario, names, publisher, index);
            body_at = bytes.len() - start + FRAME_HEADER;
            amqp::body(&mut bytes, &body, frame_max);
        }
        let stride = bytes.len() / keys;
        debug_assert!(bytes.len() == stride * keys, "all messages have one length");
        let rounds = (WRITE_SIZE / bytes.len()).max(1);
        let bytes = bytes.repeat(rounds);
        Slab {
            bytes,
            stride,
            body_at,
            count: keys * rounds,
            next: 0,
        }
    }

    /// Messages that one write takes at most.
    pub fn batch_max(&self) -> usize {
        (WRITE_SIZE / self.stride).max(1)
    }

    /// Stamps up to `wanted` messages that lie behind each other, numbered from `sequence` on; gives
    /// the octets to write and how many messages they are.
    #[inline]
    pub fn take(&mut self, wanted: usize, sequence: u64, stamp: u64) -> (&[u8], usize) {
        let n = wanted.min(self.batch_max()).min(self.count - self.next);
        let start = self.next * self.stride;
        let end = start + n * self.stride;
        let batch = &mut self.bytes[start..end];
        let stamp = stamp.to_le_bytes();
        for (message, number) in batch.chunks_exact_mut(self.stride).zip(sequence..) {
            let head = &mut message[self.body_at..self.body_at + HEAD];
            head[..8].copy_from_slice(&number.to_le_bytes());
            head[8..].copy_from_slice(&stamp);
        }
        self.next = (self.next + n) % self.count;
        (&self.bytes[start..end], n)
    }
}

/// Appends what stands in front of the body of prepared message `index`.
fn push_head(
    out: &mut Vec<u8>,
    scenario: &Scenario,
    names: &Names,
    publisher: usize,
    index: usize,
) {
    let kind = scenario.exchange;
    let (key, headers) = match kind {
        Exchange::Default => {
            let queue = scenario.share().queue(publisher, index as u64);
            // All queues come before the next topic.
            let topic = index * scenario.topics / scenario.slab_keys();
            (
                names.key(publisher, queue),
                names.headers(publisher, queue, topic),
            )
        }
        Exchange::Headers => {
            let key = publish_key(kind, index);
            (key.clone(), vec![(HEADER_NAME, key)])
        }
        _ => (publish_key(kind, index), Vec::new()),
    };
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    amqp::publish(out, &names.exchange(kind), &key, scenario.mandatory);
    let properties = amqp::Properties {
        persistent: scenario.persistent,
        headers: &headers,
        id_and_time: scenario.marked.then_some((BUS_ID, BUS_TIME_S)),
    };
    amqp::content_header(out, scenario.size as u64, &properties);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::FRAME_MAX;

    fn scenario(text: &str) -> Scenario {
        toml::from_str::<Scenario>(text).unwrap().checked().unwrap()
    }

    fn slab(scenario: &Scenario, publisher: usize, frame_max: usize) -> Slab {
        let names = Names::new("q".into(), scenario);
        Slab::new(scenario, &names, publisher, frame_max)
    }

    fn holds(message: &[u8], text: &str) -> bool {
        message.windows(text.len()).any(|w| w == text.as_bytes())
    }

    #[test]
    fn messages_are_stamped_in_place_and_nothing_else_changes() {
        let mut slab = slab(&scenario("size = 20"), 0, FRAME_MAX);
        assert_eq!(slab.stride, 20 + 22 + 28);
        let before = slab.bytes.clone();
        let (bytes, n) = slab.take(3, 40, stamp(7, 1234));
        assert_eq!((bytes.len(), n), (3 * 70, 3));
        for (i, message) in bytes.chunks_exact(70).enumerate() {
            let head = message[49..65].try_into().unwrap();
            let (sequence, stamp) = read_head(&head);
            assert_eq!(sequence, 40 + i as u64);
            assert_eq!(unstamp(stamp), (7, 1234));
            assert_eq!(message[..49], before[..49]);
            assert_eq!(message[65..], before[65..70]);
        }
    }

    #[test]
    fn the_ring_goes_round_without_skipping() {
        let mut slab = slab(&scenario("size = 100000"), 0, FRAME_MAX);
        assert_eq!((slab.count, slab.batch_max()), (2, 2));
        assert_eq!(slab.take(1, 0, 0).1, 1);
        assert_eq!(slab.take(5, 1, 0).1, 1, "only up to the end of the ring");
        assert_eq!(slab.take(5, 2, 0).1, 2);
    }

    #[test]
    fn on_the_bus_a_sender_writes_to_its_outbox_on_the_topic_of_its_receiver() {
        let scenario = scenario("bus = true\npublishers = 3\nqueues = 2\nconsumers = 2");
        let slab = slab(&scenario, 2, FRAME_MAX);
        let message = &slab.bytes[..slab.stride];
        for text in ["\x0bq-s2-outbox", "\x05topicS\0\0\0\x03q.0"] {
            assert!(holds(message, text), "{text:?}");
        }
        assert_eq!(Names::new("q".into(), &scenario).queue(1), "q-r1-inbox");
    }

    #[test]
    fn one_publisher_of_many_queues_writes_to_all_in_turn_and_then_on_the_next_topic() {
        let scenario = scenario("bus = true\nqueues = 20\ntopics = 2");
        let slab = slab(&scenario, 0, FRAME_MAX);
        for (i, message) in slab.bytes.chunks_exact(slab.stride).take(80).enumerate() {
            let outbox = format!("\x0cq-s{:02}-outbox", i % 20);
            let topic = format!("q.{:02}.{:06}", i % 20, i / 20 % 2);
            assert!(holds(message, &outbox) && holds(message, &topic), "{i}");
        }
    }

    #[test]
    fn a_marked_message_names_as_many_octets_as_the_bus_does() {
        let bus = scenario("bus = true");
        let bus = Names::new("q".into(), &bus);
        let marked = scenario("marked = true");
        let names = Names::new("q".into(), &marked);
        assert_eq!(
            names.queue(0).len(),
            BUS_EXCHANGE.len() + bus.topic(0, 0).len()
        );
        let slab = slab(&marked, 0, FRAME_MAX);
        for text in [
            "\x05topicS\0\0\0\x03q.0",
            "\x06senderS\0\0\0\x04q-s0",
            BUS_ID,
        ] {
            assert!(holds(&slab.bytes[..slab.stride], text), "{text:?}");
        }
    }

    #[test]
    fn keys_take_turns() {
        let text = "exchange = \"topic\"\nbindings = 4\nqueues = 2\nconsumers = 2\nsize = 16";
        let slab = slab(&scenario(text), 0, FRAME_MAX);
        assert!(slab.count.is_multiple_of(4));
        for (i, message) in slab.bytes.chunks_exact(slab.stride).take(8).enumerate() {
            let key = publish_key(Exchange::Topic, i % 4);
            assert!(holds(message, &key));
        }
        assert_eq!(binding_key(Exchange::Topic, 5), "perf.000005.#");
    }

    #[test]
    fn a_large_body_is_split_and_stamped_in_its_first_frame() {
        let mut slab = slab(&scenario("size = 10000"), 0, 4096);
        let stride = slab.stride;
        let (bytes, _) = slab.take(1, 5, 6);
        assert_eq!(stride, 20 + 22 + 10_000 + 3 * 8);
        assert_eq!(bytes[49..57], 5u64.to_le_bytes());
    }
}
