//! Policies: settings for the queues and exchanges of a vhost that a pattern finds, which can be changed while these are
//! in use.
//!
//! Of all policies that fit a resource, the one with the highest priority counts, and of all operator policies too; the
//! rest are as if they were not. A policy speaks as a declare's arguments do, without the `x-`
//! ([`effective`]): a queue's own argument goes first, but of limits the smaller one counts, and what an
//! operator says is a limit in any case.
//!
//! They are definitions of the log, and a snapshot in memory that nobody locks.

mod check;

use std::collections::BTreeMap;
use std::sync::Arc;

use backbone_wire::table::{Table, TableBuf, Value};
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;
pub use check::PolicyError;

/// The prefix of a queue's arguments that a policy's settings do not have.
const PREFIX: &str = "x-";
/// Settings of which the smaller one counts.
const LIMITS: [&str; 5] = [
    "message-ttl",
    "expires",
    "max-length",
    "max-length-bytes",
    "delivery-limit",
];

/// Who makes a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Author {
    /// Whoever uses the vhost.
    User,
    /// Whoever runs the server: its limits hold whatever others say.
    Operator,
}

/// What a policy is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    /// Queues of all types and exchanges.
    #[default]
    All,
    /// Queues of all types.
    Queues,
    /// Exchanges.
    Exchanges,
    /// Queues of one type.
    ClassicQueues,
    /// Queues of one type.
    QuorumQueues,
    /// Queues of one type.
    Streams,
}

/// A policy as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyDefinition {
    /// Its vhost.
    pub vhost: String,
    /// Its name among those of the same author.
    pub name: String,
    /// What names have to have in them.
    pub pattern: String,
    /// What it is for.
    #[serde(rename = "apply-to", default)]
    pub apply_to: ApplyTo,
    /// The settings.
    pub definition: serde_json::Map<String, serde_json::Value>,
    /// The highest one counts.
    #[serde(default)]
    pub priority: i64,
}

/// A policy that was checked.
#[derive(Debug)]
pub struct Policy {
    /// As it was written down.
    pub definition: PolicyDefinition,
    pattern: Pattern,
    /// The settings as arguments of a queue.
    arguments: TableBuf,
}

impl Policy {
    /// Checks a policy.
    ///
    /// # Errors
    /// What is wrong with it, in RabbitMQ's words.
    pub fn new(author: Author, definition: PolicyDefinition) -> Result<Self, PolicyError> {
        let pattern = Pattern::new(&definition.pattern).map_err(PolicyError::Pattern)?;
        check::check(author, &definition.definition)?;
        let mut arguments = TableBuf::new();
        for (name, value) in &definition.definition {
            let name = format!("{PREFIX}{name}");
            match (value.as_i64(), value.as_str(), value.as_bool()) {
                (Some(number), ..) => arguments.put(&name, &Value::I64(number)),
                (_, Some(text), _) => arguments.put(&name, &Value::from(text)),
                (_, _, Some(is)) => arguments.put(&name, &Value::Bool(is)),
                // A list means nothing to a queue.
                _ => continue,
            };
        }
        Ok(Self {
            definition,
            pattern,
            arguments,
        })
    }

    /// The alternate exchange that it gives to exchanges.
    pub fn alternate_exchange(&self) -> Option<&str> {
        self.definition
            .definition
            .get("alternate-exchange")?
            .as_str()
    }

    fn fits_queue(&self, name: &str, arguments: Table<'_>) -> bool {
        let is = |kind: &str| match arguments.get("x-queue-type").and_then(|it| it.as_str()) {
            Some(named) => named == kind,
            None => kind == "classic",
        };
        let fits = match self.definition.apply_to {
            ApplyTo::All | ApplyTo::Queues => true,
            ApplyTo::Exchanges => false,
            ApplyTo::ClassicQueues => is("classic"),
            ApplyTo::QuorumQueues => is("quorum"),
            ApplyTo::Streams => is("stream"),
        };
        fits && self.pattern.matches(name.as_bytes())
    }

