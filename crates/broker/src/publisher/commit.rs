//! The commit of a batch: into the log what has to be there, then into the queues.

use std::sync::Arc;

use backbone_log::Segment;

use super::{List, Plan, Publisher, THIS_BATCH, by_rules};
use crate::counters::add;
use crate::flow::release;
use crate::queue::{Pushed, State, Wakes};
use crate::record::Entry;
use crate::vhost::Vhost;

impl Publisher {
    /// Puts the batch into its queues, and into the log what has to be there, and rings the bells. After it everything
    /// published is where it belongs, and as safe as it has to be once [`Publisher::promise`] is kept. Unless
    /// the log refuses: see [`Publisher::is_stalled`].
    #[inline(never)]
    pub fn commit(&mut self) {
        if self.messages == 0 {
            return;
        }
        let vhost = Arc::clone(&self.vhost);
        let arena = vhost.arena();
        let copies = std::mem::take(&mut self.copies);
        let guard = (!self.batch.is_empty()).then(|| arena.commit(&mut self.batch, 1 + copies));
        self.epoch += 1;
        self.stalled = false;
        self.place_dead(guard.as_ref());
        let mut accepted = self.accepted.take();
        let mut refused = Vec::new();
        for accepted in accepted.drain(..) {
            match refused.is_empty() {
                true => refused.extend(self.commit_accepted(accepted, guard.as_ref())),
                false => refused.push(accepted),
            }
        }
        self.accepted.reuse(accepted);
        if !refused.is_empty() || !self.commit_pending(guard.as_ref()) {
            return self.stall(refused, guard);
        }
        self.topic_routes.clear();
        for guard in guard.into_iter().chain(self.large.drain(..)) {
            arena.release_held(guard, 1);
        }
        add(&vhost.counters().messages_received, self.messages);
        self.messages = 0;
        self.wakes.ring();
        self.write_logged();
        if !self.dead.is_empty() {
            self.bury();
        }
    }

    /// Has written what the log got of this commit.
    fn write_logged(&mut self) {
        if std::mem::take(&mut self.logged)
            && let Some(durable) = self.vhost.durable()
        {
            durable.log().write_soon();
        }
    }

    /// Pushes what goes to queues. False when the log refused it: it stays.
    fn commit_pending(&mut self, batch: Option<&Arc<Segment>>) -> bool {
        let vhost = Arc::clone(&self.vhost);
        let mut pending = self.pending.take();
        for list in &mut pending {
            place(&mut list.entries, batch);
        }
        if !self.plan.is_empty() {
            let mut plan = std::mem::take(&mut self.plan);
            if let Some(batch) = batch {
                plan.place(THIS_BATCH, batch.id());
            }
            let logged = self.append(&plan, &mut pending, None, batch);
            if !logged {
                self.plan = plan;
                self.pending.put_back(pending);
                return false;
            }
            plan.clear();
            self.plan = plan;
        }
        let (mut routed, now_ms) = (0, self.now_ms);
        for list in pending.drain(..) {
            routed += by_rules::push(&vhost, &list, now_ms, &mut self.dead, &mut self.wakes);
            self.spare.keep(list.entries);
        }
        self.pending.reuse(pending);
        add(&vhost.counters().messages_routed, routed);
        true
    }

    /// Appends what `plan` says of `lists` to the log. False when that refuses.
    pub(super) fn append(
        &mut self,
        plan: &Plan,
        lists: &mut [List],
        locked: Option<&mut State>,
        batch: Option<&Arc<Segment>>,
    ) -> bool {
        let vhost = Arc::clone(&self.vhost);
        let durable = vhost
            .durable()
            .expect("queues log only where there is a log");
        let large = &self.large;
        let segment = |id| match batch {
            Some(batch) if batch.id() == id => &**batch,
            _ => {
                let segment = large.iter().find(|segment| segment.id() == id);
                &**segment.expect("an entry is in the batch or in a large segment")
            }
        };
        match plan.append(durable, lists, 0, locked, segment, &mut self.wakes) {
            Ok(logged) => {
                self.promise = self.promise.and(logged.promise);
                self.over = logged.over.unwrap_or(self.over);
                self.logged = true;
                true
            }
            Err(_) => false,
        }
    }

    /// The log took nothing: what is left waits for the next commit.
    #[cold]
    fn stall(&mut self, refused: Vec<List>, guard: Option<Arc<Segment>>) {
        self.accepted.put_back(refused);
        for list in self.accepted.all().iter_mut().chain(self.pending.all()) {
            place(&mut list.entries, guard.as_ref());
        }
        if let Some(guard) = guard {
            self.plan.place(THIS_BATCH, guard.id());
            self.large.push(guard);
        }
        self.stalled = true;
        self.wakes.ring();
        self.write_logged();
    }

    /// Drops what was published and not committed.
    pub fn discard(&mut self) {
        let vhost = Arc::clone(&self.vhost);
        let arena = vhost.arena();
        for list in self.pending.take() {
            let staged = |entry: &&Entry| entry.segment != THIS_BATCH;
            for entry in list.entries.iter().filter(staged) {
                arena.release(entry.segment, 1);
            }
            list.queue.dismiss(&list.entries);
        }
        for dead in self.dead.drain(..) {
            let staged = dead.entries.iter().filter(|it| it.segment != THIS_BATCH);
            staged.for_each(|entry| arena.release(entry.segment, 1));
        }
        drop(self.accepted.take());
        for guard in self.large.drain(..) {
            arena.release_held(guard, 1);
        }
        self.batch.clear();
        self.plan.clear();
        self.topic_routes.clear();
        (self.copies, self.messages, self.stalled) = (0, 0, false);
        self.epoch += 1;
    }
}

/// Names the batch's segment in its entries.
pub(super) fn place(entries: &mut [Entry], batch: Option<&Arc<Segment>>) {
    let Some(batch) = batch else { return };
    for entry in entries {
        if entry.segment == THIS_BATCH {
            entry.segment = batch.id();
        }
    }
}

/// Pushes a list's entries into a plain queue; they own their copies. Returns how many the queue took.
pub(super) fn push(vhost: &Vhost, list: &List, wakes: &mut Wakes) -> u64 {
    let (queue, entries) = (&list.queue, &list.entries);
    if entries.is_empty() {
        return 0;
    }
    if list.reserved.is_none() {
        // Of a logged list: the queue was deleted, and says so again.
        if queue.push(entries, wakes) {
            return entries.len() as u64;
        }
        release(vhost.arena(), entries);
        return 0;
    }
    let mut dropped = Vec::new();
    let pushed = queue.push_reserved(entries, vhost.keep(), &mut dropped, wakes);
    finish(vhost, list, pushed, &dropped)
}

/// After a push of reserved numbers: gives up copies that are not needed. Returns how many the queue took.
pub(super) fn finish(vhost: &Vhost, list: &List, pushed: Pushed, dropped: &[Entry]) -> u64 {
    match pushed {
        Pushed::Taken => {
            release(vhost.arena(), dropped);
            list.entries.len() as u64
        }
        Pushed::Deleted { last } => {
            release(vhost.arena(), &list.entries);
            if last {
                vhost.forget_messages(&list.queue);
            }
            0
        }
    }
}
