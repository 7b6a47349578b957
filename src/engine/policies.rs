//! The policies, as pages show and change them.

use std::sync::Arc;

use super::{Engine, EngineError};

pub use backbone_broker::policy::{ApplyTo, Author, Policy, PolicyDefinition, PolicyError};

impl Engine {
    /// The policies of an author in all vhosts, by vhost and name.
    pub fn policies(&self, author: Author) -> Vec<Arc<Policy>> {
        let mut all = Vec::new();
        for vhost in self.0.vhosts.list() {
            all.extend(vhost.policies().of(author).cloned());
        }
        all
    }

    /// Puts a policy into its vhost, in the place of the one of its author and name. True: there was none. It counts when
    /// this returns, and is as safe as the vhost's level says. None: there is no such vhost.
    ///
    /// # Errors
    /// The policy is not one, or the log takes nothing.
    pub async fn put_policy(
        &self,
        author: Author,
        definition: PolicyDefinition,
    ) -> Result<Option<bool>, EngineError> {
        let Some(vhost) = self.0.vhosts.get(&definition.vhost) else {
            return Ok(None);
        };
        let policy = Policy::new(author, definition)?;
        let new = vhost.put_policy(author, policy)?;
        self.kept(vhost.changes_promise()).await?;
        Ok(Some(new))
    }

    /// Removes a policy. False: there is none.
    ///
    /// # Errors
    /// The log takes nothing.
    pub async fn remove_policy(
        &self,
        author: Author,
        vhost: &str,
        name: &str,
    ) -> Result<bool, EngineError> {
        let Some(vhost) = self.0.vhosts.get(vhost) else {
            return Ok(false);
        };
        let removed = vhost.remove_policy(author, name)?;
        self.kept(vhost.changes_promise()).await?;
        Ok(removed)
    }
}
