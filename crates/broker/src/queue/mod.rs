//! A queue: ready messages in order, and the consumers who take turns at them.
//!
//! Publishers push whole batches under one lock; a consumer's connection fetches up to its
//! credit under one lock. With one consumer the fetch takes from the ready messages; with
//! several, each message is assigned in strict rotation among those with room, under the same
//! lock, and fetched from there. Unsettled messages live with whoever holds them
//! (`session::unacked`); the queue only counts them.
//!
//! Invariants:
//! - Sequence numbers in `ready` grow from front to back.
//! - Every entry owns one live copy in its arena segment, wherever it is. What is in the log alone ([`spill`]) has
//!   no entry.
//! - `unsettled` is the number of entries handed out and neither settled nor returned; entries
//!   that are assigned but not fetched count as ready.
//! - A consumer is in the rotation once or not at all. If it is not armed, its owner will fetch
//!   again without being told.
//!
//! Lock order: a queue with a flow before the queues it feeds; no other two queues together.

pub mod arguments;
mod at_hand;
mod away;
mod consumer;
mod counts;
mod credit;
mod expiry;
mod features;
mod history;
mod levels;
mod outcome;
mod pause;
mod repeats;
mod rules;
mod schedule;
mod settings;
mod shadow;
mod spill;
mod state;
mod take;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use backbone_wire::table::Table;
use parking_lot::{Mutex, MutexGuard};

pub use consumer::{Bell, ConsumerSpec};
pub use credit::SharedCredit;
pub use features::Activity;
pub(crate) use features::{Features, consumer_priority};

use crate::dedup::{Dedup, Deduplication};
use crate::durable::Level;
use crate::flow::Flow;
use crate::record::Entry;
use arguments::QueueType;
use consumer::Consumer;
pub(crate) use counts::{event, write_event};
use levels::Levels;
pub use outcome::{DeleteIf, Fetch, Left, QueueStats, Refused};
use rules::Rules;
pub(crate) use rules::{ALARM_KEY, Admission, Incoming, Lost, read_expiries};
pub(crate) use schedule::Due;
pub use settings::{DeadLetterTo, Overflow, Settings};
pub use spill::{Emptied, Room};
pub(crate) use spill::{Page, Pushed};
pub(crate) use state::State;

/// What the shared credit is made of: `tests/loom` puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering};
}

/// The properties that a queue is declared with, apart from its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueOptions {
    /// Survives a restart.
    pub durable: bool,
    /// Goes when its last consumer goes.
    pub auto_delete: bool,
    /// The connection that alone may use it, and with which it goes.
    pub owner: Option<u64>,
    /// The declare's arguments, a raw field table.
    pub arguments: Vec<u8>,
    /// It belongs to the bus: clients cannot delete it.
    pub protected: bool,
    /// Declares with other properties are answered with ok.
    pub lenient: bool,
    /// How safe persistent messages in it are before they are confirmed.
    pub level: Level,
}

/// Where a consumer stands in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerId {
    slot: u32,
    serial: u64,
}

/// Bells to ring once all locks are released.
#[derive(Default)]
pub struct Wakes(pub(super) Vec<(Arc<dyn Bell>, u64)>);

impl Wakes {
    /// Rings them all, in order; the same bell once for neighbours.
    #[inline]
    pub fn ring(&mut self) {
        if !self.0.is_empty() {
            self.ring_all();
        }
    }

    fn ring_all(&mut self) {
        for run in self.0.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b)) {
            let (bell, key) = &run[0];
            match run.len() {
                1 => bell.ring(*key),
                _ => bell.ring_all(&mut run.iter().map(|(_, key)| *key)),
            }
        }
        self.0.clear();
    }
}

/// A queue. Shared by the connections that publish to it and consume from it.
pub struct Queue {
    name: Arc<str>,
    id: u64,
    options: QueueOptions,
    flow: ArcSwapOption<Flow>,
    /// The opposite of [`Queue::is_idle`]. Written under the lock.
    busy: AtomicBool,
    /// As in the state.
    deleted: AtomicBool,
    /// Messages went to its shadow once. Written under the lock.
    has_shadow: AtomicBool,
    /// Written under the lock.
    published: AtomicU64,
    kind: QueueType,
    /// What it remembers of messages that came, if it drops those that come again. Levels share it.
    dedup: Option<Arc<Dedup>>,
    /// What is special about it: [`rules::rule`]. Written under the lock.
    rules: AtomicU16,
    /// When the timetable will look at it. Written under the lock.
    booked: AtomicU64,
    /// Of a priority queue: where its messages are.
    levels: Option<Arc<Levels>>,
    /// Of a level of one: the queue that clients know.
    front: Weak<Self>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("name", &self.name).finish()
    }
}

