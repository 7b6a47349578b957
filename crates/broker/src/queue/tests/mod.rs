// Long because: one model and its operations, which belong together.
//! Random operations on a queue, compared step by step with a naive model.
//!
//! The model keeps the waiting messages in a map by sequence number and counts everything anew
//! each time it is asked. The rotation, exactly: a consumer with room enters at the back when it
//! joins, after each message that it is assigned, and when it gets room back (settle, requeue,
//! poke, a pause that takes back what it was assigned, a fetch that finds nothing); the one at the front gets the lowest message, or leaves when
//! it has no room. Priorities: who enters stands before all of lower priority. Single active: the first that
//! joined has everything; when it goes, the one that waits with the highest priority, longest, is next. A priority
//! queue: the numbers of its messages are in the order in which they go out, so that the lowest is always next. Paused: nobody
//! gets anything, and all else goes on.

mod ops;
mod spill;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use backbone_log::{Arena, Position};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{TableBuf, Value};
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::consumer::ASSIGNED_MAX;
use super::*;
use ops::{Op, op};

/// Levels of the priority queues.
const LEVELS: usize = 4;

#[derive(Default)]
struct Bells {
    rung: Mutex<Vec<u64>>,
    cancelled: Mutex<Vec<u64>>,
}

impl Bell for Bells {
    fn ring(&self, key: u64) {
        self.rung.lock().push(key);
    }

    fn cancelled(&self, key: u64) {
        self.cancelled.lock().push(key);
    }
}

struct Member {
    key: u64,
    id: ConsumerId,
    prefetch: u32,
    no_ack: bool,
    exclusive: bool,
    mover: bool,
    priority: i64,
    shared: Option<usize>,
    assigned: VecDeque<u64>,
    held: Vec<Entry>,
    /// Taken by the fetch that is going on.
    taking: usize,
    /// Its bell rang, or its last fetch said that there is more: it will fetch.
    told: bool,
}

impl Member {
    /// What counts against its limits.
    fn has(&self) -> usize {
        self.held.len() + self.assigned.len() + self.taking
    }
}

/// A limit as the model sees it.
#[derive(Default)]
struct Limit {
    credit: Arc<SharedCredit>,
    limit: u32,
}

/// A waiting or held message: where it is, and whether it came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    segment: u32,
    offset: u32,
    redelivered: bool,
}

struct World {
    arena: Arena,
    queue: Arc<Queue>,
    /// Whether it is a priority queue.
    ranked: bool,
    /// What was put into each of its levels.
    levels: [u64; LEVELS],
    bells: Arc<Bells>,
    limits: [Limit; 2],
    /// All messages that are somewhere.
    known: BTreeMap<u64, Known>,
    waiting: BTreeSet<u64>,
    members: Vec<Member>,
    turn: VecDeque<u64>,
    /// Whether there is a single active consumer, and which that is.
    single: bool,
    active: Option<u64>,
    paused: bool,
    /// Held by nobody who is a consumer now, with the limit that they count against.
    orphans: Vec<(Entry, Option<usize>)>,
    next_seq: u64,
    next_key: u64,
    deleted: bool,
    wakes: Wakes,
}

