//! Messages that a client gets for a while and acknowledges.

use std::time::Duration;

use super::leases::Lease;
use super::{AckId, Bus, BusError, Received};

/// What became of messages that a client named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// How many there were.
    pub count: usize,
    /// Ids of messages that the client does not have, or not any more.
    pub unknown: Vec<AckId>,
}

impl Bus {
    /// A lease for messages that are about to be handed out, which begins with [`Received::lend`]; and how many messages and bytes
    /// there is room for.
    ///
    /// # Errors
    /// [`BusError::NoClient`], [`BusError::Disabled`]; [`BusError::TooManyLeased`]: the client has to acknowledge some first.
    pub fn lease(
        &self,
        client_id: &str,
        duration: Duration,
    ) -> Result<(Lease, usize, usize), BusError> {
        self.enabled(client_id)?;
        let prepared = self.shared.leases.prepare(client_id, duration);
        prepared.ok_or(BusError::TooManyLeased)
    }

    /// The client has dealt with these messages: they are gone.
    pub fn acknowledge(&self, client_id: &str, ids: Vec<AckId>) -> Acknowledged {
        let found = self.shared.leases.take_out(client_id, ids);
        let mut count = 0;
        for taken in found.taken {
            count += taken.len();
            self.shared.counters.received(taken.len() as u64);
            taken.settle();
        }
        Acknowledged {
            count,
            unknown: found.unknown,
        }
    }

    /// The client could not deal with these messages: they go back to their places, or without `requeue` they are dead letters, if the
    /// inbox has somewhere to send these.
    pub fn reject(&self, client_id: &str, ids: Vec<AckId>, requeue: bool) -> Acknowledged {
        let found = self.shared.leases.take_out(client_id, ids);
        let mut count = 0;
        for taken in found.taken {
            count += taken.len();
            match requeue {
                true => drop(taken),
                false => taken.reject(),
            }
        }
        Acknowledged {
            count,
            unknown: found.unknown,
        }
    }
}

impl Received {
    /// They have reached the client, which has them until the lease ends.
    pub fn lend(self, lease: Lease) {
        self.shared.leases.begin(lease, self.taken);
    }
}
