//! Happenings: each is one method that both writes the log line and counts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{debug, warn};

use super::Samples;

/// Bytes of a stranger's name that the log shows; no name of ours is longer.
const NAME_BYTES_MAX: usize = 100;

/// The counters of all happenings.
#[derive(Debug, Default)]
pub struct Events {
    logins_failed: AtomicU64,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl Events {
    /// Somebody gave a wrong secret or an unknown name. The name is escaped and cut: it comes from a stranger.
    pub fn login_failed(&self, name: &str) {
        count(&self.logins_failed);
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        warn!(name = ?name, "login failed");
    }

    /// An AMQP connection passed its handshake.
    pub fn connection_opened(&self, peer: SocketAddr, user: &str) {
        count(&self.connections_opened);
        debug!(%peer, user, "connection opened");
    }

    /// An AMQP connection that was open ended.
    pub fn connection_closed(&self, peer: SocketAddr, user: &str) {
        count(&self.connections_closed);
        debug!(%peer, user, "connection closed");
    }

    /// How many AMQP connections were opened and closed.
    pub(super) fn connection_churn(&self) -> [u64; 2] {
        let both = [&self.connections_opened, &self.connections_closed];
        both.map(|counter| counter.load(Ordering::Relaxed))
    }

    /// A peer went away, or was dropped, before its AMQP connection was open.
    pub fn handshake_failed(&self, peer: SocketAddr) {
        count(&self.handshakes_failed);
        debug!(%peer, "AMQP handshake failed");
    }

    /// A peer was turned away because `limits.connections` is reached.
    pub fn connection_refused(&self, peer: SocketAddr) {
        count(&self.connections_refused);
        warn!(%peer, "connection refused: limits.connections is reached");
    }

    /// Accepting failed, most likely for want of file descriptors.
    pub fn accept_failed(&self, error: &std::io::Error) {
        count(&self.connections_refused);
        warn!(%error, "cannot accept connections; raise the limit of open files (ulimit -n)");
    }

    pub(super) fn sample(&self, samples: &mut Samples) {
        let totals = [
            (
                "backbone_auth_attempts_failed_total",
                "Logins refused, over AMQP and HTTP",
                &self.logins_failed,
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
