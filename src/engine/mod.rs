//! The facade over the broker: what the bus asks of it, and what pages show and change.
//!
//! Owns no messages and no queues; it translates. Declares for the bus are durable and lenient;
//! publishing is one batch ([`Batch`]), often of one message, committed before the call returns; taking hands out a
//! [`Taken`] that is either settled or puts everything back in order.

mod acting;
mod alarms;
mod batch;
mod bindings;
mod blueprint;
mod exchanges;
mod json;
mod log_metrics;
mod message;
mod messages;
mod metrics;
mod mover;
mod overview;
mod pager;
mod policies;
mod properties;
mod queues;
mod stream;
mod taken;
mod timer;
mod vhosts;
mod waiting;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use backbone_broker::durable::Trouble;
use backbone_broker::gate::Gate;
use backbone_broker::publisher::Publisher;
use backbone_broker::queue::{Bell, DeleteIf};
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_broker::vhosts::{VhostError, Vhosts};
use backbone_log::Health;
use backbone_wire::table::Table;
use crossbeam::queue::ArrayQueue;

pub use acting::{Acting, Ends, NewExchange, NewQueue, Refusal};
pub use alarms::start as watch_alarms;
pub use backbone_broker::durable::Promise;
pub use backbone_broker::flow::{Flow, FlowCounters};
pub use backbone_broker::pattern::Pattern;
pub use backbone_broker::queue::Queue;
pub use backbone_broker::topology::ExchangeKind;
pub use batch::Batch;
pub use bindings::{BindingFilter, BindingInfo};
pub use blueprint::{BindingPlan, Blueprint, ExchangePlan, QueuePlan, Sketch};
pub use exchanges::ExchangeInfo;
pub use json::{BadArgument, object_of};
use log_metrics::sample_log;
pub use message::{Outgoing, StoredMessage};
pub use messages::{Afterwards, Got};
pub use mover::{Mover, Wake};
pub use overview::{Counts, Totals};
pub use pager::{pager, start as start_pager};
pub use policies::{ApplyTo, Author, Policy, PolicyDefinition, PolicyError};
pub use queues::QueueInfo;
pub use stream::{Stream, StreamId};
pub use taken::Taken;
pub use timer::start as start_timer;
pub use vhosts::{VhostDefinition, VhostInfo, VhostLimits, VhostUpdate};

/// Publishers kept for the next calls, with their route caches.
const PUBLISHERS_KEPT: usize = 16;
/// The number that stands for the server itself where the broker wants a connection's.
const NO_CONNECTION: u64 = 0;

