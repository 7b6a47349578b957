//! How fast durable queues are declared: each after the answer to the one before, and all without waiting.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::amqp::{self, id};
use crate::link::{Broker, Link};
use crate::machine::Machine;
use crate::options::Scenario;

/// Declares that wait for their answers at most: less than what the sockets hold.
const AT_ONCE: usize = 500;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Declared {
    /// The broker.
    pub broker: Broker,
    /// Queues declared, twice.
    pub count: usize,
    /// Seconds for all of them, one after the other.
    pub each_s: f64,
    /// Seconds for all of them, with up to 500 on their way.
    pub pipelined_s: f64,
    /// Seconds for both.
    pub seconds: f64,
    /// The machine.
    pub machine: Machine,
}

/// Declares `count` durable queues twice, and deletes them.
///
/// # Errors
/// When the broker refuses.
pub fn measure(scenario: &Scenario, count: usize) -> Result<Declared> {
    let mut link = Link::open(scenario)?;
    let begin = Instant::now();
    for queue in 0..count {
        link.call(id::QUEUE_DECLARE_OK, |out| {
            amqp::queue_declare(out, &name("each", queue), true, false);
        })?;
    }
    let each_s = begin.elapsed().as_secs_f64();
    let between = Instant::now();
    let mut out = Vec::new();
    let (mut asked, mut answered) = (0, 0);
    while answered < count {
        out.clear();
        while asked < count && asked - answered < AT_ONCE {
            amqp::queue_declare(&mut out, &name("pipelined", asked), true, false);
            asked += 1;
        }
        link.stream.write_all(&out)?;
        // Half of them, so that the broker never waits for the next.
        while answered < asked && (asked == count || asked - answered > AT_ONCE / 2) {
            link.expect(id::QUEUE_DECLARE_OK, |_| Ok(()))?;
            answered += 1;
        }
    }
    let pipelined_s = between.elapsed().as_secs_f64();
    for kind in ["each", "pipelined"] {
        for queue in 0..count {
            link.call(id::QUEUE_DELETE_OK, |out| {
                amqp::queue_delete(out, &name(kind, queue));
            })?;
        }
    }
    let broker = link.broker.clone();
    link.close(|_| Ok(()))?;
    Ok(Declared {
        broker,
        count,
        each_s,
        pipelined_s,
        seconds: each_s + pipelined_s,
        machine: Machine::here(),
    })
}

fn name(kind: &str, queue: usize) -> String {
    format!("perf-{}-{kind}-{queue}", std::process::id())
}
