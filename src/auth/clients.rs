//! The clients of the bus, as far as they log in: what is stored of their secrets, in memory.
//!
//! Read from the client records at start; the bus, whose records they are, tells of changes.

use std::sync::Arc;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use super::secret::{SecretHash, generate_secret};
use super::token::{Fingerprint, TokenKey};
use super::{Identity, IdentityKind};
use crate::state::{StateError, StateStore, Table};

/// How a client logs in: a part of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLogin {
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// It may not log in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

impl ClientLogin {
    /// With the secret behind `secret_hash`.
    pub fn with(secret_hash: SecretHash) -> Self {
        Self {
            secret_hash,
            disabled: false,
        }
    }
}

/// All clients, by id.
pub(super) struct Clients {
    known: DashMap<Arc<str>, Known>,
    /// Compared with when the name is unknown, so that it costs the same.
    nobody: SecretHash,
}

/// What is known of a client.
#[derive(Clone)]
struct Known {
    hash: SecretHash,
    fingerprint: Fingerprint,
    disabled: bool,
}

impl Known {
    /// Whether it may log in, and has, by this secret. None: by a certificate.
    fn counts(&self, secret: Option<Fingerprint>) -> bool {
        !self.disabled && secret.is_none_or(|it| self.fingerprint.is(it))
    }
}

impl Clients {
    /// Those of the state store.
    pub async fn load(state: &StateStore, key: &TokenKey) -> Result<Self, StateError> {
        let clients = Self {
            known: DashMap::new(),
            nobody: SecretHash::of(&generate_secret()),
        };
        for (id, login) in state.list::<ClientLogin>(Table::Clients).await? {
            clients.put(&id, &login, key);
        }
        Ok(clients)
    }

    pub fn put(&self, id: &str, login: &ClientLogin, key: &TokenKey) {
        let hash = login.secret_hash.clone();
        let known = Known {
            fingerprint: key.fingerprint(&hash.to_string()),
            hash,
            disabled: login.disabled,
        };
        self.known.insert(id.into(), known);
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
        let (name, known) = found.filter(|(_, it)| matches && !it.disabled)?;
        Some(identity(name, Some(known.fingerprint)))
    }

    /// The client of that name, if this secret of it counts. None: a certificate says that it is the peer.
    pub fn by_secret(&self, id: &str, secret: Option<Fingerprint>) -> Option<Identity> {
        let (name, known) = self.find(id)?;
        known.counts(secret).then(|| identity(name, secret))
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
