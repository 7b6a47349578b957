//! The publishes of one channel that wait for their confirm, at most a window of them.

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

/// A window of unconfirmed publishes; delivery tags count from 1 as AMQP has it.
#[derive(Debug)]
pub struct Window {
    limit: usize,
    /// The lowest tag not yet confirmed.
    low: u64,
    /// The tag of the next publish.
    next: u64,
    outstanding: usize,
    /// For the tags from `low` on, by tag modulo the length: whether it is confirmed already, ahead
    /// of a lower one, and when it was sent.
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    done: bool,
    sent_ns: u64,
}

impl Window {
    /// A window of `limit` publishes.
    pub fn new(limit: usize) -> Self {
        Window {
            limit,
            low: 1,
            next: 1,
            outstanding: 0,
            // Twice the limit, so that one late confirm does not stop the publisher at once.
            slots: vec![Slot::default(); (limit * 2).next_power_of_two()],
        }
    }

    /// Publishes that may be sent now.
    pub fn room(&self) -> usize {
        let span = (self.next - self.low) as usize;
        (self.limit - self.outstanding).min(self.slots.len() - span)
    }

    /// Publishes that wait for their confirm.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Notes `n` publishes, at most `room()`.
    pub fn sent(&mut self, n: usize, now_ns: u64) {
        for _ in 0..n {
            let slot = self.slot(self.next);
            *slot = Slot {
                done: false,
                sent_ns: now_ns,
            };
            self.next += 1;
        }
        self.outstanding += n;
    }

    /// Notes a confirm and records how long its publishes have waited; gives how many they were.
    ///
    /// # Errors
    /// When the tag was never used or is confirmed for the second time.
    pub fn confirm(
        &mut self,
        tag: u64,
        multiple: bool,
        now_ns: u64,
        waited_ns: &mut Histogram<u64>,
    ) -> Result<usize> {
        let last = if multiple && tag == 0 {
            self.next - 1
        } else {
            tag
        };
        ensure!(
            last < self.next && (last >= self.low || multiple),
            "a confirm for tag {tag}, which does not wait for one"
        );
        let first = if multiple { self.low } else { last };
        let mut confirmed = 0;
        // Publishes of one write share their time: they are recorded together.
        let (mut run, mut run_sent_ns) = (0, 0);
        for tag in first..=last {
            let slot = self.slot(tag);
            if slot.done {
                ensure!(multiple, "a second confirm for tag {tag}");
                continue;
            }
            slot.done = true;
            let sent_ns = slot.sent_ns;
            if sent_ns != run_sent_ns && run > 0 {
                waited_ns.saturating_record_n(now_ns.saturating_sub(run_sent_ns), run);
                run = 0;
            }
            run_sent_ns = sent_ns;
            run += 1;
            confirmed += 1;
        }
        if run > 0 {
            waited_ns.saturating_record_n(now_ns.saturating_sub(run_sent_ns), run);
        }
        while self.low < self.next && self.slot(self.low).done {
            self.low += 1;
        }
        self.outstanding -= confirmed;
        Ok(confirmed)
    }

    fn slot(&mut self, tag: u64) -> &mut Slot {
        let mask = self.slots.len() - 1;
        &mut self.slots[tag as usize & mask]
    }
}

/// A histogram for nanoseconds up to ten minutes with three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(600_000_000_000, 3).expect("the bounds are valid constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_may_come_one_by_one_together_or_out_of_order() {
        let mut waited = histogram();
        let mut w = Window::new(4);
        w.sent(4, 1_000);
        assert_eq!(w.room(), 0);
        assert_eq!(w.confirm(2, false, 2_000, &mut waited).unwrap(), 1);
        assert_eq!((w.room(), w.low), (1, 1));
        assert_eq!(w.confirm(3, true, 3_000, &mut waited).unwrap(), 2);
        assert_eq!((w.room(), w.low), (3, 4));
        assert_eq!(w.confirm(4, false, 4_000, &mut waited).unwrap(), 1);
        assert_eq!((w.outstanding(), waited.len()), (0, 4));
        assert_eq!(waited.value_at_quantile(0.25) / 100, 10);
    }

    #[test]
    fn one_late_confirm_holds_the_publisher_at_twice_the_window() {
        let mut waited = histogram();
        let mut w = Window::new(2);
        w.sent(2, 0);
        for tag in 2..=4 {
            w.confirm(tag, false, 0, &mut waited).unwrap();
            let n = w.room().min(1);
            w.sent(n, 0);
        }
        assert_eq!((w.room(), w.outstanding()), (0, 1));
        assert_eq!(w.confirm(0, true, 0, &mut waited).unwrap(), 1);
        assert_eq!(w.room(), 2);
    }

    #[test]
    fn confirms_for_nothing_are_errors() {
        let mut waited = histogram();
        let mut w = Window::new(4);
        assert!(w.confirm(1, false, 0, &mut waited).is_err());
        w.sent(3, 0);
        assert!(w.confirm(4, true, 0, &mut waited).is_err());
        w.confirm(2, false, 0, &mut waited).unwrap();
        assert!(w.confirm(2, false, 0, &mut waited).is_err());
        w.confirm(3, true, 0, &mut waited).unwrap();
        assert!(w.confirm(1, false, 0, &mut waited).is_err());
    }
}