    fn fits_exchange(&self, name: &str) -> bool {
        let fits = matches!(self.definition.apply_to, ApplyTo::All | ApplyTo::Exchanges);
        fits && self.pattern.matches(name.as_bytes())
    }
}

/// All policies of a vhost at one instant.
#[derive(Debug, Clone, Default)]
pub struct Policies(BTreeMap<(Author, String), Arc<Policy>>);

/// The policies that count for a queue.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Of those of users.
    pub user: Option<Arc<Policy>>,
    /// Of those of operators.
    pub operator: Option<Arc<Policy>>,
}

impl Policies {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The policy of that name.
    pub fn get(&self, author: Author, name: &str) -> Option<&Arc<Policy>> {
        self.0.get(&(author, name.to_owned()))
    }

    /// All of an author, by name.
    pub fn of(&self, author: Author) -> impl Iterator<Item = &Arc<Policy>> {
        let own = self.0.iter().filter(move |((it, _), _)| *it == author);
        own.map(|(_, policy)| policy)
    }

    /// The names of all, with their authors.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Author, &str)> {
        self.0.keys().map(|(author, name)| (*author, &**name))
    }

    pub(crate) fn put(&mut self, author: Author, policy: Policy) {
        let key = (author, policy.definition.name.clone());
        self.0.insert(key, Arc::new(policy));
    }

    pub(crate) fn remove(&mut self, author: Author, name: &str) -> bool {
        self.0.remove(&(author, name.to_owned())).is_some()
    }

    /// Those that count for a queue.
    pub fn of_queue(&self, name: &str, arguments: Table<'_>) -> Chosen {
        let best = |author| self.best(author, |it| it.fits_queue(name, arguments));
        Chosen {
            user: best(Author::User),
            operator: best(Author::Operator),
        }
    }

    /// The one that counts for an exchange. Operators' say nothing of exchanges.
    pub fn of_exchange(&self, name: &str) -> Option<Arc<Policy>> {
        self.best(Author::User, |it| it.fits_exchange(name))
    }

    fn best(&self, author: Author, fits: impl Fn(&Policy) -> bool) -> Option<Arc<Policy>> {
        let fitting = self.of(author).filter(|it| fits(it));
        fitting
            .max_by_key(|policy| policy.definition.priority)
            .cloned()
    }
}

/// What holds for a queue: its arguments with what `chosen` lays over them, as if it had been declared so.
pub fn effective(arguments: Table<'_>, chosen: &Chosen) -> TableBuf {
    let of = |policy: &Option<Arc<Policy>>| policy.clone();
    let (user, operator) = (of(&chosen.user), of(&chosen.operator));
    let mut merged = TableBuf::new();
    let layers = [
        Some(arguments),
        user.as_ref().map(|it| it.arguments.as_table()),
        operator.as_ref().map(|it| it.arguments.as_table()),
    ];
    let layers: Vec<Table<'_>> = layers.into_iter().flatten().collect();
    let mut seen: Vec<&[u8]> = Vec::new();
    for (name, first) in layers.iter().flat_map(|layer| layer.iter()).flatten() {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let values = || {
            let text = std::str::from_utf8(name).ok();
            let given = layers.iter().filter_map(move |it| it.get(text?));
            given.filter_map(|value| value.as_i64()).min()
        };
        let smaller = if is_limit(name) { values() } else { None };
        let value = smaller.map_or(first, Value::I64);
        // Names came from tables, so they fit into one.
        let _ = merged.try_put(name, &value);
    }
    merged
}

