//! Messages on their way from one queue to others as new records: dead letters, and what has waited for its time.
//!
//! Between durable queues a message moves in one record of the log, which settles it where it was: a crash neither
//! loses nor doubles it. The order is [`Transfer::add`] for each message, [`Transfer::log`], and then
//! [`Transfer::deliver`], or [`Transfer::discard`] if the log refused.

use std::ops::Range;
use std::sync::Arc;

use backbone_log::{Arena, Batch, Reason, Segment};

use super::bury::Dead;
use super::by_rules::{home, push};
use super::{Lists, Plan, Spare, THIS_BATCH, add_number, place, stage};
use crate::death::Cause;
use crate::queue::{Admission, Incoming, Queue, Wakes};
use crate::record::{self, Content, Entry};
use crate::topology::Targets;
use crate::vhost::Vhost;

/// No queue has this id.
const NO_QUEUE: u64 = 0;
/// Bytes of records after which a batch ends.
const BATCH_BYTES_MAX: usize = 128 * 1024;

/// A message as it goes on.
pub(crate) struct Going<'a> {
    /// Its number in the queue that it leaves, if the log knows it there.
    pub source: Option<u64>,
    /// Its new record.
    pub content: Content<'a>,
    /// How long it may wait where it goes, in ms.
    pub expiration: Option<u64>,
}

/// A batch of messages on their way.
#[derive(Default)]
pub(crate) struct Transfer {
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

impl Transfer {
    /// Whether the batch should go before there is more.
    pub fn is_full(&self) -> bool {
        self.batch.len() >= BATCH_BYTES_MAX || !self.large.is_empty()
    }

    /// Takes a message that goes to `targets`, as far as these let it in; one that goes nowhere is settled.
    pub fn add(
        &mut self,
        vhost: &Vhost,
        going: &Going<'_>,
        targets: Targets<Arc<Queue>>,
        now_ms: u64,
    ) {
        let (content, source) = (going.content, going.source);
        let incoming = Incoming {
            body_len: content.body.len(),
            expiration: going.expiration,
        };
        let (admitted, refused_by) = ask(targets, &incoming);
        if admitted.is_empty() && refused_by.is_empty() {
            self.settle(source);
            return;
        }
        let timed = admitted.iter().any(|(_, flags)| flags & Entry::TIMED != 0);
        let accepted = timed.then_some(now_ms);
        let (batch, large) = (&mut self.batch, &mut self.large);
        let mut staged = stage(vhost, batch, large, 0, accepted, content);
        staged.flags = Entry::overhead(staged.len as usize - content.body.len());
        let count = admitted.len() + refused_by.len();
        self.own(vhost.arena(), staged, count as u64);
        for queue in refused_by {
            let (cause, entries) = (Cause::MaxLen, vec![staged]);
            self.refused.push(Dead {
                queue,
                cause,
                entries,
            });
        }
        let persistent = record::is_persistent(content.header);
        let logs = |queue: &Queue| queue.logs() && (persistent || queue.stores_all());
        if source.is_some() || admitted.iter().any(|(queue, _)| logs(queue)) {
            self.plan.add(&staged, source);
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

    /// A message with this number goes nowhere.
    pub fn settle(&mut self, source: Option<u64>) {
        if let Some(seq) = source {
            add_number(&mut self.nowhere, seq);
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

    /// Has the log take the messages from the queue `from`, where they are, to where they go, in one batch. False when it refuses.
    pub fn log(&mut self, vhost: &Vhost, from: u64, wakes: &mut Wakes) -> bool {
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
                &**segment.expect("a message is in the batch or in a large segment")
            };
            let lists = self.lists.all();
            let logged = self.plan.append(durable, lists, from, None, segment, wakes);
            if logged.is_err() {
                return false;
            }
            durable.log().write_soon();
        }
        if !self.nowhere.is_empty() {
            let mut batch = Batch::new();
            batch.settle(from, &self.nowhere, Reason::Drop);
            vhost.settle(&mut batch);
        }
        true
    }

    /// Pushes the messages to where they go; what they push out there, and what was refused, goes to `dead`. Returns how many
    /// copies queues took.
    pub fn deliver(
        &mut self,
        vhost: &Vhost,
        now_ms: u64,
        dead: &mut Vec<Dead>,
        wakes: &mut Wakes,
    ) -> u64 {
        let mut taken = 0;
        for list in self.lists.take() {
            taken += push(vhost, &list, now_ms, dead, wakes);
        }
        dead.append(&mut self.refused);
        self.let_go(vhost);
        taken
    }

    /// Logs and delivers messages that leave no queue; what the log refuses is lost. Returns how many copies queues took.
    pub fn send(mut self, vhost: &Vhost, dead: &mut Vec<Dead>, wakes: &mut Wakes) -> u64 {
        match self.log(vhost, NO_QUEUE, wakes) {
            true => self.deliver(vhost, vhost.now_ms(), dead, wakes),
            false => {
                self.discard(vhost);
                0
            }
        }
    }

    /// The log refused them.
    pub fn discard(&mut self, vhost: &Vhost) {
        for list in self.lists.take() {
            list.queue.dismiss(&list.entries);
            crate::flow::release(vhost.arena(), &list.entries);
        }
        for refused in self.refused.drain(..) {
            crate::flow::release(vhost.arena(), &refused.entries);
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

/// Asks the queues that a message goes to: those that let it in, with the flags of its entry, and those that refuse it and make
/// a dead letter of it.
fn ask(targets: Targets<Arc<Queue>>, incoming: &Incoming) -> (Vec<Admitted>, Vec<Arc<Queue>>) {
    let (mut admitted, mut refused) = (Vec::with_capacity(targets.len()), Vec::new());
    for (_, queue) in targets {
        match queue.admit(&queue.settings(), incoming) {
            Admission::In(flags) => admitted.push((queue, flags)),
            Admission::Refused { to_dead_letters } if to_dead_letters => refused.push(queue),
            Admission::Refused { .. } => {}
        }
    }
    (admitted, refused)
}
