//! Class basic: consuming and settling. Publishing is in `content`, delivery in `deliver`.

use std::sync::Arc;

use backbone_wire::ShortStr;
use backbone_wire::error::ReplyCode;
use backbone_wire::method::basic::{
    Ack, Cancel, CancelOk, Consume, ConsumeOk, Get, Nack, Qos, QosOk, Reject,
};

use super::Core;
use super::channel::Channel;
use super::methods::name;
use super::queue::queue_name;
use super::source::Source;
use super::tx::Settle;
use crate::error::Error;
use crate::out::OutBuf;
use crate::queue::{ConsumerSpec, DeleteIf, Queue, Refused, SharedCredit};

impl Core {
    pub(super) fn basic_ack(&mut self, channel: &mut Channel, ack: &Ack) -> Result<(), Error> {
        self.settle(channel, ack.delivery_tag, ack.multiple, Settle::Done)
    }

    pub(super) fn basic_nack(&mut self, channel: &mut Channel, nack: &Nack) -> Result<(), Error> {
        let how = if nack.requeue {
            Settle::Requeue
        } else {
            Settle::Done
        };
        self.settle(channel, nack.delivery_tag, nack.multiple, how)
    }

    pub(super) fn basic_reject(
        &mut self,
        channel: &mut Channel,
        reject: &Reject,
    ) -> Result<(), Error> {
        let how = if reject.requeue {
            Settle::Requeue
        } else {
            Settle::Done
        };
        self.settle(channel, reject.delivery_tag, false, how)
    }

    pub(super) fn basic_recover(
        &mut self,
        channel: &mut Channel,
        requeue: bool,
    ) -> Result<(), Error> {
        if !requeue {
            return Err(Error::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        let held = channel.unacked.take_open();
        self.requeue(channel, held);
        self.unstall(channel);
        Ok(())
    }

    pub(super) fn basic_qos(
        &mut self,
        channel: &mut Channel,
        qos: &Qos,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Error::new(ReplyCode::NotImplemented, text));
        }
        if qos.global {
            self.share_limit(channel, u32::from(qos.prefetch_count));
        } else {
            channel.prefetch = u32::from(qos.prefetch_count);
        }
        QosOk {}.write(channel.id, &mut out.bytes);
        Ok(())
    }

    /// Sets the limit that all consumers of the channel share, the ones already there too.
    fn share_limit(&mut self, channel: &mut Channel, limit: u32) {
        let shared = Arc::clone(
            channel
                .shared
                .get_or_insert_with(Arc::<SharedCredit>::default),
        );
        shared.set_limit(limit);
        for index in &channel.sources {
            let source = self.sources.get(*index);
            let Some(id) = source.consumer else { continue };
            if !source.shared && !source.no_ack {
                source.shared = true;
                source.queue.share_credit(id, &shared, source.held);
            }
            source.queue.poke(id, &mut self.wakes);
        }
        self.wakes.ring();
    }

