//! What is stored of passwords, and how they are checked.
//!
//! Three sorts: machine-made secrets ([`SecretHash`], one SHA-256); passwords that people chose here, argon2id with the
//! parameters that RFC 9106 and OWASP name for servers (19 MiB, two passes), which takes tens of milliseconds and has
//! to be done off the arbiters ([`PasswordHash::is_slow`]); and RabbitMQ's salted SHA-256 and SHA-512, as
//! definitions and `password_hash` bring them. Each is stored as one text.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::secret::{SecretHash, random};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// RabbitMQ's salt.
const RABBIT_SALT_BYTES: usize = 4;
/// How a stored argon2 hash begins, with these parameters and no others.
const ARGON2: &str = "$argon2id$v=19$m=19456,t=2,p=1$";
/// RabbitMQ's names of its ways to hash.
const RABBIT: [(&str, Sha); 2] = [
    ("rabbit_password_hashing_sha256", Sha::Sha256),
    ("rabbit_password_hashing_sha512", Sha::Sha512),
];
/// Ours, in the same place: of passwords that somebody chose, and of machine-made secrets.
const CHOSEN: &str = "argon2id";
const OWN: &str = "backbone";

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// A machine-made secret.
    Machine(SecretHash),
    /// A password that somebody chose.
    Argon2 {
        /// The salt.
        salt: [u8; SALT_BYTES],
        /// The hash.
        hash: [u8; HASH_BYTES],
    },
    /// Salt and hash as RabbitMQ stores them.
    Rabbit(Sha, Vec<u8>),
}

/// A hash function of RabbitMQ's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sha {
    /// 32 bytes.
    Sha256,
    /// 64 bytes.
    Sha512,
}

/// A hash that is not one, or of another sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    /// It is not base64, or has another length.
    #[error("the password_hash is not the base64 of salt and hash")]
    Form,
    /// Nobody here knows how it is made.
    #[error(
        "the hashing_algorithm is unknown: rabbit_password_hashing_sha256 and rabbit_password_hashing_sha512 are taken"
    )]
    Algorithm,
}

impl PasswordHash {
    /// Hashes a password that somebody chose. Slow.
    pub fn of(password: &[u8]) -> Self {
        let salt = random();
        Self::Argon2 {
            salt,
            hash: argon2id(&salt, password),
        }
    }

    /// The hash of no password, to be as slow as with one.
    pub(super) fn nobody() -> Self {
        Self::Argon2 {
            salt: random(),
            hash: random(),
        }
    }

    /// What RabbitMQ shows of a password: its hash, and how that is made.
    ///
    /// # Errors
    /// It cannot be one.
    pub fn import(hash: &str, algorithm: Option<&str>) -> Result<Self, BadHash> {
        let algorithm = algorithm.unwrap_or(RABBIT[0].0);
        if [OWN, CHOSEN].contains(&algorithm) {
            return parse(hash).ok_or(BadHash::Form);
        }
        let known = RABBIT.iter().find(|(name, _)| *name == algorithm);
        let (_, sha) = known.ok_or(BadHash::Algorithm)?;
        let bytes = STANDARD.decode(hash).map_err(|_| BadHash::Form)?;
        match bytes.len() == RABBIT_SALT_BYTES + sha.bytes() {
            true => Ok(Self::Rabbit(*sha, bytes)),
            false => Err(BadHash::Form),
        }
    }

    /// The hash, and how it is made: what [`PasswordHash::import`] takes.
    pub fn export(&self) -> (String, &'static str) {
        match self {
            Self::Rabbit(sha, bytes) => (STANDARD.encode(bytes), sha.name()),
            Self::Argon2 { .. } => (self.text(), CHOSEN),
            Self::Machine(_) => (self.text(), OWN),
        }
    }

    /// Whether checking takes long, and memory.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Argon2 { .. })
    }

    /// Whether `candidate` is the password; takes the same time whether or not. An empty one never is.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let same = match self {
            Self::Machine(hash) => hash.matches(candidate),
            Self::Argon2 { salt, hash } => argon2id(salt, candidate).ct_eq(hash).into(),
            Self::Rabbit(sha, bytes) => {
                let (salt, hash) = bytes.split_at(RABBIT_SALT_BYTES);
                sha.digest(salt, candidate).ct_eq(hash).into()
            }
        };
        same && !candidate.is_empty()
    }

    /// As it is stored.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Machine(hash) => hash.to_string(),
            Self::Argon2 { salt, hash } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                format!("{ARGON2}{salt}${hash}")
            }
            Self::Rabbit(sha, bytes) => format!("{}${}", sha.name(), STANDARD.encode(bytes)),
        }
    }
}

