//! The vhosts of a node: created, found and deleted while it runs.
//!
//! Owns which there are. Each has its own topology and queues; arena, log, pager, counters and the numbers of queues
//! are the node's. The first one, `/`, is the bus's home and always there.
//!
//! A vhost is a definition of the log: it is there, or gone with all that was in it, whatever happens on the way. Whoever
//! connects looks for it after its connection can be found by who deletes it; so a connection to a
//! deleted vhost is either refused or closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::definitions::VhostDefinition;
use crate::durable::Level;
use crate::error::Error;
use crate::queue::Queue;
use crate::restore::{Found, Restored, restore};
use crate::returns::close;
#[cfg(doc)]
use crate::timetable::Timetable;
use crate::vhost::Vhost;

type ByName = BTreeMap<Arc<str>, Arc<Vhost>>;
type LevelOf = dyn Fn(&str) -> Level + Send + Sync;

/// The longest name of a vhost, in bytes: as long as AMQP can say it.
pub const NAME_BYTES_MAX: usize = 255;

/// All vhosts of a node.
pub struct Vhosts {
    first: Arc<Vhost>,
    /// Read without a lock; changed under `control`.
    all: ArcSwap<ByName>,
    level_of: Box<LevelOf>,
    control: Mutex<()>,
}

/// Why a vhost was not created or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VhostError {
    /// A name that cannot be one.
    #[error("a vhost's name is 1 to {NAME_BYTES_MAX} bytes long and has no NUL")]
    Name,
    /// The bus lives in it.
    #[error("the vhost '{0}' is the home of the bus and cannot be deleted")]
    Home(Arc<str>),
    /// The log does not take it.
    #[error(transparent)]
    Broker(#[from] Error),
}

impl Vhosts {
    /// A node that has `first`. `level_of` says how safe queues of a vhost are unless they say it themselves.
    pub fn new(
        first: Arc<Vhost>,
        level_of: impl Fn(&str) -> Level + Send + Sync + 'static,
    ) -> Self {
        let all = ByName::from([(Arc::clone(first.name()), Arc::clone(&first))]);
        Self {
            first,
            all: ArcSwap::from_pointee(all),
            level_of: Box::new(level_of),
            control: Mutex::new(()),
        }
    }

    /// Brings back from the log all vhosts with what is durable of them, and settles what belongs to nothing any more. Call it
    /// once, before anything else is asked. `lenient`: declares of the bus's queues with other properties are answered
    /// with ok.
    ///
    /// # Errors
    /// The log takes no changes.
    pub fn restore(&self, lenient: bool) -> Result<Restored, Error> {
        let _control = self.control.lock();
        let Some(durable) = self.first.durable() else {
            return Ok(Restored::default());
        };
        let log = durable.log();
        let definitions = log.definitions();
        let found = Found::among(&definitions);
        let mut vhosts = vec![Arc::clone(&self.first)];
        let others = found.vhosts().filter(|name| **name != **self.first.name());
        vhosts.extend(others.map(|name| self.make(name)));
        let all: Vec<&Vhost> = vhosts.iter().map(|it| &**it).collect();
        let restored = restore(log, found, &all, lenient)?;
        let named = vhosts.into_iter().map(|it| (Arc::clone(it.name()), it));
        self.all.store(Arc::new(named.collect()));
        Ok(restored)
    }

    /// The vhost that is always there.
    pub fn first(&self) -> &Arc<Vhost> {
        &self.first
    }

    /// The vhost of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Vhost>> {
        self.all.load().get(name).cloned()
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Vhost>> {
        self.all.load().values().cloned().collect()
    }

    /// All queues that messages are in, of all vhosts: see [`Vhost::stores`].
    pub fn stores(&self) -> Vec<Arc<Queue>> {
        let all = self.all.load();
        all.values().flat_map(|it| it.stores()).collect()
    }

    /// The queues of all vhosts.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        let all = self.all.load();
        all.values().flat_map(|it| it.topology().queues()).collect()
    }

    /// Looks at the queues of all vhosts whose time has come, as [`Vhost::tick`]. Returns when to call again.
    pub fn tick(&self, now_ms: u64) -> Option<u64> {
        let all = self.all.load();
        all.values().filter_map(|it| it.tick(now_ms)).min()
    }

    /// Has `changed` called when that time has come nearer, as [`Timetable::on_change`].
    pub fn on_change(&self, changed: impl Fn() + Send + Sync + 'static) {
        self.first.timetable().on_change(changed);
    }

    /// Before an orderly end, as [`Vhost::close`], of all vhosts.
    pub fn close(&self) {
        let all = self.all.load();
        close(&all.values().map(|it| &**it).collect::<Vec<_>>());
    }

    /// Creates a vhost; one that is there stays as it is. True: it is new.
    ///
    /// # Errors
    /// The name cannot be one, or the log does not take it.
    pub fn create(&self, definition: VhostDefinition) -> Result<(Arc<Vhost>, bool), VhostError> {
        let name = &definition.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return Err(VhostError::Name);
        }
        let _control = self.control.lock();
        if let Some(vhost) = self.get(name) {
            return Ok((vhost, false));
        }
        let vhost = self.make(name);
        vhost.redefine(|it| *it = definition)?;
        let mut all = ByName::clone(&self.all.load());
        all.insert(Arc::clone(vhost.name()), Arc::clone(&vhost));
        self.all.store(Arc::new(all));
        Ok((vhost, true))
    }

    /// Deletes a vhost with all that is in it; its messages are settled. `None`: there is none. Then
    /// connections to it are the caller's to close.
    ///
    /// # Errors
    /// It is the bus's, or the log does not take it.
    pub fn delete(&self, name: &str) -> Result<Option<Arc<Vhost>>, VhostError> {
        let _control = self.control.lock();
        let Some(vhost) = self.get(name) else {
            return Ok(None);
        };
        if Arc::ptr_eq(&vhost, &self.first) {
            return Err(VhostError::Home(Arc::clone(vhost.name())));
        }
        vhost.delete()?;
        let mut all = ByName::clone(&self.all.load());
        all.remove(name);
        self.all.store(Arc::new(all));
        Ok(Some(vhost))
    }

    fn make(&self, name: &str) -> Arc<Vhost> {
        Arc::new(self.first.beside(name, (self.level_of)(name)))
    }
}
