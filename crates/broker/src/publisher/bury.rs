//! Dead letters on their way: from the queue in which a message died to the queues that its dead-letter exchange names.
//!
//! Who causes a death takes the message out of its queue under the queue's lock, and calls [`bury`] afterwards, under no
//! lock. Between durable queues a dead letter moves in one record of the log, which settles the message where it died: a
//! crash neither loses nor doubles it. If the log refuses, it waits ([`Vhost::postpone`]) and is tried again by
//! [`Vhost::tick`].
//!
//! What comes to a queue may push out others, which are dead letters too: they go to the end of a list of work, so that the
//! stack does not grow with the length of such a chain.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use ahash::AHashMap;
use backbone_log::{Arena, Batch, Segment};
use backbone_wire::table::Table;

use super::by_rules::{home, push};
use super::{Lists, Plan, Spare, THIS_BATCH, add_number, place, stage};
use crate::counters::add;
use crate::death::{Cause, Letter};
use crate::flow::release;
use crate::queue::{Admission, DeadLetterTo, Incoming, Lost, Queue, Wakes};
use crate::record::{self, Content, Entry, Record};
use crate::topology::Targets;
use crate::vhost::Vhost;

/// Messages that are published at once.
const BATCH_MESSAGES_MAX: usize = 512;
/// Bytes of records after which a batch ends.
const BATCH_BYTES_MAX: usize = 128 * 1024;

/// Messages that died in a queue. The copies are the holder's; for the log they are still in the queue.
#[derive(Debug)]
pub struct Dead {
    /// Where.
    pub queue: Arc<Queue>,
    /// Of what.
    pub cause: Cause,
    /// In the order in which they had stood.
    pub entries: Vec<Entry>,
}

/// Takes note of what a queue lost.
pub(crate) fn note_lost(queue: &Arc<Queue>, lost: Lost, dead: &mut Vec<Dead>) {
    let Lost {
        overflowed,
        expired,
    } = lost;
    for (cause, entries) in [(Cause::Expired, expired), (Cause::MaxLen, overflowed)] {
        if !entries.is_empty() {
            let queue = Arc::clone(queue);
            dead.push(Dead {
                queue,
                cause,
                entries,
            });
        }
    }
}

/// Publishes dead letters as their queues want it at `now_ms` (Unix time), or drops them, and settles them where they died.
/// Nothing may be locked.
pub fn bury(vhost: &Vhost, dead: &mut Vec<Dead>, now_ms: u64, wakes: &mut Wakes) {
    let mut work: VecDeque<Dead> = dead.drain(..).flat_map(in_parts).collect();
    while let Some(mut next) = work.pop_front() {
        let counter = vhost.counters().dead_lettered(next.cause);
        let Some(to) = next.queue.dead_letters_to() else {
            drop_dead(vhost, &next);
            continue;
        };
        while !next.entries.is_empty() {
            let mut load = Load::default();
            let taken = load.take(vhost, &next, &to, now_ms);
            if !load.log(vhost, &next.queue, wakes) {
                load.discard(vhost);
                vhost.postpone(next);
                break;
            }
            add(counter, taken as u64);
            let mut more = Vec::new();
            load.deliver(vhost, &mut more, wakes);
            work.extend(more.into_iter().flat_map(in_parts));
            if next.queue.counts_returns() {
                let mut numbers = Vec::new();
                let entries = &next.entries[..taken];
                entries
                    .iter()
                    .for_each(|entry| add_number(&mut numbers, entry.seq));
                vhost.forget_counts(&next.queue, &numbers);
            }
            release(vhost.arena(), &next.entries[..taken]);
            next.entries.drain(..taken);
        }
    }
    wakes.ring();
}

/// The same by the queues that the log knows them of.
fn in_parts(dead: Dead) -> impl Iterator<Item = Dead> {
    let cause = dead.cause;
    let parts = dead.queue.in_parts(dead.entries).into_iter();
    parts.map(move |(queue, entries)| Dead {
        queue,
        cause,
        entries,
    })
}

