//! What a user changes in a vhost, from whichever side: declares, bindings, deletions and purges. Each is checked as the
//! user's rights say, in RabbitMQ's order of checks, and then done.

use std::sync::Arc;

use backbone_wire::table::Table;

use crate::access::Access;
use crate::error::Error;
use crate::publisher::Origin;
use crate::queue::{DeleteIf, Queue};
use crate::topology::{ExchangeKind, ExchangeSpec, check_deletable, check_not_default, clean_name};
use crate::vhost::{QueueDeclare, Vhost, check_queue_name};

/// A user at work in a vhost.
#[derive(Clone, Copy)]
pub struct Acting<'a> {
    vhost: &'a Arc<Vhost>,
    origin: &'a Origin,
    conn: u64,
}

impl<'a> Acting<'a> {
    /// The user that `origin` names, on connection `conn`, whose exclusive queues are its own; 0: on none.
    pub fn new(vhost: &'a Arc<Vhost>, origin: &'a Origin, conn: u64) -> Self {
        Self {
            vhost,
            origin,
            conn,
        }
    }

    /// `exchange.declare`.
    ///
    /// # Errors
    /// 403, and those of [`crate::topology::Topology::declare_exchange`].
    pub fn declare_exchange(&self, spec: &ExchangeSpec<'_>) -> Result<(), Error> {
        if !spec.passive {
            self.may_declare_exchange(spec)?;
        }
        let as_it_is = self.vhost.protected_exchange(spec.name) == Some(true);
        self.vhost.declare_exchange(&ExchangeSpec {
            passive: spec.passive || as_it_is,
            ..*spec
        })
    }

    fn may_declare_exchange(&self, spec: &ExchangeSpec<'_>) -> Result<(), Error> {
        let (access, user, vhost) = self.whose();
        let exchange = spec.name;
        ExchangeKind::parse(spec.kind)?;
        check_not_default(exchange)?;
        access.configure(user, vhost, "exchange", exchange)?;
        let topology = self.vhost.topology();
        if topology.kind(exchange.as_bytes()).is_some() {
            return Ok(());
        }
        // What is not routed goes on to the alternate exchange with this user's rights.
        let alternate = spec.arguments.get("alternate-exchange");
        match alternate.and_then(|value| value.as_str()) {
            Some(alternate) if !exchange.starts_with("amq.") => {
                access.read(user, vhost, "exchange", exchange)?;
                access.write(user, vhost, "exchange", alternate)
            }
            _ => Ok(()),
        }
    }

    /// `exchange.delete`.
    ///
    /// # Errors
    /// 403, and those of [`crate::topology::Topology::delete_exchange`].
    pub fn delete_exchange(&self, exchange: &str, if_unused: bool) -> Result<(), Error> {
        check_deletable(exchange, self.vhost.name())?;
        self.may_configure("exchange", exchange)?;
        if self.vhost.protected_exchange(exchange).is_some() {
            return Err(Error::access_refused(format!(
                "exchange '{exchange}' in vhost '{}' belongs to the bus",
                self.vhost.name()
            )));
        }
        self.vhost.topology().delete_exchange(exchange, if_unused)?;
        self.vhost.forget_orphans();
        Ok(())
    }

    /// `queue.bind`.
    ///
    /// # Errors
    /// 403, 405, and those of [`Vhost::bind_queue`].
    pub fn bind_queue(
        &self,
        queue: &str,
        exchange: &str,
        key: &[u8],
        arguments: Table<'_>,
    ) -> Result<(), Error> {
        self.may_bind_queue(queue, exchange, key)?;
        self.vhost.bind_queue(queue, exchange, key, arguments)
    }

    /// `queue.unbind`.
    ///
    /// # Errors
    /// 403, 405, and those of [`crate::topology::Topology::unbind_queue`].
    pub fn unbind_queue(
        &self,
        queue: &str,
        exchange: &str,
        key: &[u8],
        arguments: Table<'_>,
    ) -> Result<(), Error> {
        self.may_bind_queue(queue, exchange, key)?;
        let topology = self.vhost.topology();
        topology.unbind_queue(queue, exchange, key, arguments)?;
        self.vhost.forget_orphans();
        Ok(())
    }

    fn may_bind_queue(&self, queue: &str, exchange: &str, key: &[u8]) -> Result<(), Error> {
        self.may_bind("queue", queue, exchange, key)?;
        // Of a missing exchange and a missing queue, the exchange is told of.
        if self.vhost.topology().queue(queue).is_some() {
            self.vhost.queue(queue, self.conn)?;
        }
        Ok(())
    }

    /// `exchange.bind`: from `source` to `destination`.
    ///
    /// # Errors
    /// 403, and those of [`Vhost::bind_exchange`].
    pub fn bind_exchange(
        &self,
        destination: &str,
        source: &str,
        key: &[u8],
        arguments: Table<'_>,
    ) -> Result<(), Error> {
        self.may_bind("exchange", destination, source, key)?;
        let vhost = self.vhost;
        vhost.bind_exchange(destination, source, key, arguments)
    }

