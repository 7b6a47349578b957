//! Frames in any order on two connections.
//!
//! `cargo +nightly fuzz run session`
#![no_main]

#[path = "../entries/session.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::session(data));
