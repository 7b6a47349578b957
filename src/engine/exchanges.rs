//! What exchanges there are, as pages show them.

use std::sync::Arc;

use backbone_broker::dedup::Deduplication;
use backbone_broker::topology::ExchangeInfo as Listed;
use backbone_broker::vhost::Vhost;
use serde_json::{Map, Value};

use super::Engine;
use super::json::object_of;

/// An exchange at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeInfo {
    /// The vhost that it is in.
    pub vhost: Arc<str>,
    /// Its name, empty for the default exchange.
    pub name: String,
    /// How it routes.
    pub kind: &'static str,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with the last binding from it.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// The declare's arguments.
    pub arguments: Map<String, Value>,
    /// The policy that counts for it.
    pub policy: Option<String>,
    /// Messages that wait at it for their time; none for one that lets none wait.
    pub messages_delayed: Option<u64>,
    /// What it remembers, if it drops messages that came before.
    pub deduplication: Option<Deduplication>,
}

impl Engine {
    /// The exchanges of a vhost, or of all, by vhost and name; `None` when there is no such vhost.
    pub fn exchange_infos(&self, vhost: Option<&str>) -> Option<Vec<ExchangeInfo>> {
        let mut all = Vec::new();
        for vhost in self.vhosts_named(vhost)? {
            let listed = vhost.topology().list_exchanges().into_iter();
            all.extend(listed.map(|it| describe(&vhost, it)));
        }
        Some(all)
    }

    /// One exchange; `None` when there is no such exchange or vhost.
    pub fn exchange_info(&self, vhost: &str, name: &str) -> Option<ExchangeInfo> {
        let vhost = self.0.vhosts.get(vhost)?;
        let listed = vhost.topology().exchange(name)?;
        Some(describe(&vhost, listed))
    }

    /// The vhost of that name, or all.
    pub(super) fn vhosts_named(&self, vhost: Option<&str>) -> Option<Vec<Arc<Vhost>>> {
        match vhost {
            Some(name) => Some(vec![self.0.vhosts.get(name)?]),
            None => Some(self.0.vhosts.list()),
        }
    }
}

fn describe(vhost: &Vhost, listed: Listed) -> ExchangeInfo {
    let policy = vhost.policies().of_exchange(&listed.name);
    ExchangeInfo {
        vhost: Arc::clone(vhost.name()),
        kind: listed.kind.name(),
        durable: listed.durable,
        auto_delete: listed.auto_delete,
        internal: listed.internal,
        arguments: object_of(&listed.arguments),
        policy: policy.map(|policy| policy.definition.name.clone()),
        messages_delayed: vhost.delayed(&listed.name),
        deduplication: vhost.deduplication_of(&listed.name),
        name: listed.name,
    }
}
