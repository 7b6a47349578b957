//! Class queue.

use std::borrow::Cow;
use std::sync::Arc;

use backbone_wire::ShortStr;
use backbone_wire::method::queue::{
    Bind, BindOk, Declare, DeclareOk, Delete, DeleteOk, Purge, PurgeOk, Unbind, UnbindOk,
};

use super::Core;
use super::channel::Channel;
use super::methods::name;
use crate::error::Error;
use crate::out::OutBuf;
use crate::queue::DeleteIf;
use crate::topology::clean_name;
use crate::vhost::QueueDeclare;

impl Core {
    pub(super) fn queue_declare(
        &mut self,
        channel: &mut Channel,
        declare: &Declare<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let queue = clean_name(name(declare.queue)?);
        let queue = &*queue;
        let vhost = Arc::clone(self.publisher.vhost());
        if let Some(answers) = vhost.declare_reply(queue) {
            answers?;
            if !declare.no_wait {
                declare_ok(channel.id, queue, 0, 1, out);
            }
            channel.last_queue = Some(queue.to_owned());
            return Ok(());
        }
        // A passive one never stands for the last queue: there is none without a name.
        let given = match queue.is_empty() && !declare.passive {
            true => Some(vhost.server_name("amq.gen-")),
            false => None,
        };
        let asked = QueueDeclare {
            name: queue,
            passive: declare.passive,
            // What goes with its connection survives nothing, whatever it says.
            durable: declare.durable && !declare.exclusive,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments,
            protected: false,
            lenient: false,
        };
        let acting = self.acting();
        acting.may_declare_queue(given.as_deref().unwrap_or(queue), &asked)?;
        vhost.tell_time(self.now_ms);
        let declared = match &given {
            Some(given) => vhost.declare_nameless_queue(given, asked, self.conn)?,
            None => vhost.declare_queue(asked, self.conn)?,
        };
        let ours = declared.options().owner == Some(self.conn);
        if ours && !self.exclusive.iter().any(|q| Arc::ptr_eq(q, &declared)) {
            self.exclusive.push(Arc::clone(&declared));
        }
        channel.last_queue = Some(declared.name().to_string());
        if !declare.no_wait {
            let stats = declared.stats();
            // An alias is answered with the alias: pika waits for the name that it asked for.
            let answered = match queue.is_empty() {
                true => declared.name(),
                false => queue,
            };
            let ready = u32::try_from(stats.ready).unwrap_or(u32::MAX);
            declare_ok(channel.id, answered, ready, stats.consumers, out);
        }
        Ok(())
    }

    pub(super) fn queue_bind(
        &mut self,
        channel: &Channel,
        bind: &Bind<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let ends = BindingEnds::of(channel, bind.queue, bind.exchange, bind.routing_key)?;
        let (queue, exchange, key) = (&ends.queue, &ends.exchange, ends.key());
        self.publisher.vhost().tell_time(self.now_ms);
        self.acting()
            .bind_queue(queue, exchange, key, bind.arguments)?;
        if !bind.no_wait {
            BindOk {}.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    pub(super) fn queue_unbind(
        &mut self,
        channel: &Channel,
        unbind: &Unbind<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let ends = BindingEnds::of(channel, unbind.queue, unbind.exchange, unbind.routing_key)?;
        let (queue, exchange, key) = (&ends.queue, &ends.exchange, ends.key());
        self.acting()
            .unbind_queue(queue, exchange, key, unbind.arguments)?;
        UnbindOk {}.write(channel.id, &mut out.bytes);
        Ok(())
    }

    pub(super) fn queue_purge(
        &mut self,
        channel: &Channel,
        purge: &Purge<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let queue = queue_name(channel, purge.queue)?;
        let count = self.acting().purge(&queue)?;
        if !purge.no_wait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            PurgeOk { message_count }.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }

    pub(super) fn queue_delete(
        &mut self,
        channel: &Channel,
        delete: &Delete<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let queue = clean_queue_name(channel, delete.queue)?;
        let condition = DeleteIf {
            unused: delete.if_unused,
            empty: delete.if_empty,
        };
        let count = self.acting().delete_queue(&queue, condition)?;
        self.exclusive.retain(|q| **q.name() != *queue);
        if !delete.no_wait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            DeleteOk { message_count }.write(channel.id, &mut out.bytes);
        }
        Ok(())
    }
}

fn declare_ok(channel: u16, queue: &str, ready: u32, consumers: u32, out: &mut OutBuf) {
    let ok = DeclareOk {
        queue: ShortStr::new(queue.as_bytes()).expect("a declared name fits"),
        message_count: ready,
        consumer_count: consumers,
    };
    ok.write(channel, &mut out.bytes);
}

/// What a queue is bound to, or not any more.
struct BindingEnds<'a> {
    queue: Cow<'a, str>,
    exchange: Cow<'a, str>,
    /// `None`: the queue's name, as of both when both are left empty.
    key: Option<&'a str>,
}

impl<'a> BindingEnds<'a> {
    fn of(
        channel: &Channel,
        queue: ShortStr<'a>,
        exchange: ShortStr<'a>,
        key: ShortStr<'a>,
    ) -> Result<Self, Error> {
        let both_empty = queue.is_empty() && key.is_empty();
        Ok(Self {
            queue: clean_queue_name(channel, queue)?,
            exchange: clean_name(name(exchange)?),
            key: match both_empty {
                true => None,
                false => Some(name(key)?),
            },
        })
    }

    fn key(&self) -> &[u8] {
        self.key.unwrap_or(&self.queue).as_bytes()
    }
}

/// As [`queue_name`], as it was declared under that.
fn clean_queue_name<'a>(channel: &Channel, raw: ShortStr<'a>) -> Result<Cow<'a, str>, Error> {
    Ok(match queue_name(channel, raw)? {
        Cow::Borrowed(name) => clean_name(name),
        last => last,
    })
}

/// The queue that a method names; empty: the one declared last on the channel.
pub(super) fn queue_name<'a>(channel: &Channel, raw: ShortStr<'a>) -> Result<Cow<'a, str>, Error> {
    if !raw.is_empty() {
        return name(raw).map(Cow::Borrowed);
    }
    match &channel.last_queue {
        Some(last) => Ok(Cow::Owned(last.clone())),
        None => Err(Error::not_found("no previously declared queue")),
    }
}
