//! What a source adds to a scrape, gathered by metric name.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// The samples of one scrape.
#[derive(Default)]
pub struct Samples {
    families: BTreeMap<&'static str, Family>,
}

struct Family {
    help: &'static str,
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Samples {
    /// Adds a value that only grows until a restart; `name` is the full name and ends in `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// Adds a value that goes up and down; `name` is the full name.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    /// Adds a distribution: for each upper bound, growing, how many were not above it; the sum and the number of
    /// all. `name` is the full name and ends in its unit.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        up_to: impl Iterator<Item = (f64, u64)>,
        sum: f64,
        count: u64,
    ) {
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(up_to.map(bucket).collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        let mut metric = labelled(&[]);
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        let family = |(name, family): (&str, Family)| {
            let mut proto = MetricFamily::default();
            proto.set_name(name.to_owned());
            proto.set_help(family.help.to_owned());
            proto.set_field_type(family.kind);
            proto.set_metric(family.metrics);
            proto
        };
        self.families.into_iter().map(family).collect()
    }

    fn add(&mut self, name: &'static str, help: &'static str, kind: MetricType, metric: Metric) {
        debug_assert!(name.starts_with("backbone_"), "{name} lacks the prefix");
        let family = self.families.entry(name).or_insert_with(|| Family {
            help,
            kind,
            metrics: Vec::new(),
        });
        debug_assert!(family.kind == kind, "{name} is of two types");
        family.metrics.push(metric);
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
