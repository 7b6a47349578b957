//! The lock-free parts under loom, which runs every interleaving of a few threads and every value that their
//! loads may see.
//!
//! The files are compiled as they are; `sync`, from which they take their atomics, is loom's here.

#![cfg(test)]

mod sync;

/// Of the doorbell's neighbours, what it names.
mod connections {
    /// Nobody asks anything here.
    pub struct Asker;
}

#[allow(dead_code, reason = "the models need not call all of it")]
#[path = "../../../src/amqp/doorbell.rs"]
mod doorbell;

#[allow(dead_code, reason = "the models need not call all of it")]
#[path = "../../../crates/broker/src/queue/credit.rs"]
mod credit;

mod credit_model;
mod doorbell_model;

/// Every interleaving in which no thread is interrupted more than three times.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}
