//! Records of the log with sound checksums and arbitrary content.
//!
//! `cargo +nightly fuzz run log_records`
#![no_main]

#[path = "../entries/log.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::log_records(data));
