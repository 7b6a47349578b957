//! Bringing definitions in: checked as a whole, then built.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;

use super::document::{Document, Item, Named, Notes, PolicyItem, QueueItem, UserItem, VhostItem};
use super::parameters::{Meaning, keep};
use super::{Definitions, DefinitionsError, Imported};
use crate::auth::{
    Granted, ManyUsers, PasswordHash, Permission, Secret, TopicPermission, UserUpdate,
    hash_password,
};
use crate::engine::{
    Author, BindingPlan, Engine, ExchangePlan, Policy, PolicyDefinition, QueuePlan, VhostLimits,
    VhostUpdate,
};
use crate::state::{RecordChange, Table};

/// As long as AMQP can say it.
const NAME_BYTES_MAX: usize = 255;
const QUEUE_TYPE: &str = "x-queue-type";
/// The type that a queue has unless it says another.
const USUAL_TYPE: &str = "classic";

/// Everything that is to be, checked.
#[derive(Default)]
struct Plan {
    vhosts: Vec<(String, VhostUpdate)>,
    /// Limits and parameters by vhost.
    said: BTreeMap<String, Said>,
    users: ManyUsers,
    /// Passwords in clear text, of users by their place in `users`. They are hashed when all else is right.
    passwords: Vec<(usize, Secret)>,
    globals: Vec<(String, Value)>,
    policies: Vec<(Author, Policy)>,
    exchanges: Vec<(String, ExchangePlan)>,
    queues: Vec<(String, QueuePlan)>,
    bindings: Vec<(String, BindingPlan)>,
    notes: Notes,
}

#[derive(Default)]
struct Said {
    limits: Option<VhostLimits>,
    /// Component, name and value.
    parameters: Vec<(String, String, Value)>,
}

impl Definitions {
    /// Brings definitions in, of everything or of what belongs to one vhost. Nothing is deleted; what is there and cannot be
    /// changed (queues, exchanges) stays.
    ///
    /// # Errors
    /// The first item that is wrong; nothing is changed. Or the log or the state store takes nothing.
    pub async fn import(
        &self,
        json: Bytes,
        vhost: Option<&str>,
    ) -> Result<Imported, DefinitionsError> {
        if let Some(vhost) = vhost
            && !self.engine.has_vhost(vhost)
        {
            return Err(DefinitionsError::NoVhost(vhost.to_owned()));
        }
        let _one_at_a_time = self.importing.lock().await;
        let (own, of) = (self.clone(), vhost.map(str::to_owned));
        // It may take a while, and others share this thread.
        let checked = tokio::task::spawn_blocking(move || own.check(&json, of.as_deref()));
        let plan = checked.await.map_err(|_| DefinitionsError::Cancelled)??;
        self.build(plan).await
    }

    fn check(&self, json: &[u8], vhost: Option<&str>) -> Result<Plan, DefinitionsError> {
        let mut document = Document::read(json, vhost)?;
        let mut check = Check {
            definitions: self,
            vhosts: BTreeSet::new(),
            users: BTreeSet::new(),
            plan: Plan {
                notes: std::mem::take(&mut document.notes),
                ..Plan::default()
            },
        };
        check.vhosts(&document.vhosts)?;
        check.users(std::mem::take(&mut document.users))?;
        for item in &document.permissions {
            let is = &item.is;
            let names = Permission {
                configure: is.configure.clone(),
                write: is.write.clone(),
                read: is.read.clone(),
            };
            check.grant(item, &is.user, Granted::Names(names))?;
        }
        for item in &document.topic_permissions {
            let is = &item.is;
            let keys = TopicPermission {
                exchange: is.exchange.clone(),
                write: is.write.clone(),
                read: is.read.clone(),
            };
            check.grant(item, &is.user, Granted::Keys(keys))?;
        }
        check.parameters(&document)?;
        for item in &document.policies {
            check.vhost_is_there(item)?;
            let policy = Policy::new(Author::User, policy(&item.is));
            let policy = policy.map_err(|problem| item.wrong(problem))?;
            check.plan.policies.push((Author::User, policy));
        }
        check.topology(&document)?;
        Ok(check.plan)
    }

