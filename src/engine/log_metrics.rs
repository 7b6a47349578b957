//! The durable log's numbers for a scrape.

use backbone_log::{Health, Log};

use crate::telemetry::Samples;

/// Adds the log's numbers; waits neither for its disk nor for its housekeeping.
pub fn sample_log(log: &Log, samples: &mut Samples) {
    let observed = log.observe();
    let stats = &observed.stats;
    let gauges = [
        (
            "backbone_log_appended_lsn",
            "Number of the last batch that was appended",
            stats.appended,
        ),
        (
            "backbone_log_written_lsn",
            "Number of the last batch in the page cache, with all before it",
            stats.written,
        ),
        (
            "backbone_log_synced_lsn",
            "Number of the last batch on the disk, with all before it",
            stats.synced,
        ),
        (
            "backbone_log_waiting_bytes",
            "Bytes that wait to be written",
            stats.waiting_bytes as u64,
        ),
        (
            "backbone_log_segments",
            "Segments in use",
            stats.segments as u64,
        ),
        (
            "backbone_log_segment_bytes",
            "Bytes of their files",
            stats.segment_bytes,
        ),
        (
            "backbone_log_live_bytes",
            "Bytes in them that are alive, estimated",
            stats.live_bytes,
        ),
        (
            "backbone_log_spare_segments",
            "Files that are ready to be segments",
            stats.spares as u64,
        ),
        (
            "backbone_log_damages",
            "Damaged places that are known",
            observed.damages as u64,
        ),
    ];
    for (metric, help, value) in gauges {
        samples.gauge(metric, help, &[], value as f64);
    }
    let counters = [
        (
            "backbone_log_deleted_segments_total",
            "Segments deleted because nothing in them was needed",
            stats.counts.deleted_segments,
        ),
        (
            "backbone_log_copied_bytes_total",
            "Bytes copied forward out of mostly dead segments",
            stats.counts.copied_bytes,
        ),
        (
            "backbone_log_checkpoints_total",
            "Checkpoints written",
            stats.counts.checkpoints,
        ),
    ];
    for (metric, help, value) in counters {
        samples.counter(metric, help, &[], value as f64);
    }
    for (state, is) in [
        ("open", observed.health == Health::Open),
        ("full", observed.health == Health::Full),
        ("no_files", observed.health == Health::NoFiles),
        ("failed", matches!(observed.health, Health::Failed { .. })),
    ] {
        let help = "1 for what the log is: open, full (no messages until there is room), no_files (none until a file can be opened), failed (read only)";
        let labels = [("state", state)];
        samples.gauge("backbone_log_health", help, &labels, u64::from(is) as f64);
    }
    let syncs = &observed.syncs;
    samples.histogram(
        "backbone_log_sync_seconds",
        "How long it took to make what was written durable",
        syncs
            .up_to
            .iter()
            .map(|(bound, count)| (bound.as_secs_f64(), *count)),
        syncs.sum.as_secs_f64(),
        syncs.count,
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use backbone_log::{Batch, Config, SimDisk};

    use super::*;
    use crate::telemetry::Telemetry;

    #[test]
    fn a_scrape_shows_the_log() {
        let disk = Arc::new(SimDisk::new());
        let (log, _) = Log::open(disk, Config::default(), |_| ()).unwrap();
        let telemetry = Telemetry::new(Path::new("."));
        let sampled = log.clone();
        telemetry.add_source(Box::new(move |samples| sample_log(&sampled, samples)));
        let mut batch = Batch::new();
        batch.define(b"key", b"value");
        log.append(&mut batch).unwrap();
        log.write_step().unwrap();
        let before = telemetry.render().unwrap();
        log.sync_step().unwrap();
        let after = telemetry.render().unwrap();
        for line in [
            "backbone_log_appended_lsn 1",
            "backbone_log_written_lsn 1",
            "backbone_log_synced_lsn 0",
            "backbone_log_waiting_bytes 0",
            "backbone_log_segments 1",
            "backbone_log_damages 0",
            "backbone_log_health{state=\"open\"} 1",
            "backbone_log_health{state=\"failed\"} 0",
            "# TYPE backbone_log_checkpoints_total counter",
            "# TYPE backbone_log_sync_seconds histogram",
            // Opening synced the segment's header.
            "backbone_log_sync_seconds_count 1",
        ] {
            assert!(before.lines().any(|l| l == line), "{line} in {before}");
        }
        for line in [
            "backbone_log_synced_lsn 1",
            "backbone_log_sync_seconds_count 2",
            "backbone_log_sync_seconds_bucket{le=\"+Inf\"} 2",
        ] {
            assert!(after.lines().any(|l| l == line), "{line} in {after}");
        }
    }
}
