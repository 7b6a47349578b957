//! Pausing queues so that it outlives a restart.

use std::sync::Arc;

use crate::definitions::QueueDefinition;
use crate::error::Error;
use crate::queue::{Queue, Wakes};
use crate::vhost::Vhost;

impl Vhost {
    /// Pauses a queue, or has it go on: see [`Queue::set_paused`]. That a durable queue is paused is in the log first; who
    /// answers that it is waits for [`Vhost::changes_promise`].
    ///
    /// # Errors
    /// 404: it is deleted. 541: the log does not take it, and nothing changes.
    pub fn pause_queue(&self, queue: &Arc<Queue>, paused: bool) -> Result<(), Error> {
        let mut wakes = Wakes::default();
        {
            let _control = self.control.lock();
            if queue.is_deleted() {
                return Err(Error::no_queue(queue.name(), self.name()));
            }
            if queue.is_paused() == paused {
                return Ok(());
            }
            if let Some(definition) = self.definition_of(queue) {
                let definition = QueueDefinition {
                    paused,
                    ..definition
                };
                self.change(|change| change.define_queue(&definition))?;
            }
            queue.set_paused(paused, &mut wakes);
        }
        wakes.ring();
        Ok(())
    }

    /// What the log knows of a queue that is not paused; `None`: the queue does not outlive a restart.
    pub(crate) fn definition_of(&self, queue: &Queue) -> Option<QueueDefinition> {
        let options = queue.options();
        let outlives = options.durable && options.owner.is_none();
        outlives.then(|| QueueDefinition {
            id: queue.id(),
            vhost: self.name().to_string(),
            name: queue.name().to_string(),
            auto_delete: options.auto_delete,
            arguments: options.arguments.clone(),
            level: options.level,
            protected: options.protected,
            priority_max: queue.priority_max(),
            paused: false,
        })
    }
}