/// Why the broker refused.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Publishers are paused, consumers go on.
    #[error("the broker takes no messages now: {}", .0.reason())]
    Paused(Trouble),
    /// There is no such queue.
    #[error("the queue {0} is not there")]
    NoQueue(String),
    /// The queue has reached its limit and refuses new messages.
    #[error("the queue {0} is full")]
    QueueFull(String),
    /// The broker's own words.
    #[error(transparent)]
    Broker(#[from] backbone_broker::Error),
    /// There is no such vhost.
    #[error("there is no vhost '{0}'")]
    NoVhost(String),
    /// Arguments that no table can hold.
    #[error(transparent)]
    Argument(#[from] BadArgument),
    /// A policy is not one.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A vhost cannot be created or deleted.
    #[error(transparent)]
    Vhost(#[from] VhostError),
}

/// A handle on the embedded broker; clones share it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    vhosts: Arc<Vhosts>,
    /// The bus's.
    vhost: Arc<Vhost>,
    gate: Arc<Gate>,
    publishers: ArrayQueue<Publisher>,
}

impl Engine {
    /// The engine on `vhosts`, whose publishers `gate` pauses. The bus lives in the first of them.
    pub fn new(vhosts: Arc<Vhosts>, gate: Arc<Gate>) -> Self {
        Self(Arc::new(Inner {
            vhost: Arc::clone(vhosts.first()),
            vhosts,
            gate,
            publishers: ArrayQueue::new(PUBLISHERS_KEPT),
        }))
    }

    /// Declares a durable exchange that connections cannot delete; `lenient`: others who declare it with
    /// other properties get it as it is.
    ///
    /// # Errors
    /// It is there with other properties.
    pub fn declare_exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        lenient: bool,
    ) -> Result<(), EngineError> {
        let spec = ExchangeSpec {
            name,
            kind: kind.name(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Table::EMPTY,
        };
        self.0.vhost.topology().declare_exchange(&spec)?;
        self.0.vhost.protect_exchange(name, lenient);
        Ok(())
    }

    /// Declares a durable queue; `lenient`: others who declare it with other properties get it as it is.
    ///
    /// # Errors
    /// It is there with other properties, or is somebody's exclusive queue.
    pub fn declare_queue(&self, name: &str, lenient: bool) -> Result<Arc<Queue>, EngineError> {
        let declare = QueueDeclare {
            name,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: Table::EMPTY,
            protected: true,
            lenient,
        };
        Ok(self.0.vhost.declare_queue(declare, NO_CONNECTION)?)
    }

    /// The queue of a name or an alias, if it is there.
    pub fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        self.0.vhost.topology().queue(name)
    }

    /// Gives a queue a second name; false if that name is taken.
    pub fn alias_queue(&self, alias: &str, queue: &Queue) -> bool {
        self.0.vhost.topology().alias_queue(alias, queue.name())
    }

    /// The queues that were declared here, those among them that were brought back from the log.
    pub fn own_queues(&self) -> Vec<Arc<Queue>> {
        let mut queues = self.0.vhost.topology().queues();
        queues.retain(|queue| queue.options().protected);
        queues
    }

    /// The queues that are bound to an exchange without arguments, each with its pattern. Looks at all bindings.
    pub fn bound_to(&self, exchange: &str) -> Vec<(String, String)> {
        let bindings = self.0.vhost.topology().list_bindings().into_iter();
        let to_queues = bindings
            .filter(|it| it.source == exchange && !it.to_exchange && it.arguments.is_empty());
        let named = to_queues.map(|it| Some((it.destination, String::from_utf8(it.key).ok()?)));
        named.flatten().collect()
    }

    /// Waits until all declares, binds and deletes so far, of whomever, are as safe as the vhost's level says.
    ///
    /// # Errors
    /// [`EngineError::Paused`]: the log failed meanwhile. Whether they were made is certain after the restart.
    pub async fn settled(&self) -> Result<(), EngineError> {
        self.kept(self.0.vhost.changes_promise()).await
    }

    /// Deletes a queue with its bindings, aliases and messages; one that is gone counts as deleted. If the log does not take
    /// that, it is there again after a restart.
    pub fn delete_queue(&self, queue: &Queue) {
        let deleted = self.0.vhost.remove_queue(queue, DeleteIf::default());
        deleted.expect("a delete without conditions is never refused");
    }

    /// Binds a queue; a binding that is there stays as it is.
    ///
    /// # Errors
    /// The exchange or the queue is not there.
    pub fn bind(&self, queue: &Queue, exchange: &str, pattern: &str) -> Result<(), EngineError> {
        let topology = self.0.vhost.topology();
        let key = pattern.as_bytes();
        Ok(topology.bind_queue(queue.name(), exchange, key, Table::EMPTY)?)
    }

    /// Ends a binding; one that is not there counts as ended.
    ///
    /// # Errors
    /// The exchange is the default one.
    pub fn unbind(&self, queue: &Queue, exchange: &str, pattern: &str) -> Result<(), EngineError> {
        let topology = self.0.vhost.topology();
        let key = pattern.as_bytes();
        Ok(topology.unbind_queue(queue.name(), exchange, key, Table::EMPTY)?)
    }

    /// Installs the flow of a queue.
    pub fn install_flow(&self, queue: &Queue, flow: Arc<Flow>) {
        self.0.vhost.install_flow(queue, Some(flow));
    }

    /// The mover of a queue's flow, paused; `None` for a queue without a flow. `wake` is called when
    /// there is something to move.
    pub fn mover(&self, queue: &Arc<Queue>, wake: Wake) -> Option<Mover> {
        Mover::new(&self.0.vhost, queue, wake)
    }

    /// Says whether what `sender` publishes keeps out of the queue `inbox`.
    pub fn exclude_own(&self, sender: &str, inbox: &Queue, exclude: bool) {
        self.0.vhost.set_exclude_own(sender, inbox.id(), exclude);
    }

    /// Why the log takes no messages, if so, in words for an operator.
    pub fn log_trouble(&self) -> Option<String> {
        let log = self.0.vhost.durable()?.log();
        match log.health() {
            Health::Open => None,
            Health::Full => Some(
                "the disk of the log is full: publishers are blocked, consumers go on; free space and it takes messages again"
                    .into(),
            ),
            Health::NoFiles => Some(
                "too many files are open: publishers are blocked, consumers go on; raise the limit (ulimit -n), or have fewer connections"
                    .into(),
            ),
            Health::Failed { reason } => Some(format!(
                "the log failed and can only be read: publishers are blocked until a restart has verified it: {reason}"
            )),
        }
    }

    /// Waits until the log has kept a promise.
    ///
    /// # Errors
    /// [`EngineError::Paused`]: the log failed meanwhile. What was promised may be there after the restart, or not.
    pub async fn kept(&self, promise: Promise) -> Result<(), EngineError> {
        let Some(durable) = self.0.vhost.durable() else {
            return Ok(());
        };
        let alarm = Arc::<waiting::Alarm>::default();
        let bell: Arc<dyn Bell> = Arc::clone(&alarm) as _;
        while !durable.wait(promise, &bell) {
            if durable.trouble() == Some(Trouble::LogFailed) {
                return Err(EngineError::Paused(Trouble::LogFailed));
            }
            alarm.heard().await;
        }
        Ok(())
    }

    /// Takes the oldest messages of a queue: at most `messages_max`, and at most `bytes_max` unless the
    /// first alone is larger. Two calls never take the same message.
    pub fn take(&self, queue: &Arc<Queue>, messages_max: usize, bytes_max: usize) -> Taken {
        Taken::new(&self.0.vhost, queue, messages_max, bytes_max)
    }

    /// Before an orderly end, when nothing is delivered any more: see [`Vhosts::close`].
    pub fn close(&self) {
        self.0.vhosts.close();
    }
}

