//! Publishers with confirms and consumers with acknowledgements that go on until the server ends, and note
//! everything in a [`Ledger`].

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ledger::{Id, Ledger};
use super::peer::{Event, Peer, publish_persistent, qos};

/// Random numbers that a seed repeats (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Another sequence, for another thread.
    pub fn fork(&mut self) -> Self {
        Self::new(self.within(0..1 << 30) as u64)
    }

    /// A number of `range`.
    pub fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        range.start + number as usize % range.len()
    }

    /// Whether something happens that happens once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.within(0..times) == 0
    }
}

/// The name of queue `number`.
pub fn queue_name(number: usize) -> String {
    format!("crash-{number}")
}

/// One publisher.
pub struct Publisher<'a> {
    pub ledger: &'a Ledger,
    pub number: usize,
    /// The queues it writes to, in no order.
    pub queues: Vec<usize>,
    /// Publishes that may be unconfirmed.
    pub window: usize,
    /// Octets of a body.
    pub sizes: fn(&mut Random) -> usize,
    /// Ends it in order, once all that it sent is confirmed.
    pub stop: &'a AtomicBool,
}

/// A publish that waits for its confirm.
struct Waiting {
    id: Id,
    tick: u64,
    confirmed: bool,
}

/// The unconfirmed publishes; the first one has tag `low`.
struct Window {
    low: u64,
    waiting: VecDeque<Waiting>,
    open: usize,
}

impl Publisher<'_> {
    /// Publishes until it is stopped; the error is that of a server that ended.
    pub fn run(&self, mut peer: Peer, mut random: Random) -> io::Result<()> {
        let mut window = Window {
            low: 1,
            waiting: VecDeque::new(),
            open: 0,
        };
        let mut out = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let burst = random.within(1..64).min(self.window - window.open);
            out.clear();
            let tick = self.ledger.tick();
            for _ in 0..burst {
                let queue = self.queues[random.within(0..self.queues.len())];
                let size = (self.sizes)(&mut random);
                let (id, body) = self.ledger.sending(self.number, queue, size);
                publish_persistent("", &queue_name(queue), &body, &mut out);
                window.waiting.push_back(Waiting {
                    id,
                    tick,
                    confirmed: false,
                });
                window.open += 1;
            }
            peer.send(&out)?;
            while let Some(event) = peer.next_now()? {
                self.note(event, &mut window);
            }
            while window.open >= self.window {
                let event = peer.next()?;
                self.note(event, &mut window);
            }
        }
        while window.open > 0 {
            let event = peer.next()?;
            self.note(event, &mut window);
        }
        Ok(())
    }

    fn note(&self, event: Event, window: &mut Window) {
        let Event::Confirm { tag, multiple, ack } = event else {
            return;
        };
        if !ack {
            self.ledger.fault(format!(
                "publish {tag} of publisher {} was refused",
                self.number
            ));
        }
        let Some(last) = tag.checked_sub(window.low).map(|at| at as usize) else {
            return;
        };
        let first = if multiple { 0 } else { last };
        for waiting in window.waiting.range_mut(first..=last) {
            if !waiting.confirmed {
                waiting.confirmed = true;
                window.open -= 1;
                self.ledger.confirmed(waiting.id, waiting.tick);
            }
        }
        while window.waiting.front().is_some_and(|w| w.confirmed) {
            window.waiting.pop_front();
            window.low += 1;
        }
    }
}

/// Consumes from `queue` until the server ends, and acknowledges in groups, so that some messages are always left
/// unacknowledged.
pub fn consume(
    mut peer: Peer,
    ledger: &Ledger,
    queue: usize,
    prefetch: u16,
    mut random: Random,
) -> io::Result<()> {
    peer.qos(prefetch)?;
    peer.consume(&queue_name(queue))?;
    let multiple = random.one_in(2);
    let mut held: Vec<(u64, Id)> = Vec::new();
    // Acknowledged, and whether an answer that tells that they were handled is on its way.
    let (mut sent, mut asked): (Vec<Id>, Option<Vec<Id>>) = (Vec::new(), None);
    let mut group = 1;
    loop {
        match peer.next()? {
            Event::Delivery { tag, body, .. } => {
                held.extend(ledger.delivered(queue, &body).map(|id| (tag, id)));
            }
            Event::Method("basic.qos-ok", _) => {
                ledger.acks_handled(&asked.take().unwrap_or_default());
            }
            _ => {}
        }
        if held.len() >= group {
            let ids: Vec<Id> = held.iter().map(|&(_, id)| id).collect();
            ledger.acking(&ids);
            match multiple {
                true => peer.ack(held[held.len() - 1].0, true)?,
                false => {
                    // Backwards: order is for deliveries.
                    for &(tag, _) in held.iter().rev() {
                        peer.ack(tag, false)?;
                    }
                }
            }
            held.clear();
            sent.extend(ids);
            group = random.within(1..usize::from(prefetch) / 2);
        }
        if asked.is_none() && !sent.is_empty() {
            asked = Some(std::mem::take(&mut sent));
            peer.method(&qos(prefetch))?;
        }
    }
}

/// Takes and acknowledges everything that is in `queue`.
pub fn drain(address: SocketAddr, ledger: &Ledger, queue: usize) -> io::Result<()> {
    let name = queue_name(queue);
    let mut peer = Peer::open(address);
    peer.qos(500)?;
    peer.consume(&name)?;
    // What was ready has been sent before the answer that tells that nothing is; asked twice all the same.
    let mut empty = 0;
    while empty < 2 {
        let ready = peer.ready(&name)?;
        let mut last = 0;
        while let Some(event) = peer.next_now()? {
            if let Event::Delivery { tag, body, .. } = event {
                last = tag;
                if let Some(id) = ledger.delivered(queue, &body) {
                    ledger.acking(&[id]);
                }
            }
        }
        if last > 0 {
            peer.ack(last, true)?;
        }
        empty = if ready == 0 && last == 0 {
            empty + 1
        } else {
            0
        };
    }
    Ok(())
}