impl Queue {
    /// An empty queue. `id` is never used again in this process.
    pub fn new(name: &str, id: u64, options: QueueOptions) -> Self {
        let features = Features::of(&options.arguments);
        Self::declared(&name.into(), id, options, features)
    }

    /// A queue with the settings that its arguments say.
    fn declared(name: &Arc<str>, id: u64, options: QueueOptions, features: Features) -> Self {
        let arguments = Table::assume_checked(&options.arguments);
        let (settings, dedup) = (Settings::of(arguments), Dedup::of(arguments));
        let queue = Self::with(name, id, options, features, settings);
        queue.with_dedup(dedup.map(Arc::new))
    }

    fn with(
        name: &Arc<str>,
        id: u64,
        options: QueueOptions,
        features: Features,
        settings: Settings,
    ) -> Self {
        let kind = QueueType::of(Table::assume_checked(&options.arguments));
        let bits = Rules::bits(&settings, kind);
        let mut state = State {
            rules: (bits != 0).then(|| Box::new(Rules::new(settings))),
            single_active: features.single_active,
            ..State::default()
        };
        state.look_who_is_served();
        Self {
            name: Arc::clone(name),
            id,
            kind,
            dedup: None,
            rules: AtomicU16::new(bits),
            booked: AtomicU64::new(u64::MAX),
            options,
            flow: ArcSwapOption::empty(),
            busy: AtomicBool::new(true),
            deleted: AtomicBool::new(false),
            has_shadow: AtomicBool::new(false),
            published: AtomicU64::new(0),
            levels: None,
            front: Weak::new(),
            state: Mutex::new(state),
        }
    }

    /// The queue's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The queue's identity.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What it was declared with.
    pub fn options(&self) -> &QueueOptions {
        &self.options
    }

