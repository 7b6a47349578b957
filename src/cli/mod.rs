//! The command line: `backbone serve` (the default), verbs that talk to a running server over HTTP, `log` to
//! look into the log of one that does not run, and `config` to look at the configuration.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to standard output (people's form, or with `--json`
//! one JSON value), problems to standard error.

mod api;
mod audit;
mod binding;
mod call;
mod client;
mod connection;
mod definitions;
mod exchange;
mod log;
mod messages;
mod permission;
mod policy;
mod queue;
mod status;
mod user;
mod vhost;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{self, Config, ConfigError, Environment, Flags};
use api::Api;

/// An AMQP 0-9-1 broker and communications bus in one binary.
#[derive(Parser)]
#[command(name = "backbone", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct ConfigurationArgs {
    /// Configuration file (BACKBONE_CONFIG; else ./backbone.toml or config/backbone.toml if there is one)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state is stored (BACKBONE_DATA_DIR or DATA_DIR) [default: ./data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Set any key of the configuration, e.g. --set amqp.bind=0.0.0.0:5672; may be given several times
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default)
    Serve,
    /// Manage the bus's clients
    Client(client::ClientArgs),
    /// Manage the queues, and look at what waits in them
    Queue(queue::QueueArgs),
    /// Manage the exchanges
    Exchange(exchange::ExchangeArgs),
    /// Manage what leads from exchanges to queues and other exchanges
    Binding(binding::BindingArgs),
    /// Look at the connections, and close them
    Connection(connection::ConnectionArgs),
    /// Look at the channels
    Channel(connection::ChannelArgs),
    /// Look at the consumers
    Consumer(connection::ConsumerArgs),
    /// Manage the users
    User(user::UserArgs),
    /// Manage the vhosts
    Vhost(vhost::VhostArgs),
    /// Manage what users may do in vhosts
    Permission(permission::PermissionArgs),
    /// Manage policies: settings for queues and exchanges that a pattern finds
    Policy(policy::PolicyArgs),
    /// Take users, vhosts, queues and all else but messages out of a server, or bring them in
    Definitions(definitions::DefinitionsArgs),
    /// Send a message as a client
    Send(messages::SendArgs),
    /// Receive what waits in a client's inbox
    Receive(messages::ReceiveArgs),
    /// Show who did what, and which logins failed
    Audit(audit::AuditArgs),
    /// Tell whether a server is ready, and with an operator's secret what it holds
    Status(status::StatusArgs),
    /// Look into the durable log of a server that does not run; nothing is changed
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a script that completes commands, e.g. for `source <(backbone completions bash)`
    Completions {
        /// The shell that it is for
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check all sources of the configuration and exit
    Check,
    /// Show what is in force, secrets masked
    Show,
}

