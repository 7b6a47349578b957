//! Messages that came before: queues and exchanges with the argument `x-message-deduplication` drop what has a key that they
//! remember.
//!
//! The key is the value of a header ([`Dedup::key`]); a message without it passes. A key is remembered from the message that was
//! taken with it on, for `x-cache-ttl` or the message's own `x-cache-ttl`, in ms, and while it is among the last `x-cache-size`.
//! A repeat does not prolong it, nor does it end when the message is acknowledged.
//!
//! A queue looks when messages are pushed ([`crate::publisher::push`]): what the log has of a repeat is settled at once, and the
//! publisher's promise is that of its own record, behind the first one's. An exchange looks when a message is published to it
//! (`publisher/once.rs`), before it is routed. Either holds [`Dedup::lock`] until the message is where it belongs, so that of two at
//! the same time one is the first; what is refused leaves no key behind.
//!
//! Lock order: an exchange's keys, a queue's keys, then queues.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::AHashMap;
use backbone_wire::properties::Properties;
use backbone_wire::table::{Table, Value};
use parking_lot::{Mutex, MutexGuard};

use crate::durable::Promise;
use crate::queue::Queue;
use crate::record::{HEADER_FIXED_LEN, Record};
use crate::vhost::Vhost;

/// The argument that asks for it.
pub(crate) const ENABLED: &str = "x-message-deduplication";
/// How many keys are remembered.
pub(crate) const SIZE: &str = "x-cache-size";
/// For how long, in ms; a header of a message, too.
pub(crate) const TTL: &str = "x-cache-ttl";
/// The name of the header that has the key.
pub(crate) const HEADER: &str = "x-deduplication-header";

/// All of these arguments, in the order in which a redeclare tells of them.
pub(crate) const ALL: [&str; 4] = [ENABLED, SIZE, TTL, HEADER];

/// The header of those that do not name one.
const HEADER_DEFAULT: &str = "x-deduplication-header";
/// Keys that are remembered by who does not say it, as by LavinMQ.
const SIZE_DEFAULT: u64 = 128;
/// Memory that the keys of one queue or exchange take, bytes: beyond it the oldest go, whatever number is asked for.
pub(crate) const KEYS_BYTES_MAX: usize = 32 << 20;
/// Messages that are looked through at once at a start.
const LOOK_MAX: usize = 4096;
/// What a key takes besides its bytes.
const OVERHEAD_BYTES: usize = 112;

/// What a queue or an exchange remembers.
pub(crate) struct Dedup {
    header: Box<[u8]>,
    ttl_ms: Option<u64>,
    size_max: usize,
    seen: Mutex<Seen>,
    repeats: AtomicU64,
}

/// The key of a message, and for how long it is to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    bytes: Vec<u8>,
    ttl_ms: Option<u64>,
}

/// The keys, under their lock.
#[derive(Default)]
pub(crate) struct Seen {
    keys: AHashMap<Arc<[u8]>, Since>,
    /// The oldest first. Those whose number is not that of the key any more count for nothing.
    order: VecDeque<(Arc<[u8]>, u64)>,
    size_max: usize,
    /// What `keys` take.
    bytes: usize,
    next: u64,
    /// Of an exchange: that all messages that it remembers are as safe as their queues want them.
    promise: Promise,
}

#[derive(Clone, Copy)]
struct Since {
    number: u64,
    until_ms: u64,
}

/// What is remembered, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deduplication {
    /// Messages that were dropped since start.
    pub repeats: u64,
    /// Keys.
    pub keys: u64,
    /// What they take in memory.
    pub bytes: u64,
}

impl Dedup {
    /// What these arguments, which were checked, ask for, if they do.
    pub fn of(arguments: Table<'_>) -> Option<Self> {
        let enabled = arguments.get(ENABLED).and_then(|value| value.as_bool());
        (enabled == Some(true)).then(|| Self::with(arguments))
    }

    /// The same, whether they ask for it or not.
    pub fn with(arguments: Table<'_>) -> Self {
        let number = |name| u64::try_from(arguments.get(name)?.as_i64()?).ok();
        let header = match arguments.get(HEADER) {
            Some(Value::LongStr(name)) => name,
            _ => HEADER_DEFAULT.as_bytes(),
        };
        let size = number(SIZE).unwrap_or(SIZE_DEFAULT).max(1);
        let size_max = usize::try_from(size).unwrap_or(usize::MAX);
        Self {
            header: header.into(),
            ttl_ms: number(TTL),
            size_max,
            seen: Mutex::new(Seen {
                size_max,
                ..Seen::default()
            }),
            repeats: AtomicU64::new(0),
        }
    }

