//! What a queue's [`Settings`] do to its messages: which ones come in, which ones are pushed out, and which ones are over.
//!
//! A queue without settings and without messages that expire is *plain* and has no [`Rules`]: for it, nothing here is called.
//! What leaves a queue by a rule is handed to the caller ([`Lost`]), who owns the copies then and makes dead letters of them
//! ([`crate::publisher::bury`]); for the log they are still the queue's until that is done.
//!
//! Messages for which consumers have room count as delivered, although nobody has fetched them yet: limits look at what is
//! behind them.
//!
//! Lock order: a queue's lock, then the arena's, to read when a message expires.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_log::Arena;

use super::arguments::QueueType;
use super::counts::Counts;
use super::expiry::Expiries;
use super::history::History;
use super::{Bell, ConsumerId, DeadLetterTo, Overflow, Queue, Settings, State, Wakes};
use crate::record::{self, Entry};

/// What is special about a queue, as bits.
pub(super) mod rule {
    /// There is a limit to what may be ready.
    pub const LENGTH: u16 = 1;
    /// What is beyond it is refused.
    pub const REFUSES: u16 = 2;
    /// Dead letters go somewhere.
    pub const DEAD_LETTERS: u16 = 4;
    /// Messages expire after some time in this queue.
    pub const TTL: u16 = 8;
    /// The queue goes when it is unused.
    pub const EXPIRES: u16 = 16;
    /// A message that can expire is, or was, in it.
    pub const TIMED: u16 = 32;
    /// It counts how often messages come back.
    pub const COUNTS: u16 = 64;
    /// Messages wait in it for their time: see [`super::super::schedule`].
    pub const SCHEDULE: u16 = 128;
    /// Deliveries have to be acknowledged within some time.
    pub const TIMEOUT: u16 = 256;
    /// It is a level of a priority queue that has limits of length.
    pub const PART: u16 = 512;
    /// It only remembers what comes: see [`super::super::history`].
    pub const HISTORY: u16 = 1024;
    /// Messages that came before are dropped.
    pub const DEDUP: u16 = 2048;
}

/// Of a queue that is not plain, under its lock.
#[derive(Default)]
pub(crate) struct Rules {
    pub(super) settings: Arc<Settings>,
    /// Messages that were let in and are not pushed yet, and bytes of their bodies.
    pub(super) admitted: (u64, u64),
    /// Bytes of the bodies of ready messages, if there is a limit to them.
    pub(super) body_bytes: u64,
    /// When messages in memory expire.
    pub(super) expiries: Expiries,
    /// Since when nobody uses it; `None` if somebody does, or nobody has looked since.
    pub(super) unused_since: Option<u64>,
    /// Of a quorum queue.
    pub(super) counts: Counts,
    /// Whose deliveries may be overdue at which time.
    pub(super) alarms: Vec<Alarm>,
    /// What it remembers, if that is what it is for.
    pub(super) history: Option<History>,
}

/// Somebody who wants to look at the time whether deliveries are overdue.
pub(super) struct Alarm {
    pub time: u64,
    pub bell: Arc<dyn Bell>,
}

/// The key with which bells are rung for that: no consumer's.
pub(crate) const ALARM_KEY: u64 = u64::MAX;

/// A message that asks to be let in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    pub body_len: usize,
    /// Its own limit to how long it waits, in ms.
    pub expiration: Option<u64>,
}

/// Whether a message is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// With these flags of its entry.
    In(u32),
    /// It is refused.
    Refused {
        /// It becomes a dead letter.
        to_dead_letters: bool,
    },
}

/// What left a queue by its rules. The copies are the holder's.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// There was no room for them.
    pub overflowed: Vec<Entry>,
    /// Their time was up.
    pub expired: Vec<Entry>,
}

/// Messages that a consumer without prefetch is taken to have room for.
pub(super) const ROOM_WITHOUT_PREFETCH: usize = 64 * 1024;
/// When to look again at messages that a consumer is about to take, in ms.
pub(super) const LOOK_AGAIN_MS: u64 = 1000;

