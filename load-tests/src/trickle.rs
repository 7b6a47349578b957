//! Many connections with few messages each: what a broker's processor time is for a steady, low rate.
//!
//! Each connection has a queue of its own, which it consumes, and publishes to the queue of the next
//! connection. They take turns at a fixed rate in all. One thread with `epoll` serves them, so that
//! the generator stays light with ten thousand of them.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::net::RecvFlags;
use serde::Serialize;

use crate::amqp::{self, FRAME_HEADER, FRAME_MAX, id};
use crate::confirms::histogram;
use crate::link::{Broker, Link, fail_if_closed};
use crate::machine::{CpuTimes, CpuUse, Machine};
use crate::options::Scenario;
use crate::report::Percentiles;
use crate::scan::{Fill, HEAD, Incoming};
use crate::slab::{body_template, read_head};
use crate::verify::{Faults, Track, judge};

/// Events taken at once.
const EVENTS_MAX: usize = 1024;
/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the broker is left alone between opening the connections and measuring.
const SETTLE: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Trickle {
    /// Whether nothing went wrong.
    pub ok: bool,
    /// What went wrong, counted in messages.
    pub faults: Faults,
    /// The broker.
    pub broker: Broker,
    /// Connections, each with a queue that it consumes.
    pub connections: usize,
    /// Messages a second by all together, as asked for.
    pub rate: f64,
    /// Octets of a body.
    pub size: usize,
    /// Messages published and delivered.
    pub messages: u64,
    /// How long it took.
    pub seconds: f64,
    /// Deliveries over `seconds`.
    pub delivered_per_s: f64,
    /// From when a message was due to its delivery.
    pub latency_from_due_us: Option<Percentiles>,
    /// The broker's processor time in per cent of a core.
    pub broker_percent: Option<f64>,
    /// The broker's processor time for a message.
    pub broker_ns_each: Option<f64>,
    /// Processor time.
    pub cpu: CpuUse,
    /// The machine.
    pub machine: Machine,
}

/// One connection.
struct Peer {
    link: Link,
    /// A whole publish to the queue of the next connection.
    publish: Vec<u8>,
    published: u64,
    /// What has come from the connection before.
    track: Track,
}

/// All connections, and what they have seen.
struct Peers {
    peers: Vec<Peer>,
    epoll: OwnedFd,
    body_at: usize,
    size: usize,
    start: Instant,
    interval_ns: f64,
    latency_ns: Histogram<u64>,
    delivered: u64,
    faults: Faults,
}

/// Opens `connections`, and publishes `rate` messages a second for so many `seconds`.
///
/// # Errors
/// When the broker refuses, or the limit of open files is too low.
pub fn measure(
    scenario: &Scenario,
    connections: usize,
    rate: f64,
    seconds: f64,
) -> Result<Trickle> {
    ensure!(
        connections > 0 && rate > 0.0 && seconds > 0.0,
        "connections, rate, seconds: above 0"
    );
    let mut peers = Peers::open(scenario, connections, rate)?;
    peers.rest(SETTLE)?;
    let before = CpuTimes::now(scenario.broker_pid);
    let messages = (rate * seconds) as u64;
    peers.run(messages)?;
    let took = peers.now_ns() as f64 / 1e9;
    let cpu = before.until(&CpuTimes::now(scenario.broker_pid));
    let faults = peers.judge();
    let broker = peers.peers[0].link.broker.clone();
    peers.close()?;
    Ok(Trickle {
        ok: faults.none(),
        faults,
        broker,
        connections,
        rate,
        size: scenario.size,
        messages,
        seconds: took,
        delivered_per_s: messages as f64 / took,
        latency_from_due_us: Percentiles::of(&peers.latency_ns),
        broker_percent: cpu.broker_s.map(|s| s / took * 100.0),
        broker_ns_each: cpu
            .broker_s
            .map(|s| (s * 1e9 / messages.max(1) as f64).round()),
        cpu,
        machine: Machine::here(),
    })
}

