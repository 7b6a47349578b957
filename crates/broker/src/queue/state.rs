//! What a queue's lock guards, and how messages go from the ready ones to consumers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::consumer::Consumer;
use super::levels::Levels;
use super::rules::Rules;
use super::schedule::Schedule;
use super::spill::{Room, Spill};
use super::{Bell, ConsumerId, Fetch, Wakes};
use crate::record::Entry;

#[derive(Default)]
pub(crate) struct State {
    pub(super) ready: VecDeque<Entry>,
    /// Of the records in `ready`.
    pub(super) ready_bytes: usize,
    pub(super) returned: BTreeMap<u64, Entry>,
    /// Numbers of those that came back and are in the log alone.
    pub(super) away: BTreeSet<u64>,
    /// What waits in the log instead.
    pub(super) spill: Option<Box<Spill>>,
    /// Nothing below this number is in the queue's shadow, nor will be.
    pub(super) shadow_from: u64,
    /// How often messages went to the shadow.
    pub(super) unloads: u64,
    /// Numbers that were reserved and are neither pushed nor given up.
    pub(super) in_flight: SmallVec<[Range<u64>; 1]>,
    /// Numbers without messages in the log, which it was not told of yet.
    pub(super) gaps: Vec<Range<u64>>,
    /// No number from here on was ever handed out.
    pub(super) handed_out: u64,
    /// Messages below this number may have been delivered before the start.
    pub(super) delivered_below: u64,
    /// Rung when the next page should be brought in.
    pub(super) page_bell: Option<Arc<dyn Bell>>,
    /// It was rung, and the page is not there yet.
    pub(super) page_asked: bool,
    /// Next number, ready messages and room with which nothing could be given up.
    pub(super) futile: Option<(u64, usize, Room)>,
    /// Of a queue that is not plain.
    pub(super) rules: Option<Box<Rules>>,
    /// Of the own queue of a delayed exchange: what waits there.
    pub(super) schedule: Option<Box<Schedule>>,
    /// Told when the timetable should look at the queue.
    pub(super) clock: Option<Arc<dyn Bell>>,
    pub(super) next_seq: u64,
    pub(super) unsettled: u64,
    pub(super) consumers: Vec<Option<Consumer>>,
    pub(super) consumer_count: u32,
    /// Entries assigned to consumers and not fetched.
    pub(super) assigned: u64,
    /// Consumers that ever were.
    pub(super) last_serial: u64,
    /// Whose turn it is: by priority, and in the order in which they came. With a single active consumer: who is next
    /// to be that.
    pub(super) turn: VecDeque<u32>,
    /// Only one of the consumers gets messages at a time: the active one.
    pub(super) single_active: bool,
    /// Its slot. `None`: there is no consumer.
    pub(super) active: Option<u32>,
    /// Nothing is handed out.
    pub(super) paused: bool,
    /// What follows from these three: not all consumers get messages, and which one does.
    pub(super) serves_one: bool,
    pub(super) served: Option<u32>,
    pub(super) exclusive: bool,
    /// Of a priority queue: where its messages are.
    pub(super) levels: Option<Arc<Levels>>,
    /// Of a level of one: what to ring with which key when messages wait.
    pub(super) front: Option<(Arc<dyn Bell>, u8)>,
    /// Bells of levels, to be rung once the locks are released.
    pub(super) late: Wakes,
    /// The consumer that is this queue's flow.
    pub(super) mover: Option<ConsumerId>,
    pub(super) deleted: bool,
}

