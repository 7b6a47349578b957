//! Checks that nothing was lost, doubled, reordered or damaged.
//!
//! A publisher numbers its messages; on one queue the numbers of one publisher start at a known
//! number and grow by a known stride. A consumer that has a queue to itself compares with the next
//! number. Consumers that share a queue check that numbers grow and mark them in a bitmap; the
//! bitmaps are laid over each other at the end.

use serde::Serialize;

/// What went wrong, counted in messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Published but never delivered.
    pub lost: u64,
    /// Delivered again.
    pub doubled: u64,
    /// Delivered after a later one.
    pub out_of_order: u64,
    /// Of the wrong size, with the wrong content or by an unknown publisher.
    pub corrupt: u64,
    /// Marked as redelivered although nothing was given back.
    pub redelivered: u64,
    /// Sent back as unroutable.
    pub returned: u64,
    /// Refused by the broker.
    pub nacked: u64,
}

impl Faults {
    /// Whether nothing went wrong.
    pub fn none(&self) -> bool {
        *self == Faults::default()
    }

    /// In words.
    pub fn describe(&self) -> Vec<String> {
        let counted = [
            (self.lost, "lost"),
            (self.doubled, "delivered more than once"),
            (self.out_of_order, "delivered out of order"),
            (self.corrupt, "damaged"),
            (self.redelivered, "marked as redelivered"),
            (self.returned, "returned as unroutable"),
            (self.nacked, "refused by the broker"),
        ];
        let found = counted.into_iter().filter(|(count, _)| *count > 0);
        found
            .map(|(count, what)| format!("{count} messages {what}"))
            .collect()
    }

    /// Adds those of another thread.
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.corrupt += other.corrupt;
        self.redelivered += other.redelivered;
        self.returned += other.returned;
        self.nacked += other.nacked;
    }
}

/// What one consumer has seen of one publisher on one queue.
#[derive(Debug)]
pub struct Track {
    /// The number that is due; meaningful for a queue with one consumer.
    next: u64,
    first: u64,
    stride: u64,
    faults: Faults,
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    /// The only consumer of the queue: skipped stretches, from inclusive, to exclusive.
    Alone(Vec<(u64, u64)>),
    /// One of several: a bit for each number seen.
    Shared(Vec<u64>),
}

impl Track {
    /// For numbers `first`, `first + stride` and so on.
    pub fn new(first: u64, stride: u64, shared: bool) -> Self {
        let seen = if shared {
            Seen::Shared(Vec::new())
        } else {
            Seen::Alone(Vec::new())
        };
        Track {
            next: first,
            first,
            stride,
            faults: Faults::default(),
            seen,
        }
    }

    /// Notes the delivery of message `number`.
    #[inline]
    pub fn see(&mut self, number: u64) {
        if number == self.next && matches!(self.seen, Seen::Alone(_)) {
            self.next += self.stride;
        } else {
            self.see_other(number);
        }
    }

    /// Whether a number can be of this publisher on this queue at all.
    fn belongs(&self, number: u64) -> bool {
        number >= self.first && (number - self.first).is_multiple_of(self.stride)
    }

    #[cold]
    fn see_skipped(&mut self, number: u64) {
        let Seen::Alone(missing) = &mut self.seen else {
            return;
        };
        if number > self.next {
            missing.push((self.next, number));
            self.next = number + self.stride;
            return;
        }
        let hole = missing
            .iter()
            .position(|&(from, to)| (from..to).contains(&number));
        let Some(hole) = hole else {
            self.faults.doubled += 1;
            return;
        };
        self.faults.out_of_order += 1;
        let (from, to) = missing.swap_remove(hole);
        if from < number {
            missing.push((from, number));
        }
        if number + self.stride < to {
            missing.push((number + self.stride, to));
        }
    }

    fn see_other(&mut self, number: u64) {
        if !self.belongs(number) {
            self.faults.corrupt += 1;
            return;
        }
        let index = (number - self.first) / self.stride;
        match &mut self.seen {
            Seen::Alone(_) => self.see_skipped(number),
            Seen::Shared(bits) => {
                let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
                if word >= bits.len() {
                    bits.resize((word + 1).next_power_of_two(), 0);
                }
                if bits[word] & bit != 0 {
                    self.faults.doubled += 1;
                } else if number < self.next {
                    self.faults.out_of_order += 1;
                }
                bits[word] |= bit;
                self.next = self.next.max(number + self.stride);
            }
        }
    }
}