/// Unix time, in ms.
pub(crate) fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
pub(crate) mod testing {
    use backbone_broker::durable::Level;

    use super::*;

    impl Engine {
        /// An engine of its own, short of memory when messages take more than `limit_bytes`.
        pub(crate) fn for_tests(limit_bytes: usize) -> Self {
            let vhost = Arc::new(Vhost::new("/", 7, Arc::default()));
            let gate = Gate::new(Arc::clone(vhost.arena()), None, limit_bytes);
            let vhosts = Vhosts::new(vhost, |_| Level::Memory);
            Self::new(Arc::new(vhosts), Arc::new(gate))
        }

        /// Batches of messages that are in memory.
        pub(crate) fn segments(&self) -> usize {
            self.0.vhost.arena().segments()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: usize = 1 << 30;

    fn put(engine: &Engine, queue: &Queue, body: &[u8]) -> Result<(), EngineError> {
        let message = Outgoing {
            body,
            content_type: "text/plain",
            id: "id",
            topic: Some("a.b"),
            is_envelope: false,
        };
        engine.publish(queue, &message).map(drop)
    }

    fn bodies(taken: &Taken) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        for index in 0..taken.len() {
            taken.with(index, |message| bodies.push(message.body.to_vec()));
        }
        bodies
    }

    #[test]
    fn what_is_published_is_taken_in_order_with_its_properties() {
        let engine = Engine::for_tests(ENOUGH);
        let queue = engine.declare_queue("q", true).unwrap();
        put(&engine, &queue, b"1").unwrap();
        put(&engine, &queue, b"2").unwrap();
        let taken = engine.take(&queue, 10, 1 << 20);
        assert_eq!(bodies(&taken), [b"1", b"2"]);
        taken.with(0, |message| {
            assert_eq!(
                (message.content_type, message.id),
                (Some("text/plain"), Some("id"))
            );
            assert_eq!(
                (message.topic, message.is_envelope),
                (Some("a.b"), Some(false))
            );
            assert!(message.timestamp_s.is_some() && message.sender.is_none());
        });
        taken.settle();
        assert_eq!(engine.take(&queue, 10, 1 << 20).len(), 0);
        assert_eq!(queue.stats().unsettled, 0);
        assert_eq!(engine.segments(), 0, "nothing is left in memory");
    }

    #[test]
    fn what_is_not_settled_comes_back_in_order() {
        let engine = Engine::for_tests(ENOUGH);
        let queue = engine.declare_queue("q", true).unwrap();
        for body in [b"1", b"2", b"3"] {
            put(&engine, &queue, body).unwrap();
        }
        let first = engine.take(&queue, 1, 1 << 20);
        let second = engine.take(&queue, 10, 1 << 20);
        assert_eq!((first.len(), second.len()), (1, 2));
        drop(second);
        drop(first);
        let again = engine.take(&queue, 10, 1 << 20);
        assert_eq!(bodies(&again), [b"1", b"2", b"3"]);
    }

    #[test]
    fn a_byte_bound_is_kept_but_one_message_always_passes() {
        let engine = Engine::for_tests(ENOUGH);
        let queue = engine.declare_queue("q", true).unwrap();
        put(&engine, &queue, &[0; 1000]).unwrap();
        put(&engine, &queue, &[1; 1000]).unwrap();
        let taken = engine.take(&queue, 10, 500);
        assert_eq!(taken.len(), 1);
        taken.settle();
        assert_eq!(engine.take(&queue, 10, 100_000).len(), 1);
    }

    #[test]
    fn paused_publishers_and_missing_queues_are_told_apart() {
        let engine = Engine::for_tests(10_000);
        let queue = engine.declare_queue("q", true).unwrap();
        put(&engine, &queue, &[0; 20_000]).unwrap();
        assert!(matches!(
            put(&engine, &queue, b"x"),
            Err(EngineError::Paused(Trouble::Memory))
        ));
        engine.take(&queue, 1, 1).settle();
        put(&engine, &queue, b"x").unwrap();
        let held = engine.take(&queue, 1, 100);
        engine.delete_queue(&queue);
        engine.delete_queue(&queue);
        assert!(matches!(
            put(&engine, &queue, b"x"),
            Err(EngineError::NoQueue(_))
        ));
        drop(held);
        assert_eq!(engine.segments(), 0, "nothing is left in memory");
    }

    #[test]
    fn a_large_message_comes_back_whole() {
        let engine = Engine::for_tests(ENOUGH);
        let queue = engine.declare_queue("q", true).unwrap();
        let body = vec![7; 300_000];
        put(&engine, &queue, &body).unwrap();
        let taken = engine.take(&queue, 1, 1);
        assert_eq!(bodies(&taken), [body]);
    }
}
