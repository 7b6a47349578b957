//! A lean AMQP 0-9-1 load generator: it publishes, consumes, checks and measures, and costs so
//! little itself that the figures are the broker's.
//!
//! A run is set up by `run`, which declares queues and opens one connection and one thread for each
//! `publisher` and `consumer`. Frames are written by `amqp` and `slab` and read by `scan`; `verify`
//! judges the numbers in the bodies (`share` knows which number goes where), `report` prints.
//! `lapin_client` does the same with a client library. `sink` is a stand-in broker that does the least
//! that one can do: its figures are the machine's limit; `group_log` is its log, `disk` the limit of the disk.

#[cfg(test)]
mod against_sink;
mod amqp;
mod board;
mod bus;
mod confirms;
mod connect;
mod consumer;
mod declare;
mod disk;
mod drain;
mod group_log;
mod idle;
mod lapin_client;
mod link;
mod machine;
mod options;
mod publisher;
mod report;
mod run;
mod scan;
mod share;
mod sink;
mod slab;
mod trickle;
mod verify;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

/// Measures an AMQP 0-9-1 broker, and checks that it loses, doubles and reorders nothing.
///
/// The result is a line of JSON on standard output and a summary on standard error. The exit code is
/// 0 when all runs were right, 1 when one was not, 2 when it could not run.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: options::Flags,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measures the memory that idle connections and queues cost a local broker
    Idle {
        /// amqp://user:password@host:port/vhost
        #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672")]
        uri: String,
        /// Process id of the broker
        #[arg(long)]
        broker_pid: u32,
        /// How many of each; both processes need as many open files
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
    /// Publishes few messages on each of many connections, which all consume: a broker's cost at a low, steady rate
    Trickle {
        /// amqp://user:password@host:port/vhost
        #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672")]
        uri: String,
        /// Process id of the broker
        #[arg(long)]
        broker_pid: u32,
        /// Connections; both processes need as many open files
        #[arg(long, default_value_t = 1_000)]
        connections: usize,
        /// Messages a second by all together
        #[arg(long, default_value_t = 1_000.0)]
        rate: f64,
        /// For how long
        #[arg(long, default_value_t = 20.0)]
        duration_s: f64,
    },
    /// Measures how fast durable queues are declared
    Declare {
        /// amqp://user:password@host:port/vhost
        #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672")]
        uri: String,
        /// Process id of the broker
        #[arg(long)]
        broker_pid: u32,
        /// How many, twice
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
    /// Measures how fast many connections log in, open channels and declare a queue on each
    Connect {
        /// amqp://user:password@host:port/vhost
        #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672")]
        uri: String,
        /// Process id of the broker
        #[arg(long)]
        broker_pid: u32,
        /// Connections; both processes need as many open files
        #[arg(long, default_value_t = 1_000)]
        connections: usize,
        /// Channels of each
        #[arg(long, default_value_t = 10)]
        channels: u16,
    },
    /// Takes what a run with `--keep`, `--prefix` and `--consumers 0` has left, and publishes `--rate` a second meanwhile
    Drain(Box<options::Flags>),
    /// Measures how long `fdatasync` takes and how fast a file is written
    Disk {
        /// A folder on the disk in question
        #[arg(long)]
        folder: PathBuf,
        /// For how long
        #[arg(long, default_value_t = 2.0)]
        duration_s: f64,
        /// Pause after each sync, to go beside a run; without one the disk is measured at rest
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Runs a stand-in broker that only parses, copies and writes: the machine's limit
    Sink {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:5670")]
        bind: SocketAddr,
        /// Goes wrong on purpose, to see that the generator notices
        #[arg(long, value_enum, default_value = "none")]
        fault: sink::Fault,
        /// A folder for a log of all messages, overwritten in a ring and never read: confirms wait for it
        #[arg(long, value_name = "FOLDER")]
        log: Option<PathBuf>,
        /// What confirms wait for
        #[arg(long, value_enum, default_value = "synced")]
        level: group_log::Level,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Sink {
            bind,
            fault,
            log,
            level,
        }) => serve_sink(bind, fault, log.as_deref(), level),
        Some(Command::Declare {
            uri,
            broker_pid,
            count,
        }) => options::Scenario::at(&uri, broker_pid)
            .and_then(|scenario| measure_declares(&scenario, count)),
        Some(Command::Connect {
            uri,
            broker_pid,
            connections,
            channels,
        }) => options::Scenario::at(&uri, broker_pid)
            .and_then(|scenario| measure_connects(&scenario, connections, channels)),
        Some(Command::Drain(flags)) => measure_drain(&flags),
        Some(Command::Disk {
            folder,
            duration_s,
            pause_ms,
        }) => measure_disk(&folder, duration_s, pause_ms),
        Some(Command::Idle {
            uri,
            broker_pid,
            count,
        }) => measure_idle(&uri, broker_pid, count),
        Some(Command::Trickle {
            uri,
            broker_pid,
            connections,
            rate,
            duration_s,
        }) => options::Scenario::at(&uri, broker_pid)
            .and_then(|scenario| measure_trickle(&scenario, connections, rate, duration_s)),
        None => measure(&cli.flags),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("backbone-perf: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(flags: &options::Flags) -> Result<bool> {
    let scenario = flags.resolve()?;
    let mut rates = Vec::new();
    let mut ok = true;
    for _ in 0..scenario.runs {
        let report = run::run(&scenario)?;
        eprintln!("{}", report.summary());
        println!("{}", serde_json::to_string(&report)?);
        ok &= report.ok;
        rates.push(if scenario.consumers > 0 {
            report.delivered_per_s
        } else {
            report.published_per_s
        });
    }
    if rates.len() > 1 {
        let (median, low, high) = report::median(&rates);
        let [median, low, high] = [median, low, high].map(report::short);
        eprintln!("{}: median {median}/s ({low} to {high})", scenario.name);
    }
    Ok(ok)
}

fn measure_idle(uri: &str, broker_pid: u32, count: usize) -> Result<bool> {
    let scenario = options::Scenario::at(uri, broker_pid)?;
    let idle = idle::measure(&scenario, broker_pid, count)?;
    println!("{}", serde_json::to_string(&idle)?);
    Ok(true)
}

fn measure_trickle(
    scenario: &options::Scenario,
    connections: usize,
    rate: f64,
    duration_s: f64,
) -> Result<bool> {
    let trickle = trickle::measure(scenario, connections, rate, duration_s)?;
    println!("{}", serde_json::to_string(&trickle)?);
    Ok(trickle.ok)
}

fn measure_declares(scenario: &options::Scenario, count: usize) -> Result<bool> {
    let declared = declare::measure(scenario, count)?;
    println!("{}", serde_json::to_string(&declared)?);
    Ok(true)
}

fn measure_connects(
    scenario: &options::Scenario,
    connections: usize,
    channels: u16,
) -> Result<bool> {
    let connected = connect::measure(scenario, connections, channels)?;
    println!("{}", serde_json::to_string(&connected)?);
    Ok(true)
}

fn measure_drain(flags: &options::Flags) -> Result<bool> {
    let drain = drain::measure(&flags.resolve()?)?;
    println!("{}", serde_json::to_string(&drain)?);
    Ok(drain.ok)
}

fn measure_disk(folder: &Path, duration_s: f64, pause_ms: u64) -> Result<bool> {
    let duration = Duration::from_secs_f64(duration_s);
    let speed = disk::measure(folder, duration, Duration::from_millis(pause_ms))?;
    println!("{}", serde_json::to_string(&speed)?);
    Ok(true)
}

fn serve_sink(
    bind: SocketAddr,
    fault: sink::Fault,
    folder: Option<&Path>,
    level: group_log::Level,
) -> Result<bool> {
    let log = folder
        .map(|folder| group_log::GroupLog::start(folder, level).context("making the log"))
        .transpose()?;
    let listener = TcpListener::bind(bind).with_context(|| format!("listening on {bind}"))?;
    eprintln!("sink: listening on {bind}");
    sink::serve(&listener, fault, log);
    Ok(true)
}