impl Rules {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            ..Self::default()
        }
    }

    /// The bits of [`rule`] that these settings stand for.
    pub(super) fn bits(settings: &Settings, kind: QueueType) -> u16 {
        let refuses = settings.overflow() != Overflow::DropHead;
        let bit = |is: bool, bit: u16| if is { bit } else { 0 };
        bit(settings.has_room_limit(), rule::LENGTH)
            | bit(settings.has_room_limit() && refuses, rule::REFUSES)
            | bit(settings.dead_letters.is_some(), rule::DEAD_LETTERS)
            | bit(settings.message_ttl_ms.is_some(), rule::TTL)
            | bit(settings.expires_ms.is_some(), rule::EXPIRES)
            | bit(settings.part, rule::PART)
            | bit(settings.consumer_timeout_ms.is_some(), rule::TIMEOUT)
            | bit(kind == QueueType::Quorum, rule::COUNTS)
    }

    pub(super) fn weighs(&self) -> bool {
        self.settings.weighs()
    }

    /// Takes account of messages that are ready now.
    pub(super) fn came(&mut self, entries: &[Entry]) {
        if self.weighs() {
            self.body_bytes += body_bytes(entries);
        }
    }

    /// Takes account of messages that are not ready any more.
    pub(super) fn went(&mut self, entries: &[Entry]) {
        if self.weighs() {
            self.body_bytes = self.body_bytes.saturating_sub(body_bytes(entries));
        }
    }

    /// Nothing is ready any more.
    pub(super) fn emptied(&mut self) {
        self.body_bytes = 0;
        self.expiries = Expiries::default();
        self.history = None;
    }
}

fn body_bytes(entries: &[Entry]) -> u64 {
    entries
        .iter()
        .map(|entry| u64::from(entry.body_len()))
        .sum()
}

impl Settings {
    /// Flags for the entry of a message in a queue with these settings.
    pub(crate) fn flags_for(&self, message: &Incoming) -> u32 {
        let own = message.expiration;
        let ttl = self.message_ttl_ms.into_iter().chain(own).min();
        match ttl {
            None => 0,
            Some(0) => Entry::TIMED | Entry::AT_ONCE,
            Some(_) => Entry::TIMED,
        }
    }
}

impl Queue {
    #[inline]
    pub(super) fn has_rule(&self, bits: u16) -> bool {
        self.rules.load(Ordering::Acquire) & bits != 0
    }

    /// Whether messages are pushed and put back by rules.
    #[inline]
    pub(crate) fn is_ruled(&self) -> bool {
        const OWN_WAYS: u16 = rule::SCHEDULE | rule::HISTORY;
        const TIMES: u16 = rule::TTL | rule::TIMED;
        self.has_rule(rule::LENGTH | TIMES | rule::COUNTS | rule::PART | rule::DEDUP | OWN_WAYS)
    }

    /// Whether something has to be done with messages that were handed out before they are delivered.
    #[inline]
    pub(crate) fn minds_deliveries(&self) -> bool {
        self.has_rule(rule::TIMED | rule::COUNTS | rule::TIMEOUT)
    }

    /// Whether a message in it may have expired.
    pub(crate) fn may_expire(&self) -> bool {
        self.has_rule(rule::TIMED)
    }

    /// Whether it stores whatever comes, persistent or not.
    pub(crate) fn stores_all(&self) -> bool {
        self.has_rule(rule::COUNTS | rule::SCHEDULE)
    }

    /// Whether it is an exchange's own.
    pub(crate) fn is_store(&self) -> bool {
        self.has_rule(rule::SCHEDULE | rule::HISTORY)
    }

    /// Whether it refuses messages when it is full.
    pub(crate) fn refuses(&self) -> bool {
        self.has_rule(rule::REFUSES)
    }

    /// Whether its dead letters go somewhere.
    pub fn has_dead_letters(&self) -> bool {
        self.has_rule(rule::DEAD_LETTERS)
    }

    /// Within how many ms deliveries have to be acknowledged, if that is limited.
    pub(crate) fn consumer_timeout(&self) -> Option<u64> {
        if !self.has_rule(rule::TIMEOUT) {
            return None;
        }
        let state = self.state.lock();
        state.rules.as_ref()?.settings.consumer_timeout_ms
    }

    /// Has `bell` rung with [`ALARM_KEY`] at `time`, when deliveries may be overdue, or before. There is one alarm for each bell.
    pub(crate) fn set_alarm(&self, time: u64, bell: &Arc<dyn Bell>, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(rules) = &mut state.rules else {
            return;
        };
        let mut alarms = rules.alarms.iter_mut();
        match alarms.find(|alarm| Arc::ptr_eq(&alarm.bell, bell)) {
            Some(alarm) => alarm.time = alarm.time.min(time),
            None => {
                let bell = Arc::clone(bell);
                rules.alarms.push(Alarm { time, bell });
            }
        }
        self.book(state, time, wakes);
    }

