//! How often messages of a quorum queue came back.
//!
//! What came back while it was in the log is noted there too, in a stream beside the queue ([`RETURNS`]): one event for each
//! return, with the message's number and the count. An event is settled when the next one of its message replaces it,
//! or when the message is done with; so the stream is as long as there are messages that came back. Events are written,
//! not synced: after a power loss a count may be too low.

use std::ops::Range;

use ahash::AHashMap;
use backbone_log::{Batch, Reason, Target};

use super::rules::rule;
use super::{Emptied, Queue};
use crate::definitions::RETURNS;
use crate::publisher::add_number;
use crate::record::Entry;

/// The messages that came back and are not done with.
#[derive(Debug, Default)]
pub(super) struct Counts {
    messages: AHashMap<u64, Count>,
    next_event: u64,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    returns: u64,
    /// Its event in the log, if it has one.
    event: Option<u64>,
}

/// An event as it is stored: the message's number, and how often it came back.
pub(crate) fn event(payload: &[u8]) -> Option<(u64, u64)> {
    let (seq, rest) = payload.split_first_chunk()?;
    let returns = rest.first_chunk()?;
    Some((u64::from_le_bytes(*seq), u64::from_le_bytes(*returns)))
}

/// Writes what [`event`] reads.
pub(crate) fn write_event(out: &mut Vec<u8>, seq: u64, value: u64) {
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&value.to_le_bytes());
}

impl Queue {
    /// Below which number messages may have been delivered, if anything is in the queue and it does not count deliveries.
    pub(crate) fn handed_out(&self) -> Option<u64> {
        let state = self.state.lock();
        let any = state.ready_len() > 0 || state.unsettled > 0;
        (any && self.logs() && !self.counts_returns())
            .then(|| state.handed_out.max(state.delivered_below))
    }

    /// Sets it, before anybody uses the queue.
    pub(crate) fn set_delivered_below(&self, number: u64) {
        self.state.lock().delivered_below = number;
    }

    /// Whether it counts how often messages come back.
    pub(crate) fn counts_returns(&self) -> bool {
        self.has_rule(rule::COUNTS)
    }

    /// Counts that `entries` came back. Those that did so too often are taken out of them and returned. What the log should
    /// hear of it goes into `batch`.
    pub(crate) fn count_returns(
        &self,
        entries: &mut Vec<(Entry, u64)>,
        batch: &mut Batch,
    ) -> Vec<Entry> {
        let mut state = self.state.lock();
        let mut over = Vec::new();
        let Some(rules) = &mut state.rules else {
            return over;
        };
        let (limit, counts) = (rules.settings.delivery_limit, &mut rules.counts);
        let mut replaced = Vec::new();
        entries.retain(|(entry, _)| {
            let count = counts.messages.entry(entry.seq).or_insert(Count {
                returns: 0,
                event: None,
            });
            count.returns += 1;
            replaced.extend(count.event.take());
            let returns = count.returns;
            if limit.is_some_and(|limit| returns > limit) {
                counts.messages.remove(&entry.seq);
                over.push(*entry);
                return false;
            }
            if entry.is_logged() {
                let event = counts.next_event;
                counts.next_event += 1;
                count.event = Some(event);
                let target = Target {
                    queue: self.id | RETURNS,
                    seq: event,
                };
                batch.publish(&[target], false, |out| write_event(out, entry.seq, returns));
            }
            true
        });
        self.settle_events(replaced, batch);
        over
    }

    /// Messages with these numbers are done with.
    pub(crate) fn forget_counts(&self, numbers: &[Range<u64>], batch: &mut Batch) {
        let mut events = Vec::new();
        if let Some(rules) = &mut self.state.lock().rules {
            let messages = &mut rules.counts.messages;
            for range in numbers {
                if messages.is_empty() {
                    break;
                }
                let removed = range.clone().filter_map(|seq| messages.remove(&seq));
                events.extend(removed.filter_map(|count| count.event));
            }
        }
        self.settle_events(events, batch);
    }

    /// The same for what a purge took out.
    pub(crate) fn forget_counts_of(&self, emptied: &Emptied, batch: &mut Batch) {
        let mut events = Vec::new();
        if let Some(rules) = &mut self.state.lock().rules {
            let spilled = |seq: u64| emptied.spilled.iter().any(|range| range.contains(&seq));
            let numbers = emptied.entries.iter().map(|entry| entry.seq);
            let messages = &mut rules.counts.messages;
            events.extend(numbers.filter_map(|seq| messages.remove(&seq)?.event));
            messages.retain(|seq, count| {
                let stays = !spilled(*seq);
                events.extend(count.event.filter(|_| !stays));
                stays
            });
        }
        self.settle_events(events, batch);
    }

    fn settle_events(&self, mut events: Vec<u64>, batch: &mut Batch) {
        if events.is_empty() {
            return;
        }
        events.sort_unstable();
        let mut ranges = Vec::new();
        events
            .into_iter()
            .for_each(|event| add_number(&mut ranges, event));
        batch.settle(self.id | RETURNS, &ranges, Reason::Ack);
    }

    /// How often each of these came back; `None` if none did.
    pub(crate) fn returns_of(&self, entries: &[Entry]) -> Option<Vec<u64>> {
        if !self.counts_returns() || !entries.iter().any(Entry::redelivered) {
            return None;
        }
        let state = self.state.lock();
        let messages = &state.rules.as_ref()?.counts.messages;
        let returns = |entry: &Entry| messages.get(&entry.seq).map_or(0, |count| count.returns);
        Some(entries.iter().map(returns).collect())
    }

    /// Takes back what the log has of returns: event, message, count. Before anybody uses the queue.
    pub(crate) fn restore_counts(&self, events: &[(u64, u64, u64)], next_event: u64) {
        if let Some(rules) = &mut self.state.lock().rules {
            rules.counts.next_event = next_event;
            for (event, seq, returns) in events {
                let count = Count {
                    returns: *returns,
                    event: Some(*event),
                };
                rules.counts.messages.insert(*seq, count);
            }
        }
    }
}

impl Counts {
    /// Whether a message came back.
    pub fn has(&self, seq: u64) -> bool {
        !self.messages.is_empty() && self.messages.contains_key(&seq)
    }
}
