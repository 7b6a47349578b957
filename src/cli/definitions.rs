//! `backbone definitions`: everything but messages, out of a server and into one, as one JSON document.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;

use super::client::path_segment;
use super::{Failure, OPERATOR, RemoteArgs};
use crate::config::Environment;

/// Stands for standard input.
const STANDARD: &str = "-";

#[derive(Args)]
pub(super) struct DefinitionsArgs {
    #[command(subcommand)]
    command: DefinitionsCommand,
}

#[derive(Subcommand)]
enum DefinitionsCommand {
    /// Bring definitions in, such as RabbitMQ exports them: adds and changes, deletes nothing
    Import {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The file; `-` for standard input
        file: PathBuf,
        /// Only what belongs to a vhost, into this one
        #[arg(long, value_parser = path_segment)]
        vhost: Option<String>,
    },
    /// Write definitions to a file, or to standard output
    Export {
        #[command(flatten)]
        remote: RemoteArgs,
        /// The file; it is replaced
        file: Option<PathBuf>,
        /// Only what belongs to this vhost
        #[arg(long, value_parser = path_segment)]
        vhost: Option<String>,
    },
}

/// Runs one of the verbs.
pub(super) async fn run(args: DefinitionsArgs, environment: &Environment) -> Result<(), Failure> {
    let path = |vhost: &Option<String>| {
        let mut path = vec!["api".to_owned(), "definitions".to_owned()];
        path.extend(vhost.clone());
        path
    };
    match args.command {
        DefinitionsCommand::Import {
            remote,
            file,
            vhost,
        } => {
            let mut text = String::new();
            match file.to_str() {
                Some(STANDARD) => drop(std::io::stdin().read_to_string(&mut text)?),
                _ => {
                    text = std::fs::read_to_string(&file).map_err(|it| Failure::file(&file, it))?
                }
            }
            let api = remote.connect(environment, &OPERATOR)?;
            let path = path(&vhost);
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            api.json(Method::POST, &path, Some(text)).await?;
        }
        DefinitionsCommand::Export {
            remote,
            file,
            vhost,
        } => {
            let api = remote.connect(environment, &OPERATOR)?;
            let path = path(&vhost);
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let answer = api.json(Method::GET, &path, None).await?;
            let text = serde_json::to_string_pretty(&answer)?;
            match file {
                Some(file) => {
                    std::fs::write(&file, text + "\n").map_err(|it| Failure::file(&file, it))?;
                }
                None => writeln!(std::io::stdout(), "{text}")?,
            }
        }
    }
    Ok(())
}