impl World {
    fn new(single: bool, ranked: bool) -> Self {
        let mut arguments = TableBuf::new();
        arguments.put("x-single-active-consumer", &Value::Bool(single));
        if ranked {
            arguments.put("x-max-priority", &Value::U8(LEVELS as u8 - 1));
        }
        let options = QueueOptions {
            arguments: arguments.as_table().as_bytes().to_vec(),
            ..QueueOptions::default()
        };
        let features = Features::of(&options.arguments);
        Self {
            arena: Arena::new(),
            queue: Queue::shared("q", 1, options, features, None),
            ranked,
            levels: [0; LEVELS],
            single,
            active: None,
            paused: false,
            bells: Arc::default(),
            limits: Default::default(),
            known: BTreeMap::new(),
            waiting: Default::default(),
            members: Vec::new(),
            turn: VecDeque::new(),
            orphans: Vec::new(),
            next_seq: 0,
            next_key: 0,
            deleted: false,
            wakes: Wakes::default(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Push(count) => self.push(count),
            Op::Consume {
                prefetch,
                no_ack,
                shared,
                exclusive,
                mover,
                priority,
            } => self.consume(prefetch, no_ack, shared, exclusive, (mover, priority)),
            Op::Fetch(who, count, bytes) => self.fetch(who, count, bytes),
            Op::Settle(who, count) => self.settle(who, count),
            Op::Requeue(who, which) => self.requeue(who, which),
            Op::Cancel(who) => self.cancel(who, false),
            Op::Leave(who) => self.cancel(who, true),
            Op::Take(count) => self.take(count),
            Op::Purge => self.purge(),
            Op::Pause(paused) => self.pause(paused),
            Op::Limit(which, limit) => {
                self.limits[which].limit = limit;
                self.limits[which].credit.set_limit(limit);
                self.poke_sharers(which);
            }
            Op::Share(who, which) => self.share(who, which),
            Op::Delete(condition) => self.delete(condition),
        }
        self.check();
    }

    fn push(&mut self, count: usize) {
        let mut bytes = vec![0; count * 10];
        let segment = self.arena.commit(&mut bytes, count as u64);
        let entries: Vec<Entry> = (0..count as u32)
            .map(|i| {
                let position = Position {
                    segment: segment.id(),
                    offset: i * 10,
                };
                Entry::unplaced(position, 10)
            })
            .collect();
        if self.ranked {
            return self.push_by_priority(entries);
        }
        let taken = self.queue.push(&entries, &mut self.wakes);
        assert_eq!(taken, !self.deleted);
        if !taken {
            return self.arena.release_held(segment, count as u64);
        }
        for entry in entries {
            let known = Known {
                segment: entry.segment,
                offset: entry.offset,
                redelivered: false,
            };
            self.known.insert(self.next_seq, known);
            self.waiting.insert(self.next_seq);
            self.next_seq += 1;
        }
        self.dispatch();
    }

    /// Puts each message into the level of its priority: as a publisher does, one push a level.
    fn push_by_priority(&mut self, entries: Vec<Entry>) {
        let mut homes: Vec<(u8, Vec<Entry>)> = Vec::new();
        for entry in entries {
            self.next_seq += 1;
            // Now and then one above the highest level.
            let priority = (self.next_seq * 7 / 3 % (LEVELS as u64 + 1)) as u8;
            match homes.iter_mut().find(|(other, _)| *other == priority) {
                Some((_, list)) => list.push(entry),
                None => homes.push((priority, vec![entry])),
            }
        }
        for (priority, entries) in homes {
            let properties = PropertiesBuilder {
                priority: Some(priority),
                ..PropertiesBuilder::default()
            };
            let mut header = Vec::new();
            crate::record::write_header(&mut header, 0, &properties.build());
            let taken = self.queue.home(&header).push(&entries, &mut self.wakes);
            assert_eq!(taken, !self.deleted);
            if !taken {
                self.next_seq -= entries.len() as u64;
                crate::flow::release(&self.arena, &entries);
                continue;
            }
            let level = priority.min(LEVELS as u8 - 1);
            for entry in entries {
                let number = &mut self.levels[usize::from(level)];
                let seq = levels::tag(level, *number);
                *number += 1;
                let known = Known {
                    segment: entry.segment,
                    offset: entry.offset,
                    redelivered: false,
                };
                self.known.insert(seq, known);
                self.waiting.insert(seq);
            }
            self.wakes.ring();
            self.dispatch();
        }
    }

    /// What `empty` takes out of all parts of the queue, with the numbers by which they are handed out.
    fn emptied(&self, empty: impl Fn(&Queue) -> Vec<Entry>) -> Vec<Entry> {
        let mut all = Vec::new();
        self.queue.each_part(|part| {
            let level = (part.id() - 1) as u8;
            all.extend(empty(part).into_iter().map(|entry| match self.ranked {
                true => Entry {
                    seq: levels::tag(level, entry.seq),
                    ..entry
                },
                false => entry,
            }));
        });
        all.sort_by_key(|entry| entry.seq);
        all
    }

    fn consume(
        &mut self,
        prefetch: u32,
        no_ack: bool,
        shared: Option<usize>,
        exclusive: bool,
        (mover, priority): (bool, i64),
    ) {
        if mover && self.members.iter().any(|m| m.mover) {
            return;
        }
        let key = self.next_key;
        self.next_key += 1;
        let spec = ConsumerSpec {
            bell: Arc::clone(&self.bells) as Arc<dyn Bell>,
            key,
            prefetch,
            shared: shared.map(|which| Arc::clone(&self.limits[which].credit)),
            no_ack,
            exclusive: exclusive && !mover,
            priority,
        };
        let result = if mover {
            self.queue.attach_mover(spec, &mut self.wakes)
        } else {
            self.queue.consume(spec, &mut self.wakes)
        };
        let alone = self.members.is_empty() && !self.single;
        let taken = self.members.iter().any(|m| m.exclusive) || (exclusive && !alone);
        let id = match result {
            Ok(id) => id,
            Err(Refused::Deleted) => return assert!(self.deleted),
            Err(refused) => {
                assert_eq!((refused, mover), (Refused::ExclusiveUse, false));
                return assert!(taken, "refused although it could be exclusive");
            }
        };
        assert!(!self.deleted && (mover || !taken));
        self.members.push(Member {
            key,
            id,
            prefetch,
            no_ack,
            exclusive: exclusive && !mover,
            mover,
            priority,
            shared,
            assigned: VecDeque::new(),
            held: Vec::new(),
            taking: 0,
            told: false,
        });
        match (self.single, self.active) {
            (true, None) => self.active = Some(key),
            (true, Some(_)) => self.line_up(key, priority),
            (false, _) => self.enter(key),
        }
        self.dispatch();
    }

    fn fetch(&mut self, who: usize, count: usize, bytes_max: usize) {
        let Some(at) = self.pick(who) else { return };
        let (id, key) = (self.members[at].id, self.members[at].key);
        let mut got = Vec::new();
        let end = self
            .queue
            .fetch(id, count, bytes_max, &mut got, &mut self.wakes);
        let (expected, more) = self.expect_fetch(at, count, bytes_max);
        let seqs: Vec<u64> = got.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, expected, "fetched by {key}");
        assert_eq!(end == Fetch::More, more, "how the fetch ended");
        self.check_entries(&got);
        self.members[at].told = more;
        self.members[at].taking = 0;
        if self.members[at].no_ack {
            self.forget(&got);
        } else {
            self.members[at].held.extend(got);
        }
    }