/// Settles messages that go nowhere.
fn drop_dead(vhost: &Vhost, dead: &Dead) {
    vhost.settle_entries(&dead.queue, &dead.entries, dead.cause.in_log());
    release(vhost.arena(), &dead.entries);
}

/// A batch of dead letters under construction.
#[derive(Default)]
struct Load {
    batch: Vec<u8>,
    large: Vec<Arc<Segment>>,
    /// Copies that entries own in the batch.
    copies: u64,
    lists: Lists,
    spare: Spare,
    plan: Plan,
    /// Numbers of those that go nowhere.
    nowhere: Vec<Range<u64>>,
    guard: Option<Arc<Segment>>,
    /// What was refused by queues that make dead letters of that.
    refused: Vec<Dead>,
}

impl Load {
    /// Takes as many letters as fit; returns how many.
    fn take(&mut self, vhost: &Vhost, dead: &Dead, to: &DeadLetterTo, now_ms: u64) -> usize {
        let mut segments: AHashMap<u32, Arc<Segment>> = AHashMap::new();
        let arena = vhost.arena();
        let mut taken = 0;
        for entry in dead.entries.iter().take(BATCH_MESSAGES_MAX) {
            let segment = segments
                .entry(entry.segment)
                .or_insert_with(|| arena.segment(entry.segment));
            let message = Record::read(segment, entry.offset);
            let letter = Letter::of(&message, dead.queue.name(), dead.cause, to, now_ms / 1000);
            self.add(vhost, dead, entry, &letter, message.body, now_ms);
            taken += 1;
            if self.batch.len() >= BATCH_BYTES_MAX || !self.large.is_empty() {
                break;
            }
        }
        taken
    }

    fn add(
        &mut self,
        vhost: &Vhost,
        dead: &Dead,
        entry: &Entry,
        letter: &Letter,
        body: &[u8],
        now_ms: u64,
    ) {
        let logged = entry.is_logged() && !dead.queue.is_deleted();
        let content = Content {
            names: &letter.names,
            header: &letter.header,
            body,
        };
        let (admitted, refused_by) = ask(targets(vhost, dead, letter), body.len());
        if admitted.is_empty() && refused_by.is_empty() {
            if logged {
                add_number(&mut self.nowhere, entry.seq);
            }
            return;
        }
        let timed = admitted.iter().any(|(_, flags)| flags & Entry::TIMED != 0);
        let accepted = timed.then_some(now_ms);
        let staged = stage(
            vhost,
            &mut self.batch,
            &mut self.large,
            0,
            accepted,
            content,
        );
        self.own(
            vhost.arena(),
            staged,
            (admitted.len() + refused_by.len()) as u64,
        );
        for queue in refused_by {
            let (cause, entries) = (Cause::MaxLen, vec![staged]);
            self.refused.push(Dead {
                queue,
                cause,
                entries,
            });
        }
        let persistent = record::is_persistent(content.header);
        let logs = |queue: &Queue| queue.logs() && (persistent || queue.counts_returns());
        if logged || admitted.iter().any(|(queue, _)| logs(queue)) {
            self.plan.add(&staged, logged.then_some(entry.seq));
        }
        for (queue, flags) in admitted {
            let home = home(&queue, content.header, flags);
            let index = self.lists.of(&home, None, &mut self.spare);
            let flags = staged.flags | flags;
            let entry = Entry { flags, ..staged };
            match logs(&queue) {
                true => self.plan.enlist(&mut self.lists, index, entry),
                false => self.lists.push(index, entry),
            }
        }
    }

    fn own(&mut self, arena: &Arena, entry: Entry, count: u64) {
        if entry.segment == THIS_BATCH {
            self.copies += count;
            return;
        }
        let segment = self.large.iter().find(|s| s.id() == entry.segment);
        arena.retain(segment.expect("it was just staged"), count);
    }

