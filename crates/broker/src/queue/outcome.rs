//! What a queue is asked on conditions, and what it answers.

/// What [`super::Queue::leave`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// It was the last consumer of an auto-delete queue.
    pub unused: bool,
    /// The messages are back. If not, the queue is deleted, and the copies are the caller's.
    pub taken: bool,
}

/// Conditions of a delete.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteIf {
    /// Only without consumers.
    pub unused: bool,
    /// Only without ready messages.
    pub empty: bool,
}

/// Why a queue did not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is an exclusive consumer, or there are others and it wanted to be the only one.
    ExclusiveUse,
    /// The queue is deleted.
    Deleted,
    /// It has consumers.
    InUse,
    /// It has ready messages.
    NotEmpty,
    /// The log did not take it.
    Unlogged,
}

/// What [`super::Queue::fetch`] left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// The bounds of the call were reached: call again.
    More,
    /// Nothing more can be had now: the bell will ring.
    Armed,
}

/// Numbers about a queue at one instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages that wait.
    pub ready: u64,
    /// Those among them that wait in the log alone.
    pub paged_out: u64,
    /// Messages handed out and not settled.
    pub unsettled: u64,
    /// Consumers.
    pub consumers: u32,
    /// Messages ever put in.
    pub published: u64,
    /// Nothing is handed out.
    pub paused: bool,
}
