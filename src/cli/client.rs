//! `backbone client`: the clients of the bus.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

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
        client_id: String,
    },
    /// Change a client's name or subscriptions
    Update {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        client_id: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// Remove a client with its queues
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        client_id: String,
    },
    /// Give a client a new secret; the old one ends at once
    Rotate {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The client's id
        client_id: String,
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
    let (remote, method, path, body) = request(args.command)?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let api = remote.connect(environment, &OPERATOR)?;
    let answer = api
        .json(
            method,
            &path,
            body.map(|fields| Value::Object(fields).to_string()),
        )
        .await?;
    if remote.json {
        println!("{answer:#}");
        return Ok(());
    }
    match &answer {
        Value::Array(clients) => clients
            .iter()
            .for_each(|client| println!("{}", line(client))),
        Value::Object(record) => record
            .iter()
            .for_each(|(name, value)| println!("{name}: {}", plain(value))),
        _ => println!("done"),
    }
    Ok(())
}

/// What a verb means over HTTP.
fn request(
    command: ClientCommand,
) -> Result<(RemoteArgs, Method, Vec<String>, Option<Map<String, Value>>), Failure> {
    let clients = |id: String| vec!["clients".to_owned(), id];
    Ok(match command {
        ClientCommand::Add {
            remote,
            client_id,
            fields,
        } => {
            let mut body = fields.into_json();
            body.insert("client_id".into(), json!(client_id));
            (remote, Method::POST, vec!["clients".to_owned()], Some(body))
        }
        ClientCommand::List { remote } => (remote, Method::GET, vec!["clients".to_owned()], None),
        ClientCommand::Show { remote, client_id } => {
            (remote, Method::GET, clients(client_id), None)
        }
        ClientCommand::Update {
            remote,
            client_id,
            fields,
        } => {
            let body = fields.into_json();
            if body.is_empty() {
                return Err(Failure::Usage(
                    "nothing to change: give --name or --subscription".into(),
                ));
            }
            (remote, Method::PATCH, clients(client_id), Some(body))
        }
        ClientCommand::Remove { remote, client_id } => {
            (remote, Method::DELETE, clients(client_id), None)
        }
        ClientCommand::Rotate { remote, client_id } => {
            let mut path = clients(client_id);
            path.push("secret".to_owned());
            (remote, Method::POST, path, None)
        }
    })
}

fn line(client: &Value) -> String {
    let field = |name: &str| plain(&client[name]);
    format!(
        "{}\t{}\t{}",
        field("client_id"),
        field("client_name"),
        field("subscriptions")
    )
}

/// A value as people write it: text without quotes, lists with spaces.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_write_them() {
        let client = json!({"client_id": "a", "client_name": null, "subscriptions": ["x.#", "y"]});
        assert_eq!(line(&client), "a\t\tx.# y");
    }
}
