//! One consumer: reads large pieces, checks each message, acknowledges once a read.

use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rustix::net::RecvFlags;

use crate::amqp::{self, FRAME_END, id};
use crate::board::Board;
use crate::confirms::histogram;
use crate::link::{Link, fail_if_closed};
use crate::options::{Ack, Scenario};
use crate::publisher::Schedule;
use crate::scan::{Fill, Incoming, Message};
use crate::share::Share;
use crate::slab::{Names, body_template, read_head, unstamp};
use crate::verify::{Faults, Track};

/// How long a read waits before the consumer looks whether the run is over.
const READ_LIMIT: Duration = Duration::from_millis(100);
/// One of so many bodies is compared octet by octet; all have their size and number checked.
const BODIES_PER_COMPARISON: u64 = 16;

/// A consumer whose queues already deliver to it.
#[derive(Debug)]
pub struct Consumer {
    /// Which set of queues it reads.
    group: usize,
    link: Link,
    ack: Ack,
    unacked: u32,
    last_tag: u64,
    out: Vec<u8>,
    checks: Checks,
    stall: Duration,
    /// Nanoseconds to read for, and to read nothing for, in turn.
    rest_ns: u64,
}

/// What a consumer has seen.
#[derive(Debug)]
pub struct Checks {
    /// Messages delivered.
    pub delivered: u64,
    /// When the last one was read, in nanoseconds of the run.
    pub last_ns: u64,
    /// For each queue of the set, publisher by publisher; `None` where one writes nothing.
    tracks: Vec<Option<Track>>,
    publishers: usize,
    share: Share,
    /// Faults that are not about numbers.
    pub faults: Faults,
    /// Octets that have arrived with the messages, frames and all.
    pub octets: u64,
    /// From publish to delivery, when the rate is limited.
    pub latency: Option<Latency>,
    verify: bool,
    body: Vec<u8>,
}

/// How long messages took, in nanoseconds.
#[derive(Debug)]
pub struct Latency {
    /// From just before the write.
    pub from_write_ns: Histogram<u64>,
    /// From when the write was due by the rate: what held the publisher up counts as well.
    pub from_due_ns: Histogram<u64>,
    /// By publisher.
    schedules: Vec<Schedule>,
}

