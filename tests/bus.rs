//! The bus as its clients see it: one program of tests, so that there is one to link. A file each for what it is about; run one with
//! `cargo test --test bus NAME::`.

mod common;

#[path = "examples.rs"]
mod examples;
mod push;
#[path = "bus_rest.rs"]
mod rest;
