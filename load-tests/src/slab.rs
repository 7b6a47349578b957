//! Prepared messages of a publisher: whole publishes laid end to end, of which only the first 16
//! octets of each body change from message to message.
//!
//! The slab is a ring of messages of equal length, one for each routing key in turn, repeated until
//! it fills a large write. Publishing is patching the next messages in place and writing them.

use crate::amqp::{self, FRAME_HEADER};
use crate::bus::TOPIC_HEADER;
use crate::options::{Exchange, Scenario};
use crate::scan::HEAD;

/// Octets that one write shall have, if the messages are small.
pub const WRITE_SIZE: usize = 256 * 1024;
/// The header that a headers exchange matches.
pub const HEADER_NAME: &str = "k";
/// Bits of the stamp that hold the time in nanoseconds; the others hold the publisher's number.
const TIME_BITS: u32 = 48;

/// The names of a run's queues and exchange.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
    bus: bool,
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
    /// Names that no other run uses; with `bus`, queues are the inboxes of receivers.
    pub fn new(prefix: String, bus: bool) -> Self {
        Names { prefix, bus }
    }

    /// The name of queue `index`.
    pub fn queue(&self, index: usize) -> String {
        if self.bus {
            return format!("{}-inbox", self.receiver(index));
        }
        format!("{}-{index}", self.prefix)
    }

    /// The id of the client that publisher `index` is.
    pub fn sender(&self, index: usize) -> String {
        format!("{}-s{index}", self.prefix)
    }

    /// The id of the client whose inbox queue `index` is.
    pub fn receiver(&self, index: usize) -> String {
        format!("{}-r{index}", self.prefix)
    }

    /// The topic that the receiver of queue `index` subscribes to.
    pub fn topic(&self, index: usize) -> String {
        format!("{}.{index}", self.prefix)
    }

    /// The key that publisher `publisher` writes to `queue` with, and the header that goes with it.
    fn route(&self, publisher: usize, queue: usize) -> (String, Option<(&'static str, String)>) {
        if self.bus {
            let outbox = format!("{}-outbox", self.sender(publisher));
            return (outbox, Some((TOPIC_HEADER, self.topic(queue))));
        }
        (self.queue(queue), None)
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
        let exchange = names.exchange(scenario.exchange);
        let mut bytes = Vec::new();
        let mut body_at = 0;
        let keys = scenario.keys();
        for index in 0..keys {
            let (key, header) = match scenario.exchange {
                Exchange::Default => names.route(publisher, publisher % scenario.queues),
                kind => {
                    let key = publish_key(kind, index);
                    let header = (kind == Exchange::Headers).then(|| (HEADER_NAME, key.clone()));
                    (key, header)
                }
            };
            let header = header.as_ref().map(|(name, value)| (*name, value.as_str()));
            let start = bytes.len();
            amqp::publish(&mut bytes, &exchange, &key, scenario.mandatory);
            amqp::content_header(
                &mut bytes,
                scenario.size as u64,
                scenario.persistent,
                header,
            );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::FRAME_MAX;

    fn scenario(text: &str) -> Scenario {
        toml::from_str::<Scenario>(text).unwrap().checked().unwrap()
    }

    fn names() -> Names {
        Names::new("q".into(), false)
    }

    #[test]
    fn messages_are_stamped_in_place_and_nothing_else_changes() {
        let mut slab = Slab::new(&scenario("size = 20"), &names(), 0, FRAME_MAX);
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
        let mut slab = Slab::new(&scenario("size = 100000"), &names(), 0, FRAME_MAX);
        assert_eq!((slab.count, slab.batch_max()), (2, 2));
        assert_eq!(slab.take(1, 0, 0).1, 1);
        assert_eq!(slab.take(5, 1, 0).1, 1, "only up to the end of the ring");
        assert_eq!(slab.take(5, 2, 0).1, 2);
    }

    #[test]
    fn on_the_bus_a_sender_writes_to_its_outbox_on_the_topic_of_its_receiver() {
        let scenario = scenario("bus = true\npublishers = 3\nqueues = 2\nconsumers = 2");
        let slab = Slab::new(&scenario, &Names::new("q".into(), true), 2, FRAME_MAX);
        let message = &slab.bytes[..slab.stride];
        for text in ["\x0bq-s2-outbox", "\x05topicS\0\0\0\x03q.0"] {
            assert!(
                message.windows(text.len()).any(|w| w == text.as_bytes()),
                "{text:?}"
            );
        }
        assert_eq!(Names::new("q".into(), true).queue(1), "q-r1-inbox");
    }

    #[test]
    fn keys_take_turns() {
        let text = "exchange = \"topic\"\nbindings = 4\nqueues = 2\nconsumers = 2\nsize = 16";
        let slab = Slab::new(&scenario(text), &names(), 0, FRAME_MAX);
        assert!(slab.count.is_multiple_of(4));
        for (i, message) in slab.bytes.chunks_exact(slab.stride).take(8).enumerate() {
            let key = publish_key(Exchange::Topic, i % 4);
            assert!(message.windows(key.len()).any(|w| w == key.as_bytes()));
        }
        assert_eq!(binding_key(Exchange::Topic, 5), "perf.000005.#");
    }

    #[test]
    fn a_large_body_is_split_and_stamped_in_its_first_frame() {
        let mut slab = Slab::new(&scenario("size = 10000"), &names(), 0, 4096);
        let stride = slab.stride;
        let (bytes, _) = slab.take(1, 5, 6);
        assert_eq!(stride, 20 + 22 + 10_000 + 3 * 8);
        assert_eq!(bytes[49..57], 5u64.to_le_bytes());
    }
}
