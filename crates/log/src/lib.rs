//! The message store behind all queues.
