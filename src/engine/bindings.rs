//! What bindings there are, as pages show them: those of the default exchange, one for each queue, too.

use std::sync::Arc;

use backbone_broker::topology::BindingInfo as Listed;
use backbone_broker::vhost::Vhost;
use serde_json::{Map, Value};

use super::Engine;
use super::json::object_of;

/// A binding.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingInfo {
    /// The vhost that it is in.
    pub vhost: Arc<str>,
    /// The exchange that it leads from, empty for the default exchange.
    pub source: String,
    /// Where it leads.
    pub destination: String,
    /// Whether that is an exchange; else it is a queue.
    pub to_exchange: bool,
    /// Routing key or pattern.
    pub key: Vec<u8>,
    /// Its arguments.
    pub arguments: Map<String, Value>,
    /// These as a raw field table.
    pub(super) arguments_raw: Vec<u8>,
}

/// Which bindings of a vhost are wanted; what is not given may be anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindingFilter<'a> {
    /// The exchange that it leads from.
    pub source: Option<&'a str>,
    /// Where it leads.
    pub destination: Option<&'a str>,
    /// Whether that is an exchange.
    pub to_exchange: Option<bool>,
}

impl BindingFilter<'_> {
    fn takes(&self, source: &str, destination: &str, to_exchange: bool) -> bool {
        self.source.is_none_or(|it| it == source)
            && self.destination.is_none_or(|it| it == destination)
            && self.to_exchange.is_none_or(|it| it == to_exchange)
    }
}

impl Engine {
    /// The bindings of a vhost, or of all, by vhost, source, and the order in which they were made; `None` when there is no such
    /// vhost.
    pub fn binding_infos(
        &self,
        vhost: Option<&str>,
        filter: BindingFilter<'_>,
    ) -> Option<Vec<BindingInfo>> {
        let mut all = Vec::new();
        for vhost in self.vhosts_named(vhost)? {
            default_bindings(&vhost, filter, &mut all);
            let topology = vhost.topology();
            let listed = match filter.source {
                Some(source) => topology.list_bindings_from(source),
                None => topology.list_bindings(),
            };
            let wanted = listed
                .into_iter()
                .filter(|it| filter.takes(&it.source, &it.destination, it.to_exchange));
            all.extend(wanted.map(|it| describe(&vhost, it)));
        }
        Some(all)
    }
}

/// Every queue is bound to the default exchange with its name.
fn default_bindings(vhost: &Vhost, filter: BindingFilter<'_>, all: &mut Vec<BindingInfo>) {
    let mut names: Vec<Arc<str>> = match (filter.source, filter.destination) {
        (Some(source), _) if !source.is_empty() => return,
        (_, Some(one)) => {
            let queue = vhost.topology().queue(one);
            queue.iter().map(|it| Arc::clone(it.name())).collect()
        }
        (_, None) => {
            let queues = vhost.topology().queues();
            queues.iter().map(|it| Arc::clone(it.name())).collect()
        }
    };
    names.retain(|name| filter.takes("", name, false));
    names.sort_unstable();
    all.extend(names.iter().map(|name| BindingInfo {
        vhost: Arc::clone(vhost.name()),
        source: String::new(),
        destination: name.to_string(),
        to_exchange: false,
        key: name.as_bytes().to_vec(),
        arguments: Map::new(),
        arguments_raw: Vec::new(),
    }));
}

fn describe(vhost: &Vhost, listed: Listed) -> BindingInfo {
    BindingInfo {
        vhost: Arc::clone(vhost.name()),
        source: listed.source,
        destination: listed.destination,
        to_exchange: listed.to_exchange,
        key: listed.key,
        arguments: object_of(&listed.arguments),
        arguments_raw: listed.arguments,
    }
}

#[cfg(test)]
impl BindingInfo {
    /// From `x` to the queue `q`.
    pub(crate) fn for_tests(key: &str, arguments: &Map<String, Value>) -> Self {
        Self {
            vhost: "/".into(),
            source: "x".into(),
            destination: "q".into(),
            to_exchange: false,
            key: key.as_bytes().to_vec(),
            arguments: arguments.clone(),
            arguments_raw: Vec::new(),
        }
    }
}
