//! One publisher: writes prepared messages as fast as it may, reads confirms and returns.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use rustix::net::RecvFlags;

use crate::board::Board;
use crate::confirms::{Window, histogram};
use crate::link::{Link, fail_if_closed, readable};
use crate::options::Scenario;
use crate::scan::{Fill, Incoming};
use crate::slab::{Slab, stamp};
use crate::verify::Faults;

/// Writes between two looks at what the broker says, when no confirms are due.
const WRITES_PER_LOOK: u32 = 16;

/// A publisher that is ready to start.
#[derive(Debug)]
pub struct Publisher {
    id: usize,
    link: Link,
    slab: Slab,
    window: Option<Window>,
    pace: Pace,
    stall: Duration,
    done: Published,
}

/// What a publisher has done.
#[derive(Debug)]
pub struct Published {
    /// Messages written.
    pub count: u64,
    /// When the first one was written, and when the last one was written or confirmed.
    pub span_ns: Option<(u64, u64)>,
    /// Returned and refused messages.
    pub faults: Faults,
    /// From publish to confirm.
    pub confirm_ns: Histogram<u64>,
    /// From when a message was due by the rate to when it was written.
    pub lag_ns: Histogram<u64>,
}

/// How many messages may be written when.
#[derive(Debug)]
struct Pace {
    /// Messages to write in all.
    quota: u64,
    /// When to end, in nanoseconds of the run.
    length_ns: u64,
    schedule: Schedule,
    start_ns: u64,
}

/// When the messages of a publisher are due, counted from its start.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Nanoseconds between two messages; zero for no limit.
    interval_ns: f64,
    /// Nanoseconds by which this publisher starts after the first one, so that they do not beat in
    /// step.
    offset_ns: f64,
}

/// What the pace allows.
enum Allowed {
    Now(usize),
    After(Duration),
    NoMore,
}

impl Publisher {
    /// Prepares publisher `id` on an open link.
    ///
    /// # Errors
    /// When the broker refuses to confirm.
    pub fn new(
        id: usize,
        mut link: Link,
        scenario: &Scenario,
        names: &crate::slab::Names,
    ) -> Result<Self> {
        let window = if scenario.confirm_window > 0 {
            link.call(
                crate::amqp::id::CONFIRM_SELECT_OK,
                crate::amqp::confirm_select,
            )?;
            Some(Window::new(scenario.confirm_window))
        } else {
            None
        };
        let slab = Slab::new(scenario, names, id, link.frame_max);
        link.stream
            .set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Publisher {
            id,
            link,
            slab,
            window,
            pace: Pace::new(id, scenario),
            stall: Duration::from_secs(scenario.stall_s),
            done: Published {
                count: 0,
                span_ns: None,
                faults: Faults::default(),
                confirm_ns: histogram(),
                lag_ns: histogram(),
            },
        })
    }

    /// Publishes until the quota or the time is used up and all is confirmed, then closes.
    ///
    /// # Errors
    /// When the broker closes, refuses to read or leaves confirms out. What was published is lost
    /// to the caller then: the run has failed.
    pub fn run(mut self, board: &Board) -> Result<Published> {
        board.start.wait();
        self.pace.start_ns = board.clock.ns();
        board.set_start(self.id, self.pace.start_ns);
        let mut writes = 0;
        loop {
            if board.aborted() {
                return Ok(self.done);
            }
            if self.window.as_ref().is_some_and(|w| w.room() == 0) {
                self.wait_for_confirms(board)?;
                continue;
            }
            if board.ended() {
                break;
            }
            let now = board.clock.ns();
            match self.pace.allowed(now, self.done.count) {
                Allowed::NoMore => break,
                Allowed::After(wait) => {
                    if readable(self.link.stream.as_fd(), wait)? {
                        self.look(board)?;
                    }
                }
                Allowed::Now(n) => {
                    self.write(n, now)?;
                    writes += 1;
                    if writes % WRITES_PER_LOOK == 0 && self.window.is_none() {
                        self.look(board)?;
                    }
                }
            }
        }
        let mut end = board.clock.ns();
        while self.window.as_ref().is_some_and(|w| w.outstanding() > 0) && !board.aborted() {
            self.wait_for_confirms(board)?;
            end = board.clock.ns();
        }
        if let Some((_, last)) = &mut self.done.span_ns {
            *last = end;
        }
        let faults = &mut self.done.faults;
        self.link.close(|item| {
            faults.returned += u64::from(matches!(item, Incoming::Message(_)));
            Ok(())
        })?;
        Ok(self.done)
    }

    fn write(&mut self, allowed: usize, now: u64) -> Result<()> {
        let room = self.window.as_ref().map_or(usize::MAX, Window::room);
        let stamp = stamp(self.id, now);
        let (bytes, n) = self.slab.take(allowed.min(room), self.done.count, stamp);
        if self.pace.schedule.interval_ns > 0.0 {
            let due = self.pace.due_at(self.done.count);
            self.done
                .lag_ns
                .saturating_record_n(now.saturating_sub(due), n as u64);
        }
        let written = self.link.stream.write_all(bytes);
        match written {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                bail!("the broker has not read for {:?}", self.stall)
            }
            Err(e) => return Err(self.link.why_closed(e.into())),
        }
        if let Some(window) = &mut self.window {
            window.sent(n, now);
        }
        self.done.count += n as u64;
        self.done.span_ns.get_or_insert((now, now));
        Ok(())
    }

    /// Reads until at least something has arrived.
    fn wait_for_confirms(&mut self, board: &Board) -> Result<()> {
        let since = board.clock.ns();
        loop {
            match self
                .link
                .scanner
                .fill(&self.link.stream, RecvFlags::empty())?
            {
                Fill::Some => return self.take_incoming(board),
                Fill::Closed => bail!("the broker closed the connection"),
                Fill::Nothing => {}
            }
            let waited = Duration::from_nanos(board.clock.ns() - since);
            if waited > self.stall {
                let outstanding = self.window.as_ref().map_or(0, Window::outstanding);
                bail!("{outstanding} publishes not confirmed after {waited:.0?}");
            }
            if board.aborted() {
                return Ok(());
            }
        }
    }

    /// Takes what has arrived, without waiting.
    fn look(&mut self, board: &Board) -> Result<()> {
        match self
            .link
            .scanner
            .fill(&self.link.stream, RecvFlags::DONTWAIT)?
        {
            Fill::Nothing => Ok(()),
            Fill::Some => self.take_incoming(board),
            Fill::Closed => bail!("the broker closed the connection"),
        }
    }

    fn take_incoming(&mut self, board: &Board) -> Result<()> {
        let now = board.clock.ns();
        while let Some(item) = self.link.scanner.next()? {
            match item {
                Incoming::Confirm {
                    tag,
                    multiple,
                    nack,
                } => {
                    let Some(window) = &mut self.window else {
                        bail!("a confirm although none was asked for");
                    };
                    let n = window.confirm(tag, multiple, now, &mut self.done.confirm_ns)?;
                    if nack {
                        self.done.faults.nacked += n as u64;
                    }
                }
                Incoming::Message(_) => self.done.faults.returned += 1,
                Incoming::Method { id, args } => fail_if_closed(id, args)?,
            }
        }
        Ok(())
    }
}

