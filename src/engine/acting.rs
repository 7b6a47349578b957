//! A user at work in a vhost, as over AMQP: the same checks, the same refusals. What is changed is as safe as the vhost's level
//! says when the call returns.

use std::sync::Arc;

use backbone_broker::Error;
use backbone_broker::access::Access;
use backbone_broker::acting::Acting as Allowed;
use backbone_broker::publisher::Origin;
use backbone_broker::queue::DeleteIf;
use backbone_broker::topology::ExchangeSpec;
use backbone_broker::vhost::{QueueDeclare, Vhost};
use backbone_wire::error::ReplyCode;
use backbone_wire::table::{Table, TableBuf};
use serde_json::{Map, Value};

use super::bindings::BindingInfo;
use super::json::table;
use super::{Engine, EngineError, ExchangeKind, NO_CONNECTION};

/// A user in a vhost.
pub struct Acting {
    pub(super) engine: Engine,
    pub(super) vhost: Arc<Vhost>,
    pub(super) origin: Origin,
}

/// Why the broker refuses a user what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// 403.
    #[error("ACCESS_REFUSED - {0}")]
    Access(String),
    /// 404.
    #[error("NOT_FOUND - {0}")]
    NotFound(String),
    /// Any other reply code.
    #[error("{0} {1}")]
    Other(u16, Error),
    /// The arguments or properties cannot be those of AMQP.
    #[error("{0}")]
    Values(String),
    /// Not now.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Refusal {
    /// What is wrong, without AMQP's code.
    pub fn text(&self) -> String {
        match self {
            Self::Access(text) | Self::NotFound(text) | Self::Values(text) => text.clone(),
            Self::Other(_, error) => error.text.clone(),
            Self::Engine(error) => error.to_string(),
        }
    }

    /// AMQP's code, if it has one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Access(_) => Some(403),
            Self::NotFound(_) => Some(404),
            Self::Other(code, _) => Some(*code),
            Self::Values(_) | Self::Engine(_) => None,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.code {
            ReplyCode::AccessRefused => Self::Access(error.text),
            ReplyCode::NotFound => Self::NotFound(error.text),
            // The log takes nothing, or the vhost has just been deleted: nothing that a caller could put right.
            ReplyCode::InternalError => Self::Engine(error.into()),
            code => Self::Other(code.code(), error),
        }
    }
}

/// An exchange as it is to be.
#[derive(Debug, Clone, Default)]
pub struct NewExchange {
    /// How it routes.
    pub kind: String,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with the last binding from it.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A queue as it is to be.
#[derive(Debug, Clone, Default)]
pub struct NewQueue {
    /// Survives a restart.
    pub durable: bool,
    /// Goes when its last consumer goes.
    pub auto_delete: bool,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// The ends of a binding.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// The exchange that it leads from.
    pub source: &'a str,
    /// Where it leads.
    pub destination: &'a str,
    /// Whether that is an exchange; else it is a queue.
    pub to_exchange: bool,
}

impl Engine {
    /// `user`, who may do in `vhost` what `access` says; `None`: there is no such vhost.
    pub fn acting(&self, vhost: &str, user: &Arc<str>, access: Access) -> Option<Acting> {
        Some(Acting {
            engine: self.clone(),
            vhost: self.0.vhosts.get(vhost)?,
            origin: Origin {
                user: Arc::clone(user),
                access,
            },
        })
    }
}

impl Acting {
    pub(super) fn allowed(&self) -> Allowed<'_> {
        Allowed::new(&self.vhost, &self.origin, NO_CONNECTION)
    }

    async fn settled(&self) -> Result<(), Refusal> {
        Ok(self.engine.kept(self.vhost.changes_promise()).await?)
    }

