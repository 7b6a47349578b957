//! Metrics and logs.
//!
//! Owns the Prometheus registry and the log's set-up. Nothing is summed ahead of a scrape: sources
//! register a function that reads their own counters, and [`Telemetry::render`] asks them all. Names keep
//! RabbitMQ's stems under the prefix `backbone_`, so that a dashboard moves by changing the prefix.

mod events;
mod log;
mod process;
mod samples;

use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

pub use events::Events;
pub use log::init as init_log;
pub use process::ProcessNumbers;
pub use samples::Samples;

/// Adds its samples to a scrape. Must not block.
pub type Source = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// The registry of metric sources; clones share it.
#[derive(Clone)]
pub struct Telemetry {
    registry: Registry,
    sources: Arc<RwLock<Vec<Source>>>,
    events: Arc<Events>,
}

impl Telemetry {
    /// A registry with the process's own metrics; free disk space is that of `data_dir`'s file system.
    pub fn new(data_dir: &Path) -> Self {
        let telemetry = Self {
            registry: Registry::new(),
            sources: Arc::default(),
            events: Arc::default(),
        };
        let collector = Scrape(telemetry.sources.clone());
        telemetry
            .registry
            .register(Box::new(collector))
            .expect("the registry is empty, so nothing can collide");
        telemetry.add_source(process::source(data_dir));
        let events = telemetry.events.clone();
        telemetry.add_source(Box::new(move |samples| events.sample(samples)));
        telemetry
    }

    /// Asks `source` at every scrape from now on.
    pub fn add_source(&self, source: Source) {
        self.sources.write().push(source);
    }

    /// How many AMQP connections were opened and closed.
    pub fn connection_churn(&self) -> [u64; 2] {
        self.events.connection_churn()
    }

    /// The happenings to report to.
    pub fn events(&self) -> Arc<Events> {
        self.events.clone()
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// A source gave a name or label that the format does not allow.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// The collector behind the registry.
struct Scrape(Arc<RwLock<Vec<Source>>>);

impl Collector for Scrape {
    fn desc(&self) -> Vec<&Desc> {
        // Which metrics there are is known only when the sources are asked.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Samples::default();
        for source in self.0.read().iter() {
            source(&mut samples);
        }
        samples.into_families()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_asked_at_every_scrape() {
        let telemetry = Telemetry::new(Path::new("."));
        let hits = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = hits.clone();
        telemetry.add_source(Box::new(move |samples| {
            let value = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as f64;
            samples.counter("backbone_test_total", "A test", &[("kind", "a\"b")], value);
        }));
        telemetry.events().login_failed("x", [127, 0, 0, 1].into());
        assert!(
            telemetry
                .render()
                .unwrap()
                .contains("backbone_test_total{kind=\"a\\\"b\"} 0")
        );
        let text = telemetry.render().unwrap();
        assert!(
            text.contains("backbone_test_total{kind=\"a\\\"b\"} 1"),
            "{text}"
        );
        assert!(text.contains("# TYPE backbone_test_total counter"));
        assert!(text.contains("backbone_auth_attempts_failed_total 1"));
        assert!(text.contains("backbone_identity_info{version="));
    }
}
