//! The bus as its clients see it: one program of tests, so that there is one to link. A file each for what it is about; run one with
//! `cargo test --test bus NAME::`.

mod common;

#[path = "bus_acks.rs"]
mod acks;
#[path = "bus_batches.rs"]
mod batches;
#[path = "bus_bodies.rs"]
mod bodies;
mod examples;
#[path = "bus_keys.rs"]
mod keys;
mod push;
#[path = "bus_rest.rs"]
mod rest;
#[path = "bus_socket.rs"]
mod socket;
#[path = "bus_stream.rs"]
mod stream;
