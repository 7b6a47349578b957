//! Happenings: each is one method that both writes the log line and counts.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use super::Samples;

/// The counters of all happenings.
#[derive(Debug, Default)]
pub struct Events {
    logins_failed: AtomicU64,
}

impl Events {
    /// Somebody gave a wrong secret or an unknown name. The name is escaped: it comes from a stranger.
    pub fn login_failed(&self, name: &str) {
        count(&self.logins_failed);
        warn!(name = ?name, "login failed");
    }

    pub(super) fn sample(&self, samples: &mut Samples) {
        let logins_failed = self.logins_failed.load(Ordering::Relaxed) as f64;
        samples.counter(
            "backbone_auth_attempts_failed_total",
            "Logins refused, over AMQP and HTTP",
            &[],
            logins_failed,
        );
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