    /// What consumer `at` should get, and whether it should come again by itself.
    fn expect_fetch(&mut self, at: usize, count: usize, bytes_max: usize) -> (Vec<u64>, bool) {
        let only = self.is_only(at);
        let mut out: Vec<u64> = Vec::new();
        while out.len() < count && out.len() * 10 < bytes_max {
            let key = self.members[at].key;
            if self.members[at].assigned.is_empty() && !only {
                self.enter(key);
                self.dispatch();
                if self.members[at].assigned.is_empty() {
                    return (out, false);
                }
                continue;
            }
            let assigned = self.members[at].assigned.pop_front();
            let next = assigned.or_else(|| {
                let room = self.has_room(at);
                room.then(|| self.waiting.pop_first()).flatten()
            });
            let Some(seq) = next else {
                self.enter(key);
                return (out, false);
            };
            out.push(seq);
            self.members[at].taking += 1;
        }
        (out, true)
    }

    fn settle(&mut self, who: usize, count: usize) {
        let Some(at) = self.pick(who) else {
            let count = count.min(self.orphans.len());
            let gone: Vec<_> = self.orphans.drain(..count).collect();
            self.give(gone.iter().filter_map(|(_, shared)| *shared));
            self.queue.settle(None, count as u32, &mut self.wakes);
            self.forget(&gone.iter().map(|(e, _)| *e).collect::<Vec<_>>());
            self.dispatch();
            return self.poke_all(gone.iter().filter_map(|(_, shared)| *shared));
        };
        let member = &mut self.members[at];
        let count = count.min(member.held.len());
        let gone: Vec<Entry> = member.held.drain(..count).collect();
        let (id, key, shared) = (member.id, member.key, member.shared);
        self.give(gone.iter().filter_map(|_| shared));
        self.queue.settle(Some(id), count as u32, &mut self.wakes);
        self.forget(&gone);
        self.enter(key);
        self.dispatch();
        self.poke_all(shared.into_iter());
    }

