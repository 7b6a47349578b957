//! Waiting for a queue to have something, without taking it.

use std::sync::Arc;
use std::time::Duration;

use backbone_broker::queue::{Bell, ConsumerId, ConsumerSpec, Queue, Wakes};
use tokio::sync::Notify;

use super::Engine;

/// How long to leave a queue alone that lets nobody else consume.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

impl Engine {
    /// Returns once something is ready in `queue`, or after `patience`. Somebody else may take it
    /// first, so look, and wait again.
    pub async fn wait_ready(&self, queue: &Arc<Queue>, patience: Duration) {
        let alarm = Arc::<Alarm>::default();
        let Some(_waiting) = Waiting::new(queue, &alarm) else {
            // An exclusive consumer takes everything: look now and then whether it is gone.
            return tokio::time::sleep(patience.min(REFUSED_PAUSE)).await;
        };
        // Out of patience or not: the caller looks for itself.
        let _ = tokio::time::timeout(patience, alarm.0.notified()).await;
    }
}

/// A bell for whoever awaits.
#[derive(Default)]
pub(super) struct Alarm(Notify);

impl Alarm {
    /// Returns when it rang since the last time.
    pub(super) async fn heard(&self) {
        self.0.notified().await;
    }
}

impl Bell for Alarm {
    fn ring(&self, _key: u64) {
        self.0.notify_one();
    }

    fn cancelled(&self, _key: u64) {
        self.0.notify_one();
    }

    fn progressed(&self) {
        self.0.notify_one();
    }
}

/// A consumer that never fetches. What it is assigned goes back to its place when it leaves.
struct Waiting {
    queue: Arc<Queue>,
    id: ConsumerId,
}

impl Waiting {
    fn new(queue: &Arc<Queue>, alarm: &Arc<Alarm>) -> Option<Self> {
        let spec = ConsumerSpec {
            bell: Arc::<Alarm>::clone(alarm),
            key: 0,
            prefetch: 1,
            shared: None,
            no_ack: true,
            exclusive: false,
            priority: 0,
        };
        let mut wakes = Wakes::default();
        let id = queue.consume(spec, &mut wakes).ok()?;
        wakes.ring();
        Some(Self {
            queue: Arc::clone(queue),
            id,
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut wakes = Wakes::default();
        self.queue.cancel(self.id, &mut wakes);
        wakes.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn it_ends_with_a_message_or_with_patience() {
        let engine = Engine::for_tests(usize::MAX);
        let queue = engine.declare_queue("q", false).unwrap();
        engine.wait_ready(&queue, Duration::from_millis(1)).await;
        let (waiter, waited) = (engine.clone(), Arc::clone(&queue));
        let waiting = actix_rt::spawn(async move {
            waiter.wait_ready(&waited, Duration::from_secs(60)).await;
        });
        while queue.stats().consumers == 0 {
            tokio::task::yield_now().await;
        }
        let message = super::super::Outgoing {
            body: b"x",
            ..Default::default()
        };
        engine.publish(&queue, &message).unwrap();
        waiting.await.unwrap();
        let stats = queue.stats();
        assert_eq!((stats.ready, stats.consumers), (1, 0));
    }
}
