//! `backbone client`: the clients of the bus.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
        /// Write the record, secret included, to a new file that only you can read, e.g. soar-config.json
        // Named like the flag for the server's configuration, which means nothing here, and takes its place.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
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
    let file = match &args.command {
        ClientCommand::Add { config, .. } => config.as_deref().map(NewFile::create).transpose()?,
        _ => None,
    };
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
    match file {
        Some(file) => file.fill(&format!("{answer:#}\n"), remote.json),
        None => {
            print(&answer, remote.json, line);
            Ok(())
        }
    }
}

/// A file for a secret: made before the server is asked, since that tells the secret only once, and gone again if there is
/// nothing to put into it.
struct NewFile {
    file: File,
    path: Option<PathBuf>,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Failure::file(path, error))?;
        let path = Some(path.to_owned());
        Ok(Self { file, path })
    }

    fn fill(mut self, text: &str, as_json: bool) -> Result<(), Failure> {
        let path = self.path.take().expect("it is filled once");
        let written = self.file.write_all(text.as_bytes());
        let written = written.and_then(|()| self.file.sync_all());
        if written.is_err() {
            // The secret must not be lost with the file.
            println!("{text}");
        }
        written.map_err(|error| Failure::file(&path, error))?;
        let written = serde_json::json!({"written": path.display().to_string()});
        print(&written, as_json, line);
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Who removed it before was faster.
            let _ = std::fs::remove_file(path);
        }
    }
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
                config: _,
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