    /// `exchange.unbind`.
    ///
    /// # Errors
    /// 403, and those of [`crate::topology::Topology::unbind_exchange`].
    pub fn unbind_exchange(
        &self,
        destination: &str,
        source: &str,
        key: &[u8],
        arguments: Table<'_>,
    ) -> Result<(), Error> {
        self.may_bind("exchange", destination, source, key)?;
        let topology = self.vhost.topology();
        topology.unbind_exchange(destination, source, key, arguments)?;
        self.vhost.forget_orphans();
        Ok(())
    }

    /// Whether the user may bind `kind` (exchange or queue) `destination` to an exchange, or unbind it.
    fn may_bind(
        &self,
        kind: &str,
        destination: &str,
        source: &str,
        key: &[u8],
    ) -> Result<(), Error> {
        let (access, user, vhost) = self.whose();
        access.write(user, vhost, kind, destination)?;
        if kind == "exchange" {
            check_not_default(destination)?;
        }
        check_not_default(source)?;
        access.read(user, vhost, "exchange", source)?;
        let kind_of = |exchange: &str| self.vhost.topology().kind(exchange.as_bytes());
        if access.has_topic_rules() && kind_of(source) == Some(ExchangeKind::Topic) {
            access.bind_topic(user, vhost, source, key)?;
        }
        Ok(())
    }

    /// `queue.declare` of a queue with a name.
    ///
    /// # Errors
    /// 403, and those of [`Vhost::declare_queue`].
    pub fn declare_queue(&self, declare: QueueDeclare<'_>) -> Result<Arc<Queue>, Error> {
        self.may_declare_queue(declare.name, &declare)?;
        self.vhost.declare_queue(declare, self.conn)
    }

    /// Whether the user may declare `queue`, or look for it; it may be the name that a nameless one is to get.
    pub(crate) fn may_declare_queue(
        &self,
        queue: &str,
        declare: &QueueDeclare<'_>,
    ) -> Result<(), Error> {
        let (access, user, vhost) = self.whose();
        let is_there = self.vhost.topology().queue(queue).is_some();
        if !(declare.passive || is_there || declare.name.is_empty()) {
            check_queue_name(queue)?;
        }
        access.declare_queue(user, vhost, queue, declare.passive)?;
        if declare.passive || is_there {
            return Ok(());
        }
        // Dead letters leave the queue with this user's rights.
        let dead_letters = declare.arguments.get("x-dead-letter-exchange");
        match dead_letters.and_then(|value| value.as_str()) {
            Some(exchange) => {
                access.read(user, vhost, "queue", queue)?;
                access.write(user, vhost, "exchange", exchange)
            }
            None => Ok(()),
        }
    }

    /// `queue.purge`; says how many messages went.
    ///
    /// # Errors
    /// 403, 404, 405.
    pub fn purge(&self, queue: &str) -> Result<u64, Error> {
        let queue = self.readable(queue)?;
        Ok(self.vhost.purge(&queue))
    }

    /// The queue `name`, if the user may take messages from it.
    ///
    /// # Errors
    /// 403, 404, 405.
    pub fn readable(&self, name: &str) -> Result<Arc<Queue>, Error> {
        let (access, user, vhost) = self.whose();
        access.consume(user, vhost, name)?;
        self.vhost.queue(name, self.conn)
    }

    /// Pauses a queue, or has it go on. Who may configure it may do that.
    ///
    /// # Errors
    /// 403, 404, 405, and those of [`Vhost::pause_queue`].
    pub fn pause_queue(&self, name: &str, paused: bool) -> Result<(), Error> {
        self.may_configure("queue", name)?;
        let queue = self.vhost.queue(name, self.conn)?;
        self.vhost.pause_queue(&queue, paused)
    }

    /// `queue.delete`; says how many ready messages went.
    ///
    /// # Errors
    /// 403, and those of [`Vhost::delete_queue`].
    pub fn delete_queue(&self, queue: &str, condition: DeleteIf) -> Result<u64, Error> {
        self.may_configure("queue", queue)?;
        let there = self.vhost.topology().queue(queue);
        if there.is_some_and(|q| q.options().protected) {
            return Err(Error::access_refused(format!(
                "queue '{queue}' in vhost '{}' belongs to the bus: delete its client instead",
                self.vhost.name()
            )));
        }
        self.vhost.delete_queue(queue, self.conn, condition)
    }

    /// Whether there is an exchange of that name, as it would be declared under it.
    pub fn has_exchange(&self, name: &str) -> bool {
        let topology = self.vhost.topology();
        topology.kind(clean_name(name).as_bytes()).is_some()
    }

    /// The same of a queue.
    pub fn has_queue(&self, name: &str) -> bool {
        self.vhost.topology().queue(&clean_name(name)).is_some()
    }

    /// Whether the user may change `kind` (exchange or queue) `name`.
    fn may_configure(&self, kind: &str, name: &str) -> Result<(), Error> {
        let (access, user, vhost) = self.whose();
        access.configure(user, vhost, kind, name)
    }

    fn whose(&self) -> (&'a Access, &'a str, &'a str) {
        (&self.origin.access, &self.origin.user, self.vhost.name())
    }
}
