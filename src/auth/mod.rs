//! Who is calling: the administrator, `guest`, or a client of the bus.
//!
//! Owns the hashes of all secrets in memory. The administrator's comes from the configuration or from
//! the state store (made at the first start and shown once); `guest`/`guest` counts for loopback peers
//! only; clients' hashes are the `secret_hash` fields of the client records, read at start and kept up
//! to date by the bus. A login costs one SHA-256 whoever is named, so the time tells nothing about
//! which names exist. What an identity may do is decided by whoever asks.

mod secret;

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use crate::config::Config;
pub use crate::config::Secret;
use crate::state::{StateError, StateStore, Table};
use crate::telemetry::Events;
pub use secret::{SecretHash, generate_secret};

const GUEST: &str = "guest";

/// Who somebody has proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's name or the `client_id`.
    pub name: Arc<str>,
    /// What sort of party it is.
    pub kind: IdentityKind,
}

/// What sort of party an [`Identity`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// May do everything.
    Operator,
    /// A client of the bus: its own outbox, notify and inbox, nothing else.
    Client,
}

impl Identity {
    /// Whether it may do everything.
    pub fn is_operator(&self) -> bool {
        self.kind == IdentityKind::Operator
    }
}

/// A login that failed; it does not say why, so that names cannot be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name or the secret is wrong")]
pub struct Denied;

/// Checks names and secrets. Shared by all listeners; never blocks.
pub struct Authenticator {
    operators: Vec<Operator>,
    clients: DashMap<Arc<str>, SecretHash>,
    /// Compared with when the name is unknown, so that it costs the same.
    nobody: SecretHash,
    events: Arc<Events>,
}

struct Operator {
    name: Arc<str>,
    hash: SecretHash,
    loopback_only: bool,
}

/// An operator's record in [`Table::Users`].
#[derive(Serialize, Deserialize)]
struct UserRecord {
    secret_hash: SecretHash,
}

/// The part of a client's record that matters here; the rest is the bus's.
#[derive(Deserialize)]
struct ClientSecret {
    secret_hash: SecretHash,
}

impl Authenticator {
    /// Loads all accounts. The second value is the administrator's secret if it was made just now: the
    /// only time that it can be shown.
    ///
    /// # Errors
    /// The state store failed.
    pub async fn open(
        config: &Config,
        state: &StateStore,
        events: Arc<Events>,
    ) -> Result<(Self, Option<Secret>), StateError> {
        let (admin_hash, made) = admin(config, state).await?;
        let mut operators = vec![Operator {
            name: config.admin.id.as_str().into(),
            hash: admin_hash,
            loopback_only: false,
        }];
        if config.guest.enabled {
            let hash = SecretHash::of(&Secret::new(GUEST));
            operators.push(Operator {
                name: GUEST.into(),
                hash,
                loopback_only: true,
            });
        }
        let clients = DashMap::new();
        for (id, record) in state.list::<ClientSecret>(Table::Clients).await? {
            clients.insert(Arc::from(id), record.secret_hash);
        }
        let nobody = SecretHash::of(&generate_secret());
        Ok((
            Self {
                operators,
                clients,
                nobody,
                events,
            },
            made,
        ))
    }

    /// Checks a name and its secret.
    ///
    /// # Errors
    /// [`Denied`] for an unknown name, a wrong secret, and `guest` from another machine alike.
    pub fn login(
        &self,
        user: &str,
        password: &[u8],
        peer_is_loopback: bool,
    ) -> Result<Identity, Denied> {
        let operator = self
            .operators
            .iter()
            .find(|operator| &*operator.name == user);
        let identity = match operator {
            Some(operator) => {
                let matches = operator.hash.matches(password);
                (matches && (peer_is_loopback || !operator.loopback_only)).then(|| Identity {
                    name: operator.name.clone(),
                    kind: IdentityKind::Operator,
                })
            }
            None => self.login_client(user, password),
        };
        identity.ok_or_else(|| {
            self.events.login_failed(user);
            Denied
        })
    }

    /// Who `user` is, of whom a certificate says that it is the peer.
    ///
    /// # Errors
    /// [`Denied`] for an unknown name, and for `guest`, who has no certificate.
    pub fn login_certified(&self, user: &str) -> Result<Identity, Denied> {
        let mut operators = self.operators.iter();
        let operator =
            operators.find(|operator| &*operator.name == user && !operator.loopback_only);
        let identity = match operator {
            Some(operator) => Some((operator.name.clone(), IdentityKind::Operator)),
            None => {
                let client = self.clients.get(user).map(|entry| entry.key().clone());
                client.map(|name| (name, IdentityKind::Client))
            }
        };
        let identity = identity.map(|(name, kind)| Identity { name, kind });
        identity.ok_or_else(|| {
            self.events.login_failed(user);
            Denied
        })
    }

