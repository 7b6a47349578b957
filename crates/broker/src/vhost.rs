//! A virtual host: its queues and their rules, its topology, and the arena they store in.
//!
//! Owns the life of queues: created by a declare, gone by a delete, with their connection
//! (exclusive) or with their last consumer (auto-delete). `control` serialises these; publishing
//! and consuming never take it. What of it outlives a restart is in the log before it can be seen ([`crate::definitions`]),
//! and comes back with [`Vhost::restore`].
//!
//! Locks: `control`, then that of the queue that is deleted, then the topology's, then the log's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use ahash::RandomState;
use arc_swap::ArcSwap;
use backbone_log::{Arena, Batch, Reason};
use backbone_wire::table::Table;
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

use crate::bodies::Bodies;
use crate::counters::{Counters, add};
use crate::definitions::{Change, Journal, RETURNS, VhostDefinition};
use crate::durable::{Durable, Level, Promise};
use crate::error::Error;
use crate::firehose::Firehose;
use crate::flow;
use crate::numbers::Numbers;
use crate::pager::Pager;
use crate::policy::Policies;
use crate::publisher::{Dead, add_number};
use crate::queue::{DeleteIf, Emptied, Features, Queue, QueueOptions, Refused, Room, Wakes};
use crate::quota::Quota;
use crate::record::Entry;
use crate::replies::Replies;
use crate::rules::Circle;
use crate::timetable::Timetable;
use crate::topology::{Topology, Unlogged, clean_name};

/// Refuses names that are the broker's own to give.
///
/// # Errors
/// 403 `queue name 'amq.foo' contains reserved prefix 'amq.*'`.
pub(crate) fn check_queue_name(name: &str) -> Result<(), Error> {
    match name.starts_with("amq.") {
        true => Err(Error::access_refused(format!(
            "queue name '{name}' contains reserved prefix 'amq.*'"
        ))),
        false => Ok(()),
    }
}

/// A virtual host.
pub struct Vhost {
    name: Arc<str>,
    node: u64,
    topology: Topology<Arc<Queue>>,
    arena: Arc<Arena>,
    pub(crate) bodies: Arc<Bodies>,
    durable: Option<Arc<Durable>>,
    journal: Option<Arc<Journal>>,
    pager: Option<Arc<Pager>>,
    level: Level,
    /// The node's, as is the arena.
    counters: Arc<Counters>,
    pub(crate) numbers: Arc<Numbers>,
    /// Changed under `control`, as the policies.
    pub(crate) definition: ArcSwap<VhostDefinition>,
    pub(crate) policies: ArcSwap<Policies>,
    pub(crate) control: Mutex<()>,
    /// Nothing may come into it any more. Set under `control`.
    pub(crate) deleted: AtomicBool,
    pub(crate) connections: Arc<Quota>,
    random: RandomState,
    /// Senders that do not get their own messages, with the identities of their inboxes.
    pub(crate) exclude_own: DashMap<Box<[u8]>, u64>,
    pub(crate) timetable: Timetable,
    /// The time that it was told last.
    pub(crate) now_ms: AtomicU64,
    /// Dead letters that the log refused.
    pub(crate) postponed: Mutex<Vec<Dead>>,
    pub(crate) circle: Mutex<Option<Circle>>,
    /// Within how many ms deliveries have to be acknowledged, unless the queue says otherwise; 0: whenever.
    pub(crate) consumer_timeout_ms: u64,
    replies: Replies,
    pub(crate) firehose: Firehose,
    /// Held while somebody is bound who gets what an exchange keeps: see [`crate::history`].
    pub(crate) joins: RwLock<()>,
    /// What all exchanges of the node keep, in bytes.
    pub(crate) history_bytes: Arc<AtomicUsize>,
    /// Exchanges that connections cannot delete, and whether they may declare them otherwise.
    pub(crate) protected_exchanges: DashMap<Box<str>, bool>,
}