    async fn build(&self, mut plan: Plan) -> Result<Imported, DefinitionsError> {
        let mut done = Imported::default();
        for (name, update) in std::mem::take(&mut plan.vhosts) {
            if !self.engine.has_vhost(&name) {
                // What was granted in one of that name before, if forgetting it was cut short.
                let users = self.auth.users();
                users.keep_vhosts(|it| *it != *name).await?;
            }
            done.count(self.engine.put_vhost(&name, update).await?);
        }
        for (user, password) in std::mem::take(&mut plan.passwords) {
            plan.users.users[user].1.password = Some(Some(hash_password(password).await?));
        }
        for (name, _) in &plan.users.users {
            done.count(self.auth.users().get(name).is_none());
        }
        for (user, vhost, _) in &plan.users.grants {
            done.count(self.auth.users().grant(user, vhost).is_none());
        }
        self.auth
            .users()
            .put_many(std::mem::take(&mut plan.users))
            .await?;
        let globals = std::mem::take(&mut plan.globals).into_iter();
        let globals =
            globals.map(|(name, value)| RecordChange::put(Table::Parameters, &name, &value));
        self.state.apply(globals.collect::<Result<_, _>>()?).await?;
        done.notes = std::mem::take(&mut plan.notes);
        let engine = self.engine.clone();
        let built = tokio::task::spawn_blocking(move || build_in(&engine, plan));
        let (built, vhosts) = built.await.map_err(|_| DefinitionsError::Cancelled)?;
        for vhost in &vhosts {
            self.engine.built(vhost).await?;
        }
        let (new, known) = built?;
        done.new += new;
        done.known += known;
        Ok(done)
    }
}

/// Builds what belongs to vhosts. Returns how much of it was new and how much known, and the vhosts that were
/// changed, whether or not all went well.
fn build_in(
    engine: &Engine,
    plan: Plan,
) -> (Result<(usize, usize), DefinitionsError>, BTreeSet<String>) {
    let mut vhosts = BTreeSet::new();
    let mut built = Imported::default();
    let all = || {
        for (vhost, said) in plan.said {
            vhosts.insert(vhost.clone());
            engine.redefine_vhost(&vhost, |definition| {
                definition.limits = said.limits.unwrap_or(definition.limits);
                for (component, name, value) in said.parameters {
                    built.count(keep(definition, component, name, value));
                }
            })?;
        }
        for (author, policy) in plan.policies {
            vhosts.insert(policy.definition.vhost.clone());
            built.count(engine.build_policy(author, policy)?);
        }
        for (vhost, exchange) in &plan.exchanges {
            built.count(engine.build_exchange(vhost, exchange)?);
            vhosts.insert(vhost.clone());
        }
        for (vhost, queue) in &plan.queues {
            built.count(engine.build_queue(vhost, queue)?);
            vhosts.insert(vhost.clone());
        }
        for (vhost, binding) in &plan.bindings {
            engine.build_binding(vhost, binding)?;
            vhosts.insert(vhost.clone());
        }
        Ok(())
    };
    let result = all();
    (result.map(|()| (built.new, built.known)), vhosts)
}

impl Imported {
    fn count(&mut self, new: bool) {
        match new {
            true => self.new += 1,
            false => self.known += 1,
        }
    }
}

/// What is checked so far.
struct Check<'a> {
    definitions: &'a Definitions,
    /// Those that will be new.
    vhosts: BTreeSet<String>,
    users: BTreeSet<String>,
    plan: Plan,
}

