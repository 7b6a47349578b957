//! Messages that readers have for a while: they acknowledge them in time, or the messages go back to their places.
//!
//! A lease is what one call took. It is kept here from when the answer has been written, and ends message by message, or all at
//! once when its time is up. [`Table`] knows no clock; [`Leases`] tells it the time and has a task that waits for the next
//! lease to end. All of this is in memory: whatever was not acknowledged comes again after a restart anyway.
//!
//! Invariant: a message is in one lease, or in its queue, or on its way between the two under the table's lock or in the hands
//! of one caller. So whatever ends a lease, only one of them gets the message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use tokio::sync::Notify;

use crate::engine::Taken;

/// Messages that a client may have at most, so that a reader which acknowledges nothing cannot empty its inbox into memory.
pub const LEASED_MESSAGES_MAX: usize = 65_536;
/// Bytes of such messages at most; one message always passes.
pub const LEASED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Names one message that somebody has for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AckId {
    lease: u64,
    number: u32,
}

impl fmt::Display for AckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.lease, self.number)
    }
}

/// What was given is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no id of an item: ids are what stands under 'ack' there")]
pub struct NoAckId;

impl FromStr for AckId {
    type Err = NoAckId;

    fn from_str(text: &str) -> Result<Self, NoAckId> {
        let (lease, number) = text.split_once('-').ok_or(NoAckId)?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if lease.len() != 16 || !digits(lease) || !digits(number) {
            return Err(NoAckId);
        }
        Ok(Self {
            lease: u64::from_str_radix(lease, 16).map_err(|_| NoAckId)?,
            number: number.parse().map_err(|_| NoAckId)?,
        })
    }
}

impl<'de> Deserialize<'de> for AckId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A lease that is to begin when its messages have been written.
#[derive(Debug, Clone)]
pub struct Lease {
    id: u64,
    client: Arc<str>,
    duration: Duration,
}

impl Lease {
    /// The id of its message number `index`.
    pub fn ack_id(&self, index: usize) -> AckId {
        AckId {
            lease: self.id,
            number: u32::try_from(index).expect("a lease is bounded"),
        }
    }
}

/// What was found of ids that somebody named.
pub(super) struct Found {
    /// The messages, from each lease some, out of it now.
    pub taken: Vec<Taken>,
    /// The ids without a message: acknowledged before, or not in time, or never given to this client.
    pub unknown: Vec<AckId>,
}

/// All leases, on time as it is told.
#[derive(Default)]
struct Table {
    leases: BTreeMap<u64, Held>,
    /// When leases end, ms, and which.
    due: BTreeSet<(u64, u64)>,
    usage: HashMap<Arc<str>, Usage>,
}

struct Held {
    client: Arc<str>,
    ends_ms: u64,
    taken: Taken,
    /// The numbers of the messages that are left, in order.
    numbers: Vec<u32>,
}

/// What a client has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Usage {
    messages: usize,
    bytes: usize,
}

impl Table {
    fn usage(&self, client: &str) -> Usage {
        self.usage.get(client).copied().unwrap_or_default()
    }

    fn begin(&mut self, lease: Lease, taken: Taken, now_ms: u64) {
        let duration_ms = lease.duration.as_millis() as u64;
        let ends_ms = now_ms.saturating_add(duration_ms);
        let usage = self.usage.entry(Arc::clone(&lease.client)).or_default();
        usage.messages += taken.len();
        usage.bytes += taken.bytes();
        self.due.insert((ends_ms, lease.id));
        let numbers = (0..taken.len() as u32).collect();
        let held = Held {
            client: lease.client,
            ends_ms,
            taken,
            numbers,
        };
        let before = self.leases.insert(lease.id, held);
        debug_assert!(before.is_none(), "ids are used once");
    }

    /// Takes the messages with these ids out of the leases of `client`.
    fn take_out(&mut self, client: &str, mut ids: Vec<AckId>) -> Found {
        ids.sort_unstable();
        ids.dedup();
        let (mut taken, mut unknown) = (Vec::new(), Vec::new());
        for of_one in ids.chunk_by(|a, b| a.lease == b.lease) {
            let held = self.leases.get_mut(&of_one[0].lease);
            let Some(held) = held.filter(|held| *held.client == *client) else {
                unknown.extend_from_slice(of_one);
                continue;
            };
            let there = |id: &&AckId| held.numbers.binary_search(&id.number).is_ok();
            let (found, missing): (Vec<&AckId>, Vec<&AckId>) = of_one.iter().partition(there);
            unknown.extend(missing);
            if found.is_empty() {
                continue;
            }
            let named = |number: u32| found.binary_search_by_key(&number, |id| id.number).is_ok();
            let numbers = std::mem::take(&mut held.numbers);
            let part = held.taken.split(|index| named(numbers[index]));
            held.numbers = numbers.into_iter().filter(|it| !named(*it)).collect();
            let is_over = held.numbers.is_empty();
            self.left(client, &part);
            taken.push(part);
            if is_over {
                self.end(of_one[0].lease);
            }
        }
        Found { taken, unknown }
    }