impl Consumer {
    /// Subscribes consumer `index` on an open link.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn new(index: usize, mut link: Link, scenario: &Scenario, names: &Names) -> Result<Self> {
        let share = scenario.share();
        let group = index % share.groups();
        if scenario.prefetch > 0 {
            link.call(id::BASIC_QOS_OK, |out| amqp::qos(out, scenario.prefetch))?;
        }
        for queue in share.queues_of(group) {
            let tag = tag(share.place(queue));
            link.call(id::BASIC_CONSUME_OK, |out| {
                amqp::consume(out, &names.queue(queue), &tag, scenario.ack == Ack::Auto);
            })
            .with_context(|| format!("consuming from queue {queue}"))?;
        }
        link.stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Consumer {
            group,
            link,
            ack: scenario.ack,
            unacked: 0,
            last_tag: 0,
            out: Vec::with_capacity(256 * 1024),
            checks: Checks::new(group, scenario),
            stall: Duration::from_secs(scenario.stall_s),
            rest_ns: (scenario.rest_s * 1e9) as u64,
        })
    }

    /// Which set of queues it reads.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Consumes until the queues have delivered all that was published to them, then closes.
    ///
    /// # Errors
    /// When the broker closes or breaks the protocol. Silence is no error: what is missing counts as
    /// lost.
    pub fn run(mut self, board: &Board) -> Result<Checks> {
        let before = self.link.scanner.octets();
        board.start.wait();
        let mut quiet_since = None;
        while !board.is_drained(self.group) && !board.aborted() {
            if self.rests(board) {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "a thread of its own with nothing else to do"
                )]
                thread::sleep(READ_LIMIT);
                continue;
            }
            let fill = self
                .link
                .scanner
                .fill(&self.link.stream, RecvFlags::empty());
            match fill.context("reading")? {
                Fill::Some => {
                    quiet_since = None;
                    self.take_incoming(board)?;
                }
                Fill::Closed => bail!("the broker closed the connection"),
                Fill::Nothing if board.due_is_known(self.group) => {
                    let now = board.clock.ns();
                    let since = *quiet_since.get_or_insert(now);
                    if Duration::from_nanos(now - since) >= self.stall {
                        break;
                    }
                }
                Fill::Nothing => {}
            }
        }
        self.checks.octets = self.link.scanner.octets() - before;
        self.finish(board)
    }

    /// Whether it reads nothing at the moment; once all is published it takes what is left.
    fn rests(&self, board: &Board) -> bool {
        self.rest_ns > 0
            && board.clock.ns() / self.rest_ns % 2 == 1
            && !board.due_is_known(self.group)
    }

    fn take_incoming(&mut self, board: &Board) -> Result<()> {
        let now = board.clock.ns();
        let before = self.checks.delivered;
        while let Some(item) = self.link.scanner.next()? {
            match item {
                Incoming::Message(message) => {
                    self.last_tag = message.tag;
                    self.checks.take(&message, now, board);
                    match self.ack {
                        Ack::Auto => {}
                        Ack::Each => push_ack(&mut self.out, message.tag, false),
                        Ack::Multiple(n) => {
                            self.unacked += 1;
                            if self.unacked == n {
                                push_ack(&mut self.out, message.tag, true);
                                self.unacked = 0;
                            }
                        }
                    }
                }
                Incoming::Method { id, args } => fail_if_closed(id, args)?,
                Incoming::Confirm { .. } => bail!("a confirm on a consumer's channel"),
            }
        }
        if !self.out.is_empty() {
            self.link
                .stream
                .write_all(&self.out)
                .context("acknowledging")?;
            self.out.clear();
        }
        let n = self.checks.delivered - before;
        if n > 0 {
            self.checks.last_ns = now;
            board.add_delivered(self.group, n);
        }
        Ok(())
    }

    /// Cancels and closes; what still arrives meanwhile is checked like the rest, because it can
    /// only be too much.
    fn finish(mut self, board: &Board) -> Result<Checks> {
        if self.unacked > 0 {
            push_ack(&mut self.out, self.last_tag, true);
        }
        let places = self.checks.places();
        for place in 0..places {
            amqp::cancel(&mut self.out, &tag(place));
        }
        self.link.stream.write_all(&self.out)?;
        let checks = &mut self.checks;
        for _ in 0..places {
            self.link.expect(id::BASIC_CANCEL_OK, |item| {
                if let Incoming::Message(message) = item {
                    checks.take(message, checks.last_ns, board);
                }
                Ok(())
            })?;
        }
        self.link.close(|_| Ok(()))?;
        Ok(self.checks)
    }
}

/// The consumer tag for a queue at `place` in its set.
fn tag(place: usize) -> String {
    match place {
        0 => "c".into(),
        n => format!("c{n}"),
    }
}

impl Checks {
    /// For a consumer that reads the set `group` of queues.
    pub fn new(group: usize, scenario: &Scenario) -> Self {
        let share = scenario.share();
        let readers = (0..scenario.consumers).filter(|c| c % share.groups() == group);
        let shared = readers.count() > 1;
        let publishers = scenario.publishers;
        let tracks = share.queues_of(group).flat_map(|queue| {
            (0..publishers).map(move |publisher| {
                let (first, stride) = share.numbers(publisher, queue)?;
                Some(Track::new(first, stride, shared))
            })
        });
        Checks {
            delivered: 0,
            last_ns: 0,
            tracks: tracks.collect(),
            publishers,
            share,
            faults: Faults::default(),
            octets: 0,
            latency: (scenario.rate > 0.0).then(|| Latency {
                from_write_ns: histogram(),
                from_due_ns: histogram(),
                schedules: (0..publishers)
                    .map(|id| Schedule::new(id, scenario))
                    .collect(),
            }),
            verify: scenario.verify,
            body: body_template(scenario.size),
        }
    }

