//! Messages that enter a flow: found a topic for, marked, and routed straight to the inboxes
//! where nothing waits on the way.
//!
//! Fused and unfused messages of one sender keep their order: the outbox's lock is held from the
//! question whether anything waits on the way until the inboxes have the messages.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_log::Segment;
use backbone_wire::ShortStr;
use backbone_wire::properties::{Properties, with_additions};

use super::headers::Headers;
use super::routes::{Route, RouteCache, Target};
use super::stamp::Marked;
use super::{
    List, Lists, Plan, Publisher, THIS_BATCH, note_lost, place, push, room_for, stage, staged,
};
use crate::counters::add;
use crate::durable::Level;
use crate::flow::Flow;
use crate::queue::{Incoming, Lost, Queue, Settings, State, read_expiries};
use crate::record::{self, Content, EXCLUDE_OWN, Entry, HEADER_FIXED_LEN, Record};
use crate::topic_rule;
use crate::topology::Targets;
use crate::vhost::Vhost;

/// Room to find out where accepted messages go; empty between commits.
#[derive(Default)]
pub(super) struct Fan {
    /// The queues and what goes there.
    pending: Lists,
    /// What of it is to be logged.
    plan: Plan,
    /// For each route of the batch its range in `indexes`, when a message asked for it.
    routes: Vec<Option<Range<u32>>>,
    /// Indexes into `pending`.
    indexes: Vec<u32>,
}

/// Why a message cannot be moved on.
const NO_TOPIC: &str = "no-topic";
const TOPIC_TOO_LONG: &str = "topic-too-long";