    /// Ends the leases whose time is up; the messages go back where they are dropped.
    fn expire(&mut self, now_ms: u64) -> Vec<Taken> {
        let mut over = Vec::new();
        while let Some((ends_ms, id)) = self.due.first().copied()
            && ends_ms <= now_ms
        {
            over.extend(self.end(id));
        }
        over
    }

    /// Ends all leases of a client.
    fn forget(&mut self, client: &str) -> Vec<Taken> {
        let leases = self.leases.iter();
        let of_client = leases.filter(|(_, held)| *held.client == *client);
        let ids: Vec<u64> = of_client.map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.end(id)).collect()
    }

    fn end(&mut self, id: u64) -> Option<Taken> {
        let held = self.leases.remove(&id)?;
        self.due.remove(&(held.ends_ms, id));
        self.left(&held.client, &held.taken);
        Some(held.taken)
    }

    /// `taken` is no longer the client's.
    fn left(&mut self, client: &str, taken: &Taken) {
        let Some(usage) = self.usage.get_mut(client) else {
            return;
        };
        usage.messages -= taken.len();
        usage.bytes -= taken.bytes();
        if *usage == Usage::default() {
            self.usage.remove(client);
        }
    }
}

/// The leases of all clients, and the clock.
pub(super) struct Leases {
    table: Mutex<Table>,
    /// Time is counted from here.
    origin: Instant,
    /// Wakes the task: there is a lease that ends first, or nobody has leases any more.
    changed: Arc<Notify>,
    next: Mutex<u64>,
}

impl Leases {
    /// No leases; a task on `arbiter` ends them in time.
    pub fn start(arbiter: &ArbiterHandle) -> Arc<Self> {
        let random = uuid::Uuid::new_v4().as_u64_pair();
        let leases = Arc::new(Self {
            table: Mutex::default(),
            origin: Instant::now(),
            changed: Arc::default(),
            // Ids of another run of the server are nobody's in this one.
            next: Mutex::new(random.0 ^ random.1),
        });
        let changed = Arc::clone(&leases.changed);
        let watch = watch(Arc::downgrade(&leases), changed);
        // At the end of the process there may be no thread any more, and nobody who waits for messages.
        let _ = arbiter.spawn(watch);
        leases
    }

    /// A lease for messages that are about to be handed out, and how many messages and bytes there is room for; `None` if the client has
    /// to acknowledge some first.
    pub fn prepare(&self, client: &str, duration: Duration) -> Option<(Lease, usize, usize)> {
        let usage = self.table.lock().usage(client);
        let messages = LEASED_MESSAGES_MAX.saturating_sub(usage.messages);
        let bytes = LEASED_BYTES_MAX.saturating_sub(usage.bytes);
        if messages == 0 || bytes == 0 {
            return None;
        }
        let mut next = self.next.lock();
        *next = next.wrapping_add(1);
        let lease = Lease {
            id: *next,
            client: client.into(),
            duration,
        };
        Some((lease, messages, bytes))
    }

    /// The time of `lease` begins.
    pub fn begin(&self, lease: Lease, taken: Taken) {
        if taken.is_empty() {
            return;
        }
        let id = lease.id;
        let mut table = self.table.lock();
        table.begin(lease, taken, self.now_ms());
        let is_first = table.due.first().is_some_and(|(_, first)| *first == id);
        drop(table);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Takes messages out of the leases of `client`.
    pub fn take_out(&self, client: &str, ids: Vec<AckId>) -> Found {
        self.table.lock().take_out(client, ids)
    }

    /// Ends all leases of a client that is gone.
    pub fn forget(&self, client: &str) {
        let over = self.table.lock().forget(client);
        // Under no lock of ours: they go back to queues, which may have others waiting.
        drop(over);
    }

    /// How many messages are out.
    pub fn messages(&self) -> usize {
        let table = self.table.lock();
        table.usage.values().map(|usage| usage.messages).sum()
    }

    /// Ends leases that are over; says how long until the next one is.
    fn sweep(&self) -> Option<Duration> {
        let now_ms = self.now_ms();
        let mut table = self.table.lock();
        let over = table.expire(now_ms);
        let next = table.due.first().map(|(ends_ms, _)| ends_ms - now_ms);
        drop(table);
        drop(over);
        next.map(Duration::from_millis)
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Ends leases as long as there is a bus.
async fn watch(leases: Weak<Leases>, changed: Arc<Notify>) {
    while let Some(next) = leases.upgrade().map(|leases| leases.sweep()) {
        match next {
            // Rounded up: a lease does not end early.
            Some(left) => {
                let left = left + Duration::from_millis(1);
                let _ = tokio::time::timeout(left, changed.notified()).await;
            }
            None => changed.notified().await,
        }
    }
}

#[cfg(test)]
mod tests;
