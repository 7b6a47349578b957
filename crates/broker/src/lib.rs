//! The broker state machines.

pub mod error;
pub mod topology;
