//! What outlives a restart besides messages: durable exchanges, durable queues, and bindings between the two, as
//! definitions of the log.
//!
//! Owns their form in the log, and the [`Journal`] through which they get there. Who changes the topology of a
//! vhost fills a [`Change`] with all that belongs together, under the lock of what is changed and **before** the change
//! can be seen. So the log has the changes of a vhost in their order, each whole or
//! not at all, and what it refused never was. A queue's definition precedes its messages.
//!
//! | key | value (JSON) |
//! |---|---|
//! | `v/` vhost | [`VhostDefinition`] |
//! | `x/` vhost NUL name | [`ExchangeDefinition`] |
//! | `q/` vhost NUL name | [`QueueDefinition`] |
//! | `b/` vhost NUL, then source, `q` or `e` for the kind of the destination, destination, routing key, arguments | [`BindingDefinition`] |
//! | `p/` vhost NUL, then `u` or `o` for its author, name | [`PolicyDefinition`] |
//! | `n/queues` | [`QueueIds`] |
//!
//! Behind `b/`, each part is preceded by its length (u32, little-endian), since names and keys may hold any
//! octet; the arguments are the table's bytes as they came. A vhost's name has no NUL.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backbone_log::{Batch, Reason};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable::{Durable, Level, Promise};
use crate::error::Error;
use crate::policy::{Author, PolicyDefinition};

/// The bit of the ids under which queues page out what is not durable: the *shadow* of a queue.
pub const SHADOW: u64 = 1 << 63;

/// The bit of the ids under which the log has what it knows of deliveries from a queue ([`crate::returns`]).
pub const RETURNS: u64 = 1 << 62;

/// The bits of an id that make it something beside a queue, and not the queue itself.
pub const BESIDE: u64 = SHADOW | RETURNS;

/// The bit of the ids of streams, which are no queues and belong to no vhost: whoever opens them looks after them.
pub const STREAMS: u64 = 1 << 61;

const VHOST: &[u8] = b"v/";
const EXCHANGE: &[u8] = b"x/";
const QUEUE: &[u8] = b"q/";
const BINDING: &[u8] = b"b/";
const POLICY: &[u8] = b"p/";
const QUEUE_IDS: &[u8] = b"n/queues";

/// How keys name the authors of policies.
const AUTHORS: [(Author, u8); 2] = [(Author::User, b'u'), (Author::Operator, b'o')];

/// That there is a vhost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostDefinition {
    /// Its name.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// For tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How many connections and queues it may have.
    #[serde(default)]
    pub limits: VhostLimits,
    /// What is kept for extensions that are not here: by component and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
}

impl VhostDefinition {
    /// One of which nothing is said but its name.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// Limits of a vhost; a negative number is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VhostLimits {
    /// Connections that may be open to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i64>,
    /// Queues that it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queues: Option<i64>,
}

/// A durable exchange; those that every vhost has are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeDefinition {
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// How it routes, by AMQP's name.
    pub kind: String,
    /// It goes with the last binding from it.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// What the messages in its own queue are known by in the log, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<u64>,
    /// The arguments: a table's bytes, as hexadecimal digits.
    #[serde(with = "hex")]
    pub arguments: Vec<u8>,
}

/// A durable queue that is nobody's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDefinition {
    /// What its messages are known by in the log.
    pub id: u64,
    /// Its vhost.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// The arguments: a table's bytes, as hexadecimal digits.
    #[serde(with = "hex")]
    pub arguments: Vec<u8>,
    /// How safe its messages are before they are confirmed.
    pub level: Level,
    /// It belongs to the bus.
    pub protected: bool,
    /// Of a priority queue: the highest priority. Messages of priority k are known by `id` + k.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_max: Option<u8>,
    /// It hands out nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

impl QueueDefinition {
    /// The ids that its messages are known by.
    pub fn ids(&self) -> std::ops::RangeInclusive<u64> {
        self.id..=self.id + u64::from(self.priority_max.unwrap_or(0))
    }
}

