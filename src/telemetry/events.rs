//! Happenings: each is one method that both writes the log line and counts.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tracing::{debug, error, warn};

use super::Samples;

/// Bytes of a stranger's name that the log shows; no name of ours is longer.
const NAME_BYTES_MAX: usize = 100;

/// Hears of a login that failed.
type LoginFailed = dyn Fn(&str, IpAddr) + Send + Sync;

/// The counters of all happenings.
#[derive(Default)]
pub struct Events {
    logins_failed: AtomicU64,
    /// Who wants to know of logins that failed: the name, as far as it is shown, and the peer's address.
    failures_told: OnceLock<Box<LoginFailed>>,
    audit_lost: AtomicU64,
    tokens_made: AtomicU64,
    tokens_refused: AtomicU64,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
    refusals_said: Seldom,
    accepts_said: Seldom,
}

/// Says something at most once a second, however often it happens.
#[derive(Debug, Default)]
struct Seldom {
    /// Second of the process's life in which it was said last, plus one.
    last_s: AtomicU64,
    unsaid: AtomicU64,
}

impl Seldom {
    /// How often it has happened since it was said last, this time included, if it is to be said now.
    fn now(&self, second: u64) -> Option<u64> {
        let last = self.last_s.load(Ordering::Relaxed);
        let unsaid = self.unsaid.fetch_add(1, Ordering::Relaxed) + 1;
        let order = Ordering::Relaxed;
        let due = last <= second
            && self
                .last_s
                .compare_exchange(last, second + 1, order, order)
                .is_ok();
        due.then(|| {
            self.unsaid.fetch_sub(unsaid, order);
            unsaid
        })
    }
}

/// Seconds since the first call.
fn second() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs()
}

impl Events {
    /// Somebody gave a wrong secret or an unknown name. The name is escaped and cut: it comes from a stranger.
    pub fn login_failed(&self, name: &str, address: IpAddr) {
        count(&self.logins_failed);
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        warn!(name = ?name, %address, "login failed");
        if let Some(tell) = self.failures_told.get() {
            tell(name, address);
        }
    }

    /// Tells `listener` of logins that fail; there is one.
    pub fn tell_of_failed_logins(&self, listener: impl Fn(&str, IpAddr) + Send + Sync + 'static) {
        let first = self.failures_told.set(Box::new(listener));
        debug_assert!(first.is_ok(), "one listens");
    }

    /// What somebody did could not be entered into the audit.
    pub fn audit_lost(&self, why: &dyn Display) {
        count(&self.audit_lost);
        error!(%why, "an entry of the audit is lost");
    }

    /// Somebody who had logged in got a token.
    pub fn token_made(&self, name: &str) {
        count(&self.tokens_made);
        debug!(name, "token made");
    }

    /// Somebody showed a token that does not count. That it is over is nothing to worry about.
    pub fn token_refused(&self, why: &dyn Display) {
        count(&self.tokens_refused);
        debug!(%why, "token refused");
    }

    /// An AMQP connection passed its handshake.
    pub fn connection_opened(&self, ends: impl Display, user: &str) {
        count(&self.connections_opened);
        debug!(%ends, user, "connection opened");
    }

    /// An AMQP connection that was open ended.
    pub fn connection_closed(&self, ends: impl Display, user: &str) {
        count(&self.connections_closed);
        debug!(%ends, user, "connection closed");
    }

    /// How many AMQP connections were opened and closed.
    pub(super) fn connection_churn(&self) -> [u64; 2] {
        let both = [&self.connections_opened, &self.connections_closed];
        both.map(|counter| counter.load(Ordering::Relaxed))
    }

    /// A peer went away, or was dropped, before its AMQP connection was open.
    pub fn handshake_failed(&self, ends: impl Display) {
        count(&self.handshakes_failed);
        debug!(%ends, "AMQP handshake failed");
    }

    /// A peer was turned away because there are too many: `limits.connections` is reached, or the limit of open files.
    pub fn connection_refused(&self, ends: impl Display) {
        count(&self.connections_refused);
        if let Some(refused) = self.refusals_said.now(second()) {
            warn!(%ends, refused, "connections refused: limits.connections or the limit of open files (ulimit -n) is reached");
        }
    }

    /// Accepting failed, most likely for want of file descriptors.
    pub fn accept_failed(&self, error: &std::io::Error) {
        count(&self.connections_refused);
        if let Some(times) = self.accepts_said.now(second()) {
            warn!(%error, times, "cannot accept connections; raise the limit of open files (ulimit -n)");
        }
    }

    pub(super) fn sample(&self, samples: &mut Samples) {
        let totals = [
            (
                "backbone_auth_attempts_failed_total",
                "Logins refused, over AMQP and HTTP",
                &self.logins_failed,
            ),
            (
                "backbone_audit_lost_total",
                "Entries of the audit that could not be written",
                &self.audit_lost,
            ),
            (
                "backbone_auth_tokens_made_total",
                "Tokens handed out",
                &self.tokens_made,
            ),
            (
                "backbone_auth_tokens_refused_total",
                "Tokens refused: malformed, expired or revoked",
                &self.tokens_refused,
            ),
            (
                "backbone_connections_opened_total",
                "AMQP connections opened",
                &self.connections_opened,
            ),
            (
                "backbone_connections_closed_total",
                "AMQP connections closed",
                &self.connections_closed,
            ),
            (
                "backbone_connections_refused_total",
                "AMQP connections that could not be accepted",
                &self.connections_refused,
            ),
            (
                "backbone_handshakes_failed_total",
                "AMQP peers that never got to an open connection",
                &self.handshakes_failed,
            ),
        ];
        for (name, help, counter) in totals {
            samples.counter(name, help, &[], counter.load(Ordering::Relaxed) as f64);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_said_once_a_second_and_counted() {
        let seldom = Seldom::default();
        let said = [0, 0, 0, 1, 1, 5, 5, 6].map(|second| seldom.now(second));
        assert_eq!(
            said,
            [Some(1), None, None, Some(3), None, Some(2), None, Some(2)]
        );
    }
}
