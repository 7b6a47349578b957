//! The moving of a flow's messages that could not go straight through.

use std::sync::Arc;

use backbone_broker::flow;
use backbone_broker::queue::{Bell, ConsumerSpec, Queue};
use backbone_broker::vhost::Vhost;

use super::now_ms;

/// Called, from any thread, when there is something to move; must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Moves the messages of one queue, when its owner says so. Dropped, it is paused.
pub struct Mover {
    inner: flow::Mover,
    bell: Arc<WakeBell>,
}

struct WakeBell(Wake);

impl Bell for WakeBell {
    fn ring(&self, _key: u64) {
        (self.0)();
    }

    fn cancelled(&self, _key: u64) {
        // The queue is deleted, so there is nothing left to move.
    }

    fn progressed(&self) {
        // What the log refused it may take now.
        (self.0)();
    }
}

impl Mover {
    pub(super) fn new(vhost: &Arc<Vhost>, queue: &Arc<Queue>, wake: Wake) -> Option<Self> {
        let inner = flow::Mover::new(Arc::clone(vhost), Arc::clone(queue))?;
        let bell = Arc::new(WakeBell(wake));
        Some(Self { inner, bell })
    }

    /// Lets it move; nothing happens if it may already.
    pub fn resume(&mut self) {
        let spec = ConsumerSpec {
            bell: Arc::clone(&self.bell) as Arc<dyn Bell>,
            key: 0,
            prefetch: 0,
            shared: None,
            no_ack: false,
            exclusive: false,
            priority: 0,
        };
        // Refused only by a deleted queue, which has nothing to move.
        let _ = self.inner.resume(spec);
    }

    /// Lets messages wait in the queue.
    pub fn pause(&mut self) {
        self.inner.pause();
    }

    /// Moves one batch. True when more may wait: call again.
    pub fn step(&mut self) -> bool {
        self.inner.step(now_ms())
    }
}
