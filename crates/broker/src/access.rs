//! What a connection may do.
//!
//! A user's rights in a vhost are one [`Rights`] that all of its connections share, so that a change reaches them at
//! once. What a publisher may do is looked at when it resolves a route, and kept with the route: whoever changes rights
//! calls [`crate::topology::Topology::touch`], which voids kept routes.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::error::Error;
use crate::pattern::{BadPattern, Pattern};
use crate::quota::{Full, Place, Quota};

/// What a connection may do.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everything: the server itself.
    Full,
    /// A client of the bus: writes its outbox, notify and broadcast through the default exchange,
    /// reads its inbox, nothing else.
    BusClient(Arc<str>),
    /// What a user's permissions say.
    User(UserAccess),
}

/// The access of a user to a vhost.
#[derive(Debug, Clone)]
pub struct UserAccess {
    /// What the permissions say now.
    pub rights: Arc<Rights>,
    /// How many channels all of the user's connections have.
    pub channels: Arc<Quota>,
    /// May publish with any `user-id`. As RabbitMQ, what it was at login.
    pub impersonator: bool,
}

/// The rights of a user in a vhost, for all of its connections; they can be changed.
#[derive(Debug, Default)]
pub struct Rights(ArcSwapOption<Rules>);

/// What the rights are.
#[derive(Debug)]
pub struct Rules {
    permission: Option<Triple>,
    topics: Vec<TopicRule>,
}

#[derive(Debug)]
struct Triple {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

#[derive(Debug)]
struct TopicRule {
    exchange: Box<str>,
    write: Pattern,
    read: Pattern,
}

/// Rights as they are written down. Patterns are searched for in names; an empty one is found in none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RightsText<'a> {
    /// Configure, write and read; none: the user may not enter the vhost.
    pub permission: Option<[&'a str; 3]>,
    /// Exchange, write and read: for routing keys of a topic exchange.
    pub topics: Vec<[&'a str; 3]>,
}

impl Rights {
    /// Changes the rights. Kept routes of the vhost have to be voided after that.
    pub fn set(&self, rules: Option<Rules>) {
        self.0.store(rules.map(Arc::new));
    }

    /// Whether the user may enter the vhost.
    pub fn may_enter(&self) -> bool {
        let rules = self.0.load();
        rules.as_ref().is_some_and(|it| it.permission.is_some())
    }

    fn allow(&self, ask: impl FnOnce(&Triple) -> bool) -> bool {
        let rules = self.0.load();
        let permission = rules.as_ref().and_then(|it| it.permission.as_ref());
        permission.is_some_and(ask)
    }

    /// What the rule for a topic exchange says; without one everything is allowed.
    fn allow_topic(&self, exchange: &[u8], ask: impl FnOnce(&TopicRule) -> bool) -> bool {
        let rules = self.0.load();
        let mut topics = rules.as_ref().map_or(&[][..], |it| &it.topics).iter();
        let rule = topics.find(|rule| rule.exchange.as_bytes() == exchange);
        rule.is_none_or(ask)
    }

    fn has_topics(&self) -> bool {
        let rules = self.0.load();
        rules.as_ref().is_some_and(|it| !it.topics.is_empty())
    }
}

impl Rules {
    /// Compiles what was written down, for `user` in `vhost`.
    ///
    /// # Errors
    /// A pattern is not understood.
    pub fn new(text: &RightsText<'_>, user: &str, vhost: &str) -> Result<Self, BadPattern> {
        let permission = match text.permission {
            Some([configure, write, read]) => Some(Triple {
                configure: pattern(configure)?,
                write: pattern(write)?,
                read: pattern(read)?,
            }),
            None => None,
        };
        let topics = text.topics.iter().map(|[exchange, write, read]| {
            Ok(TopicRule {
                exchange: (*exchange).into(),
                write: pattern(&expand(write, user, vhost))?,
                read: pattern(&expand(read, user, vhost))?,
            })
        });
        let topics = topics.collect::<Result<_, _>>()?;
        Ok(Self { permission, topics })
    }
}

/// An empty pattern is found in no name.
fn pattern(text: &str) -> Result<Pattern, BadPattern> {
    Pattern::new(if text.is_empty() { "^$" } else { text })
}

/// Puts in whom a topic rule is for. AMQP has no client id: that stands for itself.
fn expand<'a>(text: &'a str, user: &str, vhost: &str) -> Cow<'a, str> {
    if !text.contains('{') {
        return Cow::Borrowed(text);
    }
    let text = text.replace("{username}", &regex::escape(user));
    let text = text.replace("{vhost}", &regex::escape(vhost));
    Cow::Owned(text.replace("{client_id}", r"\{client_id\}"))
}

