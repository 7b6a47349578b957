//! The kit's promises, each by behaviour.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_rt::Arbiter;
use parking_lot::Mutex;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// Declares an actor type with its own kind, so that tests running side by side have their own metrics.
macro_rules! probe {
    ($name:ident, $kind:literal) => {
        struct $name(Probe);
        impl Actor for $name {
            type Message = Say;
            const KIND: &'static str = $kind;
            fn started(&mut self, _: &mut Context<'_, Self>) {
                self.0.shared.lives.fetch_add(1, Ordering::SeqCst);
            }
            fn handle(&mut self, message: Say, ctx: &mut Context<'_, Self>) {
                match message {
                    Say::Note(n) => self.0.shared.notes.lock().push(n),
                    Say::Echo(n, reply) => reply.send(n),
                    Say::Hold(_reply) => std::mem::forget(_reply),
                    Say::Panic => panic!("told to"),
                    Say::Sleep(pause) => ctx.wait(tokio::time::sleep(pause), |probe, (), _| {
                        probe.0.shared.notes.lock().push(u64::MAX);
                    }),
                    Say::PanicLater => ctx.wait(async { panic!("in the future") }, |_, (), _| {}),
                    Say::PanicBeside => ctx.spawn(async { panic!("beside") }),
                    Say::Beside(held) => ctx.spawn(async move {
                        std::future::pending::<()>().await;
                        drop(held);
                    }),
                    Say::After(pause, n) => ctx.after(pause, Say::Note(n)),
                    Say::End => ctx.stop(),
                }
            }
            fn woken(&mut self, _: &mut Context<'_, Self>) -> Turn {
                self.0.shared.wakes.fetch_add(1, Ordering::SeqCst);
                if self.0.shared.panic_when_woken.swap(false, Ordering::SeqCst) {
                    panic!("woken");
                }
                let left = &self.0.shared.turns_left;
                let more = left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok();
                if more { Turn::More } else { Turn::Done }
            }
            fn stopped(&mut self) {
                self.0.shared.stopped.store(true, Ordering::SeqCst);
            }
        }
        impl $name {
            fn start(start_with: Start) -> (Handle<Self>, Arc<Shared>) {
                let shared = Arc::new(Shared::default());
                let given = Arc::clone(&shared);
                let handle = start(start_with, move || {
                    Self(Probe {
                        shared: Arc::clone(&given),
                    })
                });
                (handle, shared)
            }
        }
    };
}

struct Probe {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    lives: AtomicU64,
    wakes: AtomicU64,
    turns_left: AtomicU64,
    panic_when_woken: AtomicBool,
    stopped: AtomicBool,
    notes: Mutex<Vec<u64>>,
}

enum Say {
    Note(u64),
    Echo(u64, Reply<u64>),
    Hold(Reply<u64>),
    Panic,
    PanicLater,
    PanicBeside,
    Beside(Arc<()>),
    Sleep(Duration),
    After(Duration, u64),
    End,
}

fn here() -> Start {
    Start::on(Arbiter::current())
}

fn quick(restarts_max: u32) -> Supervision {
    Supervision {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
        restarts_max,
        window: Duration::from_secs(60),
    }
}