    /// The key of a message with this content header, which was checked.
    pub fn key(&self, header: &[u8]) -> Option<Key> {
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let headers = properties.headers()?;
        let name = std::str::from_utf8(&self.header).ok()?;
        let mut bytes = Vec::new();
        write_key(&headers.get(name)?, &mut bytes)?;
        let own = headers.get(TTL).and_then(|value| value.as_i64());
        let own = own.and_then(|ms| u64::try_from(ms).ok());
        Some(Key {
            bytes,
            ttl_ms: own.or(self.ttl_ms),
        })
    }

    /// The keys. Who holds them takes a message or drops it.
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }

    /// Counts messages that were dropped.
    pub fn count(&self, repeats: u64) {
        self.repeats.fetch_add(repeats, Ordering::Relaxed);
    }

    /// Forgets all keys.
    pub fn forget(&self) {
        let mut seen = self.seen.lock();
        *seen = Seen {
            size_max: self.size_max,
            ..Seen::default()
        };
    }

    /// Numbers about it.
    pub fn stats(&self) -> Deduplication {
        let seen = self.seen.lock();
        Deduplication {
            repeats: self.repeats.load(Ordering::Relaxed),
            keys: seen.keys.len() as u64,
            bytes: seen.bytes as u64,
        }
    }
}

impl Deduplication {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            repeats: self.repeats + other.repeats,
            keys: self.keys + other.keys,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Vhost {
    /// What queues and exchanges that drop repeats remember.
    pub fn deduplication(&self) -> Deduplication {
        let queues = self.topology().queues();
        let of_queues = queues.iter().filter_map(|queue| queue.deduplication());
        let exchanges = self.topology().dedups();
        let all = of_queues.chain(exchanges.iter().map(|dedup| dedup.stats()));
        all.fold(Deduplication::default(), Deduplication::and)
    }

    /// Remembers the keys of the last messages among `numbers` that the log has for `queue`, as if they came now: before
    /// anybody uses it. What cannot be read is not remembered.
    pub(crate) fn restore_keys(&self, queue: &Queue, numbers: Range<u64>) {
        let (Some(dedup), Some(pager)) = (queue.dedup(), self.pager()) else {
            return;
        };
        let mut seen = dedup.lock();
        let first = numbers.end.saturating_sub(dedup.size_max as u64);
        let mut from = numbers.start.max(first);
        while from < numbers.end {
            let note = |_, record: &[u8]| {
                if let Some(key) = dedup.key(Record::read(record, 0).header) {
                    seen.note(key, self.now_ms());
                }
            };
            match pager.read_on(queue, from..numbers.end, LOOK_MAX, note) {
                Ok(until) => from = until,
                Err(_) => return,
            }
        }
    }

    /// The same of one exchange; `None`: it does not drop any.
    pub fn deduplication_of(&self, exchange: &str) -> Option<Deduplication> {
        let dedup = self.topology().dedup(exchange.as_bytes())?;
        Some(dedup.stats())
    }
}

impl std::fmt::Debug for Dedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dedup")
            .field("stats", &self.stats())
            .finish()
    }
}

impl Seen {
    /// Whether a message with this key came before, by what is remembered at `now_ms`.
    pub fn knows(&self, key: &Key, now_ms: u64) -> bool {
        let since = self.keys.get(&*key.bytes);
        since.is_some_and(|since| since.until_ms > now_ms)
    }

    /// Remembers a key that is not known at `now_ms`, or not any more.
    pub fn note(&mut self, key: Key, now_ms: u64) {
        let until_ms = key.ttl_ms.map_or(u64::MAX, |ms| now_ms.saturating_add(ms));
        if until_ms <= now_ms {
            return;
        }
        let (bytes, number): (Arc<[u8]>, u64) = (key.bytes.into(), self.next);
        self.next += 1;
        self.forget_key(&bytes);
        let size = bytes.len() + OVERHEAD_BYTES;
        while self.keys.len() >= self.size_max || self.bytes + size > KEYS_BYTES_MAX {
            if !self.forget_oldest() {
                break;
            }
        }
        self.bytes += size;
        self.order.push_back((Arc::clone(&bytes), number));
        self.keys.insert(bytes, Since { number, until_ms });
        if self.order.len() > 2 * self.keys.len().max(64) {
            let keys = &self.keys;
            let counts = |(key, number): &(Arc<[u8]>, u64)| {
                keys.get(key).is_some_and(|since| since.number == *number)
            };
            self.order.retain(counts);
        }
    }