    /// What was seen of `publisher` on the queue at `place` in the set.
    pub fn track(&self, place: usize, publisher: usize) -> Option<&Track> {
        self.tracks[place * self.publishers + publisher].as_ref()
    }

    /// Queues in the set.
    fn places(&self) -> usize {
        self.tracks.len() / self.publishers
    }

    /// Notes a message that was read at `now`.
    #[inline]
    pub fn take(&mut self, message: &Message<'_>, now: u64, board: &Board) {
        self.delivered += 1;
        let (number, stamp) = read_head(&message.head);
        let (publisher, sent_ns) = unstamp(stamp);
        if let Some(latency) = &mut self.latency {
            latency.record(publisher, number, now, sent_ns, board);
        }
        if !self.verify {
            return;
        }
        if message.size != self.body.len() as u64
            || (self.delivered.is_multiple_of(BODIES_PER_COMPARISON)
                && !self.tail_is_right(message))
            || publisher >= self.publishers
        {
            self.faults.corrupt += 1;
            return;
        }
        self.faults.redelivered += u64::from(message.redelivered);
        // One queue is the usual case, and finding the place takes a division.
        let place = if self.tracks.len() == self.publishers {
            0
        } else {
            self.share.place(self.share.queue(publisher, number))
        };
        match self.tracks.get_mut(place * self.publishers + publisher) {
            Some(Some(track)) => track.see(number),
            _ => self.faults.corrupt += 1,
        }
    }

    fn tail_is_right(&self, message: &Message<'_>) -> bool {
        let offset = message.tail_offset as usize;
        let skip = stamped_octets(offset);
        match (message.tail.get(skip..), self.body.get(offset + skip..)) {
            (Some(tail), Some(body)) => tail == body,
            // A tail that ends within the stamped octets has nothing to compare.
            _ => true,
        }
    }
}

impl Latency {
    fn record(&mut self, publisher: usize, number: u64, now: u64, sent_ns: u64, board: &Board) {
        self.from_write_ns
            .saturating_record(now.saturating_sub(sent_ns));
        if let Some(schedule) = self.schedules.get(publisher) {
            let due = board.start_ns(publisher) + schedule.due_after(number);
            self.from_due_ns.saturating_record(now.saturating_sub(due));
        }
    }
}

/// Stamped octets at the front of a piece of a body that starts at `offset`.
fn stamped_octets(offset: usize) -> usize {
    crate::scan::HEAD.saturating_sub(offset)
}

#[inline]
fn push_ack(out: &mut Vec<u8>, tag: u64, multiple: bool) {
    let mut frame = [
        1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, FRAME_END,
    ];
    frame[11..19].copy_from_slice(&tag.to_be_bytes());
    frame[19] = u8::from(multiple);
    out.extend_from_slice(&frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_to_write_an_ack_gives_the_same_octets() {
        let (mut short, mut long) = (Vec::new(), Vec::new());
        push_ack(&mut short, 0x0102_0304_0506_0708, true);
        amqp::ack(&mut long, 0x0102_0304_0506_0708, true);
        assert_eq!(short, long);
    }

    #[test]
    fn a_damaged_body_is_noticed_and_the_stamp_is_not_compared() {
        let scenario: Scenario = toml::from_str("size = 40").unwrap();
        let checks = Checks::new(0, &scenario);
        let mut body = body_template(40);
        body[3] = 99;
        let mut message = Message {
            tag: 1,
            redelivered: false,
            returned: false,
            size: 40,
            head: [0; 16],
            tail: &body.clone(),
            tail_offset: 0,
        };
        assert!(checks.tail_is_right(&message));
        body[20] ^= 1;
        message.tail = &body;
        assert!(!checks.tail_is_right(&message));
        message.tail = &body[21..];
        message.tail_offset = 21;
        assert!(checks.tail_is_right(&message));
    }
}