impl Peers {
    fn open(scenario: &Scenario, connections: usize, rate: f64) -> Result<Self> {
        let body = body_template(scenario.size);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut body_at = 0;
        let mut peers = Vec::with_capacity(connections);
        for index in 0..connections {
            let mut link =
                Link::open(scenario).with_context(|| format!("after {index} connections"))?;
            link.call(id::QUEUE_DECLARE_OK, |out| {
                amqp::queue_declare(out, &queue_name(index), false, false);
            })?;
            link.call(id::BASIC_CONSUME_OK, |out| {
                amqp::consume(out, &queue_name(index), "c", true);
            })?;
            let mut publish = Vec::new();
            amqp::publish(
                &mut publish,
                "",
                &queue_name((index + 1) % connections),
                false,
            );
            let properties = amqp::Properties::default();
            amqp::content_header(&mut publish, scenario.size as u64, &properties);
            body_at = publish.len() + FRAME_HEADER;
            amqp::body(&mut publish, &body, FRAME_MAX.min(link.frame_max));
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &link.stream, data, epoll::EventFlags::IN)?;
            peers.push(Peer {
                link,
                publish,
                published: 0,
                track: Track::new(0, 1, false),
            });
        }
        Ok(Peers {
            peers,
            epoll,
            body_at,
            size: scenario.size,
            start: Instant::now(),
            interval_ns: 1e9 / rate,
            latency_ns: histogram(),
            delivered: 0,
            faults: Faults::default(),
        })
    }

    /// Publishes `messages` in turn, each when it is due, and waits for the last delivery.
    fn run(&mut self, messages: u64) -> Result<()> {
        self.start = Instant::now();
        let mut published = 0;
        while published < messages {
            let due_ns = self.due_ns(published);
            let now_ns = self.now_ns();
            if now_ns < due_ns {
                self.wait(Duration::from_nanos(due_ns - now_ns))?;
                continue;
            }
            self.publish(published, due_ns)?;
            published += 1;
            // Also a generator that is late must look what has arrived.
            if published.is_multiple_of(64) {
                self.wait(Duration::ZERO)?;
            }
        }
        let mut quiet = Instant::now();
        while self.delivered < messages && quiet.elapsed() < PATIENCE {
            let before = self.delivered;
            self.wait(Duration::from_millis(100))?;
            if self.delivered > before {
                quiet = Instant::now();
            }
        }
        Ok(())
    }

    /// Does nothing for a while.
    fn rest(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while let Some(left) = time.checked_sub(start.elapsed()) {
            self.wait(left)?;
        }
        Ok(())
    }

    fn due_ns(&self, number: u64) -> u64 {
        (number as f64 * self.interval_ns) as u64
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn publish(&mut self, number: u64, due_ns: u64) -> Result<()> {
        let at = self.body_at;
        let turn = (number % self.peers.len() as u64) as usize;
        let peer = &mut self.peers[turn];
        peer.publish[at..at + 8].copy_from_slice(&peer.published.to_le_bytes());
        peer.publish[at + 8..at + HEAD].copy_from_slice(&due_ns.to_le_bytes());
        peer.published += 1;
        (&peer.link.stream)
            .write_all(&peer.publish)
            .context("publishing")
    }

    /// Waits for something to arrive, at most so long, and takes all of it.
    fn wait(&mut self, limit: Duration) -> Result<()> {
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let mut events = Vec::with_capacity(EVENTS_MAX);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            self.take(event.data.u64() as usize)?;
        }
        Ok(())
    }

    fn take(&mut self, index: usize) -> Result<()> {
        let now_ns = self.now_ns();
        let peer = &mut self.peers[index];
        let filled = peer
            .link
            .scanner
            .fill(&peer.link.stream, RecvFlags::DONTWAIT)?;
        ensure!(
            filled != Fill::Closed,
            "the broker closed connection {index}"
        );
        while let Some(item) = peer.link.scanner.next()? {
            match item {
                Incoming::Message(message) => {
                    let (number, due_ns) = read_head(&message.head);
                    self.faults.corrupt += u64::from(message.size != self.size as u64);
                    self.faults.redelivered += u64::from(message.redelivered);
                    peer.track.see(number);
                    self.latency_ns
                        .saturating_record(now_ns.saturating_sub(due_ns));
                    self.delivered += 1;
                }
                Incoming::Method { id, args } => fail_if_closed(id, args)?,
                Incoming::Confirm { .. } => self.faults.corrupt += 1,
            }
        }
        Ok(())
    }

    fn judge(&self) -> Faults {
        let mut faults = self.faults;
        let count = self.peers.len();
        for (index, peer) in self.peers.iter().enumerate() {
            let before = &self.peers[(index + count - 1) % count];
            faults.add(&judge(&[&peer.track], before.published));
        }
        faults
    }

    /// Deletes the queues, and lets the connections go.
    fn close(&mut self) -> Result<()> {
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.link.call(id::QUEUE_DELETE_OK, |out| {
                amqp::queue_delete(out, &queue_name(index));
            })?;
        }
        Ok(())
    }
}

fn queue_name(index: usize) -> String {
    format!("perf-{}-trickle-{index:05}", std::process::id())
}
