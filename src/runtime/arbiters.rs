//! The threads that serve connections, and which connection is where.
//!
//! Connections that share queues do best on one arbiter: waking another thread costs several times what a
//! message costs. But one arbiter is one core. So connections gather on the first one while there is little
//! to do, spread when an arbiter is busy and another is not, and gather again when all of them
//! together have little to do. Each arbiter measures how busy it is ([`Meter`]); each connection asks once a
//! window whether it is to move ([`Stay::turn`]).
//!
//! A thread also paces itself: see [`super::pace`].

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, ArbiterHandle};

use super::pace::{Pacer, REST};

/// How long load is measured for.
const WINDOW: Duration = Duration::from_millis(50);
/// What was measured longer ago than this says nothing: an arbiter that sleeps does not measure.
const STALE: Duration = Duration::from_millis(200);
/// An arbiter that is this busy, in thousandths, gives connections away ...
const BUSY: u64 = 700;
/// ... where the busier of the two is less busy by this afterwards.
const BETTER: u64 = 100;
/// All arbiters together have little to do at this, in thousandths of one.
const LITTLE: u64 = 300;
/// Connections that leave an arbiter in one window to gather elsewhere.
const GATHER_MAX: u32 = 32;
/// A connection that moved stays for so many windows.
const STAY_WINDOWS: u64 = 20;

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// All arbiters.
#[derive(Debug)]
pub struct Arbiters {
    arbiters: Vec<Arbiter>,
    loads: Arc<[Load]>,
    start: Instant,
}

/// How busy an arbiter was in its last window.
#[derive(Debug, Default)]
struct Load {
    /// In thousandths of the time.
    busy: AtomicU64,
    /// When that was, in microseconds since the arbiters started.
    at_us: AtomicU64,
}

impl Load {
    fn busy(&self, now: Duration) -> u64 {
        let at = Duration::from_micros(self.at_us.load(Ordering::Relaxed));
        match now.saturating_sub(at) > STALE {
            true => 0,
            false => self.busy.load(Ordering::Relaxed),
        }
    }

    fn store(&self, busy: u64, now: Duration) {
        self.busy.store(busy, Ordering::Relaxed);
        let at_us = now.as_micros() as u64;
        self.at_us.store(at_us, Ordering::Relaxed);
    }
}

/// What a thread knows of itself.
struct Here {
    index: usize,
    start: Instant,
    loads: Arc<[Load]>,
    meter: Meter,
    pacer: Pacer,
}

impl Arbiters {
    /// Starts `count` arbiters, at least one.
    pub fn start(count: usize) -> Arc<Self> {
        let loads: Arc<[Load]> = (0..count.max(1)).map(|_| Load::default()).collect();
        let start = Instant::now();
        let arbiters = (0..loads.len()).map(|index| arbiter(index, start, Arc::clone(&loads)));
        Arc::new(Self {
            arbiters: arbiters.collect(),
            loads,
            start,
        })
    }

    /// Handles of all.
    pub fn handles(&self) -> Vec<ArbiterHandle> {
        self.arbiters.iter().map(Arbiter::handle).collect()
    }

    /// The arbiter `index`.
    pub fn handle(&self, index: usize) -> ArbiterHandle {
        self.arbiters[index].handle()
    }

    /// Where a new connection begins: with the others while there is little to do.
    pub fn for_newcomer(&self) -> ArbiterHandle {
        let now = self.start.elapsed();
        let busy = |index: &usize| self.loads[*index].busy(now);
        let index = match busy(&0) <= LITTLE {
            true => 0,
            false => (0..self.loads.len()).min_by_key(busy).unwrap_or(0),
        };
        self.handle(index)
    }
}

fn arbiter(index: usize, start: Instant, loads: Arc<[Load]>) -> Arbiter {
    Arbiter::with_tokio_rt(move || {
        // A rest would be 50 µs longer than asked for.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        HERE.set(Some(Here {
            index,
            start,
            loads,
            meter: Meter::default(),
            pacer: Pacer::default(),
        }));
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(park)
            .on_thread_unpark(unpark)
            .build()
            .expect("the system gives a thread its event queue")
    })
}

/// Called when the thread has nothing left to do.
#[allow(
    clippy::disallowed_methods,
    reason = "the arbiter itself rests, for a time that is bounded and shorter than tokio's timers"
)]
fn park() {
    let rests = HERE.with_borrow_mut(|here| {
        let here = here.as_mut()?;
        let now = here.start.elapsed();
        here.measure(now);
        here.meter.idle_since = Some(now);
        here.pacer.round(now).then_some(())
    });
    if rests.is_some() {
        std::thread::sleep(REST);
    }
}

/// Called when there is something to do again.
fn unpark() {
    HERE.with_borrow_mut(|here| {
        if let Some(here) = here {
            let now = here.start.elapsed();
            here.meter.resume(now);
        }
    });
}

impl Here {
    fn measure(&mut self, now: Duration) {
        if let Some(busy) = self.meter.window(now) {
            self.loads[self.index].store(busy, now);
        }
    }
}

/// Measures how busy a thread is, window by window; knows no clock.
#[derive(Debug, Default)]
struct Meter {
    /// Windows that ended.
    windows: u64,
    started: Duration,
    idle: Duration,
    idle_since: Option<Duration>,
    /// Bytes that connections read and wrote, in this window and in the last one.
    bytes: u64,
    bytes_before: u64,
    /// How busy the thread was in the last one.
    busy_before: u64,
    /// Connections that left in this window.
    left: u32,
}

impl Meter {
    fn resume(&mut self, now: Duration) {
        if let Some(since) = self.idle_since.take() {
            self.idle += now - since;
        }
    }

