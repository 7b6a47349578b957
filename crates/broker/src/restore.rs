//! What a start finds in the log: the vhosts with their exchanges, queues and bindings, and what is left of those that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use backbone_log::{Log, QueueInfo};
use backbone_wire::table::Table;

use crate::definitions::{
    BESIDE, BindingKey, Definition, ExchangeDefinition, QueueDefinition, RETURNS, SHADOW, STREAMS,
    VhostDefinition,
};
use crate::error::Error;
use crate::policy::{Author, Policies, Policy, PolicyDefinition};
use crate::queue::{Features, Queue, QueueOptions, Wakes};
use crate::vhost::Vhost;

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Durable exchanges, those that every vhost has not counted.
    pub exchanges: usize,
    /// Durable queues.
    pub queues: usize,
    /// Bindings between durable ends.
    pub bindings: usize,
    /// Messages in these queues, and those that wait at exchanges for their time.
    pub messages: u64,
    /// Queues without a definition whose messages were given up: what deleted them had not come so far.
    pub forgotten: usize,
    /// Queues without a definition that were left alone, because theirs may be among what is damaged.
    pub unknown: Vec<u64>,
    /// Definitions that cannot be read or do not fit together; they stay in the log. Their keys, for people.
    pub damaged: Vec<String>,
    /// What the log has beside queues and need not keep.
    pub(crate) done: Vec<(u64, Range<u64>)>,
}

/// All definitions of a log.
#[derive(Default)]
pub(crate) struct Found<'a> {
    vhosts: BTreeMap<String, OfVhost<'a>>,
    /// No queue had this id or one above it.
    next_id: u64,
    damaged: Vec<&'a [u8]>,
}

