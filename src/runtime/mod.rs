//! The life of the process: starting, ready, draining.
//!
//! [`Lifecycle`] is the one signal that everything long-running watches; `/health/ready` shows it. Beside it
//! stands what the process takes from the machine: listeners, memory, open files, and the threads that serve connections.

pub mod arbiters;
mod certificates;
mod listen;
mod machine;
mod open_files;
mod pace;

use std::future::pending;

use tokio::sync::watch;

pub use certificates::{Certificates, TlsError, certificate_expiry_s};
pub use listen::{BindError, SocketFile, bind, bind_unix};
pub use machine::{free_disk_bytes, memory_limit_bytes, node_name};
pub use open_files::{OpenFiles, raise_open_files};

/// Where the process is in its life; it only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not everything listens yet.
    Starting,
    /// All listeners are open.
    Ready,
    /// No new connections; open ones finish.
    Draining,
}

/// A handle on the phase; clones share it.
#[derive(Clone, Debug)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Moves on to `phase`; a move backwards is ignored, so that "ready" cannot undo "draining".
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            *now = (*now).max(phase);
            forward
        });
    }

    /// Waits until the process drains; returns at once when it already does.
    pub async fn draining(&self) {
        let mut phases = self.0.subscribe();
        if phases
            .wait_for(|phase| *phase == Phase::Draining)
            .await
            .is_err()
        {
            // The sender lives in `self`, so it cannot be gone; waiting is the harmless answer.
            pending::<()>().await;
        }
    }
}

/// The signals that ask for files to be read again.
pub type Hangups = tokio::signal::unix::Signal;

/// SIGHUP, from now on.
///
/// # Errors
/// The system does not let us listen for signals.
pub fn hangups() -> std::io::Result<Hangups> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The system does not let us listen for signals.
pub async fn termination() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn phases_only_move_forward_and_draining_is_seen_late_and_early() {
        let lifecycle = Lifecycle::default();
        let waiter = lifecycle.clone();
        let waiting = actix_rt::spawn(async move { waiter.draining().await });
        lifecycle.advance(Phase::Ready);
        assert_eq!(lifecycle.phase(), Phase::Ready);
        lifecycle.advance(Phase::Draining);
        lifecycle.advance(Phase::Ready);
        assert_eq!(lifecycle.phase(), Phase::Draining);
        waiting.await.unwrap();
        lifecycle.draining().await;
    }
}
