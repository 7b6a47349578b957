//! What it costs to hand messages to another actor through the kit's bounded mailbox.
//!
//! A bench of the server's package, because the kit lives there; the package `backbone-benches` builds the
//! broker without the server. Wall-clock time a message, for a message an envelope and for 64, to an actor on
//! the sender's own arbiter and on another one:
//!
//! ```sh
//! cargo bench -p backbone --bench actor_hop
//! cargo bench -p backbone --bench actor_hop -- own_64 100000    # one of them, so many envelopes
//! ```
//!
//! It gates nothing: what the clock says moves with the machine, and with two arbiters so do the instructions.

// A bench that fails shall stop.
#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, System};
use backbone::actor::{self, Actor, ArbiterHandle, Context, Handle, Reply, Start};

/// Envelopes unless told otherwise.
const ENVELOPES: u64 = 200_000;
/// Envelopes before the clock is looked at.
const WARM_UP: u64 = 1_000;
/// How long the answer at the end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// As large as what a queue keeps of a message.
type Entry = [u64; 3];

struct Case {
    name: &'static str,
    /// Messages in an envelope.
    batch: usize,
    other_arbiter: bool,
}

const CASES: &[Case] = &[
    Case {
        name: "own_1",
        batch: 1,
        other_arbiter: false,
    },
    Case {
        name: "own_64",
        batch: 64,
        other_arbiter: false,
    },
    Case {
        name: "other_1",
        batch: 1,
        other_arbiter: true,
    },
    Case {
        name: "other_64",
        batch: 64,
        other_arbiter: true,
    },
];

enum Say {
    Take(Vec<Entry>),
    Sum(Reply<u64>),
}

/// Adds up what it is given, so that every entry is read.
#[derive(Default)]
struct Adder(u64);

impl Actor for Adder {
    type Message = Say;
    const KIND: &'static str = "bench_adder";

    fn handle(&mut self, message: Say, _: &mut Context<'_, Self>) {
        match message {
            Say::Take(entries) => self.0 += entries.iter().map(|[n, ..]| n).sum::<u64>(),
            Say::Sum(reply) => reply.send(self.0),
        }
    }
}

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let envelopes = match arguments.get(1).map_or(Ok(ENVELOPES), |n| n.parse()) {
        Ok(envelopes) => envelopes,
        Err(error) => return usage(&error.to_string()),
    };
    let wanted = arguments.first();
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| wanted.is_none_or(|name| name == case.name))
        .collect();
    if cases.is_empty() {
        return usage("there is no such case");
    }
    for case in cases {
        let ns = System::new().block_on(run(case, envelopes));
        println!("actor_hop {:10} {ns:8.1} ns/message", case.name);
    }
    ExitCode::SUCCESS
}

fn usage(problem: &str) -> ExitCode {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    eprintln!(
        "{problem}; usage: actor_hop [{} [ENVELOPES]]",
        names.join("|")
    );
    ExitCode::from(2)
}

async fn run(case: &Case, envelopes: u64) -> f64 {
    let other = case.other_arbiter.then(Arbiter::new);
    let arbiter: ArbiterHandle = other
        .as_ref()
        .map_or_else(Arbiter::current, Arbiter::handle);
    let adder = actor::start(Start::on(arbiter), Adder::default);
    send(&adder, case.batch, WARM_UP).await;
    let started = Instant::now();
    send(&adder, case.batch, envelopes).await;
    let sum = adder.ask(PATIENCE, Say::Sum).await.unwrap();
    let took = started.elapsed();
    let messages = envelopes * case.batch as u64;
    assert_eq!(sum, WARM_UP * case.batch as u64 + messages);
    adder.stop().await;
    if let Some(other) = other {
        other.stop();
        other.join().unwrap();
    }
    took.as_nanos() as f64 / messages as f64
}

/// Sends full envelopes; waits whenever the mailbox is full.
async fn send(adder: &Handle<Adder>, batch: usize, envelopes: u64) {
    for _ in 0..envelopes {
        adder.send(Say::Take(vec![[1, 2, 3]; batch])).await.unwrap();
    }
}