    /// That what is remembered is as safe as it has to be.
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// The last message is as safe as it has to be when this is kept.
    pub fn promised(&mut self, promise: Promise) {
        self.promise = self.promise.and(promise);
    }

    fn forget_key(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.bytes -= key.len() + OVERHEAD_BYTES;
        }
    }

    /// False: there is none.
    fn forget_oldest(&mut self) -> bool {
        while let Some((key, number)) = self.order.pop_front() {
            if self.keys.get(&key).is_some_and(|it| it.number == number) {
                self.forget_key(&key);
                return true;
            }
        }
        false
    }
}

/// A value as a key: equal if the values are, whatever the width of an integer or a float, and whether bytes are text. `None`:
/// there is none.
fn write_key(value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    if let Some(number) = value.as_i64() {
        out.push(b'l');
        out.extend_from_slice(&number.to_be_bytes());
        return Some(());
    }
    let (tag, bytes) = match *value {
        Value::Void => return None,
        Value::LongStr(bytes) | Value::Bytes(bytes) => (b'S', bytes),
        Value::Array(array) => (b'A', array.as_bytes()),
        Value::Table(table) => (b'F', table.as_bytes()),
        Value::F32(number) => return write_float(number.into(), out),
        Value::F64(number) => return write_float(number, out),
        Value::Bool(is) => (b't', if is { &b"1"[..] } else { b"0" }),
        Value::Timestamp(seconds) => {
            out.push(b'T');
            out.extend_from_slice(&seconds.to_be_bytes());
            return Some(());
        }
        Value::Decimal { scale, value } => {
            out.extend_from_slice(&[b'D', scale]);
            out.extend_from_slice(&value.to_be_bytes());
            return Some(());
        }
        // Integers are done.
        _ => return None,
    };
    out.push(tag);
    out.extend_from_slice(bytes);
    Some(())
}

