//! `backbone connection`, `backbone channel` and `backbone consumer`: who is connected to a server.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::call::Call;
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct ConnectionArgs {
    #[command(subcommand)]
    command: ConnectionCommand,
}

#[derive(Subcommand)]
enum ConnectionCommand {
    /// List connections: name, user, vhost, state, channels, the name that the client gave
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Of one vhost
        #[arg(long, value_parser = path_segment)]
        vhost: Option<String>,
    },
    /// Show one connection
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment)]
        name: String,
    },
    /// Close a connection, or all of a user
    Close {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment, required_unless_present = "user", conflicts_with = "user")]
        name: Option<String>,
        /// Close all of this user
        #[arg(long, value_parser = path_segment)]
        user: Option<String>,
        /// What the client is told
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Args)]
pub(super) struct ChannelArgs {
    #[command(subcommand)]
    command: ChannelCommand,
}

#[derive(Subcommand)]
enum ChannelCommand {
    /// List channels: name, user, consumers, messages unacknowledged, prefetch
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Of one vhost
        #[arg(long, value_parser = path_segment)]
        vhost: Option<String>,
    },
    /// Show one channel
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment)]
        name: String,
    },
}

#[derive(Args)]
pub(super) struct ConsumerArgs {
    #[command(subcommand)]
    command: ConsumerCommand,
}

#[derive(Subcommand)]
enum ConsumerCommand {
    /// List consumers: tag, queue, channel, whether it acknowledges, prefetch, whether it gets messages
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Of one vhost
        #[arg(long, value_parser = path_segment)]
        vhost: Option<String>,
    },
}

/// Runs one of the verbs of `backbone connection`.
pub(super) async fn run(args: ConnectionArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        ConnectionCommand::List { remote, vhost } => list(remote, vhost, "connections"),
        ConnectionCommand::Show { remote, name } => {
            Call::new(remote, Method::GET, &["connections", &name])
        }
        ConnectionCommand::Close {
            remote,
            name,
            user,
            reason,
        } => {
            let mut path = vec!["connections"];
            match (&name, &user) {
                (_, Some(user)) => path.extend(["username", user]),
                (name, None) => path.extend(name.as_deref()),
            }
            Call::new(remote, Method::DELETE, &path).with_header("X-Reason", reason)
        }
    };
    let fields = |it: &Value| {
        let fields = [
            "name",
            "user",
            "vhost",
            "state",
            "channels",
            "user_provided_name",
        ];
        fields.map(|field| plain(&it[field])).join("\t")
    };
    call.run(environment, fields).await
}

/// Runs one of the verbs of `backbone channel`.
pub(super) async fn channel(args: ChannelArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        ChannelCommand::List { remote, vhost } => list(remote, vhost, "channels"),
        ChannelCommand::Show { remote, name } => {
            Call::new(remote, Method::GET, &["channels", &name])
        }
    };
    let fields = |it: &Value| {
        let fields = [
            "name",
            "user",
            "consumer_count",
            "messages_unacknowledged",
            "prefetch_count",
        ];
        fields.map(|field| plain(&it[field])).join("\t")
    };
    call.run(environment, fields).await
}

/// Runs one of the verbs of `backbone consumer`.
pub(super) async fn consumer(args: ConsumerArgs, environment: &Environment) -> Result<(), Failure> {
    let ConsumerCommand::List { remote, vhost } = args.command;
    let mut path = vec!["consumers"];
    path.extend(vhost.as_deref());
    let call = Call::new(remote, Method::GET, &path);
    let fields = |it: &Value| {
        let queue = &it["queue"]["name"];
        let channel = &it["channel_details"]["name"];
        let rest = ["ack_required", "prefetch_count", "activity_status"];
        let rest = rest.map(|field| &it[field]);
        let all = [&[&it["consumer_tag"], queue, channel], &rest[..]].concat();
        all.iter()
            .map(|it| plain(it))
            .collect::<Vec<_>>()
            .join("\t")
    };
    call.run(environment, fields).await
}

/// All of a kind, or those of one vhost.
fn list(remote: RemoteArgs, vhost: Option<String>, kind: &str) -> Call {
    match vhost {
        Some(vhost) => Call::new(remote, Method::GET, &["vhosts", &vhost, kind]),
        None => Call::new(remote, Method::GET, &[kind]),
    }
}