async fn until(what: impl Fn() -> bool) {
    let begin = Instant::now();
    while !what() {
        assert!(begin.elapsed() < SOON, "did not happen in time");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

probe!(Asked, "test_asked");
#[actix_web::test]
async fn a_question_is_answered_on_the_same_and_on_another_arbiter() {
    let (near, _) = Asked::start(here());
    let other = Arbiter::new();
    let (far, _) = Asked::start(Start::on(other.handle()));
    for handle in [&near, &far] {
        assert_eq!(handle.ask(SOON, |reply| Say::Echo(7, reply)).await, Ok(7));
    }
    assert_eq!(snapshot("test_asked").started, 2);
    other.stop();
}

probe!(Late, "test_late");
#[actix_web::test]
async fn a_question_without_answer_ends_at_its_deadline() {
    let (handle, _) = Late::start(here());
    let outcome = handle.ask(Duration::from_millis(20), Say::Hold).await;
    assert_eq!(outcome, Err(AskError::Timeout));
    assert_eq!(snapshot("test_late").ask_timeouts, 1);
    assert_eq!(
        handle.ask(SOON, |reply| Say::Echo(1, reply)).await,
        Ok(1),
        "it goes on"
    );
}

probe!(Beside, "test_beside");
#[actix_web::test]
async fn work_beside_messages_ends_with_its_actor_and_its_panic_is_the_actors() {
    let (handle, shared) = Beside::start(here().supervision(quick(10)));
    let held = Arc::new(());
    let beside = Say::Beside(Arc::clone(&held));
    handle.try_send(beside).map_err(drop).expect("room");
    assert_eq!(handle.ask(SOON, |reply| Say::Echo(1, reply)).await, Ok(1));
    assert_eq!(Arc::strong_count(&held), 2, "it goes on");
    handle.stop().await;
    until(|| Arc::strong_count(&held) == 1).await;
    assert_eq!(shared.lives.load(Ordering::SeqCst), 1);

    let (handle, shared) = Beside::start(here().supervision(quick(10)));
    let panics = handle.try_send(Say::PanicBeside);
    panics.map_err(drop).expect("room");
    until(|| shared.lives.load(Ordering::SeqCst) == 2).await;
    assert_eq!(snapshot("test_beside").panics, 1);
}

probe!(Full, "test_full");
#[actix_web::test]
async fn a_full_mailbox_refuses_or_lets_the_sender_wait() {
    let (handle, shared) = Full::start(here().capacity(2));
    handle
        .try_send(Say::Sleep(Duration::from_millis(100)))
        .expect("room");
    until(|| snapshot("test_full").messages == 1).await;
    handle.try_send(Say::Note(1)).expect("room for the first");
    handle.try_send(Say::Note(2)).expect("room for the second");
    assert!(matches!(
        handle.try_send(Say::Note(3)),
        Err(SendError::Full(Say::Note(3)))
    ));
    assert_eq!(snapshot("test_full").depth, 2);
    let refused = handle
        .ask(Duration::from_millis(5), |reply| Say::Echo(0, reply))
        .await;
    assert_eq!(refused, Err(AskError::Full));
    assert_eq!(snapshot("test_full").refused_full, 2);

    tokio::time::timeout(SOON, handle.send(Say::Note(4)))
        .await
        .expect("in time")
        .expect("alive");
    until(|| shared.notes.lock().len() == 4).await;
    assert_eq!(
        *shared.notes.lock(),
        [u64::MAX, 1, 2, 4],
        "the refused one never arrives"
    );
    assert_eq!(snapshot("test_full").depth, 0);
}

probe!(Broken, "test_broken");
#[actix_web::test]
async fn a_panic_costs_one_message_and_the_mailbox_survives() {
    let (handle, shared) = Broken::start(here().supervision(quick(10)));
    for message in [
        Say::Note(1),
        Say::Panic,
        Say::Note(2),
        Say::PanicLater,
        Say::Note(3),
    ] {
        handle.try_send(message).map_err(drop).expect("room");
    }
    until(|| shared.notes.lock().len() == 3).await;
    assert_eq!(*shared.notes.lock(), [1, 2, 3]);
    assert_eq!(shared.lives.load(Ordering::SeqCst), 3);
    let metrics = snapshot("test_broken");
    assert_eq!(
        (metrics.panics, metrics.restarts, metrics.messages),
        (2, 2, 5)
    );
    assert!(
        !shared.stopped.load(Ordering::SeqCst),
        "a panic is no orderly stop"
    );
}

probe!(GivenUp, "test_given_up");
#[actix_web::test]
async fn an_actor_that_panics_too_often_is_given_up() {
    let (handle, shared) = GivenUp::start(here().supervision(quick(2)));
    for _ in 0..3 {
        handle.send(Say::Panic).await.map_err(drop).expect("alive");
    }
    tokio::time::timeout(SOON, handle.gone())
        .await
        .expect("gives up");
    assert!(!handle.is_alive());
    assert!(matches!(
        handle.try_send(Say::Note(1)),
        Err(SendError::Dead(_))
    ));
    assert_eq!(
        handle.ask(SOON, |reply| Say::Echo(1, reply)).await,
        Err(AskError::Dead)
    );
    let metrics = snapshot("test_given_up");
    assert_eq!(
        (metrics.panics, metrics.restarts, metrics.given_up),
        (3, 2, 1)
    );
    assert_eq!(shared.lives.load(Ordering::SeqCst), 3);
}

struct BadFactory;
impl Actor for BadFactory {
    type Message = Reply<u32>;
    const KIND: &'static str = "test_bad_factory";
    fn handle(&mut self, reply: Reply<u32>, _: &mut Context<'_, Self>) {
        reply.send(5);
    }
}
#[actix_web::test]
async fn a_factory_that_panics_is_tried_again() {
    let mut attempts = 0;
    let handle = start(here().supervision(quick(5)), move || {
        attempts += 1;
        assert!(attempts > 2, "not yet");
        BadFactory
    });
    assert_eq!(handle.ask(SOON, |reply| reply).await, Ok(5));
    assert_eq!(snapshot("test_bad_factory").panics, 2);
}

#[test]
fn the_pause_doubles_up_to_its_bound() {
    let supervision = quick(100);
    let pauses: Vec<u128> = [1, 2, 3, 4, 99]
        .iter()
        .map(|n| host::backoff(&supervision, *n).as_millis())
        .collect();
    assert_eq!(pauses, [1, 2, 4, 4, 4]);
}

probe!(Dropped, "test_dropped");
#[actix_web::test]
async fn a_question_that_makes_the_actor_panic_is_answered_dead_at_once() {
    let (handle, _) = Dropped::start(here().supervision(quick(5)));
    let asked = handle.ask(SOON, |reply: Reply<u64>| {
        drop(reply);
        Say::Panic
    });
    assert_eq!(asked.await, Err(AskError::Dead));
}

probe!(Stopped, "test_stopped");
#[actix_web::test]
async fn an_orderly_stop_handles_what_was_accepted() {
    let (handle, shared) = Stopped::start(here());
    handle
        .try_send(Say::Sleep(Duration::from_millis(20)))
        .map_err(drop)
        .expect("room");
    for n in 0..10 {
        handle.try_send(Say::Note(n)).map_err(drop).expect("room");
    }
    tokio::time::timeout(SOON, handle.stop())
        .await
        .expect("stops");
    assert_eq!(shared.notes.lock().len(), 11);
    assert!(shared.stopped.load(Ordering::SeqCst));
    assert!(matches!(
        handle.try_send(Say::Note(1)),
        Err(SendError::Dead(_))
    ));
    tokio::time::timeout(SOON, handle.stop())
        .await
        .expect("twice is fine");
    assert_eq!(snapshot("test_stopped").stopped, 1);
}

probe!(Ended, "test_ended");
#[actix_web::test]
async fn an_actor_ends_itself_or_with_its_last_handle() {
    let (handle, shared) = Ended::start(here());
    handle.try_send(Say::End).map_err(drop).expect("room");
    tokio::time::timeout(SOON, handle.gone())
        .await
        .expect("ends");
    assert!(shared.stopped.load(Ordering::SeqCst));

    let (handle, shared) = Ended::start(here());
    let bell = handle.bell();
    handle
        .ask(SOON, |reply| Say::Echo(1, reply))
        .await
        .expect("alive");
    drop(handle);
    until(|| shared.stopped.load(Ordering::SeqCst)).await;
    bell.ring();
}

probe!(Stillborn, "test_stillborn");
#[actix_web::test]
async fn an_actor_on_a_stopped_arbiter_is_dead_from_the_beginning() {
    let other = Arbiter::new();
    let arbiter = other.handle();
    other.stop();
    other.join().expect("ends");
    let (handle, _) = Stillborn::start(Start::on(arbiter));
    assert_eq!(
        handle.ask(SOON, |reply| Say::Echo(1, reply)).await,
        Err(AskError::Dead)
    );
}

probe!(Timed, "test_timed");
#[actix_web::test]
async fn a_delayed_message_arrives_unless_its_life_has_ended() {
    let (handle, shared) = Timed::start(here().supervision(quick(5)));
    let say = |message| handle.try_send(message).map_err(drop).expect("room");
    say(Say::After(Duration::from_millis(5), 1));
    until(|| shared.notes.lock().len() == 1).await;
    say(Say::After(Duration::from_millis(5), 2));
    say(Say::Panic);
    say(Say::After(Duration::from_millis(30), 3));
    until(|| shared.notes.lock().len() == 2).await;
    assert_eq!(*shared.notes.lock(), [1, 3]);
}

probe!(Rung, "test_rung");
#[actix_web::test]
async fn many_rings_are_one_wake() {
    let (handle, shared) = Rung::start(here());
    handle
        .ask(SOON, |reply| Say::Echo(0, reply))
        .await
        .expect("alive");
    let bell = handle.bell();
    for _ in 0..1000 {
        bell.ring();
    }
    until(|| shared.wakes.load(Ordering::SeqCst) > 0).await;
    handle
        .ask(SOON, |reply| Say::Echo(0, reply))
        .await
        .expect("alive");
    assert_eq!(shared.wakes.load(Ordering::SeqCst), 1);
    bell.ring();
    until(|| shared.wakes.load(Ordering::SeqCst) == 2).await;
}

probe!(RungFar, "test_rung_far");
#[actix_web::test]
async fn the_last_ring_of_many_threads_is_always_followed_by_a_wake() {
    let other = Arbiter::new();
    let (handle, shared) = RungFar::start(Start::on(other.handle()));
    for _ in 0..50 {
        let before = shared.wakes.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let bell = handle.bell();
                scope.spawn(move || (0..20).for_each(|_| bell.ring()));
            }
        });
        until(|| shared.wakes.load(Ordering::SeqCst) > before).await;
        handle
            .ask(SOON, |reply| Say::Echo(0, reply))
            .await
            .expect("alive");
    }
    other.stop();
}

