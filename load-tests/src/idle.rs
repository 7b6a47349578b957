//! What idle connections and queues cost a broker: its resident memory before and after, over their number.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::amqp::{self, id};
use crate::link::{Broker, Link};
use crate::machine::Machine;
use crate::options::Scenario;

/// How long the broker is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// The broker.
    pub broker: Broker,
    /// Connections with one open channel each.
    pub connections: Cost,
    /// Transient queues without messages.
    pub queues: Cost,
    /// The machine.
    pub machine: Machine,
}

/// The cost of things of one kind.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// How many.
    pub count: usize,
    /// The broker's resident memory without them, in octets.
    pub rss_before: u64,
    /// With all of them.
    pub rss_after: u64,
    /// The difference over their number, in octets.
    pub octets_each: f64,
}

/// Opens `count` connections, closes them, then declares as many queues and deletes them.
///
/// # Errors
/// When the broker refuses, its process cannot be read, or the limit of open files is too low.
pub fn measure(scenario: &Scenario, broker_pid: u32, count: usize) -> Result<Idle> {
    let mut control = Link::open(scenario)?;
    let queues = queues(&mut control, broker_pid, count)?;
    let connections = connections(scenario, broker_pid, count)?;
    let broker = control.broker.clone();
    control.close(|_| Ok(()))?;
    Ok(Idle {
        broker,
        connections,
        queues,
        machine: Machine::here(),
    })
}

fn connections(scenario: &Scenario, broker_pid: u32, count: usize) -> Result<Cost> {
    let rss_before = settled_rss(broker_pid)?;
    // Only the sockets are kept: the links' own buffers would fill this process.
    let sockets = (0..count)
        .map(|i| {
            let link = Link::open(scenario);
            Ok(link
                .with_context(|| format!("after {i} connections"))?
                .stream)
        })
        .collect::<Result<Vec<_>>>()?;
    let rss_after = settled_rss(broker_pid)?;
    drop(sockets);
    Ok(Cost::of(count, rss_before, rss_after))
}

fn queues(control: &mut Link, broker_pid: u32, count: usize) -> Result<Cost> {
    let name = |i| format!("perf-{}-idle-{i}", std::process::id());
    let rss_before = settled_rss(broker_pid)?;
    for i in 0..count {
        control.call(id::QUEUE_DECLARE_OK, |out| {
            amqp::queue_declare(out, &name(i), false, false);
        })?;
    }
    let rss_after = settled_rss(broker_pid)?;
    for i in 0..count {
        control.call(id::QUEUE_DELETE_OK, |out| {
            amqp::queue_delete(out, &name(i));
        })?;
    }
    Ok(Cost::of(count, rss_before, rss_after))
}

impl Cost {
    fn of(count: usize, rss_before: u64, rss_after: u64) -> Self {
        let octets_each = (rss_after as f64 - rss_before as f64) / count.max(1) as f64;
        Cost {
            count,
            rss_before,
            rss_after,
            octets_each: octets_each.round(),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the only thread, with nothing else to do"
)]
fn settled_rss(pid: u32) -> Result<u64> {
    thread::sleep(SETTLE);
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    rss_in_status(&status).with_context(|| format!("no VmRSS in {path}"))
}

fn rss_in_status(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kibibytes_and_given_in_octets() {
        let status = "Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t 5 kB\n";
        assert_eq!(rss_in_status(status), Some(1234 * 1024));
        assert_eq!(rss_in_status("Name:\tx\n"), None);
    }

    #[test]
    fn a_cost_is_a_difference_over_a_number_and_may_be_below_zero() {
        assert_eq!(Cost::of(10, 1000, 3005).octets_each, 201.0);
        assert_eq!(Cost::of(10, 3000, 1000).octets_each, -200.0);
    }
}