/// A binding whose source and destination are durable. The rest of it is in its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingDefinition {
    /// Grows with each binding of the vhost: their order.
    pub number: u64,
}

/// Which ids queues may have had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueIds {
    /// No queue had this id or one above it.
    pub next: u64,
}

/// A binding as its key tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingKey<'a> {
    /// The exchange that it leads from.
    pub source: &'a str,
    /// Whether it leads to an exchange.
    pub to_exchange: bool,
    /// The queue or exchange that it leads to.
    pub destination: &'a str,
    /// The routing key or pattern.
    pub key: &'a [u8],
    /// The arguments: a table's bytes.
    pub arguments: &'a [u8],
}

/// A definition, read.
#[derive(Debug, PartialEq)]
pub(crate) enum Definition<'a> {
    Vhost(VhostDefinition),
    Exchange(ExchangeDefinition),
    Queue(QueueDefinition),
    /// The name of the vhost comes first.
    Binding(&'a str, BindingKey<'a>, BindingDefinition),
    Policy(Author, PolicyDefinition),
    QueueIds(QueueIds),
}

impl<'a> Definition<'a> {
    /// `None`: the bytes are not what was written, or a later version's.
    pub(crate) fn read(key: &'a [u8], value: &[u8]) -> Option<Self> {
        if key == QUEUE_IDS {
            return json(value).map(Self::QueueIds);
        }
        if let Some(name) = key.strip_prefix(VHOST) {
            let vhost: VhostDefinition = json(value)?;
            return (vhost.name.as_bytes() == name).then_some(Self::Vhost(vhost));
        }
        let (kind, rest) = key.split_at_checked(2)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let vhost = std::str::from_utf8(&rest[..end]).ok()?;
        let rest = &rest[end + 1..];
        match kind {
            EXCHANGE => {
                let exchange: ExchangeDefinition = json(value)?;
                let fits = exchange.vhost == vhost && exchange.name.as_bytes() == rest;
                fits.then_some(Self::Exchange(exchange))
            }
            QUEUE => {
                let queue: QueueDefinition = json(value)?;
                let fits = queue.vhost == vhost && queue.name.as_bytes() == rest;
                fits.then_some(Self::Queue(queue))
            }
            POLICY => {
                let (author, name) = rest.split_first()?;
                let author = AUTHORS.into_iter().find(|(_, letter)| letter == author)?.0;
                let policy: PolicyDefinition = json(value)?;
                let fits = policy.vhost == vhost && policy.name.as_bytes() == name;
                fits.then_some(Self::Policy(author, policy))
            }
            BINDING => {
                let binding = BindingKey::read(rest)?;
                Some(Self::Binding(vhost, binding, json(value)?))
            }
            _ => None,
        }
    }
}

impl<'a> BindingKey<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        let kind: &[u8] = if self.to_exchange { b"e" } else { b"q" };
        put(out, self.source.as_bytes());
        out.extend_from_slice(kind);
        put(out, self.destination.as_bytes());
        put(out, self.key);
        put(out, self.arguments);
    }

    fn read(mut rest: &'a [u8]) -> Option<Self> {
        let source = take(&mut rest)?;
        let kind = *rest.split_off_first()?;
        let binding = Self {
            source: std::str::from_utf8(source).ok()?,
            to_exchange: kind == b'e',
            destination: std::str::from_utf8(take(&mut rest)?).ok()?,
            key: take(&mut rest)?,
            arguments: take(&mut rest)?,
        };
        (rest.is_empty() && matches!(kind, b'q' | b'e')).then_some(binding)
    }
}

/// The way of one vhost's definitions into the log.
pub(crate) struct Journal {
    vhost: Arc<str>,
    durable: Arc<Durable>,
    /// Number of the last batch that a change of this vhost is in.
    last: AtomicU64,
    /// The vhost is deleted.
    closed: AtomicBool,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("last", &self.last).finish()
    }
}