    /// The declare's arguments.
    pub fn arguments(&self) -> Table<'_> {
        Table::assume_checked(&self.options.arguments)
    }

    /// How safe persistent messages in it are before they are confirmed.
    pub fn level(&self) -> Level {
        self.options.level
    }

    /// Whether persistent messages in it are logged.
    pub(crate) fn logs(&self) -> bool {
        self.level() != Level::Memory
    }

    /// The flow that moves this queue's messages on, if there is one.
    pub fn flow(&self) -> Option<Arc<Flow>> {
        self.flow.load_full()
    }

    /// Installs or removes the flow that moves this queue's messages on. Route caches must be
    /// told (`Vhost::install_flow` does).
    pub(crate) fn set_flow(&self, flow: Option<Arc<Flow>>) {
        let state = self.state.lock();
        self.flow.store(flow);
        self.note(&state);
    }

    /// Lets the flow's mover consume from here, as one consumer among others; without it the
    /// flow is paused.
    pub fn attach_mover(
        &self,
        spec: ConsumerSpec,
        wakes: &mut Wakes,
    ) -> Result<ConsumerId, Refused> {
        let mut state = self.state.lock();
        if state.deleted {
            return Err(Refused::Deleted);
        }
        assert!(state.mover.is_none(), "a flow has one mover");
        let id = state.add_consumer(Consumer::new(spec));
        state.mover = Some(id);
        state.dispatch(wakes);
        self.after(&mut state, wakes);
        Ok(id)
    }

    /// Whether a flow may pass this queue by: nothing ready, nothing unsettled, neither queue nor flow
    /// paused, and nobody but its mover consumes. Certain under the lock; without it, it was so a
    /// moment ago.
    pub(crate) fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Whether it was deleted: the log has nothing to hear of its messages any more.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Numbers about the queue.
    pub fn stats(&self) -> QueueStats {
        let state = self.state.lock();
        let mut stats = QueueStats {
            ready: state.ready_len(),
            paged_out: state.paged_out(),
            unsettled: state.unsettled,
            consumers: state.consumer_count - u32::from(state.mover.is_some()),
            published: self.published.load(Ordering::Relaxed),
            paused: state.paused,
        };
        self.add_levels(&mut stats);
        stats
    }

    /// Appends `entries` in order. False when the queue is deleted: nothing was taken then, and
    /// the copies stay the caller's.
    pub fn push(&self, entries: &[Entry], wakes: &mut Wakes) -> bool {
        if let Some(lowest) = self.lowest() {
            return lowest.push(entries, wakes);
        }
        self.push_locked(&mut self.state.lock(), entries, wakes)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn push_locked(
        &self,
        state: &mut State,
        entries: &[Entry],
        wakes: &mut Wakes,
    ) -> bool {
        if state.deleted {
            return false;
        }
        let first = state.next_seq;
        if state.spill.is_some() {
            for entry in entries {
                let seq = state.next_seq;
                state.next_seq += 1;
                state.place(Entry { seq, ..*entry }, Room::ALL);
            }
        } else {
            state.ready.reserve(entries.len());
            let mut bytes = 0;
            for (entry, seq) in entries.iter().zip(first..) {
                bytes += entry.len as usize;
                state.ready.push_back(Entry { seq, ..*entry });
            }
            state.next_seq += entries.len() as u64;
            state.ready_bytes += bytes;
        }
        if self.options.level != Level::Memory {
            state.add_gap(first..state.next_seq);
        }
        self.pushed(state, entries, wakes);
        true
    }

    fn pushed(&self, state: &mut State, entries: &[Entry], wakes: &mut Wakes) {
        let count = entries.len() as u64;
        self.count_published(count);
        if let Some(rules) = &mut state.rules {
            rules.came(entries);
        }
        state.dispatch(wakes);
        self.after(state, wakes);
    }

    /// Under the lock, so that it need not be one step.
    fn count_published(&self, count: u64) {
        let before = self.published.load(Ordering::Relaxed);
        self.published.store(before + count, Ordering::Relaxed);
    }

    /// Has pages brought in by whoever hears `bell`.
    pub(crate) fn set_page_bell(&self, bell: Arc<dyn Bell>) {
        self.state.lock().page_bell = Some(bell);
    }

    /// Adds a consumer, or tells why not. It is armed: its bell rings if messages wait.
    pub fn consume(&self, spec: ConsumerSpec, wakes: &mut Wakes) -> Result<ConsumerId, Refused> {
        let mut state = self.state.lock();
        if state.deleted {
            return Err(Refused::Deleted);
        }
        let alone = state.consumer_count == 0 && !state.single_active;
        if state.exclusive || (spec.exclusive && !alone) {
            return Err(Refused::ExclusiveUse);
        }
        state.exclusive = spec.exclusive;
        let id = state.add_consumer(Consumer::new(spec));
        state.dispatch(wakes);
        self.after(&mut state, wakes);
        Ok(id)
    }

    /// Removes a consumer. What it had assigned and not fetched goes back to its place; what it
    /// holds unsettled stays with its holder. True when it was the last one of an auto-delete queue.
    pub fn cancel(&self, id: ConsumerId, wakes: &mut Wakes) -> bool {
        let mut state = self.state.lock();
        if !state.remove_consumer(id) {
            return false;
        }
        state.dispatch(wakes);
        if state.consumer_count == 0 {
            self.left_unused(&mut state, wakes);
        }
        self.after(&mut state, wakes);
        self.is_unused(&state)
    }

    /// The same for one whose channel ends, and puts back `held`, what it held unsettled, marked as redelivered, before
    /// anybody else gets anything: a consumer that takes over gets these first.
    pub fn leave(&self, id: ConsumerId, held: &[Entry], wakes: &mut Wakes) -> Left {
        let mut state = self.state.lock();
        let there = state.remove_consumer(id);
        state.settled(None, held.len() as u32);
        if !state.deleted {
            state.put_all_back(held);
            state.dispatch(wakes);
            if state.consumer_count == 0 {
                self.left_unused(&mut state, wakes);
            }
            self.after(&mut state, wakes);
        }
        Left {
            unused: there && self.is_unused(&state),
            taken: !state.deleted,
        }
    }

    fn is_unused(&self, state: &State) -> bool {
        self.options.auto_delete && state.consumer_count == 0 && !state.deleted
    }

    /// Hands messages to consumer `id`: appends at most `count_max` entries to `out`, and stops
    /// after the one that reaches `bytes_max`. They count as unsettled unless it is a no-ack one.
    pub fn fetch(
        &self,
        id: ConsumerId,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Fetch {
        let mut state = self.state.lock();
        let before = out.len();
        let end = state.fetch(id, count_max, bytes_max, out, wakes);
        let settles = state.consumer(id).is_some_and(|c| !c.spec.no_ack);
        if settles {
            state.unsettled += (out.len() - before) as u64;
        }
        if let Some(rules) = &mut state.rules {
            rules.went(&out[before..]);
        }
        self.after(&mut state, wakes);
        end
    }

    /// Settles `count` messages that were handed out; `consumer` gets its credit back. Whose
    /// copies they were releases them.
    pub fn settle(&self, consumer: Option<ConsumerId>, count: u32, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.settled(consumer, count);
        state.dispatch(wakes);
        self.after(&mut state, wakes);
    }

    /// Puts back messages that were handed out, in their old places, marked as redelivered. False
    /// when the queue is deleted: the copies stay the caller's.
    pub fn requeue(
        &self,
        consumer: Option<ConsumerId>,
        entries: &[Entry],
        wakes: &mut Wakes,
    ) -> bool {
        let mut state = self.state.lock();
        state.settled(consumer, entries.len() as u32);
        if state.deleted {
            return false;
        }
        state.put_all_back(entries);
        state.dispatch(wakes);
        self.after(&mut state, wakes);
        true
    }

    /// Makes a consumer, who holds `held` messages, share a limit from now on. What it holds
    /// counts, also if its queue is gone and it has not heard of that yet.
    pub fn share_credit(&self, id: ConsumerId, shared: &Arc<SharedCredit>, held: u32) {
        let mut state = self.state.lock();
        shared.force(held);
        if let Some(consumer) = state.consumer(id) {
            shared.force(consumer.assigned.len() as u32);
            consumer.spec.shared = Some(Arc::clone(shared));
        }
    }

    /// Offers what is ready again, after the shared credit of a consumer grew.
    pub fn poke(&self, id: ConsumerId, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.enter_turn(id.slot);
        state.dispatch(wakes);
    }

    /// Takes out all ready messages; their copies are the caller's.
    pub fn purge(&self) -> Emptied {
        let mut state = self.state.lock();
        let purged = state.empty();
        self.note(&state);
        purged
    }

    /// Deletes the queue: nothing can be pushed or fetched after. Returns what was ready,
    /// whose copies are the caller's, and tells the consumers. `None` when it was deleted before.
    pub fn delete(&self, condition: DeleteIf) -> Result<Option<Emptied>, Refused> {
        self.delete_after(condition, || true)
    }

    /// The same, if `first` says so, which is called under the lock when nothing else speaks against it.
    pub(crate) fn delete_after(
        &self,
        condition: DeleteIf,
        first: impl FnOnce() -> bool,
    ) -> Result<Option<Emptied>, Refused> {
        let (emptied, consumers) = {
            let mut state = self.state.lock();
            if state.deleted {
                return Ok(None);
            }
            if condition.unused && state.consumer_count > 0 {
                return Err(Refused::InUse);
            }
            if condition.empty && state.ready_len() > 0 {
                return Err(Refused::NotEmpty);
            }
            if !first() {
                return Err(Refused::Unlogged);
            }
            state.deleted = true;
            self.deleted.store(true, Ordering::Release);
            let consumers: Vec<Consumer> = state.consumers.drain(..).flatten().collect();
            for consumer in &consumers {
                state.unassign(consumer);
            }
            state.consumer_count = 0;
            state.mover = None;
            state.turn.clear();
            state.active = None;
            state.look_who_is_served();
            let emptied = state.empty();
            self.note(&state);
            (emptied, consumers)
        };
        for consumer in consumers {
            consumer.spec.bell.cancelled(consumer.spec.key);
        }
        Ok(Some(emptied))
    }

    /// What is due after a change, under the lock.
    fn after(&self, state: &mut State, wakes: &mut Wakes) {
        if state.spill.is_some() || !state.away.is_empty() {
            state.ask_for_page(wakes);
        }
        if !state.late.0.is_empty() {
            wakes.0.append(&mut state.late.0);
        }
        self.note(state);
    }

    /// Keeps `busy` in step with the state; called under the lock after every change.
    fn note(&self, state: &State) {
        let only_the_mover = state.consumer_count == 1 && state.mover.is_some();
        let empty = only_the_mover && state.ready_len() == 0 && state.unsettled == 0;
        let idle = empty && !state.paused;
        self.busy.store(!idle, Ordering::Release);
    }
}
