//! One run: declares what is needed, starts a thread for each connection, judges and cleans up.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::amqp::{self, id};
use crate::board::Board;
use crate::bus::{Clients, Login};
use crate::confirms::histogram;
use crate::consumer::{Checks, Consumer};
use crate::lapin_client;
use crate::link::Link;
use crate::machine::{CpuTimes, CpuUse, Machine};
use crate::options::{Client, Exchange, Scenario};
use crate::publisher::{Published, Publisher, quota};
use crate::report::{Percentiles, Report};
use crate::slab::{BINDING_FOR_ALL, HEADER_NAME, Names, binding_key, publish_key};
use crate::verify::{Faults, Track, due_on_queue, judge};

/// Runs of this process, for names that differ.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Everything that was seen and done in a run.
#[derive(Debug)]
pub struct Outcome {
    /// By publisher; `None` for one that has failed.
    pub published: Vec<Option<Published>>,
    /// With the number of the set of queues; `None` for one that has failed.
    pub consumed: Vec<(usize, Option<Checks>)>,
    /// What went wrong, in words.
    pub problems: Vec<String>,
    /// Processor time.
    pub cpu: CpuUse,
}

/// Runs a scenario once.
///
/// # Errors
/// When the run cannot start. What goes wrong later is in the report.
pub fn run(scenario: &Scenario) -> Result<Report> {
    // The default slack of 50 µs would show in every paced publish; threads inherit it.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let prefix = match scenario.prefix.as_str() {
        "" => format!("perf-{}-{number}", std::process::id()),
        prefix => prefix.to_owned(),
    };
    let names = Names::new(prefix, scenario);
    let mut control = Link::open(scenario)?;
    let clients = if scenario.bus {
        Some(Clients::create(scenario, &names)?)
    } else {
        declare(&mut control, scenario, &names).context("declaring queues and bindings")?;
        None
    };
    let idle = (0..scenario.idle_connections)
        .map(|_| Ok(Link::open(scenario)?.stream))
        .collect::<Result<Vec<_>>>()?;
    let outcome = match scenario.client {
        Client::Raw => measure(scenario, &names, clients.as_ref())?,
        Client::Lapin => lapin_client::measure(scenario, &names)?,
    };
    drop(idle);
    let mut report = judge_run(scenario, &control, outcome);
    if let Err(error) = clean_up(control, scenario, &names, clients, &mut report) {
        report.problems.push(format!("cleaning up: {error:#}"));
    }
    report.ok = report.problems.is_empty() && report.faults.none();
    Ok(report)
}

fn declare(link: &mut Link, scenario: &Scenario, names: &Names) -> Result<()> {
    let exchange = names.exchange(scenario.exchange);
    let kind = scenario.exchange;
    if kind != Exchange::Default {
        let kind = match kind {
            Exchange::Topic => "topic",
            Exchange::Fanout => "fanout",
            Exchange::Headers => "headers",
            Exchange::Direct | Exchange::Default => "direct",
        };
        link.call(id::EXCHANGE_DECLARE_OK, |out| {
            amqp::exchange_declare(out, &exchange, kind, scenario.durable());
        })?;
    }
    for queue in 0..scenario.queues {
        link.call(id::QUEUE_DECLARE_OK, |out| {
            amqp::queue_declare(out, &names.queue(queue), scenario.durable(), false);
        })?;
    }
    let bindings = match kind {
        Exchange::Default => 0,
        Exchange::Fanout => scenario.queues,
        _ => scenario.bindings,
    };
    for index in 0..bindings {
        let queue = names.queue(index % scenario.queues);
        let value = publish_key(kind, index);
        let header = (kind == Exchange::Headers).then_some((HEADER_NAME, value.as_str()));
        let key = if scenario.one_for_all() {
            BINDING_FOR_ALL.to_owned()
        } else {
            binding_key(kind, index)
        };
        link.call(id::QUEUE_BIND_OK, |out| {
            amqp::queue_bind(out, &queue, &exchange, &key, header);
        })?;
    }
    Ok(())
}