    /// A consumer has room for one more message, which it held and which was taken from it.
    pub(crate) fn give_credit(&self, id: ConsumerId, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        if let Some(consumer) = state.consumer(id) {
            consumer.give_credit(1);
            state.enter_turn(id.slot);
            state.dispatch(wakes);
            self.after(&mut state, wakes);
        }
    }

    /// Classic, quorum, or what else it was declared as.
    pub fn kind(&self) -> QueueType {
        self.kind
    }

    /// What holds for it now.
    pub fn settings(&self) -> Arc<Settings> {
        match &self.state.lock().rules {
            Some(rules) => Arc::clone(&rules.settings),
            None => Arc::default(),
        }
    }

    /// Where its dead letters go now.
    pub(crate) fn dead_letters_to(&self) -> Option<Arc<DeadLetterTo>> {
        self.state
            .lock()
            .rules
            .as_ref()?
            .settings
            .dead_letters
            .clone()
    }

    /// The settings that a publisher has to ask for each message, if any.
    pub(crate) fn settings_for_publishers(&self) -> Option<Arc<Settings>> {
        const OWN_WAYS: u16 = rule::SCHEDULE | rule::HISTORY;
        self.has_rule(rule::LENGTH | rule::TTL | rule::COUNTS | rule::DEDUP | OWN_WAYS)
            .then(|| self.settings())
    }

    /// Has these settings hold from now on. Route caches must be told ([`crate::topology::Topology::touch`]).
    pub(crate) fn apply(&self, settings: Settings, arena: &Arena, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        let Some(levels) = &self.levels else {
            return self.apply_own(&mut state, settings, arena, wakes);
        };
        let of_level = settings.of_level();
        self.apply_own(&mut state, settings, arena, wakes);
        // Under the front's lock: a level that comes later has them as well.
        levels.apply(&of_level, arena, wakes);
    }

    pub(super) fn apply_own(
        &self,
        state: &mut State,
        settings: Settings,
        arena: &Arena,
        wakes: &mut Wakes,
    ) {
        let same = match &state.rules {
            Some(rules) => *rules.settings == settings,
            None => settings == Settings::default(),
        };
        if same {
            return;
        }
        let kept = self.rules.load(Ordering::Relaxed) & (rule::TIMED | rule::DEDUP);
        self.rules
            .store(Rules::bits(&settings, self.kind) | kept, Ordering::Release);
        let weighs = settings.weighs();
        let mut rules = state
            .rules
            .take()
            .unwrap_or_else(|| Box::new(Rules::new(Settings::default())));
        let weighed = std::mem::replace(&mut rules.settings, Arc::new(settings)).weighs();
        if weighs && !weighed {
            rules.body_bytes = state.weigh(arena);
        }
        state.rules = Some(rules);
        self.book(state, 0, wakes);
    }

    /// Says whether a message may come in. If so, it has to be pushed, or dismissed.
    pub(crate) fn admit(&self, settings: &Settings, message: &Incoming) -> Admission {
        if self.is_schedule() {
            // Its record says when it was accepted.
            return Admission::In(Entry::TIMED);
        }
        if self.is_history() {
            return Admission::In(0);
        }
        let flags = settings.flags_for(message);
        if flags & Entry::TIMED != 0 {
            self.expect_timed();
        }
        if !self.has_rule(rule::REFUSES) {
            return Admission::In(flags);
        }
        let mut state = self.state.lock();
        let Some(rules) = &state.rules else {
            return Admission::In(flags);
        };
        let settings = Arc::clone(&rules.settings);
        let (count, bytes) = rules.admitted;
        let (waiting, waiting_bytes) = state.behind_consumers(rules.admitted);
        let body = message.body_len as u64;
        let full = settings.messages_max.is_some_and(|max| waiting >= max)
            || settings
                .bytes_max
                .is_some_and(|max| waiting_bytes + body > max);
        if full {
            let to_dead_letters = settings.overflow() == Overflow::RejectToDeadLetters;
            return Admission::Refused { to_dead_letters };
        }
        if self.is_ranked() {
            // It is pushed into a level, at once.
            return Admission::In(flags);
        }
        if let Some(rules) = &mut state.rules {
            rules.admitted = (count + 1, bytes + body);
        }
        Admission::In(flags | Entry::ADMITTED)
    }

    /// Entries that were let in are not pushed after all.
    pub(crate) fn dismiss(&self, entries: &[Entry]) {
        self.state.lock().no_longer_admitted(entries);
    }

