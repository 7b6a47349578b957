//! The broker state machines.
pub mod topology;
