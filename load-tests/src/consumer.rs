//! One consumer: reads large pieces, checks each message, acknowledges once a read.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rustix::net::RecvFlags;

use crate::amqp::{self, FRAME_END, id};
use crate::board::Board;
use crate::confirms::histogram;
use crate::link::{Link, fail_if_closed};
use crate::options::{Ack, Exchange, Scenario};
use crate::scan::{Fill, Incoming, Message};
use crate::slab::{Names, body_template, read_head, unstamp};
use crate::verify::{Faults, Track};

/// How long a read waits before the consumer looks whether the run is over.
const READ_LIMIT: Duration = Duration::from_millis(100);
/// One of so many bodies is compared octet by octet; all have their size and number checked.
const BODIES_PER_COMPARISON: u64 = 16;
const TAG: &str = "c";

/// A consumer whose queue already delivers to it.
#[derive(Debug)]
pub struct Consumer {
    queue: usize,
    link: Link,
    ack: Ack,
    unacked: u32,
    last_tag: u64,
    out: Vec<u8>,
    checks: Checks,
    stall: Duration,
}

/// What a consumer has seen.
#[derive(Debug)]
pub struct Checks {
    /// Messages delivered.
    pub delivered: u64,
    /// When the last one was read, in nanoseconds of the run.
    pub last_ns: u64,
    /// One for each publisher that writes to the queue, by its number.
    pub tracks: Vec<Option<Track>>,
    /// Faults that are not about numbers.
    pub faults: Faults,
    /// From publish to delivery, when the rate is limited.
    pub latency_ns: Option<Histogram<u64>>,
    verify: bool,
    body: Vec<u8>,
}

impl Consumer {
    /// Subscribes consumer `index` on an open link.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn new(index: usize, mut link: Link, scenario: &Scenario, names: &Names) -> Result<Self> {
        let queue = index % scenario.queues;
        if scenario.prefetch > 0 {
            link.call(id::BASIC_QOS_OK, |out| amqp::qos(out, scenario.prefetch))?;
        }
        link.call(id::BASIC_CONSUME_OK, |out| {
            amqp::consume(out, &names.queue(queue), TAG, scenario.ack == Ack::Auto);
        })
        .with_context(|| format!("consuming from queue {queue}"))?;
        link.stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Consumer {
            queue,
            link,
            ack: scenario.ack,
            unacked: 0,
            last_tag: 0,
            out: Vec::with_capacity(256 * 1024),
            checks: Checks::new(queue, scenario),
            stall: Duration::from_secs(scenario.stall_s),
        })
    }

    /// Which queue it reads.
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// Consumes until the queue has delivered all that was published to it, then closes.
    ///
    /// # Errors
    /// When the broker closes or breaks the protocol. Silence is no error: what is missing counts as
    /// lost.
    pub fn run(mut self, board: &Board) -> Result<Checks> {
        board.start.wait();
        let mut quiet_since = None;
        while !board.is_drained(self.queue) && !board.aborted() {
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
                Fill::Nothing if board.due_is_known(self.queue) => {
                    let now = board.clock.ns();
                    let since = *quiet_since.get_or_insert(now);
                    if Duration::from_nanos(now - since) >= self.stall {
                        break;
                    }
                }
                Fill::Nothing => {}
            }
        }
        self.finish()
    }

    fn take_incoming(&mut self, board: &Board) -> Result<()> {
        let now = board.clock.ns();
        let before = self.checks.delivered;
        while let Some(item) = self.link.scanner.next()? {
            match item {
                Incoming::Message(message) => {
                    self.last_tag = message.tag;
                    self.checks.take(&message, now);
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
            board.add_delivered(self.queue, n);
        }
        Ok(())
    }

    /// Cancels and closes; what still arrives meanwhile is checked like the rest, because it can
    /// only be too much.
    fn finish(mut self) -> Result<Checks> {
        if self.unacked > 0 {
            push_ack(&mut self.out, self.last_tag, true);
        }
        amqp::cancel(&mut self.out, TAG);
        self.link.stream.write_all(&self.out)?;
        let checks = &mut self.checks;
        self.link.expect(id::BASIC_CANCEL_OK, |item| {
            if let Incoming::Message(message) = item {
                checks.take(message, checks.last_ns);
            }
            Ok(())
        })?;
        self.link.close(|_| Ok(()))?;
        Ok(self.checks)
    }
}

impl Checks {
    fn new(queue: usize, scenario: &Scenario) -> Self {
        let shared = (0..scenario.consumers)
            .filter(|c| c % scenario.queues == queue)
            .count()
            > 1;
        Checks {
            delivered: 0,
            last_ns: 0,
            tracks: (0..scenario.publishers)
                .map(|publisher| {
                    let (first, stride) = numbers_on_queue(scenario, publisher, queue)?;
                    Some(Track::new(first, stride, shared))
                })
                .collect(),
            faults: Faults::default(),
            latency_ns: (scenario.rate > 0.0).then(histogram),
            verify: scenario.verify,
            body: body_template(scenario.size),
        }
    }

    #[inline]
    fn take(&mut self, message: &Message<'_>, now: u64) {
        self.delivered += 1;
        let (number, stamp) = read_head(&message.head);
        let (publisher, sent_ns) = unstamp(stamp);
        if let Some(latency) = &mut self.latency_ns {
            latency.saturating_record(now.saturating_sub(sent_ns));
        }
        if !self.verify {
            return;
        }
        if message.size != self.body.len() as u64
            || (self.delivered.is_multiple_of(BODIES_PER_COMPARISON)
                && !self.tail_is_right(message))
        {
            self.faults.corrupt += 1;
            return;
        }
        self.faults.redelivered += u64::from(message.redelivered);
        match self.tracks.get_mut(publisher) {
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

/// Stamped octets at the front of a piece of a body that starts at `offset`.
fn stamped_octets(offset: usize) -> usize {
    crate::scan::HEAD.saturating_sub(offset)
}

/// The first number of `publisher` on `queue` and the step to the next; `None` if it sends nothing
/// there.
pub fn numbers_on_queue(scenario: &Scenario, publisher: usize, queue: usize) -> Option<(u64, u64)> {
    match scenario.exchange {
        Exchange::Default => (publisher % scenario.queues == queue).then_some((0, 1)),
        Exchange::Fanout => Some((0, 1)),
        // Key i is bound to queue i mod queues, and the bindings are a multiple of the queues.
        Exchange::Direct | Exchange::Topic | Exchange::Headers => {
            Some((queue as u64, scenario.queues as u64))
        }
    }
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

    #[test]
    fn numbers_follow_the_kind_of_exchange() {
        let scenario = |text| toml::from_str::<Scenario>(text).unwrap();
        let s = scenario("queues = 2\npublishers = 4");
        assert_eq!(numbers_on_queue(&s, 3, 1), Some((0, 1)));
        assert_eq!(numbers_on_queue(&s, 3, 0), None);
        let s = scenario("queues = 5\nexchange = \"topic\"");
        assert_eq!(numbers_on_queue(&s, 0, 3), Some((3, 5)));
    }
}