    /// Ends the window if it is long enough: yields how busy the thread was in it, in thousandths.
    fn window(&mut self, now: Duration) -> Option<u64> {
        let took = now - self.started;
        if took < WINDOW {
            return None;
        }
        let busy = took.saturating_sub(self.idle).as_micros() * 1000 / took.as_micros();
        self.windows += 1;
        self.busy_before = busy as u64;
        self.bytes_before = std::mem::take(&mut self.bytes);
        (self.started, self.idle, self.left) = (now, Duration::ZERO, 0);
        Some(self.busy_before)
    }

    /// How busy the last window was with a connection that carried `bytes` in it.
    fn share(&self, bytes: u64) -> u64 {
        match self.bytes_before {
            0 => 0,
            all => self.busy_before * bytes.min(all) / all,
        }
    }
}

/// A connection's stay on its arbiter.
#[derive(Debug, Default)]
pub struct Stay {
    /// The window in which it last had something to do.
    window: u64,
    /// Bytes that it read and wrote in it.
    bytes: u64,
    /// It does not move before this one.
    until: u64,
}

impl Stay {
    /// A stay that begins with a move.
    pub fn after_move() -> Self {
        let windows = HERE.with_borrow(|here| here.as_ref().map_or(0, |h| h.meter.windows));
        Self {
            window: windows,
            bytes: 0,
            until: windows + STAY_WINDOWS,
        }
    }

    /// Takes note that the connection read or wrote so many bytes.
    pub fn carried(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        HERE.with_borrow_mut(|here| {
            if let Some(here) = here {
                here.meter.bytes += bytes as u64;
                here.pacer.bytes += bytes as u64;
            }
        });
    }

    /// Asked after each turn of the connection. Yields the arbiter to which it is to move, if it is.
    pub fn turn(&mut self) -> Option<usize> {
        HERE.with_borrow_mut(|here| {
            let here = here.as_mut()?;
            if here.loads.len() == 1 {
                return None;
            }
            // A thread that is never idle has nobody else to end its windows.
            let now = here.start.elapsed();
            here.measure(now);
            let window = here.meter.windows;
            if window == self.window {
                return None;
            }
            let last = std::mem::replace(&mut self.window, window);
            let bytes = std::mem::take(&mut self.bytes);
            let share = match last + 1 == window {
                true => here.meter.share(bytes),
                false => 0,
            };
            if window < self.until {
                return None;
            }
            let loads = here.loads.iter().map(|load| load.busy(now));
            let target = advice(here.index, loads, share, here.meter.left);
            here.meter.left += u32::from(target.is_some());
            target
        })
    }
}

/// Where a connection on arbiter `here` should be, if not there. It kept its arbiter busy for `share`
/// thousandths; `left` connections have left in this window.
fn advice(
    here: usize,
    loads: impl Iterator<Item = u64> + Clone,
    share: u64,
    left: u32,
) -> Option<usize> {
    if loads.clone().sum::<u64>() <= LITTLE {
        return (here != 0 && left < GATHER_MAX).then_some(0);
    }
    let own = loads.clone().nth(here)?;
    let (target, least) = loads.enumerate().min_by_key(|(_, busy)| *busy)?;
    let busier = (own.saturating_sub(share)).max(least + share);
    let spreads = share > 0 && own >= BUSY && busier + BETTER <= own;
    (spreads && left == 0).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(here: usize, loads: &[u64], share: u64, left: u32) -> Option<usize> {
        advice(here, loads.iter().copied(), share, left)
    }

    #[test]
    fn connections_gather_while_there_is_little_to_do() {
        assert_eq!(at(1, &[100, 100], 50, 0), Some(0));
        assert_eq!(at(0, &[100, 100], 50, 0), None);
        assert_eq!(at(1, &[100, 100], 50, GATHER_MAX), None);
        assert_eq!(at(1, &[200, 200], 50, 0), None);
    }

    #[test]
    fn a_busy_arbiter_gives_one_connection_a_window_to_an_idle_one() {
        assert_eq!(at(0, &[950, 300, 200], 200, 0), Some(2));
        assert_eq!(at(0, &[950, 300, 200], 200, 1), None, "one has left");
        assert_eq!(at(0, &[950, 300, 200], 0, 0), None, "it had nothing to do");
        assert_eq!(at(0, &[650, 100, 50], 200, 0), None, "not busy enough");
    }

    #[test]
    fn nothing_moves_where_the_other_arbiter_would_be_as_busy() {
        assert_eq!(at(0, &[950, 100], 950, 0), None, "it is the only one");
        assert_eq!(at(0, &[950, 700], 200, 0), None);
        assert_eq!(at(0, &[950, 900], 10, 0), None, "no better");
    }

    #[test]
    fn idle_time_is_not_busy_time() {
        let ms = Duration::from_millis;
        let mut meter = Meter {
            idle_since: Some(ms(10)),
            ..Meter::default()
        };
        meter.resume(ms(40));
        assert_eq!(meter.window(ms(49)), None);
        assert_eq!(meter.window(ms(60)), Some(500));
        assert_eq!(meter.window(ms(120)), Some(1000));
        assert_eq!(meter.windows, 2);
    }

    #[test]
    fn a_connection_is_charged_for_the_bytes_that_it_carried() {
        let mut meter = Meter {
            bytes: 4000,
            ..Meter::default()
        };
        meter.window(WINDOW);
        assert_eq!((meter.share(1000), meter.share(9000)), (250, 1000));
    }

    #[test]
    fn a_load_that_is_not_renewed_is_forgotten() {
        let load = Load::default();
        load.store(900, Duration::from_secs(1));
        assert_eq!(load.busy(Duration::from_millis(1200)), 900);
        assert_eq!(load.busy(Duration::from_millis(1201)), 0);
    }
}
