//! AMQP 0-9-1 as RabbitMQ speaks it, without I/O: bytes in, borrowed values out, and back.
//!
//! The crate holds no state, reads no clock and decides nothing about connections or channels. It says what
//! bytes mean, or exactly what is wrong with them; what to do about it is for the broker.
//!
//! | module | what it owns |
//! |---|---|
//! | [`frame`] | finding frames in a receive buffer, writing them |
//! | [`method`] | a struct for each method and the [`Method`](method::Method) over all; generated |
//! | [`properties`] | content headers and property lists |
//! | [`table`] | field tables: headers, arguments, client and server properties |
//! | [`content`] | whole messages: the hot path in and out |
//! | [`error`] | reply codes, and errors that know theirs |
//!
//! # Invariants
//!
//! - **Nothing is allocated to decode.** Everything borrows from the receive buffer; tables and property
//!   lists stay bytes, checked once to the last one, and are looked into when somebody asks.
//! - **What came is what goes.** Those bytes are stored and delivered as they are, so every property and
//!   header keeps its presence, type and value.
//! - **No input panics or recurses without bound.** Lengths are checked before they are believed, nesting
//!   ends at [`table::LEVELS_MAX`]. `assume_checked` is for bytes that were checked before; even there the
//!   worst is an error or an absent value.
//!
//! # Reading
//!
//! ```
//! use backbone_wire::frame::{self, FrameKind};
//! use backbone_wire::method::{Method, channel};
//!
//! let mut received = Vec::new();
//! channel::Flow { active: true }.write(1, &mut received);
//!
//! let max_payload = 131_072;
//! let (frame, used) = frame::parse(&received, max_payload)?.expect("the frame is whole");
//! assert_eq!((frame.kind, frame.channel, used), (FrameKind::Method, 1, received.len()));
//! assert!(matches!(Method::decode(frame.payload)?, Method::ChannelFlow(flow) if flow.active));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A broker tries [`content::parse_publish`] first, which takes a whole message at once, and goes the way
//! above when that yields nothing.
//!
//! # The generated part
//!
//! `spec/amqp-0-9-1.txt` lists classes, methods, arguments and properties. `generator/` turns it into
//! `src/method` and `src/properties/list.rs`; all three are checked in, and a test keeps them together:
//!
//! ```text
//! cargo run -p backbone-wire --example generate
//! ```

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