/// The verdict over all consumers of one queue about one publisher, which has published `published`
/// messages to all queues together.
pub fn judge(tracks: &[&Track], published: u64) -> Faults {
    let mut faults = Faults::default();
    let mut all = Vec::<u64>::new();
    let mut delivered = 0;
    let mut due = 0;
    for track in tracks {
        faults.add(&track.faults);
        due = due_on_queue(track.first, track.stride, published);
        match &track.seen {
            Seen::Alone(missing) => {
                let holes: u64 = missing
                    .iter()
                    .map(|(from, to)| (to - from).div_ceil(track.stride))
                    .sum();
                delivered += (track.next - track.first) / track.stride - holes;
            }
            Seen::Shared(bits) => {
                all.resize(all.len().max(bits.len()), 0);
                for (mine, theirs) in all.iter_mut().zip(bits) {
                    faults.doubled += u64::from((*mine & theirs).count_ones());
                    delivered += u64::from((!*mine & theirs).count_ones());
                    *mine |= theirs;
                }
            }
        }
    }
    faults.lost += due.saturating_sub(delivered);
    // More different numbers than were published can only be made up.
    faults.corrupt += delivered.saturating_sub(due);
    faults
}

/// How many of a publisher's first `published` messages go to the queue that gets `first`,
/// `first + stride` and so on.
pub fn due_on_queue(first: u64, stride: u64, published: u64) -> u64 {
    published.saturating_sub(first).div_ceil(stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(numbers: &[u64], first: u64, stride: u64, published: u64) -> Faults {
        let mut track = Track::new(first, stride, false);
        numbers.iter().for_each(|&n| track.see(n));
        judge(&[&track], published)
    }

    #[test]
    fn a_clean_run_has_no_faults() {
        assert!(alone(&[0, 1, 2, 3], 0, 1, 4).none());
        assert!(alone(&[1, 4, 7], 1, 3, 8).none());
        assert!(alone(&[], 2, 3, 2).none());
    }

    #[test]
    fn loss_doubling_and_order_are_told_apart() {
        let faults = |lost, doubled, out_of_order| Faults {
            lost,
            doubled,
            out_of_order,
            ..Faults::default()
        };
        assert_eq!(alone(&[0, 1, 3, 4], 0, 1, 5), faults(1, 0, 0));
        assert_eq!(alone(&[0, 1, 2], 0, 1, 5), faults(2, 0, 0));
        assert_eq!(alone(&[0, 1, 1, 2], 0, 1, 3), faults(0, 1, 0));
        assert_eq!(alone(&[0, 2, 1, 3], 0, 1, 4), faults(0, 0, 1));
        assert_eq!(alone(&[0, 5, 3, 3], 0, 1, 6), faults(3, 1, 1));
        assert_eq!(alone(&[1, 10, 7], 1, 3, 11), faults(1, 0, 1));
    }

    #[test]
    fn a_number_that_cannot_be_is_damage() {
        assert_eq!(alone(&[0, 3, 4], 0, 3, 6).corrupt, 1);
        assert_eq!(alone(&[0, 1], 0, 1, 1).corrupt, 1);
    }

    #[test]
    fn consumers_of_one_queue_are_judged_together() {
        let mut a = Track::new(0, 1, true);
        let mut b = Track::new(0, 1, true);
        [0, 2, 4].iter().for_each(|&n| a.see(n));
        [1, 3].iter().for_each(|&n| b.see(n));
        assert!(judge(&[&a, &b], 5).none());
        b.see(4);
        assert_eq!(judge(&[&a, &b], 5).doubled, 1);
        assert_eq!(judge(&[&a, &b], 200).lost, 195);
        a.see(3);
        let faults = judge(&[&a, &b], 5);
        assert_eq!((faults.out_of_order, faults.doubled), (1, 2));
    }

    #[test]
    fn what_is_due_follows_the_stride() {
        assert_eq!(due_on_queue(0, 1, 10), 10);
        assert_eq!(due_on_queue(2, 4, 2), 0);
        assert_eq!(due_on_queue(2, 4, 3), 1);
        assert_eq!(due_on_queue(2, 4, 7), 2);
    }
}