impl Publisher {
    /// Takes a message that was published to a queue with a flow: that of `accepted[index]`.
    #[inline(never)]
    pub(super) fn accept(
        &mut self,
        index: u32,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) {
        self.now_ms = now_ms;
        let flow = flow_of(self.accepted.get(index));
        let in_body;
        let topic = match headers.topic() {
            Some(topic) => topic,
            None => {
                in_body = topic_rule::in_body(content.body);
                match &in_body {
                    Some(topic) => &topic[..],
                    None if flow.needs_topic => {
                        return self.dead_letter(index, content, NO_TOPIC, now_ms);
                    }
                    None => &[],
                }
            }
        };
        if topic.len() > ShortStr::BYTES_MAX {
            return self.dead_letter(index, content, TOPIC_TOO_LONG, now_ms);
        }
        let route = topic_route(&mut self.topics, &self.vhost, flow, topic);
        if route.epoch != self.epoch {
            route.epoch = self.epoch;
            route.pending.clear();
            route.pending.push(self.topic_routes.len() as u32);
            self.topic_routes.push(Arc::clone(&route.targets));
        }
        let number = route.pending[0];

        let flags = if flow.exclude_own.load(Ordering::Relaxed) {
            EXCLUDE_OWN
        } else {
            0
        };
        let message = Marked {
            properties: Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]),
            others: headers.others,
            body: content.body,
            flags,
            seconds: now_ms / 1000,
        };
        let mut own = None;
        let bound = route.stamp.bound(&message);
        let room = bound + record::TIME_LEN;
        let out = room_for(room, &self.vhost, &mut self.batch, &mut own);
        let (offset, mut len) = route.stamp.write(&message, &mut self.ids, out);
        let mut flags = 0;
        if let Some(expiration) = headers.expiration {
            record::stamp_time(out, offset, now_ms);
            len += record::TIME_LEN as u32;
            flags = expiring(expiration);
            self.accepted.get(index).queue.expect_timed();
        }
        let entry = staged(offset, len, own, &self.vhost, &mut self.large);
        let seq = u64::from(number);
        let entry = Entry {
            seq,
            flags,
            ..entry
        };
        self.accepted.push(index, entry);
    }

    fn dead_letter(&mut self, index: u32, content: Content<'_>, reason: &str, now_ms: u64) {
        let flow = Arc::clone(flow_of(self.accepted.get(index)));
        let client = flow.sender.as_deref().unwrap_or("");
        let additions = [("reason", reason.as_bytes()), ("client", client.as_bytes())];
        let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
        let id = properties.message_id().is_none().then(|| self.ids.next());
        let mut header = record::header_fixed(content.body.len()).to_vec();
        with_additions(properties, &additions, id, Some(now_ms / 1000), &mut header);
        let marked = Content {
            header: &header,
            ..content
        };
        let entry = stage(
            &self.vhost,
            &mut self.batch,
            &mut self.large,
            0,
            None,
            marked,
        );
        self.own_copies(entry, 1);
        let index = self.pending.of(&flow.dead_letters, None, &mut self.spare);
        match flow.dead_letters.level() {
            Level::Memory => self.pending.push(index, entry),
            _ => self.log_one(index, entry),
        }
        add(&flow.counters.dead_lettered, 1);
    }

    /// Makes `entry` own `count` more copies, before the batch has its segment.
    pub(super) fn own_copies(&mut self, entry: Entry, count: u64) {
        if entry.segment == THIS_BATCH {
            self.copies += count;
        } else {
            self.retain_large(entry, count);
        }
    }

    #[cold]
    fn retain_large(&self, entry: Entry, count: u64) {
        let segment = self.large.iter().find(|s| s.id() == entry.segment);
        let segment = segment.expect("an entry is in the batch or in a large segment");
        self.vhost.arena().retain(segment, count);
    }

    /// Moves accepted messages to where they go now: the inboxes, or the flow's own queue. Gives them back if the log
    /// refuses them.
    pub(super) fn commit_accepted(
        &mut self,
        mut accepted: List,
        batch: Option<&Arc<Segment>>,
    ) -> Option<List> {
        let flow = Arc::clone(flow_of(&accepted));
        let source = Arc::clone(&accepted.queue);
        place(&mut accepted.entries, batch);
        let mut state = source.lock();
        // The lock makes the answer for the source certain. The queue between is asked without its
        // own: what this sender has there was pushed by the source's mover, which settled it in the
        // source, under the lock that is held here, after that push raised `busy` over there. What
        // other senders have there has no order towards these messages.
        let way_is_free = source.is_idle() && flow.via.as_ref().is_none_or(|via| via.is_idle());
        let committed = match way_is_free {
            true => self.commit_fused(&flow, &accepted.entries, batch, source.id()),
            false => self.commit_waiting(&mut accepted, batch, &mut state),
        };
        drop(state);
        if !committed {
            return Some(accepted);
        }
        add(&flow.counters.accepted, accepted.entries.len() as u64);
        self.spare.keep(accepted.entries);
        None
    }

    /// Puts accepted messages into the flow's own queue, which is locked. False when the log refuses them.
    fn commit_waiting(
        &mut self,
        accepted: &mut List,
        batch: Option<&Arc<Segment>>,
        state: &mut State,
    ) -> bool {
        let vhost = Arc::clone(&self.vhost);
        let source = Arc::clone(&accepted.queue);
        if source.level() == Level::Memory || state.is_deleted() {
            self.retain_all(&accepted.entries, batch, |_| 1);
            state.number(&mut accepted.entries);
            match source.push_locked(state, &accepted.entries, &mut self.wakes) {
                true => self.note_expiring(&source, state, &accepted.entries),
                false => crate::flow::release(vhost.arena(), &accepted.entries),
            }
            return true;
        }
        // Their numbers are those of topics until the log has them.
        let topics: Vec<u64> = accepted.entries.iter().map(|entry| entry.seq).collect();
        let mut plan = Plan::default();
        let entries = std::mem::take(&mut accepted.entries);
        for entry in entries {
            plan.add(&entry, None);
            plan.target(0, accepted);
            let flags = entry.flags | Entry::LOGGED;
            accepted.entries.push(Entry { flags, ..entry });
        }
        let lists = std::slice::from_mut(accepted);
        if !self.append(&plan, lists, Some(&mut *state), batch) {
            for (entry, topic) in accepted.entries.iter_mut().zip(topics) {
                (entry.seq, entry.flags) = (topic, entry.flags & !Entry::LOGGED);
            }
            accepted.logged = false;
            return false;
        }
        self.retain_all(&accepted.entries, batch, |_| 1);
        let (mut dropped, keep) = (Vec::new(), vhost.keep());
        let entries = &accepted.entries;
        source.push_reserved_locked(state, entries, keep, &mut dropped, &mut self.wakes);
        self.note_expiring(&source, state, entries);
        crate::flow::release(vhost.arena(), &dropped);
        true
    }

    /// After messages came to wait in the flow's own queue, which is locked: takes note of when they expire.
    fn note_expiring(&mut self, source: &Arc<Queue>, state: &mut State, entries: &[Entry]) {
        if entries.iter().all(|entry| entry.flags & Entry::TIMED == 0) {
            return;
        }
        let (mut expiries, mut lost) = (Vec::with_capacity(entries.len()), Lost::default());
        // The bus's own queues have no time to live but their messages'.
        read_expiries(self.vhost.arena(), entries, None, &mut expiries);
        source.enforce(state, entries, &expiries, &mut lost, &mut self.wakes);
        note_lost(source, lost, &mut self.dead);
    }

    /// Pushes accepted messages straight to where they end. False when the log refuses them.
    fn commit_fused(
        &mut self,
        flow: &Flow,
        entries: &[Entry],
        batch: Option<&Arc<Segment>>,
        locked: u64,
    ) -> bool {
        let mut fan = std::mem::take(&mut self.fan);
        fan.routes.resize(self.topic_routes.len(), None);
        let mut unrouted = 0;
        for entry in entries {
            let number = entry.seq as usize;
            let range = match &fan.routes[number] {
                Some(range) => range.clone(),
                None => self.fan_out(&mut fan, number, flow, locked),
            };
            unrouted += u64::from(range.is_empty());
            let mut planned = false;
            for index in &fan.indexes[range.start as usize..range.end as usize] {
                let mut index = *index;
                if fan.pending.get(index).queue.is_ranked() {
                    let queue = Arc::clone(&fan.pending.get(index).queue);
                    let level = queue.home(self.record_of(entry, batch).header);
                    index = fan.pending.of(&level, None, &mut self.spare);
                }
                let list = fan.pending.get_mut(index);
                let mut flags = entry.flags;
                if flags & Entry::TIMED != 0 {
                    list.queue.expect_timed();
                }
                if list.queue.level() != Level::Memory {
                    if !planned {
                        fan.plan.add(entry, None);
                        planned = true;
                    }
                    fan.plan.target(index, list);
                    flags |= Entry::LOGGED;
                }
                list.entries.push(Entry { flags, ..*entry });
            }
        }
        if !fan.plan.is_empty() && !self.append(&fan.plan, fan.pending.all(), None, batch) {
            self.fan = Fan::default();
            return false;
        }
        fan.plan.clear();
        let copies = |entry: &Entry| {
            let range = fan.routes[entry.seq as usize].as_ref();
            range.map_or(0, |range| u64::from(range.end - range.start))
        };
        self.retain_all(entries, batch, copies);
        let vhost = Arc::clone(&self.vhost);
        let mut delivered = 0;
        let mut pending = fan.pending.take();
        for list in pending.drain(..) {
            let (dead, wakes) = (&mut self.dead, &mut self.wakes);
            delivered += push(&vhost, &list, self.now_ms, dead, wakes);
            self.spare.keep(list.entries);
        }
        fan.pending.reuse(pending);
        fan.routes.clear();
        fan.indexes.clear();
        self.fan = fan;
        let count = entries.len() as u64;
        add(&flow.counters.fused, count);
        add(
            &flow.counters.forwarded,
            if flow.via.is_some() { count } else { 0 },
        );
        add(&flow.counters.published, count);
        add(&flow.counters.delivered, delivered);
        add(&flow.counters.unrouted, unrouted);
        add(&vhost.counters().messages_routed, delivered);
        true
    }

    /// The record of a placed entry.
    fn record_of<'a>(&'a self, entry: &Entry, batch: Option<&'a Arc<Segment>>) -> Record<'a> {
        let mut segments = batch.into_iter().chain(&self.large);
        let segment = segments.find(|segment| segment.id() == entry.segment);
        let segment = segment.expect("an entry is in the batch or in a large segment");
        Record::read(segment, entry.offset)
    }

    /// Finds out where messages of `flow` with the batch's route `number` go.
    fn fan_out(&mut self, fan: &mut Fan, number: usize, flow: &Flow, locked: u64) -> Range<u32> {
        let start = fan.indexes.len() as u32;
        for Target { queue, .. } in self.topic_routes[number].iter() {
            if queue.id() != locked && !flow.excludes(queue) {
                let index = fan.pending.of(queue, None, &mut self.spare);
                fan.indexes.push(index);
            }
        }
        let range = start..fan.indexes.len() as u32;
        fan.routes[number] = Some(range.clone());
        range
    }

    /// Makes each of the placed `entries` own `copies(entry)` copies.
    fn retain_all(
        &self,
        entries: &[Entry],
        batch: Option<&Arc<Segment>>,
        copies: impl Fn(&Entry) -> u64,
    ) {
        let mut in_batch = 0;
        for entry in entries {
            match batch {
                Some(batch) if batch.id() == entry.segment => in_batch += copies(entry),
                _ => self.retain_large(*entry, copies(entry)),
            }
        }
        if let (Some(batch), true) = (batch, in_batch > 0) {
            self.vhost.arena().retain(batch, in_batch);
        }
    }
}

