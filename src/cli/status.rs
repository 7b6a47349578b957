//! `backbone status`: is a server ready, and what does it hold.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failure, OPERATOR, RemoteArgs};
use crate::cli::api::ApiFailure;
use crate::config::Environment;

/// The metrics that are shown, when the server has them.
const SHOWN: [&str; 8] = [
    "backbone_uptime_seconds",
    "backbone_process_resident_memory_bytes",
    "backbone_connections",
    "backbone_channels",
    "backbone_consumers",
    "backbone_queues",
    "backbone_queue_messages_ready",
    "backbone_queue_messages_unacked",
];

#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Asks for readiness and, with credentials, for metrics. A server that is not ready is a failure.
pub(super) async fn run(args: StatusArgs, environment: &Environment) -> Result<(), Failure> {
    let remote = args.remote;
    let api = remote.anonymous(environment)?;
    let ready = match api.get(&["health", "ready"], &[], Duration::ZERO).await {
        Ok(_) => true,
        Err(ApiFailure::Refused { status, .. }) if status.as_u16() == 503 => false,
        Err(failure) => return Err(failure.into()),
    };
    let mut report = Map::from_iter([("ready".to_owned(), json!(ready))]);
    if let Some((id, secret)) = remote.credentials(environment, &OPERATOR) {
        let api = api.with_credentials(id, secret);
        report.extend(shown(&api.get(&["metrics"], &[], Duration::ZERO).await?));
    }
    match remote.json {
        true => println!("{:#}", Value::Object(report)),
        false => report
            .iter()
            .for_each(|(name, value)| println!("{name}: {value}")),
    }
    match ready {
        true => Ok(()),
        false => Err(Failure::NotReady),
    }
}

/// The shown metrics without their prefix; those without labels only.
fn shown(metrics: &str) -> impl Iterator<Item = (String, Value)> + '_ {
    metrics.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        SHOWN.contains(&name).then_some(())?;
        let value: f64 = value.parse().ok()?;
        // All of them are whole but the uptime, whose fraction nobody wants to read.
        Some((
            name.trim_start_matches("backbone_").to_owned(),
            json!(value as u64),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_metrics_are_picked_out() {
        let text =
            "# HELP x\nbackbone_queues 3\nbackbone_queues{vhost=\"/\"} 2\nbackbone_other 1\n";
        assert_eq!(
            shown(text).collect::<Vec<_>>(),
            [("queues".to_owned(), json!(3))]
        );
    }
}
