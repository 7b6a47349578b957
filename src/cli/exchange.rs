//! `backbone exchange`: the exchanges of a server.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::{Call, object};
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct ExchangeArgs {
    #[command(subcommand)]
    command: ExchangeCommand,
}

#[derive(Subcommand)]
enum ExchangeCommand {
    /// List exchanges: name, type, durable, policy
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
    /// Show one exchange
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name; amq.default is the default exchange
        #[arg(value_parser = path_segment)]
        name: String,
        /// Its vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
    },
    /// Declare an exchange; one that is there has to be alike
    #[command(visible_alias = "declare")]
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment)]
        name: String,
        /// direct, fanout, topic, headers or another type
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Its vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// Let it not survive a restart
        #[arg(long)]
        transient: bool,
        /// Let it go with the last binding from it
        #[arg(long)]
        auto_delete: bool,
        /// Let clients not publish to it
        #[arg(long)]
        internal: bool,
        /// Its arguments as JSON, e.g. {"alternate-exchange": "x"}
        #[arg(long, value_name = "JSON", value_parser = object, default_value = "{}")]
        arguments: Map<String, Value>,
    },
    /// Delete an exchange
    #[command(visible_alias = "delete")]
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment)]
        name: String,
        /// Its vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// Only if no binding leads from it
        #[arg(long)]
        if_unused: bool,
    },
    /// Publish a message; tells whether a queue took it
    Publish {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The exchange; amq.default is the default exchange
        #[arg(value_parser = path_segment)]
        name: String,
        /// The routing key
        key: String,
        /// The body
        body: String,
        /// The exchange's vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// The properties as JSON, e.g. {"delivery_mode": 2}
        #[arg(long, value_name = "JSON", value_parser = object, default_value = "{}")]
        properties: Map<String, Value>,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: ExchangeArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        ExchangeCommand::List { remote, vhost } => {
            Call::new(remote, Method::GET, &["exchanges", &vhost])
        }
        ExchangeCommand::Show {
            remote,
            name,
            vhost,
        } => Call::new(remote, Method::GET, &["exchanges", &vhost, &name]),
        ExchangeCommand::Add {
            remote,
            name,
            kind,
            vhost,
            transient,
            auto_delete,
            internal,
            arguments,
        } => {
            let body = json!({
                "type": kind, "durable": !transient, "auto_delete": auto_delete, "internal": internal,
                "arguments": arguments,
            });
            let path = ["exchanges", &vhost, &name];
            Call::new(remote, Method::PUT, &path).with_body(body)
        }
        ExchangeCommand::Remove {
            remote,
            name,
            vhost,
            if_unused,
        } => {
            let call = Call::new(remote, Method::DELETE, &["exchanges", &vhost, &name]);
            call.with_flag("if-unused", if_unused)
        }
        ExchangeCommand::Publish {
            remote,
            name,
            key,
            body,
            vhost,
            properties,
        } => {
            let body = json!({
                "properties": properties, "routing_key": key, "payload": body, "payload_encoding": "string",
            });
            let path = ["exchanges", &vhost, &name, "publish"];
            Call::new(remote, Method::POST, &path).with_body(body)
        }
    };
    call.run(environment, line).await
}

fn line(exchange: &Value) -> String {
    let fields = ["name", "type", "durable", "policy"];
    fields.map(|field| plain(&exchange[field])).join("\t")
}