impl State {
    /// Whether the queue is deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted
    }

    pub(super) fn ready_len(&self) -> u64 {
        let levels = self.levels.as_ref().map_or(0, |levels| levels.ready_len());
        let here = self.ready.len() as u64 + self.returned.len() as u64 + self.spilled_len();
        here + self.assigned + levels
    }

    #[inline]
    pub(super) fn waiting(&self) -> bool {
        let here = !self.ready.is_empty() || !self.returned.is_empty() || self.levels_wait();
        here && (self.away.is_empty() || !self.is_next_away())
    }

    /// Whether something waits in the levels of a priority queue.
    #[inline]
    fn levels_wait(&self) -> bool {
        let levels = self.levels.as_ref();
        levels.is_some_and(|levels| levels.peek().is_some())
    }

    pub(super) fn peek(&self) -> Option<Entry> {
        if let Some(levels) = &self.levels {
            return levels.peek();
        }
        if !self.away.is_empty() && self.is_next_away() {
            return None;
        }
        let first = self.ready.front();
        match self.returned.first_key_value() {
            Some((seq, entry)) if first.is_none_or(|first| *seq < first.seq) => Some(*entry),
            _ => first.copied(),
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Entry> {
        if self.levels.is_some() {
            return self.pop_of_levels();
        }
        if !self.away.is_empty() && self.is_next_away() {
            return None;
        }
        // Asked first: the map has hardly ever something, and looking for its first is dear.
        let entry = match self.returned.is_empty() {
            true => self.pop_ready(),
            false => self.pop_lowest(),
        }?;
        self.handed_out = self.handed_out.max(entry.seq + 1);
        Some(entry)
    }

    #[cold]
    fn pop_of_levels(&mut self) -> Option<Entry> {
        let levels = self.levels.as_ref()?;
        let mut drawn = Vec::with_capacity(1);
        levels.draw(1, usize::MAX, &mut drawn, &mut self.late);
        drawn.pop()
    }

    #[inline]
    fn pop_ready(&mut self) -> Option<Entry> {
        let entry = self.ready.pop_front()?;
        self.ready_bytes -= entry.len as usize;
        Some(entry)
    }

    /// A message whose number comes late may be below one that came back.
    fn pop_lowest(&mut self) -> Option<Entry> {
        let (seq, _) = self.returned.first_key_value()?;
        if self.ready.front().is_some_and(|first| first.seq < *seq) {
            return self.pop_ready();
        }
        self.returned.pop_first().map(|(_, entry)| entry)
    }

    pub(super) fn put_back(&mut self, entry: Entry) {
        if let Some(levels) = &self.levels {
            return levels.put_back(entry);
        }
        let twin = self.returned.insert(entry.seq, entry);
        assert!(twin.is_none(), "a message came back twice");
    }

    /// Puts back what was handed out, marked as redelivered.
    pub(super) fn put_all_back(&mut self, entries: &[Entry]) {
        for entry in entries {
            if entry.is_away() {
                self.put_back_away(entry.seq);
                continue;
            }
            let flags = entry.flags | Entry::REDELIVERED;
            self.put_back(Entry { flags, ..*entry });
            if let Some(rules) = &mut self.rules {
                rules.came(std::slice::from_ref(entry));
            }
        }
    }

    pub(super) fn consumer(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        let consumer = self.consumers.get_mut(id.slot as usize)?.as_mut();
        consumer.filter(|consumer| consumer.serial == id.serial)
    }

    pub(super) fn add_consumer(&mut self, mut consumer: Consumer) -> ConsumerId {
        let free = self.consumers.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.consumers.len());
        if slot == self.consumers.len() {
            self.consumers.push(None);
        }
        self.last_serial += 1;
        consumer.serial = self.last_serial;
        self.consumers[slot] = Some(consumer);
        self.consumer_count += 1;
        let id = ConsumerId {
            slot: slot as u32,
            serial: self.last_serial,
        };
        match self.single_active {
            true => self.wait_to_be_active(id.slot),
            false => self.enter_turn(id.slot),
        }
        id
    }

    pub(super) fn remove_consumer(&mut self, id: ConsumerId) -> bool {
        if self.consumer(id).is_none() {
            return false;
        }
        let consumer = self.consumers[id.slot as usize]
            .take()
            .expect("the consumer was just seen");
        self.turn.retain(|slot| *slot != id.slot);
        if self.active == Some(id.slot) {
            self.active = self.turn.pop_front();
            self.look_who_is_served();
        }
        self.consumer_count -= 1;
        self.exclusive &= !consumer.spec.exclusive;
        if self.mover == Some(id) {
            self.mover = None;
        }
        self.unassign(&consumer);
        true
    }

    /// Puts back what `consumer` was assigned and did not fetch. It was never handed out, so it
    /// is not marked as redelivered.
    pub(super) fn unassign(&mut self, consumer: &Consumer) {
        for entry in &consumer.assigned {
            self.assigned -= 1;
            self.put_back(*entry);
        }
        if let Some(shared) = &consumer.spec.shared {
            shared.give(consumer.assigned.len() as u32);
        }
    }

    pub(super) fn settled(&mut self, id: Option<ConsumerId>, count: u32) {
        assert!(
            self.unsettled >= u64::from(count),
            "settled more than was out"
        );
        self.unsettled -= u64::from(count);
        let Some(id) = id else { return };
        if let Some(consumer) = self.consumer(id) {
            consumer.give_credit(count);
            self.enter_turn(id.slot);
        }
    }

    pub(super) fn enter_turn(&mut self, slot: u32) {
        if let Some(Some(consumer)) = self.consumers.get_mut(slot as usize)
            && !consumer.in_turn
            && !self.single_active
            && consumer.has_room()
        {
            consumer.in_turn = true;
            let priority = consumer.spec.priority;
            self.line_up(slot, priority);
        }
    }

    /// Puts a consumer behind those of its priority and of higher ones.
    fn line_up(&mut self, slot: u32, priority: i64) {
        let lower = |other: &&u32| {
            let consumer = self.consumers[**other as usize].as_ref();
            consumer.is_some_and(|consumer| consumer.spec.priority < priority)
        };
        let behind = self.turn.iter().rev().take_while(lower).count();
        self.turn.insert(self.turn.len() - behind, slot);
    }

    /// Makes a consumer the active one, or one that waits for that.
    fn wait_to_be_active(&mut self, slot: u32) {
        if self.active.is_none() {
            self.active = Some(slot);
            self.look_who_is_served();
        } else if let Some(Some(consumer)) = self.consumers.get(slot as usize) {
            let priority = consumer.spec.priority;
            self.line_up(slot, priority);
        }
    }

    /// Gives what waits to the consumers with room: the only one is woken to fetch by itself,
    /// several get it assigned in rotation.
    pub(super) fn dispatch(&mut self, wakes: &mut Wakes) {
        if self.consumer_count == 1 || self.serves_one {
            self.wake_only(wakes);
            return;
        }
        if let Some((front, level)) = &self.front {
            // Also when a page turned out to be empty, since the front may wait for it.
            return wakes.0.push((Arc::clone(front), u64::from(*level)));
        }
        while self.waiting() {
            let Some(slot) = self.turn.pop_front() else {
                return;
            };
            let consumer = self.consumers[slot as usize]
                .as_mut()
                .expect("only present consumers stand in the rotation");
            consumer.in_turn = false;
            if !consumer.has_room() || !consumer.take_credit() {
                continue;
            }
            let entry = self.pop().expect("something waits");
            let consumer = self.consumers[slot as usize]
                .as_mut()
                .expect("it was just there");
            consumer.assigned.push_back(entry);
            self.assigned += 1;
            wake(consumer, wakes);
            self.enter_turn(slot);
        }
    }

    pub(super) fn wake_only(&mut self, wakes: &mut Wakes) {
        let waiting = self.waiting();
        let consumer = match self.serves_one {
            false => self.consumers.iter_mut().flatten().next(),
            true => self
                .served
                .and_then(|slot| self.consumers[slot as usize].as_mut()),
        };
        // Most often it knows already, and comes by itself.
        let Some(consumer) = consumer.filter(|consumer| consumer.armed) else {
            return;
        };
        if !consumer.assigned.is_empty() || (waiting && consumer.has_room()) {
            wake(consumer, wakes);
        }
    }

    pub(super) fn fetch(
        &mut self,
        id: ConsumerId,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
        wakes: &mut Wakes,
    ) -> Fetch {
        let only = match self.serves_one {
            false => self.consumer_count == 1,
            true => self.served == Some(id.slot),
        };
        if only && let Some(end) = self.fetch_alone(id, count_max, bytes_max, out) {
            return end;
        }
        let (mut count, mut bytes) = (0, 0);
        while count < count_max && bytes < bytes_max {
            let Some(consumer) = self.consumer(id) else {
                return Fetch::Armed;
            };
            let before = out.len();
            if let Some(entry) = consumer.assigned.pop_front() {
                self.assigned -= 1;
                out.push(entry);
            } else if only {
                self.take_only(id, count_max - count, bytes_max - bytes, out);
            } else {
                self.enter_turn(id.slot);
                self.dispatch(wakes);
                let again = self.consumer(id).expect("dispatch removes nobody");
                if !again.assigned.is_empty() {
                    continue;
                }
            }
            let taken = &out[before..];
            if taken.is_empty() {
                self.consumer(id).expect("it was there").armed = true;
                // Alone it needs no turn, but it has to stand there when another one joins.
                self.enter_turn(id.slot);
                return Fetch::Armed;
            }
            count += taken.len();
            bytes += taken.iter().map(|entry| entry.len as usize).sum::<usize>();
        }
        // Not armed: the caller comes again by itself.
        if let Some(consumer) = self.consumer(id) {
            consumer.armed = false;
        }
        Fetch::More
    }

    /// The same for a lone consumer where all that waits is in `ready`, as it nearly always is. `None`: nothing is done.
    #[inline]
    fn fetch_alone(
        &mut self,
        id: ConsumerId,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Option<Fetch> {
        let elsewhere = self.levels.is_some() || !self.returned.is_empty() || !self.away.is_empty();
        let consumer = self.consumers.get_mut(id.slot as usize)?.as_mut()?;
        if elsewhere || consumer.serial != id.serial || !consumer.assigned.is_empty() {
            return None;
        }
        let room = consumer.take_credits(count_max.min(self.ready.len()));
        let (mut count, mut bytes) = (0, 0);
        while count < room && bytes < bytes_max {
            let entry = self.ready.pop_front();
            let entry = entry.expect("no more is taken than waits");
            bytes += entry.len as usize;
            out.push(entry);
            count += 1;
        }
        consumer.give_unused((room - count) as u32);
        let bounded = count >= count_max || bytes >= bytes_max;
        consumer.armed = !bounded;
        let stands = consumer.in_turn;
        self.ready_bytes -= bytes;
        if let (Some(last), true) = (out.last(), count > 0) {
            // The last one has the highest number.
            self.handed_out = self.handed_out.max(last.seq + 1);
        }
        if self.ready.is_empty() {
            // The next one takes the first place again, which is in the processor's cache.
            self.ready.clear();
        }
        if bounded {
            return Some(Fetch::More);
        }
        if !stands {
            self.enter_turn(id.slot);
        }
        Some(Fetch::Armed)
    }

    /// Takes what waits for a lone consumer, as far as its credit and the bounds allow.
    fn take_only(
        &mut self,
        id: ConsumerId,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) {
        if self.levels.is_some() {
            return self.take_from_levels(id, count_max, bytes_max, out);
        }
        let waiting = self.ready.len() + self.returned.len();
        let consumer = self.consumer(id).expect("the caller has seen it");
        let room = consumer.take_credits(count_max.min(waiting));
        let (mut count, mut bytes) = (0, 0);
        while count < room && bytes < bytes_max {
            // One that is away may be next.
            let Some(entry) = self.pop() else { break };
            bytes += entry.len as usize;
            out.push(entry);
            count += 1;
        }
        let consumer = self.consumer(id).expect("the caller has seen it");
        consumer.give_unused((room - count) as u32);
    }

    /// The same from the levels of a priority queue.
    #[cold]
    fn take_from_levels(
        &mut self,
        id: ConsumerId,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) {
        let consumer = self.consumer(id).expect("the caller has seen it");
        let room = consumer.take_credits(count_max);
        let before = out.len();
        if let Some(levels) = &self.levels {
            levels.draw(room, bytes_max, out, &mut self.late);
        }
        let unused = room - (out.len() - before);
        let consumer = self.consumer(id).expect("the caller has seen it");
        consumer.give_unused(unused as u32);
    }
}

fn wake(consumer: &mut Consumer, wakes: &mut Wakes) {
    if std::mem::take(&mut consumer.armed) {
        wakes
            .0
            .push((Arc::clone(&consumer.spec.bell), consumer.spec.key));
    }
}
