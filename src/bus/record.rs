//! What the bus knows of a client, and what it accepts from whoever registers or changes one.
//!
//! Owns the rules for ids, names, topics and patterns. Pure: everything here is decided from the input
//! alone; whether an id is taken is the registry's matter.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::BusError;
use crate::auth::ClientLogin;

/// Longest `client_id`, bytes: queue names made of it must fit AMQP's 255.
pub const CLIENT_ID_BYTES_MAX: usize = 100;
/// Longest `client_name`, bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 255;
/// Longest topic and longest pattern, bytes: both are AMQP routing keys.
pub const TOPIC_BYTES_MAX: usize = 255;
/// Patterns of one client.
pub const SUBSCRIPTIONS_MAX: usize = 100;
/// How long an old secret may count beside a new one, seconds: a week.
pub const GRACE_S_MAX: u64 = 7 * 24 * 3600;
/// Longest `webhook_url`, bytes.
pub const WEBHOOK_URL_BYTES_MAX: usize = 2048;

/// The names under which a webhook's address is accepted.
const WEBHOOK_KEYS: [&str; 4] = ["webhook_url", "webhook", "push_url", "callback_url"];

/// A client as it is stored. The secret itself is nowhere: only its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRecord {
    /// Names the client, its login and its queues; never changes.
    pub client_id: String,
    /// For people.
    pub client_name: String,
    /// The topic patterns whose messages reach the inbox, without repeats.
    pub subscriptions: Vec<String>,
    /// Whether the client's own messages stay out of its inbox.
    #[serde(default)]
    pub exclude_own: bool,
    /// Where the client would like its messages pushed; kept, not used by this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<String>,
    /// How the client logs in, and whether it may. What goes on without it, such as deliveries to its inbox, goes on.
    #[serde(flatten)]
    pub login: ClientLogin,
}

impl ClientRecord {
    /// The first pattern, or nothing: the one `subscription` of the original's configuration file.
    pub fn subscription(&self) -> &str {
        self.subscriptions.first().map_or("", String::as_str)
    }
}

/// A checked request for a new client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewClient {
    /// `None`: the bus makes one.
    pub client_id: Option<String>,
    /// `None`: the id serves.
    pub client_name: Option<String>,
    /// Topic patterns; none means broadcasts only.
    pub subscriptions: Vec<String>,
    /// See [`ClientRecord::exclude_own`].
    pub exclude_own: bool,
    /// See [`ClientRecord::webhook_url`].
    pub webhook_url: Option<String>,
    /// See [`ClientLogin::disabled`].
    pub disabled: bool,
}

/// A checked change; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientPatch {
    /// A new name.
    pub client_name: Option<String>,
    /// All patterns from now on.
    pub subscriptions: Option<Vec<String>>,
    /// See [`ClientRecord::exclude_own`].
    pub exclude_own: Option<bool>,
    /// A new address, or `Some(None)` to forget it.
    pub webhook_url: Option<Option<String>>,
    /// See [`ClientLogin::disabled`].
    pub disabled: Option<bool>,
}

impl NewClient {
    /// Reads a request; fields that the bus does not know are ignored, so that a whole configuration
    /// file of the original may be posted.
    ///
    /// # Errors
    /// [`BusError::Invalid`] names the field and what is wrong with it.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, BusError> {
        let client_id = match object.get("client_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(invalid("client_id", "must be a text")),
        };
        client_id.map(check_client_id).transpose()?;
        let patch = ClientPatch::from_json(object)?;
        Ok(Self {
            client_id: client_id.map(str::to_owned),
            client_name: patch.client_name,
            subscriptions: patch.subscriptions.unwrap_or_default(),
            exclude_own: patch.exclude_own.unwrap_or_default(),
            webhook_url: patch.webhook_url.flatten(),
            disabled: patch.disabled.unwrap_or_default(),
        })
    }

    /// An id made of the name: small letters, digits, `-`, `_`, `.`; `None` if nothing usable is left.
    pub fn id_from_name(&self) -> Option<String> {
        let mut id = String::new();
        for c in self.client_name.as_deref()?.chars() {
            match c.to_ascii_lowercase() {
                c if is_id_char(c) => id.push(c),
                _ if !id.ends_with('-') => id.push('-'),
                _ => {}
            }
        }
        // Room is left for the ending that makes an id unique.
        id.truncate(CLIENT_ID_BYTES_MAX - 16);
        let id = id.trim_matches(['-', '.']).to_owned();
        check_client_id(&id).is_ok().then_some(id)
    }
}

