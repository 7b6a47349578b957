//! The broker state machines.
