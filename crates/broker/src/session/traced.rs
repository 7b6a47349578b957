//! What the connections of a traced vhost tell: see [`crate::firehose`].

use super::Core;
use super::channel::Channel;
use crate::error::Error;
use crate::firehose::Party;
use crate::out::OutBuf;
use crate::queue::Queue;
use crate::record::{Entry, Record};

impl Core {
    /// Looks whether the vhost is traced now.
    #[inline]
    pub(super) fn look_for_traces(&mut self) -> bool {
        self.traced = self.publisher.vhost().is_traced();
        self.traced
    }

    /// As [`Core::publish_stored`], and tells of it.
    #[cold]
    pub(super) fn publish_traced(
        &mut self,
        channel: &mut Channel,
        stored: &[u8],
        mandatory: bool,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let content = Record::read(stored, 0).content();
        self.publish(channel, content, mandatory, out)?;
        let by = self.party(channel.id);
        self.publisher.trace_published(by, content, self.now_ms);
        Ok(())
    }

    /// Tells of messages that are about to be delivered on `channel`.
    #[cold]
    pub(super) fn trace_deliveries(&self, channel: u16, queue: &Queue, entries: &[Entry]) {
        let vhost = self.publisher.vhost();
        vhost.trace_deliveries(self.party(channel), queue, entries, self.now_ms);
    }

    fn party(&self, channel: u16) -> Party<'_> {
        Party {
            connection: &self.name,
            channel,
            user: &self.publisher.origin().user,
        }
    }
}
