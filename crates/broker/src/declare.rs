//! Whether a queue can be declared so, and whether it was.

use backbone_wire::table::Value;

use crate::dedup;
use crate::durable::Level;
use crate::error::{Error, Resource};
use crate::queue::Queue;
use crate::queue::arguments::{self, QueueType};
use crate::topology::{check_equivalent, check_same, clean_name};
use crate::vhost::{QueueDeclare, Vhost};

/// The argument with which a queue asks for a level.
const DURABILITY: &str = "x-durability";
/// No connection has this number.
const NOBODY: u64 = 0;
/// Arguments of queues that make a redeclare differ, in the order in which they are told of; others are kept and ignored.
const QUEUE_ARGUMENTS: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-delivery-limit",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    DURABILITY,
    dedup::ENABLED,
    dedup::SIZE,
    dedup::TTL,
    dedup::HEADER,
];

impl Vhost {
    /// Makes a queue that an operator's definitions have, whatever the vhost's limits say, and under a name that the server gave
    /// too. False: there is one of that name, which stays as it is.
    ///
    /// # Errors
    /// As [`Vhost::declare_queue`].
    pub fn define_queue(&self, declare: QueueDeclare<'_>) -> Result<bool, Error> {
        let name = clean_name(declare.name);
        let _control = self.control.lock();
        if self.topology().queue(&name).is_some() {
            return Ok(false);
        }
        self.make_queue(&name, declare, NOBODY).map(|_| true)
    }

    pub(crate) fn check_arguments(
        &self,
        name: &str,
        declare: &QueueDeclare<'_>,
    ) -> Result<(), Error> {
        let declared = arguments::Properties {
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
        };
        let of = Resource::queue(name, self.name());
        arguments::check(of, declare.arguments, declared)
    }

    /// Whether a queue that is there is as `declare` wants it.
    ///
    /// # Errors
    /// 406: how it differs. 405: it is somebody's alone, or is to be.
    pub fn check_equivalent(&self, queue: &Queue, declare: &QueueDeclare<'_>) -> Result<(), Error> {
        let options = queue.options();
        let of = Resource::queue(queue.name(), self.name());
        if declare.exclusive != options.owner.is_some() {
            return Err(self.locked(queue));
        }
        check_same("durable", of, options.durable, declare.durable)?;
        check_same("auto_delete", of, options.auto_delete, declare.auto_delete)?;
        let current = queue.arguments();
        let same_type = QueueType::of(declare.arguments) == queue.kind();
        for key in QUEUE_ARGUMENTS {
            // The usual type need not be named; and what a type does not have means nothing.
            if (*key == arguments::TYPE && same_type) || !arguments::is_for(queue.kind(), key) {
                continue;
            }
            check_equivalent(key, of, current.get(key), declare.arguments.get(key))?;
        }
        Ok(())
    }

    /// The level of a new queue. Only what outlives its connection and the server can be more than in memory.
    pub(crate) fn level_of(&self, declare: &QueueDeclare<'_>) -> Result<Level, Error> {
        let asked = match declare.arguments.get(DURABILITY) {
            None => None,
            Some(Value::LongStr(name)) => {
                match std::str::from_utf8(name).ok().and_then(Level::parse) {
                    Some(level) => Some(level),
                    None => return Err(self.no_such_level(declare.name)),
                }
            }
            Some(_) => return Err(self.no_such_level(declare.name)),
        };
        let outlives = declare.durable && !declare.exclusive && self.durable().is_some();
        Ok(if outlives {
            asked.unwrap_or(self.level())
        } else {
            Level::Memory
        })
    }

    fn no_such_level(&self, queue: &str) -> Error {
        let vhost = self.name();
        Error::precondition_failed(format!(
            "invalid arg '{DURABILITY}' for queue '{queue}' in vhost '{vhost}': want memory, written or synced"
        ))
    }
}
