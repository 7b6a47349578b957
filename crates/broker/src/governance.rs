//! What rules a vhost as a whole: what is said of it, its limits, its policies, what the bus keeps to itself in it, and its
//! end.
//!
//! All but what is the bus's is changed under `control`, and in the log before it counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backbone_wire::table::{Table, TableBuf, Value};

use crate::definitions::VhostDefinition;
use crate::error::Error;
use crate::flow::{self, Flow};
use crate::policy::{Author, Chosen, Policies, Policy, effective};
use crate::queue::{DeleteIf, Queue};
use crate::quota::Quota;
use crate::record::Record;
use crate::vhost::{QueueDeclare, Vhost};

impl Vhost {
    /// What is said of it: its name, a description, its limits.
    pub fn definition(&self) -> Arc<VhostDefinition> {
        self.definition.load_full()
    }

    /// Changes what is said of it.
    ///
    /// # Errors
    /// 541: the log does not take it, and nothing changes. 320: it is deleted.
    pub fn redefine(&self, edit: impl FnOnce(&mut VhostDefinition)) -> Result<(), Error> {
        let _control = self.control.lock();
        let mut definition = VhostDefinition::clone(&self.definition.load());
        edit(&mut definition);
        self.check_not_deleted()?;
        self.change(|change| change.define_vhost(&definition))?;
        self.take_definition(definition);
        Ok(())
    }

    /// Lets what is said of it in the log be so.
    pub(crate) fn take_definition(&self, definition: VhostDefinition) {
        self.connections.limit(definition.limits.max_connections);
        self.definition.store(Arc::new(definition));
    }

    /// The same; deliveries have to be acknowledged within so many ms, unless a queue or policy says otherwise. 0: whenever.
    #[must_use]
    pub fn with_consumer_timeout(mut self, consumer_timeout_ms: u64) -> Self {
        self.consumer_timeout_ms = consumer_timeout_ms;
        self
    }

    /// How many connections are open to it, and how many may be.
    pub fn connections(&self) -> &Arc<Quota> {
        &self.connections
    }

    /// Whether it is deleted, and nothing can come into it any more.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Takes everything out of it, and it out of the log. Nothing can come into it any more, and what its queues
    /// held is given back. Connections to it are the caller's to close.
    ///
    /// # Errors
    /// 541: the log does not take it, and nothing changes.
    pub(crate) fn delete(&self) -> Result<(), Error> {
        let _control = self.control.lock();
        let queues = self.topology().queues();
        self.topology().clear()?;
        self.deleted.store(true, Ordering::Release);
        for queue in queues {
            if let Ok(Some(emptied)) = queue.delete_after(DeleteIf::default(), || true) {
                self.give_back(&queue, &emptied);
            }
        }
        self.forget_orphans();
        for dead in std::mem::take(&mut *self.postponed.lock()) {
            flow::release(self.arena(), &dead.entries);
        }
        Ok(())
    }

    /// Whether one more queue may come; the bus's may. Called under `control`.
    pub(crate) fn check_room_for(
        &self,
        queue: &str,
        declare: &QueueDeclare<'_>,
    ) -> Result<(), Error> {
        self.check_not_deleted()?;
        if declare.protected {
            return Ok(());
        }
        let max = self.definition.load().limits.max_queues.unwrap_or(-1);
        match u64::try_from(max) {
            Ok(allowed) if self.topology().queue_count() as u64 >= allowed => {
                let vhost = self.name();
                Err(Error::precondition_failed(format!(
                    "cannot declare queue '{queue}': queue limit in vhost '{vhost}' ({max}) is reached"
                )))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_not_deleted(&self) -> Result<(), Error> {
        match self.is_deleted() {
            true => Err(Error::vhost_deleted(self.name())),
            false => Ok(()),
        }
    }

    /// The policies as they are now.
    pub fn policies(&self) -> Arc<Policies> {
        self.policies.load_full()
    }

    /// Puts a policy in the place of the one of its author and name. True: there was none.
    ///
    /// # Errors
    /// 541: the log does not take it, and nothing changes. 320: the vhost is deleted.
    pub fn put_policy(&self, author: Author, policy: Policy) -> Result<bool, Error> {
        let _control = self.control.lock();
        self.check_not_deleted()?;
        self.change(|change| change.define_policy(author, &policy.definition))?;
        let mut policies = Policies::clone(&self.policies.load());
        let new = policies.get(author, &policy.definition.name).is_none();
        policies.put(author, policy);
        self.take_policies(policies);
        Ok(new)
    }

    /// Removes a policy. False: there is none.
    ///
    /// # Errors
    /// 541: the log does not take it, and nothing changes. 320: the vhost is deleted.
    pub fn remove_policy(&self, author: Author, name: &str) -> Result<bool, Error> {
        let _control = self.control.lock();
        let mut policies = Policies::clone(&self.policies.load());
        if !policies.remove(author, name) {
            return Ok(false);
        }
        self.check_not_deleted()?;
        self.change(|change| change.remove_policy(author, name))?;
        self.take_policies(policies);
        Ok(true)
    }

    /// Lets policies count from now on.
    pub(crate) fn take_policies(&self, policies: Policies) {
        let policies = Arc::new(policies);
        self.policies.store(Arc::clone(&policies));
        for queue in self.topology().queues() {
            self.follow_policies(&queue);
        }
        // Voids the routes that publishers keep, with the settings of queues.
        self.topology().take_policies(policies);
    }

    /// The policies that count for a queue; for one of the bus none does.
    pub fn policies_of(&self, queue: &Queue) -> Chosen {
        if queue.options().protected {
            return Chosen::default();
        }
        let arguments = Table::assume_checked(&queue.options().arguments);
        self.policies.load().of_queue(queue.name(), arguments)
    }

    /// What holds for a queue: its arguments, with what policies lay over them.
    pub fn effective_arguments(&self, queue: &Queue) -> TableBuf {
        let arguments = Table::assume_checked(&queue.options().arguments);
        effective(arguments, &self.policies_of(queue))
    }

    /// Installs, changes or removes the flow of `queue`.
    pub fn install_flow(&self, queue: &Queue, flow: Option<Arc<Flow>>) {
        queue.set_flow(flow);
        self.topology().touch();
    }

    /// Keeps connections from deleting an exchange; `lenient`: they may declare it with other properties
    /// and get it as it is.
    pub fn protect_exchange(&self, name: &str, lenient: bool) {
        self.protected_exchanges.insert(name.into(), lenient);
    }

    /// `None` for an exchange that is not protected; otherwise whether it is lenient.
    pub(crate) fn protected_exchange(&self, name: &str) -> Option<bool> {
        self.protected_exchanges.get(name).map(|lenient| *lenient)
    }

    /// Says whether messages with header `sender` of this value keep out of the queue `inbox`.
    pub fn set_exclude_own(&self, sender: &str, inbox: u64, exclude: bool) {
        if exclude {
            self.exclude_own.insert(sender.as_bytes().into(), inbox);
        } else {
            self.exclude_own.remove(sender.as_bytes());
        }
    }

    /// The inbox that a message with [`crate::record::EXCLUDE_OWN`] must not reach.
    pub(crate) fn own_inbox(&self, message: &Record<'_>) -> Option<u64> {
        match message.properties().headers()?.get("sender")? {
            Value::LongStr(sender) => self.exclude_own.get(sender).map(|id| *id),
            _ => None,
        }
    }
}
