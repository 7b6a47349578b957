//! Who is calling, and what it may do: users and clients of the bus.
//!
//! Users ([`users`]) have tags, and permissions in vhosts. The administrator of the configuration is one, whose secret
//! comes from there or is made at the first start and shown once; `guest`/`guest` is another, for peers on this machine
//! only. Clients' hashes are the `secret_hash` fields of the client records, read at start and kept up
//! to date by the bus; they have no permissions but the bus's own rules.
//!
//! Logins tell nothing about which names exist, not even by their time: where somebody has a password that is slow to
//! check, every login that fails is as slow. Slow checks are made off the arbiters, few at a time, and what was found right is
//! remembered until the user changes. Who fails too often ([`throttle`]) is refused without a look.

mod first;
mod many;
mod password;
mod records;
mod secret;
mod tags;
mod throttle;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use backbone_broker::access::Access;
use backbone_broker::quota::{Full, Place};
use dashmap::DashMap;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::Config;
pub use crate::config::Secret;
use crate::state::{StateError, StateStore, Table};
use crate::telemetry::Events;
pub use many::{Granted, ManyUsers};
pub use password::{BadHash, PasswordHash};
pub use records::{Grant, Permission, TopicPermission, UserLimits};
pub use secret::{SecretHash, generate_secret};
pub use tags::Tags;
use throttle::Throttle;
use users::Configured;
pub use users::{User, UserChange, UserError, UserUpdate, Users};

const GUEST: &str = "guest";
/// The vhost that the bus lives in, and in which the first users have all rights.
const HOME: &str = "/";
/// Slow checks at a time: each takes 19 MiB and a core.
const SLOW_CHECKS_MAX: usize = 2;

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
    /// May do what its permissions and tags say.
    User(Tags),
    /// A client of the bus: its own outbox, notify and inbox, nothing else.
    Client,
}

impl Identity {
    /// Whether it may do everything that is not in a vhost.
    pub fn is_operator(&self) -> bool {
        self.tags().has(tags::ADMINISTRATOR)
    }

    /// The user's tags; a client has none.
    pub fn tags(&self) -> Tags {
        match self.kind {
            IdentityKind::User(tags) => tags,
            IdentityKind::Client => Tags::default(),
        }
    }
}

/// Where somebody calls from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// It is on this machine, and speaks for itself.
    pub is_local: bool,
}

/// A login that failed; it does not say why, so that names cannot be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name or the secret is wrong")]
pub struct Denied;

