//! Exchanges that drop what was published to them before: see [`crate::dedup`].
//!
//! Messages with a key are taken one at a time: the exchange's keys are locked until the message is committed, and remember it
//! only then. So what the log refuses, what nobody takes and what a full queue refuses may come again; and who repeats a
//! message is confirmed no earlier than the first one is safe.

use std::sync::Arc;

use super::{Publisher, Routed};
use crate::dedup::{Dedup, Key, Seen};
use crate::durable::{Level, Promise};
use crate::error::Error;
use crate::record::{self, Content};

impl Publisher {
    /// Has `take` take a message that was published to an exchange with these keys, unless it came before. `level` is that of
    /// the safest queue that the message goes to.
    pub(super) fn once(
        &mut self,
        dedup: &Arc<Dedup>,
        level: Level,
        content: Content<'_>,
        now_ms: u64,
        take: impl FnOnce(&mut Self) -> Result<Routed, Error>,
    ) -> Result<Routed, Error> {
        let Some(key) = dedup.key(content.header) else {
            return take(self);
        };
        let mut seen = dedup.lock();
        if seen.knows(&key, now_ms) {
            dedup.count(1);
            self.repeated(level, content.header);
            return Ok(Routed::Queues);
        }
        let routed = take(self)?;
        self.took(&mut seen, key, routed, now_ms);
        Ok(routed)
    }

    /// Drops a message that came before. Who waits for it waits for all that the log has by now, where the first one is.
    fn repeated(&mut self, level: Level, header: &[u8]) {
        crate::counters::add(&self.vhost.counters().messages_deduplicated, 1);
        if record::is_persistent(header)
            && let Some(durable) = self.vhost.durable()
        {
            let first = Promise::new(durable.log().appended(), level);
            self.promise = self.promise.and(first);
        }
    }

    fn took(&mut self, seen: &mut Seen, key: Key, routed: Routed, now_ms: u64) {
        if routed == Routed::Queues {
            self.commit();
            if !self.stalled {
                seen.note(key, now_ms);
            }
        }
    }
}
