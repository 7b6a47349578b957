//! A segment of the log with arbitrary bytes behind its header.
//!
//! `cargo +nightly fuzz run log_segment`
#![no_main]

#[path = "../entries/log.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::log_segment(data));