/// A `queue.declare`, or what the bus declares for itself.
#[derive(Debug, Clone, Copy)]
pub struct QueueDeclare<'a> {
    /// Name; empty: the server makes one.
    pub name: &'a str,
    /// Only look whether it exists.
    pub passive: bool,
    /// See [`QueueOptions`].
    pub durable: bool,
    /// Only for this connection.
    pub exclusive: bool,
    /// See [`QueueOptions`].
    pub auto_delete: bool,
    /// The arguments.
    pub arguments: Table<'a>,
    /// See [`QueueOptions`].
    pub protected: bool,
    /// See [`QueueOptions`].
    pub lenient: bool,
}

impl Vhost {
    /// A vhost with the exchanges that every vhost has. `node` should differ from start to
    /// start: it goes into the ids of messages.
    pub fn new(name: &str, node: u64, arena: Arc<Arena>) -> Self {
        Self {
            name: name.into(),
            node,
            topology: Topology::new(name),
            arena,
            bodies: Arc::default(),
            durable: None,
            journal: None,
            pager: None,
            level: Level::Memory,
            counters: Arc::default(),
            numbers: Arc::new(Numbers::new()),
            definition: ArcSwap::from_pointee(VhostDefinition::named(name)),
            policies: ArcSwap::default(),
            control: Mutex::new(()),
            deleted: AtomicBool::new(false),
            connections: Arc::default(),
            random: RandomState::new(),
            exclude_own: DashMap::new(),
            timetable: Timetable::default(),
            now_ms: AtomicU64::new(0),
            postponed: Mutex::default(),
            circle: Mutex::default(),
            consumer_timeout_ms: 0,
            replies: Replies::default(),
            firehose: Firehose::default(),
            joins: RwLock::default(),
            history_bytes: Arc::default(),
            protected_exchanges: DashMap::new(),
        }
    }

    /// The same with a durable log: messages of durable queues go there, at `level` unless the queue says otherwise, and
    /// definitions of what is durable. [`Vhost::restore`] brings back what the log has.
    pub fn with_log(self, durable: Arc<Durable>, pager: Arc<Pager>, level: Level) -> Self {
        let journal = Journal::new(Arc::clone(&self.name), Arc::clone(&durable));
        let journal = Arc::new(journal);
        Self {
            durable: Some(durable),
            topology: self.topology.with_journal(Arc::clone(&journal)),
            journal: Some(journal),
            pager: Some(pager),
            level,
            ..self
        }
    }

    /// Another vhost of the same node, which shares all that is not a vhost's own.
    pub(crate) fn beside(&self, name: &str, level: Level) -> Self {
        let mut other = Self::new(name, self.node, Arc::clone(&self.arena));
        other.bodies = Arc::clone(&self.bodies);
        other.counters = Arc::clone(&self.counters);
        other.numbers = Arc::clone(&self.numbers);
        other.history_bytes = Arc::clone(&self.history_bytes);
        other.now_ms = AtomicU64::new(self.now_ms());
        other.timetable = self.timetable.beside();
        other.consumer_timeout_ms = self.consumer_timeout_ms;
        match (&self.durable, &self.pager) {
            (Some(durable), Some(pager)) => {
                other.with_log(Arc::clone(durable), Arc::clone(pager), level)
            }
            _ => other,
        }
    }

    /// The durable log, if there is one.
    pub fn durable(&self) -> Option<&Arc<Durable>> {
        self.durable.as_ref()
    }

    /// Appends a change to the log, if there is one.
    pub(crate) fn change(&self, fill: impl FnOnce(&mut Change<'_>)) -> Result<(), Error> {
        let journal = self.journal.as_ref();
        journal.map_or(Ok(()), |journal| journal.change(fill))
    }

    /// That all changes of durable exchanges, queues and bindings so far are as safe as this vhost's level says. An answer
    /// that tells of such a change, anybody's, has to wait for it.
    pub fn changes_promise(&self) -> Promise {
        let journal = self.journal.as_ref();
        journal.map_or(Promise::KEPT, |journal| journal.promise(self.level))
    }

    /// Where its changes go.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_deref()
    }

    /// Takes note that batch `lsn` has something that its answer has to wait for, as those of definitions are.
    fn note_change(&self, lsn: u64) {
        if let Some(journal) = &self.journal {
            journal.note(lsn);
        }
    }

    /// What brings messages back from the log, if there is one.
    pub fn pager(&self) -> Option<&Arc<Pager>> {
        self.pager.as_ref()
    }

