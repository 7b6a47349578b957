//! `backbone log`: looks into the durable log of a server that does not run. Nothing is changed.

use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backbone_broker::definitions::STREAMS;
use backbone_log::{
    Body, Damage, Inspected, LogError, Progress, QueueInfo, RealDisk, Reason, Record, Survey,
    Targets,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// The log's folder in the data directory.
const FOLDER: &str = "log";
/// Definitions of queues have keys that begin so, and a JSON object with `id`, `vhost` and `name`.
const QUEUE_KEYS: &[u8] = b"q/";
/// Set in the id under which messages of a queue are that were moved out of memory for want of room.
const PAGED_OUT: u64 = 1 << 63;
/// The bit of the ids under which the log has what it knows of deliveries from a queue.
const RETURNS: u64 = 1 << 62;

#[derive(Subcommand)]
pub(super) enum LogCommand {
    /// Show records: where each stands and what it says, without message bodies
    Inspect(InspectArgs),
    /// Read and check every byte that is in use; exit code 1 when something is damaged
    Verify(OutputArgs),
    /// Show queues, segments and checkpoints
    Stats(OutputArgs),
}

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Only records that concern this queue, by its id (see `backbone log stats`)
    #[arg(long, value_name = "ID")]
    queue: Option<u64>,
    /// How many records to show
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    limit: usize,
}