    pub(super) fn basic_consume(
        &mut self,
        channel: &mut Channel,
        consume: &Consume<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let queue = queue_name(channel, consume.queue)?;
        let vhost = Arc::clone(self.publisher.vhost());
        let origin = self.publisher.origin();
        origin.access.consume(&origin.user, vhost.name(), &queue)?;
        let queue = vhost.queue(&queue, self.conn)?;
        let tag = match name(consume.consumer_tag)? {
            "" => vhost.server_name("amq.ctag-"),
            tag => tag.to_owned(),
        };
        if self.consumer_of(channel, tag.as_bytes()).is_some() {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Error::new(ReplyCode::NotAllowed, text));
        }
        let shared = if consume.no_ack {
            None
        } else {
            channel.shared.clone()
        };
        let mut source = Source::new(Arc::clone(&queue), channel.id);
        source.tag = tag.as_bytes().into();
        source.no_ack = consume.no_ack;
        source.shared = shared.is_some();
        let index = self.sources.add(source);
        let spec = ConsumerSpec {
            bell: Arc::clone(&self.bell),
            key: self.sources.key(index),
            prefetch: if consume.no_ack { 0 } else { channel.prefetch },
            shared,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
        };
        match queue.consume(spec, &mut self.wakes) {
            Ok(id) => self.sources.get(index).consumer = Some(id),
            Err(refused) => {
                self.sources.retire(index);
                return Err(consume_refused(refused, &queue, vhost.name()));
            }
        }
        channel.sources.push(index);
        if !consume.no_wait {
            let consumer_tag =
                ShortStr::new(tag.as_bytes()).expect("the tag came from a short string");
            ConsumeOk { consumer_tag }.write(channel.id, &mut out.bytes);
        }
        self.wakes.ring();
        Ok(())
    }

    pub(super) fn basic_cancel(
        &mut self,
        channel: &mut Channel,
        cancel: &Cancel<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        if let Some(index) = self.consumer_of(channel, cancel.consumer_tag.as_bytes()) {
            channel.sources.retain(|source| *source != index);
            channel.stalled.retain(|source| *source != index);
            self.cancel_consumer(index);
            self.sources.retire(index);
        }
        if !cancel.no_wait {
            let consumer_tag = cancel.consumer_tag;
            CancelOk { consumer_tag }.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    /// Takes the consumer of source `index` out of its queue, which may go with it.
    pub(super) fn cancel_consumer(&mut self, index: u32) {
        let source = self.sources.get(index);
        let Some(id) = source.consumer.take() else {
            return;
        };
        let queue = Arc::clone(&source.queue);
        let unused = queue.cancel(id, &mut self.wakes);
        // What it was assigned and did not fetch takes no room any more.
        self.poke_siblings(index);
        self.wakes.ring();
        if unused {
            let condition = DeleteIf {
                unused: true,
                empty: false,
            };
            // A consumer that came meanwhile keeps the queue.
            let removed = self.publisher.vhost().remove_queue(&queue, condition);
            if removed.is_ok() {
                self.exclusive.retain(|own| !Arc::ptr_eq(own, &queue));
            }
        }
    }

    pub(super) fn basic_get(
        &mut self,
        channel: &mut Channel,
        get: &Get<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let queue = queue_name(channel, get.queue)?;
        let vhost = Arc::clone(self.publisher.vhost());
        let origin = self.publisher.origin();
        origin.access.consume(&origin.user, vhost.name(), &queue)?;
        let queue = vhost.queue(&queue, self.conn)?;
        let mut taken = Vec::with_capacity(1);
        let ready = vhost.take(&queue, 1, usize::MAX, &mut taken);
        match taken.first() {
            Some(entry) => {
                let left = u32::try_from(ready).unwrap_or(u32::MAX);
                self.write_got(channel, &queue, entry, left, get.no_ack, out);
            }
            None => self.write_get_empty(channel.id, out),
        }
        Ok(())
    }

    /// Takes a message that the channel got from `queue` as held; returns its source, which goes
    /// when nothing is held from it.
    pub(super) fn hold_got(&mut self, channel: &mut Channel, queue: &Arc<Queue>) -> u32 {
        if let Some(index) = self.sources.find(channel.got) {
            let source = self.sources.get(index);
            if Arc::ptr_eq(&source.queue, queue) {
                source.held += 1;
                return index;
            }
        }
        let mut source = Source::new(Arc::clone(queue), channel.id);
        source.held = 1;
        let index = self.sources.add(source);
        self.sources.retire(index);
        channel.got = self.sources.key(index);
        index
    }

    /// The source of the channel's consumer `tag`.
    fn consumer_of(&mut self, channel: &Channel, tag: &[u8]) -> Option<u32> {
        let sources = &mut self.sources;
        let mut indexes = channel.sources.iter().copied();
        indexes.find(|index| *sources.get(*index).tag == *tag && !tag.is_empty())
    }
}

fn consume_refused(refused: Refused, queue: &Queue, vhost: &str) -> Error {
    let queue = queue.name();
    match refused {
        Refused::ExclusiveUse => Error::access_refused(format!(
            "queue '{queue}' in vhost '{vhost}' in exclusive use"
        )),
        _ => Error::not_found(format!("no queue '{queue}' in vhost '{vhost}'")),
    }
}