    /// Declares an exchange. True: it is new.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn put_exchange(&self, name: &str, new: &NewExchange) -> Result<bool, Refusal> {
        check_short(name)?;
        let arguments = arguments(&new.arguments)?;
        if ExchangeKind::parse(&new.kind).is_err() {
            let text = format!("invalid exchange type '{}'", new.kind);
            return Err(Refusal::Values(text));
        }
        let was_there = self.allowed().has_exchange(name);
        self.allowed().declare_exchange(&ExchangeSpec {
            name,
            kind: &new.kind,
            passive: false,
            durable: new.durable,
            auto_delete: new.auto_delete,
            internal: new.internal,
            arguments: arguments.as_table(),
        })?;
        self.settled().await?;
        Ok(!was_there)
    }

    /// Deletes an exchange. False: there is none.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn delete_exchange(&self, name: &str, if_unused: bool) -> Result<bool, Refusal> {
        let was_there = self.allowed().has_exchange(name);
        self.allowed().delete_exchange(name, if_unused)?;
        self.settled().await?;
        Ok(was_there)
    }

    /// Declares a queue. True: it is new.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn put_queue(&self, name: &str, new: &NewQueue) -> Result<bool, Refusal> {
        check_short(name)?;
        let arguments = arguments(&new.arguments)?;
        let was_there = self.allowed().has_queue(name);
        self.vhost.tell_time(super::now_ms());
        self.allowed().declare_queue(QueueDeclare {
            name,
            passive: false,
            durable: new.durable,
            exclusive: false,
            auto_delete: new.auto_delete,
            arguments: arguments.as_table(),
            protected: false,
            lenient: false,
        })?;
        self.settled().await?;
        Ok(!was_there)
    }

    /// Whether there is a queue of that name.
    pub fn has_queue(&self, name: &str) -> bool {
        self.allowed().has_queue(name)
    }

    /// Deletes a queue. False: there is none.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn delete_queue(
        &self,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<bool, Refusal> {
        let was_there = self.allowed().has_queue(name);
        let condition = DeleteIf {
            unused: if_unused,
            empty: if_empty,
        };
        self.allowed().delete_queue(name, condition)?;
        self.settled().await?;
        Ok(was_there)
    }

    /// Pauses a queue, so that it hands out nothing, or has it go on.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn pause_queue(&self, queue: &str, paused: bool) -> Result<(), Refusal> {
        self.allowed().pause_queue(queue, paused)?;
        self.settled().await
    }

    /// Drops the ready messages of a queue; says how many.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn purge(&self, queue: &str) -> Result<u64, Refusal> {
        let count = self.allowed().purge(queue)?;
        self.settled().await?;
        Ok(count)
    }

    /// Binds; a binding that is there stays as it is. Returns the arguments as they are kept.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn bind(
        &self,
        ends: Ends<'_>,
        key: &str,
        given: &Map<String, Value>,
    ) -> Result<BindingInfo, Refusal> {
        check_short(key)?;
        let arguments = arguments(given)?;
        let table = arguments.as_table();
        let allowed = self.allowed();
        self.vhost.tell_time(super::now_ms());
        match ends.to_exchange {
            true => {
                allowed.bind_exchange(ends.destination, ends.source, key.as_bytes(), table)?;
            }
            false => allowed.bind_queue(ends.destination, ends.source, key.as_bytes(), table)?,
        }
        self.settled().await?;
        Ok(BindingInfo {
            vhost: Arc::clone(self.vhost.name()),
            source: ends.source.to_owned(),
            destination: ends.destination.to_owned(),
            to_exchange: ends.to_exchange,
            key: key.as_bytes().to_vec(),
            arguments: given.clone(),
            arguments_raw: table.as_bytes().to_vec(),
        })
    }

    /// Ends a binding; one that is gone counts as ended.
    ///
    /// # Errors
    /// As over AMQP.
    pub async fn unbind(&self, binding: &BindingInfo) -> Result<(), Refusal> {
        let (to, from, key) = (&binding.destination, &binding.source, &binding.key);
        let arguments = Table::from_bytes(&binding.arguments_raw).unwrap_or(Table::EMPTY);
        let allowed = self.allowed();
        match binding.to_exchange {
            true => allowed.unbind_exchange(to, from, key, arguments)?,
            false => allowed.unbind_queue(to, from, key, arguments)?,
        }
        self.settled().await
    }
}

/// That AMQP can say a name or a routing key.
pub(super) fn check_short(text: &str) -> Result<(), Refusal> {
    match text.len() {
        0..=255 => Ok(()),
        _ => Err(Refusal::Values(
            "a name or a routing key is longer than 255 bytes".into(),
        )),
    }
}

fn arguments(given: &Map<String, Value>) -> Result<TableBuf, Refusal> {
    table(given).map_err(|error| Refusal::Values(error.to_string()))
}
