//! Field tables from arbitrary bytes.
//!
//! `cargo +nightly fuzz run field_table`
#![no_main]

#[path = "../entries/wire.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::field_table(data));