impl ClientPatch {
    /// Reads a change; absent fields stay as they are, for PUT as for PATCH, because what the original's
    /// PUT did with them is not known.
    ///
    /// # Errors
    /// [`BusError::Invalid`] names the field and what is wrong with it.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, BusError> {
        let client_name = text(object, "client_name")?;
        if let Some(name) = client_name {
            check_length("client_name", name, CLIENT_NAME_BYTES_MAX)?;
        }
        Ok(Self {
            client_name: client_name.map(str::to_owned),
            subscriptions: subscriptions(object)?,
            exclude_own: flag(object, "exclude_own")?,
            webhook_url: webhook_url(object)?,
            disabled: flag(object, "disabled")?,
        })
    }

    /// Applies the change to a record.
    pub fn apply(self, record: &mut ClientRecord) {
        if let Some(name) = self.client_name {
            record.client_name = name;
        }
        if let Some(subscriptions) = self.subscriptions {
            record.subscriptions = subscriptions;
        }
        if let Some(exclude_own) = self.exclude_own {
            record.exclude_own = exclude_own;
        }
        if let Some(webhook_url) = self.webhook_url {
            record.webhook_url = webhook_url;
        }
        if let Some(disabled) = self.disabled {
            record.login.disabled = disabled;
        }
    }
}

/// Checks an id: letters, digits, `-`, `_`, `.`, at most 100 bytes, and no name whose queues would be
/// somebody else's. Two clients never share a queue, because none of the queue suffixes ends in another.
///
/// # Errors
/// [`BusError::Invalid`] with the field `client_id`.
pub fn check_client_id(id: &str) -> Result<(), BusError> {
    const FIELD: &str = "client_id";
    check_length(FIELD, id, CLIENT_ID_BYTES_MAX)?;
    if !id.chars().all(is_id_char) {
        return Err(invalid(
            FIELD,
            "may hold letters, digits, '-', '_' and '.' only",
        ));
    }
    if id.chars().all(|c| c == '.') {
        return Err(invalid(
            FIELD,
            "must not consist of dots: it is part of a path",
        ));
    }
    // The alias queue of a client "soar" would be the bus's own soar-broadcast.
    if id == "soar" || id.starts_with("soar-") {
        return Err(invalid(
            FIELD,
            "must not be 'soar' nor begin with 'soar-': the bus's own names do",
        ));
    }
    if id.starts_with("amq.") {
        return Err(invalid(
            FIELD,
            "must not begin with 'amq.': AMQP reserves it",
        ));
    }
    Ok(())
}

/// How long the old secret counts yet when a new one is made: `grace_s`, whole seconds; absent: not at all.
///
/// # Errors
/// [`BusError::Invalid`] with the field `grace_s`.
pub fn grace(object: &Map<String, Value>) -> Result<Duration, BusError> {
    const FIELD: &str = "grace_s";
    let seconds = match object.get(FIELD) {
        None | Some(Value::Null) => Some(0),
        // A form has texts only.
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_u64(),
    };
    let seconds = seconds.filter(|seconds| *seconds <= GRACE_S_MAX);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let reason = format!("must be a whole number of seconds, 0 to {GRACE_S_MAX}");
        invalid(FIELD, reason)
    })
}

/// Checks a topic: 1 to 255 bytes.
///
/// # Errors
/// [`BusError::Invalid`] with the field `topic`.
pub fn check_topic(topic: &str) -> Result<(), BusError> {
    check_length("topic", topic, TOPIC_BYTES_MAX)
}

pub(super) fn invalid(field: &'static str, reason: impl Into<String>) -> BusError {
    BusError::Invalid {
        field,
        reason: reason.into(),
    }
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn check_length(field: &'static str, text: &str, bytes_max: usize) -> Result<(), BusError> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(invalid(
            field,
            format!("must be 1 to {bytes_max} bytes long"),
        ));
    }
    Ok(())
}

/// A text field; null and the empty text count as absent.
fn text<'a>(
    object: &'a Map<String, Value>,
    field: &'static str,
) -> Result<Option<&'a str>, BusError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid(field, "must be a text")),
    }
}

/// Yes or no; null counts as absent.
fn flag(object: &Map<String, Value>, field: &'static str) -> Result<Option<bool>, BusError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(invalid(field, "must be true or false")),
    }
}

