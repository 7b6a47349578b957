//! The communications bus: clients with an outbox and an inbox each.

pub mod envelope;
mod record;

pub use record::*;

/// Why the bus refused.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A field of the request is not valid.
    #[error("{field} {reason}")]
    Invalid {
        /// The field to blame.
        field: &'static str,
        /// What is wrong, to be read after the field's name.
        reason: String,
    },
}

/// The bus's own queues.
pub const OWN_QUEUES: [&str; 3] = ["soar-publish", "soar-broadcast", "soar-dead-letter"];

/// The queues of a client: outbox, notify, its alias broadcast, inbox.
pub fn queue_names(client_id: &str) -> [String; 4] {
    ["outbox", "notify", "broadcast", "inbox"].map(|role| format!("{client_id}-{role}"))
}
