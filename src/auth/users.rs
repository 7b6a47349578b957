//! The users: who there is, with which tags and limits, and what each may do in which vhost.
//!
//! Owns their records in the state store, and a copy of them in memory that logins and connections read. A change is
//! on the disk before it counts; changes are made one after the other. What a user may do in a vhost is one
//! [`Rights`] that its connections share: they follow a change at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use backbone_broker::access::{Access, Rights, RightsText, Rules, UserAccess};
use backbone_broker::pattern::BadPattern;
use backbone_broker::quota::{Full, Place, Quota};
use parking_lot::RwLock;

use super::password::PasswordHash;
use super::records::{Grant, Permission, TopicPermission, UserLimits, UserRecord};
use super::tags::{IMPERSONATOR, Tags};
use super::{Fingerprint, Identity, IdentityKind};
use crate::state::{RecordChange, StateError, StateStore, Table};

/// The longest name of a user, in bytes: AMQP's short string.
const NAME_BYTES_MAX: usize = 255;

/// A user as it is now; a change makes another one.
#[derive(Debug)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// All of its tags.
    pub tag_names: Vec<String>,
    /// Those that mean something.
    pub tags: Tags,
    /// Its limits.
    pub limits: UserLimits,
    pub(super) password: Option<PasswordHash>,
    /// What a slow hash was found to fit to, hashed quickly with a secret of this process.
    pub(super) verified: ArcSwapOption<[u8; 32]>,
    pub(super) loopback_only: bool,
    connections: Arc<Quota>,
    channels: Arc<Quota>,
}

impl User {
    /// The hash of its password as RabbitMQ shows it, and how that is made; none: it cannot log in.
    pub fn password_hash(&self) -> Option<(String, &'static str)> {
        self.password.as_ref().map(PasswordHash::export)
    }

    pub(super) fn identity(&self, secret: Option<Fingerprint>) -> Identity {
        Identity {
            name: Arc::clone(&self.name),
            kind: IdentityKind::User(self.tags),
            secret,
        }
    }

    pub(super) fn record(&self) -> UserRecord {
        UserRecord {
            password: self.password.clone(),
            tags: Some(self.tag_names.clone()),
            limits: self.limits,
        }
    }
}

/// What is to be changed of a user; what is not given stays.
#[derive(Debug, Default)]
pub struct UserUpdate {
    /// Its password; none: it cannot log in.
    pub password: Option<Option<PasswordHash>>,
    /// Its tags.
    pub tags: Option<Vec<String>>,
    /// Its limits.
    pub limits: Option<UserLimits>,
}

impl UserUpdate {
    /// The record of a user that was `before`, if it was there.
    pub(super) fn applied_to(self, before: Option<&User>) -> UserRecord {
        let mut record = before.map(User::record).unwrap_or_default();
        if let Some(password) = self.password {
            record.password = password;
        }
        if let Some(tags) = self.tags {
            record.tags = Some(tags);
        }
        if let Some(limits) = self.limits {
            record.limits = limits;
        }
        record.tags.get_or_insert_default();
        record
    }
}

