//! Exchanges: their kinds, how they are declared, and when a second declaration is the same as the first.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use backbone_wire::table::{Table, Value};

use super::arguments::{check_equivalent, check_same};
use super::headers::Match;
use super::pick::{HashBy, check_weight};
use super::plain::plain_table;
use super::snapshot::Routes;
use crate::dedup::{self, Dedup};
use crate::definitions::ExchangeDefinition;
use crate::error::{Error, Resource};
use crate::history;
use crate::policy::{Policies, Policy};
use crate::queue::arguments::check_dedup;

/// The argument that names where unroutable messages go.
const ALTERNATE_EXCHANGE: &str = "alternate-exchange";
/// The argument that says how a delayed exchange routes.
const DELAYED_TYPE: &str = "x-delayed-type";
/// Names beginning so are the broker's own.
const RESERVED_PREFIX: &str = "amq.";

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// To bindings whose key equals the message's.
    Direct,
    /// To all bindings.
    Fanout,
    /// To bindings whose pattern matches the message's key word by word.
    Topic,
    /// To bindings whose arguments match the message's headers.
    Headers,
    /// To one destination, by a hash of the key, a header or a property, and the weights in the bindings' keys.
    ConsistentHash,
    /// To the destination of one binding, by a hash of the key.
    ModulusHash,
    /// To the destination of any one binding.
    Random,
    /// As the type that its argument `x-delayed-type` names; what wants to waits before that ([`crate::delay`]).
    Delayed,
    /// To all bindings; what came last goes to new ones, too ([`crate::history`]).
    RecentHistory,
    /// To all bindings, what did not come before ([`crate::dedup`]).
    Deduplication,
}

impl ExchangeKind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::Delayed,
        Self::RecentHistory,
        Self::Deduplication,
    ];

    /// The type as `exchange.declare` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::Delayed => "x-delayed-message",
            Self::RecentHistory => "x-recent-history",
            Self::Deduplication => "x-message-deduplication",
        }
    }

    /// Reads the type of an `exchange.declare`.
    ///
    /// # Errors
    /// 503 `unknown exchange type 'zzz'`, which closes the connection.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.iter().copied();
        known
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::command_invalid(format!("unknown exchange type '{name}'")))
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `exchange.declare` asks for.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeSpec<'a> {
    /// The name as received. CR and LF are taken out: [`clean_name`] tells what is left.
    pub name: &'a str,
    /// The type as received. Not looked at in a passive declaration.
    pub kind: &'a str,
    /// Only ask whether the exchange is there; nothing else is compared.
    pub passive: bool,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with the last binding from it.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// `alternate-exchange` means something; all else is kept as it came.
    pub arguments: Table<'a>,
}

/// A name as exchanges and queues are declared under: without CR and LF, as RabbitMQ 3 does it. Borrows when
/// there is nothing to take out.
pub fn clean_name(name: &str) -> Cow<'_, str> {
    if name.contains(['\r', '\n']) {
        Cow::Owned(name.replace(['\r', '\n'], ""))
    } else {
        Cow::Borrowed(name)
    }
}

/// Refuses an operation on the default exchange.
///
/// # Errors
/// 403 `operation not permitted on the default exchange`.
pub(crate) fn check_not_default(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::access_refused(
            "operation not permitted on the default exchange",
        ));
    }
    Ok(())
}

/// Refuses to delete what is the broker's own, there or not.
///
/// # Errors
/// 403 `deletion of system exchange 'amq.direct' in vhost '/' not allowed`.
pub(crate) fn check_deletable(name: &str, vhost: &str) -> Result<(), Error> {
    check_not_default(name)?;
    if name.starts_with(RESERVED_PREFIX) {
        return Err(Error::access_refused(format!(
            "deletion of system {} not allowed",
            Resource::exchange(name, vhost)
        )));
    }
    Ok(())
}

