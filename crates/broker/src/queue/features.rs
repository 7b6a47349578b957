//! What the arguments of a queue's declaration make of it, besides its settings, and those of a consumer.

use backbone_wire::table::{Table, Value};

use super::{ConsumerId, Queue};
use crate::error::{Error, Resource};

const SINGLE_ACTIVE: &str = "x-single-active-consumer";
const PRIORITY_MAX: &str = "x-max-priority";
/// The consume argument that gives a consumer its priority.
const PRIORITY: &str = "x-priority";
const CANCEL_ON_FAILOVER: &str = "x-cancel-on-ha-failover";

/// What a queue is beyond a plain one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Only one of its consumers gets messages at a time.
    pub(crate) single_active: bool,
    /// The highest priority of a priority queue.
    pub(crate) priority_max: Option<u8>,
}

impl Features {
    /// Those that declared `arguments`, a raw field table, ask for.
    pub(crate) fn of(arguments: &[u8]) -> Self {
        let table = Table::from_bytes(arguments).unwrap_or(Table::EMPTY);
        let single_active = table.get(SINGLE_ACTIVE).and_then(|value| value.as_bool());
        let priority_max = table.get(PRIORITY_MAX).and_then(|value| value.as_i64());
        let priority_max = priority_max.and_then(|max| u8::try_from(max).ok());
        Self {
            single_active: single_active.unwrap_or(false),
            priority_max: priority_max.filter(|max| *max > 0),
        }
    }
}

/// Whether a consumer gets messages now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Yes, as all of the queue's consumers do.
    Shared,
    /// Yes, and no other.
    Alone,
    /// No: another one is the single active consumer.
    Waiting,
}

impl Queue {
    /// Whether consumer `id` gets messages now.
    pub(crate) fn activity(&self, id: ConsumerId) -> Activity {
        let state = self.lock();
        match (state.single_active, state.active == Some(id.slot)) {
            (false, _) => Activity::Shared,
            (true, true) => Activity::Alone,
            (true, false) => Activity::Waiting,
        }
    }
}

/// The priority that the arguments of a consume ask for; 0 unless they say it.
///
/// # Errors
/// 406 `invalid arg 'x-priority' for queue 'q' in vhost '/': "expected integer, got longstr"`, and the like for what is to be
/// a boolean.
pub(crate) fn consumer_priority(arguments: Table<'_>, queue: Resource<'_>) -> Result<i64, Error> {
    check_bool(CANCEL_ON_FAILOVER, arguments, queue)?;
    let Some(value) = arguments.get(PRIORITY) else {
        return Ok(0);
    };
    value
        .as_i64()
        .ok_or_else(|| not_an_integer(PRIORITY, &value, queue))
}

fn check_bool(name: &str, arguments: Table<'_>, queue: Resource<'_>) -> Result<(), Error> {
    match arguments.get(name) {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(value) => {
            let kind = value.type_name();
            Err(invalid(
                name,
                queue,
                &format!("{{unacceptable_type,{kind}}}"),
            ))
        }
    }
}

fn not_an_integer(name: &str, value: &Value<'_>, queue: Resource<'_>) -> Error {
    let text = format!("\"expected integer, got {}\"", value.type_name());
    invalid(name, queue, &text)
}

fn invalid(name: &str, queue: Resource<'_>, why: &str) -> Error {
    Error::precondition_failed(format!("invalid arg '{name}' for {queue}: {why}"))
}