/// `subscriptions` or `subscription`, each a pattern or a list of patterns.
fn subscriptions(object: &Map<String, Value>) -> Result<Option<Vec<String>>, BusError> {
    let given = |field| match object.get(field) {
        None | Some(Value::Null) => None,
        Some(value) => Some((field, value)),
    };
    let (field, value) = match (given("subscriptions"), given("subscription")) {
        // An answer of ours carries both; sent back, the list is the whole truth. But who changes only
        // the single one in such an answer must not be ignored.
        (Some(list), Some(single)) if agree(list.1, single.1) => list,
        (Some(_), Some(_)) => {
            return Err(invalid(
                "subscription",
                "differs from the first of 'subscriptions': give one of the two",
            ));
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return Ok(None),
    };
    let mut patterns: Vec<String> = Vec::new();
    for value in as_list(value) {
        let Value::String(pattern) = value else {
            return Err(invalid(field, "must be a text or a list of texts"));
        };
        if pattern.is_empty() {
            continue;
        }
        check_length(field, pattern, TOPIC_BYTES_MAX)?;
        if !patterns.contains(pattern) {
            patterns.push(pattern.clone());
        }
        if patterns.len() > SUBSCRIPTIONS_MAX {
            return Err(invalid(
                field,
                format!("must have at most {SUBSCRIPTIONS_MAX} patterns"),
            ));
        }
    }
    Ok(Some(patterns))
}

/// Whether `single` says no more than `list` does.
fn agree(list: &Value, single: &Value) -> bool {
    let (list, single) = (as_list(list), as_list(single));
    single == list
        || (single.len() == 1 && list.first() == single.first())
        || (list.is_empty() && single.iter().all(|value| value.as_str() == Some("")))
}

fn as_list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        single => std::slice::from_ref(single),
    }
}