    /// Makes `client_id` able to log in from now on with the secret behind `hash`, and with no other.
    /// The record in the state store is the caller's to write, before this call.
    pub fn put_client_secret(&self, client_id: &str, hash: SecretHash) {
        self.clients.insert(client_id.into(), hash);
    }

    /// Ends logins of `client_id`.
    pub fn remove_client(&self, client_id: &str) {
        self.clients.remove(client_id);
    }

    /// Whether the name belongs to an operator, so that no client may have it.
    pub fn is_reserved(&self, name: &str) -> bool {
        name == GUEST
            || self
                .operators
                .iter()
                .any(|operator| &*operator.name == name)
    }

    fn login_client(&self, user: &str, password: &[u8]) -> Option<Identity> {
        // The hash is copied out: nothing is computed while the map is locked.
        let found = self
            .clients
            .get(user)
            .map(|entry| (entry.key().clone(), entry.value().clone()));
        let (name, hash) = match found {
            Some((name, hash)) => (Some(name), hash),
            None => (None, self.nobody.clone()),
        };
        let matches = hash.matches(password);
        name.filter(|_| matches).map(|name| Identity {
            name,
            kind: IdentityKind::Client,
        })
    }
}

/// Whether a peer's address is this machine, also when IPv4 comes mapped into IPv6.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The administrator's hash, and the secret when it was made just now.
async fn admin(
    config: &Config,
    state: &StateStore,
) -> Result<(SecretHash, Option<Secret>), StateError> {
    let configured = &config.admin.secret;
    if !configured.is_empty() {
        return Ok((SecretHash::of(configured), None));
    }
    if let Some(record) = state
        .get::<UserRecord>(Table::Users, &config.admin.id)
        .await?
    {
        return Ok((record.secret_hash, None));
    }
    let made = generate_secret();
    let record = UserRecord {
        secret_hash: SecretHash::of(&made),
    };
    state.put(Table::Users, &config.admin.id, &record).await?;
    Ok((record.secret_hash, Some(made)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(config: &Config, dir: &std::path::Path) -> (Authenticator, Option<Secret>) {
        let state = StateStore::open(dir).unwrap();
        Authenticator::open(config, &state, Arc::default())
            .await
            .unwrap()
    }

    #[actix_web::test]
    async fn admin_secret_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let (_, made) = open(&config, dir.path()).await;
        let secret = made.unwrap();
        let (auth, again) = open(&config, dir.path()).await;
        assert!(again.is_none());
        let identity = auth
            .login("admin", secret.expose().as_bytes(), false)
            .unwrap();
        assert!(identity.is_operator() && &*identity.name == "admin");
        assert_eq!(auth.login("admin", b"wrong", true), Err(Denied));
    }

    #[actix_web::test]
    async fn a_configured_admin_secret_wins_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (_, made) = open(&Config::default(), dir.path()).await;
        let mut config = Config::default();
        config.admin.secret = Secret::new("mine");
        let (auth, shown) = open(&config, dir.path()).await;
        assert!(shown.is_none());
        assert!(auth.login("admin", b"mine", false).is_ok());
        assert_eq!(
            auth.login("admin", made.unwrap().expose().as_bytes(), false),
            Err(Denied)
        );
    }

    #[actix_web::test]
    async fn guest_works_from_loopback_only_and_can_be_turned_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let (auth, _) = open(&config, dir.path()).await;
        assert!(auth.login("guest", b"guest", true).unwrap().is_operator());
        assert_eq!(auth.login("guest", b"guest", false), Err(Denied));
        drop(auth);
        config.guest.enabled = false;
        let (auth, _) = open(&config, dir.path()).await;
        assert_eq!(auth.login("guest", b"guest", true), Err(Denied));
        assert!(auth.is_reserved("guest") && auth.is_reserved("admin") && !auth.is_reserved("noc"));
    }

    #[actix_web::test]
    async fn clients_are_loaded_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (generate_secret(), generate_secret());
        let state = StateStore::open(dir.path()).unwrap();
        let record =
            serde_json::json!({"client_id": "noc", "secret_hash": SecretHash::of(&old), "more": 1});
        state.put(Table::Clients, "noc", &record).await.unwrap();
        let (auth, _) = Authenticator::open(&Config::default(), &state, Arc::default())
            .await
            .unwrap();
        let identity = auth.login("noc", old.expose().as_bytes(), false).unwrap();
        assert_eq!(
            (&*identity.name, identity.kind),
            ("noc", IdentityKind::Client)
        );
        auth.put_client_secret("noc", SecretHash::of(&new));
        assert_eq!(
            auth.login("noc", old.expose().as_bytes(), false),
            Err(Denied)
        );
        assert!(auth.login("noc", new.expose().as_bytes(), false).is_ok());
        auth.remove_client("noc");
        assert_eq!(
            auth.login("noc", new.expose().as_bytes(), false),
            Err(Denied)
        );
    }

    #[test]
    fn mapped_loopback_counts() {
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_loopback("::ffff:10.0.0.1".parse().unwrap()));
    }
}