/// Opens all connections, then lets all threads start together.
fn measure(scenario: &Scenario, names: &Names, clients: Option<&Clients>) -> Result<Outcome> {
    let open = |login: Option<&Login>| match login {
        Some(login) => Link::open_as(scenario, &login.id, &login.secret),
        None => Link::open(scenario),
    };
    let consumers = (0..scenario.consumers)
        .map(|i| {
            let link = open(clients.and_then(|c| c.receiver(i % scenario.queues)))?;
            Consumer::new(i, link, scenario, names)
        })
        .collect::<Result<Vec<_>>>()?;
    let publishers = (0..scenario.publishers)
        .map(|i| Publisher::new(i, open(clients.and_then(|c| c.sender(i)))?, scenario, names))
        .collect::<Result<Vec<_>>>()?;
    let board = board(scenario, scenario.consumers + scenario.publishers + 1);
    thread::scope(|scope| {
        let board = &board;
        let consumers: Vec<_> = consumers
            .into_iter()
            .map(|c| (c.group(), scope.spawn(move || guarded(board, c.run(board)))))
            .collect();
        let publishers: Vec<_> = publishers
            .into_iter()
            .map(|p| scope.spawn(move || guarded(board, p.run(board))))
            .collect();
        let before = CpuTimes::now(scenario.broker_pid);
        board.start.wait();
        let mut problems = Vec::new();
        let published: Vec<_> = publishers
            .into_iter()
            .enumerate()
            .map(|(i, handle)| join(handle, &format!("publisher {i}"), &mut problems))
            .collect();
        let counts: Vec<u64> = published
            .iter()
            .map(|p| p.as_ref().map_or(0, |p| p.count))
            .collect();
        set_due(board, scenario, &counts);
        let consumed = consumers
            .into_iter()
            .enumerate()
            .map(|(i, (group, handle))| {
                (group, join(handle, &format!("consumer {i}"), &mut problems))
            })
            .collect();
        let cpu = before.until(&CpuTimes::now(scenario.broker_pid));
        Ok(Outcome {
            published,
            consumed,
            problems,
            cpu,
        })
    })
}

/// What the threads of a run share; consumers know already what is due where that is settled.
pub fn board(scenario: &Scenario, threads: usize) -> Board {
    let board = Board::new(threads, scenario.publishers, scenario.share().groups());
    if scenario.messages > 0 {
        let total = scenario.publishers as u64;
        let counts: Vec<u64> = (0..total)
            .map(|id| quota(scenario.messages, total, id))
            .collect();
        set_due(&board, scenario, &counts);
    }
    board
}

/// Ends the run for all when one has failed.
fn guarded<T>(board: &Board, result: Result<T>) -> Result<T> {
    if result.is_err() {
        board.abort();
    }
    result
}

fn join<T>(
    handle: ScopedJoinHandle<'_, Result<T>>,
    who: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    let result = handle.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
    result
        .map_err(|error| problems.push(format!("{who}: {error:#}")))
        .ok()
}

/// Tells the consumers what to wait for when the publishers have published `counts`.
pub fn set_due(board: &Board, scenario: &Scenario, counts: &[u64]) {
    let mut due_of = vec![0; scenario.share().groups()];
    for queue in 0..scenario.queues {
        due_of[queue % scenario.share().groups()] += due(scenario, counts, queue);
    }
    for (group, due) in due_of.into_iter().enumerate() {
        board.set_due(group, due);
    }
}

fn due(scenario: &Scenario, counts: &[u64], queue: usize) -> u64 {
    counts
        .iter()
        .enumerate()
        .filter_map(|(publisher, &count)| {
            let (first, stride) = scenario.share().numbers(publisher, queue)?;
            Some(due_on_queue(first, stride, count))
        })
        .sum()
}

fn judge_run(scenario: &Scenario, control: &Link, outcome: Outcome) -> Report {
    let Outcome {
        published,
        consumed,
        problems,
        cpu,
    } = outcome;
    let counts: Vec<u64> = published
        .iter()
        .map(|p| p.as_ref().map_or(0, |p| p.count))
        .collect();
    let (mut confirm_ns, mut lag_ns) = (histogram(), histogram());
    let (mut latency_ns, mut from_due_ns) = (histogram(), histogram());
    let mut faults = Faults::default();
    let (mut first, mut last_publish) = (u64::MAX, 0);
    for p in published.iter().flatten() {
        faults.add(&p.faults);
        confirm_ns.add(&p.confirm_ns).expect("equal bounds");
        lag_ns.add(&p.lag_ns).expect("equal bounds");
        if let Some((start, end)) = p.span_ns {
            first = first.min(start);
            last_publish = last_publish.max(end);
        }
    }
    let mut last = if scenario.consumers == 0 {
        last_publish
    } else {
        0
    };
    let (mut delivered, mut octets) = (0, 0);
    for checks in consumed.iter().filter_map(|(_, c)| c.as_ref()) {
        faults.add(&checks.faults);
        delivered += checks.delivered;
        octets += checks.octets;
        last = last.max(checks.last_ns);
        if let Some(latency) = &checks.latency {
            latency_ns
                .add(&latency.from_write_ns)
                .expect("equal bounds");
            from_due_ns.add(&latency.from_due_ns).expect("equal bounds");
        }
    }
    // A thread that has failed took its notes with it: loss could not be told from that.
    if scenario.verify && scenario.consumers > 0 && problems.is_empty() {
        faults.add(&judge_numbers(scenario, &counts, &consumed));
    }
    let seconds = last.saturating_sub(first) as f64 / 1e9;
    let per_s = |n: u64| {
        if seconds > 0.0 {
            n as f64 / seconds
        } else {
            0.0
        }
    };
    let total = counts.iter().sum();
    Report {
        ok: false,
        problems: problems.into_iter().chain(faults.describe()).collect(),
        faults,
        scenario: scenario.clone(),
        broker: control.broker.clone(),
        durability: scenario.durability.clone(),
        published: total,
        delivered,
        seconds,
        publish_seconds: last_publish.saturating_sub(first) as f64 / 1e9,
        published_per_s: per_s(total),
        delivered_per_s: per_s(delivered),
        delivered_mb_per_s: per_s(delivered) * scenario.size as f64 / 1e6,
        wire_octets_each: (octets > 0).then(|| octets as f64 / delivered.max(1) as f64),
        broker_ns_each: cpu
            .broker_s
            .filter(|_| delivered > 0)
            .map(|s| (s * 1e9 / delivered as f64).round()),
        latency_us: Percentiles::of(&latency_ns),
        latency_from_due_us: Percentiles::of(&from_due_ns),
        confirm_us: Percentiles::of(&confirm_ns),
        lag_us: Percentiles::of(&lag_ns),
        cpu,
        machine: Machine::here(),
    }
}