/// The definitions of one vhost. Each with its key where it may turn out not to fit.
#[derive(Default)]
struct OfVhost<'a> {
    definition: Option<VhostDefinition>,
    exchanges: Vec<(&'a [u8], ExchangeDefinition)>,
    queues: Vec<(&'a [u8], QueueDefinition)>,
    policies: Vec<(&'a [u8], Author, PolicyDefinition)>,
    /// In the order in which they were made.
    bindings: BTreeMap<(u64, &'a [u8]), BindingKey<'a>>,
}

/// What the log has of each queue, by its id.
pub(crate) type Stored = BTreeMap<u64, QueueInfo>;

/// Brings back from the log what is durable of `vhosts`, and settles what belongs to nothing any more.
pub(crate) fn restore(
    log: &Log,
    mut found: Found<'_>,
    vhosts: &[&Vhost],
    lenient: bool,
) -> Result<Restored, Error> {
    let queues = log.queues().into_iter().filter(|q| q.queue & STREAMS == 0);
    let stored: Stored = queues.map(|q| (q.queue, q)).collect();
    let mut restored = Restored::default();
    let mut known = BTreeSet::new();
    for vhost in vhosts {
        let mut of = found.vhosts.remove(&**vhost.name()).unwrap_or_default();
        known.extend(of.queues.iter().flat_map(|(_, queue)| queue.ids()));
        known.extend(of.exchanges.iter().filter_map(|(_, it)| it.store));
        match of.definition.clone() {
            Some(definition) => vhost.take_definition(definition),
            None => vhost.redefine(|_| ())?,
        }
        vhost.restore_policies(&mut of, &mut found.damaged);
        vhost.restore_queues(&of, &stored, lenient, &mut restored);
        vhost.restore_routes(of, &stored, &mut found.damaged, &mut restored);
    }
    for orphans in found.vhosts.values() {
        found.damaged.extend(orphans.keys());
    }
    let text = |key: &&[u8]| String::from_utf8_lossy(key).replace('\0', " ");
    restored.damaged = found.damaged.iter().map(text).collect();
    if let [first, ..] = vhosts {
        let whole = restored.damaged.is_empty() && log.damages().is_empty();
        first.clean_up(&known, found.next_id, whole, &stored, &mut restored)?;
    }
    Ok(restored)
}

impl Vhost {
    /// Brings back from the log what is durable of this vhost, and settles what belongs to nothing any more: for a node that
    /// has no other vhost. Call it once, before anything else is asked of the vhost. `lenient`: declares of the bus's queues
    /// with other properties are answered with ok.
    ///
    /// # Errors
    /// The log takes no changes.
    pub fn restore(&self, lenient: bool) -> Result<Restored, Error> {
        let Some(durable) = self.durable() else {
            return Ok(Restored::default());
        };
        let log = durable.log();
        let definitions = log.definitions();
        let found = Found::among(&definitions);
        restore(log, found, &[self], lenient)
    }

    /// First of all, so that they count for everything else as it comes.
    fn restore_policies<'a>(&self, of: &mut OfVhost<'a>, damaged: &mut Vec<&'a [u8]>) {
        let mut policies = Policies::default();
        for (key, author, definition) in of.policies.drain(..) {
            match Policy::new(author, definition) {
                Ok(policy) => policies.put(author, policy),
                Err(_) => damaged.push(key),
            }
        }
        self.take_policies(policies);
    }

    fn restore_queues(
        &self,
        found: &OfVhost<'_>,
        stored: &Stored,
        lenient: bool,
        restored: &mut Restored,
    ) {
        for (_, definition) in &found.queues {
            let options = QueueOptions {
                durable: true,
                auto_delete: definition.auto_delete,
                owner: None,
                arguments: definition.arguments.clone(),
                protected: definition.protected,
                lenient: lenient && definition.protected,
                level: definition.level,
            };
            let features = Features {
                priority_max: definition.priority_max,
                ..Features::of(&options.arguments)
            };
            let (name, id) = (&definition.name, definition.id);
            let queue = Queue::shared(name, id, options, features, self.pager());
            queue.set_paused(definition.paused, &mut Wakes::default());
            for (id, level) in definition.ids().zip(0..) {
                let (live, low, next) = numbers_of(id, stored);
                if live > 0 && queue.dedup().is_some() {
                    self.restore_keys(&queue.part(level), low..next);
                }
                match definition.priority_max {
                    None => queue.restore(live, low, next),
                    Some(_) if next == 0 => {}
                    Some(_) => queue.restore_level(level, live, low, next),
                }
                if next > 0 {
                    let events = stored.get(&(id | RETURNS));
                    let part = queue.part(level);
                    let done = self.restore_returns(&part, events, next);
                    let done = done.map(|range| (id | RETURNS, range));
                    restored.done.extend(done);
                }
                restored.messages += live;
            }
            self.wind_up(&queue);
            self.topology().restore_queue(definition, queue);
            restored.queues += 1;
        }
    }

    fn restore_routes<'a>(
        &self,
        found: OfVhost<'a>,
        stored: &Stored,
        damaged: &mut Vec<&'a [u8]>,
        restored: &mut Restored,
    ) {
        for (key, definition) in &found.exchanges {
            let (store, live) = self.restored_store(definition, stored).unzip();
            match self.topology().restore_exchange(definition, store) {
                true => {
                    restored.exchanges += 1;
                    restored.messages += live.unwrap_or(0);
                }
                false => damaged.push(key),
            }
        }
        for ((number, key), binding) in &found.bindings {
            match self.topology().restore_binding(binding, *number) {
                true => restored.bindings += 1,
                false => damaged.push(key),
            }
        }
    }

    /// Settles what nothing knows any more, and marks the ids that may be handed out from now on. `known`: the ids of the
    /// queues of all vhosts; `whole`: no definition is damaged.
    fn clean_up(
        &self,
        known: &BTreeSet<u64>,
        next_id: u64,
        whole: bool,
        stored: &Stored,
        restored: &mut Restored,
    ) -> Result<(), Error> {
        let used = known.iter().chain(stored.keys()).map(|id| id & !BESIDE);
        let next = used.max().map_or(1, |id| id + 1).max(next_id);
        self.change(|change| {
            for info in stored.values().filter(|info| info.low < u64::MAX) {
                let id = info.queue & !BESIDE;
                if info.queue & RETURNS != 0 && known.contains(&id) {
                    continue;
                }
                if known.contains(&id) {
                    // Neither what was paged out lives on, nor is one of its numbers used again.
                    let (_, _, next) = numbers_of(id, stored);
                    let dead = if info.queue == id { info.next } else { 0 };
                    change.settle(info.queue, dead..next);
                } else if info.queue & BESIDE != 0 {
                    change.settle(info.queue, 0..u64::MAX);
                } else if whole {
                    change.settle(info.queue, 0..u64::MAX);
                    restored.forgotten += 1;
                } else {
                    restored.unknown.push(info.queue);
                }
            }
            for (id, numbers) in std::mem::take(&mut restored.done) {
                change.settle(id, numbers);
            }
        })?;
        self.number_queues_from(next)
    }
}

/// How many messages queue `id` has, the lowest of their numbers, and the first number that neither it nor its
/// shadow has used.
pub(crate) fn numbers_of(id: u64, stored: &Stored) -> (u64, u64, u64) {
    let shadow = stored.get(&(id | SHADOW)).map_or(0, |info| info.next);
    match stored.get(&id) {
        Some(info) => (info.live, info.low, info.next.max(shadow)),
        None => (0, 0, shadow),
    }
}

impl<'a> Found<'a> {
    pub(crate) fn among(definitions: &'a [backbone_log::Definition]) -> Self {
        let mut found = Self::default();
        for (key, value) in definitions {
            found.add(key, value);
        }
        found
    }

    /// The names of the vhosts that are defined.
    pub(crate) fn vhosts(&self) -> impl Iterator<Item = &str> {
        let defined = self.vhosts.iter().filter(|(_, of)| of.definition.is_some());
        defined.map(|(name, _)| &**name)
    }

    fn add(&mut self, key: &'a [u8], value: &[u8]) {
        match Definition::read(key, value) {
            Some(Definition::Vhost(definition)) => {
                let of = self.of(&definition.name);
                of.definition = Some(definition);
            }
            Some(Definition::Exchange(exchange)) => {
                self.of(&exchange.vhost).exchanges.push((key, exchange));
            }
            Some(Definition::Queue(queue)) if Table::from_bytes(&queue.arguments).is_ok() => {
                self.of(&queue.vhost).queues.push((key, queue));
            }
            Some(Definition::Binding(vhost, binding, definition)) => {
                let bindings = &mut self.of(vhost).bindings;
                bindings.insert((definition.number, key), binding);
            }
            Some(Definition::Policy(author, policy)) => {
                let of = self.of(&policy.vhost);
                of.policies.push((key, author, policy));
            }
            Some(Definition::QueueIds(ids)) => self.next_id = ids.next,
            Some(Definition::Queue(_)) | None => self.damaged.push(key),
        }
    }

    fn of(&mut self, vhost: &str) -> &mut OfVhost<'a> {
        // Most definitions are of a vhost that was seen: no name is made for it.
        if !self.vhosts.contains_key(vhost) {
            self.vhosts.insert(vhost.to_owned(), OfVhost::default());
        }
        self.vhosts.get_mut(vhost).expect("it was just put there")
    }
}

impl<'a> OfVhost<'a> {
    fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        let exchanges = self.exchanges.iter().map(|(key, _)| *key);
        let queues = self.queues.iter().map(|(key, _)| *key);
        let bindings = self.bindings.keys().map(|(_, key)| *key);
        let policies = self.policies.iter().map(|(key, ..)| *key);
        exchanges.chain(queues).chain(bindings).chain(policies)
    }
}
