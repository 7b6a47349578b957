//! `backbone permission`: what users may do in vhosts.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::call::Call;
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct PermissionArgs {
    #[command(subcommand)]
    command: PermissionCommand,
}

#[derive(Subcommand)]
enum PermissionCommand {
    /// List permissions: user, vhost, and the patterns of what may be configured, written and read
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Of one vhost
        #[arg(long, value_parser = path_segment, conflicts_with = "user")]
        vhost: Option<String>,
        /// Of one user
        #[arg(long, value_parser = path_segment)]
        user: Option<String>,
    },
    /// Let a user enter a vhost and do there what the patterns say: regular expressions, found anywhere in a name
    Set {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user
        #[arg(value_parser = path_segment)]
        user: String,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// What may be declared and deleted; empty for nothing
        #[arg(long, default_value = ".*")]
        configure: String,
        /// What may be published to, and bound to something
        #[arg(long, default_value = ".*")]
        write: String,
        /// What may be consumed from, and bound from
        #[arg(long, default_value = ".*")]
        read: String,
    },
    /// Let a user not enter a vhost any more
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user
        #[arg(value_parser = path_segment)]
        user: String,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
    /// List topic permissions: user, vhost, exchange, and the patterns of routing keys that may be written and read
    ListTopic {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Say with which routing keys a user may use a topic exchange; {username} and {vhost} are put in
    SetTopic {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user
        #[arg(value_parser = path_segment)]
        user: String,
        /// The exchange
        exchange: String,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// What may be published
        #[arg(long, default_value = ".*")]
        write: String,
        /// What may be bound
        #[arg(long, default_value = ".*")]
        read: String,
    },
    /// Take back what was said of a user's routing keys in a vhost
    RemoveTopic {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user
        #[arg(value_parser = path_segment)]
        user: String,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: PermissionArgs, environment: &Environment) -> Result<(), Failure> {
    use PermissionCommand as Command;
    let call = match args.command {
        Command::List {
            remote,
            vhost,
            user,
        } => match (&vhost, &user) {
            (Some(vhost), _) => of(remote, &["vhosts", vhost, "permissions"]),
            (None, Some(user)) => of(remote, &["users", user, "permissions"]),
            (None, None) => of(remote, &["permissions"]),
        },
        Command::Set {
            remote,
            user,
            vhost,
            configure,
            write,
            read,
        } => {
            let body = json!({"configure": configure, "write": write, "read": read});
            let path = ["permissions", &vhost, &user];
            Call::new(remote, Method::PUT, &path).with_body(body)
        }
        Command::Remove {
            remote,
            user,
            vhost,
        } => Call::new(remote, Method::DELETE, &["permissions", &vhost, &user]),
        Command::ListTopic { remote } => of(remote, &["topic-permissions"]),
        Command::SetTopic {
            remote,
            user,
            exchange,
            vhost,
            write,
            read,
        } => {
            let body = json!({"exchange": exchange, "write": write, "read": read});
            let path = ["topic-permissions", &vhost, &user];
            Call::new(remote, Method::PUT, &path).with_body(body)
        }
        Command::RemoveTopic {
            remote,
            user,
            vhost,
        } => Call::new(
            remote,
            Method::DELETE,
            &["topic-permissions", &vhost, &user],
        ),
    };
    call.run(environment, line).await
}

fn of(remote: RemoteArgs, path: &[&str]) -> Call {
    Call::new(remote, Method::GET, path)
}

/// A permission has no exchange, and a topic permission nothing to configure.
fn line(permission: &Value) -> String {
    let fields = ["user", "vhost", "exchange", "configure", "write", "read"];
    let there = fields.into_iter().filter_map(|field| permission.get(field));
    there.map(plain).collect::<Vec<_>>().join("\t")
}
