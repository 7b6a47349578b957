//! Keys under which calls are made once: the same key of the same client, within a window, is answered as the first time.
//!
//! A call claims its key before it sends. While it is under way others with the key wait for its answer. If it fails, the key is
//! free again. Answers are kept in memory, for a time and within a bound in bytes; beyond the bound the oldest are forgotten. So a
//! restart forgets them all.
//!
//! [`Table`] is told the time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// What an answer costs beside its key and what it says, bytes.
const OVERHEAD_BYTES: usize = 256;

/// What a call is, as far as repeats have to be the same.
pub type Fingerprint = [u8; 32];

/// What a call was answered.
pub type Answer = Arc<str>;

/// KeyBounds of what is kept.
#[derive(Debug, Clone, Copy)]
pub struct KeyBounds {
    /// How long an answer is kept.
    pub window: Duration,
    /// What all answers take together at most, bytes.
    pub bytes_max: usize,
}

/// Says of two calls whether they are the same: of their parts, in their order.
pub fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Whose key it is, and the key.
type Key = (Arc<str>, Arc<str>);

enum State {
    /// The call is under way; whoever waits hears when it is over.
    Claimed(watch::Receiver<()>),
    Answered(Answer),
}

struct Entry {
    /// Tells this call from a later one with the same key.
    number: u64,
    fingerprint: Fingerprint,
    state: State,
}

/// What a key means for a call that comes with it.
enum Look {
    /// The call is the first.
    Claimed(watch::Sender<()>),
    /// The first is under way.
    Wait(watch::Receiver<()>),
    Answered(Answer),
    /// The key was used for another call.
    Other,
}

/// All keys, on time as it is told.
#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// The answered ones, oldest first: until when, ms; the number of the call; its key; its bytes.
    answered: VecDeque<(u64, u64, Key, usize)>,
    bytes: usize,
    next: u64,
}

impl Table {
    fn look(&mut self, key: &Key, fingerprint: &Fingerprint, now_ms: u64) -> Look {
        self.forget(now_ms, usize::MAX);
        if let Some(entry) = self.entries.get(key) {
            if entry.fingerprint != *fingerprint {
                return Look::Other;
            }
            return match &entry.state {
                State::Claimed(over) => Look::Wait(over.clone()),
                State::Answered(answer) => Look::Answered(Arc::clone(answer)),
            };
        }
        let (sender, receiver) = watch::channel(());
        self.next += 1;
        let entry = Entry {
            number: self.next,
            fingerprint: *fingerprint,
            state: State::Claimed(receiver),
        };
        self.entries.insert(key.clone(), entry);
        Look::Claimed(sender)
    }

    fn answer(&mut self, key: &Key, answer: Answer, now_ms: u64, bounds: KeyBounds) {
        let entry = self
            .entries
            .get_mut(key)
            .expect("a claim is kept until it is over");
        let bytes = key.0.len() + key.1.len() + answer.len() + OVERHEAD_BYTES;
        entry.state = State::Answered(answer);
        let until_ms = now_ms.saturating_add(bounds.window.as_millis() as u64);
        let kept = (until_ms, entry.number, key.clone(), bytes);
        self.answered.push_back(kept);
        self.bytes += bytes;
        self.forget(now_ms, bounds.bytes_max);
    }

    fn give_up(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    /// Forgets what is too old, and the oldest beyond `bytes_max`.
    fn forget(&mut self, now_ms: u64, bytes_max: usize) {
        while let Some((until_ms, number, key, bytes)) = self.answered.front()
            && (*until_ms <= now_ms || self.bytes > bytes_max)
        {
            self.bytes -= bytes;
            if self
                .entries
                .get(key)
                .is_some_and(|entry| entry.number == *number)
            {
                self.entries.remove(key);
            }
            self.answered.pop_front();
        }
    }
}

/// The keys of all clients.
pub struct Idempotency {
    table: Mutex<Table>,
    bounds: KeyBounds,
    /// Time is counted from here.
    origin: Instant,
}

/// Why a call with a key is neither made nor answered as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this key was used for another call: a key is for one call and its repeats")]
pub struct OtherCall;

/// What to do with a call.
pub enum Turn<'a> {
    /// Make it, and say what was answered.
    First(Claim<'a>),
    /// It was made; this was the answer.
    Repeat(Answer),
}

/// A call that is under way. Dropped without an answer, its key is free again.
pub struct Claim<'a> {
    keys: &'a Idempotency,
    key: Option<Key>,
    /// Dropped when the call is over.
    _over: watch::Sender<()>,
}

impl Idempotency {
    /// No keys yet.
    pub fn new(bounds: KeyBounds) -> Self {
        Self {
            table: Mutex::default(),
            bounds,
            origin: Instant::now(),
        }
    }