/// Where the server is and who is calling.
#[derive(Args)]
struct RemoteArgs {
    /// The server's HTTP address (BACKBONE_API) [default: http://127.0.0.1:5000]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// Who is calling
    #[arg(long)]
    id: Option<String>,
    /// The caller's secret; the environment keeps it out of the list of processes
    #[arg(long)]
    secret: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Run(#[from] crate::RunError),
    #[error(transparent)]
    Api(#[from] api::ApiFailure),
    #[error("{0}")]
    Usage(String),
    #[error("{0}: {1}")]
    File(String, String),
    #[error("standard input or output: {0}")]
    Input(#[from] std::io::Error),
    #[error("the message cannot be written as JSON: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("the configuration cannot be shown: {0}")]
    Show(#[from] toml::ser::Error),
    #[error(transparent)]
    Log(#[from] log::LogFailure),
    #[error("the server is not ready")]
    NotReady,
}

impl Failure {
    /// A file that cannot be used.
    fn file(path: &Path, problem: impl Display) -> Self {
        Self::File(path.display().to_string(), problem.to_string())
    }
}

/// Parses the arguments and runs the command.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way too; a closed output is nobody's loss.
            drop(error.print());
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("backbone: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let environment = Environment::read()?;
    let flags = Flags {
        config: cli.configuration.config,
        data_dir: cli.configuration.data_dir,
        set: cli.configuration.set,
    };
    let load = || config::load(&flags, &environment);
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(load()?),
        Command::Client(args) => remote(client::run(args, &environment)),
        Command::Queue(args) => remote(queue::run(args, &environment)),
        Command::Exchange(args) => remote(exchange::run(args, &environment)),
        Command::Binding(args) => remote(binding::run(args, &environment)),
        Command::Connection(args) => remote(connection::run(args, &environment)),
        Command::Channel(args) => remote(connection::channel(args, &environment)),
        Command::Consumer(args) => remote(connection::consumer(args, &environment)),
        Command::User(args) => remote(user::run(args, &environment)),
        Command::Vhost(args) => remote(vhost::run(args, &environment)),
        Command::Permission(args) => remote(permission::run(args, &environment)),
        Command::Policy(args) => remote(policy::run(args, &environment)),
        Command::Definitions(args) => remote(definitions::run(args, &environment)),
        Command::Send(args) => remote(messages::send(args, &environment)),
        Command::Receive(args) => remote(messages::receive(args, &environment)),
        Command::Audit(args) => remote(audit::run(args, &environment)),
        Command::Status(args) => remote(status::run(args, &environment)),
        Command::Log(command) => Ok(log::run(command, &load()?.data_dir)?),
        Command::Config(ConfigCommand::Check) => {
            load()?;
            println!("the configuration is right");
            Ok(())
        }
        Command::Config(ConfigCommand::Show) => {
            print!("{}", toml::to_string(&load()?)?);
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "backbone",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

fn serve(config: Config) -> Result<(), Failure> {
    Ok(actix_rt::System::new().block_on(crate::run(config))?)
}

fn remote(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    actix_rt::System::new().block_on(command)
}

/// The two variables that hold an id and its secret.
struct Variables(&'static str, &'static str);

const OPERATOR: Variables = Variables("BACKBONE_ADMIN__ID", "BACKBONE_ADMIN__SECRET");
const CLIENT: Variables = Variables("BACKBONE_CLIENT_ID", "BACKBONE_CLIENT_SECRET");

impl RemoteArgs {
    /// The server, without credentials.
    fn anonymous(&self, environment: &Environment) -> Result<Api, Failure> {
        let url = self
            .api
            .as_deref()
            .or_else(|| environment.get("BACKBONE_API"))
            .unwrap_or("http://127.0.0.1:5000");
        Ok(Api::new(url)?)
    }

    /// The id and the secret by flag or variable; an operator's id is `admin` unless told otherwise.
    fn credentials(
        &self,
        environment: &Environment,
        variables: &Variables,
    ) -> Option<(String, String)> {
        let or_variable = |flag: &Option<String>, name| {
            flag.clone()
                .or_else(|| environment.get(name).map(str::to_owned))
        };
        let default_id = (variables.0 == OPERATOR.0).then(|| Config::default().admin.id);
        let id = or_variable(&self.id, variables.0).or(default_id)?;
        Some((id, or_variable(&self.secret, variables.1)?))
    }

    /// The server, called with credentials.
    fn connect(&self, environment: &Environment, variables: &Variables) -> Result<Api, Failure> {
        let Some((id, secret)) = self.credentials(environment, variables) else {
            let Variables(id, secret) = variables;
            return Err(Failure::Usage(format!(
                "who is calling? Give --id and --secret, or set {id} and {secret}"
            )));
        };
        Ok(self.anonymous(environment)?.with_credentials(id, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_variables_and_admin_is_the_default_id() {
        let environment = Environment::of([
            ("BACKBONE_ADMIN__SECRET", "env"),
            ("BACKBONE_CLIENT_ID", "noc"),
        ]);
        let args = |id: Option<&str>, secret: Option<&str>| RemoteArgs {
            api: None,
            id: id.map(str::to_owned),
            secret: secret.map(str::to_owned),
            json: false,
        };
        let pair = |id: &str, secret: &str| Some((id.to_owned(), secret.to_owned()));
        assert_eq!(
            args(None, None).credentials(&environment, &OPERATOR),
            pair("admin", "env")
        );
        assert_eq!(
            args(Some("root"), Some("x")).credentials(&environment, &OPERATOR),
            pair("root", "x")
        );
        assert_eq!(
            args(None, Some("x")).credentials(&environment, &CLIENT),
            pair("noc", "x")
        );
        assert_eq!(args(None, None).credentials(&environment, &CLIENT), None);
    }
}
