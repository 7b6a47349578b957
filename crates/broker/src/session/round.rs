//! What one round of deliveries shares: the segment that the messages are read from, and what is to be counted.
//!
//! Consumers of many queues get few messages each, and those come from few batches. Looking up the segment, giving
//! copies back and counting are steps on memory that all cores share, so they are done once a run of messages from
//! the same segment, whichever queues these stood in.

use std::sync::Arc;

use backbone_log::{Arena, Segment};

use crate::counters::{Counters, add};

/// Empty between rounds.
#[derive(Default)]
pub(super) struct Round {
    /// At least one copy in it belongs to this session until the round ends, so that its name is not given to another.
    segment: Option<Arc<Segment>>,
    /// Copies in it that are done with.
    done: u64,
    /// Deliveries that need no acknowledgement.
    pub auto_ack: u64,
    /// The others.
    pub manual_ack: u64,
    /// Deliveries that were repeated.
    pub redelivered: u64,
}

impl Round {
    /// The segment with this name. The caller owns a copy in it, and keeps it until the round ends.
    #[inline]
    pub fn segment(&mut self, arena: &Arena, id: u32) -> &Arc<Segment> {
        if self.segment.as_ref().is_none_or(|it| it.id() != id) {
            self.leave_segment(arena);
            self.segment = Some(arena.segment(id));
        }
        self.segment.as_ref().expect("it was just put there")
    }

    /// So many copies in the current segment are done with.
    #[inline]
    pub fn done(&mut self, copies: u64) {
        self.done += copies;
    }

    /// Ends the round.
    pub fn end(&mut self, arena: &Arena, counters: &Counters) {
        self.leave_segment(arena);
        let (auto, manual) = (
            &counters.messages_delivered_consume_auto_ack,
            &counters.messages_delivered_consume_manual_ack,
        );
        add(auto, std::mem::take(&mut self.auto_ack));
        add(manual, std::mem::take(&mut self.manual_ack));
        let redelivered = std::mem::take(&mut self.redelivered);
        add(&counters.messages_redelivered, redelivered);
    }

    /// Forgets the segment, whose copies may be released then.
    pub fn leave_segment(&mut self, arena: &Arena) {
        let copies = std::mem::take(&mut self.done);
        if let (Some(segment), true) = (self.segment.take(), copies > 0) {
            arena.release_held(segment, copies);
        }
    }
}