/// Checks the name and arguments of an exchange that is not there yet.
///
/// # Errors
/// 403 for a reserved name, 406 for an `alternate-exchange` that is no string, for what a consistent-hash exchange
/// cannot hash, for a delayed exchange that does not say how it routes, and for one that is to keep no positive number of messages; 503 if it does not exist.
pub(super) fn check_new(
    name: &str,
    kind: ExchangeKind,
    arguments: Table<'_>,
    vhost: &str,
) -> Result<(), Error> {
    if name.starts_with(RESERVED_PREFIX) {
        return Err(Error::access_refused(format!(
            "exchange name '{name}' contains reserved prefix 'amq.*'"
        )));
    }
    match routes_as(kind, arguments)? {
        ExchangeKind::ConsistentHash => HashBy::check(arguments)?,
        ExchangeKind::RecentHistory => history::length(arguments).map(drop)?,
        ExchangeKind::Deduplication if arguments.get(dedup::SIZE).is_none() => {
            return Err(Error::precondition_failed(format!(
                "Missing or invalid argument, '{}' must be an integer greater than 0",
                dedup::SIZE
            )));
        }
        _ => {}
    }
    check_dedup(Resource::exchange(name, vhost), arguments)?;
    match arguments.get(ALTERNATE_EXCHANGE) {
        None | Some(Value::LongStr(_)) => Ok(()),
        Some(value) => Err(Error::precondition_failed(format!(
            "invalid type '{}' for arg '{ALTERNATE_EXCHANGE}' in {}",
            value.type_name(),
            Resource::exchange(name, vhost)
        ))),
    }
}

/// How an exchange of this type routes.
///
/// # Errors
/// 406 for a delayed exchange that does not say it, 503 for an unknown type.
fn routes_as(kind: ExchangeKind, arguments: Table<'_>) -> Result<ExchangeKind, Error> {
    if kind != ExchangeKind::Delayed {
        return Ok(kind);
    }
    let named = arguments.get(DELAYED_TYPE);
    match named
        .and_then(|name| name.as_str())
        .map(ExchangeKind::parse)
    {
        // It has one store of its own.
        Some(Ok(ExchangeKind::Delayed | ExchangeKind::RecentHistory)) | None => {
            Err(Error::precondition_failed(format!(
                "Invalid argument, '{DELAYED_TYPE}' must be an existing exchange type"
            )))
        }
        Some(kind) => kind,
    }
}

/// What an exchange was declared with, but its name. Never changes.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) kind: ExchangeKind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    /// The bytes of the arguments' table, which was well-formed.
    pub(super) arguments: Box<[u8]>,
}

impl Declared {
    pub(super) fn new(kind: ExchangeKind, spec: &ExchangeSpec<'_>) -> Self {
        Self {
            kind,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            arguments: spec.arguments.as_bytes().into(),
        }
    }

    /// Checks the key and the arguments of a new binding from it.
    ///
    /// # Errors
    /// 406 for a bad `x-match`, or a key that is no weight.
    pub(super) fn check_binding(&self, key: &[u8], arguments: Table<'_>) -> Result<(), Error> {
        match self.routes_as() {
            ExchangeKind::Headers => Match::check(arguments),
            ExchangeKind::ConsistentHash => check_weight(key),
            _ => Ok(()),
        }
    }

    /// How it routes what does not wait, or not any more.
    pub(super) fn routes_as(&self) -> ExchangeKind {
        routes_as(self.kind, self.arguments()).unwrap_or(self.kind)
    }

    /// What a consistent-hash exchange hashes.
    pub(super) fn hash_by(&self) -> HashBy {
        HashBy::of(self.arguments())
    }

    /// As the log keeps it.
    pub(super) fn definition(
        &self,
        vhost: &str,
        name: &str,
        store: Option<u64>,
    ) -> ExchangeDefinition {
        ExchangeDefinition {
            store,
            vhost: vhost.into(),
            name: name.into(),
            kind: self.kind.name().into(),
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.to_vec(),
        }
    }

