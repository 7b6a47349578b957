//! Messages that enter a flow: found a topic for, marked, and routed straight to the inboxes
//! where nothing waits on the way.
//!
//! Fused and unfused messages of one sender keep their order: the outbox's lock is held from the
//! question whether anything waits on the way until the inboxes have the messages.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_log::Segment;
use backbone_wire::properties::{self, Properties};
use backbone_wire::table::Value;
use smallvec::SmallVec;

use super::routes::Target;
use super::{Pending, Publisher, THIS_BATCH, pending_of, place, push, stage};
use crate::counters::add;
use crate::flow::Flow;
use crate::queue::Queue;
use crate::record::{self, Content, EXCLUDE_OWN, Entry, HEADER_FIXED_LEN};
use crate::topic_rule;
use crate::topology::Targets;

/// Messages of this batch that one flow accepted.
pub(super) struct Accepted {
    source: Arc<Queue>,
    flow: Arc<Flow>,
    /// Their `seq`, which means nothing before a queue gives one, is the index of their route.
    entries: Vec<Entry>,
    routes: Routes,
}

/// Where the messages of a batch go: few places, mostly.
type Routes = SmallVec<[Arc<[Target]>; 4]>;

/// Why a message cannot be moved on.
const NO_TOPIC: &str = "no-topic";
const TOPIC_TOO_LONG: &str = "topic-too-long";

impl Publisher {
    /// Takes a message that was published to queues with flows.
    pub(super) fn accept(&mut self, targets: &[Target], content: Content<'_>, now_ms: u64) {
        for target in targets {
            if let Some(flow) = &target.flow {
                self.accept_one(&target.queue, flow, content, now_ms);
            }
        }
    }

    fn accept_one(
        &mut self,
        source: &Arc<Queue>,
        flow: &Arc<Flow>,
        content: Content<'_>,
        now_ms: u64,
    ) {
        let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
        let topic = match topic_rule::find(&properties, content.body) {
            Some(topic) if topic.len() > 255 => {
                return self.dead_letter(flow, properties, content, TOPIC_TOO_LONG, now_ms);
            }
            Some(topic) => topic,
            None if flow.needs_topic => {
                return self.dead_letter(flow, properties, content, NO_TOPIC, now_ms);
            }
            None => Cow::Borrowed(&b""[..]),
        };
        let mut additions: SmallVec<[(&str, Value<'_>); 2]> = SmallVec::new();
        if !topic.is_empty() {
            additions.push(("topic", Value::LongStr(&topic)));
        }
        if let Some(sender) = &flow.sender {
            additions.push(("sender", Value::LongStr(sender.as_bytes())));
        }
        let header = self.marked_header(properties, &additions, content.body.len(), now_ms);
        let mut names = SmallVec::<[u8; 128]>::new();
        push_names(&mut names, flow.exchange.as_bytes(), &topic);
        let route = self.topic_route(flow, &names);
        let flags = if flow.exclude_own.load(Ordering::Relaxed) {
            EXCLUDE_OWN
        } else {
            0
        };
        let marked = Content {
            names: &names,
            header: &header,
            body: content.body,
        };
        let entry = stage(&self.vhost, &mut self.batch, &mut self.large, flags, marked);
        self.properties = header;
        self.note_accepted(source, flow, entry, route);
    }

    fn note_accepted(
        &mut self,
        source: &Arc<Queue>,
        flow: &Arc<Flow>,
        entry: Entry,
        route: Arc<[Target]>,
    ) {
        let known = self
            .accepted
            .iter()
            .position(|a| Arc::ptr_eq(&a.source, source));
        let index = known.unwrap_or_else(|| {
            self.accepted.push(Accepted {
                source: Arc::clone(source),
                flow: Arc::clone(flow),
                entries: self.spare.pop().unwrap_or_default(),
                routes: Routes::new(),
            });
            self.accepted.len() - 1
        });
        let accepted = &mut self.accepted[index];
        if !accepted
            .routes
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, &route))
        {
            accepted.routes.push(route);
        }
        let seq = accepted.routes.len() as u64 - 1;
        accepted.entries.push(Entry { seq, ..entry });
    }

    /// The queues for messages with the exchange and topic in `names`.
    fn topic_route(&mut self, flow: &Flow, names: &[u8]) -> Arc<[Target]> {
        let topology = self.vhost.topology();
        let slot = match self.topics.find(names, topology.generation()) {
            Some(slot) => slot,
            None => {
                let mut targets = Targets::new();
                let key = &names[flow.exchange.len() + 2..];
                let exchange = flow.exchange.as_bytes();
                let found = topology.route_internal(exchange, key, None, &mut targets);
                // A flow never feeds a queue with a flow: that could lock in circles, or never end.
                targets.retain(|(_, queue)| queue.flow().is_none());
                let generation = found.map_or(0, |f| if f.cacheable { f.generation } else { 0 });
                self.topics.insert(names, generation, &targets)
            }
        };
        Arc::clone(&self.topics.get(slot).targets)
    }