fn judge_numbers(
    scenario: &Scenario,
    counts: &[u64],
    consumed: &[(usize, Option<Checks>)],
) -> Faults {
    let mut faults = Faults::default();
    let share = scenario.share();
    for queue in 0..scenario.queues {
        for (publisher, &count) in counts.iter().enumerate() {
            let tracks: Vec<&Track> = consumed
                .iter()
                .filter(|(group, _)| *group == queue % share.groups())
                .filter_map(|(_, checks)| checks.as_ref()?.track(share.place(queue), publisher))
                .collect();
            if !tracks.is_empty() {
                faults.add(&judge(&tracks, count));
            }
        }
    }
    faults
}

/// Deletes what was declared; what still lies in the queues must be what nobody has consumed.
fn clean_up(
    mut link: Link,
    scenario: &Scenario,
    names: &Names,
    clients: Option<Clients>,
    report: &mut Report,
) -> Result<()> {
    if scenario.keep {
        return link.close(|_| Ok(()));
    }
    if scenario.verify && report.problems.is_empty() {
        check_rest(&mut link, scenario, names, report)?;
    }
    if let Some(clients) = clients {
        clients.remove()?;
        return link.close(|_| Ok(()));
    }
    for queue in 0..scenario.queues {
        link.call(id::QUEUE_DELETE_OK, |out| {
            amqp::queue_delete(out, &names.queue(queue));
        })?;
    }
    if scenario.exchange != Exchange::Default {
        link.call(id::EXCHANGE_DELETE_OK, |out| {
            amqp::exchange_delete(out, &names.exchange(scenario.exchange));
        })?;
    }
    link.close(|_| Ok(()))
}

/// Compares the queues' message counts with what must be left. They may lag behind: brokers count
/// what was acknowledged or published last a little later.
fn check_rest(
    link: &mut Link,
    scenario: &Scenario,
    names: &Names,
    report: &mut Report,
) -> Result<()> {
    let due = match (scenario.consumers, scenario.exchange) {
        (1.., _) => 0,
        (0, Exchange::Fanout) => report.published * scenario.queues as u64,
        (0, _) => report.published,
    };
    let deadline = Instant::now() + Duration::from_secs(scenario.stall_s);
    loop {
        let mut rest = 0;
        for queue in 0..scenario.queues {
            let answer = link.call(id::QUEUE_DECLARE_OK, |out| {
                amqp::queue_declare(out, &names.queue(queue), scenario.durable(), true);
            })?;
            let counts = amqp::take_short_str(&answer)
                .context("a short queue.declare-ok")?
                .1;
            rest += counts
                .first_chunk::<4>()
                .map_or(0, |b| u64::from(u32::from_be_bytes(*b)));
        }
        if rest == due {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let problem = format!("{rest} messages are left in the queues instead of {due}");
            report.problems.push(problem);
            return Ok(());
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "a thread of its own with nothing else to do"
        )]
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_knows_its_share() {
        let scenario = |text: &str| toml::from_str::<Scenario>(text).unwrap();
        let s = scenario("queues = 2\npublishers = 3");
        assert_eq!((due(&s, &[5, 6, 7], 0), due(&s, &[5, 6, 7], 1)), (12, 6));
        let s = scenario("queues = 2\npublishers = 3\nexchange = \"fanout\"");
        assert_eq!(due(&s, &[5, 6, 7], 1), 18);
        let s = scenario("queues = 3\npublishers = 1\nexchange = \"direct\"");
        assert_eq!((due(&s, &[5], 0), due(&s, &[5], 2)), (2, 1));
    }
}