impl Journal {
    pub(crate) fn new(vhost: Arc<str>, durable: Arc<Durable>) -> Self {
        Self {
            vhost,
            durable,
            last: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes no changes from now on, since the vhost is deleted.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Appends what `fill` puts into the change, if anything.
    ///
    /// # Errors
    /// 541: the log takes nothing. 320: the vhost is deleted. Nothing of the change may come into force then.
    pub(crate) fn change(&self, fill: impl FnOnce(&mut Change<'_>)) -> Result<(), Error> {
        let mut change = Change {
            vhost: &self.vhost,
            batch: Batch::new(),
        };
        fill(&mut change);
        let mut batch = change.batch;
        if batch.is_empty() {
            return Ok(());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::vhost_deleted(&self.vhost));
        }
        match self.durable.append(&mut batch) {
            Ok(lsn) => {
                self.note(lsn);
                Ok(())
            }
            Err(error) => Err(Error::internal_error(format!(
                "the change was not made, since the log did not take it: {error}"
            ))),
        }
    }

    /// That all changes so far come to `level`.
    pub(crate) fn promise(&self, level: Level) -> Promise {
        Promise::new(self.last.load(Ordering::Acquire), level)
    }

    /// Takes note of a change that is in batch `lsn`.
    pub(crate) fn note(&self, lsn: u64) {
        self.last.fetch_max(lsn, Ordering::AcqRel);
    }
}

/// Definitions that come and go together.
pub(crate) struct Change<'a> {
    vhost: &'a str,
    batch: Batch,
}

impl Change<'_> {
    pub(crate) fn define_vhost(&mut self, vhost: &VhostDefinition) {
        let key = [VHOST, vhost.name.as_bytes()].concat();
        self.define(&key, vhost);
    }

    pub(crate) fn remove_vhost(&mut self) {
        let key = [VHOST, self.vhost.as_bytes()].concat();
        self.batch.remove(&key);
    }

    pub(crate) fn define_policy(&mut self, author: Author, policy: &PolicyDefinition) {
        let key = self.policy_key(author, &policy.name);
        self.define(&key, policy);
    }

    pub(crate) fn remove_policy(&mut self, author: Author, name: &str) {
        self.batch.remove(&self.policy_key(author, name));
    }

    pub(crate) fn define_exchange(&mut self, exchange: &ExchangeDefinition) {
        let key = self.key(EXCHANGE, &exchange.name);
        self.define(&key, exchange);
    }

    pub(crate) fn remove_exchange(&mut self, name: &str) {
        self.batch.remove(&self.key(EXCHANGE, name));
    }

    pub(crate) fn define_queue(&mut self, queue: &QueueDefinition) {
        let key = self.key(QUEUE, &queue.name);
        self.define(&key, queue);
    }

    pub(crate) fn remove_queue(&mut self, name: &str) {
        self.batch.remove(&self.key(QUEUE, name));
    }

    pub(crate) fn define_binding(&mut self, binding: &BindingKey<'_>, number: u64) {
        let key = self.binding_key(binding);
        self.define(&key, &BindingDefinition { number });
    }

    pub(crate) fn remove_binding(&mut self, binding: &BindingKey<'_>) {
        self.batch.remove(&self.binding_key(binding));
    }

    pub(crate) fn define_queue_ids(&mut self, next: u64) {
        self.define(QUEUE_IDS, &QueueIds { next });
    }

    /// Numbers of the queue or shadow `id` are done with; `0..u64::MAX` for all that there ever will be.
    pub(crate) fn settle(&mut self, id: u64, numbers: Range<u64>) {
        if !numbers.is_empty() {
            let numbers = std::slice::from_ref(&numbers);
            self.batch.settle(id, numbers, Reason::Purge);
        }
    }

    fn define(&mut self, key: &[u8], value: &impl Serialize) {
        let value = serde_json::to_vec(value).expect("definitions are plain data");
        self.batch.define(key, &value);
    }

    fn policy_key(&self, author: Author, name: &str) -> Vec<u8> {
        let mut key = self.key(POLICY, "");
        let letter = AUTHORS.into_iter().find(|(it, _)| *it == author);
        key.extend(letter.map(|(_, letter)| letter));
        key.extend_from_slice(name.as_bytes());
        key
    }