fn is_limit(argument: &[u8]) -> bool {
    let setting = argument.strip_prefix(PREFIX.as_bytes());
    setting.is_some_and(|setting| LIMITS.iter().any(|it| it.as_bytes() == setting))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str, pattern: &str, priority: i64, definition: serde_json::Value) -> Policy {
        let definition = PolicyDefinition {
            vhost: "/".into(),
            name: name.into(),
            pattern: pattern.into(),
            apply_to: ApplyTo::All,
            definition: definition.as_object().cloned().expect("an object"),
            priority,
        };
        Policy::new(Author::User, definition).expect("a good policy")
    }

    fn name_of(policy: Option<Arc<Policy>>) -> Option<String> {
        policy.map(|it| it.definition.name.clone())
    }

    #[test]
    fn of_those_that_fit_the_highest_priority_counts() {
        let mut policies = Policies::default();
        policies.put(
            Author::User,
            policy("low", "^q", 0, json!({"max-length": 1})),
        );
        policies.put(
            Author::User,
            policy("high", "q", 7, json!({"max-length": 2})),
        );
        policies.put(
            Author::Operator,
            policy("limit", "q$", 0, json!({"max-length": 3})),
        );
        let chosen = |name: &str| {
            let chosen = policies.of_queue(name, Table::EMPTY);
            (name_of(chosen.user), name_of(chosen.operator))
        };
        assert_eq!(chosen("qx"), (Some("high".into()), None));
        assert_eq!(chosen("q"), (Some("high".into()), Some("limit".into())));
        assert_eq!(chosen("x"), (None, None));
        assert!(policies.remove(Author::User, "high") && !policies.remove(Author::User, "high"));
        assert_eq!(name_of(policies.of_exchange("q")), Some("low".into()));
    }

    #[test]
    fn a_policy_is_for_what_it_says() {
        let mut quorum = TableBuf::new();
        quorum.put("x-queue-type", &Value::from("quorum"));
        let fits = |apply_to| {
            let mut policy = policy("p", "", 0, json!({"max-length": 1}));
            policy.definition.apply_to = apply_to;
            let of_queue = |arguments| policy.fits_queue("q", arguments);
            let queues = [of_queue(Table::EMPTY), of_queue(quorum.as_table())];
            (queues[0], queues[1], policy.fits_exchange("x"))
        };
        assert_eq!(fits(ApplyTo::All), (true, true, true));
        assert_eq!(fits(ApplyTo::Queues), (true, true, false));
        assert_eq!(fits(ApplyTo::Exchanges), (false, false, true));
        assert_eq!(fits(ApplyTo::ClassicQueues), (true, false, false));
        assert_eq!(fits(ApplyTo::QuorumQueues), (false, true, false));
        assert_eq!(fits(ApplyTo::Streams), (false, false, false));
    }

    #[test]
    fn own_arguments_go_first_but_of_limits_the_smaller_one_counts() {
        let mut own = TableBuf::new();
        own.put("x-message-ttl", &Value::I32(100))
            .put("x-max-length", &Value::I32(7))
            .put("x-overflow", &Value::from("reject-publish"));
        let users = json!({
            "message-ttl": 50, "max-length": 9, "overflow": "drop-head", "dead-letter-exchange": "dlx"
        });
        let chosen = Chosen {
            user: Some(Arc::new(policy("p", "", 0, users))),
            operator: Some(Arc::new(policy(
                "o",
                "",
                0,
                json!({"message-ttl": 80, "max-length": 3, "expires": 5}),
            ))),
        };
        let merged = effective(own.as_table(), &chosen);
        let table = merged.as_table();
        let number = |name| table.get(name).and_then(|it| it.as_i64());
        let text = |name| {
            table
                .get(name)
                .and_then(|it| it.as_str().map(str::to_owned))
        };
        assert_eq!(number("x-message-ttl"), Some(50));
        assert_eq!(
            (number("x-max-length"), number("x-expires")),
            (Some(3), Some(5))
        );
        assert_eq!(text("x-overflow").as_deref(), Some("reject-publish"));
        assert_eq!(text("x-dead-letter-exchange").as_deref(), Some("dlx"));
        assert_eq!(table.iter().count(), 5);
        let alone = effective(own.as_table(), &Chosen::default());
        assert_eq!(alone.as_table().iter().count(), 3);
    }
}
