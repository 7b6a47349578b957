//! `backbone vhost`: the vhosts of a server and their limits.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::client::{path_segment, plain};
use super::{Failure, OPERATOR, RemoteArgs};
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
    /// Send copies of all messages of a vhost to its exchange amq.rabbitmq.trace, or no more; a restart ends it
    Trace {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost's name
        #[arg(value_parser = path_segment)]
        name: String,
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        state: String,
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
        VhostCommand::Trace {
            remote,
            name,
            state,
        } => {
            let api = remote.connect(environment, &OPERATOR)?;
            // A change of one that is not there would make it.
            let path = ["api", "vhosts", &name];
            api.json_of(Method::GET, &path, &[], None).await?;
            let body = json!({"tracing": state == "on"});
            Call::new(remote, Method::PUT, &path[1..]).with_body(body)
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
