//! Exchanges that pick one of their bindings for each message: consistent hash, modulus hash, random.
//!
//! Consistent hashing is weighted rendezvous hashing: every destination draws a number from the message's hash and its
//! own name, its weight makes it likelier to win, and the highest number does. So a destination that comes takes its share
//! evenly from the others, one that goes leaves its own evenly to them, and nothing else moves; and there is no state:
//! the answer is the same after a restart. It costs a logarithm a destination, once for each key that publishers keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use backbone_wire::properties::Properties;
use backbone_wire::table::{Table, Value};

use super::arguments::Term;
use super::bindings::{Binding, Target};
use super::exchange::ExchangeKind;
use crate::error::Error;

const HASH_HEADER: &str = "hash-header";
const HASH_PROPERTY: &str = "hash-property";

/// A message, as far as routing looks at it.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) key: &'a [u8],
    /// More of them, from `CC` and `BCC`.
    pub(super) further: &'a [&'a [u8]],
    pub(super) headers: Option<Table<'a>>,
    /// The rest of its properties, where they are known.
    pub(super) properties: Option<Properties<'a>>,
    /// It has waited for its time already.
    pub(super) waited: bool,
}

impl<'a> Message<'a> {
    /// One with a key and headers alone.
    #[inline]
    pub(super) fn of(key: &'a [u8], headers: Option<Table<'a>>) -> Self {
        Self {
            key,
            further: &[],
            headers,
            properties: None,
            waited: false,
        }
    }

    /// All of its keys, its own first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        std::iter::once(self.key).chain(self.further.iter().copied())
    }
}

/// How one destination is picked.
#[derive(Debug)]
pub(super) enum Pick {
    Consistent(HashBy, Vec<Candidate>),
    /// The destination of each binding.
    Modulus(Vec<u32>),
    /// The destination of each binding, and what the next random number is made of.
    Random(Vec<u32>, AtomicU64),
}

/// What of a message a consistent-hash exchange hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum HashBy {
    #[default]
    RoutingKey,
    Header(Box<[u8]>),
    CorrelationId,
    MessageId,
    Timestamp,
}

/// A destination of a consistent-hash exchange.
#[derive(Debug)]
pub(super) struct Candidate {
    destination: u32,
    /// The hash of its name.
    seed: u64,
    /// The sum of its bindings' keys.
    weight: f64,
}

impl Pick {
    /// Compiles bindings, which come in their order, each with the number of its destination.
    pub(super) fn new(
        kind: ExchangeKind,
        hash_by: HashBy,
        bindings: impl Iterator<Item = (Arc<Binding>, u32)>,
    ) -> Self {
        let destinations = |bindings: &mut dyn Iterator<Item = (Arc<Binding>, u32)>| {
            bindings.map(|(_, destination)| destination).collect()
        };
        let mut bindings = bindings;
        match kind {
            ExchangeKind::ModulusHash => Self::Modulus(destinations(&mut bindings)),
            ExchangeKind::Random => {
                let seed = RandomState::new().hash_one(0);
                Self::Random(destinations(&mut bindings), AtomicU64::new(seed))
            }
            _ => Self::Consistent(hash_by, candidates(bindings)),
        }
    }

    /// Whether the answer depends on more than the routing key.
    pub(super) fn depends_on_more(&self) -> bool {
        match self {
            Self::Modulus(_) => false,
            Self::Random(..) => true,
            Self::Consistent(by, _) => *by != HashBy::RoutingKey,
        }
    }

    /// The destination of a message; `None` when there is none at all.
    pub(super) fn of(&self, message: &Message<'_>) -> Option<u32> {
        match self {
            Self::Modulus(all) => nth(all, hash(message.key)),
            Self::Random(all, state) => {
                let step = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
                nth(all, mix(step))
            }
            Self::Consistent(by, candidates) => {
                let hash = by.hash(message);
                let drawn = candidates.iter().map(|it| (it.draw(hash), it.destination));
                let highest = drawn.max_by(|a, b| a.0.total_cmp(&b.0));
                highest.map(|(_, destination)| destination)
            }
        }
    }
}

