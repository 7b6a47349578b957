//! Many users and permissions at once, as definitions bring them: checked one by one, then stored in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{Grant, Permission, TopicPermission};
use super::users::{UserChange, UserError, UserUpdate, Users, check_name, rules, stored_key};
use crate::state::{RecordChange, Table};

/// What is granted to a user in a vhost.
#[derive(Debug)]
pub enum Granted {
    /// Names that it may use.
    Names(Permission),
    /// Routing keys that it may use.
    Keys(TopicPermission),
}

/// Users and permissions that are to be.
#[derive(Debug, Default)]
pub struct ManyUsers {
    /// By name. The password is one that somebody chose, or its hash.
    pub users: Vec<(String, UserUpdate)>,
    /// The user, the vhost, and what is granted.
    pub grants: Vec<(String, String, Granted)>,
}

impl Users {
    /// Whether the configuration has the last word on this user.
    pub fn is_configured(&self, name: &str) -> bool {
        name == self.configured.admin
    }

    /// Whether a user can be called so.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_name(&self, name: &str) -> Result<(), UserError> {
        check_name(name)
    }

    /// Whether this can be granted.
    ///
    /// # Errors
    /// A pattern is not understood.
    pub fn check_granted(
        &self,
        user: &str,
        vhost: &str,
        granted: &Granted,
    ) -> Result<(), UserError> {
        let mut grant = Grant::default();
        granted.put_into(&mut grant);
        rules(&grant, user, vhost).map(drop)
    }

    /// Whether `update` would leave `user` as it is.
    pub fn is_as_before(&self, user: &str, update: &UserUpdate) -> bool {
        let Some(before) = self.get(user) else {
            return false;
        };
        let password = update.password.as_ref();
        password.is_none_or(|it| it.as_ref() == before.password.as_ref())
            && update
                .tags
                .as_ref()
                .is_none_or(|it| *it == before.tag_names)
            && update.limits.is_none_or(|it| it == before.limits)
    }

    /// Creates and changes users, and grants. Either all of it is so when this returns, after a crash too, or nothing has
    /// changed.
    ///
    /// # Errors
    /// A user to whom something is granted is not there, a pattern is not understood, or the store failed.
    pub async fn put_many(&self, many: ManyUsers) -> Result<(), UserError> {
        let _changing = self.changes.lock().await;
        let mut changes = Vec::new();
        let mut records = BTreeMap::new();
        for (name, update) in many.users {
            check_name(&name)?;
            records.insert(name.clone(), update.applied_to(self.get(&name).as_deref()));
        }
        for (name, record) in &records {
            changes.push(RecordChange::put(Table::Users, name, record)?);
        }
        let mut grants = BTreeMap::new();
        for (user, vhost, granted) in many.grants {
            if self.get(&user).is_none() && !records.contains_key(&user) {
                return Err(UserError::NoUser(user));
            }
            let before = || self.grant(&user, &vhost).unwrap_or_default();
            let key = (user.clone(), vhost.clone());
            granted.put_into(grants.entry(key).or_insert_with(before));
        }
        let mut granted = Vec::new();
        for ((user, vhost), grant) in grants {
            let rules = rules(&grant, &user, &vhost)?;
            let stored = stored_key(&user, &vhost);
            changes.push(RecordChange::put(Table::Grants, &stored, &grant)?);
            granted.push((user, vhost, grant, rules));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.state.apply(changes).await?;
        for (name, record) in records {
            self.put_in_memory(&name, record);
        }
        let mut vhosts = BTreeSet::new();
        for (user, vhost, grant, rules) in granted {
            self.grant_in_memory(&user, &vhost, grant, Some(rules));
            vhosts.insert(vhost);
        }
        for vhost in &vhosts {
            self.tell(UserChange::Rights(vhost));
        }
        Ok(())
    }
}

impl Granted {
    fn put_into(&self, grant: &mut Grant) {
        match self {
            Self::Names(permission) => grant.permission = Some(permission.clone()),
            Self::Keys(topic) => drop(grant.put_topic(topic.clone())),
        }
    }
}
