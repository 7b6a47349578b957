//! The audit: who did what, as a stream of events in the log.
//!
//! Owns the stream [`StreamId::Audit`]: what an entry has, how many are kept and how they are found. Changes come from
//! `http`, which sees every one of them with who made it; logins that failed from the telemetry's events. An entry has no
//! secrets: neither bodies nor queries go into it.
//!
//! Invariants:
//! - A change that is answered is in the stream, on the disk, unless the log fails at that moment, which is counted.
//! - Strangers fill neither disk nor stream: of logins that failed [`REFUSED_BURST`] at once are entered, and one a second
//!   from then on; each entry says how many were left out before it. So it is with what clients tried in vain.

mod entry;
mod query;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::config;
use crate::engine::{Engine, EngineError, Promise, Stream, StreamId};
use crate::telemetry::Events;
pub use entry::{Entry, Kind, Outcome};
pub use query::{LIMIT_MAX, Page, Query};

/// What failed logins are entered as.
pub const LOGIN_FAILED: &str = "login.failed";
/// Refusals that are entered at once at most.
const REFUSED_BURST: u64 = 100;
/// One more each of these, ms.
const REFUSED_EVERY_MS: u64 = 1000;
/// Events that are read at once.
const PAGE: usize = 1000;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// The audit.
pub struct Audit {
    engine: Engine,
    /// None: there is no log, and nothing is entered.
    stream: Option<Stream>,
    keep: config::Audit,
    events: Arc<Events>,
    /// Of logins.
    failures: Mutex<Allowance>,
    /// Of what clients tried.
    refusals: Mutex<Allowance>,
}

/// How many of what was refused may be entered: a generic cell rate algorithm.
#[derive(Debug, Default)]
struct Allowance {
    /// When all that were entered are forgiven, ms.
    forgiven_ms: u64,
    left_out: u64,
}

impl Allowance {
    /// How many were left out before this one; none: so is this one.
    fn take(&mut self, now_ms: u64) -> Option<u64> {
        let forgiven_ms = self.forgiven_ms.max(now_ms) + REFUSED_EVERY_MS;
        if forgiven_ms > now_ms + REFUSED_BURST * REFUSED_EVERY_MS {
            self.left_out += 1;
            return None;
        }
        self.forgiven_ms = forgiven_ms;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Audit {
    /// Opens the stream; once a process.
    pub fn open(engine: &Engine, keep: config::Audit, events: Arc<Events>) -> Self {
        Self {
            engine: engine.clone(),
            stream: engine.stream(StreamId::Audit),
            keep,
            events,
            failures: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// Enters what was done; it is on the disk when this returns.
    pub async fn record(&self, mut entry: Entry) {
        if entry.kind == Some(Kind::Client) && entry.outcome == Outcome::Refused {
            match self.refusals.lock().take(entry.time_ms) {
                Some(left_out) => entry.left_out = left_out,
                None => return,
            }
        }
        let kept = match self.append(&entry) {
            Ok(Some(promise)) => self.engine.kept(promise).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            self.events.audit_lost(&error);
        }
    }

    /// Enters a login that failed, if there were not too many. Does not wait for the disk.
    pub fn login_failed(&self, name: &str, from: IpAddr) {
        let now_ms = now_ms();
        let Some(left_out) = self.failures.lock().take(now_ms) else {
            return;
        };
        let entry = Entry {
            time_ms: now_ms,
            action: LOGIN_FAILED.to_owned(),
            who: Some(name.to_owned()),
            from: Some(from),
            outcome: Outcome::Refused,
            left_out,
            ..Entry::default()
        };
        if let Err(error) = self.append(&entry) {
            self.events.audit_lost(&error);
        }
    }

    /// Forgets what is too old or too much. Reads from the disk: not for arbiters.
    ///
    /// # Errors
    /// The log cannot be read, or takes nothing now.
    pub fn trim(&self) -> Result<(), EngineError> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        let kept = stream.range();
        let mut below = kept
            .start
            .max(kept.end.saturating_sub(self.keep.entries_max));
        let oldest_ms = match self.keep.keep_days {
            0 => 0,
            days => now_ms().saturating_sub(u64::from(days) * DAY_MS),
        };
        while oldest_ms > 0 && below < kept.end {
            let page = stream.read(below, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            let young = |event: &[u8]| Entry::read(event).is_some_and(|it| it.time_ms >= oldest_ms);
            let first = page.iter().find(|(_, event)| young(event));
            below = first.map_or(last + 1, |(number, _)| *number);
            if first.is_some() {
                break;
            }
        }
        match below > kept.start {
            true => stream.truncate(below),
            false => Ok(()),
        }
    }

    fn append(&self, entry: &Entry) -> Result<Option<Promise>, EngineError> {
        let stream = self.stream.as_ref();
        stream.map(|it| it.append(&entry.bytes())).transpose()
    }
}

/// Milliseconds of Unix time.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_failures_a_few_are_entered_and_the_others_counted() {
        let mut allowance = Allowance::default();
        let taken = (0..REFUSED_BURST).filter(|_| allowance.take(5000).is_some());
        assert_eq!(taken.count() as u64, REFUSED_BURST);
        assert_eq!(allowance.take(5000), None);
        assert_eq!(allowance.take(5999), None);
        assert_eq!(allowance.take(6000), Some(2));
        assert_eq!(allowance.take(6000), None);
        let later = 6000 + REFUSED_BURST * REFUSED_EVERY_MS;
        assert_eq!(allowance.take(later), Some(1));
        assert_eq!(allowance.take(later), Some(0));
    }
}
