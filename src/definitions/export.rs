//! Taking definitions out, in the form of RabbitMQ 3.10.

use serde_json::{Map, Value, json};

use super::{Definitions, DefinitionsError};
use crate::auth::User;
use crate::engine::{Author, Blueprint};

/// The release whose form this is; readers go by it.
const FORM_OF: &str = "3.10.8";

impl Definitions {
    /// Everything but messages, the bus's clients and the queues that they have.
    ///
    /// # Errors
    /// The state store failed.
    pub async fn export(&self) -> Result<Value, DefinitionsError> {
        let vhosts = self.engine.vhosts();
        let names: Vec<_> = vhosts
            .iter()
            .map(|it| it.definition.name.as_str())
            .collect();
        let vhosts: Vec<_> = vhosts
            .iter()
            .map(|it| {
                let (description, tags) = (&it.definition.description, &it.definition.tags);
                json!({
                    "name": it.definition.name, "description": description, "tags": tags,
                    "metadata": {"description": description, "tags": tags},
                })
            })
            .collect();
        let users = self.auth.users();
        let (mut permissions, mut topic_permissions) = (Vec::new(), Vec::new());
        for (vhost, user, grant) in users.grants() {
            if let Some(it) = &grant.permission {
                permissions.push(json!({
                    "user": user, "vhost": vhost, "configure": it.configure, "write": it.write, "read": it.read,
                }));
            }
            for it in &grant.topics {
                topic_permissions.push(json!({
                    "user": user, "vhost": vhost, "exchange": it.exchange, "write": it.write, "read": it.read,
                }));
            }
        }
        let globals = self.globals().await?.into_iter();
        let globals = globals.map(|(name, value)| json!({"name": name, "value": value}));
        let mut all = head();
        all.insert(
            "users".into(),
            users.list().iter().map(|it| user(it)).collect(),
        );
        all.insert("vhosts".into(), vhosts.into());
        all.insert("permissions".into(), permissions.into());
        all.insert("topic_permissions".into(), topic_permissions.into());
        all.insert("global_parameters".into(), globals.collect());
        self.add_vhosts(&names, true, &mut all);
        Ok(all.into())
    }

    /// What belongs to a vhost; `None` when there is no such vhost.
    pub fn export_vhost(&self, vhost: &str) -> Option<Value> {
        if !self.engine.has_vhost(vhost) {
            return None;
        }
        let mut all = head();
        self.add_vhosts(&[vhost], false, &mut all);
        Some(all.into())
    }

    fn add_vhosts(&self, vhosts: &[&str], named: bool, all: &mut Map<String, Value>) {
        let wanted = |vhost: &str| vhosts.contains(&vhost);
        let parameters = self.parameters().into_iter();
        let parameters = parameters.filter(|it| wanted(&it.vhost)).map(|it| {
            json!({"vhost": it.vhost, "component": it.component, "name": it.name, "value": it.value})
        });
        all.insert("parameters".into(), parameters.collect());
        let policies = self.engine.policies(Author::User);
        let policies = policies.iter().map(|it| &it.definition);
        let policies = policies.filter(|it| wanted(&it.vhost)).map(|it| json!(it));
        all.insert("policies".into(), policies.collect());
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for vhost in vhosts {
            // It may have gone since.
            let blueprint = self.engine.blueprint(vhost).unwrap_or_default();
            for (list, items) in lists.iter_mut().zip(topology(&blueprint)) {
                for mut item in items {
                    if let (true, Some(fields)) = (named, item.as_object_mut()) {
                        fields.insert("vhost".into(), json!(vhost));
                    }
                    list.push(item);
                }
            }
        }
        for (name, list) in ["exchanges", "queues", "bindings"].into_iter().zip(lists) {
            all.insert(name.into(), list.into());
        }
    }
}

/// Whose words these are.
fn head() -> Map<String, Value> {
    let head = [
        ("rabbit_version", FORM_OF),
        ("rabbitmq_version", FORM_OF),
        ("product_name", "Backbone"),
        ("product_version", env!("CARGO_PKG_VERSION")),
    ];
    head.into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

fn user(user: &User) -> Value {
    let (hash, algorithm) = user.password_hash().unwrap_or_default();
    let algorithm = match algorithm {
        // Without a password, as RabbitMQ says it.
        "" => "rabbit_password_hashing_sha256",
        algorithm => algorithm,
    };
    json!({
        "name": &*user.name, "password_hash": hash, "hashing_algorithm": algorithm, "tags": user.tag_names,
        "limits": user.limits,
    })
}

/// Exchanges, queues and bindings.
fn topology(blueprint: &Blueprint) -> [Vec<Value>; 3] {
    let exchanges = blueprint.exchanges.iter().map(|it| {
        json!({
            "name": it.name, "type": it.kind, "durable": it.durable, "auto_delete": it.auto_delete,
            "internal": it.internal, "arguments": it.arguments,
        })
    });
    let queues = blueprint.queues.iter().map(|it| {
        json!({"name": it.name, "durable": it.durable, "auto_delete": it.auto_delete, "arguments": it.arguments})
    });
    let bindings = blueprint.bindings.iter().map(|it| {
        json!({
            "source": it.source, "destination": it.destination, "routing_key": it.key, "arguments": it.arguments,
            "destination_type": if it.to_exchange { "exchange" } else { "queue" },
        })
    });
    [exchanges.collect(), queues.collect(), bindings.collect()]
}
