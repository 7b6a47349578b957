//! What a start finds in the log: the exchanges, queues and bindings of a vhost, and what is left of those that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use backbone_log::{Log, QueueInfo};
use backbone_wire::table::Table;

use crate::definitions::{BindingKey, Definition, ExchangeDefinition, QueueDefinition, SHADOW};
use crate::error::Error;
use crate::queue::{Features, Queue, QueueOptions};
use crate::vhost::{IDS_A_MARK, Vhost};

/// What [`Vhost::restore`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Durable exchanges, those that every vhost has not counted.
    pub exchanges: usize,
    /// Durable queues.
    pub queues: usize,
    /// Bindings between durable ends.
    pub bindings: usize,
    /// Messages in these queues.
    pub messages: u64,
    /// Queues without a definition whose messages were given up: what deleted them had not come so far.
    pub forgotten: usize,
    /// Queues without a definition that were left alone, because theirs may be among what is damaged.
    pub unknown: Vec<u64>,
    /// Definitions that cannot be read or do not fit together; they stay in the log. Their keys, for people.
    pub damaged: Vec<String>,
}

/// The definitions of one vhost. Each with its key where it may turn out not to fit.
#[derive(Default)]
struct Found<'a> {
    vhost: bool,
    exchanges: Vec<(&'a [u8], ExchangeDefinition)>,
    queues: Vec<QueueDefinition>,
    /// In the order in which they were made.
    bindings: BTreeMap<(u64, &'a [u8]), BindingKey<'a>>,
    /// No queue had this id or one above it.
    next_id: u64,
    damaged: Vec<&'a [u8]>,
}

/// What the log has of each queue, by its id.
type Stored = BTreeMap<u64, QueueInfo>;

impl Vhost {
    /// Brings back from the log what is durable of this vhost, and settles what belongs to nothing any more. Call it once, before
    /// anything else is asked of the vhost. `lenient`: declares of the bus's queues with other properties are answered
    /// with ok.
    ///
    /// # Errors
    /// The log takes no changes.
    pub fn restore(&self, lenient: bool) -> Result<Restored, Error> {
        let Some(durable) = self.durable() else {
            return Ok(Restored::default());
        };
        let log = durable.log();
        let definitions = log.definitions();
        let mut found = Found::default();
        for (key, value) in &definitions {
            found.add(self.name(), key, value);
        }
        let stored: Stored = log.queues().into_iter().map(|q| (q.queue, q)).collect();
        let mut restored = Restored::default();
        self.restore_queues(&found, &stored, lenient, &mut restored);
        self.restore_routes(&mut found, &mut restored);
        let text = |key: &&[u8]| String::from_utf8_lossy(key).replace('\0', " ");
        restored.damaged = found.damaged.iter().map(text).collect();
        self.clean_up(log, &found, &stored, &mut restored)?;
        Ok(restored)
    }

    fn restore_queues(
        &self,
        found: &Found<'_>,
        stored: &Stored,
        lenient: bool,
        restored: &mut Restored,
    ) {
        for definition in &found.queues {
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
            for (id, level) in definition.ids().zip(0..) {
                let (live, low, next) = numbers_of(id, stored);
                match definition.priority_max {
                    None => queue.restore(live, low, next),
                    Some(_) if next == 0 => {}
                    Some(_) => queue.restore_level(level, live, low, next),
                }
                restored.messages += live;
            }
            self.topology().restore_queue(definition, queue);
            restored.queues += 1;
        }
    }

    fn restore_routes(&self, found: &mut Found<'_>, restored: &mut Restored) {
        for (key, definition) in &found.exchanges {
            match self.topology().restore_exchange(definition) {
                true => restored.exchanges += 1,
                false => found.damaged.push(key),
            }
        }
        for ((number, key), binding) in &found.bindings {
            match self.topology().restore_binding(binding, *number) {
                true => restored.bindings += 1,
                false => found.damaged.push(key),
            }
        }
    }

    /// Settles what nothing knows any more, and marks the ids that may be handed out from now on.
    fn clean_up(
        &self,
        log: &Log,
        found: &Found<'_>,
        stored: &Stored,
        restored: &mut Restored,
    ) -> Result<(), Error> {
        let known: BTreeSet<u64> = found.queues.iter().flat_map(|queue| queue.ids()).collect();
        let used = known.iter().chain(stored.keys()).map(|id| id & !SHADOW);
        let next = used.max().map_or(1, |id| id + 1).max(found.next_id);
        self.numbers.fetch_max(next, Ordering::Relaxed);
        let whole = restored.damaged.is_empty() && log.damages().is_empty();
        self.change(|change| {
            for info in stored.values().filter(|info| info.low < u64::MAX) {
                let id = info.queue & !SHADOW;
                if known.contains(&id) {
                    // Neither what was paged out lives on, nor is one of its numbers used again.
                    let (_, _, next) = numbers_of(id, stored);
                    let dead = if info.queue == id { info.next } else { 0 };
                    change.settle(info.queue, dead..next);
                } else if info.queue & SHADOW != 0 {
                    change.settle(info.queue, 0..u64::MAX);
                } else if whole {
                    change.settle(info.queue, 0..u64::MAX);
                    restored.forgotten += 1;
                } else {
                    restored.unknown.push(info.queue);
                }
            }
            if !found.vhost {
                change.define_vhost();
            }
        })?;
        self.mark_ids(self.numbers.load(Ordering::Relaxed) + IDS_A_MARK)
    }
}

/// How many messages queue `id` has, the lowest of their numbers, and the first number that neither it nor its
/// shadow has used.
fn numbers_of(id: u64, stored: &Stored) -> (u64, u64, u64) {
    let shadow = stored.get(&(id | SHADOW)).map_or(0, |info| info.next);
    match stored.get(&id) {
        Some(info) => (info.live, info.low, info.next.max(shadow)),
        None => (0, 0, shadow),
    }
}

impl<'a> Found<'a> {
    fn add(&mut self, vhost: &str, key: &'a [u8], value: &[u8]) {
        match Definition::read(vhost, key, value) {
            Some(Definition::Vhost) => self.vhost = true,
            Some(Definition::Exchange(exchange)) => self.exchanges.push((key, exchange)),
            Some(Definition::Queue(queue)) if Table::from_bytes(&queue.arguments).is_ok() => {
                self.queues.push(queue);
            }
            Some(Definition::Binding(binding, definition)) => {
                self.bindings.insert((definition.number, key), binding);
            }
            Some(Definition::QueueIds(ids)) => self.next_id = ids.next,
            Some(Definition::Elsewhere) => {}
            Some(Definition::Queue(_)) | None => self.damaged.push(key),
        }
    }
}