    /// Tells the log what is done with; the number of its batch. If that takes nothing any more, it comes back with the
    /// restart. Call it without any lock.
    pub fn settle(&self, batch: &mut Batch) -> Option<u64> {
        self.durable.as_ref()?.settle_and_write(batch)
    }

    /// Tells the log that `entries` of `queue` are done with, as far as they are there.
    pub fn settle_entries(&self, queue: &Queue, entries: &[Entry], reason: Reason) {
        let mut numbers = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_logged()) {
            add_number(&mut numbers, entry.seq);
        }
        if !numbers.is_empty() && !queue.is_deleted() {
            let mut batch = Batch::new();
            queue.settle_in(&mut batch, &numbers, reason);
            if queue.counts_returns() {
                queue.forget_counts(&numbers, &mut batch);
            }
            self.settle(&mut batch);
        }
    }

    /// When queues want to be looked at.
    pub fn timetable(&self) -> &Timetable {
        &self.timetable
    }

    /// What a queue should keep in memory now.
    pub(crate) fn keep(&self) -> Room {
        self.pager.as_ref().map_or(Room::ALL, |pager| pager.keep())
    }

    /// Has the log forget all messages of a deleted queue. Called once nothing of it is in flight.
    pub(crate) fn forget_messages(&self, queue: &Queue) {
        let Some(durable) = &self.durable else { return };
        if queue.level() != Level::Memory {
            durable.forget(queue.id());
            if queue.counts_returns() {
                durable.forget(queue.id() | RETURNS);
            }
        }
        if queue.has_shadow() {
            durable.forget(queue.shadow());
        }
    }

    /// Takes messages as [`Queue::take`], those too that wait in the log alone; but none whose time is up.
    pub fn take(
        &self,
        queue: &Arc<Queue>,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> u64 {
        self.take_with(queue, Queue::take, (count_max, bytes_max), out)
    }

    /// Takes messages by `take`: [`Queue::take`] or [`Queue::take_even_paused`].
    pub fn take_with(
        &self,
        queue: &Arc<Queue>,
        take: fn(&Queue, usize, usize, &mut Vec<Entry>) -> u64,
        (count_max, bytes_max): (usize, usize),
        out: &mut Vec<Entry>,
    ) -> u64 {
        loop {
            let from = out.len();
            let left = take(queue, count_max, bytes_max, out);
            if queue.may_expire() && out.len() > from && self.bury_expired(queue, out, from) {
                continue;
            }
            let Some(pager) = &self.pager else {
                return left;
            };
            let level = queue.spilled_level();
            let part = level.as_deref().unwrap_or(queue);
            if left == 0 || out.len() >= count_max || !part.is_all_spilled() {
                return left;
            }
            let mut wakes = Wakes::default();
            let paged = pager.page_in(part, &mut wakes);
            wakes.ring();
            // What cannot be read now may be the next time.
            if !paged.unwrap_or(false) {
                return left;
            }
        }
    }

    /// How safe persistent messages of durable queues are before they are confirmed, unless the queue says otherwise.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The vhost's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Exchanges, bindings and routes.
    pub fn topology(&self) -> &Topology<Arc<Queue>> {
        &self.topology
    }

    /// All queues that messages are in: of a priority queue its levels.
    pub fn stores(&self) -> Vec<Arc<Queue>> {
        let queues = self.topology.queues();
        queues.iter().flat_map(|queue| queue.stores()).collect()
    }

    /// Where answers go.
    pub(crate) fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Where the messages are.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// What happened since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Declares a queue for connection `conn` (AMQP 0-9-1 queue.declare).
    pub fn declare_queue(&self, declare: QueueDeclare<'_>, conn: u64) -> Result<Arc<Queue>, Error> {
        let name = clean_name(declare.name);
        let _control = self.control.lock();
        if let Some(queue) = self.topology.queue(&name) {
            self.check_owner(&queue, conn)?;
            if !declare.passive && !queue.options().lenient {
                self.check_equivalent(&queue, &declare)?;
            }
            queue.used(self.now_ms());
            return Ok(queue);
        }
        if declare.passive {
            return Err(Error::no_queue(&name, &self.name));
        }
        check_queue_name(&name)?;
        let name = match name.is_empty() {
            true => self.server_name("amq.gen-").into(),
            false => name,
        };
        self.check_room_for(&name, &declare)?;
        self.make_queue(&name, declare, conn)
    }

    /// Declares a queue that is to have the name `given`, which [`Vhost::server_name`] made.
    ///
    /// # Errors
    /// As [`Vhost::declare_queue`].
    pub(crate) fn declare_nameless_queue(
        &self,
        given: &str,
        declare: QueueDeclare<'_>,
        conn: u64,
    ) -> Result<Arc<Queue>, Error> {
        let _control = self.control.lock();
        self.check_room_for(given, &declare)?;
        self.make_queue(given, declare, conn)
    }

    /// Makes a queue that is not there. Called under `control`.
    pub(crate) fn make_queue(
        &self,
        name: &str,
        declare: QueueDeclare<'_>,
        conn: u64,
    ) -> Result<Arc<Queue>, Error> {
        self.check_not_deleted()?;
        self.check_arguments(name, &declare)?;
        let options = QueueOptions {
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            owner: declare.exclusive.then_some(conn),
            arguments: declare.arguments.as_bytes().to_vec(),
            protected: declare.protected,
            lenient: declare.lenient,
            level: self.level_of(&declare)?,
        };
        let features = Features::of(&options.arguments);
        let count = 1 + u64::from(features.priority_max.unwrap_or(0));
        let id = self.numbers.queue_ids(count, self.journal.as_deref())?;
        let queue = Queue::shared(name, id, options, features, self.pager.as_ref());
        self.wind_up(&queue);
        match self.definition_of(&queue) {
            Some(definition) => {
                let handle = Arc::clone(&queue);
                self.topology.add_durable_queue(&definition, handle)?;
            }
            None => self.topology.add_queue(name, id, Arc::clone(&queue)),
        }
        add(&self.counters.queues_declared, 1);
        Ok(queue)
    }

    /// The queue `name` for an operation of connection `conn`: not found, or locked by another's
    /// exclusive declare, is an error.
    pub fn queue(&self, name: &str, conn: u64) -> Result<Arc<Queue>, Error> {
        let queue = self
            .topology
            .queue(name)
            .ok_or_else(|| Error::no_queue(name, &self.name))?;
        self.check_owner(&queue, conn)?;
        Ok(queue)
    }

    /// Deletes the queue `name`; returns how many ready messages went with it (0 when there is
    /// no such queue).
    pub fn delete_queue(&self, name: &str, conn: u64, condition: DeleteIf) -> Result<u64, Error> {
        let Some(queue) = self.topology.queue(name) else {
            return Ok(0);
        };
        self.check_owner(&queue, conn)?;
        let mut unlogged = None;
        let removed = self.take_out(&queue, condition, |queue| {
            let gone = self.topology.forget_queue(queue.name(), Unlogged::Undo);
            gone.map_err(|error| unlogged = Some(error)).is_ok()
        });
        let why = match removed {
            Ok(count) => return Ok(count),
            Err(Refused::Unlogged) => return Err(unlogged.expect("the log said why")),
            Err(Refused::InUse) => "in use",
            Err(_) => "not empty",
        };
        let vhost = &self.name;
        Err(Error::precondition_failed(format!(
            "queue '{name}' in vhost '{vhost}' {why}"
        )))
    }

    /// Deletes `queue` itself, with its bindings; returns how many ready messages went with it. It goes
    /// also if the log does not take that, and is there again after a restart then.
    pub fn remove_queue(&self, queue: &Queue, condition: DeleteIf) -> Result<u64, Refused> {
        self.take_out(queue, condition, |queue| {
            let gone = self.topology.forget_queue(queue.name(), Unlogged::GoOn);
            gone.is_ok()
        })
    }

    /// Deletes `queue` if it may be and `forget` says so, which is called when nothing can come into it any more.
    fn take_out(
        &self,
        queue: &Queue,
        condition: DeleteIf,
        forget: impl FnOnce(&Queue) -> bool,
    ) -> Result<u64, Refused> {
        let _control = self.control.lock();
        let Some(emptied) = queue.delete_after(condition, || forget(queue))? else {
            return Ok(0);
        };
        self.forget_orphans();
        Ok(self.give_back(queue, &emptied))
    }

    /// After the deletion of `queue`: what it held, all of its parts, is done with. Returns how many ready messages that was.
    pub(crate) fn give_back(&self, queue: &Queue, emptied: &Emptied) -> u64 {
        let mut count = emptied.count;
        match queue.is_ranked() {
            false => self.give_up(queue, emptied),
            true => queue.each_part(|level| {
                let emptied = level.delete(DeleteIf::default());
                let emptied = emptied.expect("an unconditional delete is never refused");
                let emptied = emptied.unwrap_or_default();
                count += emptied.count;
                self.give_up(level, &emptied);
            }),
        }
        add(&self.counters.queues_deleted, 1);
        count
    }

    /// Gives up what a deleted queue, or a part of one, had.
    pub(crate) fn give_up(&self, queue: &Queue, emptied: &Emptied) {
        flow::release(&self.arena, &emptied.entries);
        if !emptied.in_flight {
            self.forget_messages(queue);
        }
    }

    /// Drops the ready messages of a queue, and forgets their keys; returns how many.
    pub fn purge(&self, queue: &Queue) -> u64 {
        let mut count = 0;
        if let Some(dedup) = queue.dedup() {
            dedup.forget();
        }
        queue.each_part(|part| {
            let emptied = part.purge();
            flow::release(&self.arena, &emptied.entries);
            self.settle_purged(part, &emptied);
            count += emptied.count;
        });
        count
    }

    fn settle_purged(&self, queue: &Queue, emptied: &Emptied) {
        let mut numbers = Vec::new();
        for entry in emptied.entries.iter().filter(|entry| entry.is_logged()) {
            add_number(&mut numbers, entry.seq);
        }
        if queue.level() != Level::Memory {
            numbers.extend(emptied.spilled.iter().cloned());
        }
        if queue.has_shadow() {
            let mut batch = Batch::new();
            let gone = 0..emptied.shadow_from;
            batch.settle(queue.shadow(), std::slice::from_ref(&gone), Reason::Purge);
            self.settle(&mut batch);
        }
        if !numbers.is_empty() {
            let mut batch = Batch::new();
            batch.settle(queue.id(), &numbers, Reason::Purge);
            if queue.counts_returns() {
                queue.forget_counts_of(emptied, &mut batch);
            }
            batch.hurry();
            let durable = self.durable.as_ref();
            if let Some(lsn) = durable.and_then(|durable| durable.settle(&mut batch)) {
                self.note_change(lsn);
            }
        }
    }

    /// A first part for message ids that no other publisher uses.
    pub(crate) fn unique_prefix(&self) -> String {
        let number = self.numbers.next();
        format!("{:016x}-{number:x}-", self.node)
    }

    /// `prefix` and 22 random characters, as RabbitMQ names what a client leaves nameless.
    pub fn server_name(&self, prefix: &str) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let number = self.numbers.next();
        let mut bits = (u128::from(self.random.hash_one(number)) << 64)
            | u128::from(self.random.hash_one((number, self.node)));
        let mut name = String::from(prefix);
        for _ in 0..22 {
            name.push(char::from(ALPHABET[(bits & 63) as usize]));
            bits >>= 6;
        }
        name
    }

    /// After a start that found ids below `used` in the log.
    pub(crate) fn number_queues_from(&self, used: u64) -> Result<(), Error> {
        let journal = self.journal.as_ref();
        journal.map_or(Ok(()), |journal| self.numbers.go_on_from(used, journal))
    }

    fn check_owner(&self, queue: &Queue, conn: u64) -> Result<(), Error> {
        match queue.options().owner {
            Some(owner) if owner != conn => Err(self.locked(queue)),
            _ => Ok(()),
        }
    }

    pub(crate) fn locked(&self, queue: &Queue) -> Error {
        Error::resource_locked(format!(
            "cannot obtain exclusive access to locked queue '{}' in vhost '{}'. It could be originally declared on \
             another connection or the exclusive property value does not match that of the original declaration.",
            queue.name(),
            self.name
        ))
    }
}
