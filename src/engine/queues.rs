//! What queues there are, as pages show them: each is looked at once, none together with another.

use std::sync::Arc;

use backbone_broker::dedup::Deduplication;
use backbone_broker::policy::{Chosen, Policy, effective};
use backbone_broker::queue::QueueStats;
use backbone_broker::vhost::Vhost;
use backbone_wire::table::Table;
use serde_json::{Map, Value as Json};

use super::json::object;
use super::{Engine, EngineError, Queue};

/// A queue at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueInfo {
    /// The vhost that it is in.
    pub vhost: Arc<str>,
    /// Its name; an alias is none.
    pub name: Arc<str>,
    /// Survives a restart.
    pub durable: bool,
    /// Goes when its last consumer goes.
    pub auto_delete: bool,
    /// The number of the connection that it belongs to.
    pub owner: Option<u64>,
    /// classic, quorum or stream.
    pub kind: &'static str,
    /// The declare's arguments; see [`object`].
    pub arguments: Map<String, Json>,
    /// The policy that counts for it.
    pub policy: Option<String>,
    /// The operators' policy that counts for it.
    pub operator_policy: Option<String>,
    /// What these set, as one policy would say it.
    pub policy_definition: Map<String, Json>,
    /// How safe a persistent message in it is before it is confirmed: a level's name.
    pub durability: &'static str,
    /// What is in it.
    pub stats: QueueStats,
    /// What it remembers, if it drops messages that came before.
    pub deduplication: Option<Deduplication>,
}

impl Engine {
    /// The queues of a vhost, or of all, by vhost and name; `None` when there is no such vhost.
    pub fn queue_infos(&self, vhost: Option<&str>) -> Option<Vec<QueueInfo>> {
        let vhosts = self.vhosts_named(vhost)?;
        let mut all = Vec::new();
        for vhost in vhosts {
            let queues = vhost.topology().queues();
            let mut infos: Vec<_> = queues.iter().map(|it| describe(&vhost, it)).collect();
            infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            all.append(&mut infos);
        }
        Some(all)
    }

    /// Pauses a queue of the bus's vhost, so that it hands out nothing, or has it go on. A durable queue stays so from the
    /// return on, whatever happens.
    ///
    /// # Errors
    /// The log takes no changes; the queue is deleted.
    pub async fn pause_queue(&self, queue: &Arc<Queue>, paused: bool) -> Result<(), EngineError> {
        let vhost = &self.0.vhost;
        vhost.pause_queue(queue, paused)?;
        self.kept(vhost.changes_promise()).await
    }

    /// The queue of a name or an alias; `None` when there is no such queue or vhost.
    pub fn queue_info(&self, vhost: &str, name: &str) -> Option<QueueInfo> {
        let vhost = self.0.vhosts.get(vhost)?;
        let queue = vhost.topology().queue(name)?;
        Some(describe(&vhost, &queue))
    }
}

fn describe(vhost: &Vhost, queue: &Queue) -> QueueInfo {
    let options = queue.options();
    // They were checked when they came.
    let arguments = Table::from_bytes(&options.arguments).unwrap_or(Table::EMPTY);
    let chosen = vhost.policies_of(queue);
    let policy_definition = merged(&chosen);
    let name = |policy: Option<Arc<Policy>>| policy.map(|it| it.definition.name.clone());
    QueueInfo {
        policy_definition,
        policy: name(chosen.user),
        operator_policy: name(chosen.operator),
        vhost: Arc::clone(vhost.name()),
        name: Arc::clone(queue.name()),
        durable: options.durable,
        auto_delete: options.auto_delete,
        owner: options.owner,
        kind: queue.kind().name(),
        arguments: object(arguments),
        durability: queue.level().name(),
        stats: queue.stats(),
        deduplication: queue.deduplication(),
    }
}

/// What policies set, under the names that they have there.
fn merged(chosen: &Chosen) -> Map<String, Json> {
    if chosen.user.is_none() && chosen.operator.is_none() {
        return Map::new();
    }
    let arguments = object(effective(Table::EMPTY, chosen).as_table());
    let settings = arguments.into_iter();
    settings
        .map(|(name, value)| (name.trim_start_matches("x-").to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn a_paused_queue_takes_what_comes_and_gives_nothing_but_to_operators() {
        let engine = Engine::for_tests(1 << 30);
        let queue = engine.declare_queue("q", true).unwrap();
        let message = crate::engine::Outgoing::default();
        for paused in [true, false] {
            engine.pause_queue(&queue, paused).await.unwrap();
            engine.publish(&queue, &message).unwrap();
            let stats = engine.queue_info("/", "q").unwrap().stats;
            assert_eq!((stats.paused, stats.ready), (paused, 2 - u64::from(paused)));
            let taken = engine.take(&queue, 10, 1 << 20);
            assert_eq!(taken.len(), if paused { 0 } else { 2 });
        }
    }

    #[test]
    fn queues_are_listed_by_name_and_aliases_lead_to_them() {
        let engine = Engine::for_tests(1 << 30);
        for name in ["b", "a"] {
            engine.declare_queue(name, true).unwrap();
        }
        assert!(engine.alias_queue("c", &engine.queue("b").unwrap()));
        let names = |vhost| {
            let infos = engine.queue_infos(vhost)?;
            Some(infos.iter().map(|it| it.name.to_string()).collect())
        };
        let both: Option<Vec<_>> = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!((names(None), names(Some("/"))), (both.clone(), both));
        assert_eq!(names(Some("none")), None);
        let by_alias = engine.queue_info("/", "c");
        assert_eq!(by_alias.as_ref(), engine.queue_info("/", "b").as_ref());
        assert!(by_alias.is_some());
        assert_eq!(engine.queue_info("none", "b"), None);
        assert_eq!(engine.queue_info("/", "none"), None);
    }
}
