//! Which connections there are: who they are, how to close them, and what they say of themselves when asked.
//!
//! Owns the registry. A connection is in it from its first octet to its end. What is asked of a connection is left at its
//! [`Doorbell`], and its task answers between two turns: nothing is counted on the way of a message.

use std::sync::Arc;
use std::time::Duration;

use backbone_broker::session::report::ChannelReport;
use dashmap::DashMap;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Doorbell, Ends};
use crate::auth::{Fingerprint, Identity};

/// How long connections may take to answer. One that does not is shown without what it did not say.
const PATIENCE: Duration = Duration::from_secs(2);

/// All connections.
#[derive(Clone, Default)]
pub struct Connections(Arc<DashMap<u64, Entry>>);

struct Entry {
    bell: Arc<Doorbell>,
    user: Option<Arc<str>>,
    /// What it has proved that with, once it has; none within: a certificate.
    proof: Option<Option<Fingerprint>>,
    vhost: Option<Arc<str>>,
    /// Once it is open.
    about: Option<Arc<About>>,
}

/// What is said of a connection when it opens.
#[derive(Debug, Clone)]
pub struct About {
    /// Its number in this process.
    pub id: u64,
    /// Who calls, and where it came to.
    pub ends: Ends,
    /// The user, or the client of the bus.
    pub user: Arc<str>,
    /// The vhost.
    pub vhost: Arc<str>,
    /// How the user proved who it is.
    pub mechanism: String,
    /// What the client says of itself, a raw field table.
    pub client_properties: Vec<u8>,
    /// Channels that it may have.
    pub channel_max: u16,
    /// The largest frame in bytes.
    pub frame_max: u32,
    /// Seconds between heartbeats; 0: none.
    pub heartbeat_s: u16,
    /// When it opened, in ms of Unix time.
    pub connected_at_ms: u64,
    /// Version of TLS and cipher, if there are any.
    pub tls: Option<[String; 2]>,
}

impl About {
    /// RabbitMQ's name for it: both ends.
    pub fn name(&self) -> String {
        self.ends.name(self.id)
    }
}

/// What a connection says of itself when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Publishing is held back, for want of memory or disk.
    pub blocked: bool,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes that went.
    pub sent_bytes: u64,
    /// Its channels.
    pub channels: Vec<ChannelReport>,
}

/// Someone who wants to know what a connection says of itself.
pub(super) type Asker = oneshot::Sender<Report>;