impl Check<'_> {
    fn vhosts(&mut self, items: &[Item<VhostItem>]) -> Result<(), DefinitionsError> {
        for item in items {
            let is = &item.is;
            check_name(item, "a vhost", &is.name)?;
            if is.name.contains('\0') {
                return Err(item.wrong("a vhost's name has no NUL"));
            }
            let metadata = is.metadata.as_ref();
            let update = VhostUpdate {
                description: is
                    .description
                    .clone()
                    .or_else(|| metadata?.description.clone()),
                tags: is.tags.clone().or_else(|| metadata?.tags.clone()),
                // As elsewhere, nobody gets to see messages by an import.
                tracing: None,
            };
            self.vhosts.insert(is.name.clone());
            self.plan.vhosts.push((is.name.clone(), update));
        }
        Ok(())
    }

    fn users(&mut self, items: Vec<Item<UserItem>>) -> Result<(), DefinitionsError> {
        let auth = &self.definitions.auth;
        for mut item in items {
            let name = item.is.name.clone();
            auth.users()
                .check_name(&name)
                .map_err(|it| item.wrong(it))?;
            if auth.is_client(&name) {
                return Err(item.wrong("a client of the bus has this name"));
            }
            let mut update = UserUpdate {
                password: Some(hash(&item.is).map_err(|problem| item.wrong(problem))?),
                tags: Some(item.is.tags.take().unwrap_or_default()),
                limits: item.is.limits().map_err(|problem| item.wrong(problem))?,
            };
            self.users.insert(name.clone());
            if auth.users().is_configured(&name) {
                if !auth.users().is_as_before(&name, &update) {
                    let note = "the administrator of the configuration stays as it is";
                    self.plan.notes.add(format!("{}: {note}", item.place()));
                }
                continue;
            }
            let hashed = update.password.as_ref().is_some_and(Option::is_some);
            if let Some(password) = item.is.password.take()
                && !hashed
                && !password.is_empty()
            {
                update.password = None;
                let place = self.plan.users.users.len();
                self.plan.passwords.push((place, Secret::new(password)));
            }
            self.plan.users.users.push((name, update));
        }
        Ok(())
    }

    fn grant<T: Named>(
        &mut self,
        item: &Item<T>,
        user: &str,
        granted: Granted,
    ) -> Result<(), DefinitionsError> {
        self.vhost_is_there(item)?;
        let users = self.definitions.auth.users();
        if !self.users.contains(user) && users.get(user).is_none() {
            return Err(item.wrong(format!("there is no user '{user}'")));
        }
        let vhost = item.is.vhost().unwrap_or_default();
        let checked = users.check_granted(user, vhost, &granted);
        checked.map_err(|problem| item.wrong(problem))?;
        let grant = (user.to_owned(), vhost.to_owned(), granted);
        self.plan.users.grants.push(grant);
        Ok(())
    }

    fn parameters(&mut self, document: &Document) -> Result<(), DefinitionsError> {
        for item in &document.parameters {
            self.vhost_is_there(item)?;
            let is = &item.is;
            let meaning = Meaning::of(&is.component, &is.vhost, &is.name, &is.value);
            match meaning.map_err(|problem| item.wrong(problem))? {
                Meaning::Limits(limits) => self.said(&is.vhost).limits = Some(limits),
                Meaning::Policy(author, policy) => {
                    let policy = Policy::new(author, policy);
                    let policy = policy.map_err(|problem| item.wrong(problem))?;
                    self.plan.policies.push((author, policy));
                }
                Meaning::None => {
                    let parameter = (is.component.clone(), is.name.clone(), is.value.clone());
                    self.said(&is.vhost).parameters.push(parameter);
                    let note = "is kept, and does nothing here";
                    let note = format!("{}: the component {} {note}", item.place(), is.component);
                    self.plan.notes.add(note);
                }
            }
        }
        for item in &document.global_parameters {
            check_name(item, "a parameter", &item.is.name)?;
            let global = (item.is.name.clone(), item.is.value.clone());
            self.plan.globals.push(global);
        }
        Ok(())
    }

    fn said(&mut self, vhost: &str) -> &mut Said {
        self.plan.said.entry(vhost.to_owned()).or_default()
    }

    fn topology(&mut self, document: &Document) -> Result<(), DefinitionsError> {
        let mut paper = self.definitions.engine.sketch();
        for item in &document.exchanges {
            self.vhost_is_there(item)?;
            check_name(item, "an exchange", &item.is.name)?;
            let is = &item.is;
            let plan = ExchangePlan {
                name: is.name.clone(),
                kind: is.kind.clone(),
                durable: is.durable,
                auto_delete: is.auto_delete,
                internal: is.internal,
                arguments: is.arguments.clone(),
            };
            let drawn = paper.exchange(&is.vhost, &plan);
            self.note_difference(item, drawn.map_err(|problem| item.wrong(problem))?);
            self.plan.exchanges.push((is.vhost.clone(), plan));
        }
        for item in &document.queues {
            self.vhost_is_there(item)?;
            check_name(item, "a queue", &item.is.name)?;
            let plan = queue(&item.is);
            let drawn = paper.queue(&item.is.vhost, &plan);
            self.note_difference(item, drawn.map_err(|problem| item.wrong(problem))?);
            self.plan.queues.push((item.is.vhost.clone(), plan));
        }
        for item in &document.bindings {
            self.vhost_is_there(item)?;
            let is = &item.is;
            if is.routing_key.len() > NAME_BYTES_MAX {
                return Err(item.wrong("a routing key has at most 255 bytes"));
            }
            let plan = BindingPlan {
                source: is.source.clone(),
                destination: is.destination.clone(),
                to_exchange: match is.destination_type.as_str() {
                    "queue" => false,
                    "exchange" => true,
                    _ => return Err(item.wrong("destination_type should be queue or exchange")),
                },
                key: is.routing_key.clone(),
                arguments: is.arguments.clone(),
            };
            let drawn = paper.binding(&is.vhost, &plan);
            drawn.map_err(|problem| {
                let to = &is.destination;
                item.wrong(format!("to '{to}' with '{}': {problem}", is.routing_key))
            })?;
            self.plan.bindings.push((is.vhost.clone(), plan));
        }
        Ok(())
    }

    fn note_difference<T: Named>(&mut self, item: &Item<T>, difference: Option<String>) {
        if let Some(difference) = difference {
            let place = item.place();
            let note = format!("{place}: what is there stays as it is: {difference}");
            self.plan.notes.add(note);
        }
    }

    fn vhost_is_there<T: Named>(&self, item: &Item<T>) -> Result<(), DefinitionsError> {
        let vhost = item.is.vhost().unwrap_or_default();
        match self.vhosts.contains(vhost) || self.definitions.engine.has_vhost(vhost) {
            true => Ok(()),
            false => Err(item.wrong("there is no such vhost")),
        }
    }
}