fn webhook_url(object: &Map<String, Value>) -> Result<Option<Option<String>>, BusError> {
    let Some((field, value)) = WEBHOOK_KEYS
        .iter()
        .find_map(|key| object.get(*key).map(|value| (*key, value)))
    else {
        return Ok(None);
    };
    let url = match value {
        Value::Object(inner) => inner.get("url").unwrap_or(value),
        other => other,
    };
    match url {
        Value::Null => Ok(Some(None)),
        Value::String(url) if url.is_empty() => Ok(Some(None)),
        Value::String(url) => {
            check_length(field, url, WEBHOOK_URL_BYTES_MAX)?;
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(invalid(field, "must begin with http:// or https://"));
            }
            Ok(Some(Some(url.clone())))
        }
        _ => Err(invalid(field, "must be a text or an object with 'url'")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::topology::{OWN_QUEUES, queue_names};
    use super::*;

    fn new_client(value: Value) -> Result<NewClient, BusError> {
        NewClient::from_json(value.as_object().unwrap())
    }

    fn field_of(value: Value) -> &'static str {
        match new_client(value.clone()) {
            Err(BusError::Invalid { field, .. }) => field,
            other => panic!("{value} gave {other:?}"),
        }
    }

    #[test]
    fn a_configuration_file_of_the_original_registers() {
        let client = new_client(json!({
            "api": "http://host:5000", "client_id": "noc-c2", "client_name": "NocC2",
            "subscription": "soar.noc.#", "secret": "ignored",
        }))
        .unwrap();
        assert_eq!(client.client_id.as_deref(), Some("noc-c2"));
        assert_eq!(client.client_name.as_deref(), Some("NocC2"));
        assert_eq!(client.subscriptions, ["soar.noc.#"]);
    }

    #[test]
    fn subscriptions_come_as_text_or_list_under_either_name() {
        for (value, expected) in [
            (json!({"subscription": "a.#"}), vec!["a.#"]),
            (json!({"subscription": ["a", "b", "a"]}), vec!["a", "b"]),
            (json!({"subscriptions": "a"}), vec!["a"]),
            (
                json!({"subscriptions": ["a", "b"], "subscription": "a"}),
                vec!["a", "b"],
            ),
            (json!({"subscriptions": [], "subscription": ""}), vec![]),
            (json!({"subscription": null}), vec![]),
            (json!({"subscription": ""}), vec![]),
        ] {
            assert_eq!(
                new_client(value.clone()).unwrap().subscriptions,
                expected,
                "{value}"
            );
        }
        let patch = ClientPatch::from_json(json!({"subscription": ""}).as_object().unwrap());
        assert_eq!(
            patch.unwrap().subscriptions,
            Some(vec![]),
            "an empty one ends them all"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(256);
        for (value, field) in [
            (json!({"client_id": 5}), "client_id"),
            (json!({"client_id": ""}), "client_id"),
            (json!({"client_id": "a b"}), "client_id"),
            (json!({"client_id": "x".repeat(101)}), "client_id"),
            (json!({"client_id": "ä"}), "client_id"),
            (json!({"client_id": "a/b"}), "client_id"),
            (json!({"client_id": ".."}), "client_id"),
            (json!({"client_id": "soar"}), "client_id"),
            (json!({"client_id": "soar-x"}), "client_id"),
            (json!({"client_id": "amq.x"}), "client_id"),
            (json!({"client_name": long}), "client_name"),
            (json!({"client_name": ["a"]}), "client_name"),
            (json!({"subscription": 1}), "subscription"),
            (json!({"subscriptions": ["a", 1]}), "subscriptions"),
            (json!({"subscription": long}), "subscription"),
            (
                json!({"subscription": "b", "subscriptions": ["a"]}),
                "subscription",
            ),
            (json!({"exclude_own": "yes"}), "exclude_own"),
            (json!({"disabled": 1}), "disabled"),
            (json!({"webhook": "ftp://x"}), "webhook"),
            (json!({"push_url": 3}), "push_url"),
            (json!({"webhook": {}}), "webhook"),
        ] {
            assert_eq!(field_of(value.clone()), field, "{value}");
        }
        let many: Vec<String> = (0..=SUBSCRIPTIONS_MAX).map(|n| n.to_string()).collect();
        assert_eq!(field_of(json!({"subscriptions": many})), "subscriptions");
    }

    #[test]
    fn a_grace_is_bounded() {
        let of = |value: Value| grace(json!({"grace_s": value}).as_object().unwrap());
        assert_eq!(grace(&Map::new()).unwrap(), Duration::ZERO);
        assert_eq!(of(json!(null)).unwrap(), Duration::ZERO);
        assert_eq!(of(json!(GRACE_S_MAX)).unwrap().as_secs(), GRACE_S_MAX);
        assert_eq!(of(json!("60")).unwrap().as_secs(), 60);
        for wrong in [
            json!(GRACE_S_MAX + 1),
            json!(-1),
            json!(1.5),
            json!("x"),
            json!([1]),
        ] {
            let refused = of(wrong.clone());
            assert!(
                matches!(
                    refused,
                    Err(BusError::Invalid {
                        field: "grace_s",
                        ..
                    })
                ),
                "{wrong}"
            );
        }
    }

    #[test]
    fn limits_are_inclusive() {
        let patterns: Vec<String> = (0..SUBSCRIPTIONS_MAX)
            .map(|n| format!("{n:0>255}"))
            .collect();
        let client = new_client(json!({
            "client_id": "x".repeat(CLIENT_ID_BYTES_MAX), "subscriptions": patterns,
        }))
        .unwrap();
        assert_eq!(client.subscriptions.len(), SUBSCRIPTIONS_MAX);
        assert!(check_topic(&"t".repeat(255)).is_ok());
        assert!(check_topic(&"t".repeat(256)).is_err());
        assert!(check_topic("").is_err());
    }

    #[test]
    fn webhooks_come_under_several_names_and_can_be_forgotten() {
        let url = Some("https://h/x".to_owned());
        for value in [
            json!({"webhook_url": "https://h/x"}),
            json!({"webhook": {"url": "https://h/x"}}),
            json!({"callback_url": "https://h/x"}),
        ] {
            assert_eq!(new_client(value).unwrap().webhook_url, url);
        }
        let patch = ClientPatch::from_json(json!({"webhook_url": null}).as_object().unwrap());
        assert_eq!(patch.unwrap().webhook_url, Some(None));
    }

    #[test]
    fn ids_are_made_of_names() {
        let id = |name: &str| {
            NewClient {
                client_name: Some(name.into()),
                ..NewClient::default()
            }
            .id_from_name()
        };
        assert_eq!(id("Noc C2").as_deref(), Some("noc-c2"));
        assert_eq!(id("--Überwachung (Süd)").as_deref(), Some("berwachung-s-d"));
        assert_eq!(id("..."), None);
        assert_eq!(id("SOAR"), None);
        assert_eq!(NewClient::default().id_from_name(), None);
    }

    proptest! {
        #[test]
        fn made_ids_are_always_valid(name in ".{0,300}") {
            let client = NewClient { client_name: Some(name), ..NewClient::default() };
            if let Some(id) = client.id_from_name() {
                prop_assert!(check_client_id(&id).is_ok(), "{}", id);
                prop_assert!(id.len() + 9 <= CLIENT_ID_BYTES_MAX);
            }
        }

        #[test]
        fn no_two_clients_share_a_queue(a in "[ab][ab.-]{0,5}(-inbox|-outbox)?", b in "[ab][ab.-]{0,5}(-inbox|-outbox)?") {
            prop_assume!(a != b && check_client_id(&a).is_ok() && check_client_id(&b).is_ok());
            for queue in queue_names(&a) {
                prop_assert!(!OWN_QUEUES.contains(&queue.as_str()), "{}", queue);
                prop_assert!(!queue_names(&b).contains(&queue), "{}", queue);
            }
        }
    }
}