impl Connections {
    /// How many there are, those included that are not open yet.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&self, id: u64, bell: Arc<Doorbell>) {
        let entry = Entry {
            bell,
            user: None,
            proof: None,
            vhost: None,
            about: None,
        };
        self.0.insert(id, entry);
    }

    pub(super) fn remove(&self, id: u64) {
        self.0.remove(&id);
    }

    /// The peer of connection `id` says that it is `user`. Noted before its secret is checked: if the user is deleted
    /// at that moment, either the check fails or the connection hears of it.
    pub(super) fn claim(&self, id: u64, user: &str) {
        if let Some(mut entry) = self.0.get_mut(&id) {
            entry.user = Some(user.into());
        }
    }

    /// The peer of connection `id` has proved that it is `identity`.
    pub(super) fn proved(&self, id: u64, identity: &Identity) {
        if let Some(mut entry) = self.0.get_mut(&id) {
            entry.proof = Some(identity.secret);
        }
    }

    /// It wants to `vhost`. Noted before that is looked for, for the same reason.
    pub(super) fn claim_vhost(&self, id: u64, vhost: &str) {
        if let Some(mut entry) = self.0.get_mut(&id) {
            entry.vhost = Some(vhost.into());
        }
    }

    pub(super) fn opened(&self, about: About) {
        if let Some(mut entry) = self.0.get_mut(&about.id) {
            entry.about = Some(Arc::new(about));
        }
    }

    /// Connection `id` is over, but for its last words: it is listed and answers no more.
    pub(super) fn over(&self, id: u64) {
        if let Some(mut entry) = self.0.get_mut(&id) {
            entry.about = None;
        }
    }

    /// Closes all of them, telling them why.
    pub fn close_all(&self, reason: &str) {
        self.close(|_| true, reason);
    }

    /// Closes all connections of `user`.
    pub fn close_user(&self, user: &str, reason: &str) {
        self.close(|it| it.user.as_deref() == Some(user), reason);
    }

    /// Closes the connections of `user` that have logged in with what does not count any more, and those that are about to
    /// log in: what they are checked by may be out of date.
    pub fn close_logins(
        &self,
        user: &str,
        reason: &str,
        counts: impl Fn(Option<Fingerprint>) -> bool,
    ) {
        let of_user = |it: &Entry| it.user.as_deref() == Some(user);
        self.close(|it| of_user(it) && !it.proof.is_some_and(&counts), reason);
    }

    /// Closes all connections to a vhost that is gone.
    pub fn close_vhost(&self, vhost: &str) {
        let reason = format!("vhost '{vhost}' is deleted");
        self.close(|it| it.vhost.as_deref() == Some(vhost), &reason);
    }

    /// Closes connection `id`. The peer is told the reason behind `CONNECTION_FORCED - ` (320).
    pub fn close_one(&self, id: u64, reason: &str) {
        if let Some(entry) = self.0.get(&id) {
            entry.bell.close(reason);
        }
    }

    fn close(&self, wanted: impl Fn(&Entry) -> bool, reason: &str) {
        for entry in self.0.iter() {
            if wanted(&entry) {
                entry.bell.close(reason);
            }
        }
    }

    /// The open connection `id`.
    pub fn get(&self, id: u64) -> Option<Arc<About>> {
        self.0.get(&id)?.about.clone()
    }

    /// The connections that are open, in the order in which they came.
    pub fn list(&self) -> Vec<Arc<About>> {
        let open = self.0.iter();
        let mut list: Vec<_> = open.filter_map(|entry| entry.about.clone()).collect();
        list.sort_unstable_by_key(|about| about.id);
        list
    }

    /// Asks connections what they say of themselves; none from one that has ended meanwhile, or has not the time to
    /// answer.
    pub async fn ask(&self, whom: &[Arc<About>]) -> Vec<Option<Report>> {
        let asked = whom.iter().map(|about| {
            let (asker, answer) = oneshot::channel();
            if let Some(entry) = self.0.get(&about.id) {
                entry.bell.ask(asker);
            }
            answer
        });
        let asked: Vec<_> = asked.collect();
        let deadline = Instant::now() + PATIENCE;
        let mut reports = Vec::with_capacity(asked.len());
        for answer in asked {
            let answer = timeout_at(deadline, answer).await;
            reports.push(answer.ok().and_then(Result::ok));
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn one_that_has_ended_answers_nothing_and_keeps_nobody_waiting() {
        let connections = Connections::default();
        let about = |id| About {
            id,
            ends: match id {
                1 => Ends::Unix("/run/b".into()),
                _ => Ends::Websocket {
                    peer: "127.0.0.1:7".parse().unwrap(),
                },
            },
            user: "u".into(),
            vhost: "/".into(),
            mechanism: "PLAIN".into(),
            client_properties: Vec::new(),
            channel_max: 1,
            frame_max: 4096,
            heartbeat_s: 0,
            connected_at_ms: 0,
            tls: None,
        };
        for id in [2, 1] {
            connections.insert(id, Arc::default());
        }
        assert!(connections.list().is_empty(), "none is open");
        connections.opened(about(2));
        connections.opened(about(1));
        let list = connections.list();
        let names: Vec<_> = list.iter().map(|it| (it.id, it.name())).collect();
        let shown = [
            (1, "unix:1 -> /run/b".to_owned()),
            (2, "127.0.0.1:7 -> websocket".to_owned()),
        ];
        assert_eq!(names, shown);
        connections.remove(1);
        let remover = connections.clone();
        let removing = actix_rt::spawn(async move { remover.remove(2) });
        assert_eq!(connections.ask(&list).await, [None, None]);
        removing.await.unwrap();
    }
}
