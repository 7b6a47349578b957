//! Delayed exchanges: their own queues, and what becomes of a message when it is due.
//!
//! A message that wants to wait ([`crate::delay`]) is routed into the exchange's own queue ([`crate::queue`]'s `schedule`), which
//! stores whatever comes: a confirm is a promise that it is on the disk. When it is due, [`Vhost::tick`] routes it from the
//! exchange on, and one record of the log moves it to where it goes. If the log refuses, it waits a little longer.

use std::sync::Arc;

use ahash::AHashMap;
use backbone_log::{LogError, Segment};
use backbone_wire::properties::Properties;
use backbone_wire::table::Table;

use crate::counters::add;
use crate::definitions::ExchangeDefinition;
use crate::delay;
use crate::durable::Level;
use crate::error::Error;
use crate::flow::release;
use crate::history;
use crate::pager::Reading;
use crate::publisher::{Dead, Going, Transfer};
use crate::queue::{DeleteIf, Due, Queue, QueueOptions, Wakes, arguments};
use crate::record::{Content, HEADER_FIXED_LEN, Record};
use crate::restore::{Stored, numbers_of};
use crate::topology::{ExchangeKind, ExchangeSpec, Store, Targets};
use crate::vhost::Vhost;

/// Messages that are moved at once.
const MOVE_MAX: usize = 512;
/// Messages that are looked through at once after a start.
const LOOK_MAX: usize = 4096;
/// How long what the log refused, or cannot be read, waits, in ms.
const RETRY_MS: u64 = 100;

impl Vhost {
    /// Declares an exchange, as [`crate::topology::Topology::declare_exchange`]. A new one that lets messages wait, or keeps some, gets a
    /// queue of its own.
    ///
    /// # Errors
    /// As there.
    pub fn declare_exchange(&self, spec: &ExchangeSpec<'_>) -> Result<(), Error> {
        let new_id = || self.numbers.queue_ids(1, self.journal());
        let store = match ExchangeKind::parse(spec.kind) {
            Ok(ExchangeKind::Delayed) if !spec.passive => {
                Some(self.store_with(spec.name, new_id()?, |_| ()))
            }
            Ok(ExchangeKind::RecentHistory) if !spec.passive => {
                // A bad one is refused, unless the exchange is there.
                let length = history::length(spec.arguments).unwrap_or_default();
                Some(self.history_with(spec.name, new_id()?, length))
            }
            _ => None,
        };
        self.topology().declare_with_store(spec, store)
    }

    fn history_with(&self, exchange: &str, id: u64, length: u64) -> Store<Arc<Queue>> {
        let queue = Queue::history(exchange, id, length, &self.history_bytes);
        let handle = Arc::new(queue);
        Store { id, handle }
    }

    /// The own queue of an exchange that comes back from the log.
    pub(crate) fn restored_store(
        &self,
        definition: &ExchangeDefinition,
        stored: &Stored,
    ) -> Option<(Store<Arc<Queue>>, u64)> {
        let id = definition.store?;
        if definition.kind == ExchangeKind::RecentHistory.name() {
            let arguments = Table::from_bytes(&definition.arguments).ok()?;
            let length = history::length(arguments).ok()?;
            return Some((self.history_with(&definition.name, id, length), 0));
        }
        let (live, low, next) = numbers_of(id, stored);
        let restore = |queue: &Queue| queue.restore_schedule(live, low, next);
        Some((self.store_with(&definition.name, id, restore), live))
    }

    fn store_with(
        &self,
        exchange: &str,
        id: u64,
        prepare: impl FnOnce(&Queue),
    ) -> Store<Arc<Queue>> {
        // Where there is a log, what waits is in it, so that it need not be in memory.
        let level = match self.durable() {
            Some(_) => self.level().max(Level::Written),
            None => Level::Memory,
        };
        let options = QueueOptions {
            durable: true,
            protected: true,
            level,
            ..QueueOptions::default()
        };
        let handle = Arc::new(Queue::schedule(exchange, id, options));
        prepare(&handle);
        let mut wakes = Wakes::default();
        handle.set_clock(&self.timetable().clock(&handle), &mut wakes);
        wakes.ring();
        Store { id, handle }
    }

    /// Gives up what waits at exchanges that are gone. Whoever removed something that takes exchanges along calls it.
    pub(crate) fn forget_orphans(&self) {
        for store in self.topology().take_orphans() {
            if let Ok(Some(emptied)) = store.delete(DeleteIf::default()) {
                self.give_up(&store, &emptied);
            }
        }
    }

    /// How many messages wait at an exchange for their time; `None` for one that lets none wait.
    pub fn delayed(&self, exchange: &str) -> Option<u64> {
        let store = self.topology().store(exchange);
        store.filter(|it| it.is_schedule()).map(|it| it.scheduled())
    }

    /// How many messages wait at all exchanges.
    pub fn delayed_in_all(&self) -> u64 {
        let stores = self.topology().stores();
        stores.iter().map(|(_, store)| store.scheduled()).sum()
    }

