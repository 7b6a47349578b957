//! Behaviour of a whole topology, row by row of the specification.

use backbone_wire::error::ReplyCode;
use backbone_wire::table::{TableBuf, Value};

use super::*;

mod changes;
mod declare;
mod routes;

/// The handle of a queue is its name here.
type Names = Topology<&'static str>;

const NO_ARGUMENTS: Table<'static> = Table::EMPTY;

fn spec<'a>(name: &'a str, kind: &'a str) -> ExchangeSpec<'a> {
    ExchangeSpec {
        name,
        kind,
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        arguments: NO_ARGUMENTS,
    }
}

fn alternate(name: &str) -> TableBuf {
    let mut arguments = TableBuf::new();
    arguments.put("alternate-exchange", &Value::from(name));
    arguments
}

/// A vhost `/` with the given queues, numbered from 1, and exchanges.
fn topology(queues: &[&'static str], exchanges: &[(&str, &str)]) -> Names {
    let topology = Names::new("/");
    for (index, queue) in queues.iter().enumerate() {
        topology.add_queue(queue, index as u64 + 1, queue);
    }
    for (name, kind) in exchanges {
        topology.declare_exchange(&spec(name, kind)).unwrap();
    }
    topology
}

impl Names {
    fn bind(&self, queue: &str, exchange: &str, key: &str) {
        self.bind_queue(queue, exchange, key.as_bytes(), NO_ARGUMENTS)
            .unwrap();
    }

    fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        self.unbind_queue(queue, exchange, key.as_bytes(), NO_ARGUMENTS)
            .unwrap();
    }

    fn link(&self, destination: &str, source: &str, key: &str) {
        self.bind_exchange(destination, source, key.as_bytes(), NO_ARGUMENTS)
            .unwrap();
    }

    /// The queues of a message, in the order of the answer.
    fn to(&self, exchange: &str, key: &str) -> Vec<&'static str> {
        self.try_to(exchange, key).unwrap()
    }

    fn try_to(&self, exchange: &str, key: &str) -> Result<Vec<&'static str>, Error> {
        let mut out = Targets::new();
        self.route(exchange.as_bytes(), key.as_bytes(), None, &mut out)?;
        Ok(out.into_iter().map(|(_, name)| name).collect())
    }

    fn exists(&self, exchange: &str) -> bool {
        self.declare_exchange(&ExchangeSpec {
            passive: true,
            ..spec(exchange, "")
        })
        .is_ok()
    }
}

#[track_caller]
fn refused<R: std::fmt::Debug>(result: Result<R, Error>, code: ReplyCode, text: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.code, &*error.text), (code, text));
}
