//! `backbone client`: the clients of the bus.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct ClientArgs {
    #[command(subcommand)]
    command: ClientCommand,
}

#[derive(Subcommand)]
enum ClientCommand {
    /// Register a client; prints its record with the secret, which is shown only now
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id: letters, digits, `-`, `_`, `.`
        client_id: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// List all clients
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show one client
    Show {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        #[arg(value_parser = path_segment)]
        client_id: String,
    },
    /// Change a client's name or subscriptions, or whether it may log in
    Update {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        #[arg(value_parser = path_segment)]
        client_id: String,
        #[command(flatten)]
        fields: Fields,
        /// Whether the client may not log in; its inbox is filled all the same
        #[arg(long)]
        disabled: Option<bool>,
    },
    /// Remove a client with its queues
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        #[arg(value_parser = path_segment)]
        client_id: String,
    },
    /// Give a client a new secret; the old one ends, at once or after a grace
    Rotate {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        #[arg(value_parser = path_segment)]
        client_id: String,
        /// How long the old secret counts yet, seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u64,
    },
}

#[derive(Args)]
struct Fields {
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// A topic pattern, e.g. soar.noc.#; may be given several times
    #[arg(long)]
    subscription: Vec<String>,
}

impl Fields {
    fn into_json(self) -> Map<String, Value> {
        let mut fields = Map::new();
        if let Some(name) = self.name {
            fields.insert("client_name".into(), name.into());
        }
        if !self.subscription.is_empty() {
            fields.insert("subscriptions".into(), self.subscription.into());
        }
        fields
    }
}

/// Runs one of the verbs.
pub(super) async fn run(args: ClientArgs, environment: &Environment) -> Result<(), Failure> {
    let Call {
        remote,
        method,
        path,
        body,
    } = args.command.try_into()?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let api = remote.connect(environment, &OPERATOR)?;
    let answer = api
        .json(
            method,
            &path,
            body.map(|fields| Value::Object(fields).to_string()),
        )
        .await?;
    print(&answer, remote.json, line);
    Ok(())
}

/// Prints an answer: as JSON, or a list in lines and a record field by field.
pub(super) fn print(answer: &Value, as_json: bool, line: fn(&Value) -> String) {
    if as_json {
        println!("{answer:#}");
        return;
    }
    match answer {
        Value::Array(items) => items.iter().for_each(|item| println!("{}", line(item))),
        Value::Object(record) => record
            .iter()
            .for_each(|(name, value)| println!("{name}: {}", plain(value))),
        _ => println!("done"),
    }
}

/// A verb as a call over HTTP.
struct Call {
    remote: RemoteArgs,
    method: Method,
    path: Vec<String>,
    body: Option<Map<String, Value>>,
}

impl Call {
    fn new(remote: RemoteArgs, method: Method, below_clients: &[&str]) -> Self {
        let path = ["clients"]
            .iter()
            .chain(below_clients)
            .map(|&segment| segment.to_owned())
            .collect();
        Self {
            remote,
            method,
            path,
            body: None,
        }
    }

    fn with_body(self, fields: Map<String, Value>) -> Self {
        Self {
            body: Some(fields),
            ..self
        }
    }
}

impl TryFrom<ClientCommand> for Call {
    type Error = Failure;

    fn try_from(command: ClientCommand) -> Result<Self, Failure> {
        Ok(match command {
            ClientCommand::Add {
                remote,
                client_id,
                fields,
            } => {
                let mut body = fields.into_json();
                body.insert("client_id".into(), client_id.into());
                Self::new(remote, Method::POST, &[]).with_body(body)
            }
            ClientCommand::List { remote } => Self::new(remote, Method::GET, &[]),
            ClientCommand::Show { remote, client_id } => {
                Self::new(remote, Method::GET, &[&client_id])
            }
            ClientCommand::Update {
                remote,
                client_id,
                fields,
                disabled,
            } => {
                let mut body = fields.into_json();
                if let Some(disabled) = disabled {
                    body.insert("disabled".into(), disabled.into());
                }
                if body.is_empty() {
                    return Err(Failure::Usage(
                        "nothing to change: give --name, --subscription or --disabled".into(),
                    ));
                }
                Self::new(remote, Method::PATCH, &[&client_id]).with_body(body)
            }
            ClientCommand::Remove { remote, client_id } => {
                Self::new(remote, Method::DELETE, &[&client_id])
            }
            ClientCommand::Rotate {
                remote,
                client_id,
                grace,
            } => {
                let fields = Map::from_iter([("grace_s".to_owned(), grace.into())]);
                Self::new(remote, Method::POST, &[&client_id, "secret"]).with_body(fields)
            }
        })
    }
}

/// A name that can stand in a path: nothing, `.` and `..` would name another one.
pub(super) fn path_segment(name: &str) -> Result<String, &'static str> {
    match name {
        "" | "." | ".." => Err("such a name cannot stand in a path of HTTP"),
        name => Ok(name.to_owned()),
    }
}

fn line(client: &Value) -> String {
    let field = |name: &str| plain(&client[name]);
    let disabled = if client["disabled"] == true {
        "\tdisabled"
    } else {
        ""
    };
    format!(
        "{}\t{}\t{}{disabled}",
        field("client_id"),
        field("client_name"),
        field("subscriptions")
    )
}

/// A value as people write it: text without quotes, lists with spaces.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_that_would_name_another_path_is_refused() {
        assert_eq!(path_segment("a.b").as_deref(), Ok("a.b"));
        assert!(["", ".", ".."].iter().all(|id| path_segment(id).is_err()));
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        let client = json!({"client_id": "a", "client_name": null, "subscriptions": ["x.#", "y"]});
        assert_eq!(line(&client), "a\t\tx.# y");
        let client = json!({"client_id": "a", "subscriptions": [], "disabled": true});
        assert_eq!(line(&client), "a\t\t\tdisabled");
    }
}
