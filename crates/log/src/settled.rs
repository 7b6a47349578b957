//! Which numbers of a queue are done with: all below a watermark, and runs above it.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers that settles from below, mostly. Neighbouring runs are merged, so that it is as
/// small as the disorder of the settlements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    low: u64,
    /// Start to end of each run; all above `low`, apart from each other.
    runs: BTreeMap<u64, u64>,
}

impl Settled {
    /// A set from its parts, as [`Settled::low`] and [`Settled::runs`] gave them.
    pub fn from_parts(low: u64, runs: impl Iterator<Item = Range<u64>>) -> Self {
        let mut set = Self {
            low,
            runs: BTreeMap::new(),
        };
        runs.for_each(|run| set.insert(run));
        set
    }

    /// All numbers below this one are settled.
    pub fn low(&self) -> u64 {
        self.low
    }

    /// Runs of settled numbers above the watermark.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Range<u64>> + DoubleEndedIterator {
        self.runs.iter().map(|(from, until)| *from..*until)
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        let (mut from, mut until) = (range.start, range.end);
        if from >= until || until <= self.low {
            return;
        }
        if let Some((before, end)) = self.runs.range(..=from).next_back()
            && *end >= from
        {
            from = *before;
            until = until.max(*end);
        }
        while let Some((next, end)) = self.runs.range(from..=until).next() {
            let next = *next;
            until = until.max(*end);
            self.runs.remove(&next);
        }
        if from <= self.low {
            self.low = until;
        } else {
            self.runs.insert(from, until);
        }
    }

    /// Whether the number is settled.
    pub fn contains(&self, seq: u64) -> bool {
        self.covers(seq..seq.saturating_add(1))
    }

    /// Whether all numbers of the range are settled.
    pub fn covers(&self, range: Range<u64>) -> bool {
        if range.end <= self.low {
            return true;
        }
        let from = range.start.max(self.low);
        let run = self.runs.range(..=from).next_back();
        run.is_some_and(|(_, until)| *until >= range.end)
    }

    /// The first number from `seq` on that is not settled.
    pub fn next_unsettled(&self, seq: u64) -> u64 {
        let seq = seq.max(self.low);
        let run = self.runs.range(..=seq).next_back();
        run.map_or(seq, |(_, until)| seq.max(*until))
    }

    /// The parts of the range that are not settled.
    pub fn unsettled_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut open = Vec::new();
        let mut from = self.next_unsettled(range.start);
        while from < range.end {
            let run = self.runs.range(from..range.end).next();
            let (until, next) = run.map_or((range.end, range.end), |(start, end)| (*start, *end));
            open.push(from..until);
            from = next;
        }
        open
    }

    /// How many numbers of the range are settled.
    pub fn count_in(&self, range: Range<u64>) -> u64 {
        let below = range.end.min(self.low).saturating_sub(range.start);
        let from = range.start.max(self.low);
        if from >= range.end {
            return below;
        }
        let first = self.runs.range(..=from).next_back();
        let others = self.runs.range(from + 1..range.end);
        let inside = first.into_iter().chain(others).map(|(start, end)| {
            let start = (*start).max(from);
            (*end).min(range.end).saturating_sub(start)
        });
        below + inside.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set_of_numbers() {
        let mut state = 1_u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let (mut set, mut naive) = (Settled::default(), [false; 64]);
            for _ in 0..12 {
                let from = random(64);
                let until = (from + random(9)).min(64);
                set.insert(from..until);
                (from..until).for_each(|n| naive[n as usize] = true);
                for seq in 0..64 {
                    assert_eq!(set.contains(seq), naive[seq as usize], "{seq} in {set:?}");
                    let end = (seq + random(20)).clamp(seq, 64);
                    let inside = &naive[seq as usize..end as usize];
                    let count = inside.iter().filter(|n| **n).count();
                    assert_eq!(
                        set.count_in(seq..end),
                        count as u64,
                        "{seq}..{end} in {set:?}"
                    );
                    let open = set.unsettled_in(seq..end).into_iter().flatten();
                    let naive_open = (seq..end).filter(|n| !naive[*n as usize]);
                    assert!(open.eq(naive_open), "{seq}..{end} in {set:?}");
                    if seq < end {
                        assert_eq!(set.covers(seq..end), count == inside.len());
                    }
                }
                let again = Settled::from_parts(set.low(), set.runs());
                assert_eq!(again, set);
            }
        }
    }

    #[test]
    fn in_order_settlements_take_no_room() {
        let mut set = Settled::default();
        (0..1000).for_each(|n| set.insert(n..n + 1));
        assert_eq!((set.low(), set.runs().len()), (1000, 0));
        set.insert(0..u64::MAX);
        assert!(set.contains(u64::MAX - 1));
    }
}
