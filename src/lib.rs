//! Backbone.
