//! One entry of the audit, as it is stored: JSON, of which later versions may have more fields.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What somebody did, or tried to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// When, ms of Unix time.
    pub time_ms: u64,
    /// What, from the general to the special: `clients.secret.create`.
    pub action: String,
    /// Who: a user's name or a `client_id`; for a login that failed, whatever was given. None: anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// What sort of party that is, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Where from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The client of the bus that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The path that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The fields that were given, where that is noted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// The status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How many refusals of this sort were left out before this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// What sort of party somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A client of the bus.
    Client,
    /// A user.
    User,
}

/// What came of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    #[default]
    Done,
    /// It was not allowed or not possible, and nothing was changed.
    Refused,
    /// The server failed; it may have been done in part.
    Failed,
}

impl Entry {
    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always encode")
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Outcome {
    /// By the status of an answer.
    pub fn of(status: u16) -> Self {
        match status {
            0..400 => Self::Done,
            400..500 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_storage_and_takes_fields_of_later_versions() {
        let entry = Entry {
            time_ms: 1,
            action: "clients.update".into(),
            kind: Some(Kind::User),
            from: Some([127, 0, 0, 1].into()),
            fields: vec!["disabled".into()],
            outcome: Outcome::of(403),
            status: Some(403),
            ..Entry::default()
        };
        assert_eq!(Entry::read(&entry.bytes()), Some(entry));
        let later = br#"{"time_ms":1,"action":"message.moved","topic":"t"}"#;
        assert_eq!(Entry::read(later).unwrap().action, "message.moved");
        assert_eq!(Entry::read(b"\xff"), None);
    }
}
