//! What is there from the first start on: the administrator of the configuration, `guest`, and the key of tokens.

use super::password::PasswordHash;
use super::records::{Grant, Permission, UserLimits, UserRecord};
use super::secret::{SecretHash, generate_secret};
use super::token::TokenKey;
use super::users::Users;
use super::{GUEST, HOME};
use crate::config::{Config, Secret};
use crate::state::{StateError, StateStore, Table};

const ADMINISTRATOR: &str = "administrator";
/// What [`Table::Meta`] has once `guest` was made: whoever deletes it does not get it back.
const GUEST_MADE: &str = "guest_made";
/// Where it has the key of tokens that was made here.
const TOKEN_KEY: &str = "token_key";

/// Sees to it that there is the administrator of the configuration, with all rights in the bus's vhost when it is new.
/// Returns its secret when it was made just now.
pub(super) async fn make_admin(
    config: &Config,
    state: &StateStore,
) -> Result<Option<Secret>, StateError> {
    let name = &config.admin.id;
    let found = state.get::<UserRecord>(Table::Users, name).await?;
    let mut record = found.unwrap_or_default();
    let mut made = None;
    if record.password.is_none() && config.admin.secret.is_empty() {
        let secret = generate_secret();
        record.password = Some(PasswordHash::Machine(SecretHash::of(&secret)));
        made = Some(secret);
    }
    let is_new = record.tags.is_none();
    let tags = record.tags.get_or_insert_default();
    let is_admin = tags.iter().any(|tag| tag == ADMINISTRATOR);
    if !is_admin {
        tags.push(ADMINISTRATOR.to_owned());
    }
    if is_new {
        grant_all(state, name).await?;
    }
    if made.is_some() || !is_admin {
        state.put(Table::Users, name, &record).await?;
    }
    Ok(made)
}

/// Makes `guest`, once in the life of the data.
pub(super) async fn make_guest(config: &Config, state: &StateStore) -> Result<(), StateError> {
    let made = state.get::<bool>(Table::Meta, GUEST_MADE).await?;
    if made == Some(true) || !config.guest.enabled {
        return Ok(());
    }
    let hash = SecretHash::of(&Secret::new(GUEST));
    let record = UserRecord {
        password: Some(PasswordHash::Machine(hash)),
        tags: Some(vec![ADMINISTRATOR.to_owned()]),
        limits: UserLimits::default(),
    };
    grant_all(state, GUEST).await?;
    state.put(Table::Users, GUEST, &record).await?;
    state.put(Table::Meta, GUEST_MADE, &true).await
}

async fn grant_all(state: &StateStore, user: &str) -> Result<(), StateError> {
    let grant = Grant {
        permission: Some(Permission::full()),
        topics: Vec::new(),
    };
    let key = format!("{user}\0{HOME}");
    state.put(Table::Grants, &key, &grant).await
}

/// The administrator's secret in the configuration counts, whatever is stored.
pub(super) async fn take_configured_secret(
    config: &Config,
    state: &StateStore,
    users: &Users,
    key: &TokenKey,
) -> Result<(), StateError> {
    let secret = &config.admin.secret;
    if secret.is_empty() {
        return Ok(());
    }
    let name = &config.admin.id;
    let found = state.get::<UserRecord>(Table::Users, name).await?;
    let mut record = found.unwrap_or_default();
    // The same at each start, since tokens live as long as it does; and nowhere on the disk.
    let hash = SecretHash::salted(key.salt(), secret);
    record.password = Some(PasswordHash::Machine(hash));
    users.put_in_memory(name, record);
    Ok(())
}

/// The key of tokens: that of the configuration, else one that is made once.
pub(super) async fn token_key(config: &Config, state: &StateStore) -> Result<TokenKey, StateError> {
    let configured = &config.token.secret;
    if !configured.is_empty() {
        return Ok(TokenKey::of(configured));
    }
    if let Some(kept) = state.get::<Secret>(Table::Meta, TOKEN_KEY).await? {
        return Ok(TokenKey::of(&kept));
    }
    let made = TokenKey::generate();
    state.put(Table::Meta, TOKEN_KEY, &made.expose()).await?;
    Ok(TokenKey::of(&made))
}