fn write_float(number: f64, out: &mut Vec<u8>) -> Option<()> {
    out.push(b'd');
    out.extend_from_slice(&number.to_bits().to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use backbone_wire::properties::PropertiesBuilder;
    use backbone_wire::table::{ArrayBuf, TableBuf};
    use proptest::prelude::*;

    use super::*;

    fn dedup(arguments: &[(&str, Value<'_>)]) -> Dedup {
        let mut table = TableBuf::new();
        for (name, value) in arguments {
            table.put(name, value);
        }
        Dedup::with(table.as_table())
    }

    fn key_of(dedup: &Dedup, headers: &[(&str, Value<'_>)]) -> Option<Key> {
        let mut table = TableBuf::new();
        for (name, value) in headers {
            table.put(name, value);
        }
        let builder = PropertiesBuilder {
            headers: Some(table.as_table()),
            ..PropertiesBuilder::default()
        };
        let mut header = Vec::new();
        crate::record::write_header(&mut header, 0, &builder.build());
        dedup.key(&header)
    }

    fn key(name: &str, ttl_ms: Option<u64>) -> Key {
        let bytes = name.as_bytes().to_vec();
        Key { bytes, ttl_ms }
    }

    #[test]
    fn values_are_the_same_key_whatever_their_width_and_no_value_is_none() {
        let dedup = dedup(&[]);
        let of = |value| key_of(&dedup, &[(HEADER, value)]);
        let mut array = ArrayBuf::new();
        array.push(&Value::I32(1));
        let different = [
            Value::from("1"),
            Value::I32(1),
            Value::I32(2),
            Value::Bool(true),
            Value::F64(1.0),
            Value::Timestamp(1),
            Value::Decimal { scale: 0, value: 1 },
            Value::Array(array.as_array()),
            Value::Table(Table::EMPTY),
            Value::from(""),
        ];
        for (at, value) in different.iter().enumerate() {
            assert!(of(*value).is_some(), "{value:?}");
            let same = different.iter().filter(|other| of(**other) == of(*value));
            assert_eq!(same.count(), 1, "{at}: {value:?}");
        }
        for same in [Value::I8(1), Value::U8(1), Value::I64(1)] {
            assert_eq!(of(same), of(Value::I32(1)));
        }
        assert_eq!(of(Value::F32(1.0)), of(Value::F64(1.0)));
        assert_eq!(of(Value::Bytes(b"1")), of(Value::from("1")));
        assert_eq!(of(Value::Void), None);
        assert_eq!(key_of(&dedup, &[("other", Value::I32(1))]), None);
        let mut header = Vec::new();
        crate::record::write_header(&mut header, 0, &[0, 0]);
        assert_eq!(dedup.key(&header), None, "no headers at all");
    }

    #[test]
    fn the_header_and_the_time_are_of_choice_and_a_message_has_its_own_time() {
        let dedup = dedup(&[(HEADER, Value::from("id")), (TTL, Value::I32(50))]);
        assert_eq!(key_of(&dedup, &[(HEADER, Value::I32(1))]), None);
        let ttl = |own: Option<Value<'_>>| {
            let own = own.map(|own| (TTL, own));
            let headers = [Some(("id", Value::from("a"))), own];
            let headers: Vec<_> = headers.into_iter().flatten().collect();
            key_of(&dedup, &headers).unwrap().ttl_ms
        };
        assert_eq!(ttl(None), Some(50));
        assert_eq!(ttl(Some(Value::I64(7))), Some(7));
        for bad in [Value::I32(-1), Value::from("7"), Value::Void] {
            assert_eq!(ttl(Some(bad)), Some(50), "{bad:?}");
        }
    }

    #[test]
    fn the_oldest_goes_where_one_is_too_many_by_number_or_by_bytes() {
        let dedup = dedup(&[(SIZE, Value::I64(1 << 40))]);
        let mut seen = dedup.lock();
        let large = |byte: u8| Key {
            bytes: vec![byte; KEYS_BYTES_MAX / 3 - OVERHEAD_BYTES],
            ttl_ms: None,
        };
        (1..=4).for_each(|byte| seen.note(large(byte), 0));
        let known: Vec<bool> = (1..=4).map(|byte| seen.knows(&large(byte), 0)).collect();
        assert_eq!(known, [false, true, true, true]);
        assert!(seen.bytes <= KEYS_BYTES_MAX);
    }

    #[test]
    fn a_key_that_is_forgotten_and_noted_again_and_again_takes_no_more_memory() {
        let dedup = dedup(&[]);
        let mut seen = dedup.lock();
        for now in 0..10_000 {
            seen.note(key("a", Some(1)), now);
            assert!(seen.order.len() <= 2 * 64 + 1);
        }
        assert_eq!((seen.keys.len(), seen.bytes), (1, 1 + OVERHEAD_BYTES));
    }

    /// As simple as can be: the last `size` keys with the times until which they are known, the oldest first.
    #[derive(Default)]
    struct Model {
        size: usize,
        keys: Vec<(String, u64)>,
    }

    impl Model {
        fn see(&mut self, name: &str, ttl_ms: Option<u64>, now: u64) -> bool {
            let at = self.keys.iter().position(|(other, _)| other == name);
            if let Some(at) = at {
                if self.keys[at].1 > now {
                    return false;
                }
                if ttl_ms != Some(0) {
                    self.keys.remove(at);
                }
            }
            if ttl_ms != Some(0) {
                if self.keys.len() >= self.size {
                    self.keys.remove(0);
                }
                let until = ttl_ms.map_or(u64::MAX, |ms| now + ms);
                self.keys.push((name.to_owned(), until));
            }
            true
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]

        #[test]
        fn what_is_remembered_is_what_a_list_remembers(
            size in 1usize..6,
            steps in proptest::collection::vec((0u8..8, proptest::option::of(0u64..20), 0u64..6), 1..200),
        ) {
            let dedup = dedup(&[(SIZE, Value::I64(size as i64))]);
            let mut model = Model { size, ..Model::default() };
            let mut now = 0;
            for (name, ttl_ms, pause) in steps {
                now += pause;
                let name = name.to_string();
                let new = model.see(&name, ttl_ms, now);
                let mut seen = dedup.lock();
                let key = key(&name, ttl_ms);
                prop_assert_eq!(seen.knows(&key, now), !new);
                if new {
                    seen.note(key, now);
                }
                prop_assert_eq!(seen.keys.len(), model.keys.len());
                prop_assert_eq!(seen.bytes, model.keys.len() * (1 + OVERHEAD_BYTES));
            }
        }
    }
}