/// Checks names and secrets. Shared by all listeners.
pub struct Authenticator {
    users: Users,
    clients: DashMap<Arc<str>, SecretHash>,
    /// Compared with when the name is unknown, so that it costs the same.
    nobody: SecretHash,
    nobody_slow: Arc<PasswordHash>,
    slow_checks: Semaphore,
    /// What verified passwords are hashed with.
    pepper: Zeroizing<[u8; 32]>,
    throttle: Throttle,
    events: Arc<Events>,
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
        let configured = Configured {
            admin: config.admin.id.clone(),
            admin_secret: !config.admin.secret.is_empty(),
            loopback_only: vec![GUEST.to_owned()],
        };
        let made = first::make_admin(config, state).await?;
        first::make_guest(config, state).await?;
        let users = Users::new(state.clone(), configured);
        let skip: &[&str] = if config.guest.enabled { &[] } else { &[GUEST] };
        users.load(skip).await?;
        first::take_configured_secret(config, state, &users).await?;
        let clients = DashMap::new();
        for (id, record) in state.list::<ClientSecret>(Table::Clients).await? {
            clients.insert(Arc::from(id), record.secret_hash);
        }
        let auth = Self {
            users,
            clients,
            nobody: SecretHash::of(&generate_secret()),
            nobody_slow: Arc::new(PasswordHash::nobody()),
            slow_checks: Semaphore::const_new(SLOW_CHECKS_MAX),
            pepper: Zeroizing::new(secret::random()),
            throttle: Throttle::new(config.limits.failed_logins_per_minute),
            events,
        };
        Ok((auth, made))
    }

    /// The users, and what they may do.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Checks a name and its secret.
    ///
    /// # Errors
    /// [`Denied`] for an unknown name, a wrong secret, `guest` from another machine, and somebody who failed too often alike.
    pub async fn login(&self, user: &str, password: &[u8], peer: Peer) -> Result<Identity, Denied> {
        if self.throttle.allows(peer.address, user) {
            let identity = match self.users.get(user) {
                Some(user) => self.login_user(&user, password, peer).await,
                None => self.login_client(user, password).await,
            };
            if let Some(identity) = identity {
                return Ok(identity);
            }
            self.throttle.failed(peer.address, user);
        }
        self.events.login_failed(user);
        Err(Denied)
    }

    /// What `identity` may do in `vhost`; none: it may not enter.
    pub fn access(&self, identity: &Identity, vhost: &str) -> Option<Access> {
        match identity.kind {
            IdentityKind::User(_) => self.users.access(&identity.name, vhost),
            IdentityKind::Client if vhost == HOME => {
                Some(Access::BusClient(Arc::clone(&identity.name)))
            }
            IdentityKind::Client => None,
        }
    }

    /// A place for one more connection of `identity`; none: they are not counted.
    ///
    /// # Errors
    /// It has as many as it may.
    pub fn connection(&self, identity: &Identity) -> Result<Option<Place>, Full> {
        match identity.kind {
            IdentityKind::User(_) => self.users.connection(&identity.name),
            IdentityKind::Client => Ok(None),
        }
    }

    /// Who `user` is, of whom a certificate says that it is the peer.
    ///
    /// # Errors
    /// [`Denied`] for an unknown name, and for `guest`, who has no certificate.
    pub fn login_certified(&self, user: &str) -> Result<Identity, Denied> {
        let identity = match self.users.get(user) {
            Some(user) => (!user.loopback_only).then(|| user.identity()),
            None => {
                let client = self.clients.get(user).map(|entry| entry.key().clone());
                client.map(|name| Identity {
                    name,
                    kind: IdentityKind::Client,
                })
            }
        };
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

    /// Whether the name belongs to a user, so that no client may have it.
    pub fn is_reserved(&self, name: &str) -> bool {
        name == GUEST || self.users.get(name).is_some()
    }

    /// Whether the name belongs to a client, so that no user may have it.
    pub fn is_client(&self, name: &str) -> bool {
        self.clients.contains_key(name)
    }

    async fn login_user(&self, user: &User, password: &[u8], peer: Peer) -> Option<Identity> {
        let matches = match &user.password {
            Some(hash) if hash.is_slow() => {
                self.is_verified(user, password) || self.verify(user, hash, password).await
            }
            hash => {
                let hash = hash.as_ref();
                let matches = hash.is_some_and(|hash| hash.matches(password));
                self.as_slow_as_any(matches, password).await
            }
        };
        (matches && (peer.is_local || !user.loopback_only)).then(|| user.identity())
    }

    async fn login_client(&self, user: &str, password: &[u8]) -> Option<Identity> {
        // The hash is copied out: nothing is computed while the map is locked.
        let found = self
            .clients
            .get(user)
            .map(|entry| (entry.key().clone(), entry.value().clone()));
        let (name, hash) = match found {
            Some((name, hash)) => (Some(name), hash),
            None => (None, self.nobody.clone()),
        };
        let matches = self.as_slow_as_any(hash.matches(password), password).await;
        name.filter(|_| matches).map(|name| Identity {
            name,
            kind: IdentityKind::Client,
        })
    }

    /// Makes a refusal take as long as one of a user whose password is slow to check, if there is any.
    async fn as_slow_as_any(&self, matches: bool, password: &[u8]) -> bool {
        if !matches && self.users.has_slow() {
            let _ = self
                .check_slowly(Arc::clone(&self.nobody_slow), password)
                .await;
        }
        matches
    }

    /// Whether this password was found right before, since the user was changed last.
    fn is_verified(&self, user: &User, password: &[u8]) -> bool {
        let verified = user.verified.load();
        let known = verified.as_ref();
        known.is_some_and(|known| self.quick_hash(password).ct_eq(&**known).into())
    }

    async fn verify(&self, user: &User, hash: &PasswordHash, password: &[u8]) -> bool {
        let matches = self.check_slowly(Arc::new(hash.clone()), password).await;
        if matches {
            user.verified
                .store(Some(Arc::new(self.quick_hash(password))));
        }
        matches
    }

    async fn check_slowly(&self, hash: Arc<PasswordHash>, password: &[u8]) -> bool {
        let Ok(_place) = self.slow_checks.acquire().await else {
            return false;
        };
        let password = Zeroizing::new(password.to_vec());
        let checked = tokio::task::spawn_blocking(move || hash.matches(&password));
        checked.await.unwrap_or(false)
    }

    /// The hash of a password that nobody outside of this process can compute.
    fn quick_hash(&self, password: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update(*self.pepper)
            .chain_update(password)
            .finalize()
            .into()
    }
}