    fn requeue(&mut self, who: usize, which: u64) {
        let chosen = |index: usize| which >> (index % 64) & 1 == 1;
        let (entries, id, shared): (Vec<Entry>, _, Vec<usize>) = match self.pick(who) {
            Some(at) => {
                let member = &mut self.members[at];
                let mut index = 0;
                let mut back: Vec<Entry> = Vec::new();
                member.held.retain(|entry| {
                    index += 1;
                    if chosen(index) {
                        back.push(*entry);
                    }
                    !chosen(index)
                });
                if which & 1 == 1 {
                    back.reverse();
                }
                let shared = vec![member.shared; back.len()];
                let (id, shared) = (member.id, shared.into_iter().flatten().collect());
                (back, Some(id), shared)
            }
            None => {
                let all = std::mem::take(&mut self.orphans);
                let shared = all.iter().filter_map(|(_, shared)| *shared).collect();
                (all.iter().map(|(e, _)| *e).collect(), None, shared)
            }
        };
        self.give(shared.iter().copied());
        let back = self.queue.requeue(id, &entries, &mut self.wakes);
        assert_eq!(back, !self.deleted);
        if !back {
            return self.forget(&entries);
        }
        for entry in &entries {
            self.waiting.insert(entry.seq);
            self.known.get_mut(&entry.seq).unwrap().redelivered = true;
        }
        if let Some(id) = id {
            let key = self.members.iter().find(|m| m.id == id).unwrap().key;
            self.enter(key);
        }
        self.dispatch();
        self.poke_all(shared.into_iter());
    }

    /// A consumer goes; with `back`, what it holds is put back before anybody else gets something.
    fn cancel(&mut self, who: usize, back: bool) {
        let Some(at) = self.pick(who) else { return };
        let member = self.members.remove(at);
        self.turn.retain(|key| *key != member.key);
        if self.active == Some(member.key) {
            self.active = self.turn.pop_front();
        }
        self.waiting.extend(member.assigned);
        if back {
            self.give(member.held.iter().filter_map(|_| member.shared));
            let left = self.queue.leave(member.id, &member.held, &mut self.wakes);
            assert!(left.taken && !left.unused);
            for entry in &member.held {
                self.waiting.insert(entry.seq);
                self.known.get_mut(&entry.seq).unwrap().redelivered = true;
            }
        } else {
            assert!(!self.queue.cancel(member.id, &mut self.wakes));
            let held = member.held.into_iter().map(|e| (e, member.shared));
            self.orphans.extend(held);
        }
        self.dispatch();
        self.poke_all(member.shared.into_iter());
        // Again is nothing.
        assert!(!self.queue.cancel(member.id, &mut self.wakes));
    }

    fn take(&mut self, count: usize) {
        let mut got = Vec::new();
        let left = self.queue.take(count, usize::MAX, &mut got);
        let seqs: Vec<u64> = got.iter().map(|e| e.seq).collect();
        let count = if self.paused { 0 } else { count };
        let expected: Vec<u64> = self.waiting.iter().copied().take(count).collect();
        assert_eq!(seqs, expected);
        self.check_entries(&got);
        self.waiting.retain(|seq| !expected.contains(seq));
        assert_eq!(left, if self.paused { 0 } else { self.ready() });
        self.orphans.extend(got.into_iter().map(|e| (e, None)));
    }

