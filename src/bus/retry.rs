//! When a message that could not be pushed is tried again, and when that is given up. Pure: time and chance are arguments.

use std::time::Duration;

use crate::config::Push;

/// The schedule of the message at the head of an inbox.
#[derive(Debug)]
pub(super) struct Retry {
    pause_min: Duration,
    pause_max: Duration,
    attempts_max: u32,
    age_max: Duration,
    head: Option<Head>,
}

/// The message that was tried last.
#[derive(Debug)]
struct Head {
    /// Its number in the inbox.
    place: u64,
    attempts: u32,
    /// When it was tried first.
    first: Duration,
}

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Once more, after this pause.
    Again(Duration),
    /// Never again.
    GiveUp,
}

impl Retry {
    pub fn new(settings: &Push) -> Self {
        Self {
            pause_min: Duration::from_millis(settings.retry_min_ms),
            pause_max: Duration::from_millis(settings.retry_max_ms),
            attempts_max: settings.attempts_max,
            age_max: Duration::from_secs(settings.age_max_s),
            head: None,
        }
    }

    /// Begins an attempt with the message at `place` of the inbox at `now`, on any clock that only goes forward. Returns its
    /// number, from one on.
    pub fn begin(&mut self, place: u64, now: Duration) -> u32 {
        let head = self.head.take().filter(|head| head.place == place);
        let head = head.unwrap_or(Head {
            place,
            attempts: 0,
            first: now,
        });
        let attempts = head.attempts.saturating_add(1);
        self.head = Some(Head { attempts, ..head });
        attempts
    }

    /// The attempt that was begun last failed. `chance` is from 0 to 1.
    pub fn failed(&self, now: Duration, chance: f64) -> Verdict {
        let Some(head) = &self.head else {
            return Verdict::Again(self.pause_min);
        };
        let is_spent = self.attempts_max > 0 && head.attempts >= self.attempts_max;
        let age = now.saturating_sub(head.first);
        if is_spent || (!self.age_max.is_zero() && age >= self.age_max) {
            return Verdict::GiveUp;
        }
        let doublings = head.attempts.saturating_sub(1).min(31);
        let pause = self.pause_min.saturating_mul(1 << doublings);
        let half = pause.min(self.pause_max) / 2;
        Verdict::Again(half + half.mul_f64(chance.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Lets a message fail until it is given up, on simulated time: the pauses, in ms, and when it was given up.
    fn fail_all(settings: &Push, chance: f64) -> (Vec<u64>, Duration) {
        let (mut retry, mut now) = (Retry::new(settings), ms(5));
        let mut pauses = Vec::new();
        loop {
            assert_eq!(retry.begin(7, now) as usize, pauses.len() + 1);
            match retry.failed(now, chance) {
                Verdict::Again(pause) => {
                    pauses.push(pause.as_millis() as u64);
                    now += pause;
                }
                Verdict::GiveUp => return (pauses, now),
            }
        }
    }

    #[test]
    fn pauses_double_up_to_their_cap_and_half_of_each_is_chance() {
        let settings = Push {
            attempts_max: 11,
            ..Push::default()
        };
        let (pauses, _) = fail_all(&settings, 1.0);
        let doubled = [
            500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000,
        ];
        assert_eq!(pauses, doubled);
        let (shortest, _) = fail_all(&settings, 0.0);
        assert_eq!(shortest, doubled.map(|pause| pause / 2));
    }

    #[test]
    fn attempts_end_a_message() {
        let settings = Push::default();
        assert_eq!(fail_all(&settings, 0.5).0.len(), 99);
    }

    #[test]
    fn age_ends_a_message() {
        let settings = Push {
            attempts_max: 0,
            age_max_s: 100,
            ..Push::default()
        };
        // 0.5 + 1 + 2 + … + 32 are 63.5; 60 more make 123.5 s.
        let (pauses, end) = fail_all(&settings, 1.0);
        assert_eq!((pauses.len(), end), (8, ms(123_505)));
    }

    #[test]
    fn without_limits_it_goes_on() {
        let settings = Push {
            attempts_max: 0,
            age_max_s: 0,
            ..Push::default()
        };
        let mut retry = Retry::new(&settings);
        for attempt in 1..=10_000 {
            assert_eq!(retry.begin(1, ms(0)), attempt);
        }
        let year = Duration::from_secs(365 * 86_400);
        assert_eq!(retry.failed(year, 1.0), Verdict::Again(ms(60_000)));
    }

    #[test]
    fn another_message_begins_anew() {
        let mut retry = Retry::new(&Push::default());
        assert_eq!((retry.begin(1, ms(0)), retry.begin(1, ms(1))), (1, 2));
        assert_eq!(retry.begin(2, ms(2)), 1);
        assert_eq!(retry.failed(ms(2), 1.0), Verdict::Again(ms(500)));
    }
}