    /// From now on a message that can expire may be in it.
    pub(crate) fn expect_timed(&self) {
        if !self.has_rule(rule::TIMED) {
            let mut state = self.state.lock();
            state
                .rules
                .get_or_insert_with(|| Box::new(Rules::new(Settings::default())));
            self.rules.fetch_or(rule::TIMED, Ordering::Release);
        }
    }

    /// After `pushed` came in, with numbers from `first` on where they have none of their own: what there is no room for, or
    /// no consumer for at once, goes.
    pub(crate) fn enforce(
        &self,
        state: &mut State,
        pushed: &[Entry],
        expiries: &[u64],
        lost: &mut Lost,
        wakes: &mut Wakes,
    ) {
        for (entry, expiry) in pushed.iter().zip(expiries) {
            if let Some(rules) = &mut state.rules
                && *expiry != u64::MAX
            {
                rules.expiries.note(entry.seq, *expiry);
            }
        }
        if let Some(first) = pushed
            .iter()
            .find(|entry| entry.flags & Entry::AT_ONCE != 0)
        {
            state.take_not_at_once(first.seq, &mut lost.expired);
        }
        state.overflow(&mut lost.overflowed);
        let earliest = state.rules.as_ref().map(|rules| rules.expiries.earliest());
        self.book(state, earliest.unwrap_or(u64::MAX), wakes);
        self.after(state, wakes);
    }

    /// After messages came into this level of a priority queue: what that has no room for goes. Returns the priority queue,
    /// which it is lost from.
    pub(crate) fn overflow_above(&self, lost: &mut Lost, wakes: &mut Wakes) -> Option<Arc<Queue>> {
        if !self.has_rule(rule::PART) {
            return None;
        }
        let front = self.front.upgrade()?;
        front.note_level(self);
        let mut state = front.state.lock();
        state.overflow(&mut lost.overflowed);
        front.after(&mut state, wakes);
        drop(state);
        Some(front)
    }

    /// As [`Queue::requeue`], by the rules: `expiries` says when the entries expire.
    pub(crate) fn requeue_by_rules(
        &self,
        consumer: Option<ConsumerId>,
        entries: &[Entry],
        expiries: &[u64],
        lost: &mut Lost,
        wakes: &mut Wakes,
    ) -> bool {
        if !self.requeue(consumer, entries, wakes) {
            return false;
        }
        self.came_back(entries, expiries, lost, wakes);
        true
    }

    /// After these were put back: what there is no room for goes.
    pub(crate) fn came_back(
        &self,
        entries: &[Entry],
        expiries: &[u64],
        lost: &mut Lost,
        wakes: &mut Wakes,
    ) {
        // Of a priority queue, levels know when their messages expire.
        let expiries = if self.is_ranked() { &[] } else { expiries };
        let mut state = self.state.lock();
        self.enforce(&mut state, entries, expiries, lost, wakes);
    }

    /// The pager brought these back: notes when they expire, and has the timetable look at the queue.
    pub(crate) fn paged(&self, entries: &[Entry], arena: &Arena, restored: u64, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        let ttl = match &state.rules {
            Some(rules) => rules.settings.message_ttl_ms,
            None => return,
        };
        let mut expiries = Vec::with_capacity(entries.len());
        read_expiries(arena, entries, ttl, &mut expiries);
        let Some(rules) = &mut state.rules else {
            return;
        };
        for (entry, expiry) in entries.iter().zip(&expiries) {
            if *expiry != u64::MAX {
                rules.expiries.note(entry.seq, *expiry);
            }
            // What was there before the start was never weighed.
            if entry.seq < restored {
                rules.came(std::slice::from_ref(entry));
            }
        }
        self.book(&state, 0, wakes);
    }
}

/// When each of the entries expires in a queue with this time to live; `u64::MAX`: never.
pub(crate) fn read_expiries(
    arena: &Arena,
    entries: &[Entry],
    ttl: Option<u64>,
    out: &mut Vec<u64>,
) {
    for run in entries.chunk_by(|a, b| a.segment == b.segment) {
        if run.iter().all(|entry| entry.flags & Entry::TIMED == 0) {
            out.extend(run.iter().map(|_| u64::MAX));
            continue;
        }
        let segment = arena.segment(run[0].segment);
        out.extend(run.iter().map(|entry| match entry.flags & Entry::TIMED {
            0 => u64::MAX,
            _ => record::expires_at(&segment, entry.offset, ttl),
        }));
    }
}
