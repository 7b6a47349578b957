//! `backbone binding`: what leads from exchanges to queues and other exchanges.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::{Call, object};
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct BindingArgs {
    #[command(subcommand)]
    command: BindingCommand,
}

/// The ends of a binding.
#[derive(Args)]
struct Ends {
    /// The exchange that it leads from
    #[arg(value_parser = path_segment)]
    source: String,
    /// The queue that it leads to
    #[arg(value_parser = path_segment)]
    destination: String,
    /// It leads to an exchange
    #[arg(long)]
    to_exchange: bool,
    /// Its vhost
    #[arg(long, default_value = "/", value_parser = path_segment)]
    vhost: String,
}

impl Ends {
    fn path(&self) -> [&str; 6] {
        let kind = if self.to_exchange { "e" } else { "q" };
        let ends = (&self.source, &self.destination);
        ["bindings", &self.vhost, "e", ends.0, kind, ends.1]
    }
}

#[derive(Subcommand)]
enum BindingCommand {
    /// List bindings: source, destination, its type, routing key, arguments, properties key
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
    /// Bind a queue or an exchange to an exchange
    #[command(visible_alias = "declare")]
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        ends: Ends,
        /// Routing key or pattern
        #[arg(long, default_value = "")]
        key: String,
        /// Its arguments as JSON, e.g. {"x-match": "any"}
        #[arg(long, value_name = "JSON", value_parser = object, default_value = "{}")]
        arguments: Map<String, Value>,
    },
    /// End a binding
    #[command(visible_alias = "delete")]
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        ends: Ends,
        /// The routing key, or with arguments the properties key that `list` shows
        #[arg(long, default_value = "~", value_parser = path_segment)]
        key: String,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: BindingArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        BindingCommand::List { remote, vhost } => {
            Call::new(remote, Method::GET, &["bindings", &vhost])
        }
        BindingCommand::Add {
            remote,
            ends,
            key,
            arguments,
        } => {
            let body = json!({"routing_key": key, "arguments": arguments});
            Call::new(remote, Method::POST, &ends.path()).with_body(body)
        }
        BindingCommand::Remove { remote, ends, key } => {
            let path = [&ends.path()[..], &[&key]].concat();
            Call::new(remote, Method::DELETE, &path)
        }
    };
    call.run(environment, line).await
}

fn line(binding: &Value) -> String {
    let fields = [
        "source",
        "destination",
        "destination_type",
        "routing_key",
        "arguments",
        "properties_key",
    ];
    fields.map(|field| plain(&binding[field])).join("\t")
}