impl Access {
    /// Whether messages may be published to `exchange` with `key`. Topic rules come after: [`Access::publish_topic`].
    pub fn publish(
        &self,
        user: &str,
        vhost: &str,
        exchange: &[u8],
        key: &[u8],
    ) -> Result<(), Error> {
        let client = match self {
            Self::Full => return Ok(()),
            Self::User(own) => {
                let name = exchange_name(exchange);
                return match own.rights.allow(|it| it.write.matches(name)) {
                    true => Ok(()),
                    false => Err(refused("exchange", &text(exchange), vhost, user)),
                };
            }
            Self::BusClient(client) => client,
        };
        if !exchange.is_empty() {
            return Err(refused("exchange", &text(exchange), vhost, user));
        }
        let own = suffix(client, key)
            .is_some_and(|role| matches!(role, b"-outbox" | b"-notify" | b"-broadcast"));
        match own {
            true => Ok(()),
            false => Err(refused("queue", &text(key), vhost, user)),
        }
    }

    /// Whether the keys of messages to topic exchanges have to be looked at.
    pub fn has_topic_rules(&self) -> bool {
        matches!(self, Self::User(own) if own.rights.has_topics())
    }

    /// Whether messages with `key` may be published to the topic exchange `exchange`.
    pub fn publish_topic(
        &self,
        user: &str,
        vhost: &str,
        exchange: &[u8],
        key: &[u8],
    ) -> Result<(), Error> {
        self.topic(user, vhost, exchange, key, |it| &it.write)
    }

    /// Whether something may be bound to the topic exchange `exchange` with `key`.
    pub fn bind_topic(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        key: &[u8],
    ) -> Result<(), Error> {
        self.topic(user, vhost, exchange.as_bytes(), key, |it| &it.read)
    }

    fn topic(
        &self,
        user: &str,
        vhost: &str,
        exchange: &[u8],
        key: &[u8],
        which: impl FnOnce(&TopicRule) -> &Pattern,
    ) -> Result<(), Error> {
        let Self::User(own) = self else {
            return Ok(());
        };
        if own
            .rights
            .allow_topic(exchange, |it| which(it).matches(key))
        {
            return Ok(());
        }
        let (exchange, key) = (text(exchange), text(key));
        Err(Error::access_refused(format!(
            "access to topic '{key}' in exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'"
        )))
    }

    /// Whether messages may be read from `queue`, or all taken out of it.
    pub fn consume(&self, user: &str, vhost: &str, queue: &str) -> Result<(), Error> {
        match self {
            Self::BusClient(client) => match suffix(client, queue.as_bytes()) {
                Some(b"-inbox") => Ok(()),
                _ => Err(refused("queue", queue, vhost, user)),
            },
            _ => self.read(user, vhost, "queue", queue),
        }
    }

    /// Whether `queue` may be declared, or, `passive`, looked for: a bus client may name its own queues, which exist.
    pub fn declare_queue(
        &self,
        user: &str,
        vhost: &str,
        queue: &str,
        passive: bool,
    ) -> Result<(), Error> {
        match self {
            Self::BusClient(client) => match suffix(client, queue.as_bytes()) {
                Some(b"-inbox" | b"-outbox" | b"-notify" | b"-broadcast") => Ok(()),
                _ => Err(refused("queue", queue, vhost, user)),
            },
            _ if passive => Ok(()),
            _ => self.configure(user, vhost, "queue", queue),
        }
    }

    /// Whether queues may be deleted, and exchanges declared or deleted.
    pub fn configure(&self, user: &str, vhost: &str, kind: &str, name: &str) -> Result<(), Error> {
        self.check(user, vhost, kind, name, |it| &it.configure)
    }

    /// Whether something may be written to: the destination of a binding, where dead letters or unroutable messages go.
    pub fn write(&self, user: &str, vhost: &str, kind: &str, name: &str) -> Result<(), Error> {
        self.check(user, vhost, kind, name, |it| &it.write)
    }

    /// Whether something may be read from: the source of a binding, what sends dead letters or unroutable messages on.
    pub fn read(&self, user: &str, vhost: &str, kind: &str, name: &str) -> Result<(), Error> {
        self.check(user, vhost, kind, name, |it| &it.read)
    }

    fn check(
        &self,
        user: &str,
        vhost: &str,
        kind: &str,
        name: &str,
        which: impl FnOnce(&Triple) -> &Pattern,
    ) -> Result<(), Error> {
        let allowed = match self {
            Self::Full => true,
            Self::BusClient(_) => false,
            Self::User(own) => {
                let name = match kind {
                    "exchange" => exchange_name(name.as_bytes()),
                    _ => name.as_bytes(),
                };
                own.rights.allow(|it| which(it).matches(name))
            }
        };
        match allowed {
            true => Ok(()),
            false => Err(refused(kind, name, vhost, user)),
        }
    }

    /// Whether messages may name other users as theirs.
    pub fn is_impersonator(&self) -> bool {
        matches!(self, Self::User(own) if own.impersonator)
    }

    /// A place for one more channel of the user; `None`: they are not counted.
    ///
    /// # Errors
    /// The user has as many as it may.
    pub fn channel(&self) -> Result<Option<Place>, Full> {
        match self {
            Self::User(own) => own.channels.take().map(Some),
            _ => Ok(None),
        }
    }
}

/// What follows the client's id in a queue's name.
fn suffix<'a>(client: &str, queue: &'a [u8]) -> Option<&'a [u8]> {
    queue.strip_prefix(client.as_bytes())
}