/// Flags of the entry of a message that may wait for so long.
fn expiring(expiration_ms: u64) -> u32 {
    let incoming = Incoming {
        body_len: 0,
        expiration: Some(expiration_ms),
    };
    Settings::default().flags_for(&incoming)
}

/// The flow that accepted what is in one of [`Publisher::accepted`].
fn flow_of(accepted: &List) -> &Arc<Flow> {
    accepted.flow.as_ref().expect("a flow accepted them")
}

/// The route of messages from `flow` with `topic`.
#[inline(always)]
fn topic_route<'a>(
    topics: &'a mut RouteCache,
    vhost: &Vhost,
    flow: &Arc<Flow>,
    topic: &[u8],
) -> &'a mut Route {
    let generation = vhost.topology().generation();
    let number = match topics.find_topic(flow, topic, generation) {
        Some(number) => number,
        None => resolve_topic(topics, vhost, flow, topic),
    };
    topics.get(number)
}

#[cold]
fn resolve_topic(topics: &mut RouteCache, vhost: &Vhost, flow: &Arc<Flow>, topic: &[u8]) -> usize {
    let exchange = flow.exchange.as_bytes();
    let mut targets = Targets::new();
    let topology = vhost.topology();
    let generation = topology.generation();
    let found = topology.route_internal(exchange, topic, None, &mut targets);
    // A flow never feeds a queue with a flow: that could lock in circles, or never end.
    targets.retain(|(_, queue)| queue.flow().is_none());
    let (generation, keep) = found.map_or((generation, false), |f| (f.generation, f.cacheable));
    let number = topics.insert(exchange, topic, generation, keep, &targets);
    topics.come_through(number, flow, topic);
    number
}