    pub(super) fn arguments(&self) -> Table<'_> {
        Table::assume_checked(&self.arguments)
    }

    /// Checks that a second declaration asks for what is there.
    ///
    /// # Errors
    /// 406 `inequivalent arg 'type' for exchange 'x' in vhost '/': …` for the first difference.
    pub(super) fn check_equivalent(
        &self,
        received: &Self,
        resource: Resource<'_>,
    ) -> Result<(), Error> {
        check_same("type", resource, self.kind, received.kind)?;
        check_same("durable", resource, self.durable, received.durable)?;
        check_same(
            "auto_delete",
            resource,
            self.auto_delete,
            received.auto_delete,
        )?;
        check_same("internal", resource, self.internal, received.internal)?;
        let (current, received) = (self.arguments(), received.arguments());
        let also = (self.kind == ExchangeKind::Delayed).then_some(DELAYED_TYPE);
        let names = [ALTERNATE_EXCHANGE].into_iter().chain(also);
        for name in names.chain(dedup::ALL) {
            check_equivalent(name, resource, current.get(name), received.get(name))?;
        }
        Ok(())
    }

    /// What it is to remember, if it drops repeats.
    fn dedup(&self) -> Option<Dedup> {
        match self.routes_as() {
            ExchangeKind::Deduplication => Some(Dedup::with(self.arguments())),
            _ => Dedup::of(self.arguments()),
        }
    }

    /// How bindings of a headers exchange match that do not say it themselves.
    pub(super) fn default_match(&self) -> Match {
        Match::of(&plain_table(self.arguments())).unwrap_or_default()
    }
}

/// A queue that is an exchange's own: nobody can name it.
#[derive(Debug, Clone)]
pub(crate) struct Store<T> {
    pub id: u64,
    pub handle: T,
}

/// What publishers see of an exchange. Lives as long as the exchange; its routes are compiled by the first
/// publisher after a change.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// Never used again, unlike the name.
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) kind: ExchangeKind,
    pub(super) internal: bool,
    /// Where messages wait that want to, or what came last is kept.
    pub(super) store: Option<Store<T>>,
    /// What it remembers, if it drops repeats.
    pub(super) dedup: Option<Arc<Dedup>>,
    /// Where messages go that match no binding, by the declaration.
    alternate: Option<Arc<str>>,
    /// The same by a policy, which counts if the declaration does not say it.
    alternate_by_policy: ArcSwapOption<Arc<str>>,
    /// `None`: the bindings have changed since the last message.
    pub(super) routes: ArcSwapOption<Routes<T>>,
}

impl<T> Slot<T> {
    pub(super) fn new(
        id: u64,
        name: Arc<str>,
        declared: &Declared,
        store: Option<Store<T>>,
    ) -> Self {
        let alternate = declared.arguments().get(ALTERNATE_EXCHANGE);
        Self {
            id,
            name,
            kind: declared.kind,
            internal: declared.internal,
            store,
            dedup: declared.dedup().map(Arc::new),
            alternate: alternate.and_then(|value| value.as_str()).map(Arc::from),
            alternate_by_policy: ArcSwapOption::empty(),
            routes: ArcSwapOption::empty(),
        }
    }

    /// Where messages go that match no binding.
    pub(super) fn alternate(&self) -> Option<Arc<str>> {
        let by_policy = || self.alternate_by_policy.load().as_deref().cloned();
        self.alternate.clone().or_else(by_policy)
    }

    /// Takes from the policies what they say of this exchange.
    pub(super) fn follow(&self, policies: &Policies) {
        let policy = policies.of_exchange(&self.name);
        let alternate = policy.as_deref().and_then(Policy::alternate_exchange);
        let alternate = alternate.map(|name| Arc::new(Arc::from(name)));
        self.alternate_by_policy.store(alternate);
    }

    /// Drops the compiled routes, with the queue handles in them. Cheap when there are none.
    pub(super) fn invalidate(&self) {
        if self.routes.load().is_some() {
            self.routes.store(None);
        }
    }
}
