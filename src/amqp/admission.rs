//! Whether one more connection may come: bounds on their number, and on open files.
//!
//! The log needs a file now and then, and HTTP connections; both have their share of what the process may open
//! ([`OpenFiles`]). The system gives the lowest number that is free to each descriptor, so that the number of a new
//! socket tells how many are open at least, without counting. Whoever comes when there are too many is told so after its
//! login, a few at a time; others are closed without a word, so that nobody waits in vain.

use std::os::fd::{AsRawFd, RawFd};

use super::{Ends, Shared};
use crate::runtime::OpenFiles;

/// Peers who are told that there are too many, at a time.
const REFUSALS_MAX: usize = 64;

/// What there are too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// More connections than `limits.connections`.
    Connections(usize),
    /// The log and HTTP need what open files are left.
    OpenFiles,
}

impl TooMany {
    /// Why the peer cannot stay.
    pub fn reason(self) -> String {
        match self {
            Self::Connections(max) => {
                format!("connection refused: the limit of connections ({max}) is reached")
            }
            Self::OpenFiles => "connection refused: the limit of open files is reached".into(),
        }
    }
}

/// What there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    connections_max: usize,
    /// Sockets from this number on are refused.
    descriptor_max: usize,
    /// From this one on, without a word.
    refusal_max: usize,
}

impl Admission {
    pub fn new(connections_max: usize, files: OpenFiles) -> Self {
        let descriptor_max = files.for_amqp();
        Self {
            connections_max,
            descriptor_max,
            refusal_max: descriptor_max + REFUSALS_MAX.min(files.spare() / 4),
        }
    }

    /// Whether one more may come beside `connections` others, on the descriptor `number`: `None` if it is dropped without
    /// a word, `Some(Some(…))` if it is told why it may not.
    fn of(self, connections: usize, number: usize) -> Option<Option<TooMany>> {
        let excess = (connections + 1).saturating_sub(self.connections_max);
        if excess > REFUSALS_MAX || number >= self.refusal_max {
            return None;
        }
        if number >= self.descriptor_max {
            return Some(Some(TooMany::OpenFiles));
        }
        Some((excess > 0).then_some(TooMany::Connections(self.connections_max)))
    }
}

/// Whether who came on `socket` may stay; see [`Admission::of`].
pub(super) fn admit(
    ends: &Ends,
    socket: &impl AsRawFd,
    shared: &Shared,
) -> Option<Option<TooMany>> {
    let number: RawFd = socket.as_raw_fd();
    let number = usize::try_from(number).unwrap_or_default();
    let admitted = shared.admission.of(shared.connections.count(), number);
    if admitted != Some(None) {
        shared.events.connection_refused(ends);
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_late_is_told_and_the_next_ones_are_dropped() {
        let files = OpenFiles::of(1024);
        let admission = Admission::new(100, files);
        let few = Some(Some(TooMany::Connections(100)));
        assert_eq!(admission.of(0, 10), Some(None));
        assert_eq!(admission.of(99, 150), Some(None));
        assert_eq!(admission.of(100, 150), few);
        assert_eq!(admission.of(163, 200), few);
        assert_eq!(admission.of(164, 200), None);
        let (last, told) = (files.for_amqp(), REFUSALS_MAX.min(files.spare() / 4));
        assert!(told > 0);
        let no_files = Some(Some(TooMany::OpenFiles));
        assert_eq!(admission.of(0, last - 1), Some(None));
        assert_eq!(admission.of(0, last), no_files);
        assert_eq!(admission.of(0, last + told - 1), no_files);
        assert_eq!(admission.of(0, last + told), None);
    }
}
