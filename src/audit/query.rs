//! How entries are found: from the newest back, a page at a time.

use std::sync::Arc;

use super::{Audit, Entry, Kind, PAGE};
use crate::engine::EngineError;

/// Entries in one answer at most.
pub const LIMIT_MAX: usize = 1000;
/// Entries that one question looks at, at most; it can be asked again from there on.
const LOOKED_AT_MAX: u64 = 100_000;

/// What is asked for; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// About this client, or by it.
    pub client: Option<String>,
    /// By this user or client.
    pub who: Option<String>,
    /// This action, or those that begin with it: `clients` has `clients.secret.create`.
    pub action: Option<String>,
    /// Not before, ms of Unix time.
    pub since_ms: Option<u64>,
    /// Before, ms of Unix time.
    pub until_ms: Option<u64>,
    /// With a number below this one.
    pub before: Option<u64>,
    /// How many at most.
    pub limit: usize,
}

/// An answer.
#[derive(Debug, Default)]
pub struct Page {
    /// Number and entry, the newest first.
    pub entries: Vec<(u64, Entry)>,
    /// Where to go on with [`Query::before`]; none: there is nothing before.
    pub before: Option<u64>,
}

impl Query {
    fn wants(&self, entry: &Entry) -> bool {
        let who = entry.who.as_deref();
        let is_by = |client: &str| who == Some(client) && entry.kind != Some(Kind::User);
        let client = |it: &String| entry.client.as_ref() == Some(it) || is_by(it);
        self.client.as_ref().is_none_or(client)
            && self.who.as_deref().is_none_or(|it| who == Some(it))
            && self
                .action
                .as_deref()
                .is_none_or(|it| is_below(&entry.action, it))
            && self
                .since_ms
                .is_none_or(|since_ms| entry.time_ms >= since_ms)
            && self
                .until_ms
                .is_none_or(|until_ms| entry.time_ms < until_ms)
    }
}

/// Whether `action` is `general` or a special case of it.
fn is_below(action: &str, general: &str) -> bool {
    let rest = action.strip_prefix(general);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Audit {
    /// The entries that are asked for.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn find(self: &Arc<Self>, query: Query) -> Result<Page, EngineError> {
        let audit = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || audit.find_now(&query));
        // The other end of it is the end of the process.
        found.await.unwrap_or_else(|_| Ok(Page::default()))
    }

    fn find_now(&self, query: &Query) -> Result<Page, EngineError> {
        let mut page = Page::default();
        let Some(stream) = &self.stream else {
            return Ok(page);
        };
        let kept = stream.range();
        let end = query.before.unwrap_or(kept.end).min(kept.end);
        let (mut end, stop) = (end, end.saturating_sub(LOOKED_AT_MAX).max(kept.start));
        while end > stop {
            let begin = end.saturating_sub(PAGE as u64).max(stop);
            let events = stream.read(begin, (end - begin) as usize)?;
            for (number, event) in events.into_iter().rev().filter(|(it, _)| *it < end) {
                let Some(entry) = Entry::read(&event).filter(|entry| query.wants(entry)) else {
                    continue;
                };
                page.entries.push((number, entry));
                if page.entries.len() == query.limit {
                    page.before = (number > kept.start).then_some(number);
                    return Ok(page);
                }
            }
            end = begin;
        }
        page.before = (stop > kept.start).then_some(stop);
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_chosen_by_whom_what_and_when() {
        let entry = Entry {
            time_ms: 10,
            action: "clients.secret.create".into(),
            who: Some("admin".into()),
            kind: Some(Kind::User),
            client: Some("noc".into()),
            ..Entry::default()
        };
        let wants = |query: Query| query.wants(&entry);
        let text = |it: &str| Some(it.to_owned());
        let query = Query::default;
        assert!(wants(query()));
        assert!(wants(Query {
            client: text("noc"),
            ..query()
        }));
        assert!(
            !wants(Query {
                client: text("admin"),
                ..query()
            }),
            "it is a user"
        );
        assert!(wants(Query {
            who: text("admin"),
            ..query()
        }));
        assert!(!wants(Query {
            who: text("noc"),
            ..query()
        }));
        for (action, fits) in [
            ("clients", true),
            ("clients.secret", true),
            ("clients.secret.create", true),
            ("client", false),
            ("clients.s", false),
            ("users", false),
        ] {
            assert_eq!(
                wants(Query {
                    action: text(action),
                    ..query()
                }),
                fits,
                "{action}"
            );
        }
        assert!(wants(Query {
            since_ms: Some(10),
            until_ms: Some(11),
            ..query()
        }));
        assert!(!wants(Query {
            since_ms: Some(11),
            ..query()
        }));
        assert!(!wants(Query {
            until_ms: Some(10),
            ..query()
        }));
    }
}
