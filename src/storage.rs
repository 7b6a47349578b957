//! What is kept: the log and its threads, the vhosts that it brings back, and the gate of the publishers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backbone_broker::durable::Durable;
use backbone_broker::gate::Gate;
use backbone_broker::restore::Restored;
use backbone_broker::vhost::Vhost;
use backbone_broker::vhosts::Vhosts;
use backbone_log::{Arena, Log, LogError, RealDisk, Recovered, Running, measure_sync};

use parking_lot::Mutex;

use crate::config::Config;
use crate::{RunError, engine, runtime, say};

/// Opens the log in the data directory and starts its threads; says what it found.
pub fn open_log(data_dir: &Path) -> Result<(Log, Running), RunError> {
    let disk = RealDisk::new(data_dir.join("log"), false)?;
    if let Some(sync) = measure_sync(&disk)? {
        say_what_to_expect(sync);
    }
    let mut shown = Instant::now();
    let progress = |progress: backbone_log::Progress| {
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            let (done, total) = (progress.done_bytes >> 20, progress.total_bytes >> 20);
            tracing::info!(done_mib = done, total_mib = total, "replaying the log");
        }
    };
    let started = Instant::now();
    let config = backbone_log::Config {
        // As large as a segment may be: what was accepted must fit.
        batch_bytes_max: u32::MAX,
        ..backbone_log::Config::default()
    };
    let (log, found) = Log::open(Arc::new(disk), config, progress)?;
    report(&found, started.elapsed());
    let running = log.start(trouble())?;
    Ok((log, running))
}

/// Says what housekeeping could not do. It tries again many times a second: the same is said every ten seconds.
fn trouble() -> impl Fn(LogError) + Send + 'static {
    const AGAIN: Duration = Duration::from_secs(10);
    let last = Mutex::new((String::new(), Instant::now()));
    move |error| {
        let error = error.to_string();
        let mut last = last.lock();
        if last.0 != error || last.1.elapsed() >= AGAIN {
            tracing::warn!(error, "housekeeping of the log, trying again");
            *last = (error, Instant::now());
        }
    }
}

/// At a window of one a confirm takes a sync and two thread switches; a thousand that wait share one sync.
fn say_what_to_expect(sync: Duration) {
    const SWITCHES: Duration = Duration::from_micros(60);
    let one_s = (sync + SWITCHES).as_secs_f64();
    let (at_1, at_1000) = (1.0 / one_s, 1000.0 / (one_s + 1000.0 * 0.7e-6));
    say(format_args!(
        "disk syncs in {} us: expect up to {at_1:.0} confirms/s a publisher that waits for each, {at_1000:.0} with 1000 in flight",
        sync.as_micros()
    ));
}

fn report(found: &Recovered, took: Duration) {
    let (batches, took_ms) = (found.replayed, took.as_millis() as u64);
    let (torn, damages) = (found.torn, found.damages.len());
    tracing::info!(batches, took_ms, torn, damages, "the log is open");
}

/// The part of `limits.memory_bytes` that large bodies may take before they are messages.
const BODIES_PART: u64 = 4;

/// The vhosts as the log has them.
pub fn open_broker(config: &Config, log: Log) -> Result<(Arc<Vhosts>, Arc<Gate>), RunError> {
    let arena = Arc::new(Arena::new());
    let durable = Arc::new(Durable::new(log));
    let limit_bytes = runtime::memory_limit_bytes(config.limits.memory_bytes) as usize;
    let gate = Gate::new(Arc::clone(&arena), Some(Arc::clone(&durable)), limit_bytes);
    let vhost = Vhost::new("/", node_number(), arena);
    let vhost = vhost.with_consumer_timeout(config.limits.consumer_timeout_ms);
    let vhost = vhost.with_bodies(limit_bytes as u64 / BODIES_PART);
    let (pager, wanted) = engine::pager(&vhost, &durable, limit_bytes / 2);
    let gate = gate.with_pager(Arc::clone(&pager));
    let gate = Arc::new(gate.with_disk(config.limits.disk_free_bytes));
    engine::watch_alarms(&gate, &config.data_dir)?;
    let durability = config.durability.clone();
    let level_of = move |vhost: &str| durability.of_vhost(vhost);
    let first = Arc::new(vhost.with_log(durable, pager, level_of("/")));
    // For times that start anew with what comes back.
    first.tell_time(engine::now_ms());
    let vhosts = Arc::new(Vhosts::new(first, level_of));
    report_restored(&vhosts.restore(config.bus.lenient_declare)?);
    engine::start_pager(&vhosts, wanted)?;
    engine::start_timer(&vhosts)?;
    Ok((vhosts, gate))
}

fn report_restored(restored: &Restored) {
    let (queues, messages, forgotten) = (restored.queues, restored.messages, restored.forgotten);
    let (exchanges, bindings) = (restored.exchanges, restored.bindings);
    tracing::info!(
        exchanges,
        queues,
        bindings,
        messages,
        forgotten,
        "restored from the log"
    );
    for key in &restored.damaged {
        tracing::error!(
            key,
            "a definition in the log cannot be read, or fits to nothing"
        );
    }
    if !restored.unknown.is_empty() {
        let queues = &restored.unknown;
        tracing::error!(
            ?queues,
            "messages of queues without a definition are left in the log, since it is damaged"
        );
    }
}

/// A number that differs from start to start.
fn node_number() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u64::from_ne_bytes(bytes)
}