    /// The message's content header with what the bus adds.
    fn marked_header(
        &mut self,
        properties: Properties<'_>,
        additions: &[(&str, Value<'_>)],
        body_len: usize,
        now_ms: u64,
    ) -> Vec<u8> {
        let mut header = std::mem::take(&mut self.properties);
        header.clear();
        record::write_header(&mut header, body_len, &[]);
        let mut id = None;
        if properties.message_id().is_none() {
            self.ids += 1;
            self.id.truncate(self.id_prefix_len);
            write!(self.id, "{:x}", self.ids).expect("a string takes everything");
            id = Some(self.id.as_str());
        }
        let timestamp = now_ms / 1000;
        properties::with_additions(properties, additions, id, Some(timestamp), &mut header);
        header
    }

    fn dead_letter(
        &mut self,
        flow: &Flow,
        properties: Properties<'_>,
        content: Content<'_>,
        reason: &str,
        now_ms: u64,
    ) {
        let client = flow.sender.as_deref().unwrap_or("");
        let additions = [
            ("reason", Value::LongStr(reason.as_bytes())),
            ("client", Value::LongStr(client.as_bytes())),
        ];
        let header = self.marked_header(properties, &additions, content.body.len(), now_ms);
        let marked = Content {
            header: &header,
            ..content
        };
        let entry = stage(&self.vhost, &mut self.batch, &mut self.large, 0, marked);
        self.properties = header;
        self.own_copies(entry, 1);
        let target = Target {
            queue: Arc::clone(&flow.dead_letters),
            flow: None,
        };
        let index = pending_of(&target, &mut self.pending, &mut self.spare);
        self.pending[index as usize].entries.push(entry);
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

    fn retain_large(&self, entry: Entry, count: u64) {
        let segment = self.large.iter().find(|s| s.id() == entry.segment);
        let segment = segment.expect("an entry is in the batch or in a large segment");
        self.vhost.arena().retain(segment, count);
    }

    /// Moves accepted messages to where they go now: the inboxes, or the flow's own queue.
    pub(super) fn commit_accepted(&mut self, accepted: Accepted, batch: Option<&Arc<Segment>>) {
        let Accepted {
            source,
            flow,
            mut entries,
            routes,
        } = accepted;
        add(&flow.counters.accepted, entries.len() as u64);
        place(&mut entries, batch);
        let mut state = source.lock();
        // The lock makes the answer for the source certain. The queue between is asked without its
        // own: what this sender has there was pushed by the source's mover, which settled it in the
        // source, under the lock that is held here, after that push raised `busy` over there. What
        // other senders have there has no order towards these messages.
        let way_is_free = source.is_idle() && flow.via.as_ref().is_none_or(|via| via.is_idle());
        if way_is_free {
            self.commit_fused(&flow, &entries, &routes, batch, source.id());
        } else {
            self.retain_all(&entries, batch, |_| 1);
            if !source.push_locked(&mut state, &entries, &mut self.wakes) {
                crate::flow::release(self.vhost.arena(), &entries);
            }
        }
        drop(state);
        self.keep_spare(entries);
    }

    fn commit_fused(
        &mut self,
        flow: &Flow,
        entries: &[Entry],
        routes: &[Arc<[Target]>],
        batch: Option<&Arc<Segment>>,
        locked: u64,
    ) {
        let mut fan = std::mem::take(&mut self.fan);
        let mut lists: SmallVec<[SmallVec<[u32; 8]>; 4]> = SmallVec::with_capacity(routes.len());
        for route in routes {
            let targets = route
                .iter()
                .filter(|t| t.queue.id() != locked && !flow.excludes(&t.queue));
            lists.push(
                targets
                    .map(|t| pending_of(t, &mut fan, &mut self.spare))
                    .collect(),
            );
        }
        let copies = |entry: &Entry| lists[entry.seq as usize].len() as u64;
        self.retain_all(entries, batch, copies);
        let mut unrouted = 0;
        for entry in entries {
            let list = &lists[entry.seq as usize];
            unrouted += u64::from(list.is_empty());
            for index in list {
                fan[*index as usize].entries.push(*entry);
            }
        }
        let vhost = Arc::clone(&self.vhost);
        let mut delivered = 0;
        for Pending { queue, entries } in fan.drain(..) {
            delivered += push(&queue, &entries, vhost.arena(), &mut self.wakes);
            self.keep_spare(entries);
        }
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

fn push_names(out: &mut SmallVec<[u8; 128]>, exchange: &[u8], key: &[u8]) {
    for name in [exchange, key] {
        out.push(u8::try_from(name.len()).expect("names are at most 255 bytes"));
        out.extend_from_slice(name);
    }
}
