//! `backbone policy`: settings for queues and exchanges that a pattern finds.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::call::Call;
use super::client::{path_segment, plain};
use super::{Failure, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// List policies: name, vhost, pattern, what they apply to, priority, settings
    List {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Of one vhost
        #[arg(long, value_parser = path_segment)]
        vhost: Option<String>,
        /// Those of operators
        #[arg(long)]
        operator: bool,
    },
    /// Make or change a policy; it counts at once
    Set {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment)]
        name: String,
        /// What names have to have in them: a regular expression
        pattern: String,
        /// The settings as JSON, e.g. {"max-length": 1000}
        #[arg(value_parser = settings)]
        definition: Value,
        /// Its vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// Of those that fit, the highest one counts
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i64,
        /// all, queues, exchanges, classic_queues, quorum_queues or streams
        #[arg(long, default_value = "all")]
        apply_to: String,
        /// Make it an operator's: limits that hold whatever others say
        #[arg(long)]
        operator: bool,
    },
    /// Remove a policy; what it set ends at once
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// Its name
        #[arg(value_parser = path_segment)]
        name: String,
        /// Its vhost
        #[arg(long, default_value = "/", value_parser = path_segment)]
        vhost: String,
        /// It is an operator's
        #[arg(long)]
        operator: bool,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: PolicyArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        PolicyCommand::List {
            remote,
            vhost,
            operator,
        } => {
            let mut path = vec![kind(operator)];
            path.extend(vhost.as_deref());
            Call::new(remote, Method::GET, &path)
        }
        PolicyCommand::Set {
            remote,
            name,
            pattern,
            definition,
            vhost,
            priority,
            apply_to,
            operator,
        } => {
            let body = json!({
                "pattern": pattern, "definition": definition, "priority": priority, "apply-to": apply_to,
            });
            let path = [kind(operator), &vhost, &name];
            Call::new(remote, Method::PUT, &path).with_body(body)
        }
        PolicyCommand::Remove {
            remote,
            name,
            vhost,
            operator,
        } => Call::new(remote, Method::DELETE, &[kind(operator), &vhost, &name]),
    };
    call.run(environment, line).await
}

fn kind(operator: bool) -> &'static str {
    match operator {
        true => "operator-policies",
        false => "policies",
    }
}

fn settings(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match value.is_object() {
        true => Ok(value),
        false => Err("the settings are a JSON object".into()),
    }
}

fn line(policy: &Value) -> String {
    let fields = [
        "name",
        "vhost",
        "pattern",
        "apply-to",
        "priority",
        "definition",
    ];
    fields.map(|field| plain(&policy[field])).join("\t")
}
