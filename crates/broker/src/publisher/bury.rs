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
use std::sync::Arc;

use ahash::AHashMap;
use backbone_log::Segment;
use backbone_wire::table::Table;

use super::add_number;
use super::transfer::{Going, Transfer};
use crate::counters::add;
use crate::death::{Cause, Letter};
use crate::flow::release;
use crate::queue::{DeadLetterTo, Lost, Queue, Wakes};
use crate::record::{Content, Entry, Record};
use crate::topology::Targets;
use crate::vhost::Vhost;

/// Messages that are published at once.
const BATCH_MESSAGES_MAX: usize = 512;

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
        let mut done = 0;
        while done < next.entries.len() {
            let _joins = vhost.joins.read();
            let mut transfer = Transfer::default();
            let taken = take(&mut transfer, vhost, &next, done, &to, now_ms);
            if !transfer.log(vhost, next.queue.id(), wakes) {
                transfer.discard(vhost);
                next.entries.drain(..done);
                vhost.postpone(next);
                break;
            }
            add(counter, taken as u64);
            let mut more = Vec::new();
            transfer.deliver(vhost, now_ms, &mut more, wakes);
            work.extend(more.into_iter().flat_map(in_parts));
            let gone = &next.entries[done..done + taken];
            if next.queue.counts_returns() {
                let mut numbers = Vec::new();
                gone.iter()
                    .for_each(|entry| add_number(&mut numbers, entry.seq));
                vhost.forget_counts(&next.queue, &numbers);
            }
            release(vhost.arena(), gone);
            done += taken;
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

/// Takes as many letters as fit, from the one at `from` on; returns how many.
fn take(
    transfer: &mut Transfer,
    vhost: &Vhost,
    dead: &Dead,
    from: usize,
    to: &DeadLetterTo,
    now_ms: u64,
) -> usize {
    let mut segments: AHashMap<u32, Arc<Segment>> = AHashMap::new();
    let arena = vhost.arena();
    let mut taken = 0;
    for entry in dead.entries.iter().skip(from).take(BATCH_MESSAGES_MAX) {
        let segment = segments
            .entry(entry.segment)
            .or_insert_with(|| arena.segment(entry.segment));
        let message = Record::read(segment, entry.offset);
        let letter = Letter::of(&message, dead.queue.name(), dead.cause, to, now_ms / 1000);
        let logged = entry.is_logged() && !dead.queue.is_deleted();
        let going = Going {
            source: logged.then_some(entry.seq),
            content: Content {
                names: &letter.names,
                header: &letter.header,
                body: message.body,
            },
            expiration: None,
        };
        transfer.add(vhost, &going, targets(vhost, dead, &letter), now_ms);
        taken += 1;
        if transfer.is_full() {
            break;
        }
    }
    taken
}

/// The queues that a letter goes to, without those to which it would go in a circle.
fn targets(vhost: &Vhost, dead: &Dead, letter: &Letter) -> Targets<Arc<Queue>> {
    let mut targets = Targets::new();
    let exchange = &letter.names[1..=usize::from(letter.names[0])];
    let headers = Table::assume_checked(&letter.headers);
    let topology = vhost.topology();
    let keys = letter.keys();
    let (key, further) = keys.split_first().expect("a message has a key");
    // Without the exchange there is nowhere to go.
    let _ = topology.route_letter(exchange, (key, further), headers, &mut targets);
    // What a flow takes in has to be published to it.
    targets.retain(|(_, queue)| queue.flow().is_none());
    let found = targets.len();
    targets.retain(|(_, queue)| !letter.goes_in_a_circle(queue.name(), dead.cause));
    if targets.len() < found {
        vhost.note_circle(&dead.queue, (found - targets.len()) as u64);
    }
    targets
}