/// Hashes a password that somebody chose, off the arbiters.
///
/// # Errors
/// The program ends.
pub async fn hash_password(password: Secret) -> Result<PasswordHash, StateError> {
    let hashed =
        tokio::task::spawn_blocking(move || PasswordHash::of(password.expose().as_bytes()));
    hashed.await.map_err(|_| StateError::Cancelled)
}

/// Whether a peer's address is this machine, also when IPv4 comes mapped into IPv6.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Peer = Peer {
        address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        is_local: true,
    };
    const ELSEWHERE: Peer = Peer {
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        is_local: false,
    };

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
            .login("admin", secret.expose().as_bytes(), ELSEWHERE)
            .await
            .unwrap();
        assert!(identity.is_operator() && &*identity.name == "admin");
        assert_eq!(auth.login("admin", b"wrong", HERE).await, Err(Denied));
    }

    #[actix_web::test]
    async fn a_configured_admin_secret_wins_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (_, made) = open(&Config::default(), dir.path()).await;
        let mut config = Config::default();
        config.admin.secret = Secret::new("mine");
        let (auth, shown) = open(&config, dir.path()).await;
        assert!(shown.is_none());
        assert!(auth.login("admin", b"mine", ELSEWHERE).await.is_ok());
        assert_eq!(
            auth.login("admin", made.unwrap().expose().as_bytes(), ELSEWHERE)
                .await,
            Err(Denied)
        );
    }

    #[actix_web::test]
    async fn guest_works_from_loopback_only_and_can_be_turned_off() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let (auth, _) = open(&config, dir.path()).await;
        assert!(
            auth.login("guest", b"guest", HERE)
                .await
                .unwrap()
                .is_operator()
        );
        assert_eq!(auth.login("guest", b"guest", ELSEWHERE).await, Err(Denied));
        drop(auth);
        config.guest.enabled = false;
        let (auth, _) = open(&config, dir.path()).await;
        assert_eq!(auth.login("guest", b"guest", HERE).await, Err(Denied));
        assert!(auth.is_reserved("guest") && auth.is_reserved("admin") && !auth.is_reserved("noc"));
    }

    #[actix_web::test]
    async fn a_guest_that_was_deleted_stays_away() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let (auth, _) = open(&config, dir.path()).await;
        let gone = auth.users().delete(&["guest".to_owned()]).await.unwrap();
        assert_eq!(gone, None);
        drop(auth);
        let (auth, _) = open(&config, dir.path()).await;
        assert_eq!(auth.login("guest", b"guest", HERE).await, Err(Denied));
        assert_eq!(auth.users().grant("guest", "/"), None);
    }

    async fn put(auth: &Authenticator, name: &str, password: PasswordHash, tags: &[&str]) -> bool {
        let update = UserUpdate {
            password: Some(Some(password)),
            tags: Some(tags.iter().map(|it| (*it).to_owned()).collect()),
            limits: None,
        };
        auth.users().put(name, update).await.unwrap()
    }

    #[actix_web::test]
    async fn users_log_in_with_what_they_chose_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let (auth, _) = open(&config, dir.path()).await;
        assert!(put(&auth, "u", PasswordHash::of(b"p"), &["management", "own"]).await);
        // The second time it is remembered.
        for _ in 0..2 {
            let identity = auth.login("u", b"p", ELSEWHERE).await.unwrap();
            assert!(identity.tags().may_manage() && !identity.is_operator());
            assert_eq!(auth.login("u", b"q", ELSEWHERE).await, Err(Denied));
        }
        assert!(!put(&auth, "u", PasswordHash::of(b"q"), &[]).await);
        assert_eq!(auth.login("u", b"p", ELSEWHERE).await, Err(Denied));
        drop(auth);
        let (auth, _) = open(&config, dir.path()).await;
        assert!(auth.login("u", b"q", ELSEWHERE).await.is_ok());
        let none = UserUpdate {
            password: Some(None),
            ..UserUpdate::default()
        };
        auth.users().put("u", none).await.unwrap();
        assert_eq!(auth.login("u", b"q", ELSEWHERE).await, Err(Denied));
    }

    #[actix_web::test]
    async fn who_fails_too_often_is_refused_even_with_the_right_secret() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.admin.secret = Secret::new("mine");
        config.limits.failed_logins_per_minute = 3;
        let (auth, _) = open(&config, dir.path()).await;
        for _ in 0..3 {
            assert!(auth.login("admin", b"mine", ELSEWHERE).await.is_ok());
            assert!(auth.login("admin", b"no", ELSEWHERE).await.is_err());
        }
        assert_eq!(auth.login("admin", b"mine", ELSEWHERE).await, Err(Denied));
        assert!(auth.login("admin", b"mine", HERE).await.is_ok());
    }

    #[actix_web::test]
    async fn grants_open_vhosts_survive_and_go_with_user_and_vhost() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default();
        let (auth, _) = open(&config, dir.path()).await;
        put(&auth, "u", PasswordHash::of(b"p"), &[]).await;
        let identity = auth.login("u", b"p", HERE).await.unwrap();
        assert!(auth.access(&identity, "v").is_none());
        let users = auth.users();
        assert!(users.permit("u", "v", Permission::full()).await.unwrap());
        assert!(users.permit("u", "w", Permission::full()).await.unwrap());
        assert!(!users.permit("u", "w", Permission::full()).await.unwrap());
        let bad = Permission {
            read: "(".into(),
            ..Permission::full()
        };
        let refused = users.permit("u", "v", bad).await;
        assert!(matches!(refused, Err(UserError::Pattern(..))));
        let missing = users.permit("x", "v", Permission::full()).await;
        assert!(matches!(missing, Err(UserError::NoUser(_))));
        drop(auth);
        let (auth, _) = open(&config, dir.path()).await;
        let users = auth.users();
        let access = auth.access(&identity, "v").unwrap();
        assert!(access.consume("u", "v", "q").is_ok());
        users.keep_vhosts(|vhost| vhost != "v").await.unwrap();
        assert!(access.consume("u", "v", "q").is_err());
        assert!(auth.access(&identity, "v").is_none() && auth.access(&identity, "w").is_some());
        let both = ["u".to_owned(), "x".to_owned()];
        assert_eq!(users.delete(&both).await.unwrap().as_deref(), Some("x"));
        assert!(users.may_enter("u", "w"), "all or none");
        assert_eq!(users.delete(&both[..1]).await.unwrap(), None);
        put(&auth, "u", PasswordHash::of(b"p"), &[]).await;
        assert!(!users.may_enter("u", "w"));
    }

    #[actix_web::test]
    async fn the_configured_administrator_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.admin.secret = Secret::new("mine");
        let (auth, _) = open(&config, dir.path()).await;
        let admin = ["admin".to_owned()];
        assert!(auth.users().delete(&admin).await.is_err());
        for update in [
            UserUpdate {
                tags: Some(Vec::new()),
                ..UserUpdate::default()
            },
            UserUpdate {
                password: Some(None),
                ..UserUpdate::default()
            },
        ] {
            let refused = auth.users().put("admin", update).await;
            assert!(matches!(refused, Err(UserError::Configured(..))));
        }
        assert!(auth.users().may_enter("admin", "/"));
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
        let identity = auth
            .login("noc", old.expose().as_bytes(), ELSEWHERE)
            .await
            .unwrap();
        assert_eq!(
            (&*identity.name, identity.kind),
            ("noc", IdentityKind::Client)
        );
        auth.put_client_secret("noc", SecretHash::of(&new));
        assert_eq!(
            auth.login("noc", old.expose().as_bytes(), ELSEWHERE).await,
            Err(Denied)
        );
        assert!(
            auth.login("noc", new.expose().as_bytes(), ELSEWHERE)
                .await
                .is_ok()
        );
        auth.remove_client("noc");
        assert_eq!(
            auth.login("noc", new.expose().as_bytes(), ELSEWHERE).await,
            Err(Denied)
        );
    }

    #[test]
    fn mapped_loopback_counts() {
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_loopback("::ffff:10.0.0.1".parse().unwrap()));
    }
}
