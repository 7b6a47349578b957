//! `backbone audit`: who did what.

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::client::{plain, print};
use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    remote: RemoteArgs,
    /// About this client, or by it
    #[arg(long)]
    client: Option<String>,
    /// By this user or client
    #[arg(long)]
    who: Option<String>,
    /// This action, or those that begin with it, e.g. clients or login.failed
    #[arg(long)]
    action: Option<String>,
    /// Not before: ISO 8601 with zone, or seconds of Unix time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before: the same
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// With a number below this one
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// How many at most
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// Shows entries, the newest first; with `--json` the whole answer.
pub(super) async fn run(args: AuditArgs, environment: &Environment) -> Result<(), Failure> {
    let asked = [
        ("client", args.client),
        ("who", args.who),
        ("action", args.action),
        ("since", args.since),
        ("until", args.until),
        ("before", args.before.map(|it| it.to_string())),
        ("limit", Some(args.limit.to_string())),
    ];
    let asked = asked
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let query: Vec<_> = asked.collect();
    let api = args.remote.connect(environment, &OPERATOR)?;
    let answer = api.json_of(Method::GET, &["audit"], &query, None).await?;
    match args.remote.json {
        true => print(&answer, true, line),
        false => print(&answer["entries"], false, line),
    }
    Ok(())
}

fn line(entry: &Value) -> String {
    [
        "time", "action", "outcome", "who", "from", "client", "path", "fields",
    ]
    .map(|field| plain(&entry[field]))
    .join("\t")
}
