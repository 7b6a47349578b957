//! Frames, methods, content headers and tables from arbitrary bytes.
//!
//! `cargo +nightly fuzz run wire_decode`
#![no_main]

#[path = "../entries/wire.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::wire_decode(data));
