//! Backbone: an AMQP 0-9-1 broker and communications bus in one binary.
//!
//! [`run`] is the composition root: it starts everything in order, says where it listens, and ends in order.
//! What others read from standard output is stable: `listening http 127.0.0.1:3000`, one line an address.

pub mod actor;
pub mod amqp;
pub mod audit;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod config;
pub mod definitions;
pub mod engine;
pub mod http;
pub mod push;
pub mod runtime;
pub mod state;
mod storage;
pub mod telemetry;

use std::fmt::Display;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use amqp::{Amqp, Ends, Transport};
use audit::Audit;
use auth::{Authenticator, UserChange, UserError};
use backbone_log::{LogError, Running};
use bus::{Bus, BusError, BusParts};
use config::Config;
use definitions::{Definitions, DefinitionsError};
use engine::Engine;
use push::{CaFileError, Courier};
use runtime::arbiters::Arbiters;
use runtime::{Certificates, Lifecycle, Phase, SocketFile, TlsError};
use state::{StateError, StateStore};
use telemetry::Telemetry;

/// Why the server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state store could not be opened or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the log has of exchanges and queues could not be brought back.
    #[error("the log's definitions: {0}")]
    Restore(#[from] backbone_broker::Error),
    /// An address could not be listened on.
    #[error(transparent)]
    Bind(#[from] runtime::BindError),
    /// Users could not be brought back from the state store.
    #[error(transparent)]
    Users(#[from] UserError),
    /// The definitions of the configuration could not be brought in.
    #[error("definitions.import_file: {0}")]
    Definitions(#[from] DefinitionsError),
    /// Certificates could not be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificates for webhooks could not be used.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The bus could not be brought back from the state store.
    #[error(transparent)]
    Bus(#[from] BusError),
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
    let lifecycle = Lifecycle::default();
    // Listening for signals starts first, so that none is missed while the rest starts.
    let termination = actix_rt::spawn(runtime::termination());
    let hangups = runtime::hangups()?;
    let server = Server::start(Arc::new(config), &lifecycle).await?;
    actix_rt::spawn(reload_certificates(hangups, server.certificates.clone()));
    let drain = Duration::from_millis(server.config.shutdown.drain_ms);
    let Server {
        amqp,
        http,
        engine,
        log,
        socket_file,
        ..
    } = server;
    let http_handle = http.handle();
    let mut http_task = actix_rt::spawn(http);
    lifecycle.advance(Phase::Ready);

    tokio::select! {
        signalled = termination => signalled.map_err(std::io::Error::other)??,
        _ = &mut http_task => return Err(RunError::HttpEnded),
    }
    lifecycle.advance(Phase::Draining);
    drop(socket_file);
    tracing::info!(drain_ms = drain.as_millis() as u64, "draining");
    let deadline = tokio::time::Instant::now() + drain;
    let left = amqp.drain(drain).await;
    if left > 0 {
        tracing::warn!(left, "AMQP connections did not finish in time");
    }
    let http_ended = tokio::time::timeout_at(deadline, http_handle.stop(true));
    if http_ended.await.is_err() {
        tracing::warn!("some HTTP connections did not finish in time");
    }
    engine.close();
    log.stop()?;
    say("stopped");
    Ok(())
}

/// Everything that runs, once it listens.
struct Server {
    config: Arc<Config>,
    amqp: Amqp,
    http: actix_web::dev::Server,
    engine: Engine,
    log: Running,
    certificates: Option<Arc<Certificates>>,
    /// Removed as soon as it is not listened on any more.
    socket_file: Option<SocketFile>,
}

impl Server {
    /// Starts everything in order and says where it listens.
    async fn start(config: Arc<Config>, lifecycle: &Lifecycle) -> Result<Self, RunError> {
        let state = StateStore::open(&config.data_dir)?;
        let telemetry = Telemetry::new(&config.data_dir);
        let auth = open_auth(&config, &state, &telemetry).await?;
        let (log, running) = storage::open_log(&config.data_dir)?;
        let (vhosts, gate) = storage::open_broker(&config, log)?;
        let arbiters = Arbiters::start(arbiter_count(&config));
        let certificates = match config.uses_tls() {
            true => Some(Arc::new(Certificates::read(&config.tls)?)),
            false => None,
        };
        let amqp = Amqp::new(
            &config,
            Arc::clone(&vhosts),
            Arc::clone(&auth),
            telemetry.events(),
            Arc::clone(&gate),
            Arc::clone(&arbiters),
            certificates.clone(),
        );
        let engine = Engine::new(vhosts, gate);
        follow_users(&auth, &engine, &amqp).await?;
        let definitions = Definitions::new(engine.clone(), Arc::clone(&auth), state.clone());
        let connections = amqp.connections().clone();
        let (closing, logins) = (connections.clone(), Arc::clone(&auth));
        let bus = Bus::open(BusParts {
            engine: engine.clone(),
            state,
            auth: Arc::clone(&auth),
            arbiters: arbiters.handles(),
            disconnect: Arc::new(move |client, reason| {
                closing.close_logins(client, reason, |secret| {
                    logins.client_counts(client, secret)
                });
            }),
            push: config.push.clone(),
            courier: Arc::new(Courier::new(&config.push)?),
            lenient_declare: config.bus.lenient_declare,
            idempotency: bus::KeyBounds {
                window: Duration::from_secs(config.bus.idempotency_window_s),
                bytes_max: usize::try_from(config.bus.idempotency_bytes).unwrap_or(usize::MAX),
            },
        })
        .await?;
        import_definitions(&config, &definitions).await?;
        let audit = start_audit(&config, &engine, &telemetry);
        add_metrics(&telemetry, &amqp, &engine, &bus);

        let listeners = Listeners::bind(&config)?;
        let shown = listeners.shown()?;
        listen_amqp(&amqp, listeners.amqp, listeners.amqps, lifecycle)?;
        let socket_file = listen_unix(&amqp, &config, listeners.unix, lifecycle);
        let services = http::Services {
            config: Arc::clone(&config),
            listeners: shown,
            connections,
            serve_amqp: {
                let amqp = amqp.clone();
                Box::new(move |stream, peer, local| {
                    amqp.serve_local(stream, Ends::Websocket { peer }, local)
                })
            },
            audit,
            auth,
            bus,
            definitions,
            engine: engine.clone(),
            telemetry,
            lifecycle: lifecycle.clone(),
        };
        let http = listen_http(
            services,
            listeners.http,
            listeners.https,
            certificates.as_ref(),
        )?;
        say(format_args!(
            "durability {}",
            config.durability.level.name()
        ));
        Ok(Self {
            config,
            amqp,
            http,
            engine,
            log: running,
            certificates,
            socket_file,
        })
    }
}

/// Where it listens.
struct Listeners {
    amqp: Vec<TcpListener>,
    amqps: Vec<TcpListener>,
    unix: Option<(UnixListener, SocketFile)>,
    http: Vec<TcpListener>,
    https: Vec<TcpListener>,
}

impl Listeners {
    /// Opens all, before any of them is served.
    fn bind(config: &Config) -> Result<Self, RunError> {
        Ok(Self {
            amqp: runtime::bind("amqp.bind", &config.amqp.bind)?,
            amqps: runtime::bind("amqp.tls_bind", &config.amqp.tls_bind)?,
            unix: match &config.amqp.unix_socket {
                none if none.as_os_str().is_empty() => None,
                path => {
                    let mode = config.amqp.unix_socket_mode.bits();
                    Some(runtime::bind_unix("amqp.unix_socket", path, mode)?)
                }
            },
            http: runtime::bind("http.bind", &config.http.bind)?,
            https: runtime::bind("http.tls_bind", &config.http.tls_bind)?,
        })
    }

    /// Where that is, under RabbitMQ's names of the protocols.
    fn shown(&self) -> Result<Vec<http::Listener>, RunError> {
        let all = [
            ("amqp", &self.amqp),
            ("amqp/ssl", &self.amqps),
            ("http", &self.http),
            ("https", &self.https),
        ];
        let mut shown = Vec::new();
        for (protocol, listeners) in all {
            let addresses = local_addresses(listeners)?.into_iter();
            shown.extend(addresses.map(|address| http::Listener { protocol, address }));
        }
        Ok(shown)
    }
}

fn listen_amqp(
    amqp: &Amqp,
    plain: Vec<TcpListener>,
    secured: Vec<TcpListener>,
    lifecycle: &Lifecycle,
) -> Result<(), RunError> {
    for address in local_addresses(&plain)? {
        say(format_args!("listening amqp {address}"));
    }
    for address in local_addresses(&secured)? {
        say(format_args!("listening amqps {address}"));
    }
    for listener in plain {
        amqp.listen(listener, Transport::Tcp, lifecycle);
    }
    for listener in secured {
        amqp.listen(listener, Transport::Tls, lifecycle);
    }
    Ok(())
}

/// Serves the UNIX socket, whose file is returned.
fn listen_unix(
    amqp: &Amqp,
    config: &Config,
    unix: Option<(UnixListener, SocketFile)>,
    lifecycle: &Lifecycle,
) -> Option<SocketFile> {
    let (listener, file) = unix?;
    let path = config.amqp.unix_socket.display().to_string();
    say(format_args!("listening amqp+unix {path}"));
    amqp.listen_unix(listener, path.into(), lifecycle);
    Some(file)
}

fn listen_http(
    services: http::Services,
    plain: Vec<TcpListener>,
    secured: Vec<TcpListener>,
    certificates: Option<&Arc<Certificates>>,
) -> Result<actix_web::dev::Server, RunError> {
    let addresses = [
        ("https", local_addresses(&secured)?),
        ("http", local_addresses(&plain)?),
    ];
    let secured = match certificates {
        Some(certificates) if !secured.is_empty() => Some((certificates.following()?, secured)),
        _ => None,
    };
    let http = http::start(services, plain, secured)?;
    // Last those that everybody has: who waits for them has seen all.
    for (kind, addresses) in addresses {
        for address in addresses {
            say(format_args!("listening {kind} {address}"));
        }
    }
    Ok(http)
}

/// Opens authentication; the administrator's secret is shown when it was just made.
async fn open_auth(
    config: &Config,
    state: &StateStore,
    telemetry: &Telemetry,
) -> Result<Arc<Authenticator>, RunError> {
    let (auth, made_secret) = Authenticator::open(config, state, telemetry.events()).await?;
    if let Some(secret) = made_secret {
        say(format_args!(
            "administrator {} secret {} (shown only this once)",
            config.admin.id,
            secret.expose()
        ));
    }
    Ok(Arc::new(auth))
}

/// Opens the audit, which hears of logins that fail from now on, and forgets what is too old, now and every minute.
fn start_audit(config: &Config, engine: &Engine, telemetry: &Telemetry) -> Arc<Audit> {
    const EVERY: Duration = Duration::from_secs(60);
    let events = telemetry.events();
    let audit = Audit::open(engine, config.audit.clone(), Arc::clone(&events));
    let audit = Arc::new(audit);
    let told = Arc::clone(&audit);
    events.tell_of_failed_logins(move |name, from| told.login_failed(name, from));
    let trimmed = Arc::clone(&audit);
    actix_rt::spawn(async move {
        let mut turns = tokio::time::interval(EVERY);
        loop {
            turns.tick().await;
            let audit = Arc::clone(&trimmed);
            match actix_rt::task::spawn_blocking(move || audit.trim()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "old entries of the audit stay"),
                Err(_) => return,
            }
        }
    });
    audit
}

/// Lets connections follow what changes of users and their rights. What was granted in a vhost whose deletion was cut short
/// is forgotten.
async fn follow_users(auth: &Authenticator, engine: &Engine, amqp: &Amqp) -> Result<(), RunError> {
    let is_there = |vhost: &str| engine.has_vhost(vhost);
    auth.users().keep_vhosts(is_there).await?;
    let (engine, connections) = (engine.clone(), amqp.connections().clone());
    auth.users().listen(move |change| match change {
        UserChange::Rights(vhost) => engine.rights_changed(vhost),
        UserChange::Gone(user) => {
            connections.close_user(user, &format!("user '{user}' is deleted"))
        }
    });
    Ok(())
}

/// Brings in the definitions that the configuration names. The bus is there already, and keeps what it has.
async fn import_definitions(
    config: &Config,
    definitions: &Definitions,
) -> Result<(), DefinitionsError> {
    let file = &config.definitions.import_file;
    if !file.as_os_str().is_empty() {
        let imported = definitions.import_file(file).await?;
        imported.log("definitions.import_file");
    }
    Ok(())
}

/// One arbiter a core, unless configured otherwise.
fn arbiter_count(config: &Config) -> usize {
    match config.runtime.arbiters {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count.into(),
    }
}

fn add_metrics(telemetry: &Telemetry, amqp: &Amqp, engine: &Engine, bus: &Bus) {
    let (amqp, engine, bus) = (amqp.clone(), engine.clone(), bus.clone());
    telemetry.add_source(Box::new(move |samples| {
        amqp.sample(samples);
        engine.sample(samples);
        bus.sample(samples);
    }));
}

fn local_addresses(listeners: &[TcpListener]) -> std::io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

/// Reads certificates again at each SIGHUP.
async fn reload_certificates(
    mut hangups: runtime::Hangups,
    certificates: Option<Arc<Certificates>>,
) {
    while hangups.recv().await.is_some() {
        let reloaded = certificates.as_ref().map_or(Ok(()), |it| it.reload());
        match reloaded {
            Ok(()) => tracing::info!("certificates read again"),
            Err(error) => tracing::error!(%error, "the certificates in use stay"),
        }
    }
}

/// Writes one line for whoever started us. A closed standard output is no reason to stop serving.
fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
