//! `backbone queue`: the queues of a server, and what waits in them.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::{Call, object};
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

/// A queue by its name.
#[derive(Args)]
struct Named {
    /// The queue's name
    #[arg(value_parser = path_segment)]
    name: String,
    /// Its vhost
    #[arg(long, default_value = "/", value_parser = path_segment)]
    vhost: String,
}

#[derive(Subcommand)]
enum QueueCommand {
    /// List queues: name, messages ready and unacknowledged, consumers, durability, state
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
        #[command(flatten)]
        queue: Named,
    },
    /// Declare a queue; one that is there has to be alike
    #[command(visible_alias = "declare")]
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        queue: Named,
        /// classic, quorum or stream
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Let it not survive a restart
        #[arg(long)]
        transient: bool,
        /// Let it go with its last consumer
        #[arg(long)]
        auto_delete: bool,
        /// Its arguments as JSON, e.g. {"x-max-length": 1000}
        #[arg(long, value_name = "JSON", value_parser = object, default_value = "{}")]
        arguments: Map<String, Value>,
    },
    /// Delete a queue with what is in it
    #[command(visible_alias = "delete")]
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        queue: Named,
        /// Only if it has no consumers
        #[arg(long)]
        if_unused: bool,
        /// Only if nothing is ready in it
        #[arg(long)]
        if_empty: bool,
    },
    /// Pause a queue: it takes messages and hands out none
    Pause {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        queue: Named,
    },
    /// Have a paused queue hand out messages again
    Resume {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        queue: Named,
    },
    /// Drop the messages that are ready in a queue
    Purge {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        queue: Named,
    },
    /// Look at messages of a queue, the oldest first: exchange, routing key, body
    Get {
        #[command(flatten)]
        remote: RemoteArgs,
        #[command(flatten)]
        queue: Named,
        /// How many
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// Take them out
        #[arg(long)]
        take: bool,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: QueueArgs, environment: &Environment) -> Result<(), Failure> {
    let path = |queue: &Named| ["queues".to_owned(), queue.vhost.clone(), queue.name.clone()];
    let call = |remote, method, queue: &Named, below: &[&str]| {
        let path = path(queue);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        Call::new(remote, method, &[&path, below].concat())
    };
    match args.command {
        QueueCommand::List { remote, vhost } => {
            let call = Call::new(remote, Method::GET, &["queues", &vhost]);
            call.run(environment, line).await
        }
        QueueCommand::Show { remote, queue } => {
            let call = call(remote, Method::GET, &queue, &[]);
            call.run(environment, line).await
        }
        QueueCommand::Add {
            remote,
            queue,
            kind,
            transient,
            auto_delete,
            mut arguments,
        } => {
            if let Some(kind) = kind {
                arguments.insert("x-queue-type".into(), kind.into());
            }
            let body =
                json!({"durable": !transient, "auto_delete": auto_delete, "arguments": arguments});
            let call = call(remote, Method::PUT, &queue, &[]).with_body(body);
            call.run(environment, line).await
        }
        QueueCommand::Remove {
            remote,
            queue,
            if_unused,
            if_empty,
        } => {
            let call = call(remote, Method::DELETE, &queue, &[]);
            let call = call.with_flag("if-unused", if_unused);
            let call = call.with_flag("if-empty", if_empty);
            call.run(environment, line).await
        }
        QueueCommand::Pause { remote, queue } => {
            let call = call(remote, Method::PUT, &queue, &["pause"]);
            call.run(environment, line).await
        }
        QueueCommand::Resume { remote, queue } => {
            let call = call(remote, Method::PUT, &queue, &["resume"]);
            call.run(environment, line).await
        }
        QueueCommand::Purge { remote, queue } => {
            let call = call(remote, Method::DELETE, &queue, &["contents"]);
            call.run(environment, line).await
        }
        QueueCommand::Get {
            remote,
            queue,
            count,
            take,
        } => {
            let ackmode = match take {
                true => "ack_requeue_false",
                false => "ack_requeue_true",
            };
            let body = json!({"count": count, "ackmode": ackmode, "encoding": "auto"});
            let call = call(remote, Method::POST, &queue, &["get"]).with_body(body);
            call.run(environment, message).await
        }
    }
}

fn line(queue: &Value) -> String {
    let fields = [
        "name",
        "messages_ready",
        "messages_unacknowledged",
        "consumers",
        "durability",
        "state",
    ];
    fields.map(|name| plain(&queue[name])).join("\t")
}

fn message(message: &Value) -> String {
    let fields = ["exchange", "routing_key", "payload"];
    fields.map(|name| plain(&message[name])).join("\t")
}
