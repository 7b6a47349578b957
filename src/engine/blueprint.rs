//! Exchanges, queues and bindings as operators write them down: read off a vhost, tried on paper, and built.
//!
//! Whether something can be built is found out by building it: a [`Sketch`] is a vhost in memory alone, with what the real one
//! has, so that both ask the same questions. Nothing is ever deleted, and what is there stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backbone_broker::topology::{ExchangeInfo, ExchangeSpec};
use backbone_broker::vhost::{QueueDeclare, Vhost};
use serde_json::{Map, Value as Json};

use super::json::{object_of, table};
use super::{Author, Engine, EngineError, Policy, VhostDefinition};

/// An exchange as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangePlan {
    /// Its name.
    pub name: String,
    /// How it routes, by AMQP's name.
    pub kind: String,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with the last binding from it.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// The declare's arguments.
    pub arguments: Map<String, Json>,
}

/// A queue as it is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePlan {
    /// Its name.
    pub name: String,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// The declare's arguments.
    pub arguments: Map<String, Json>,
}

/// A binding as it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingPlan {
    /// The exchange that it leads from.
    pub source: String,
    /// The queue or exchange that it leads to.
    pub destination: String,
    /// Whether it leads to an exchange.
    pub to_exchange: bool,
    /// Routing key or pattern.
    pub key: String,
    /// The arguments.
    pub arguments: Map<String, Json>,
}

/// What a vhost has, but what the bus made for itself, and what is of one connection.
#[derive(Debug, Default)]
pub struct Blueprint {
    /// Those that every vhost has are left out.
    pub exchanges: Vec<ExchangePlan>,
    /// By name.
    pub queues: Vec<QueuePlan>,
    /// Between those above, and from exchanges that every vhost has.
    pub bindings: Vec<BindingPlan>,
}

/// Vhosts on paper.
pub struct Sketch<'a> {
    engine: &'a Engine,
    vhosts: BTreeMap<String, Vhost>,
}

impl Engine {
    /// An empty sheet.
    pub fn sketch(&self) -> Sketch<'_> {
        Sketch {
            engine: self,
            vhosts: BTreeMap::new(),
        }
    }

    /// What a vhost has; `None` when there is no such vhost.
    pub fn blueprint(&self, vhost: &str) -> Option<Blueprint> {
        let vhost = self.0.vhosts.get(vhost)?;
        let mut queues = Vec::new();
        for queue in vhost.topology().queues() {
            let options = queue.options();
            if options.owner.is_none() && !options.protected {
                queues.push(QueuePlan {
                    name: queue.name().to_string(),
                    durable: options.durable,
                    auto_delete: options.auto_delete,
                    arguments: object_of(&options.arguments),
                });
            }
        }
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        let mut exchanges = vhost.topology().list_exchanges();
        let names: BTreeSet<_> = exchanges.iter().map(|it| it.name.clone()).collect();
        exchanges.retain(|it| !is_everywhere(&it.name));
        let leads_somewhere = |to_exchange: bool, name: &str| match to_exchange {
            true => names.contains(name),
            false => queues.binary_search_by(|it| (*it.name).cmp(name)).is_ok(),
        };
        let mut bindings = vhost.topology().list_bindings();
        bindings.retain(|it| leads_somewhere(it.to_exchange, &it.destination));
        let bindings = bindings.into_iter().map(|it| BindingPlan {
            source: it.source,
            destination: it.destination,
            to_exchange: it.to_exchange,
            key: String::from_utf8_lossy(&it.key).into_owned(),
            arguments: object_of(&it.arguments),
        });
        Some(Blueprint {
            exchanges: exchanges.iter().map(plan).collect(),
            bindings: bindings.collect(),
            queues,
        })
    }

    /// Makes an exchange that is not there. True: it was not.
    ///
    /// # Errors
    /// It cannot be, or the log takes nothing. So it is with the following.
    pub fn build_exchange(&self, vhost: &str, plan: &ExchangePlan) -> Result<bool, EngineError> {
        let vhost = self.vhost_to_build_in(vhost)?;
        if vhost.topology().kind(plan.name.as_bytes()).is_some() {
            return Ok(false);
        }
        declare_exchange(&vhost, plan)?;
        Ok(true)
    }

    /// Makes a queue that is not there, whatever the vhost's limits say. True: it was not.
    ///
    /// # Errors
    /// As above.
    pub fn build_queue(&self, vhost: &str, plan: &QueuePlan) -> Result<bool, EngineError> {
        let vhost = self.vhost_to_build_in(vhost)?;
        with_declare(plan, |declare| Ok(vhost.define_queue(declare)?))
    }

    /// Makes a binding that is not there.
    ///
    /// # Errors
    /// As above.
    pub fn build_binding(&self, vhost: &str, plan: &BindingPlan) -> Result<(), EngineError> {
        bind(&*self.vhost_to_build_in(vhost)?, plan)
    }

    /// Puts a policy into its vhost. True: there was none of its author and name.
    ///
    /// # Errors
    /// As above.
    pub fn build_policy(&self, author: Author, policy: Policy) -> Result<bool, EngineError> {
        let vhost = self.vhost_to_build_in(&policy.definition.vhost)?;
        Ok(vhost.put_policy(author, policy)?)
    }

    /// Changes what is said of a vhost.
    ///
    /// # Errors
    /// As above.
    pub fn redefine_vhost(
        &self,
        vhost: &str,
        edit: impl FnOnce(&mut VhostDefinition),
    ) -> Result<(), EngineError> {
        Ok(self.vhost_to_build_in(vhost)?.redefine(edit)?)
    }

    /// Waits until everything that was built in a vhost is as safe as its level says.
    ///
    /// # Errors
    /// The log failed meanwhile.
    pub async fn built(&self, vhost: &str) -> Result<(), EngineError> {
        match self.0.vhosts.get(vhost) {
            Some(vhost) => self.kept(vhost.changes_promise()).await,
            None => Ok(()),
        }
    }

    fn vhost_to_build_in(&self, name: &str) -> Result<Arc<Vhost>, EngineError> {
        let vhost = self.0.vhosts.get(name);
        vhost.ok_or_else(|| EngineError::NoVhost(name.to_owned()))
    }
}

