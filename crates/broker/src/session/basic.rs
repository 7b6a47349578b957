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
use super::source::{Asked, Source};
use super::tx::Settle;
use super::unacked::Unacked;
use crate::error::{Error, Resource};
use crate::out::OutBuf;
use crate::queue::{ConsumerSpec, DeleteIf, Queue, Refused, SharedCredit, consumer_priority};
use crate::replies;

impl Core {
    pub(super) fn basic_ack(&mut self, channel: &mut Channel, ack: &Ack) -> Result<(), Error> {
        self.settle(channel, ack.delivery_tag, ack.multiple, Settle::Done)
    }

    pub(super) fn basic_nack(&mut self, channel: &mut Channel, nack: &Nack) -> Result<(), Error> {
        let how = if nack.requeue {
            Settle::Requeue
        } else {
            Settle::Reject
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
            Settle::Reject
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
        if *queue == *replies::NAME {
            return self.consume_replies(channel, consume, out);
        }
        let vhost = Arc::clone(self.publisher.vhost());
        let origin = self.publisher.origin();
        origin.access.consume(&origin.user, vhost.name(), &queue)?;
        let queue = vhost.queue(&queue, self.conn)?;
        let resource = Resource::queue(queue.name(), vhost.name());
        if queue.counts_returns() && channel.shared.as_ref().is_some_and(|it| it.is_limited()) {
            let text = format!("{resource} does not support global qos");
            return Err(Error::new(ReplyCode::NotImplemented, text));
        }
        let tag = self.consumer_tag(channel, name(consume.consumer_tag)?)?;
        let priority = consumer_priority(consume.arguments, resource)?;
        let shared = if consume.no_ack {
            None
        } else {
            channel.shared.clone()
        };
        let mut source = Source::new(Arc::clone(&queue), channel.id);
        source.tag = tag.as_bytes().into();
        source.no_ack = consume.no_ack;
        source.shared = shared.is_some();
        source.asked = Some(Box::new(Asked {
            prefetch: if consume.no_ack { 0 } else { channel.prefetch },
            exclusive: consume.exclusive,
            arguments: consume.arguments.as_bytes().to_vec(),
        }));
        let index = self.sources.add(source);
        let spec = ConsumerSpec {
            bell: Arc::clone(&self.bell),
            key: self.sources.key(index),
            prefetch: if consume.no_ack { 0 } else { channel.prefetch },
            shared,
            no_ack: consume.no_ack,
            // Quorum queues have no exclusive consumers: they take the flag and ignore it.
            exclusive: consume.exclusive && !queue.counts_returns(),
            priority,
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
        let tag = name(cancel.consumer_tag)?.as_bytes();
        let reply = channel.reply.as_ref().map(|reply| reply.source);
        let reply = reply.filter(|index| *self.sources.get(*index).tag == *tag);
        if reply.is_some() {
            channel.reply = None;
        }
        if let Some(index) = reply.or_else(|| self.consumer_of(channel, tag)) {
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
        self.consumer_is_gone(index, &queue, unused);
    }

    /// As [`Core::cancel_consumer`] when its channel ends, and puts back what that holds of it.
    pub(super) fn end_consumer(&mut self, channel: &Channel, index: u32, held: Vec<Unacked>) {
        let source = self.sources.get(index);
        let Some(id) = source.consumer.take() else {
            return self.requeue(channel, held);
        };
        let entries = self.give_back(channel, index, &held);
        let queue = Arc::clone(&self.sources.get(index).queue);
        let vhost = Arc::clone(self.publisher.vhost());
        let (dead, wakes) = (&mut self.dead, &mut self.wakes);
        let left = vhost.leave(&queue, id, &entries, self.now_ms, dead, wakes);
        if !left.taken {
            crate::flow::release(vhost.arena(), &entries);
        }
        self.consumer_is_gone(index, &queue, left.unused);
        self.bury();
    }

    /// After the consumer of source `index` left its queue. `unused`: nobody needs that any more.
    fn consumer_is_gone(&mut self, index: u32, queue: &Arc<Queue>, unused: bool) {
        // What it was assigned and did not fetch takes no room any more.
        self.poke_siblings(index);
        self.wakes.ring();
        if unused {
            let condition = DeleteIf {
                unused: true,
                empty: false,
            };
            // A consumer that came meanwhile keeps the queue.
            let vhost = self.publisher.vhost();
            if vhost.close_reply(queue) || vhost.remove_queue(queue, condition).is_ok() {
                self.exclusive.retain(|own| !Arc::ptr_eq(own, queue));
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
        vhost.tell_time(self.now_ms);
        queue.used(self.now_ms);
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

    /// The tag of a new consumer: the one that it asks for, or one of ours.
    pub(super) fn consumer_tag(&mut self, channel: &Channel, asked: &str) -> Result<String, Error> {
        if asked.is_empty() {
            return Ok(self.publisher.vhost().server_name("amq.ctag-"));
        }
        if self.consumer_of(channel, asked.as_bytes()).is_some() {
            let text = format!("attempt to reuse consumer tag '{asked}'");
            return Err(Error::new(ReplyCode::NotAllowed, text));
        }
        Ok(asked.to_owned())
    }

    /// The source of the channel's consumer `tag`. The tag of its consumer of answers counts for nothing, as in RabbitMQ.
    fn consumer_of(&mut self, channel: &Channel, tag: &[u8]) -> Option<u32> {
        let sources = &mut self.sources;
        let reply = channel.reply.as_ref().map(|reply| reply.source);
        let mut indexes = channel.sources.iter().copied();
        indexes.find(|index| *sources.get(*index).tag == *tag && reply != Some(*index))
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
