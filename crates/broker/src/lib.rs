//! The broker as pure state machines: no sockets, no clock, no runtime.
//!
//! The way of a message by file: [`session`] takes it from its frames, [`publisher`] routes it by
//! the [`topology`] and commits the batch, a [`queue`] holds its entry, and the consumer's
//! [`session`] fetches and encodes it into its [`out`]-buffer. [`flow`] adds the bus's rules.

pub mod access;
pub mod acting;
pub mod alarm;
mod bodies;
pub mod counters;
pub mod death;
mod declare;
pub mod dedup;
pub mod definitions;
mod delay;
pub mod durable;
pub mod error;
pub mod firehose;
pub mod flow;
pub mod gate;
mod governance;
mod history;
mod numbers;
pub mod out;
pub mod pager;
pub mod pattern;
mod pause;
pub mod policy;
pub mod publisher;
pub mod queue;
pub mod quota;
pub mod record;
mod replies;
pub mod restore;
pub mod returns;
pub mod rules;
mod scheduled;
pub mod session;
pub mod timetable;
pub mod topic_rule;
pub mod topology;
pub mod vhost;
pub mod vhosts;

pub use error::Error;