probe!(Turns, "test_turns");
#[actix_web::test]
async fn more_turns_leave_room_for_messages() {
    let (handle, shared) = Turns::start(here());
    shared.turns_left.store(u64::MAX, Ordering::SeqCst);
    handle.bell().ring();
    until(|| shared.wakes.load(Ordering::SeqCst) > 10).await;
    assert_eq!(handle.ask(SOON, |reply| Say::Echo(3, reply)).await, Ok(3));
    shared.turns_left.store(0, Ordering::SeqCst);
}

probe!(RungBroken, "test_rung_broken");
#[actix_web::test]
async fn a_ring_is_not_lost_in_a_panic() {
    let (handle, shared) = RungBroken::start(here().supervision(quick(5)));
    shared.panic_when_woken.store(true, Ordering::SeqCst);
    handle.bell().ring();
    until(|| shared.wakes.load(Ordering::SeqCst) == 2).await;
    assert_eq!(shared.lives.load(Ordering::SeqCst), 2);
}

probe!(Idle, "test_idle");
#[actix_web::test]
async fn ten_thousand_idle_actors_live_side_by_side() {
    let begin = Instant::now();
    let actors: Vec<_> = (0..10_000)
        .map(|_| Idle::start(here().capacity(4)))
        .collect();
    for (n, (handle, _)) in (0..).zip(&actors) {
        assert_eq!(handle.ask(SOON, |reply| Say::Echo(n, reply)).await, Ok(n));
    }
    assert_eq!(snapshot("test_idle").started, 10_000);
    drop(actors);
    until(|| snapshot("test_idle").stopped == 10_000).await;
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "took {:?}",
        begin.elapsed()
    );
}

probe!(Flood, "test_flood");
#[actix_web::test]
async fn a_flooded_actor_lets_other_tasks_of_its_arbiter_run() {
    let (handle, shared) = Flood::start(here().capacity(100_000));
    for n in 0..100_000 {
        handle.try_send(Say::Note(n)).map_err(drop).expect("room");
    }
    let mut turns = 0;
    while shared.notes.lock().len() < 100_000 {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns >= 100, "only {turns} turns for others");
}
