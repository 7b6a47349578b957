//! Machine-made secrets and the salted hashes that are stored of them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::Secret;

const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// The first word of a stored hash; another method would get another word.
const METHOD: &str = "sha256";

/// A new secret: 32 random bytes as url-safe base64 without padding (43 characters).
pub fn generate_secret() -> Secret {
    let bytes = Zeroizing::new(random::<SECRET_BYTES>());
    Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

/// The salted SHA-256 of a machine-made secret: with 256 random bits behind it a slow hash buys nothing.
/// Stored as `sha256$<salt>$<hash>`, both base64.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash {
    salt: [u8; SALT_BYTES],
    hash: [u8; HASH_BYTES],
}

impl SecretHash {
    /// Hashes `secret` with a new salt.
    pub fn of(secret: &Secret) -> Self {
        Self::salted(random(), secret)
    }

    /// Hashes `secret` with this salt.
    pub(super) fn salted(salt: [u8; SALT_BYTES], secret: &Secret) -> Self {
        Self {
            salt,
            hash: digest(&salt, secret.expose().as_bytes()),
        }
    }

    /// Reads it as it is stored.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (salt, hash) = text
            .strip_prefix(METHOD)?
            .strip_prefix('$')?
            .split_once('$')?;
        let salt = URL_SAFE_NO_PAD.decode(salt).ok()?.try_into().ok()?;
        let hash = URL_SAFE_NO_PAD.decode(hash).ok()?.try_into().ok()?;
        Some(Self { salt, hash })
    }

    /// Whether `candidate` is the secret; takes the same time whether or not.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        digest(&self.salt, candidate).ct_eq(&self.hash).into()
    }
}

/// Shows nothing: not even a hash belongs in a log.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// As it is stored.
impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, hash) = (
            URL_SAFE_NO_PAD.encode(self.salt),
            URL_SAFE_NO_PAD.encode(self.hash),
        );
        write!(f, "{METHOD}${salt}${hash}")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a stored secret"))
    }
}

fn digest(salt: &[u8; SALT_BYTES], secret: &[u8]) -> [u8; HASH_BYTES] {
    Sha256::new()
        .chain_update(salt)
        .chain_update(secret)
        .finalize()
        .into()
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("without random numbers from the system no secret is safe");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_url_safe_and_differ() {
        let (a, b) = (generate_secret(), generate_secret());
        assert_eq!(a.expose().len(), 43);
        assert!(
            a.expose()
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
        assert!(a != b);
    }

    #[test]
    fn a_hash_survives_storage_and_is_salted() {
        let secret = generate_secret();
        let hash = SecretHash::of(&secret);
        let stored = serde_json::to_string(&hash).unwrap();
        let loaded: SecretHash = serde_json::from_str(&stored).unwrap();
        assert!(loaded.matches(secret.expose().as_bytes()));
        assert!(!loaded.matches(b"other"));
        assert_ne!(SecretHash::of(&secret), hash);
        assert!(serde_json::from_str::<SecretHash>("\"md5$a$b\"").is_err());
    }
}
