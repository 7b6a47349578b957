//! Messages for queues that are not plain: asked for before they are taken, and pushed by the queue's rules.

use std::sync::Arc;

use backbone_log::{Batch, Reason, Segment};

use super::bury::{Dead, bury, note_lost};
use super::commit::finish;
use super::headers::Headers;
use super::{List, Publisher, Routed, add_number, place, stage};
use crate::counters::add;
use crate::death::Cause;
use crate::dedup::{Dedup, Seen};
use crate::delay;
use crate::flow::release;
use crate::queue::{Admission, Incoming, Lost, Pushed, Queue, Wakes, read_expiries};
use crate::record::{self, Content, Entry, Record};
use crate::vhost::Vhost;

impl Publisher {
    /// As [`Publisher::take`], where a queue of the route is not plain, or the message can expire.
    #[cold]
    #[inline(never)]
    pub(super) fn take_by_rules(
        &mut self,
        number: usize,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Routed {
        match self.current(number).dedup.is_some() {
            false => self.take_now(number, content, headers, now_ms),
            true => self.take_once(number, content, headers, now_ms),
        }
    }

    /// The same where the exchange drops repeats.
    #[cold]
    #[inline(never)]
    fn take_once(
        &mut self,
        number: usize,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Routed {
        let dedup = self.current(number).dedup.clone();
        let dedup = dedup.expect("the caller has seen it");
        let taken = self.once(&dedup, content, now_ms, |this| {
            Ok(this.take_now(number, content, headers, now_ms))
        });
        let taken = taken.expect("what is taken here is never an error");
        taken.unwrap_or(Routed::Queues)
    }

    /// Takes a message that did not come before.
    // Once a message: a call more is measured (benches/instructions.txt).
    #[inline(always)]
    fn take_now(
        &mut self,
        number: usize,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Routed {
        if !self.current(number).is_kept() {
            return self.take_ruled(number, content, headers, now_ms);
        }
        self.while_none_joins(|this| match this.resolve(content) {
            // Whoever joined meanwhile is found now.
            Ok(number) => this.take_ruled(number, content, headers, now_ms),
            Err(_) => Routed::Nowhere,
        })
    }

    /// Has `take` route a message and commit it, while nobody is bound who gets what an exchange keeps.
    pub(super) fn while_none_joins<R>(&mut self, take: impl FnOnce(&mut Self) -> R) -> R {
        let vhost = Arc::clone(&self.vhost);
        let joins = vhost.joins.read();
        self.holds_joins = true;
        let taken = take(self);
        self.holds_joins = false;
        drop(joins);
        if !self.dead.is_empty() && !self.stalled {
            self.bury();
        }
        taken
    }

    /// The same. If an exchange keeps the message, [`Vhost::joins`] is held.
    pub(super) fn take_ruled(
        &mut self,
        number: usize,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Routed {
        self.now_ms = now_ms;
        let route = self.current(number);
        let targets = Arc::clone(&route.targets);
        let places = route.pending.clone();
        if targets.is_empty() {
            return Routed::Nowhere;
        }
        let incoming = Incoming {
            body_len: content.body.len(),
            expiration: headers.expiration,
        };
        let (mut admitted, mut flows, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let is_kept = targets.iter().any(|it| it.queue.is_history());
        let mut routed = match targets.iter().all(|it| it.queue.is_history()) {
            true => Routed::Nowhere,
            false => Routed::Queues,
        };
        let plain = Arc::default();
        let persistent = record::is_persistent(content.header);
        for (target, place) in targets.iter().zip(places) {
            if target.flow.is_some() {
                flows.push(place);
                continue;
            }
            let settings = target.settings.as_ref().unwrap_or(&plain);
            match target.queue.admit(settings, &incoming) {
                Admission::In(flags) => {
                    // A quorum queue stores whatever comes, and so does what lets messages wait.
                    let logs = target.logs && (persistent || target.queue.stores_all());
                    let place = match target.ranked {
                        false => place,
                        true => {
                            let level = home(&target.queue, content.header, flags);
                            self.pending.of(&level, None, &mut self.spare)
                        }
                    };
                    admitted.push((place, logs, flags));
                }
                Admission::Refused { to_dead_letters } => {
                    routed = Routed::Refused;
                    if to_dead_letters {
                        refused.push(Arc::clone(&target.queue));
                    }
                }
            }
        }
        if !admitted.is_empty() || !refused.is_empty() {
            let timed = admitted.iter().any(|(.., flags)| flags & Entry::TIMED != 0);
            let accepted = timed.then_some(now_ms);
            let (batch, large) = (&mut self.batch, &mut self.large);
            let mut entry = stage(&self.vhost, batch, large, 0, accepted, content);
            entry.flags = Entry::overhead(entry.len as usize - content.body.len());
            self.own_copies(entry, (admitted.len() + refused.len()) as u64);
            self.enlist(entry, &admitted);
            for queue in refused {
                let (cause, entries) = (Cause::MaxLen, vec![entry]);
                self.dead.push(Dead {
                    queue,
                    cause,
                    entries,
                });
            }
        }
        for accepted in flows {
            self.accept(accepted, content, headers, now_ms);
        }
        match is_kept || targets.iter().any(|it| it.ranked && it.queue.refuses()) {
            // What is let in takes its room with the commit, and what is kept is there before others join.
            true => self.commit(),
            false => self.commit_if_full(),
        }
        routed
    }

    /// Puts a message into the lists of the queues that let it in: place, whether it is logged, flags.
    fn enlist(&mut self, entry: Entry, admitted: &[(u32, bool, u32)]) {
        let mut planned = false;
        for (place, logs, flags) in admitted {
            let flags = entry.flags | flags;
            let entry = Entry { flags, ..entry };
            if !*logs {
                self.pending.push(*place, entry);
                continue;
            }
            if !planned {
                self.plan.add(&entry, None);
                planned = true;
            }
            self.plan.enlist(&mut self.pending, *place, entry);
        }
    }

    /// Names the batch's segment in what was refused.
    pub(super) fn place_dead(&mut self, batch: Option<&Arc<Segment>>) {
        for dead in &mut self.dead {
            place(&mut dead.entries, batch);
        }
    }

    /// Makes dead letters of what the batch pushed out, and of what was refused.
    #[cold]
    pub(super) fn bury(&mut self) {
        if self.holds_joins {
            return;
        }
        let vhost = Arc::clone(&self.vhost);
        bury(&vhost, &mut self.dead, self.now_ms, &mut self.wakes);
    }
}

/// Where a message with this content header, whose entry has these flags, is put.
pub(super) fn home(queue: &Arc<Queue>, header: &[u8], flags: u32) -> Arc<Queue> {
    let home = queue.home(header);
    if flags & Entry::TIMED != 0 {
        home.expect_timed();
    }
    home
}

/// Pushes a list's entries, which own their copies; returns how many the queue took. What they push out goes to `dead`.
pub(crate) fn push(
    vhost: &Vhost,
    list: &List,
    now_ms: u64,
    dead: &mut Vec<Dead>,
    wakes: &mut Wakes,
) -> u64 {
    match list.queue.is_ruled() {
        false => super::commit::push(vhost, list, wakes),
        true => push_by_rules(vhost, list, now_ms, dead, wakes),
    }
}

#[cold]
#[inline(never)]
fn push_by_rules(
    vhost: &Vhost,
    list: &List,
    now_ms: u64,
    dead: &mut Vec<Dead>,
    wakes: &mut Wakes,
) -> u64 {
    let queue = &list.queue;
    if queue.is_schedule() {
        return push_scheduled(vhost, list, wakes);
    }
    if queue.is_history() {
        return remember(vhost, list);
    }
    let entries = list.entries.clone();
    if entries.is_empty() {
        return 0;
    }
    match queue.dedup() {
        None => push_entries(vhost, list, entries, dead, wakes),
        Some(dedup) => push_once(vhost, dedup, list, now_ms, dead, wakes),
    }
}

/// The same into a queue that drops repeats.
#[cold]
#[inline(never)]
fn push_once(
    vhost: &Vhost,
    dedup: &Dedup,
    list: &List,
    now_ms: u64,
    dead: &mut Vec<Dead>,
    wakes: &mut Wakes,
) -> u64 {
    let mut entries = list.entries.clone();
    // Held until they are pushed, so that of two with one key the first one is.
    let mut seen = dedup.lock();
    let mut repeats = take_repeats(vhost, dedup, &mut seen, &mut entries, now_ms);
    if !repeats.is_empty() && !drop_repeats(vhost, list, &repeats) {
        (entries, repeats) = (list.entries.clone(), Vec::new());
    }
    let pushed = push_entries(vhost, list, entries, dead, wakes);
    drop(seen);
    if pushed == 0 {
        return 0;
    }
    let count = repeats.len() as u64;
    dedup.count(count);
    add(&vhost.counters().messages_deduplicated, count);
    release(vhost.arena(), &repeats);
    pushed - count
}

/// Takes what came before out of `entries`, and remembers the others.
fn take_repeats(
    vhost: &Vhost,
    dedup: &Dedup,
    seen: &mut Seen,
    entries: &mut Vec<Entry>,
    now_ms: u64,
) -> Vec<Entry> {
    let mut repeats = Vec::new();
    entries.retain(|entry| {
        let segment = vhost.arena().segment(entry.segment);
        let Some(key) = dedup.key(Record::read(&segment, entry.offset).header) else {
            return true;
        };
        let is_new = !seen.knows(&key, now_ms);
        match is_new {
            true => seen.note(key, now_ms),
            false => repeats.push(*entry),
        }
        is_new
    });
    repeats
}

/// Has the log settle messages that came before, while their numbers are in flight, so that none is paged in. False: it takes
/// nothing now, and they stay.
fn drop_repeats(vhost: &Vhost, list: &List, repeats: &[Entry]) -> bool {
    let (queue, mut numbers) = (&list.queue, Vec::new());
    for entry in repeats.iter().filter(|entry| entry.is_logged()) {
        add_number(&mut numbers, entry.seq);
    }
    // Without reserved numbers the queue is deleted, or the log knows of none of them.
    let known = list.reserved.is_some() && !numbers.is_empty();
    if let (Some(durable), true) = (vhost.durable(), known) {
        let mut batch = Batch::new();
        batch.settle(queue.id(), &numbers, Reason::Drop);
        if durable.append(&mut batch).is_err() {
            return false;
        }
    }
    queue.dismiss(repeats);
    true
}

/// Pushes `entries`, which are those of the list or some of them. If the queue is deleted, all of the list's copies are given up.
#[inline(always)]
fn push_entries(
    vhost: &Vhost,
    list: &List,
    mut entries: Vec<Entry>,
    dead: &mut Vec<Dead>,
    wakes: &mut Wakes,
) -> u64 {
    let queue = &list.queue;
    let ttl = queue.settings().message_ttl_ms;
    let mut expiries = Vec::with_capacity(entries.len());
    read_expiries(vhost.arena(), &entries, ttl, &mut expiries);
    let (mut dropped, mut lost) = (Vec::new(), Lost::default());
    let mut state = queue.lock();
    state.enter(&mut entries);
    let pushed = match &list.reserved {
        None => {
            state.number(&mut entries);
            match queue.push_locked(&mut state, &entries, wakes) {
                true => Pushed::Taken,
                false => Pushed::Deleted { last: false },
            }
        }
        Some(reserved) => {
            let (keep, numbers) = (vhost.keep(), &reserved.numbers);
            queue.push_some_reserved(&mut state, numbers, &entries, keep, &mut dropped, wakes)
        }
    };
    if pushed == Pushed::Taken {
        queue.enforce(&mut state, &entries, &expiries, &mut lost, wakes);
    }
    drop(state);
    note_lost(queue, lost, dead);
    let mut lost = Lost::default();
    if let Some(front) = queue.overflow_above(&mut lost, wakes) {
        note_lost(&front, lost, dead);
    }
    finish(vhost, list, pushed, &dropped)
}

/// Puts a list's entries into the own queue of a delayed exchange. None counts as routed until it is due.
fn push_scheduled(vhost: &Vhost, list: &List, wakes: &mut Wakes) -> u64 {
    let mut entries = list.entries.clone();
    if entries.is_empty() {
        return 0;
    }
    let mut times = Vec::with_capacity(entries.len());
    for run in entries.chunk_by(|a, b| a.segment == b.segment) {
        let segment = vhost.arena().segment(run[0].segment);
        times.extend(run.iter().map(|entry| delay::due(&segment, entry.offset)));
    }
    let (reserved, keep) = (list.reserved.is_some(), vhost.keep());
    let (queue, mut dropped) = (&list.queue, Vec::new());
    let pushed = queue.push_scheduled(&mut entries, &times, reserved, keep, &mut dropped, wakes);
    finish(vhost, list, pushed, &dropped);
    0
}

/// Has the own queue of an exchange remember a list's entries. None counts as routed.
fn remember(vhost: &Vhost, list: &List) -> u64 {
    for run in list.entries.chunk_by(|a, b| a.segment == b.segment) {
        let segment = vhost.arena().segment(run[0].segment);
        let records = run.iter();
        let records = records.map(|entry| Record::bytes(&segment, entry.offset));
        list.queue.remember(records);
    }
    release(vhost.arena(), &list.entries);
    0
}
