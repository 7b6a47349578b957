//! Takes a backlog that an earlier run has left (`--keep`), checked and acknowledged, and publishes to the same
//! queue meanwhile if asked to: how fast it goes, and how long a publisher is held up by it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use crate::amqp::{self, id};
use crate::board::Board;
use crate::consumer::{Checks, Consumer};
use crate::link::{Broker, Link};
use crate::machine::{CpuTimes, CpuUse, Machine};
use crate::options::{Ack, Scenario};
use crate::publisher::{Published, Publisher};
use crate::report::Percentiles;
use crate::slab::Names;
use crate::verify::{Faults, judge};

/// How often it is looked whether the backlog is taken.
const LOOK: Duration = Duration::from_millis(1);
/// The backlog has the publisher number 0, what is published meanwhile this one.
const MEANWHILE: usize = 1;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Drain {
    /// Whether nothing went wrong.
    pub ok: bool,
    /// What went wrong, in words.
    pub problems: Vec<String>,
    /// What went wrong, counted in messages.
    pub faults: Faults,
    /// Messages marked as redelivered: no fault, a broker was perhaps killed in between.
    pub redelivered: u64,
    /// The broker.
    pub broker: Broker,
    /// Messages of the backlog.
    pub messages: u64,
    /// Until so many were taken, the first of what was published meanwhile perhaps among them.
    pub seconds: f64,
    /// `messages` over `seconds`.
    pub drained_per_s: f64,
    /// Published meanwhile.
    pub published: u64,
    /// From publish to confirm of those; the largest is the longest stall.
    pub confirm_us: Option<Percentiles>,
    /// From when one of those was due to when it could be written.
    pub lag_us: Option<Percentiles>,
    /// Processor time.
    pub cpu: CpuUse,
    /// The machine.
    pub machine: Machine,
}

/// Takes the scenario's number of messages, which an earlier run with the same prefix and size and one publisher has
/// left in its queue 0, publishes at its rate meanwhile, and deletes the queue.
///
/// # Errors
/// When it cannot start.
pub fn measure(scenario: &Scenario) -> Result<Drain> {
    let (messages, rate) = (scenario.messages, scenario.rate);
    let mut scenario = scenario.clone();
    (scenario.publishers, scenario.consumers) = (2, 1);
    (scenario.ack, scenario.prefetch) = (Ack::Multiple(100), 1000);
    (scenario.messages, scenario.rate) = (0, 0.0);
    let mut paced = scenario.clone();
    paced.persistent = true;
    paced.duration_s = f64::from(u32::MAX);
    // Of two publishers, of which there is one; a second may pass without a confirm before it has to wait.
    paced.rate = 2.0 * rate;
    paced.confirm_window = (rate as usize).max(1);
    let names = Names::new(scenario.prefix.clone(), &scenario);
    let mut control = Link::open(&scenario)?;
    let waiting = count(&mut control, &names.queue(0))?;
    ensure!(
        waiting == messages,
        "{waiting} messages are in the queue, not {messages}"
    );
    let publisher = (rate > 0.0)
        .then(|| Publisher::new(MEANWHILE, Link::open(&scenario)?, &paced, &names))
        .transpose()?;
    let before = CpuTimes::now(scenario.broker_pid);
    let begin = Instant::now();
    let consumer = Consumer::new(0, Link::open(&scenario)?, &scenario, &names)?;
    let (took, checks, published) = run(consumer, publisher, messages)?;
    let cpu = before.until(&CpuTimes::now(scenario.broker_pid));
    let seconds = took.duration_since(begin).as_secs_f64();
    let result = report(
        &control,
        messages,
        seconds,
        &checks,
        published.as_ref(),
        cpu,
    );
    control.call(id::QUEUE_DELETE_OK, |out| {
        amqp::queue_delete(out, &names.queue(0));
    })?;
    control.close(|_| Ok(()))?;
    Ok(result)
}

/// Lets both work until the backlog is taken, and then until all is.
fn run(
    consumer: Consumer,
    publisher: Option<Publisher>,
    messages: u64,
) -> Result<(Instant, Checks, Option<Published>)> {
    // Boards of their own, so that one can be stopped alone.
    let (consuming, publishing) = (Board::new(2, 2, 1), Board::new(2, 2, 1));
    thread::scope(|scope| {
        let consumer = scope.spawn(|| consumer.run(&consuming));
        let publisher = publisher.map(|p| scope.spawn(|| p.run(&publishing)));
        consuming.start.wait();
        if publisher.is_some() {
            publishing.start.wait();
        }
        while consuming.delivered(0) < messages && !consumer.is_finished() {
            #[allow(
                clippy::disallowed_methods,
                reason = "a thread of its own with nothing else to do"
            )]
            thread::sleep(LOOK);
        }
        let took = Instant::now();
        publishing.end();
        let published = publisher
            .map(|handle| handle.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))
            .transpose()
            .context("publishing");
        let more = published
            .as_ref()
            .map_or(0, |p| p.as_ref().map_or(0, |p| p.count));
        consuming.set_due(0, messages + more);
        let checks = consumer
            .join()
            .unwrap_or_else(|_| Err(anyhow!("panicked")))
            .context("consuming")?;
        Ok((took, checks, published?))
    })
}

fn report(
    control: &Link,
    messages: u64,
    seconds: f64,
    checks: &Checks,
    published: Option<&Published>,
    cpu: CpuUse,
) -> Drain {
    let mut faults = checks.faults;
    let redelivered = std::mem::take(&mut faults.redelivered);
    let more = published.map_or(0, |p| p.count);
    for (publisher, count) in [(0, messages), (MEANWHILE, more)] {
        if let Some(track) = checks.track(0, publisher) {
            faults.add(&judge(&[track], count));
        }
    }
    if let Some(published) = published {
        faults.add(&published.faults);
    }
    let problems = faults.describe();
    Drain {
        ok: problems.is_empty(),
        problems,
        faults,
        redelivered,
        broker: control.broker.clone(),
        messages,
        seconds,
        drained_per_s: messages as f64 / seconds,
        published: more,
        confirm_us: published.and_then(|p| Percentiles::of(&p.confirm_ns)),
        lag_us: published.and_then(|p| Percentiles::of(&p.lag_ns)),
        cpu,
        machine: Machine::here(),
    }
}

fn count(control: &mut Link, queue: &str) -> Result<u64> {
    let answer = control.call(id::QUEUE_DECLARE_OK, |out| {
        amqp::queue_declare(out, queue, true, true);
    })?;
    let counts = amqp::take_short_str(&answer)
        .context("a short queue.declare-ok")?
        .1;
    Ok(counts
        .first_chunk::<4>()
        .map_or(0, |b| u64::from(u32::from_be_bytes(*b))))
}