    fn key(&self, kind: &[u8], name: &str) -> Vec<u8> {
        [kind, self.vhost.as_bytes(), b"\0", name.as_bytes()].concat()
    }

    fn binding_key(&self, binding: &BindingKey<'_>) -> Vec<u8> {
        let mut key = self.key(BINDING, "");
        binding.write(&mut key);
        key
    }
}

fn json<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("names and tables fit into frames");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(part);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?);
    rest.split_off(..usize::try_from(length).ok()?)
}

/// Bytes as hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let digits = digits.map(|digit| char::from(DIGITS[usize::from(digit)]));
        to.serialize_str(&digits.collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let pairs = text.as_bytes().chunks(2).map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = pairs.collect();
        bytes.ok_or_else(|| D::Error::custom("want pairs of hexadecimal digits"))
    }

    fn digit(of: u8) -> Option<u8> {
        char::from(of).to_digit(16).map(|digit| digit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWKWARD: BindingKey<'static> = BindingKey {
        source: "a\0q",
        to_exchange: false,
        destination: "\u{1}\0\0\0",
        key: b"\xff\0#.*",
        arguments: b"\x01k\x05\0\0\0\0",
    };

    fn key_of(binding: &BindingKey<'_>) -> Vec<u8> {
        let mut key = b"b//\0".to_vec();
        binding.write(&mut key);
        key
    }

    #[test]
    fn bindings_are_read_as_they_were_written_whatever_their_names_are() {
        for to_exchange in [false, true] {
            let binding = BindingKey {
                to_exchange,
                ..AWKWARD
            };
            let key = key_of(&binding);
            let read = Definition::read(&key, b"{\"number\":7}");
            let expected = Definition::Binding("/", binding, BindingDefinition { number: 7 });
            assert_eq!(read, Some(expected));
            for cut in 4..key.len() {
                assert_eq!(Definition::read(&key[..cut], b"{\"number\":7}"), None);
            }
        }
    }

    #[test]
    fn queues_are_read_as_they_were_written_and_checked_against_their_keys() {
        let queue = QueueDefinition {
            id: 7,
            vhost: "/".into(),
            name: "q".into(),
            auto_delete: true,
            arguments: vec![0, 0xab, 0xff],
            level: Level::Written,
            protected: false,
            priority_max: None,
            paused: true,
        };
        let value = serde_json::to_vec(&queue).unwrap();
        let text = String::from_utf8(value.clone()).unwrap();
        assert!(
            text.contains("\"00abff\"") && text.contains("\"written\""),
            "{text}"
        );
        let read = |key: &[u8], value: &[u8]| Definition::read(key, value).is_some();
        assert_eq!(
            Definition::read(b"q//\0q", &value),
            Some(Definition::Queue(queue))
        );
        assert!(!read(b"q//\0other", &value), "the key is another queue's");
        assert!(!read(b"q/v\0q", &value), "the key is another vhost's");
        assert!(!read(b"q//\0q", &value[1..]), "not JSON");
        let odd = text.replace("00abff", "00abf");
        assert!(!read(b"q//\0q", odd.as_bytes()), "half an octet");
        assert!(!read(b"?//\0q", &value) && !read(b"q", &value));
        assert_eq!(
            Definition::read(QUEUE_IDS, b"{\"next\":9}"),
            Some(Definition::QueueIds(QueueIds { next: 9 }))
        );
    }

    #[test]
    fn vhosts_of_before_they_had_more_than_a_name_are_read() {
        let read = |value: &[u8]| Definition::read(b"v/a/b", value);
        let named = Definition::Vhost(VhostDefinition::named("a/b"));
        assert_eq!(read(br#"{"name":"a/b"}"#), Some(named));
        assert_eq!(read(br#"{"name":"a"}"#), None, "the key is another's");
        let mut limited = VhostDefinition::named("a/b");
        limited.limits.max_queues = Some(-1);
        let value = serde_json::to_vec(&limited).unwrap();
        assert_eq!(read(&value), Some(Definition::Vhost(limited)));
    }
}
