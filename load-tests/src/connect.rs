//! How fast many connections come: each logs in, opens its channels and declares a queue on each of them.

use std::io::Write;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::amqp::{self, id};
use crate::link::{Broker, Link};
use crate::machine::Machine;
use crate::options::Scenario;

/// Connections that are being opened at a time.
const THREADS: usize = 8;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Connected {
    /// The broker.
    pub broker: Broker,
    /// Connections, all open at the end.
    pub connections: usize,
    /// Channels of each, with a queue of their own each.
    pub channels: usize,
    /// Seconds until the last queue was declared.
    pub seconds: f64,
    /// The machine.
    pub machine: Machine,
}

/// Opens `connections` with `channels` each, declares a queue that is not durable on each channel, and deletes them.
///
/// # Errors
/// When the broker refuses.
pub fn measure(scenario: &Scenario, connections: usize, channels: u16) -> Result<Connected> {
    let threads = THREADS.clamp(1, connections.max(1));
    let begin = Instant::now();
    let open = thread::scope(|scope| {
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || open_every(scenario, thread, threads, connections, channels))
            })
            .collect();
        let opened = openers
            .into_iter()
            .map(|opener| opener.join().expect("it does not panic"));
        opened.collect::<Result<Vec<Vec<Link>>>>()
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut links: Vec<Link> = open.into_iter().flatten().collect();
    let broker = links.first().map(|link| link.broker.clone());
    if let Some(link) = links.first_mut() {
        for connection in 0..connections {
            for channel in 1..=channels {
                let name = name(connection, channel);
                link.call(id::QUEUE_DELETE_OK, |out| amqp::queue_delete(out, &name))?;
            }
        }
    }
    for link in links {
        link.close(|_| Ok(()))?;
    }
    Ok(Connected {
        broker: broker.unwrap_or_default(),
        connections,
        channels: usize::from(channels),
        seconds,
        machine: Machine::here(),
    })
}

/// Every `step`th connection from `first` on.
fn open_every(
    scenario: &Scenario,
    first: usize,
    step: usize,
    connections: usize,
    channels: u16,
) -> Result<Vec<Link>> {
    let open = (first..connections).step_by(step).map(|connection| {
        open_one(scenario, connection, channels)
            .with_context(|| format!("the connection {connection}"))
    });
    open.collect()
}

fn open_one(scenario: &Scenario, connection: usize, channels: u16) -> Result<Link> {
    let mut link = Link::open(scenario)?;
    let mut out = Vec::new();
    for channel in 1..=channels {
        // The first one is open.
        if channel > 1 {
            on_channel(&mut out, channel, amqp::channel_open);
        }
        let name = name(connection, channel);
        on_channel(&mut out, channel, |out| {
            amqp::queue_declare(out, &name, false, false);
        });
    }
    link.stream.write_all(&out)?;
    for _ in 0..channels {
        link.expect(id::QUEUE_DECLARE_OK, |_| Ok(()))?;
    }
    Ok(link)
}

/// Appends a frame that goes to channel 1, and puts another channel in.
fn on_channel(out: &mut Vec<u8>, channel: u16, frame: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    frame(out);
    out[at + 1..at + 3].copy_from_slice(&channel.to_be_bytes());
}

fn name(connection: usize, channel: u16) -> String {
    format!("perf-{}-{connection}-{channel}", std::process::id())
}