    /// Has the log take the letters from where they died to where they go, in one batch. False when it refuses.
    fn log(&mut self, vhost: &Vhost, from: &Queue, wakes: &mut Wakes) -> bool {
        if !self.batch.is_empty() {
            let copies = 1 + self.copies;
            let guard = vhost.arena().commit(&mut self.batch, copies);
            for list in self.lists.all() {
                place(&mut list.entries, Some(&guard));
            }
            for refused in &mut self.refused {
                place(&mut refused.entries, Some(&guard));
            }
            self.plan.place(THIS_BATCH, guard.id());
            self.guard = Some(guard);
        }
        let Some(durable) = vhost.durable() else {
            return true;
        };
        if !self.plan.is_empty() {
            let (guard, large) = (&self.guard, &self.large);
            let segment = |id| {
                let mut own = guard.iter().chain(large);
                let segment = own.find(|segment| segment.id() == id);
                &**segment.expect("a letter is in the batch or in a large segment")
            };
            let lists = self.lists.all();
            let logged = self
                .plan
                .append(durable, lists, from.id(), None, segment, wakes);
            if logged.is_err() {
                return false;
            }
            durable.log().write_soon();
        }
        if !self.nowhere.is_empty() {
            let mut batch = Batch::new();
            batch.settle(from.id(), &self.nowhere, backbone_log::Reason::Drop);
            vhost.settle(&mut batch);
        }
        true
    }

    fn deliver(&mut self, vhost: &Vhost, dead: &mut Vec<Dead>, wakes: &mut Wakes) {
        for list in self.lists.take() {
            push(vhost, &list, dead, wakes);
        }
        dead.append(&mut self.refused);
        self.let_go(vhost);
    }

    /// The log refused them.
    fn discard(&mut self, vhost: &Vhost) {
        for list in self.lists.take() {
            list.queue.dismiss(&list.entries);
            release(vhost.arena(), &list.entries);
        }
        for refused in self.refused.drain(..) {
            release(vhost.arena(), &refused.entries);
        }
        self.let_go(vhost);
    }

    fn let_go(&mut self, vhost: &Vhost) {
        for guard in self.guard.take().into_iter().chain(self.large.drain(..)) {
            vhost.arena().release_held(guard, 1);
        }
    }
}

/// A queue that lets a message in, and the flags of its entry.
type Admitted = (Arc<Queue>, u32);

/// Asks the queues that a letter goes to: those that let it in, with the flags of its entry, and those that refuse it and make
/// a dead letter of it.
fn ask(targets: Targets<Arc<Queue>>, body_len: usize) -> (Vec<Admitted>, Vec<Arc<Queue>>) {
    let incoming = Incoming {
        body_len,
        expiration: None,
    };
    let (mut admitted, mut refused) = (Vec::with_capacity(targets.len()), Vec::new());
    for (_, queue) in targets {
        match queue.admit(&queue.settings(), &incoming) {
            Admission::In(flags) => admitted.push((queue, flags)),
            Admission::Refused { to_dead_letters } if to_dead_letters => refused.push(queue),
            Admission::Refused { .. } => {}
        }
    }
    (admitted, refused)
}

/// The queues that a letter goes to, without those to which it would go in a circle.
fn targets(vhost: &Vhost, dead: &Dead, letter: &Letter) -> Targets<Arc<Queue>> {
    let mut targets = Targets::new();
    let exchange = &letter.names[1..=usize::from(letter.names[0])];
    let headers = Table::assume_checked(&letter.headers);
    let topology = vhost.topology();
    for key in letter.keys() {
        if topology
            .route_internal(exchange, key, Some(headers), &mut targets)
            .is_err()
        {
            // There is no such exchange now.
            targets.clear();
            break;
        }
    }
    // What a flow takes in has to be published to it.
    targets.retain(|(_, queue)| queue.flow().is_none());
    let found = targets.len();
    targets.retain(|(_, queue)| !letter.goes_in_a_circle(queue.name(), dead.cause));
    if targets.len() < found {
        vhost.note_circle(&dead.queue, (found - targets.len()) as u64);
    }
    targets
}
