//! Backbone: an AMQP 0-9-1 broker and communications bus in one binary.

pub mod amqp;
pub mod auth;
pub mod config;
pub mod runtime;
pub mod state;
pub mod telemetry;
