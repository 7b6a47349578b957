//! SIGKILL of the real server under load, again and again: nothing that was confirmed is lost, nothing that was
//! acknowledged comes back later than it may, and order stays.
//!
//! This proves what `written` promises; the page cache outlives a process. That `synced` holds is shown by the
//! fault-injecting disk of `crates/log` and by the traced run of `durability_trace.rs`.
//!
//! `BACKBONE_CRASH_ROUNDS` sets how often (6), `BACKBONE_CRASH_SEED` repeats a run's choices.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::ledger::Ledger;
use common::peer::Peer;
use common::traffic::{Publisher, Random, consume, drain, queue_name};
use common::{Server, directory_on_disk, number_from};

const PUBLISHERS: usize = 3;
const QUEUES: usize = 5;
/// Publishers of a run: their queues. The last queue has one publisher, the others have two.
const WRITES_TO: [&[usize]; PUBLISHERS] = [&[0, 1, 2, 3], &[0, 1, 2, 4], &[3]];

#[actix_web::test]
async fn nothing_confirmed_is_lost_by_sigkill_under_load() {
    let rounds = number_from("BACKBONE_CRASH_ROUNDS", 6);
    let seed = number_from("BACKBONE_CRASH_SEED", u64::from(std::process::id()));
    println!("BACKBONE_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let ledger = Ledger::new(PUBLISHERS, QUEUES);
    let data_dir = directory_on_disk();
    let since = Instant::now();
    for round in 0..rounds {
        let mut server = Server::on(data_dir.clone(), &[]).await;
        if round == 0 {
            let mut peer = Peer::open(server.amqp[0]);
            (0..QUEUES).for_each(|queue| peer.declare(&queue_name(queue), true).unwrap());
        }
        run_until_killed(&mut server, &ledger, &mut random).await;
    }
    let mut server = Server::on(data_dir.clone(), &[]).await;
    for queue in 0..QUEUES {
        drain(server.amqp[0], &ledger, queue).unwrap();
    }
    let totals = ledger.judge();
    println!("{rounds} rounds in {:?}: {totals:?}", since.elapsed());
    assert!(totals.confirmed > 0 && totals.seen >= totals.confirmed);
    assert!(server.terminate().await.success());
    let server = Server::on(data_dir, &[]).await;
    let mut peer = Peer::open(server.amqp[0]);
    for queue in 0..QUEUES {
        assert_eq!(peer.ready(&queue_name(queue)).unwrap(), 0);
    }
}

/// Traffic on all queues, each with a consumer or, at random, without one; then SIGKILL.
async fn run_until_killed(server: &mut Server, ledger: &Ledger, random: &mut Random) {
    let address = server.amqp[0];
    let never = AtomicBool::new(false);
    let length = Duration::from_millis(random.within(100..1_000) as u64);
    std::thread::scope(|scope| {
        for queue in 0..QUEUES {
            if random.one_in(3) {
                continue;
            }
            let (peer, own) = (Peer::open(address), random.fork());
            let prefetch = [10, 100, 1_000][random.within(0..3)];
            scope.spawn(move || {
                let ended = consume(peer, ledger, queue, prefetch, own);
                must_have_been_the_kill(&ended.unwrap_err());
            });
        }
        for (number, queues) in WRITES_TO.iter().enumerate() {
            let publisher = Publisher {
                ledger,
                number,
                queues: queues.to_vec(),
                window: [1, 100, 300, 1_000][random.within(0..4)],
                sizes,
                stop: &never,
            };
            let (peer, own) = (Peer::publisher(address), random.fork());
            scope.spawn(move || {
                let ended = publisher.run(peer, own);
                must_have_been_the_kill(&ended.unwrap_err());
            });
        }
        pause(length);
        server.kill();
    });
    ledger.end_run();
}

/// Mostly small ones, some of several pages, few of several frames.
fn sizes(random: &mut Random) -> usize {
    match random.within(0..1_000) {
        0..900 => random.within(16..300),
        900..998 => random.within(300..20_000),
        _ => random.within(100_000..300_000),
    }
}

/// A server that closes a channel or stays silent is no crash.
fn must_have_been_the_kill(error: &std::io::Error) {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let kinds = [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ];
    assert!(kinds.contains(&error.kind()), "{error}");
}

#[allow(
    clippy::disallowed_methods,
    reason = "the test's own thread, while others work"
)]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// What the ledger says of three messages that were confirmed, seen and acknowledged as told.
fn verdict(act: impl Fn(&Ledger, [common::ledger::Id; 3], &[Vec<u8>])) -> Result<(), String> {
    let ledger = Ledger::new(1, 1);
    let tick = ledger.tick();
    let sent: Vec<_> = (0..3).map(|_| ledger.sending(0, 0, 40)).collect();
    let ids = [sent[0].0, sent[1].0, sent[2].0];
    ids.into_iter().for_each(|id| ledger.confirmed(id, tick));
    let bodies: Vec<_> = sent.into_iter().map(|(_, body)| body).collect();
    act(&ledger, ids, &bodies);
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ledger.judge()));
    judged.map(drop).map_err(|panic| {
        let text = panic.downcast::<String>().expect("an assertion's message");
        *text
    })
}

#[test]
fn the_ledger_notices_what_goes_wrong() {
    let deliver = |ledger: &Ledger, bodies: &[Vec<u8>], order: &[usize]| {
        for &n in order {
            assert!(ledger.delivered(0, &bodies[n]).is_some());
        }
    };
    let right = verdict(|ledger, ids, bodies| {
        // The second one's ack was on its way when the server died.
        deliver(ledger, bodies, &[0, 1]);
        ledger.acking(&ids[..2]);
        ledger.end_run();
        deliver(ledger, bodies, &[1, 2]);
        ledger.acking(&ids[1..]);
    });
    assert_eq!(right, Ok(()));
    let lost = verdict(|ledger, ids, bodies| {
        deliver(ledger, bodies, &[0, 1]);
        ledger.acking(&ids[..2]);
    });
    assert!(
        lost.unwrap_err()
            .contains("number 2 of publisher 0 to queue 0 was confirmed")
    );
    let hole = verdict(|ledger, ids, bodies| {
        deliver(ledger, bodies, &[0, 2]);
        ledger.acking(&ids);
    });
    assert!(
        hole.unwrap_err()
            .contains("number 1 of publisher 0 to queue 0 is missing")
    );
    for order in [[0, 0, 1, 2].as_slice(), &[1, 0, 2]] {
        let moved = verdict(|ledger, ids, bodies| {
            deliver(ledger, bodies, order);
            ledger.acking(&ids);
        });
        assert!(moved.unwrap_err().contains("came after number"));
    }
    let back = verdict(|ledger, ids, bodies| {
        deliver(ledger, bodies, &[0, 1, 2]);
        ledger.acking(&ids);
        ledger.acks_handled(&ids[..1]);
        let (later, _) = ledger.sending(0, 0, 16);
        ledger.confirmed(later, ledger.tick());
        ledger.end_run();
        deliver(ledger, bodies, &[0]);
        ledger.acking(&[later]);
    });
    assert!(
        back.unwrap_err()
            .contains("came back although its ack was in the log")
    );
    let foreign = verdict(|ledger, ids, bodies| {
        deliver(ledger, bodies, &[0, 1, 2]);
        ledger.acking(&ids);
        assert!(ledger.delivered(0, &[0; 40]).is_none());
    });
    assert!(foreign.unwrap_err().contains("nobody has sent"));
}
