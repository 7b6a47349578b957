//! Backbone: an AMQP 0-9-1 broker and communications bus in one binary.

pub mod actor;
pub mod auth;
pub mod bus;
pub mod config;
pub mod engine;
pub mod runtime;
pub mod state;
pub mod telemetry;
