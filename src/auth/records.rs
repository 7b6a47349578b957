//! Users and what they may do, as they are stored and shown.

use serde::{Deserialize, Serialize};

use super::password::PasswordHash;

/// A user's record in [`Table::Users`](crate::state::Table::Users).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct UserRecord {
    /// None: the user cannot log in.
    #[serde(
        default,
        rename = "secret_hash",
        skip_serializing_if = "Option::is_none"
    )]
    pub password: Option<PasswordHash>,
    /// None: the record is of a time before users had tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(default)]
    pub limits: UserLimits,
}

/// Limits of a user; a negative number is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserLimits {
    /// Connections that may be open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i64>,
    /// Channels that all of its connections may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_channels: Option<i64>,
}

/// What a user may do in a vhost: its record in [`Table::Grants`](crate::state::Table::Grants).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// None: it may not enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<Permission>,
    /// One for each exchange that is named.
    #[serde(default)]
    pub topics: Vec<TopicPermission>,
}

/// Patterns of the names of exchanges and queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published to and bound to something.
    pub write: String,
    /// What may be consumed from and bound from.
    pub read: String,
}

impl Permission {
    /// Everything.
    pub fn full() -> Self {
        let any = || ".*".to_owned();
        Self {
            configure: any(),
            write: any(),
            read: any(),
        }
    }
}

/// Patterns of routing keys of a topic exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPermission {
    /// The exchange.
    pub exchange: String,
    /// What may be published.
    pub write: String,
    /// What may be bound.
    pub read: String,
}

impl Grant {
    /// Says with which routing keys a topic exchange may be used. True: nothing was said before.
    pub(super) fn put_topic(&mut self, topic: TopicPermission) -> bool {
        let before = self.topics.len();
        self.topics.retain(|it| it.exchange != topic.exchange);
        let new = self.topics.len() == before;
        self.topics.push(topic);
        self.topics.sort_by(|a, b| a.exchange.cmp(&b.exchange));
        new
    }

    /// Whether nothing is granted.
    pub(super) fn is_empty(&self) -> bool {
        self.permission.is_none() && self.topics.is_empty()
    }
}
