//! How eagerly an arbiter looks for what came in.
//!
//! A peer that writes each message by itself wakes the arbiter for each of them, and a wake costs more than a
//! message: on both sides, since the peer pays for waking us. Under such a stream of small segments an
//! arbiter that has nothing left to do rests for [`REST`] before it looks again, and finds several
//! messages at once. Nothing rests while little comes, while what comes is large, or where resting does not
//! pay: a peer that waits for our answer would only be slowed down.
//!
//! So the pacer tries it. It counts rounds (from one park of the thread to the next) and the bytes that
//! they carried. Eager rounds that are short and small make it rest for some rounds; it goes on while these
//! carry clearly more each and no less in the same time, and is eager again, for a growing while, when they do not.
//! A stretch of eager rounds now and then keeps the comparison true.

use std::time::Duration;

/// How long a round rests: what it adds to a latency at most.
pub(super) const REST: Duration = Duration::from_micros(200);
/// Rounds that are looked at together.
const ROUNDS: u32 = 32;
/// Rounds that carry more than this on average are large enough.
const SMALL_BYTES: u64 = 4096;
/// Rounds that are further apart on average leave time enough for each.
const INTERVAL_MAX: Duration = Duration::from_micros(100);
/// Rest is given up where it does not pay for this long at first, then for twice as long, and so on.
const GIVE_UP_MIN: Duration = Duration::from_millis(25);
/// The longest that rest is given up for.
const GIVE_UP_MAX: Duration = Duration::from_millis(1600);
/// Eager rounds are compared with again after this.
const COMPARE_AFTER: Duration = Duration::from_millis(400);

/// Decides whether a round rests; knows no clock.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Bytes carried since the last window began.
    pub bytes: u64,
    rounds: u32,
    window_start: Duration,
    /// What eager rounds carried, while rest is tried.
    resting: Option<Window>,
    resting_since: Duration,
    /// Rest is not tried before this.
    eager_until: Duration,
    give_up: Duration,
}

/// What some rounds carried.
#[derive(Debug, Clone, Copy)]
struct Window {
    bytes: u64,
    took: Duration,
}

impl Window {
    /// Whether these rounds are so short and small that resting may pay.
    fn is_hectic(&self) -> bool {
        self.took <= INTERVAL_MAX * ROUNDS && self.bytes <= SMALL_BYTES * u64::from(ROUNDS)
    }

    /// Whether these rounds, which rested, are better than `eager` ones: half as much more in each, and no less
    /// than nine tenths in the same time.
    fn pays(&self, eager: &Window) -> bool {
        let fuller = self.bytes * 2 >= eager.bytes * 3;
        let rate = u128::from(self.bytes) * eager.took.as_nanos() * 10;
        let eager_rate = u128::from(eager.bytes) * self.took.as_nanos() * 9;
        fuller && rate >= eager_rate
    }
}

impl Pacer {
    /// Takes note that a round ended at `now`. True: rest before the next one.
    pub fn round(&mut self, now: Duration) -> bool {
        self.rounds += 1;
        if self.rounds >= ROUNDS {
            let window = Window {
                bytes: self.bytes,
                took: now - self.window_start,
            };
            self.judge(window, now);
            (self.rounds, self.bytes, self.window_start) = (0, 0, now);
        }
        self.resting.is_some()
    }

    fn judge(&mut self, window: Window, now: Duration) {
        match self.resting {
            None if window.is_hectic() && now >= self.eager_until => {
                self.resting = Some(window);
                self.resting_since = now;
            }
            None => {}
            Some(eager) if window.pays(&eager) => {
                self.give_up = Duration::ZERO;
                if now - self.resting_since >= COMPARE_AFTER {
                    self.resting = None;
                }
            }
            Some(_) => {
                self.resting = None;
                self.eager_until = now + self.give_up;
                self.give_up = (self.give_up * 2).clamp(GIVE_UP_MIN, GIVE_UP_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: u64 = 70;

    /// Runs rounds for a second. `next` tells, for a round that begins after `rested`, how long it takes and how many
    /// messages it brings. Yields messages, rounds and the time that was rested.
    fn run(
        pacer: &mut Pacer,
        start: Duration,
        mut next: impl FnMut(Duration) -> (Duration, u64),
    ) -> (u64, u64, Duration) {
        let mut now = start;
        let (mut messages, mut rounds, mut rested) = (0, 0, Duration::ZERO);
        while now < start + Duration::from_secs(1) {
            let rest = if pacer.round(now) {
                REST
            } else {
                Duration::ZERO
            };
            let (took, count) = next(rest);
            now += rest + took;
            rested += rest;
            pacer.bytes += count * MESSAGE;
            (messages, rounds) = (messages + count, rounds + 1);
        }
        (messages, rounds, rested)
    }

    /// A stream of one message each `gap_us`, whatever we do.
    fn stream(gap_us: u64) -> impl FnMut(Duration) -> (Duration, u64) {
        let mut owed = 0;
        move |rest| {
            owed += rest.as_micros() as u64;
            let waiting = owed / gap_us;
            owed %= gap_us;
            if waiting > 0 {
                // Handling takes 5 µs.
                owed += 5;
                (Duration::from_micros(5), waiting)
            } else {
                let wait = gap_us - owed;
                owed = 0;
                (Duration::from_micros(wait), 1)
            }
        }
    }

    #[test]
    fn a_hectic_stream_is_gathered() {
        let mut pacer = Pacer::default();
        let (messages, rounds, _) = run(&mut pacer, Duration::ZERO, stream(10));
        assert!(messages > 95_000, "{messages} messages");
        assert!(rounds < messages / 5, "{rounds} rounds");
    }

    #[test]
    fn a_slow_stream_never_waits() {
        let mut pacer = Pacer::default();
        let (_, _, rested) = run(&mut pacer, Duration::ZERO, stream(200));
        assert_eq!(rested, Duration::ZERO);
    }

    #[test]
    fn a_peer_that_waits_for_answers_is_hardly_slowed_down() {
        // 30 µs from our answer to its next question.
        let question = |_| (Duration::from_micros(30), 1);
        let mut pacer = Pacer::default();
        let (first, _, _) = run(&mut pacer, Duration::ZERO, question);
        assert!(first > 33_333 * 80 / 100, "{first} messages");
        let mut now = Duration::from_secs(1);
        for _ in 0..5 {
            run(&mut pacer, now, question);
            now += Duration::from_secs(1);
        }
        let (later, _, _) = run(&mut pacer, now, question);
        assert!(later > 33_333 * 99 / 100, "{later} messages");
    }

    #[test]
    fn rest_ends_when_the_stream_slows_down() {
        let mut pacer = Pacer::default();
        run(&mut pacer, Duration::ZERO, stream(10));
        let (_, _, rested) = run(&mut pacer, Duration::from_secs(1), stream(400));
        assert!(rested < Duration::from_millis(20), "{rested:?}");
    }

    #[test]
    fn large_rounds_are_not_gathered() {
        let mut pacer = Pacer::default();
        let large = |_| (Duration::from_micros(20), 100);
        let (_, _, rested) = run(&mut pacer, Duration::ZERO, large);
        assert_eq!(rested, Duration::ZERO);
    }
}