    fn purge(&mut self) {
        let gone = self.emptied(|part| part.purge().entries);
        let seqs: Vec<u64> = gone.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, self.waiting.iter().copied().collect::<Vec<_>>());
        self.check_entries(&gone);
        self.waiting.clear();
        self.forget(&gone);
    }

    /// What was assigned and not fetched goes back, and whoever has room then stands in the rotation.
    fn pause(&mut self, paused: bool) {
        self.queue.set_paused(paused, &mut self.wakes);
        if self.deleted || self.paused == paused {
            return;
        }
        self.paused = paused;
        let mut order: Vec<(u32, u64)> = self.members.iter().map(|m| (m.id.slot, m.key)).collect();
        order.sort_unstable();
        if paused {
            let mut back = Vec::new();
            for member in &mut self.members {
                back.extend(member.assigned.drain(..).map(|seq| (seq, member.shared)));
            }
            self.waiting.extend(back.iter().map(|(seq, _)| *seq));
            order.iter().for_each(|(_, key)| self.enter(*key));
            self.dispatch();
            // As their channels do when they find nothing to fetch.
            return self.poke_all(back.into_iter().filter_map(|(_, shared)| shared));
        }
        self.dispatch();
    }

    fn share(&mut self, who: usize, which: usize) {
        let Some(at) = self.pick(who) else { return };
        let member = &mut self.members[at];
        if member.shared.is_some() || member.no_ack || member.mover {
            return;
        }
        member.shared = Some(which);
        let (id, held) = (member.id, member.held.len() as u32);
        self.queue
            .share_credit(id, &self.limits[which].credit, held);
        self.poke_sharers(which);
    }

    fn delete(&mut self, condition: DeleteIf) {
        let result = self.queue.delete(condition);
        if self.deleted {
            return assert_eq!(result, Ok(None));
        }
        if condition.unused && !self.members.is_empty() {
            return assert_eq!(result, Err(Refused::InUse));
        }
        if condition.empty && self.ready() > 0 {
            return assert_eq!(result, Err(Refused::NotEmpty));
        }
        let mut gone = result.unwrap().expect("it was not deleted before").entries;
        if self.ranked {
            assert!(gone.is_empty(), "the front has nothing");
            gone = self.emptied(|part| {
                let deleted = part.delete(DeleteIf::default()).unwrap();
                deleted.expect("once").entries
            });
        }
        let mut keys = Vec::new();
        for member in std::mem::take(&mut self.members) {
            keys.push(member.key);
            self.waiting.extend(member.assigned);
            let held = member.held.into_iter().map(|e| (e, member.shared));
            self.orphans.extend(held);
        }
        let mut told = std::mem::take(&mut *self.bells.cancelled.lock());
        told.sort_unstable();
        assert_eq!(told, keys, "who was told that the queue is gone");
        let seqs: Vec<u64> = gone.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, self.waiting.iter().copied().collect::<Vec<_>>());
        self.waiting.clear();
        self.forget(&gone);
        self.turn.clear();
        self.active = None;
        self.deleted = true;
    }

    fn pick(&self, who: usize) -> Option<usize> {
        // One more than there are, to get at what belongs to no consumer.
        let at = who % (self.members.len() + 1);
        (at < self.members.len()).then_some(at)
    }

    fn give(&self, shared: impl Iterator<Item = usize>) {
        for which in shared {
            self.limits[which].credit.give(1);
        }
    }

    fn poke_all(&mut self, shared: impl Iterator<Item = usize>) {
        let mut which: Vec<usize> = shared.collect();
        which.sort_unstable();
        which.dedup();
        for which in which {
            self.poke_sharers(which);
        }
    }

    /// What the owner of a limit does when there may be room again.
    fn poke_sharers(&mut self, which: usize) {
        let sharers = self.members.iter().filter(|m| m.shared == Some(which));
        for (id, key) in sharers.map(|m| (m.id, m.key)).collect::<Vec<_>>() {
            self.queue.poke(id, &mut self.wakes);
            self.enter(key);
            self.dispatch();
        }
    }

    fn check_entries(&self, entries: &[Entry]) {
        for entry in entries {
            let known = Known {
                segment: entry.segment,
                offset: entry.offset,
                redelivered: entry.redelivered(),
            };
            assert_eq!(self.known.get(&entry.seq), Some(&known), "{entry:?}");
        }
    }

    fn forget(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.known.remove(&entry.seq).expect("it is gone once");
        }
        crate::flow::release(&self.arena, entries);
    }

    fn enter(&mut self, key: u64) {
        let at = self.members.iter().position(|m| m.key == key).unwrap();
        if !self.single && !self.turn.contains(&key) && self.has_room(at) {
            self.line_up(key, self.members[at].priority);
        }
    }

    fn line_up(&mut self, key: u64, priority: i64) {
        let of = |key: &u64| {
            self.members
                .iter()
                .find(|m| m.key == *key)
                .unwrap()
                .priority
        };
        let place = self.turn.iter().position(|other| of(other) < priority);
        self.turn.insert(place.unwrap_or(self.turn.len()), key);
    }

    /// Whether what waits is for this consumer alone.
    fn is_only(&self, at: usize) -> bool {
        match self.single {
            _ if self.paused => false,
            true => self.active == Some(self.members[at].key),
            false => self.members.len() == 1,
        }
    }

    /// Whether a consumer may have one more.
    fn has_room(&self, at: usize) -> bool {
        let member = &self.members[at];
        let own = (member.prefetch == 0 || member.has() < member.prefetch as usize)
            && member.assigned.len() < ASSIGNED_MAX;
        own && member.shared.is_none_or(|which| {
            let limit = self.limits[which].limit as usize;
            limit == 0 || self.used(which) < limit
        })
    }

    fn used(&self, which: usize) -> usize {
        let members = self.members.iter().filter(|m| m.shared == Some(which));
        let orphans = self.orphans.iter().filter(|(_, s)| *s == Some(which));
        members.map(Member::has).sum::<usize>() + orphans.count()
    }

    fn dispatch(&mut self) {
        if self.members.len() == 1 || self.single || self.paused {
            return;
        }
        while !self.waiting.is_empty() {
            let Some(key) = self.turn.pop_front() else {
                return;
            };
            let at = self.members.iter().position(|m| m.key == key).unwrap();
            if !self.has_room(at) {
                continue;
            }
            let seq = self.waiting.pop_first().unwrap();
            self.members[at].assigned.push_back(seq);
            self.enter(key);
        }
    }

    fn ready(&self) -> u64 {
        let assigned: usize = self.members.iter().map(|m| m.assigned.len()).sum();
        (self.waiting.len() + assigned) as u64
    }

    fn check(&mut self) {
        self.wakes.ring();
        for key in std::mem::take(&mut *self.bells.rung.lock()) {
            if let Some(member) = self.members.iter_mut().find(|m| m.key == key) {
                assert!(!member.told, "{key} was rung although it comes by itself");
                member.told = true;
            }
        }
        let taken = self.members.iter().filter(|m| !m.no_ack);
        let held: usize = taken.map(|m| m.held.len()).sum();
        let stats = QueueStats {
            ready: self.ready(),
            paged_out: 0,
            unsettled: (held + self.orphans.len()) as u64,
            consumers: self.members.iter().filter(|m| !m.mover).count() as u32,
            published: self.next_seq,
            paused: self.paused,
        };
        assert_eq!(self.queue.stats(), stats);
        let only_the_mover = self.members.len() == 1 && self.members[0].mover;
        let idle = only_the_mover && stats.ready == 0 && stats.unsettled == 0 && !self.paused;
        assert!(self.ranked || self.queue.is_idle() == idle);
        for (at, member) in self.members.iter().enumerate() {
            let may_fetch = !self.waiting.is_empty() && self.has_room(at);
            let may_fetch = may_fetch && !self.paused && (!self.single || self.is_only(at));
            assert!(
                member.told || (member.assigned.is_empty() && !may_fetch),
                "{} sleeps although something is there for it",
                member.key
            );
            assert!(member.prefetch == 0 || member.has() <= member.prefetch as usize);
        }
    }

    /// Everybody goes: nothing may be left.
    fn end(mut self) {
        self.delete(DeleteIf::default());
        let held = std::mem::take(&mut self.orphans);
        self.give(held.iter().filter_map(|(_, shared)| *shared));
        self.queue.settle(None, held.len() as u32, &mut self.wakes);
        self.forget(&held.iter().map(|(e, _)| *e).collect::<Vec<_>>());
        self.check();
        assert!(self.known.is_empty());
        assert_eq!((self.arena.segments(), self.arena.bytes()), (0, 0));
        // All shared room came back: a limit of one lets one through, and no more.
        for limit in &self.limits {
            limit.credit.set_limit(1);
            limit.credit.force(1);
            limit.credit.give(1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_queue_does_what_the_model_does(
        ops in proptest::collection::vec(op(), 1..150),
        single in prop_oneof![3 => Just(false), 1 => Just(true)],
        ranked in prop_oneof![2 => Just(false), 1 => Just(true)],
    ) {
        let mut world = World::new(single, ranked);
        for op in &ops {
            world.apply(op);
        }
        world.end();
    }
}