impl Pace {
    fn new(id: usize, scenario: &Scenario) -> Self {
        let publishers = scenario.publishers as u64;
        let quota = match scenario.messages {
            0 => u64::MAX,
            n => quota(n, publishers, id as u64),
        };
        let length_ns = if scenario.messages > 0 {
            u64::MAX
        } else {
            (scenario.duration_s * 1e9) as u64
        };
        Pace {
            quota,
            length_ns,
            schedule: Schedule::new(id, scenario),
            start_ns: 0,
        }
    }

    /// When message `number` is due by the rate.
    fn due_at(&self, number: u64) -> u64 {
        self.start_ns + self.schedule.due_after(number)
    }

    fn allowed(&self, now: u64, count: u64) -> Allowed {
        if count >= self.quota || now - self.start_ns >= self.length_ns {
            return Allowed::NoMore;
        }
        let left = usize::try_from(self.quota - count).unwrap_or(usize::MAX);
        if self.schedule.interval_ns == 0.0 {
            return Allowed::Now(left);
        }
        let due = self.due_at(count);
        if due > now {
            return Allowed::After(Duration::from_nanos(due - now));
        }
        let late = ((now - due) as f64 / self.schedule.interval_ns) as usize;
        Allowed::Now(left.min(late + 1))
    }
}

impl Schedule {
    /// The schedule of publisher `id`.
    pub fn new(id: usize, scenario: &Scenario) -> Self {
        let publishers = scenario.publishers as f64;
        let interval_ns = if scenario.rate > 0.0 {
            1e9 * publishers / scenario.rate
        } else {
            0.0
        };
        Schedule {
            interval_ns,
            offset_ns: interval_ns * id as f64 / publishers,
        }
    }

    /// Nanoseconds after the start at which message `number` is due.
    pub fn due_after(&self, number: u64) -> u64 {
        (self.offset_ns + number as f64 * self.interval_ns) as u64
    }
}

/// Publisher `id`'s share of `messages`.
pub fn quota(messages: u64, publishers: u64, id: u64) -> u64 {
    messages / publishers + u64::from(id < messages % publishers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let shares: Vec<u64> = (0..4).map(|id| quota(10, 4, id)).collect();
        assert_eq!(shares, [3, 3, 2, 2]);
    }

    #[test]
    fn a_late_publisher_catches_up_and_an_early_one_waits() {
        let text = "rate = 1000\npublishers = 2\nmessages = 100\nqueues = 1";
        let scenario: Scenario = toml::from_str(text).unwrap();
        let pace = Pace::new(1, &scenario);
        assert_eq!(pace.due_at(0), 1_000_000);
        assert_eq!(pace.due_at(3), 7_000_000);
        assert!(matches!(
            pace.allowed(0, 0),
            Allowed::After(d) if d == Duration::from_millis(1)
        ));
        assert!(matches!(pace.allowed(7_100_000, 1), Allowed::Now(3)));
        assert!(matches!(pace.allowed(0, 50), Allowed::NoMore));
    }
}