/// What patterns look for in place of the default exchange's empty name.
const DEFAULT_EXCHANGE: &str = "amq.default";

fn exchange_name(exchange: &[u8]) -> &[u8] {
    match exchange {
        [] => DEFAULT_EXCHANGE.as_bytes(),
        name => name,
    }
}

fn text(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}

fn refused(kind: &str, name: &str, vhost: &str, user: &str) -> Error {
    let name = match (kind, name) {
        ("exchange", "") => DEFAULT_EXCHANGE,
        (_, name) => name,
    };
    Error::access_refused(format!(
        "access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_client_has_its_own_queues_and_nothing_else() {
        let access = Access::BusClient("a".into());
        let publish = |exchange: &str, key: &str| {
            access
                .publish("a", "/", exchange.as_bytes(), key.as_bytes())
                .is_ok()
        };
        assert!(publish("", "a-outbox") && publish("", "a-notify") && publish("", "a-broadcast"));
        assert!(!publish("", "a-inbox") && !publish("", "b-outbox") && !publish("", "ab-outbox"));
        assert!(!publish("soar-publish", "x") && !publish("amq.direct", "a-outbox"));
        assert!(access.consume("a", "/", "a-inbox").is_ok());
        for queue in ["a-outbox", "b-inbox", "a-b-inbox", "soar-publish", ""] {
            assert!(access.consume("a", "/", queue).is_err(), "{queue}");
        }
        assert!(access.declare_queue("a", "/", "a-broadcast", false).is_ok());
        for passive in [false, true] {
            assert!(access.declare_queue("a", "/", "mine", passive).is_err());
        }
        for kind in ["exchange", "queue"] {
            assert!(access.write("a", "/", kind, "a-outbox").is_err());
            assert!(access.read("a", "/", kind, "a-inbox").is_err());
        }
        let error = access.configure("a", "/", "exchange", "").unwrap_err();
        assert_eq!(
            error.text,
            "access to exchange 'amq.default' in vhost '/' refused for user 'a'"
        );
    }

    fn user(text: &RightsText<'_>) -> (Access, Arc<Rights>) {
        let rights = Arc::<Rights>::default();
        rights.set(Some(Rules::new(text, "u.1", "v").expect("good patterns")));
        let own = UserAccess {
            rights: Arc::clone(&rights),
            channels: Arc::default(),
            impersonator: false,
        };
        (Access::User(own), rights)
    }

    #[test]
    fn a_user_may_what_its_patterns_find() {
        let (access, rights) = user(&RightsText {
            permission: Some(["^c", "w|amq\\.default", ""]),
            topics: Vec::new(),
        });
        assert!(rights.may_enter());
        assert!(access.configure("u.1", "v", "queue", "c1").is_ok());
        assert!(access.configure("u.1", "v", "exchange", "xc").is_err());
        assert!(access.publish("u.1", "v", b"", b"any").is_ok());
        assert!(access.publish("u.1", "v", b"xw", b"any").is_ok());
        assert!(access.write("u.1", "v", "exchange", "").is_ok());
        assert!(access.declare_queue("u.1", "v", "x", true).is_ok());
        let texts = [
            access.publish("u.1", "v", b"x", b"w"),
            access.declare_queue("u.1", "v", "x", false),
            access.consume("u.1", "v", "c"),
            access.read("u.1", "v", "exchange", ""),
        ];
        let texts = texts.map(|it| it.unwrap_err().text);
        assert_eq!(
            texts,
            [
                "exchange 'x'",
                "queue 'x'",
                "queue 'c'",
                "exchange 'amq.default'"
            ]
            .map(|it| format!("access to {it} in vhost 'v' refused for user 'u.1'"))
        );
    }

    #[test]
    fn changed_rights_are_seen_at_once() {
        let (access, rights) = user(&RightsText {
            permission: Some([".*"; 3]),
            topics: Vec::new(),
        });
        assert!(access.consume("u.1", "v", "q").is_ok());
        rights.set(None);
        assert!(access.consume("u.1", "v", "q").is_err() && !rights.may_enter());
    }

    #[test]
    fn topic_rules_look_at_keys_of_their_exchange_with_names_put_in_literally() {
        let (access, _) = user(&RightsText {
            permission: Some([".*"; 3]),
            topics: vec![
                ["t", "^{username}\\.{vhost}$|^{client_id}$", "^r"],
                ["closed", "", ""],
            ],
        });
        assert!(access.has_topic_rules());
        let publish = |exchange: &[u8], key: &[u8]| access.publish_topic("u.1", "v", exchange, key);
        assert!(publish(b"t", b"u.1.v").is_ok() && publish(b"t", b"{client_id}").is_ok());
        assert!(publish(b"t", b"u-1.v").is_err() && publish(b"closed", b"x").is_err());
        assert!(publish(b"other", b"x").is_ok());
        assert!(access.bind_topic("u.1", "v", "t", b"r.x").is_ok());
        let refused = access.bind_topic("u.1", "v", "t", b"b.b").unwrap_err();
        assert_eq!(
            refused.text,
            "access to topic 'b.b' in exchange 't' in vhost 'v' refused for user 'u.1'"
        );
    }
}
