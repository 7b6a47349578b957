//! The document: RabbitMQ's JSON of definitions, read item by item, so that whatever is wrong is named.
//!
//! Shapes of all releases from 3.8 to 4.x are read. What nobody here knows is passed over and noted.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::DefinitionsError;
use crate::auth::UserLimits;
use crate::engine::ApplyTo;

/// What is at the top beside the lists: who wrote it, and for whom.
const HEADER: [&str; 12] = [
    "rabbit_version",
    "rabbitmq_version",
    "rabbitmq_definition_format",
    "product_name",
    "product_version",
    "original_cluster_name",
    "original_vhost_name",
    "default_queue_type",
    "description",
    "explanation",
    "metadata",
    "tags",
];
/// Lists that belong to no single vhost.
const OF_THE_NODE: [&str; 5] = [
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "global_parameters",
];
/// Notes about one document at the most.
const NOTES_MAX: usize = 100;

/// Everything that a document says.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub vhosts: Vec<Item<VhostItem>>,
    pub users: Vec<Item<UserItem>>,
    pub permissions: Vec<Item<PermissionItem>>,
    pub topic_permissions: Vec<Item<TopicPermissionItem>>,
    pub parameters: Vec<Item<ParameterItem>>,
    pub global_parameters: Vec<Item<GlobalParameterItem>>,
    pub policies: Vec<Item<PolicyItem>>,
    pub queues: Vec<Item<QueueItem>>,
    pub exchanges: Vec<Item<ExchangeItem>>,
    pub bindings: Vec<Item<BindingItem>>,
    pub notes: Notes,
}

/// What is no error and somebody should know.
#[derive(Debug, Default)]
pub struct Notes(Vec<String>);

