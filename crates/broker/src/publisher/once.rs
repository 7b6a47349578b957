//! Exchanges that drop what was published to them before: see [`crate::dedup`].
//!
//! Messages with a key are taken one at a time: the exchange's keys are locked until the message is committed, and remember it
//! only then. So what the log refuses, what nobody takes and what a full queue refuses may come again; and who repeats a
//! message is confirmed no earlier than the first one is safe.

use std::sync::Arc;

use super::{Publisher, Routed};
use crate::counters::add;
use crate::dedup::{Dedup, Key, Seen};
use crate::error::Error;
use crate::record::{self, Content};

impl Publisher {
    /// Has `take` take a message that was published to an exchange with these keys. `None`: it came before, and is dropped.
    pub(super) fn once(
        &mut self,
        dedup: &Arc<Dedup>,
        content: Content<'_>,
        now_ms: u64,
        take: impl FnOnce(&mut Self) -> Result<Routed, Error>,
    ) -> Result<Option<Routed>, Error> {
        let Some(key) = dedup.key(content.header) else {
            return take(self).map(Some);
        };
        let mut seen = dedup.lock();
        if seen.knows(&key, now_ms) {
            dedup.count(1);
            add(&self.vhost.counters().messages_deduplicated, 1);
            if record::is_persistent(content.header) {
                self.promise = self.promise.and(seen.promise());
            }
            return Ok(None);
        }
        let routed = take(self)?;
        self.took(&mut seen, key, routed, now_ms);
        Ok(Some(routed))
    }

    fn took(&mut self, seen: &mut Seen, key: Key, routed: Routed, now_ms: u64) {
        if routed != Routed::Queues {
            return;
        }
        self.commit();
        if !self.stalled {
            seen.note(key, now_ms);
            seen.promised(self.promise);
        }
    }
}
