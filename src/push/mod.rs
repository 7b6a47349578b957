//! Calls to webhooks: one POST over HTTP or HTTPS, to an address that may be called.
//!
//! Owns the rules for addresses ([`Webhook`], [`Guard`]), and the way of one request ([`Courier`]). When a message is
//! called out, and again, is the bus's matter.
//!
//! Invariants:
//! - A name is resolved once for a connection, and that address is what is connected to: it was checked.
//! - Nothing of an answer is believed but its status; at most [`ANSWER_BYTES_MAX`] of its body are read.
//! - Redirects are not followed.

mod courier;
mod guard;
mod webhook;

pub use courier::{ANSWER_BYTES_MAX, CaFileError, Call, Connection, Courier, Failure, Slot};
pub use guard::Guard;
pub use webhook::Webhook;