impl Notes {
    pub(super) fn add(&mut self, note: String) {
        match self.0.len() {
            NOTES_MAX => self.0.push("and so on".into()),
            len if len > NOTES_MAX => {}
            _ => self.0.push(note),
        }
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Something in a list, and where.
#[derive(Debug)]
pub(super) struct Item<T> {
    pub list: &'static str,
    pub index: usize,
    pub is: T,
}

impl<T: Named> Item<T> {
    /// `queues[3] 'orders' in vhost '/'`.
    pub fn place(&self) -> String {
        let (list, index, name) = (self.list, self.index, self.is.name());
        match self.is.vhost() {
            Some(vhost) => format!("{list}[{index}] '{name}' in vhost '{vhost}'"),
            None => format!("{list}[{index}] '{name}'"),
        }
    }

    /// That this is what is wrong.
    pub fn wrong(&self, problem: impl std::fmt::Display) -> DefinitionsError {
        DefinitionsError::Wrong(format!("{}: {problem}", self.place()))
    }
}

/// How people tell items apart.
pub(super) trait Named {
    fn name(&self) -> &str;
    fn vhost(&self) -> Option<&str>;
    /// Fields that nobody here knows.
    fn rest(&self) -> &Map<String, Value>;
}

macro_rules! items {
    ($($(#[$doc:meta])* $item:ident, $name:ident, $in_vhost:expr, $skipped:expr, { $($fields:tt)* })*) => {
        $($(#[$doc])*
        #[derive(Debug, Deserialize)]
        pub(super) struct $item {
            $($fields)*
            #[serde(flatten)]
            rest: Map<String, Value>,
        }

        impl Named for $item {
            fn name(&self) -> &str {
                &self.$name
            }

            fn vhost(&self) -> Option<&str> {
                let of: fn(&Self) -> Option<&str> = $in_vhost;
                of(self)
            }

            fn rest(&self) -> &Map<String, Value> {
                &self.rest
            }
        })*

        /// Fields that mean nothing here, but are no surprise.
        fn is_known_to_mean_nothing(list: &str, field: &str) -> bool {
            let skipped: &[(&str, &[&str])] = &[$($skipped),*];
            skipped.iter().any(|(of, fields)| *of == list && fields.contains(&field))
        }
    };
}

items! {
    /// A vhost.
    VhostItem, name, |_| None, ("vhosts", &["tracing", "default_queue_type", "limits", "cluster_state", "protected_from_deletion"]), {
        pub name: String,
        pub description: Option<String>,
        #[serde(default, deserialize_with = "maybe_words")]
        pub tags: Option<Vec<String>>,
        pub metadata: Option<VhostMetadata>,
    }
    /// A user.
    UserItem, name, |_| None, ("users", &[]), {
        pub name: String,
        pub password: Option<String>,
        pub password_hash: Option<String>,
        pub hashing_algorithm: Option<String>,
        #[serde(default, deserialize_with = "maybe_words")]
        pub tags: Option<Vec<String>>,
        #[serde(default, deserialize_with = "maybe_object")]
        limits: Option<Map<String, Value>>,
    }
    /// What a user may do in a vhost.
    PermissionItem, user, |it| Some(&it.vhost), ("permissions", &[]), {
        pub user: String,
        pub vhost: String,
        pub configure: String,
        pub write: String,
        pub read: String,
    }
    /// Routing keys of a topic exchange that a user may use.
    TopicPermissionItem, user, |it| Some(&it.vhost), ("topic_permissions", &[]), {
        pub user: String,
        pub vhost: String,
        pub exchange: String,
        pub write: String,
        pub read: String,
    }
    /// A parameter of a vhost.
    ParameterItem, name, |it| Some(&it.vhost), ("parameters", &[]), {
        pub component: String,
        pub vhost: String,
        pub name: String,
        pub value: Value,
    }
    /// A parameter of the node.
    GlobalParameterItem, name, |_| None, ("global_parameters", &[]), {
        pub name: String,
        pub value: Value,
    }
    /// A policy; an operator's is a parameter.
    PolicyItem, name, |it| Some(&it.vhost), ("policies", &[]), {
        pub vhost: String,
        pub name: String,
        pub pattern: String,
        #[serde(rename = "apply-to", default)]
        pub apply_to: ApplyTo,
        #[serde(deserialize_with = "object")]
        pub definition: Map<String, Value>,
        #[serde(default)]
        pub priority: i64,
    }
    /// A queue.
    QueueItem, name, |it| Some(&it.vhost), ("queues", &["exclusive"]), {
        pub vhost: String,
        pub name: String,
        #[serde(default = "yes")]
        pub durable: bool,
        #[serde(default)]
        pub auto_delete: bool,
        #[serde(default, deserialize_with = "object")]
        pub arguments: Map<String, Value>,
        /// From 3.13 on, for queues that do not name their type themselves.
        #[serde(rename = "type")]
        pub kind: Option<String>,
    }
    /// An exchange.
    ExchangeItem, name, |it| Some(&it.vhost), ("exchanges", &[]), {
        pub vhost: String,
        pub name: String,
        #[serde(rename = "type")]
        pub kind: String,
        #[serde(default = "yes")]
        pub durable: bool,
        #[serde(default)]
        pub auto_delete: bool,
        #[serde(default)]
        pub internal: bool,
        #[serde(default, deserialize_with = "object")]
        pub arguments: Map<String, Value>,
    }
    /// A binding.
    BindingItem, source, |it| Some(&it.vhost), ("bindings", &["properties_key"]), {
        pub vhost: String,
        pub source: String,
        pub destination: String,
        #[serde(default = "queue")]
        pub destination_type: String,
        #[serde(default)]
        pub routing_key: String,
        #[serde(default, deserialize_with = "object")]
        pub arguments: Map<String, Value>,
    }
}

/// What is said of a vhost, in another place.
#[derive(Debug, Deserialize)]
pub(super) struct VhostMetadata {
    pub description: Option<String>,
    #[serde(default, deserialize_with = "maybe_words")]
    pub tags: Option<Vec<String>>,
}

impl UserItem {
    /// Its limits, if it says anything of them.
    pub fn limits(&self) -> Result<Option<UserLimits>, String> {
        let Some(limits) = &self.limits else {
            return Ok(None);
        };
        let known = ["max-connections", "max-channels"];
        if let Some(other) = limits.keys().find(|it| !known.contains(&it.as_str())) {
            return Err(format!("Unrecognised terms [{other}] in limits"));
        }
        let limits = serde_json::from_value(Value::Object(limits.clone()));
        limits.map(Some).map_err(|error| format!("limits: {error}"))
    }
}

impl Document {
    /// Reads a document; what it says of vhosts is all said of `vhost`, if one is given.
    pub fn read(json: &[u8], vhost: Option<&str>) -> Result<Self, DefinitionsError> {
        let read: Value = serde_json::from_slice(json)
            .map_err(|error| DefinitionsError::NotJson(error.to_string()))?;
        let Value::Object(mut top) = read else {
            return Err(DefinitionsError::NotJson("it is no object".into()));
        };
        let mut document = Self::default();
        let notes = &mut document.notes;
        if vhost.is_some() {
            for list in OF_THE_NODE {
                if top.remove(list).is_some() {
                    notes.add(format!("{list} are of no single vhost, and are left out"));
                }
            }
        }
        // In the order in which they build on each other.
        document.vhosts = items("vhosts", &mut top, None, notes)?;
        document.users = items("users", &mut top, None, notes)?;
        document.permissions = items("permissions", &mut top, None, notes)?;
        document.topic_permissions = items("topic_permissions", &mut top, None, notes)?;
        document.parameters = items("parameters", &mut top, vhost, notes)?;
        document.global_parameters = items("global_parameters", &mut top, None, notes)?;
        document.policies = items("policies", &mut top, vhost, notes)?;
        document.queues = items("queues", &mut top, vhost, notes)?;
        document.exchanges = items("exchanges", &mut top, vhost, notes)?;
        document.bindings = items("bindings", &mut top, vhost, notes)?;
        for unknown in top.keys().filter(|it| !HEADER.contains(&it.as_str())) {
            notes.add(format!("{unknown} means nothing here"));
        }
        Ok(document)
    }
}

fn items<T: DeserializeOwned + Named>(
    list: &'static str,
    top: &mut Map<String, Value>,
    vhost: Option<&str>,
    notes: &mut Notes,
) -> Result<Vec<Item<T>>, DefinitionsError> {
    let values = match top.remove(list) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(_) => return Err(DefinitionsError::Wrong(format!("{list} is no list"))),
    };
    let mut items = Vec::with_capacity(values.len());
    for (index, mut value) in values.into_iter().enumerate() {
        if let (Some(vhost), Some(fields)) = (vhost, value.as_object_mut()) {
            fields.insert("vhost".into(), vhost.into());
        }
        let name = value["name"].as_str().map(|it| format!(" '{it}'"));
        let is: T = serde_json::from_value(value).map_err(|error| {
            let name = name.unwrap_or_default();
            DefinitionsError::Wrong(format!("{list}[{index}]{name}: {error}"))
        })?;
        let item = Item { list, index, is };
        let unknown = item.is.rest().keys();
        for field in unknown.filter(|it| !is_known_to_mean_nothing(list, it)) {
            notes.add(format!("{}: {field} means nothing here", item.place()));
        }
        items.push(item);
    }
    Ok(items)
}

fn yes() -> bool {
    true
}

fn queue() -> String {
    "queue".to_owned()
}

/// An object; Erlang writes an empty one as an empty list now and then.
fn object<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    maybe_object(from).map(Option::unwrap_or_default)
}

fn maybe_object<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Map<String, Value>>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::Object(object) => Ok(Some(object)),
        Value::Array(empty) if empty.is_empty() => Ok(Some(Map::new())),
        other => Err(serde::de::Error::custom(format!("{other} is no object"))),
    }
}

/// Words in a list, or with commas in one text, as before 3.9.
fn maybe_words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let wrong = |value: &Value| serde::de::Error::custom(format!("{value} is no list of words"));
    let words: Vec<String> = match Value::deserialize(from)? {
        Value::Null => return Ok(None),
        Value::String(text) => text.split(',').map(|it| it.trim().to_owned()).collect(),
        Value::Array(items) => {
            let words = items.iter().map(|it| it.as_str().map(str::to_owned));
            words
                .collect::<Option<_>>()
                .ok_or_else(|| wrong(&Value::Array(items)))?
        }
        other => return Err(wrong(&other)),
    };
    Ok(Some(
        words.into_iter().filter(|it| !it.is_empty()).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Document, String> {
        Document::read(json.as_bytes(), None).map_err(|error| error.to_string())
    }

    #[test]
    fn shapes_of_other_releases_are_read() {
        let document = read(
            r#"{"rabbit_version": "4.1.0", "rabbitmq_definition_format": "cluster", "surprise": [],
            "users": [
                {"name": "a", "password_hash": "", "tags": "administrator, monitoring", "limits": []},
                {"name": "b", "password_hash": "", "tags": ["x"], "limits": {"max-channels": 2}},
                {"name": "c", "password_hash": ""}],
            "vhosts": [
                {"name": "v", "description": "d", "tags": [], "metadata": {"description": "d", "tags": ["t"]}, "default_queue_type": "classic"},
                {"name": "w", "limits": [], "metadata": {"tags": "p,q"}}],
            "queues": [
                {"name": "q", "vhost": "v", "arguments": [], "type": "quorum", "colour": "red"},
                {"name": "r", "vhost": "v", "durable": false, "auto_delete": true, "exclusive": false, "arguments": null}],
            "bindings": [{"source": "x", "vhost": "v", "destination": "q", "destination_type": "queue", "properties_key": "~"}]}"#,
        )
        .unwrap();
        let tags: Vec<_> = document.users.iter().map(|it| it.is.tags.clone()).collect();
        let list = |words: &[&str]| Some(words.iter().map(|&it| it.to_owned()).collect::<Vec<_>>());
        assert_eq!(
            tags,
            [list(&["administrator", "monitoring"]), list(&["x"]), None]
        );
        let limits: Vec<_> = document
            .users
            .iter()
            .map(|it| it.is.limits().unwrap())
            .collect();
        let two = UserLimits {
            max_channels: Some(2),
            ..UserLimits::default()
        };
        assert_eq!(limits, [Some(UserLimits::default()), Some(two), None]);
        let metadata = document.vhosts[1].is.metadata.as_ref().unwrap();
        assert_eq!(metadata.tags, list(&["p", "q"]));
        let durable = document
            .queues
            .iter()
            .map(|it| (it.is.durable, it.is.auto_delete));
        assert_eq!(durable.collect::<Vec<_>>(), [(true, false), (false, true)]);
        let notes: Vec<_> = document.notes.iter().collect();
        assert_eq!(
            notes,
            [
                "queues[0] 'q' in vhost 'v': colour means nothing here",
                "surprise means nothing here"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (json, problem) in [
            ("{", "EOF"),
            ("[]", "no object"),
            (r#"{"queues": 1}"#, "queues is no list"),
            (
                r#"{"queues": [{"name": "q", "vhost": "/"}, {"name": "r"}]}"#,
                "queues[1] 'r': missing field `vhost`",
            ),
            (
                r#"{"queues": [{"name": "q", "vhost": "/", "durable": 1}]}"#,
                "queues[0] 'q': invalid type: integer",
            ),
            (
                r#"{"queues": [{"name": "q", "vhost": "/", "arguments": [1]}]}"#,
                "queues[0] 'q': [1] is no object",
            ),
            (
                r#"{"users": [{"name": "u", "tags": [1]}]}"#,
                "users[0] 'u': [1] is no list of words",
            ),
            (r#"{"users": [7]}"#, "users[0]: invalid type"),
        ] {
            let told = read(json).unwrap_err();
            assert!(told.contains(problem), "{json}: {told}");
        }
    }

    #[test]
    fn items_of_one_vhost_need_not_name_it() {
        let json = r#"{"queues": [{"name": "q", "vhost": "other"}, {"name": "r"}], "users": [{"name": "u"}]}"#;
        let document = Document::read(json.as_bytes(), Some("v")).unwrap();
        let vhosts: Vec<_> = document
            .queues
            .iter()
            .map(|it| it.is.vhost.as_str())
            .collect();
        assert_eq!((vhosts, document.users.len()), (vec!["v", "v"], 0));
        assert_eq!(document.notes.iter().count(), 1);
    }

    #[test]
    fn notes_are_bounded() {
        let mut notes = Notes::default();
        for number in 0..1000 {
            notes.add(number.to_string());
        }
        assert_eq!(notes.iter().count(), NOTES_MAX + 1);
        assert_eq!(notes.iter().last(), Some("and so on"));
    }
}
