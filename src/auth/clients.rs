//! The clients of the bus, as far as they log in: what is stored of their secrets, in memory.
//!
//! Read from the client records at start; the bus, whose records they are, tells of changes.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use super::secret::{SecretHash, generate_secret};
use super::token::{Fingerprint, TokenKey, unix_now_s};
use super::{Identity, IdentityKind};
use crate::state::{StateError, StateStore, Table};

/// How a client logs in: a part of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLogin {
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// The secret before, if it was given some time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_secret: Option<OldSecret>,
    /// It may not log in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// A secret that counts for some time yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldSecret {
    /// Its hash.
    pub hash: SecretHash,
    /// When it ends, seconds of Unix time.
    pub ends_s: u64,
}

impl OldSecret {
    /// How long it counts yet; none: it is over.
    pub fn left(&self) -> Option<Duration> {
        let left_s = self.ends_s.saturating_sub(unix_now_s());
        (left_s > 0).then(|| Duration::from_secs(left_s))
    }
}

impl ClientLogin {
    /// With the secret behind `secret_hash`.
    pub fn with(secret_hash: SecretHash) -> Self {
        Self {
            secret_hash,
            old_secret: None,
            disabled: false,
        }
    }

    /// Puts another secret in place of the one of now, which counts for `grace` yet. One from before that ends at once.
    pub fn rotate(&mut self, secret_hash: SecretHash, grace: Duration) {
        let hash = std::mem::replace(&mut self.secret_hash, secret_hash);
        let ends_s = unix_now_s() + grace.as_secs();
        self.old_secret = (!grace.is_zero()).then_some(OldSecret { hash, ends_s });
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
    login: ClientLogin,
    fingerprint: Fingerprint,
    old_fingerprint: Option<Fingerprint>,
}

impl Known {
    /// The secret before and its fingerprint, while it counts.
    fn old(&self) -> Option<(&OldSecret, Fingerprint)> {
        let old = self.login.old_secret.as_ref();
        let old = old.filter(|old| old.left().is_some());
        old.zip(self.old_fingerprint)
    }

    /// The fingerprint of the one of its secrets that this is.
    fn matched(&self, secret: &[u8]) -> Option<Fingerprint> {
        if self.login.secret_hash.matches(secret) {
            return Some(self.fingerprint);
        }
        let (old, fingerprint) = self.old()?;
        old.hash.matches(secret).then_some(fingerprint)
    }

    /// Whether it may log in, and has, by this secret. None: by a certificate.
    fn counts(&self, secret: Option<Fingerprint>) -> bool {
        let is_one = |secret| self.fingerprint.is(secret) || self.is_old(secret);
        !self.login.disabled && secret.is_none_or(is_one)
    }

    fn is_old(&self, secret: Fingerprint) -> bool {
        self.old().is_some_and(|(_, old)| old.is(secret))
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
        let fingerprint = |hash: &SecretHash| key.fingerprint(&hash.to_string());
        let old = login.old_secret.as_ref();
        let known = Known {
            login: login.clone(),
            fingerprint: fingerprint(&login.secret_hash),
            old_fingerprint: old.map(|old| fingerprint(&old.hash)),
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
        let Some((name, known)) = self.find(id) else {
            // Nobody knows this one.
            self.nobody.matches(secret);
            return None;
        };
        let matched = known.matched(secret);
        let matched = matched.filter(|_| !known.login.disabled);
        matched.map(|secret| identity(name, Some(secret)))
    }

    /// When this secret of a client ends, seconds of Unix time; none: nobody knows yet.
    pub fn ends_s(&self, id: &str, secret: Fingerprint) -> Option<u64> {
        let known = self.known.get(id)?;
        let (old, fingerprint) = known.old()?;
        fingerprint.is(secret).then_some(old.ends_s)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const HOUR: Duration = Duration::from_secs(3600);

    fn hash(secret: &str) -> SecretHash {
        SecretHash::of(&Secret::new(secret))
    }

    fn known(login: &ClientLogin) -> Known {
        let key = TokenKey::of(&Secret::new("key"));
        let clients = Clients {
            known: DashMap::new(),
            nobody: hash("nobody"),
        };
        clients.put("noc", login, &key);
        clients.find("noc").unwrap().1
    }

    #[test]
    fn an_old_secret_counts_beside_the_new_one_until_its_time_is_over() {
        let mut login = ClientLogin::with(hash("a"));
        let a = known(&login).matched(b"a").unwrap();
        login.rotate(hash("b"), HOUR);
        let both = known(&login);
        let b = both.matched(b"b").unwrap();
        assert!(!a.is(b) && both.matched(b"a").unwrap().is(a));
        assert!(both.counts(Some(a)) && both.counts(Some(b)) && both.counts(None));
        login.old_secret.as_mut().unwrap().ends_s = unix_now_s();
        let over = known(&login);
        assert!(over.matched(b"a").is_none() && !over.counts(Some(a)));
        assert!(over.matched(b"b").is_some() && over.counts(Some(b)));
    }

    #[test]
    fn there_is_one_old_secret_at_most() {
        let mut login = ClientLogin::with(hash("a"));
        login.rotate(hash("b"), HOUR);
        login.rotate(hash("c"), HOUR);
        let known_now = known(&login);
        let matched = ["a", "b", "c"].map(|it| known_now.matched(it.as_bytes()).is_some());
        assert_eq!(matched, [false, true, true]);
        login.rotate(hash("d"), Duration::ZERO);
        let known_now = known(&login);
        let matched = ["b", "c", "d"].map(|it| known_now.matched(it.as_bytes()).is_some());
        assert_eq!(matched, [false, false, true]);
        assert_eq!(login.old_secret, None);
    }

    #[test]
    fn a_record_from_before_old_secrets_is_read() {
        let stored = serde_json::json!({"client_id": "noc", "secret_hash": hash("a")});
        let login: ClientLogin = serde_json::from_value(stored).unwrap();
        assert!(known(&login).matched(b"a").is_some());
        let mut login = ClientLogin::with(hash("a"));
        login.rotate(hash("b"), HOUR);
        let stored = serde_json::to_value(&login).unwrap();
        assert_eq!(
            serde_json::from_value::<ClientLogin>(stored).unwrap(),
            login
        );
    }
}
