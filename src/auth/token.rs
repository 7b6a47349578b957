//! Bearer tokens: signed, and good for as long as what they were made with.
//!
//! A token is a JWT (RFC 7519) under HS256. Who it is for, when it ends, and a fingerprint of what is stored of the secret
//! that it was made with are in it; there is no list of tokens. Whoever is deleted, disabled or gets another secret has another
//! fingerprint or none, and so the old tokens end. The header is always the same text: what a token says of its own algorithm
//! is never looked at. Pure, but for [`unix_now_s`]: time is an argument.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::hmac::hmac_sha256;
use super::secret::random;
use crate::config::Secret;

/// `{"alg":"HS256","typ":"JWT"}`
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
/// What fingerprints begin with before they are hashed; no token does.
const FINGERPRINT: &[u8] = b"fingerprint\0";
const FINGERPRINT_BYTES: usize = 16;
/// What the salt is made of; neither a token nor what a fingerprint is made of begins so.
const SALT: &[u8] = b"salt\0";
/// The longest token that is looked at, bytes: more than the longest name makes.
const TOKEN_BYTES_MAX: usize = 4096;

/// Why a token is refused. Whose it is, and what became of them, is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was not made by this server with the key of now.
    #[error("the token is malformed, or another server's: get another one from /token")]
    Malformed,
    /// Its time is over.
    #[error("the token has expired: get another one from /token")]
    Expired,
    /// Whom it is for may not log in any more, or has another secret now.
    #[error("the token was revoked: what it was made with does not count any more")]
    Revoked,
    /// It counts on the server's own machine only.
    #[error("the token counts on the server's own machine only")]
    Elsewhere,
}

/// A token that was made just now.
#[derive(Debug)]
pub struct Token {
    /// The token itself.
    pub text: Secret,
    /// How long it lives, seconds.
    pub lifetime_s: u64,
    /// When it ends, seconds of Unix time.
    pub expires_s: u64,
}

/// What stands for a stored secret in tokens: another hash, even of the same secret, has another one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

/// Whom a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Holder {
    Client,
    User,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The name.
    pub sub: String,
    pub kind: Holder,
    /// When it was made, seconds of Unix time.
    pub iat: u64,
    /// When it ends, likewise.
    pub exp: u64,
    pub fp: Fingerprint,
}

/// Makes and reads tokens.
pub(super) struct TokenKey(Zeroizing<[u8; 32]>);

impl TokenKey {
    /// The key behind a text: 32 bytes as url-safe base64 are it, of anything else the hash is.
    pub fn of(text: &Secret) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode(text.expose().trim_end_matches('='));
        let bytes = bytes.ok().map(Zeroizing::new);
        let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        let key = key.unwrap_or_else(|| Sha256::digest(text.expose()).into());
        Self(Zeroizing::new(key))
    }

    /// A new text for a key.
    pub fn generate() -> Secret {
        let key = Zeroizing::new(random::<32>());
        Secret::new(URL_SAFE_NO_PAD.encode(key.as_slice()))
    }

    /// A salt that nobody else knows, for what is hashed anew at each start and has to be the same.
    pub fn salt(&self) -> [u8; FINGERPRINT_BYTES] {
        let code = hmac_sha256(&self.0, &[SALT]);
        let (begin, _) = code.split_at(FINGERPRINT_BYTES);
        begin.try_into().expect("a code has 32 bytes")
    }

    /// The fingerprint of what is stored of a secret. Who holds a token cannot try secrets on it.
    pub fn fingerprint(&self, stored: &str) -> Fingerprint {
        let code = hmac_sha256(&self.0, &[FINGERPRINT, stored.as_bytes()]);
        let (begin, _) = code.split_at(FINGERPRINT_BYTES);
        Fingerprint(begin.try_into().expect("a code has 32 bytes"))
    }

    /// The token that says `claims`.
    pub fn sign(&self, claims: &Claims) -> Secret {
        let claims = serde_json::to_vec(claims).expect("texts and numbers always encode");
        let claims = URL_SAFE_NO_PAD.encode(claims);
        let code = URL_SAFE_NO_PAD.encode(self.code(&claims));
        Secret::new(format!("{HEADER}.{claims}.{code}"))
    }

    /// What a token says, if it was made with this key and is not over.
    pub fn read(&self, token: &str, now_s: u64) -> Result<Claims, TokenError> {
        let claims = self.signed(token).ok_or(TokenError::Malformed)?;
        match now_s < claims.exp {
            true => Ok(claims),
            false => Err(TokenError::Expired),
        }
    }

    fn signed(&self, token: &str) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let rest = token.strip_prefix(HEADER)?.strip_prefix('.')?;
        let (claims, code) = rest.split_once('.')?;
        let code = URL_SAFE_NO_PAD.decode(code).ok()?;
        let ours: bool = self.code(claims).as_slice().ct_eq(&code).into();
        let claims = ours.then(|| URL_SAFE_NO_PAD.decode(claims).ok())??;
        serde_json::from_slice(&claims).ok()
    }

    fn code(&self, claims: &str) -> [u8; 32] {
        hmac_sha256(&self.0, &[HEADER.as_bytes(), b".", claims.as_bytes()])
    }
}