#[derive(Args)]
pub(super) struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a look into the log failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogFailure {
    #[error("there is no log in {}", .0.display())]
    Missing(PathBuf),
    #[error("a server uses the log in {}: stop it first, or read its metrics (backbone_log_*)", .0.display())]
    InUse(PathBuf),
    #[error("the log in {} cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, std::io::Error),
    #[error("the log cannot be read: {0}")]
    Read(#[from] LogError),
    #[error("{0} places of the log are not what was written")]
    Damaged(usize),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Names of queues, as far as their definitions tell.
struct Names(BTreeMap<u64, (String, String)>);

pub(super) fn run(command: LogCommand, data_dir: &Path) -> Result<(), LogFailure> {
    let survey = open(&data_dir.join(FOLDER))?;
    let names = Names::of(&survey);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let done = match command {
        LogCommand::Inspect(args) => inspect(&survey, &args, &mut out),
        LogCommand::Verify(args) => verify(&survey, &names, &args, &mut out),
        LogCommand::Stats(args) => stats(&survey, &names, &args, &mut out),
    };
    match done {
        // Whoever read the output has enough.
        Err(LogFailure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn open(folder: &Path) -> Result<Survey, LogFailure> {
    let disk = RealDisk::read_only(folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => LogFailure::Missing(folder.into()),
        _ => LogFailure::Unreadable(folder.into(), error),
    })?;
    Survey::open(Arc::new(disk), tell).map_err(|error| match error {
        LogError::Locked => LogFailure::InUse(folder.into()),
        other => LogFailure::Read(other),
    })
}

/// Tells people at a terminal how far it is.
fn tell(progress: Progress) {
    let mut err = std::io::stderr().lock();
    if progress.total_bytes > 0 && err.is_terminal() {
        let percent = progress.done_bytes * 100 / progress.total_bytes;
        let end = if percent == 100 { "\n" } else { "" };
        drop(write!(err, "\rread {percent} %{end}"));
    }
}

fn verify(
    survey: &Survey,
    names: &Names,
    args: &OutputArgs,
    out: &mut impl Write,
) -> Result<(), LogFailure> {
    let damages = survey.verify(tell)?;
    let (segments, checkpoints) = (survey.segments().len(), survey.checkpoints()?.len());
    let torn = survey.end().filter(|_| survey.recovered().torn);
    if args.json {
        let report = json!({
            "sound": damages.is_empty(),
            "damages": damages.iter().map(|d| damage_json(d, names)).collect::<Vec<_>>(),
            "torn_tail": torn.map(|(segment, offset)| json!({
                "file": segment_file(segment), "offset": offset,
            })),
            "last_batch": survey.recovered().last,
            "segments": segments,
            "indexes": survey.indexes(),
            "checkpoints": checkpoints,
        });
        writeln!(out, "{report:#}")?;
    } else {
        for damage in &damages {
            writeln!(out, "{}", damage_line(damage, names))?;
        }
        if let Some((segment, offset)) = torn {
            let file = segment_file(segment);
            writeln!(
                out,
                "{file}: a torn tail from offset {offset} on: batches that were never finished nor confirmed as synced; \
                 the next start cuts them off"
            )?;
        }
        let indexes = survey.indexes();
        let last = survey.recovered().last;
        writeln!(
            out,
            "{segments} segments, {indexes} indexes, {checkpoints} checkpoints, last batch {last}: {}",
            match damages.len() {
                0 => "all sound".to_owned(),
                count => format!("{count} damaged places"),
            }
        )?;
    }
    out.flush()?;
    match damages.len() {
        0 => Ok(()),
        count => Err(LogFailure::Damaged(count)),
    }
}

fn damage_json(damage: &Damage, names: &Names) -> Value {
    let queues = damage.queues.iter().map(|id| names.json(*id));
    json!({
        "file": damage.file,
        "offset": damage.offset,
        "bytes": damage.bytes,
        "queues": queues.collect::<Vec<_>>(),
        "costs_messages": costs_messages(damage),
    })
}

/// Indexes are made again from their segments, and of checkpoints there are two.
fn costs_messages(damage: &Damage) -> bool {
    damage.file.ends_with(".segment")
}

fn damage_line(damage: &Damage, names: &Names) -> String {
    let queues: Vec<String> = damage.queues.iter().map(|id| names.text(*id)).collect();
    let queues = match (costs_messages(damage), queues.is_empty()) {
        (false, _) => "no message is lost by it".to_owned(),
        (true, true) => "no queue has anything there".to_owned(),
        (true, false) => format!("queues that may miss messages: {}", queues.join(", ")),
    };
    let Damage { file, offset, .. } = damage;
    match damage.bytes {
        0 => format!("{file}: damaged at offset {offset}; {queues}"),
        bytes => format!("{file}: {bytes} bytes damaged from offset {offset} on; {queues}"),
    }
}

fn stats(
    survey: &Survey,
    names: &Names,
    args: &OutputArgs,
    out: &mut impl Write,
) -> Result<(), LogFailure> {
    let mut queues = survey.queues();
    // Deleted, only their segments remain; or what is known of deliveries, which are no messages.
    queues.retain(|queue| queue.low != u64::MAX && queue.queue & RETURNS == 0);
    let segments = survey.segments();
    let checkpoints = survey.checkpoints()?;
    let sum = |part: fn(&backbone_log::SegmentInfo) -> u64| segments.iter().map(part).sum::<u64>();
    let (size, used, live) = (
        sum(|s| s.size.into()),
        sum(|s| s.used.into()),
        sum(|s| s.live),
    );
    let dead = used.saturating_sub(live);
    if args.json {
        let report = json!({
            "last_batch": survey.recovered().last,
            "replayed_batches": survey.recovered().replayed,
            "segment_bytes": size, "used_bytes": used, "live_bytes": live, "dead_bytes": dead,
            "spare_segments": survey.spares(),
            "segments": segments.iter().map(|s| json!({
                "file": segment_file(s.serial), "first_batch": s.first_batch, "batches": s.next_batch - s.first_batch,
                "size_bytes": s.size, "used_bytes": s.used, "live_bytes": s.live,
            })).collect::<Vec<_>>(),
            "checkpoints": checkpoints.iter().map(|c| json!({
                "file": c.file, "bytes": c.bytes, "last_batch": c.applied,
            })).collect::<Vec<_>>(),
            "queues": queues.iter().map(|queue| queue_json(queue, names)).collect::<Vec<_>>(),
        });
        writeln!(out, "{report:#}")?;
        return Ok(out.flush()?);
    }
    writeln!(
        out,
        "{:<20} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "segment", "first batch", "batches", "size", "used", "live"
    )?;
    for s in &segments {
        let (name, batches) = (segment_file(s.serial), s.next_batch - s.first_batch);
        let (first, size, used, live) = (s.first_batch, s.size, s.used, s.live);
        writeln!(
            out,
            "{name:<20} {first:>12} {batches:>12} {size:>12} {used:>12} {live:>12}"
        )?;
    }
    writeln!(
        out,
        "{} segments of {size} bytes: {used} used, {live} of them alive, {dead} dead; {} spare segments",
        segments.len(),
        survey.spares()
    )?;
    for checkpoint in &checkpoints {
        let state = match checkpoint.applied {
            Some(last) => format!("up to batch {last}"),
            None => "damaged".to_owned(),
        };
        writeln!(
            out,
            "{}: {} bytes, {state}",
            checkpoint.file, checkpoint.bytes
        )?;
    }
    writeln!(
        out,
        "last batch {}, of which a start would replay {}",
        survey.recovered().last,
        survey.recovered().replayed
    )?;
    writeln!(out, "{:>12} {:>12} {:>12}  queue", "live", "low", "next")?;
    for queue in &queues {
        let QueueInfo {
            queue,
            low,
            next,
            live,
        } = queue;
        writeln!(
            out,
            "{live:>12} {low:>12} {next:>12}  {}",
            names.text(*queue)
        )?;
    }
    Ok(out.flush()?)
}

fn queue_json(queue: &QueueInfo, names: &Names) -> Value {
    let mut value = names.json(queue.queue);
    value["live"] = queue.live.into();
    value["low"] = queue.low.into();
    value["next"] = queue.next.into();
    value
}

fn inspect(survey: &Survey, args: &InspectArgs, out: &mut impl Write) -> Result<(), LogFailure> {
    let (mut left, mut failed) = (args.limit, None);
    survey.records(|found| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        if args
            .queue
            .is_some_and(|queue| !concerns(&found.record, queue))
        {
            return ControlFlow::Continue(());
        }
        left -= 1;
        match writeln!(out, "{}", record_line(&found)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    Ok(out.flush()?)
}

fn concerns(record: &Record<'_>, id: u64) -> bool {
    let among = |targets: &Targets<'_>| targets.iter().any(|target| target.queue == id);
    match record {
        Record::Publish { targets, .. } => among(targets),
        Record::Transfer {
            targets, sources, ..
        } => among(targets) || sources.iter().any(|source| source.queue == id),
        Record::Settle { queue, .. } => *queue == id,
        Record::SettleMany { sources, .. } => sources.iter().any(|source| source.queue == id),
        Record::Define { .. } | Record::Remove { .. } => false,
    }
}

fn why(reason: Option<Reason>) -> String {
    reason.map_or("unknown".to_owned(), |r| format!("{r:?}").to_lowercase())
}

/// Segment, offset, bytes and batch of a record, and what it says: `queue/number` are places of messages.
fn record_line(found: &Inspected<'_>) -> String {
    let places = |targets: &Targets<'_>| {
        let places = targets.iter().map(|t| format!("{}/{}", t.queue, t.seq));
        places.collect::<Vec<_>>().join(" ")
    };
    let what = match &found.record {
        Record::Publish {
            payload,
            targets,
            transient,
            copy,
            ..
        } => {
            let kind = if *copy { "copy" } else { "publish" };
            let transient = if *transient { " transient" } else { "" };
            format!(
                "{kind}{transient} {} bytes to {}",
                payload.len(),
                places(targets)
            )
        }
        Record::Transfer {
            body,
            targets,
            sources,
        } => {
            let body = match body {
                Body::Here(payload, _) => format!("{} bytes", payload.len()),
                Body::At(at, len) => {
                    format!("{len} bytes at {} {}", segment_file(at.segment), at.offset)
                }
            };
            let sources = sources.iter();
            let sources: Vec<String> = sources
                .map(|s| format!("{}/{}..{}", s.queue, s.seqs.start, s.seqs.end))
                .collect();
            format!(
                "transfer {body} from {} to {}",
                sources.join(" "),
                places(targets)
            )
        }
        Record::SettleMany { sources, reason } => {
            let sources = sources.iter();
            let sources: Vec<String> = sources
                .map(|s| format!("{}/{}..{}", s.queue, s.seqs.start, s.seqs.end))
                .collect();
            format!("settle ({}) {}", why(*reason), sources.join(" "))
        }
        Record::Settle {
            queue,
            ranges,
            reason,
        } => {
            let reason = why(*reason);
            let ranges = ranges.iter().map(|range| match range.end {
                u64::MAX => format!("{queue}/{}..", range.start),
                end => format!("{queue}/{}..{end}", range.start),
            });
            format!("settle ({reason}) {}", ranges.collect::<Vec<_>>().join(" "))
        }
        Record::Define { key, value } => {
            format!("define {} ({} bytes)", key.escape_ascii(), value.len())
        }
        Record::Remove { key } => format!("remove {}", key.escape_ascii()),
    };
    let (
        file,
        Inspected {
            offset,
            length,
            lsn,
            ..
        },
    ) = (segment_file(found.segment), found);
    format!("{file} {offset} {length} bytes, batch {lsn}: {what}")
}

fn segment_file(serial: u32) -> String {
    format!("{serial:08x}.segment")
}

impl Names {
    fn of(survey: &Survey) -> Self {
        let definitions = survey.definitions();
        let named = definitions.filter(|(key, _)| key.starts_with(QUEUE_KEYS));
        let named = named.filter_map(|(_, value)| {
            let value: Value = serde_json::from_slice(&value).ok()?;
            let text = |field: &str| value[field].as_str().map(str::to_owned);
            let (id, name) = (value["id"].as_u64()?, (text("vhost")?, text("name")?));
            // A priority queue has an id for each priority.
            let more = value["priority_max"].as_u64().unwrap_or(0);
            Some((id..=id + more).map(move |id| (id, name.clone())))
        });
        Self(named.flatten().collect())
    }

    fn json(&self, id: u64) -> Value {
        match self.0.get(&(id & !PAGED_OUT)) {
            Some((vhost, name)) => json!({ "id": id, "vhost": vhost, "name": name }),
            None if id & STREAMS != 0 => json!({ "id": id, "stream": id & !STREAMS }),
            None => json!({ "id": id }),
        }
    }

    fn text(&self, id: u64) -> String {
        match self.0.get(&(id & !PAGED_OUT)) {
            Some((vhost, name)) => format!("{id} ({name:?} in {vhost:?})"),
            None if id & STREAMS != 0 => format!("{id} (stream {})", id & !STREAMS),
            None => id.to_string(),
        }
    }
}