impl Sha {
    fn name(self) -> &'static str {
        let mut named = RABBIT.iter().filter(|(_, sha)| *sha == self);
        named.next().map_or("", |(name, _)| name)
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        fn of<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
            let digest = D::new().chain_update(salt).chain_update(password);
            digest.finalize().to_vec()
        }
        match self {
            Self::Sha256 => of::<Sha256>(salt, password),
            Self::Sha512 => of::<Sha512>(salt, password),
        }
    }
}

fn argon2id(salt: &[u8; SALT_BYTES], password: &[u8]) -> [u8; HASH_BYTES] {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES));
    let params = params.expect("the parameters are constants");
    let mut hash = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut hash)
        .expect("the lengths are within argon2's");
    hash
}

fn parse(text: &str) -> Option<PasswordHash> {
    if let Some(rest) = text.strip_prefix(ARGON2) {
        let (salt, hash) = rest.split_once('$')?;
        return Some(PasswordHash::Argon2 {
            salt: STANDARD_NO_PAD.decode(salt).ok()?.try_into().ok()?,
            hash: STANDARD_NO_PAD.decode(hash).ok()?.try_into().ok()?,
        });
    }
    if let Some(hash) = SecretHash::parse(text) {
        return Some(PasswordHash::Machine(hash));
    }
    let (algorithm, hash) = text.split_once('$')?;
    PasswordHash::import(hash, Some(algorithm)).ok()
}

/// Shows nothing: not even a hash belongs in a log.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom("not a stored password"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn stored(hash: &PasswordHash) -> PasswordHash {
        let text = serde_json::to_string(hash).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn every_sort_survives_storage_and_export() {
        let secret = Secret::new("machine");
        let machine = PasswordHash::Machine(SecretHash::of(&secret));
        let chosen = PasswordHash::of(b"machine");
        assert!(chosen.is_slow() && !machine.is_slow());
        for hash in [machine, chosen] {
            let (text, algorithm) = hash.export();
            let imported = PasswordHash::import(&text, Some(algorithm)).unwrap();
            for hash in [stored(&hash), imported] {
                assert!(hash.matches(b"machine") && !hash.matches(b"other"));
            }
        }
        assert_ne!(PasswordHash::of(b"same"), PasswordHash::of(b"same"));
    }

    #[test]
    fn hashes_that_rabbitmq_made_are_taken() {
        // RabbitMQ 3.10.8's own of the password `guest`.
        let hash = "V2DFJYz5yhqI4GYcdxd9WL9WXUPSPho2+PntvmtIPy0oFyE4";
        let guest = PasswordHash::import(hash, None).unwrap();
        assert!(stored(&guest).matches(b"guest") && !guest.matches(b"Guest"));
        assert_eq!(
            guest.export(),
            (hash.to_owned(), "rabbit_password_hashing_sha256")
        );
        let bytes = [&b"salt"[..], &Sha::Sha512.digest(b"salt", b"p")].concat();
        let text = STANDARD.encode(bytes);
        let long = PasswordHash::import(&text, Some("rabbit_password_hashing_sha512")).unwrap();
        assert!(stored(&long).matches(b"p") && !long.matches(b"q"));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_an_empty_password_is_none() {
        let sha256 = Some("rabbit_password_hashing_sha256");
        let md5 = Some("rabbit_password_hashing_md5");
        assert_eq!(PasswordHash::import("zzz", None), Err(BadHash::Form));
        assert_eq!(PasswordHash::import("YQ==", sha256), Err(BadHash::Form));
        assert_eq!(PasswordHash::import("YQ==", md5), Err(BadHash::Algorithm));
        assert_eq!(
            PasswordHash::import("$argon2id$", Some(OWN)),
            Err(BadHash::Form)
        );
        let empty = [&b"salt"[..], &Sha::Sha256.digest(b"salt", b"")].concat();
        let empty = PasswordHash::import(&STANDARD.encode(empty), None).unwrap();
        assert!(!empty.matches(b""));
    }
}
