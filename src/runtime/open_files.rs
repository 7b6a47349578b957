//! Open files and sockets: how many this process may have, and who gets how many of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system sets no limit.
const MANY: u64 = 1 << 30;

/// The open files that this process may have, divided up: whoever connects cannot take what the log needs.
#[derive(Clone, Copy, Debug)]
pub struct OpenFiles {
    allowed: usize,
}

impl OpenFiles {
    /// As many as the system allows.
    pub fn allowed() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        Self::of(limit.unwrap_or(MANY).min(MANY) as usize)
    }

    /// So many in all.
    pub fn of(allowed: usize) -> Self {
        Self { allowed }
    }

    /// Connections over HTTP: a quarter.
    pub fn for_http(self) -> usize {
        (self.allowed / 4).max(1)
    }

    /// For the log, the state store and whatever else: a sixteenth, and a thousand at the most.
    pub fn spare(self) -> usize {
        (self.allowed / 16).clamp(16, 1024)
    }

    /// What is left for connections over AMQP, and what was opened before them.
    pub fn for_amqp(self) -> usize {
        let others = self.for_http() + self.spare();
        self.allowed.saturating_sub(others).max(1)
    }
}

/// Lets this process open as many files and connections as the system allows without asking anybody; the usual
/// default of 1,024 is fewer than the connections that we are made for.
pub fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_share_and_together_no_more_than_there_are() {
        for allowed in [64, 256, 1024, 4096, 1 << 20] {
            let files = OpenFiles::of(allowed);
            let sum = files.for_http() + files.spare() + files.for_amqp();
            assert_eq!(sum, allowed);
            assert!(files.for_amqp() > allowed / 2 - 32, "{files:?}");
        }
        assert_eq!(OpenFiles::of(1024).for_amqp(), 704);
        assert!(OpenFiles::allowed().for_amqp() > 1);
        assert_eq!(OpenFiles::of(0).for_amqp(), 1);
    }
}