fn nth(all: &[u32], number: u64) -> Option<u32> {
    let at = number.checked_rem(all.len() as u64)?;
    all.get(at as usize).copied()
}

fn candidates(bindings: impl Iterator<Item = (Arc<Binding>, u32)>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for (binding, destination) in bindings {
        let weight = weight(&binding.key).unwrap_or(0.0);
        // Destinations are numbered in the order of their first bindings.
        match candidates.get_mut(destination as usize) {
            Some(known) => known.weight += weight,
            None => candidates.push(Candidate {
                destination,
                seed: match &binding.target {
                    Target::Queue(name) => hash(name.as_bytes()),
                    Target::Exchange(name) => !hash(name.as_bytes()),
                },
                weight,
            }),
        }
    }
    candidates
}

impl Candidate {
    /// Its number for a message of this hash.
    fn draw(&self, hash: u64) -> f64 {
        // Evenly between 0 and 1, neither of them.
        let even = ((mix(hash ^ self.seed) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        -self.weight / even.ln()
    }
}

impl HashBy {
    /// What the arguments of an exchange ask for.
    pub(super) fn of(arguments: Table<'_>) -> Self {
        let text = |name| match arguments.get(name) {
            Some(Value::LongStr(text)) => Some(text),
            _ => None,
        };
        match (text(HASH_HEADER), text(HASH_PROPERTY)) {
            (Some(header), _) => Self::Header(header.into()),
            (None, Some(property)) => Self::property(property).unwrap_or_default(),
            (None, None) => Self::RoutingKey,
        }
    }

    fn property(name: &[u8]) -> Option<Self> {
        match name {
            b"correlation_id" => Some(Self::CorrelationId),
            b"message_id" => Some(Self::MessageId),
            b"timestamp" => Some(Self::Timestamp),
            _ => None,
        }
    }

    /// Checks the arguments of a new consistent-hash exchange.
    ///
    /// # Errors
    /// 406 `hash-header and hash-property are mutually exclusive`, `Unsupported property: foo`.
    pub(super) fn check(arguments: Table<'_>) -> Result<(), Error> {
        match (arguments.get(HASH_HEADER), arguments.get(HASH_PROPERTY)) {
            (Some(_), Some(_)) => Err(Error::precondition_failed(
                "hash-header and hash-property are mutually exclusive",
            )),
            (Some(Value::LongStr(_)), None) | (None, None) => Ok(()),
            (Some(other), None) => Err(Error::precondition_failed(format!(
                "Unsupported header: {}",
                Term(&other)
            ))),
            (None, Some(Value::LongStr(name))) if Self::property(name).is_some() => Ok(()),
            (None, Some(Value::LongStr(name))) => Err(Error::precondition_failed(format!(
                "Unsupported property: {}",
                String::from_utf8_lossy(name)
            ))),
            (None, Some(other)) => Err(Error::precondition_failed(format!(
                "Unsupported property: {}",
                Term(&other)
            ))),
        }
    }

    /// The hash of what it stands for; all messages without that have the same.
    fn hash(&self, message: &Message<'_>) -> u64 {
        let properties = message.properties;
        match self {
            Self::RoutingKey => hash(message.key),
            Self::Header(name) => {
                let mut entries = message.headers.into_iter().flat_map(|t| t.raw_entries());
                let found = entries.find(|entry| *entry.name == **name);
                found.map_or(0, |entry| hash(entry.value) ^ u64::from(entry.tag))
            }
            Self::CorrelationId => {
                let id = properties.and_then(|it| it.correlation_id());
                id.map_or(0, |id| hash(id.as_bytes()))
            }
            Self::MessageId => {
                let id = properties.and_then(|it| it.message_id());
                id.map_or(0, |id| hash(id.as_bytes()))
            }
            Self::Timestamp => {
                let time = properties.and_then(|it| it.timestamp());
                time.map_or(0, |time| hash(&time.to_be_bytes()))
            }
        }
    }
}

/// Checks the key of a new binding of a consistent-hash exchange: its weight.
///
/// # Errors
/// 406 `The binding key must be an integer: <<"abc">>`, `The binding key must be greater than 0`.
pub(super) fn check_weight(key: &[u8]) -> Result<(), Error> {
    match weight(key) {
        Some(weight) if weight > 0.0 => Ok(()),
        Some(_) => Err(Error::precondition_failed(
            "The binding key must be greater than 0",
        )),
        None => Err(Error::precondition_failed(format!(
            "The binding key must be an integer: {}",
            Term(&Value::LongStr(key))
        ))),
    }
}

/// A decimal integer of any length, as Erlang reads one.
fn weight(key: &[u8]) -> Option<f64> {
    let (sign, digits) = match key {
        [b'-', digits @ ..] => (-1.0, digits),
        [b'+', digits @ ..] => (1.0, digits),
        digits => (1.0, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0.0, |sum, digit| sum * 10.0 + f64::from(digit - b'0'));
    Some(sign * number.min(f64::MAX / 1e6))
}

/// The same in each process: FNV-1a, mixed.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01B3);
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// Spreads a number evenly over all 64 bits (the end of SplitMix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consistent(weights: &[(&str, &str)]) -> Pick {
        let bindings = weights.iter().zip(0..).map(|((name, key), number)| {
            let target = Target::Queue((*name).into());
            (
                Arc::new(Binding::new(target, key.as_bytes(), Table::EMPTY)),
                number,
            )
        });
        Pick::new(ExchangeKind::ConsistentHash, HashBy::RoutingKey, bindings)
    }

    /// Where 10,000 keys go, as the names of destinations.
    fn spread<'n>(weights: &[(&'n str, &str)]) -> Vec<&'n str> {
        let pick = consistent(weights);
        let of = |n: u32| {
            let key = format!("key-{n}");
            let message = Message::of(key.as_bytes(), None);
            weights[pick.of(&message).unwrap() as usize].0
        };
        (0..10_000).map(of).collect()
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let spread = spread(&[("a", "1"), ("b", "2"), ("c", "+1"), ("d", "04")]);
        let count = |name| spread.iter().filter(|it| **it == name).count();
        for (name, eighths) in [("a", 1), ("b", 2), ("c", 1), ("d", 4)] {
            let expected = 10_000 * eighths / 8;
            let off = count(name).abs_diff(expected);
            assert!(off < expected / 10, "{name}: {} of {expected}", count(name));
        }
    }

    #[test]
    fn only_what_has_to_moves_when_a_destination_comes_or_goes() {
        let three = spread(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let four = spread(&[("a", "1"), ("d", "1"), ("b", "1"), ("c", "1")]);
        for (before, after) in three.iter().zip(&four) {
            assert!(before == after || *after == "d");
        }
        let moved = four.iter().filter(|it| **it == "d").count();
        assert!((2_250..2_750).contains(&moved), "{moved} of 2,500");
        // From all of them alike.
        let from_a = three
            .iter()
            .zip(&four)
            .filter(|(b, a)| **b == "a" && **a == "d");
        assert!((700..970).contains(&from_a.count()));
    }

    #[test]
    fn weights_are_integers_above_zero() {
        for key in ["1", "+1", "01", "99999999999999999999999999"] {
            assert!(check_weight(key.as_bytes()).is_ok(), "{key}");
        }
        let text = |key: &str| check_weight(key.as_bytes()).unwrap_err().text;
        for key in ["0", "-1", "-0"] {
            assert_eq!(text(key), "The binding key must be greater than 0");
        }
        for key in ["abc", " 1", "1 ", "1.5", "", "+", "-"] {
            assert!(
                text(key).starts_with("The binding key must be an integer: <<"),
                "{key}"
            );
        }
        assert_eq!(
            text("abc"),
            "The binding key must be an integer: <<\"abc\">>"
        );
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        let message = Message::of(b"k", None);
        for kind in [
            ExchangeKind::ConsistentHash,
            ExchangeKind::ModulusHash,
            ExchangeKind::Random,
        ] {
            let pick = Pick::new(kind, HashBy::RoutingKey, std::iter::empty());
            assert_eq!(pick.of(&message), None);
        }
    }
}
