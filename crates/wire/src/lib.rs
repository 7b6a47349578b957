//! AMQP 0-9-1 without I/O.

mod codec;
pub mod content;
pub mod error;
pub mod frame;
pub mod method;
pub mod properties;
mod short_str;
pub mod table;

pub use short_str::ShortStr;

/// What a client sends first, and what it is answered if it sends anything else.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
