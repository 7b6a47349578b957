//! The clients of the bus, as far as they log in: what is stored of their secrets, in memory.
//!
//! Read from the client records at start; the bus, whose records they are, tells of changes.

use std::sync::Arc;

use dashmap::DashMap;
use serde::Deserialize;

use super::secret::{SecretHash, generate_secret};
use super::token::{Fingerprint, TokenKey};
use super::{Identity, IdentityKind};
use crate::state::{StateError, StateStore, Table};

/// All clients, by id.
pub(super) struct Clients {
    known: DashMap<Arc<str>, Known>,
    /// Compared with when the name is unknown, so that it costs the same.
    nobody: SecretHash,
}

/// What is known of a client's secret.
#[derive(Clone)]
struct Known {
    hash: SecretHash,
    fingerprint: Fingerprint,
}

/// The part of a client's record that matters here; the rest is the bus's.
#[derive(Deserialize)]
struct Record {
    secret_hash: SecretHash,
}

impl Clients {
    /// Those of the state store.
    pub async fn load(state: &StateStore, key: &TokenKey) -> Result<Self, StateError> {
        let clients = Self {
            known: DashMap::new(),
            nobody: SecretHash::of(&generate_secret()),
        };
        for (id, record) in state.list::<Record>(Table::Clients).await? {
            clients.put(&id, record.secret_hash, key);
        }
        Ok(clients)
    }

    pub fn put(&self, id: &str, hash: SecretHash, key: &TokenKey) {
        let fingerprint = key.fingerprint(&hash.to_string());
        self.known.insert(id.into(), Known { hash, fingerprint });
    }

    pub fn remove(&self, id: &str) {
        self.known.remove(id);
    }

    pub fn has(&self, id: &str) -> bool {
        self.known.contains_key(id)
    }

    /// The client whose secret this is. Takes as long whether or not there is one of that name.
    pub fn login(&self, id: &str, secret: &[u8]) -> Option<Identity> {
        let found = self.find(id);
        let hash = found.as_ref().map_or(&self.nobody, |(_, it)| &it.hash);
        let matches = hash.matches(secret);
        let (name, known) = found.filter(|_| matches)?;
        Some(identity(name, Some(known.fingerprint)))
    }

    /// The client of whom a certificate says that it is the peer.
    pub fn certified(&self, id: &str) -> Option<Identity> {
        let (name, _) = self.find(id)?;
        Some(identity(name, None))
    }

    /// The client whose secret has, or had when a token was made with it, this fingerprint.
    pub fn holder(&self, id: &str, fingerprint: Fingerprint) -> Option<Identity> {
        let (name, known) = self.find(id)?;
        let counts = known.fingerprint.is(fingerprint);
        counts.then(|| identity(name, Some(fingerprint)))
    }

    /// Copied out: nothing is computed while the map is locked.
    fn find(&self, id: &str) -> Option<(Arc<str>, Known)> {
        let found = self.known.get(id)?;
        Some((found.key().clone(), found.value().clone()))
    }
}

fn identity(name: Arc<str>, secret: Option<Fingerprint>) -> Identity {
    Identity {
        name,
        kind: IdentityKind::Client,
        secret,
    }
}
