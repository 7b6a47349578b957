//! Who is calling, and what it may do: users and clients of the bus.
//!
//! Users ([`users`]) have tags, and permissions in vhosts. The administrator of the configuration is one, whose secret
//! comes from there or is made at the first start and shown once; `guest`/`guest` is another, for peers on this machine
//! only. How clients log in ([`ClientLogin`]) is a part of their records, read at start and kept up
//! to date by the bus; they have no permissions but the bus's own rules.
//!
//! Logins tell nothing about which names exist, not even by their time: where somebody has a password that is slow to
//! check, every login that fails is as slow. Slow checks are made off the arbiters, few at a time, and what was found right is
//! remembered until the user changes. Who fails too often ([`throttle`]) is refused without a look.
//!
//! Whoever has logged in can have a token ([`token`]) to call with instead, which needs no further state.

mod clients;
mod first;
mod hmac;
mod many;
mod password;
mod records;
mod secret;
mod tags;
#[cfg(test)]
mod tests;
mod throttle;
mod token;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use backbone_broker::access::Access;
use backbone_broker::quota::{Full, Place};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::config::Config;
pub use crate::config::Secret;
use crate::state::{StateError, StateStore};
use crate::telemetry::Events;
use clients::Clients;
pub use clients::{ClientLogin, OldSecret};
pub use many::{Granted, ManyUsers};
pub use password::{BadHash, PasswordHash};
pub use records::{Grant, Permission, TopicPermission, UserLimits};
pub use secret::{SecretHash, generate_secret};
pub use tags::Tags;
use throttle::Throttle;
use token::{Claims, Holder, TokenKey, unix_now_s};
pub use token::{Fingerprint, Token, TokenError};
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
    /// The secret that it, or its token, was proved with; none: a certificate.
    pub secret: Option<Fingerprint>,
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
    pub fn is_administrator(&self) -> bool {
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
    clients: Clients,
    token_key: TokenKey,
    token_lifetime_s: u64,
    nobody_slow: Arc<PasswordHash>,
    slow_checks: Semaphore,
    /// What verified passwords are hashed with.
    pepper: Zeroizing<[u8; 32]>,
    throttle: Throttle,
    events: Arc<Events>,
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
        let token_key = first::token_key(config, state).await?;
        first::take_configured_secret(config, state, &users, &token_key).await?;
        let auth = Self {
            users,
            clients: Clients::load(state, &token_key).await?,
            token_key,
            token_lifetime_s: (config.token.lifetime_hours * 3600.0).ceil() as u64,
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
        self.events.login_failed(user, peer.address);
        Err(Denied)
    }

    /// A token with which `identity` can call until it ends, or what it has logged in with does. None for a certificate.
    pub fn make_token(&self, identity: &Identity) -> Option<Token> {
        let (now_s, secret) = (unix_now_s(), identity.secret?);
        let mut expires_s = now_s + self.token_lifetime_s;
        if identity.kind == IdentityKind::Client
            && let Some(ends_s) = self.clients.ends_s(&identity.name, secret)
        {
            expires_s = expires_s.min(ends_s);
        }
        let claims = Claims {
            sub: identity.name.to_string(),
            kind: match identity.kind {
                IdentityKind::User(_) => Holder::User,
                IdentityKind::Client => Holder::Client,
            },
            iat: now_s,
            exp: expires_s,
            fp: secret,
        };
        self.events.token_made(&identity.name);
        Some(Token {
            text: self.token_key.sign(&claims),
            lifetime_s: expires_s.saturating_sub(now_s),
            expires_s,
        })
    }

    /// Who shows this token.
    ///
    /// # Errors
    /// It is none of ours, it is over, or what it was made with does not count any more.
    pub fn login_token(&self, token: &str, peer: Peer) -> Result<Identity, TokenError> {
        let read = self.token_key.read(token, unix_now_s());
        let identity = read.and_then(|claims| self.holder(&claims, peer));
        identity.inspect_err(|error| self.events.token_refused(error))
    }

    /// Whom a token is for, if what it was made with still counts.
    fn holder(&self, claims: &Claims, peer: Peer) -> Result<Identity, TokenError> {
        if claims.kind == Holder::Client {
            let client = self.clients.by_secret(&claims.sub, Some(claims.fp));
            return client.ok_or(TokenError::Revoked);
        }
        let user = self.users.get(&claims.sub).ok_or(TokenError::Revoked)?;
        let stored = user.password.as_ref().map(PasswordHash::text);
        let counts = stored.is_some_and(|it| self.token_key.fingerprint(&it).is(claims.fp));
        match counts {
            false => Err(TokenError::Revoked),
            true if user.loopback_only && !peer.is_local => Err(TokenError::Elsewhere),
            true => Ok(user.identity(Some(claims.fp))),
        }
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
    pub fn login_certified(&self, user: &str, peer: Peer) -> Result<Identity, Denied> {
        let identity = match self.users.get(user) {
            Some(user) => (!user.loopback_only).then(|| user.identity(None)),
            None => self.clients.by_secret(user, None),
        };
        identity.ok_or_else(|| {
            self.events.login_failed(user, peer.address);
            Denied
        })
    }

    /// Makes `client_id` able to log in from now on as `login` says, and not otherwise.
    /// The record in the state store is the caller's to write, before this call.
    pub fn put_client(&self, client_id: &str, login: &ClientLogin) {
        self.clients.put(client_id, login, &self.token_key);
    }

    /// Whether what a client has logged in with still counts; no secret: a certificate.
    pub fn client_counts(&self, client_id: &str, secret: Option<Fingerprint>) -> bool {
        self.clients.by_secret(client_id, secret).is_some()
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
        self.clients.has(name)
    }

    async fn login_user(&self, user: &User, password: &[u8], peer: Peer) -> Option<Identity> {
        let hash = user.password.as_ref();
        let matches = match hash {
            Some(hash) if hash.is_slow() => {
                self.is_verified(user, password) || self.verify(user, hash, password).await
            }
            hash => {
                let matches = hash.is_some_and(|hash| hash.matches(password));
                self.as_slow_as_any(matches, password).await
            }
        };
        let hash = hash.filter(|_| matches && (peer.is_local || !user.loopback_only))?;
        Some(user.identity(Some(self.token_key.fingerprint(&hash.text()))))
    }

    async fn login_client(&self, name: &str, secret: &[u8]) -> Option<Identity> {
        let identity = self.clients.login(name, secret);
        let matches = self.as_slow_as_any(identity.is_some(), secret).await;
        identity.filter(|_| matches)
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
