//! `backbone user`: the users of a server, their tags and limits.

use std::io::BufRead;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::call::Call;
use super::client::{path_segment, plain};
use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

#[derive(Args)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Subcommand)]
enum UserCommand {
    /// List users: name, tags, limits
    List {
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Make a user; what it may do is said by `permission set`. Without a password it cannot log in
    Add {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's name
        #[arg(value_parser = path_segment)]
        name: String,
        #[command(flatten)]
        password: Password,
        /// administrator, operator, monitoring, policymaker, management or impersonator; may be given several times
        #[arg(long)]
        tag: Vec<String>,
    },
    /// Change a user's password, tags or limits
    Set {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's name
        #[arg(value_parser = path_segment)]
        name: String,
        #[command(flatten)]
        password: Password,
        /// All of its tags from now on; empty for none
        #[arg(long)]
        tag: Option<Vec<String>>,
    },
    /// Limit how many connections a user may have, or how many channels over all of them
    Limit {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's name
        #[arg(value_parser = path_segment)]
        name: String,
        /// max-connections or max-channels
        #[arg(value_parser = ["max-connections", "max-channels"])]
        limit: String,
        /// How many; -1 for any number
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Remove a user; its connections are closed
    Remove {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The user's name
        #[arg(value_parser = path_segment)]
        name: String,
    },
}

/// A password, which does not have to stand in the list of processes.
#[derive(Args)]
#[group(multiple = false)]
struct Password {
    /// The password
    #[arg(long)]
    password: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
}

impl Password {
    fn read(self) -> Result<Option<String>, Failure> {
        if !self.password_stdin {
            return Ok(self.password);
        }
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// Runs one of the verbs.
pub(super) async fn run(args: UserArgs, environment: &Environment) -> Result<(), Failure> {
    let call = match args.command {
        UserCommand::List { remote } => Call::new(remote, Method::GET, &["users"]),
        UserCommand::Add {
            remote,
            name,
            password,
            tag,
        } => {
            let body = match password.read()? {
                Some(password) => json!({"tags": tag, "password": password}),
                None => json!({"tags": tag}),
            };
            Call::new(remote, Method::PUT, &["users", &name]).with_body(body)
        }
        UserCommand::Set {
            remote,
            name,
            password,
            tag,
        } => {
            let before = user(&remote, &name, environment).await?;
            let tags = tag.map_or_else(|| before["tags"].clone(), |tags| json!(tags));
            // What is not said again is taken away.
            let body = match password.read()? {
                Some(password) => json!({"tags": tags, "password": password}),
                None => json!({
                    "tags": tags,
                    "password_hash": before["password_hash"],
                    "hashing_algorithm": before["hashing_algorithm"],
                }),
            };
            Call::new(remote, Method::PUT, &["users", &name]).with_body(body)
        }
        UserCommand::Limit {
            remote,
            name,
            limit,
            value,
        } => {
            let path = ["user-limits", &name, &limit];
            Call::new(remote, Method::PUT, &path).with_body(json!({"value": value}))
        }
        UserCommand::Remove { remote, name } => {
            Call::new(remote, Method::DELETE, &["users", &name])
        }
    };
    call.run(environment, line).await
}

/// A user as the server shows it.
async fn user(
    remote: &RemoteArgs,
    name: &str,
    environment: &Environment,
) -> Result<Value, Failure> {
    let api = remote.connect(environment, &OPERATOR)?;
    Ok(api.json(Method::GET, &["api", "users", name], None).await?)
}

fn line(user: &Value) -> String {
    ["name", "tags", "limits"]
        .map(|field| plain(&user[field]))
        .join("\t")
}
