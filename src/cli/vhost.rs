//! `backbone vhost`: the vhosts of a server and their limits.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct VhostArgs {
    #[command(subcommand)]
    command: VhostCommand,
}

#[derive(Subcommand)]
enum VhostCommand {
    /// List vhosts: name, messages ready and unacknowledged, durability, description
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Make a vhost, in which the caller gets all rights, or change what is said of one
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost's name
        #[arg(value_parser = path_segment)]
        name: String,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// For tools; may be given several times
        #[arg(long)]
        tag: Option<Vec<String>>,
    },
    /// Limit how many connections or queues a vhost may have
    Limit {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost's name
        #[arg(value_parser = path_segment)]
        name: String,
        /// max-connections or max-queues
        #[arg(value_parser = ["max-connections", "max-queues"])]
        limit: String,
        /// How many; -1 for any number
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Remove a vhost with all that is in it; its connections are closed
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost's name
        #[arg(value_parser = path_segment)]
        name: String,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: VhostArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        VhostCommand::List { remote } => Call::new(remote, Method::GET, &["vhosts"]),
        VhostCommand::Add {
            remote,
            name,
            description,
            tag,
        } => {
            let mut body = Map::new();
            if let Some(description) = description {
                body.insert("description".into(), description.into());
            }
            if let Some(tags) = tag {
                body.insert("tags".into(), tags.into());
            }
            Call::new(remote, Method::PUT, &["vhosts", &name]).with_body(Value::Object(body))
        }
        VhostCommand::Limit {
            remote,
            name,
            limit,
            value,
        } => {
            let path = ["vhost-limits", &name, &limit];
            Call::new(remote, Method::PUT, &path).with_body(json!({"value": value}))
        }
        VhostCommand::Remove { remote, name } => {
            Call::new(remote, Method::DELETE, &["vhosts", &name])
        }
    };
    call.run(environment, line).await
}

fn line(vhost: &Value) -> String {
    let fields = [
        "name",
        "messages_ready",
        "messages_unacknowledged",
        "durability",
        "description",
    ];
    fields.map(|field| plain(&vhost[field])).join("\t")
}