impl Fingerprint {
    /// Whether both are the same; takes the same time whether or not.
    pub(super) fn is(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Shows nothing, as hashes do.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("not a fingerprint"))
    }
}

/// Seconds of Unix time.
pub(super) fn unix_now_s() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> TokenKey {
        TokenKey::of(&Secret::new("key"))
    }

    fn claims(key: &TokenKey) -> Claims {
        Claims {
            sub: "noc-c2".into(),
            kind: Holder::Client,
            iat: 100,
            exp: 200,
            fp: key.fingerprint("sha256$a$b"),
        }
    }

    #[test]
    fn a_token_says_what_was_signed_until_it_ends() {
        let key = key();
        let claims = claims(&key);
        let token = key.sign(&claims);
        assert_eq!(key.read(token.expose(), 0), Ok(claims.clone()));
        assert_eq!(key.read(token.expose(), 199), Ok(claims));
        assert_eq!(key.read(token.expose(), 200), Err(TokenError::Expired));
        let other = TokenKey::of(&Secret::new("other"));
        assert_eq!(other.read(token.expose(), 0), Err(TokenError::Malformed));
    }

    #[test]
    fn it_is_a_jwt_whose_claims_anybody_can_read() {
        let key = key();
        let token = key.sign(&claims(&key));
        let parts: Vec<_> = token.expose().split('.').collect();
        let json = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(
            json(parts[0]),
            serde_json::json!({"alg": "HS256", "typ": "JWT"})
        );
        let said = json(parts[1]);
        assert_eq!(
            (&said["sub"], &said["kind"]),
            (&"noc-c2".into(), &"client".into())
        );
        assert_eq!((&said["iat"], &said["exp"]), (&100.into(), &200.into()));
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn another_algorithm_is_no_token_even_with_a_fitting_code() {
        let key = key();
        let token = key.sign(&claims(&key));
        let (_, rest) = token.expose().split_once('.').unwrap();
        let (said, _) = rest.split_once('.').unwrap();
        for header in [r#"{"alg":"none"}"#, r#"{"typ":"JWT","alg":"HS256"}"#] {
            let header = URL_SAFE_NO_PAD.encode(header);
            let code = hmac_sha256(&key.0, &[header.as_bytes(), b".", said.as_bytes()]);
            let code = URL_SAFE_NO_PAD.encode(code);
            for forged in [
                format!("{header}.{said}.{code}"),
                format!("{header}.{said}."),
            ] {
                assert_eq!(key.read(&forged, 0), Err(TokenError::Malformed), "{forged}");
            }
        }
    }

    #[test]
    fn keys_come_as_base64_or_as_any_text() {
        let text = TokenKey::generate();
        assert_eq!(text.expose().len(), 43);
        let padded = Secret::new(format!("{}=", text.expose()));
        let bytes = URL_SAFE_NO_PAD.decode(text.expose()).unwrap();
        for text in [&text, &padded] {
            assert_eq!(&TokenKey::of(text).0[..], bytes);
        }
        let hashed: [u8; 32] = Sha256::digest("key").into();
        assert_eq!(*key().0, hashed);
        assert_ne!(*key().0, *TokenKey::of(&text).0);
    }

    proptest! {
        #[test]
        fn what_was_not_signed_is_refused(at in 0..1000usize, flip in 1..=255u8, tail in ".{0,20}") {
            let key = key();
            let token = key.sign(&claims(&key));
            let mut bytes = token.expose().as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let changed = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(key.read(&changed, 0), Err(TokenError::Malformed));
            prop_assert_eq!(key.read(&tail, 0), Err(TokenError::Malformed));
            let longer = format!("{}{tail}x", token.expose());
            prop_assert_eq!(key.read(&longer, 0), Err(TokenError::Malformed));
        }
    }
}
