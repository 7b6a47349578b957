//! A lean AMQP 0-9-1 load generator: it publishes, consumes, checks and measures, and costs so
//! little itself that the figures are the broker's.
//!
//! A run is set up by `run`, which declares queues and opens one connection and one thread for each
//! `publisher` and `consumer`. Frames are written by `amqp` and `slab` and read by `scan`; `verify`
//! judges the numbers in the bodies, `report` prints. `sink` is a stand-in broker that does the least
//! that one can do: its figures are the machine's limit.

mod amqp;
mod board;
mod bus;
mod confirms;
mod consumer;
mod idle;
mod link;
mod machine;
mod options;
mod publisher;
mod report;
mod run;
mod scan;
mod sink;
mod slab;
mod verify;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

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
    /// Runs a stand-in broker that only parses, copies and writes: the machine's limit
    Sink {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:5670")]
        bind: SocketAddr,
        /// Goes wrong on purpose, to see that the generator notices
        #[arg(long, value_enum, default_value = "none")]
        fault: sink::Fault,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Sink { bind, fault }) => serve_sink(bind, fault),
        Some(Command::Idle {
            uri,
            broker_pid,
            count,
        }) => measure_idle(&uri, broker_pid, count),
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
    let scenario = options::Scenario::at(uri)?;
    let idle = idle::measure(&scenario, broker_pid, count)?;
    println!("{}", serde_json::to_string(&idle)?);
    Ok(true)
}

fn serve_sink(bind: SocketAddr, fault: sink::Fault) -> Result<bool> {
    let listener = TcpListener::bind(bind).with_context(|| format!("listening on {bind}"))?;
    eprintln!("sink: listening on {bind}");
    sink::serve(&listener, fault);
    Ok(true)
}
