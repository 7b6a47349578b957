//! What a connection may do.

use std::sync::Arc;

use crate::error::Error;

/// The rights of a connection.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everything: users.
    Full,
    /// A client of the bus: writes its outbox, notify and broadcast through the default exchange,
    /// reads its inbox, nothing else.
    BusClient(Arc<str>),
}

impl Access {
    /// Whether a message may be published to `exchange` with `key`.
    pub fn publish(
        &self,
        user: &str,
        vhost: &str,
        exchange: &[u8],
        key: &[u8],
    ) -> Result<(), Error> {
        let Self::BusClient(client) = self else {
            return Ok(());
        };
        if !exchange.is_empty() {
            let name = String::from_utf8_lossy(exchange);
            return Err(refused("exchange", &name, vhost, user));
        }
        let own = suffix(client, key)
            .is_some_and(|role| matches!(role, b"-outbox" | b"-notify" | b"-broadcast"));
        if own {
            return Ok(());
        }
        let name = String::from_utf8_lossy(key);
        Err(refused("queue", &name, vhost, user))
    }

    /// Whether messages may be read from `queue`.
    pub fn consume(&self, user: &str, vhost: &str, queue: &str) -> Result<(), Error> {
        match self {
            Self::Full => Ok(()),
            Self::BusClient(client) => match suffix(client, queue.as_bytes()) {
                Some(b"-inbox") => Ok(()),
                _ => Err(refused("queue", queue, vhost, user)),
            },
        }
    }

    /// Whether `queue` may be declared: a bus client may name its own queues, which exist.
    pub fn declare_queue(&self, user: &str, vhost: &str, queue: &str) -> Result<(), Error> {
        match self {
            Self::Full => Ok(()),
            Self::BusClient(client) => match suffix(client, queue.as_bytes()) {
                Some(b"-inbox" | b"-outbox" | b"-notify" | b"-broadcast") => Ok(()),
                _ => Err(refused("queue", queue, vhost, user)),
            },
        }
    }

    /// Whether queues may be purged, deleted and bound, and exchanges declared or changed.
    pub fn configure(&self, user: &str, vhost: &str, kind: &str, name: &str) -> Result<(), Error> {
        match self {
            Self::Full => Ok(()),
            Self::BusClient(_) => Err(refused(kind, name, vhost, user)),
        }
    }
}

/// What follows the client's id in a queue's name.
fn suffix<'a>(client: &str, queue: &'a [u8]) -> Option<&'a [u8]> {
    queue.strip_prefix(client.as_bytes())
}

fn refused(kind: &str, name: &str, vhost: &str, user: &str) -> Error {
    let name = if kind == "exchange" && name.is_empty() {
        "amq.default"
    } else {
        name
    };
    Error::access_refused(format!(
        "access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_client_has_its_own_queues_and_nothing_else() {
        let access = Access::BusClient("a".into());
        let publish = |exchange: &str, key: &str| {
            access
                .publish("a", "/", exchange.as_bytes(), key.as_bytes())
                .is_ok()
        };
        assert!(publish("", "a-outbox") && publish("", "a-notify") && publish("", "a-broadcast"));
        assert!(!publish("", "a-inbox") && !publish("", "b-outbox") && !publish("", "ab-outbox"));
        assert!(!publish("soar-publish", "x") && !publish("amq.direct", "a-outbox"));
        assert!(access.consume("a", "/", "a-inbox").is_ok());
        for queue in ["a-outbox", "b-inbox", "a-b-inbox", "soar-publish", ""] {
            assert!(access.consume("a", "/", queue).is_err(), "{queue}");
        }
        assert!(access.declare_queue("a", "/", "a-broadcast").is_ok());
        assert!(access.declare_queue("a", "/", "mine").is_err());
        let error = access.configure("a", "/", "exchange", "").unwrap_err();
        assert_eq!(
            error.text,
            "access to exchange 'amq.default' in vhost '/' refused for user 'a'"
        );
    }
}
