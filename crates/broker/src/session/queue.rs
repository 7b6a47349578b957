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
use crate::publisher::Origin;
use crate::queue::DeleteIf;
use crate::vhost::{QueueDeclare, check_queue_name};

impl Core {
    pub(super) fn queue_declare(
        &mut self,
        channel: &mut Channel,
        declare: &Declare<'_>,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        let passive_last = declare.passive && declare.queue.is_empty();
        let queue = if passive_last {
            queue_name(channel, declare.queue)?
        } else {
            Cow::Borrowed(name(declare.queue)?)
        };
        let vhost = Arc::clone(self.publisher.vhost());
        if let Some(answers) = vhost.declare_reply(&queue) {
            answers?;
            if !declare.no_wait {
                declare_ok(channel.id, &queue, 0, 1, out);
            }
            channel.last_queue = Some(queue.into_owned());
            return Ok(());
        }
        let given = match queue.is_empty() {
            true => Some(vhost.server_name("amq.gen-")),
            false => None,
        };
        self.may_declare_queue(given.as_deref().unwrap_or(&queue), declare)?;
        let asked = QueueDeclare {
            name: &queue,
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments,
            protected: false,
            lenient: false,
        };
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
                false => &*queue,
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
        let queue = queue_name(channel, bind.queue)?;
        let both_empty = bind.queue.is_empty() && bind.routing_key.is_empty();
        let key = if both_empty {
            queue.as_bytes()
        } else {
            bind.routing_key.as_bytes()
        };
        let exchange = name(bind.exchange)?;
        self.may_bind("queue", &queue, exchange, key)?;
        let vhost = self.publisher.vhost();
        // Of a missing exchange and a missing queue, the exchange is told of.
        if vhost.topology().queue(&queue).is_some() {
            vhost.queue(&queue, self.conn)?;
        }
        let topology = vhost.topology();
        topology.bind_queue(&queue, exchange, key, bind.arguments)?;
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
        let queue = queue_name(channel, unbind.queue)?;
        let both_empty = unbind.queue.is_empty() && unbind.routing_key.is_empty();
        let key = if both_empty {
            queue.as_bytes()
        } else {
            unbind.routing_key.as_bytes()
        };
        let exchange = name(unbind.exchange)?;
        self.may_bind("queue", &queue, exchange, key)?;
        let vhost = self.publisher.vhost();
        if vhost.topology().queue(&queue).is_some() {
            vhost.queue(&queue, self.conn)?;
        }
        let topology = vhost.topology();
        topology.unbind_queue(&queue, exchange, key, unbind.arguments)?;
        vhost.forget_orphans();
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
        let vhost = self.publisher.vhost();
        let origin = self.publisher.origin();
        origin.access.consume(&origin.user, vhost.name(), &queue)?;
        let count = vhost.purge(&*vhost.queue(&queue, self.conn)?);
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
        let queue = queue_name(channel, delete.queue)?;
        self.may_configure("queue", &queue)?;
        let vhost = self.publisher.vhost();
        let there = vhost.topology().queue(&queue);
        if there.is_some_and(|q| q.options().protected) {
            return Err(Error::access_refused(format!(
                "queue '{queue}' in vhost '{}' belongs to the bus: delete its client instead",
                vhost.name()
            )));
        }
        let condition = DeleteIf {
            unused: delete.if_unused,
            empty: delete.if_empty,
        };
        let count = vhost.delete_queue(&queue, self.conn, condition)?;
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

impl Core {
    /// Whether the user may declare `queue`, or look for it.
    fn may_declare_queue(&self, queue: &str, declare: &Declare<'_>) -> Result<(), Error> {
        let Origin { user, access } = self.publisher.origin();
        let vhost = self.publisher.vhost();
        let is_there = vhost.topology().queue(queue).is_some();
        if !(declare.passive || is_there || declare.queue.is_empty()) {
            check_queue_name(queue)?;
        }
        access.declare_queue(user, vhost.name(), queue, declare.passive)?;
        if declare.passive || is_there {
            return Ok(());
        }
        // Dead letters leave the queue with this user's rights.
        let dead_letters = declare.arguments.get("x-dead-letter-exchange");
        match dead_letters.and_then(|value| value.as_str()) {
            Some(exchange) => {
                access.read(user, vhost.name(), "queue", queue)?;
                access.write(user, vhost.name(), "exchange", exchange)
            }
            None => Ok(()),
        }
    }
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
