//! The result of a run: one line of JSON for tools, a few lines for people.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::link::Broker;
use crate::machine::{CpuUse, Machine};
use crate::options::Scenario;
use crate::verify::Faults;

/// The result of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing went wrong.
    pub ok: bool,
    /// What went wrong, in words.
    pub problems: Vec<String>,
    /// What went wrong, counted in messages.
    pub faults: Faults,
    /// What was run.
    pub scenario: Scenario,
    /// What it was run against.
    pub broker: Broker,
    /// The broker's durability level, as told on the command line.
    pub durability: String,
    /// Messages published.
    pub published: u64,
    /// Messages delivered to all consumers together.
    pub delivered: u64,
    /// From the first publish to the last delivery, or to the last confirm without consumers.
    pub seconds: f64,
    /// From the first publish to the last publish or confirm.
    pub publish_seconds: f64,
    /// Published messages over `seconds`.
    pub published_per_s: f64,
    /// Deliveries over `seconds`.
    pub delivered_per_s: f64,
    /// Octets of delivered bodies over `seconds`, in millions.
    pub delivered_mb_per_s: f64,
    /// Octets that the consumers read for a message, frames and all.
    pub wire_octets_each: Option<f64>,
    /// The broker's processor time for a delivery, when its process is known.
    pub broker_ns_each: Option<f64>,
    /// From publish to delivery, when the rate is limited.
    pub latency_us: Option<Percentiles>,
    /// From when a message was due to its delivery, when the rate is limited.
    pub latency_from_due_us: Option<Percentiles>,
    /// From publish to confirm, when there are confirms.
    pub confirm_us: Option<Percentiles>,
    /// From when a message was due to when it was written, when the rate is limited.
    pub lag_us: Option<Percentiles>,
    /// Processor time.
    pub cpu: CpuUse,
    /// The machine.
    pub machine: Machine,
}

/// A distribution in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Percentiles {
    /// Messages measured.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// 99 of 100 are not above.
    pub p99: f64,
    /// 999 of 1000 are not above.
    pub p99_9: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// From nanoseconds; `None` if nothing was measured.
    pub fn of(ns: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| ns.value_at_quantile(quantile) as f64 / 1000.0;
        (!ns.is_empty()).then(|| Percentiles {
            count: ns.len(),
            p50: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ns.max() as f64 / 1000.0,
        })
    }
}

impl Report {
    /// A summary in a few lines.
    pub fn summary(&self) -> String {
        let s = &self.scenario;
        let mut text = format!(
            "{}: {} {}, durability {}\n  {} publishers, {} queues, {} consumers, {} B{}\n  \
             published {}/s, delivered {}/s ({:.1} MB/s): {} and {} in {:.3} s\n",
            s.name,
            self.broker.product,
            self.broker.version,
            self.durability,
            s.publishers,
            s.queues,
            s.consumers,
            s.size,
            if s.persistent { " persistent" } else { "" },
            short(self.published_per_s),
            short(self.delivered_per_s),
            self.delivered_mb_per_s,
            self.published,
            self.delivered,
            self.seconds,
        );
        for (what, values) in [
            ("latency", &self.latency_us),
            ("latency from due", &self.latency_from_due_us),
            ("confirm", &self.confirm_us),
            ("lag", &self.lag_us),
        ] {
            if let Some(v) = values {
                text += &format!(
                    "  {what} µs: p50 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}\n",
                    v.p50, v.p99, v.p99_9, v.max
                );
            }
        }
        let cores = |seconds: f64| seconds / self.seconds.max(1e-9);
        text += &format!("  cores: generator {:.2}", cores(self.cpu.generator_s));
        if let Some((broker, others)) = self.cpu.broker_s.zip(self.cpu.others_s) {
            text += &format!(", broker {:.2}, others {:.2}", cores(broker), cores(others));
        }
        text += if self.ok { "\n  ok" } else { "\n  FAILED" };
        for problem in &self.problems {
            text += &format!("\n  - {problem}");
        }
        text
    }
}

/// A number with three digits and a unit.
pub fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{unit}")
}

/// The median, the smallest and the largest.
pub fn median(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (sorted.first(), sorted.last()) else {
        return (0.0, 0.0, 0.0);
    };
    let mid = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[mid]
    } else {
        f64::midpoint(sorted[mid - 1], sorted[mid])
    };
    (median, low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(12_345_678.0), "12.3M");
        assert_eq!(short(203_900.0), "204k");
        assert_eq!(short(1_010.0), "1.01k");
        assert_eq!(short(0.5), "0.50");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0));
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut ns = crate::confirms::histogram();
        assert_eq!(Percentiles::of(&ns), None);
        (1..=1000).for_each(|us| ns.saturating_record(us * 1000));
        let p = Percentiles::of(&ns).unwrap();
        assert_eq!(
            (p.count, p.p50.round(), p.p99.round()),
            (1000, 500.0, 990.0)
        );
        assert!((p.max - 1000.0).abs() < 1.0);
    }
}