impl Sketch<'_> {
    /// Draws an exchange. If there is one of that name with other properties, which stays, says how they differ.
    ///
    /// # Errors
    /// It cannot be.
    pub fn exchange(
        &mut self,
        vhost: &str,
        plan: &ExchangePlan,
    ) -> Result<Option<String>, EngineError> {
        let vhost = self.vhost(vhost);
        let known = vhost.topology().kind(plan.name.as_bytes()).is_some();
        differs(known, declare_exchange(vhost, plan))
    }

    /// Draws a queue, with the same answers.
    ///
    /// # Errors
    /// It cannot be.
    pub fn queue(&mut self, vhost: &str, plan: &QueuePlan) -> Result<Option<String>, EngineError> {
        let vhost = self.vhost(vhost);
        let known = vhost.topology().queue(&plan.name);
        let drawn = with_declare(plan, |declare| match &known {
            Some(queue) => Ok(vhost.check_equivalent(queue, &declare)?),
            None => Ok(vhost.define_queue(declare).map(drop)?),
        });
        differs(known.is_some(), drawn)
    }

    /// Draws a binding.
    ///
    /// # Errors
    /// It cannot be.
    pub fn binding(&mut self, vhost: &str, plan: &BindingPlan) -> Result<(), EngineError> {
        bind(self.vhost(vhost), plan)
    }

    /// The paper for a vhost, with what the real one has, if it is there.
    fn vhost(&mut self, name: &str) -> &Vhost {
        let live = &self.engine.0.vhosts;
        self.vhosts.entry(name.to_owned()).or_insert_with(|| {
            let paper = Vhost::new(name, 0, Arc::default());
            let Some(live) = live.get(name) else {
                return paper;
            };
            let topology = paper.topology();
            for it in live.topology().list_exchanges() {
                if !is_everywhere(&it.name) {
                    let drawn = declare_exchange(&paper, &plan(&it));
                    debug_assert!(drawn.is_ok(), "what is there can be there: {drawn:?}");
                }
            }
            for queue in live.topology().queues() {
                topology.add_queue(queue.name(), queue.id(), Arc::clone(&queue));
            }
            paper
        })
    }
}

/// Whether every vhost has an exchange of that name from the start.
fn is_everywhere(exchange: &str) -> bool {
    exchange.is_empty() || exchange.starts_with("amq.")
}

fn plan(info: &ExchangeInfo) -> ExchangePlan {
    ExchangePlan {
        name: info.name.clone(),
        kind: info.kind.name().to_owned(),
        durable: info.durable,
        auto_delete: info.auto_delete,
        internal: info.internal,
        arguments: object_of(&info.arguments),
    }
}

/// What is refused of something that is there already is only a difference to it.
fn differs(known: bool, drawn: Result<(), EngineError>) -> Result<Option<String>, EngineError> {
    match drawn {
        Err(EngineError::Broker(error)) if known => Ok(Some(error.text)),
        other => other.map(|()| None),
    }
}

fn declare_exchange(vhost: &Vhost, plan: &ExchangePlan) -> Result<(), EngineError> {
    let arguments = table(&plan.arguments)?;
    let spec = ExchangeSpec {
        name: &plan.name,
        kind: &plan.kind,
        passive: false,
        durable: plan.durable,
        auto_delete: plan.auto_delete,
        internal: plan.internal,
        arguments: arguments.as_table(),
    };
    Ok(vhost.declare_exchange(&spec)?)
}

fn with_declare<R>(
    plan: &QueuePlan,
    declare: impl FnOnce(QueueDeclare<'_>) -> Result<R, EngineError>,
) -> Result<R, EngineError> {
    let arguments = table(&plan.arguments)?;
    declare(QueueDeclare {
        name: &plan.name,
        passive: false,
        durable: plan.durable,
        exclusive: false,
        auto_delete: plan.auto_delete,
        arguments: arguments.as_table(),
        protected: false,
        lenient: false,
    })
}

fn bind(vhost: &Vhost, plan: &BindingPlan) -> Result<(), EngineError> {
    let arguments = table(&plan.arguments)?;
    let arguments = arguments.as_table();
    let (source, destination, key) = (&plan.source, &plan.destination, plan.key.as_bytes());
    match plan.to_exchange {
        true => vhost.bind_exchange(destination, source, key, arguments)?,
        false => vhost.bind_queue(destination, source, key, arguments)?,
    }
    Ok(())
}