/// What others hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserChange<'a> {
    /// Somebody's rights in this vhost are others now.
    Rights(&'a str),
    /// There is no such user any more.
    Gone(&'a str),
}

/// Why a user was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is none of that name.
    #[error("there is no user '{0}'")]
    NoUser(String),
    /// A name that cannot be one.
    #[error("a user's name is 1 to {NAME_BYTES_MAX} bytes long and has no NUL and no colon")]
    Name,
    /// A pattern that is not understood.
    #[error("{0}: {1}")]
    Pattern(&'static str, BadPattern),
    /// The configuration says otherwise.
    #[error("the user '{0}' is the administrator of the configuration (admin.id): {1}")]
    Configured(String, &'static str),
    /// The state store failed; nothing is changed.
    #[error(transparent)]
    State(#[from] StateError),
}

type Listener = Box<dyn Fn(UserChange<'_>) + Send + Sync>;

/// All users.
pub struct Users {
    pub(super) state: StateStore,
    memory: RwLock<Memory>,
    /// Held while a change is made, from its reading to when it counts.
    pub(super) changes: tokio::sync::Mutex<()>,
    listener: OnceLock<Listener>,
    /// Somebody had a password that is slow to check.
    any_slow: AtomicBool,
    pub(super) configured: Configured,
}

/// What the configuration says of users.
#[derive(Debug, Default)]
pub(super) struct Configured {
    pub admin: String,
    /// The administrator's secret is in the configuration.
    pub admin_secret: bool,
    /// Users who may log in from this machine only.
    pub loopback_only: Vec<String>,
}

#[derive(Default)]
struct Memory {
    users: BTreeMap<Arc<str>, Arc<User>>,
    /// By vhost and user.
    grants: BTreeMap<(String, String), Held>,
}

struct Held {
    grant: Grant,
    rights: Arc<Rights>,
}

impl Users {
    pub(super) fn new(state: StateStore, configured: Configured) -> Self {
        Self {
            state,
            memory: RwLock::default(),
            changes: tokio::sync::Mutex::default(),
            listener: OnceLock::new(),
            any_slow: AtomicBool::new(false),
            configured,
        }
    }

    /// Reads all that is stored; users whom `skip` names are left out.
    pub(super) async fn load(&self, skip: &[&str]) -> Result<(), StateError> {
        let records = self.state.list::<UserRecord>(Table::Users).await?;
        for (name, record) in records {
            if !skip.contains(&&*name) {
                self.put_in_memory(&name, record);
            }
        }
        for (key, grant) in self.state.list::<Grant>(Table::Grants).await? {
            if let Some((user, vhost)) = key.split_once('\0')
                && self.get(user).is_some()
            {
                // It was checked when it came; a later version may take less, and what is not understood grants nothing.
                let rules = rules(&grant, user, vhost).ok();
                self.grant_in_memory(user, vhost, grant, rules);
            }
        }
        Ok(())
    }

    /// Who hears of changes; told once.
    pub fn listen(&self, listener: impl Fn(UserChange<'_>) + Send + Sync + 'static) {
        let first = self.listener.set(Box::new(listener));
        debug_assert!(first.is_ok(), "one listens");
    }

    /// Whether somebody has, or had, a password that is slow to check.
    pub(super) fn has_slow(&self) -> bool {
        self.any_slow.load(Ordering::Relaxed)
    }

    /// The user of that name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.memory.read().users.get(name).cloned()
    }

    /// All users, by name.
    pub fn list(&self) -> Vec<Arc<User>> {
        self.memory.read().users.values().cloned().collect()
    }

    /// What is granted to whom, by vhost and user: the vhost, the user and the grant.
    pub fn grants(&self) -> Vec<(String, String, Grant)> {
        let memory = self.memory.read();
        // An empty one is kept for connections that are open.
        let all = memory.grants.iter().filter(|(_, it)| !it.grant.is_empty());
        all.map(|((vhost, user), held)| (vhost.clone(), user.clone(), held.grant.clone()))
            .collect()
    }

    /// What is granted to `user` in `vhost`.
    pub fn grant(&self, user: &str, vhost: &str) -> Option<Grant> {
        let memory = self.memory.read();
        let held = memory.grants.get(&key(user, vhost));
        let grant = held.map(|held| held.grant.clone());
        grant.filter(|grant| !grant.is_empty())
    }

    /// Whether `user` may enter `vhost`.
    pub fn may_enter(&self, user: &str, vhost: &str) -> bool {
        let memory = self.memory.read();
        let held = memory.grants.get(&key(user, vhost));
        held.is_some_and(|held| held.rights.may_enter())
    }

    /// What a connection of `user` to `vhost` may do; none: it may not enter.
    pub(super) fn access(&self, user: &str, vhost: &str) -> Option<Access> {
        let memory = self.memory.read();
        let held = memory.grants.get(&key(user, vhost))?;
        let user = memory.users.get(user)?;
        held.rights.may_enter().then(|| {
            Access::User(UserAccess {
                rights: Arc::clone(&held.rights),
                channels: Arc::clone(&user.channels),
                impersonator: user.tags.has(IMPERSONATOR),
            })
        })
    }

    /// A place for one more connection of a user.
    pub(super) fn connection(&self, user: &str) -> Result<Option<Place>, Full> {
        let user = self.get(user);
        user.map(|user| user.connections.take()).transpose()
    }

    /// Creates or changes a user. True: it is new.
    ///
    /// # Errors
    /// The name cannot be one, the configuration says otherwise, or the store failed.
    pub async fn put(&self, name: &str, update: UserUpdate) -> Result<bool, UserError> {
        check_name(name)?;
        if name == self.configured.admin {
            self.check_admin(&update)?;
        }
        let _changing = self.changes.lock().await;
        let before = self.get(name);
        let record = update.applied_to(before.as_deref());
        self.state.put(Table::Users, name, &record).await?;
        self.put_in_memory(name, record);
        Ok(before.is_none())
    }

    fn check_admin(&self, update: &UserUpdate) -> Result<(), UserError> {
        let refused = |why| Err(UserError::Configured(self.configured.admin.clone(), why));
        if update.password.is_some() && self.configured.admin_secret {
            return refused("its secret is admin.secret");
        }
        let keeps = |tags: &Vec<String>| tags.iter().any(|tag| tag == "administrator");
        match update.tags.as_ref().is_none_or(keeps) {
            true => Ok(()),
            false => refused("it stays an administrator"),
        }
    }

    /// Deletes users with all that is granted to them. Returns the first that is not there: nothing is changed then.
    ///
    /// # Errors
    /// One is the configuration's, or the store failed.
    pub async fn delete(&self, names: &[String]) -> Result<Option<String>, UserError> {
        let _changing = self.changes.lock().await;
        if let Some(missing) = names.iter().find(|name| self.get(name).is_none()) {
            return Ok(Some(missing.clone()));
        }
        if names.contains(&self.configured.admin) {
            let admin = self.configured.admin.clone();
            return Err(UserError::Configured(admin, "it cannot be deleted"));
        }
        let grants = self.keys_where(|_, user| names.iter().any(|name| name == user));
        let mut changes: Vec<_> = grants.iter().map(remove_grant).collect();
        let users = names
            .iter()
            .map(|it| RecordChange::remove(Table::Users, it));
        changes.extend(users);
        self.state.apply(changes).await?;
        self.take_grants(grants);
        for name in names {
            self.memory.write().users.remove(&**name);
            self.tell(UserChange::Gone(name));
        }
        Ok(None)
    }

    /// Lets a user do in a vhost what the patterns say. True: it could not enter before.
    ///
    /// # Errors
    /// A pattern is not understood, there is no such user, or the store failed.
    pub async fn permit(
        &self,
        user: &str,
        vhost: &str,
        permission: Permission,
    ) -> Result<bool, UserError> {
        let edit = |grant: &mut Grant| grant.permission.replace(permission).is_none();
        self.edit(user, vhost, edit).await
    }

    /// Lets a user not enter a vhost any more. False: it could not before.
    ///
    /// # Errors
    /// There is no such user, or the store failed.
    pub async fn forbid(&self, user: &str, vhost: &str) -> Result<bool, UserError> {
        let edit = |grant: &mut Grant| grant.permission.take().is_some();
        self.edit(user, vhost, edit).await
    }

    /// Says with which routing keys a user may use a topic exchange. True: nothing was said before.
    ///
    /// # Errors
    /// A pattern is not understood, there is no such user, or the store failed.
    pub async fn permit_topic(
        &self,
        user: &str,
        vhost: &str,
        topic: TopicPermission,
    ) -> Result<bool, UserError> {
        self.edit(user, vhost, |grant| grant.put_topic(topic)).await
    }

    /// Takes back what was said of routing keys, of all topic exchanges or of one. False: nothing was.
    ///
    /// # Errors
    /// There is no such user, or the store failed.
    pub async fn forget_topics(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
    ) -> Result<bool, UserError> {
        let edit = |grant: &mut Grant| {
            let before = grant.topics.len();
            grant
                .topics
                .retain(|it| exchange.is_some_and(|exchange| it.exchange != exchange));
            grant.topics.len() != before
        };
        self.edit(user, vhost, edit).await
    }

    /// Forgets what is granted in vhosts that are not there any more.
    ///
    /// # Errors
    /// The store failed.
    pub async fn keep_vhosts(&self, is_there: impl Fn(&str) -> bool) -> Result<(), UserError> {
        let _changing = self.changes.lock().await;
        let grants = self.keys_where(|vhost, _| !is_there(vhost));
        if grants.is_empty() {
            return Ok(());
        }
        self.state
            .apply(grants.iter().map(remove_grant).collect())
            .await?;
        self.take_grants(grants);
        Ok(())
    }

    async fn edit<R>(
        &self,
        user: &str,
        vhost: &str,
        edit: impl FnOnce(&mut Grant) -> R,
    ) -> Result<R, UserError> {
        let _changing = self.changes.lock().await;
        if self.get(user).is_none() {
            return Err(UserError::NoUser(user.to_owned()));
        }
        let mut grant = self.grant(user, vhost).unwrap_or_default();
        let result = edit(&mut grant);
        let rules = rules(&grant, user, vhost)?;
        let stored = stored_key(user, vhost);
        match grant.is_empty() {
            true => drop(self.state.delete(Table::Grants, &stored).await?),
            false => self.state.put(Table::Grants, &stored, &grant).await?,
        }
        self.grant_in_memory(user, vhost, grant, Some(rules));
        self.tell(UserChange::Rights(vhost));
        Ok(result)
    }

    pub(super) fn tell(&self, change: UserChange<'_>) {
        if let Some(listener) = self.listener.get() {
            listener(change);
        }
    }

    /// Puts a user in place of the one that was there. Its connections stay counted.
    pub(super) fn put_in_memory(&self, name: &str, record: UserRecord) {
        if record.password.as_ref().is_some_and(PasswordHash::is_slow) {
            self.any_slow.store(true, Ordering::Relaxed);
        }
        let mut memory = self.memory.write();
        let before = memory.users.get(name);
        let of_before = |quota: fn(&User) -> &Arc<Quota>| match before {
            Some(user) => Arc::clone(quota(user)),
            None => Arc::default(),
        };
        let connections = of_before(|user| &user.connections);
        let channels = of_before(|user| &user.channels);
        connections.limit(record.limits.max_connections);
        channels.limit(record.limits.max_channels);
        let tag_names = record.tags.unwrap_or_default();
        let name: Arc<str> = name.into();
        let user = User {
            name: Arc::clone(&name),
            tags: Tags::of(&tag_names),
            tag_names,
            limits: record.limits,
            password: record.password,
            verified: ArcSwapOption::empty(),
            loopback_only: self.configured.loopback_only.iter().any(|it| **it == *name),
            connections,
            channels,
        };
        memory.users.insert(name, Arc::new(user));
    }

    pub(super) fn grant_in_memory(
        &self,
        user: &str,
        vhost: &str,
        grant: Grant,
        rules: Option<Rules>,
    ) {
        let mut memory = self.memory.write();
        let held = memory.grants.entry(key(user, vhost));
        let held = held.or_insert_with(|| Held {
            grant: Grant::default(),
            rights: Arc::default(),
        });
        held.rights.set(rules);
        held.grant = grant;
    }

    /// The vhost and the user of each grant that `is_it` wants.
    fn keys_where(&self, is_it: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
        let memory = self.memory.read();
        let keys = memory.grants.keys().filter(|(v, u)| is_it(v, u));
        keys.cloned().collect()
    }

    fn take_grants(&self, keys: Vec<(String, String)>) {
        let mut memory = self.memory.write();
        for key in keys {
            if let Some(held) = memory.grants.remove(&key) {
                held.rights.set(None);
            }
        }
    }
}

fn key(user: &str, vhost: &str) -> (String, String) {
    (vhost.to_owned(), user.to_owned())
}

pub(super) fn stored_key(user: &str, vhost: &str) -> String {
    format!("{user}\0{vhost}")
}

fn remove_grant((vhost, user): &(String, String)) -> RecordChange {
    RecordChange::remove(Table::Grants, &stored_key(user, vhost))
}

/// That somebody can be called so.
pub(super) fn check_name(name: &str) -> Result<(), UserError> {
    let bad = |c: char| c == '\0' || c == ':';
    match name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(bad) {
        true => Err(UserError::Name),
        false => Ok(()),
    }
}

pub(super) fn rules(grant: &Grant, user: &str, vhost: &str) -> Result<Rules, UserError> {
    let permission = grant.permission.as_ref();
    let text = RightsText {
        permission: permission.map(|it| [&*it.configure, &*it.write, &*it.read]),
        topics: grant
            .topics
            .iter()
            .map(|it| [&*it.exchange, &*it.write, &*it.read])
            .collect(),
    };
    Rules::new(&text, user, vhost).map_err(|error| UserError::Pattern("invalid_regexp", error))
}
