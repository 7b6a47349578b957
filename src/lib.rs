//! Backbone.

pub mod actor;
