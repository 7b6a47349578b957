//! Backbone: an AMQP 0-9-1 broker and communications bus in one binary.
//!
//! [`run`] is the composition root: it starts everything in order, says where it listens, and ends in order.
//! What others read from standard output is stable: `listening http 127.0.0.1:3000`, one line an address.

pub mod actor;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod config;
pub mod engine;
pub mod http;
pub mod runtime;
pub mod state;
pub mod telemetry;

use std::fmt::Display;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use auth::Authenticator;
use config::Config;
use runtime::{Lifecycle, Phase};
use state::{StateError, StateStore};
use telemetry::Telemetry;

/// Why the server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state store could not be opened or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// An address could not be listened on.
    #[error(transparent)]
    Bind(#[from] runtime::BindError),
    /// The system refused something else.
    #[error("the system refused: {0}")]
    Io(#[from] std::io::Error),
    /// The HTTP server ended without being told to.
    #[error("the HTTP server ended by itself")]
    HttpEnded,
}

/// Runs the server until SIGTERM or SIGINT, then drains for at most `shutdown.drain_ms`. Needs an actix
/// system around it.
///
/// # Errors
/// Something that the server cannot do without failed to start or ended by itself.
pub async fn run(config: Config) -> Result<(), RunError> {
    telemetry::init_log(&config.log);
    runtime::raise_open_files();
    let config = Arc::new(config);
    let lifecycle = Lifecycle::default();
    // Listening for signals starts first, so that none is missed while the rest starts.
    let termination = actix_rt::spawn(runtime::termination());
    let state = StateStore::open(&config.data_dir)?;
    let telemetry = Telemetry::new(&config.data_dir);
    let (auth, made_secret) = Authenticator::open(&config, &state, telemetry.events()).await?;
    let auth = Arc::new(auth);
    if let Some(secret) = made_secret {
        say(format_args!(
            "administrator {} secret {} (shown only this once)",
            config.admin.id,
            secret.expose()
        ));
    }

    let http_listeners = runtime::bind("http.bind", &config.http.bind)?;
    let http_addresses = local_addresses(&http_listeners)?;
    let services = http::Services {
        config: config.clone(),
        auth,
        telemetry,
        lifecycle: lifecycle.clone(),
    };
    let http_server = http::start(services, http_listeners)?;
    let http_handle = http_server.handle();
    let mut http_task = actix_rt::spawn(http_server);

    for address in http_addresses {
        say(format_args!("listening http {address}"));
    }
    say("durability memory: messages are kept in memory only, a restart loses them");
    lifecycle.advance(Phase::Ready);

    tokio::select! {
        signalled = termination => signalled.map_err(std::io::Error::other)??,
        _ = &mut http_task => return Err(RunError::HttpEnded),
    }
    lifecycle.advance(Phase::Draining);
    tracing::info!(drain_ms = config.shutdown.drain_ms, "draining");
    let drain = Duration::from_millis(config.shutdown.drain_ms);
    if tokio::time::timeout(drain, http_handle.stop(true))
        .await
        .is_err()
    {
        tracing::warn!("some connections did not finish in time");
    }
    say("stopped");
    Ok(())
}

fn local_addresses(listeners: &[TcpListener]) -> std::io::Result<Vec<std::net::SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// Writes one line for whoever started us. A closed standard output is no reason to stop serving.
fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
