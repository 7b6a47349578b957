//! The vhosts, as pages show and change them.

use std::sync::Arc;

use backbone_broker::vhost::Vhost;

use super::{Engine, EngineError};
use crate::runtime::node_name;

pub use backbone_broker::definitions::{VhostDefinition, VhostLimits};

/// A vhost at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostInfo {
    /// What is said of it.
    pub definition: Arc<VhostDefinition>,
    /// Messages are traced.
    pub tracing: bool,
    /// How safe its queues are unless they say it themselves.
    pub durability: &'static str,
    /// Messages ready to be delivered.
    pub ready: u64,
    /// Messages delivered and not acknowledged.
    pub unacked: u64,
}

/// What may be said of a vhost; what is not given stays.
#[derive(Debug, Clone, Default)]
pub struct VhostUpdate {
    /// For people.
    pub description: Option<String>,
    /// For tools.
    pub tags: Option<Vec<String>>,
    /// Whether messages are traced, until the server ends.
    pub tracing: Option<bool>,
}

impl Engine {
    /// All vhosts, by name.
    pub fn vhosts(&self) -> Vec<VhostInfo> {
        self.0.vhosts.list().iter().map(|it| describe(it)).collect()
    }

    /// Whether there is a vhost of that name.
    pub fn has_vhost(&self, name: &str) -> bool {
        self.0.vhosts.get(name).is_some()
    }

    /// The vhost of that name. Looks into each of its queues.
    pub fn vhost(&self, name: &str) -> Option<VhostInfo> {
        self.0.vhosts.get(name).map(|vhost| describe(&vhost))
    }

    /// Creates a vhost, or changes what is said of one that is there. True: it is new. When this returns, it is as safe as its
    /// level says.
    ///
    /// # Errors
    /// The name cannot be one, or the log takes nothing.
    pub async fn put_vhost(&self, name: &str, update: VhostUpdate) -> Result<bool, EngineError> {
        let mut definition = VhostDefinition::named(name);
        update.apply(&mut definition);
        let (vhost, new) = self.0.vhosts.create(definition)?;
        if !new && (update.description.is_some() || update.tags.is_some()) {
            vhost.redefine(|it| update.apply(it))?;
        }
        if let Some(tracing) = update.tracing {
            vhost.trace(tracing.then(node_name));
        }
        self.kept(vhost.changes_promise()).await?;
        Ok(new)
    }

    /// Deletes a vhost with all that is in it. False: there is none. Connections to it are closed by whoever owns them.
    ///
    /// # Errors
    /// It is the bus's, or the log takes nothing.
    pub async fn delete_vhost(&self, name: &str) -> Result<bool, EngineError> {
        let Some(vhost) = self.0.vhosts.delete(name)? else {
            return Ok(false);
        };
        self.kept(vhost.changes_promise()).await?;
        Ok(true)
    }

    /// Voids what publishers remember of a vhost, since somebody's rights there are others now.
    pub fn rights_changed(&self, vhost: &str) {
        if let Some(vhost) = self.0.vhosts.get(vhost) {
            vhost.topology().touch();
        }
    }

    /// Changes the limits of a vhost. False: there is none.
    ///
    /// # Errors
    /// The log takes nothing.
    pub async fn limit_vhost(
        &self,
        name: &str,
        edit: impl FnOnce(&mut VhostLimits),
    ) -> Result<bool, EngineError> {
        let Some(vhost) = self.0.vhosts.get(name) else {
            return Ok(false);
        };
        vhost.redefine(|it| edit(&mut it.limits))?;
        self.kept(vhost.changes_promise()).await?;
        Ok(true)
    }
}

impl VhostUpdate {
    fn apply(&self, definition: &mut VhostDefinition) {
        if let Some(description) = &self.description {
            definition.description.clone_from(description);
        }
        if let Some(tags) = &self.tags {
            definition.tags.clone_from(tags);
        }
    }
}

fn describe(vhost: &Vhost) -> VhostInfo {
    let (mut ready, mut unacked) = (0, 0);
    for queue in vhost.topology().queues() {
        let stats = queue.stats();
        ready += stats.ready;
        unacked += stats.unsettled;
    }
    VhostInfo {
        definition: vhost.definition(),
        tracing: vhost.is_traced(),
        durability: vhost.level().name(),
        ready,
        unacked,
    }
}