    /// Looks at the own queue of a delayed exchange, whose entry of `booked` in the timetable has come.
    pub(crate) fn tick_schedule(
        &self,
        queue: &Arc<Queue>,
        booked: u64,
        now_ms: u64,
        dead: &mut Vec<Dead>,
        wakes: &mut Wakes,
    ) {
        if !queue.is_due(booked) {
            return;
        }
        let goes_on = match queue.unread() {
            Some(numbers) => self.look_through(queue, numbers).is_ok(),
            None => self.move_due(queue, now_ms, dead, wakes),
        };
        let pause = if goes_on { 0 } else { RETRY_MS };
        if let Some(next) = queue.book_next(now_ms + pause) {
            self.timetable().enter(next, queue);
        }
    }

    /// Finds out when messages are due that were here before the start, some of them.
    fn look_through(&self, queue: &Queue, numbers: std::ops::Range<u64>) -> Result<(), LogError> {
        let Some(pager) = self.pager() else {
            queue.looked_through(&[], numbers.end);
            return Ok(());
        };
        let mut found = Vec::new();
        let read = |seq, record: &[u8]| found.push((delay::due(record, 0), seq));
        let until = pager.read_on(queue, numbers.clone(), LOOK_MAX, read)?;
        queue.looked_through(&found, until);
        Ok(())
    }

    /// Moves what is due at `now_ms`, some of it. False when that is to be tried again a little later.
    fn move_due(
        &self,
        queue: &Arc<Queue>,
        now_ms: u64,
        dead: &mut Vec<Dead>,
        wakes: &mut Wakes,
    ) -> bool {
        let mut due = queue.take_due(now_ms, MOVE_MAX);
        let mut reading = Reading::default();
        while !due.is_empty() {
            let _joins = self.joins.read();
            let mut transfer = Transfer::default();
            let taken = self.take_due(queue, &due, &mut reading, &mut transfer, now_ms);
            let moves = taken.is_ok_and(|taken| {
                let logged = transfer.log(self, queue.id(), wakes);
                logged && {
                    let routed = transfer.deliver(self, now_ms, dead, wakes);
                    add(&self.counters().messages_routed, routed);
                    let at_hand: Vec<_> = due.drain(..taken).filter_map(|it| it.entry).collect();
                    release(self.arena(), &at_hand);
                    queue.moved(taken);
                    true
                }
            });
            if !moves {
                transfer.discard(self);
                if !queue.wait_on(&due) {
                    let at_hand: Vec<_> = due.iter().filter_map(|it| it.entry).collect();
                    release(self.arena(), &at_hand);
                }
                return false;
            }
        }
        true
    }

    /// Puts as many messages as fit on their way; returns how many.
    fn take_due(
        &self,
        queue: &Queue,
        due: &[Due],
        reading: &mut Reading,
        transfer: &mut Transfer,
        now_ms: u64,
    ) -> Result<usize, LogError> {
        let mut segments: AHashMap<u32, Arc<Segment>> = AHashMap::new();
        let logs = queue.logs() && !queue.is_deleted();
        for (it, count) in due.iter().zip(1..) {
            let source = logs.then_some(it.seq);
            match (it.entry, self.pager()) {
                (Some(entry), _) => {
                    let segment = segments
                        .entry(entry.segment)
                        .or_insert_with(|| self.arena().segment(entry.segment));
                    let record = Record::read(segment, entry.offset);
                    self.go_on(queue, &record, source, transfer, now_ms);
                }
                (None, Some(pager)) => {
                    let go_on = |record: &[u8]| {
                        let record = Record::read(record, 0);
                        self.go_on(queue, &record, source, transfer, now_ms);
                    };
                    pager.read_one(queue, it.seq, reading, go_on)?;
                }
                (None, None) => {}
            }
            if transfer.is_full() {
                return Ok(count);
            }
        }
        Ok(due.len())
    }

    /// Routes a message that has waited.
    fn go_on(
        &self,
        queue: &Queue,
        message: &Record<'_>,
        source: Option<u64>,
        transfer: &mut Transfer,
        now_ms: u64,
    ) {
        let header = delay::header_after(message.properties(), message.body.len());
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let further = message.properties().headers().map(delay::further_keys);
        let further = further.unwrap_or_default();
        let keys = (message.routing_key(), &further[..]);
        let exchange = queue.name().as_bytes();
        let mut targets = Targets::new();
        // If it is gone, so is what waits there.
        let _ = self
            .topology()
            .route_on(exchange, keys, properties, true, &mut targets);
        // What a flow takes in has to be published to it.
        targets.retain(|(_, queue)| queue.flow().is_none());
        if targets.is_empty() {
            add(&self.counters().messages_unroutable_dropped, 1);
            return transfer.settle(source);
        }
        let expiration = properties.expiration();
        let expiration = expiration.and_then(|text| arguments::expiration(text.as_bytes()).ok());
        let going = Going {
            source,
            content: Content {
                names: message.names,
                header: &header,
                body: message.body,
            },
            expiration,
        };
        transfer.add(self, &going, targets, now_ms);
    }
}