    /// Says whether a call with `key` is to be made; waits while one with the same key is under way.
    ///
    /// # Errors
    /// The key was used for another call.
    pub async fn turn(
        &self,
        client: &str,
        key: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Turn<'_>, OtherCall> {
        let key: Key = (client.into(), key.into());
        loop {
            let looked = self.table.lock().look(&key, fingerprint, self.now_ms());
            match looked {
                Look::Claimed(over) => {
                    return Ok(Turn::First(Claim {
                        keys: self,
                        key: Some(key),
                        _over: over,
                    }));
                }
                Look::Answered(answer) => return Ok(Turn::Repeat(answer)),
                Look::Other => return Err(OtherCall),
                // It ends when the call is over, whatever became of it.
                Look::Wait(mut over) => while over.changed().await.is_ok() {},
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }
}

impl Claim<'_> {
    /// The call was made; repeats get the same answer.
    pub fn answer(mut self, answer: &str) {
        let key = self.key.take().expect("it is there until now");
        let (now_ms, bounds) = (self.keys.now_ms(), self.keys.bounds);
        let mut table = self.keys.table.lock();
        table.answer(&key, answer.into(), now_ms, bounds);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.keys.table.lock().give_up(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: KeyBounds = KeyBounds {
        window: Duration::from_millis(100),
        bytes_max: 4 * (OVERHEAD_BYTES + 12),
    };

    fn key(name: &str) -> Key {
        ("a".into(), name.into())
    }

    fn claim(table: &mut Table, name: &str, now_ms: u64) -> bool {
        matches!(table.look(&key(name), &[0; 32], now_ms), Look::Claimed(..))
    }

    fn answered(table: &mut Table, name: &str, now_ms: u64) -> bool {
        matches!(table.look(&key(name), &[0; 32], now_ms), Look::Answered(_))
    }

    #[test]
    fn an_answer_is_kept_for_a_time_and_then_the_key_is_free() {
        let mut table = Table::default();
        assert!(claim(&mut table, "k", 0));
        assert!(
            matches!(table.look(&key("k"), &[0; 32], 5000), Look::Wait(_)),
            "however long it takes"
        );
        table.answer(&key("k"), "1".into(), 10, BOUNDS);
        assert!(answered(&mut table, "k", 109));
        assert!(matches!(table.look(&key("k"), &[1; 32], 109), Look::Other));
        assert!(claim(&mut table, "k", 110));
        assert!(table.answered.is_empty() && table.bytes == 0);
    }

    #[test]
    fn a_key_whose_call_failed_is_free() {
        let mut table = Table::default();
        assert!(claim(&mut table, "k", 0));
        table.give_up(&key("k"));
        assert!(claim(&mut table, "k", 0));
    }

    #[test]
    fn beyond_the_bound_the_oldest_are_forgotten() {
        let mut table = Table::default();
        for n in 0..6 {
            let name = format!("key-{n}");
            assert!(claim(&mut table, &name, n));
            table.answer(&key(&name), "answer".into(), n, BOUNDS);
            assert!(table.bytes <= BOUNDS.bytes_max && table.answered.len() <= 4);
        }
        assert_eq!((table.entries.len(), table.answered.len()), (4, 4));
        assert!(answered(&mut table, "key-2", 6) && answered(&mut table, "key-5", 6));
        assert!(claim(&mut table, "key-1", 6));
    }

    #[test]
    fn keys_are_their_clients_own_and_fingerprints_know_their_parts() {
        let mut table = Table::default();
        assert!(claim(&mut table, "k", 0));
        let other: Key = ("b".into(), "k".into());
        assert!(matches!(table.look(&other, &[1; 32], 0), Look::Claimed(..)));
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
        assert_eq!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"ab", b"c"]));
    }

    #[actix_web::test]
    async fn repeats_wait_for_the_first_and_one_takes_its_place_if_it_fails() {
        let keys = Idempotency::new(BOUNDS);
        let first = |turn| match turn {
            Ok(Turn::First(claim)) => claim,
            _ => panic!("it is the first"),
        };
        let failing = first(keys.turn("a", "k", &[0; 32]).await);
        let second = async { first(keys.turn("a", "k", &[0; 32]).await).answer("made") };
        let third = async {
            tokio::task::yield_now().await;
            match keys.turn("a", "k", &[0; 32]).await {
                Ok(Turn::Repeat(answer)) => assert_eq!(&*answer, "made"),
                _ => panic!("it is a repeat"),
            }
        };
        let fails = async {
            tokio::task::yield_now().await;
            drop(failing);
        };
        tokio::join!(second, third, fails);
    }
}