fn check_name<T: Named>(item: &Item<T>, what: &str, name: &str) -> Result<(), DefinitionsError> {
    match (1..=NAME_BYTES_MAX).contains(&name.len()) {
        true => Ok(()),
        false => Err(item.wrong(format!(
            "the name of {what} has 1 to {NAME_BYTES_MAX} bytes"
        ))),
    }
}

fn hash(user: &UserItem) -> Result<Option<PasswordHash>, String> {
    match user.password_hash.as_deref() {
        None | Some("") => Ok(None),
        Some(hash) => {
            let hash = PasswordHash::import(hash, user.hashing_algorithm.as_deref());
            hash.map(Some).map_err(|error| error.to_string())
        }
    }
}

fn policy(item: &PolicyItem) -> PolicyDefinition {
    PolicyDefinition {
        vhost: item.vhost.clone(),
        name: item.name.clone(),
        pattern: item.pattern.clone(),
        apply_to: item.apply_to,
        definition: item.definition.clone(),
        priority: item.priority,
    }
}

fn queue(item: &QueueItem) -> QueuePlan {
    let mut arguments = item.arguments.clone();
    if let Some(kind) = &item.kind
        && kind != USUAL_TYPE
    {
        let kind = || Value::from(kind.clone());
        arguments.entry(QUEUE_TYPE).or_insert_with(kind);
    }
    QueuePlan {
        name: item.name.clone(),
        durable: item.durable,
        auto_delete: item.auto_delete,
        arguments,
    }
}
