//! What the log has of deliveries: how often messages of quorum queues came back, and which messages of other queues may have
//! been delivered before a restart.
//!
//! Deliveries are not logged. A start that follows an orderly end ([`Vhost::close`]) knows up to which number a queue's messages
//! had been handed out: those below are marked as redelivered when they come again. After any other end all are, as RabbitMQ
//! does it; quorum queues have their counts.

use std::collections::BTreeMap;
use std::ops::Range;

use backbone_log::{Batch, Log, QueueInfo, Target};

use crate::definitions::RETURNS;
use crate::queue::{Queue, event, write_event};
use crate::vhost::Vhost;

/// Events that are looked up in the log at once.
const EVENTS_A_LOAD: usize = 4096;
/// Queues whose marks go into one batch.
const MARKS_A_BATCH: usize = 1024;
/// In the place of a message's number: the event says up to which number messages were handed out.
const MARK: u64 = u64::MAX;

/// [`Vhost::close`] for all vhosts of a node.
pub(crate) fn close(vhosts: &[&Vhost]) {
    let Some(durable) = vhosts.first().and_then(|first| first.durable()) else {
        return;
    };
    let stored = durable.log().queues().into_iter();
    let stored: BTreeMap<u64, QueueInfo> = stored.map(|info| (info.queue, info)).collect();
    let mut all = Vec::new();
    for queue in vhosts.iter().flat_map(|vhost| vhost.topology().queues()) {
        queue.each_part(|part| {
            let mark = part.handed_out();
            all.extend(mark.map(|mark| (part.id() | RETURNS, mark)));
        });
    }
    for some in all.chunks(MARKS_A_BATCH) {
        let mut batch = Batch::new();
        for (id, mark) in some {
            let target = Target {
                queue: *id,
                seq: stored.get(id).map_or(0, |info| info.next),
            };
            batch.publish(&[target], false, |out| write_event(out, MARK, *mark));
        }
        // What is not there is as after a crash.
        let _ = durable.append(&mut batch);
    }
}

impl Vhost {
    /// Before an orderly end, when nothing is delivered any more: has the log know which messages may have been. Without it,
    /// or if the log does not take it, all that come again after the restart are marked as redelivered.
    pub fn close(&self) {
        close(&[self]);
    }

    /// Brings back what the log has of deliveries from a queue, before it is used; returns the events that are done with.
    pub(crate) fn restore_returns(
        &self,
        queue: &Queue,
        info: Option<&QueueInfo>,
        next: u64,
    ) -> Option<Range<u64>> {
        let mut delivered_below = next;
        let (mut counts, mut done) = (Vec::new(), None);
        if let (Some(info), Some(durable)) = (info, self.durable()) {
            for (number, (seq, value)) in events(durable.log(), info) {
                if seq == MARK {
                    delivered_below = value;
                    done = Some(number..number + 1);
                } else {
                    counts.push((number, seq, value));
                }
            }
            queue.restore_counts(&counts, info.next);
        }
        if !queue.counts_returns() {
            queue.set_delivered_below(delivered_below);
        }
        done
    }
}

/// All events of a stream: number and content. What cannot be read is passed over.
fn events(log: &Log, info: &QueueInfo) -> Vec<(u64, (u64, u64))> {
    let (mut events, mut from) = (Vec::new(), info.low);
    while let Ok(located) = log.load(info.queue, from, EVENTS_A_LOAD)
        && let Some(last) = located.last()
    {
        from = last.seq + 1;
        for message in &located {
            if let Ok(chunk) = log.read(message.position, message.len)
                && let Some(payload) = chunk.get(message.position, message.len)
                && let Some(event) = event(payload)
            {
                events.push((message.seq, event));
            }
        }
    }
    events
}
