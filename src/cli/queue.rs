//! `backbone queue`: which queues a server has, and what waits in them.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::client::{path_segment, plain, print};
use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Subcommand)]
enum QueueCommand {
    /// List queues: name, messages ready and unacknowledged, consumers, durability
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
    /// Show one queue
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The queue's name
        #[arg(value_parser = path_segment)]
        name: String,
        /// Its vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: QueueArgs, environment: &Environment) -> Result<(), Failure> {
    let (remote, vhost, name) = match args.command {
        QueueCommand::List { remote, vhost } => (remote, vhost, None),
        QueueCommand::Show {
            remote,
            name,
            vhost,
        } => (remote, vhost, Some(name)),
    };
    let mut path = vec!["api", "queues", &vhost];
    path.extend(name.as_deref());
    let api = remote.connect(environment, &OPERATOR)?;
    let answer = api.json(Method::GET, &path, None).await?;
    print(&answer, remote.json, line);
    Ok(())
}

fn line(queue: &Value) -> String {
    let fields = [
        "name",
        "messages_ready",
        "messages_unacknowledged",
        "consumers",
        "durability",
    ];
    fields.map(|name| plain(&queue[name])).join("\t")
}
