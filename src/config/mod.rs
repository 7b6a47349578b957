//! The typed configuration, its defaults, and the checks that span keys.
//!
//! Owns every key that an operator can turn; `config/backbone.toml` documents the same keys and a test
//! keeps the two equal. [`load()`] merges the sources: defaults ← file ← environment ← flags. The rest
//! of the program reads a finished, checked [`Config`] and never the environment.
//!
//! Names carry their unit (`_ms`, `_s`, `_bytes`, `_hours`); what has none counts things.

mod amqp;
mod audit;
mod environment;
mod load;
mod push;
mod secret;
mod tls;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use backbone_broker::durable::Level;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

pub use amqp::{Amqp, FileMode, Mechanism};
pub use audit::Audit;
pub use environment::Environment;
pub use load::{ConfigError, Flags, load};
pub use push::{Push, PushTarget};
pub use secret::Secret;
pub use tls::{CertificateFiles, ClientCertificates, LoginFrom, Tls};

/// The most that `limits.max_body_bytes` may be: a message has to fit into one segment of the log, which is 1 GiB at most.
const MAX_BODY_BYTES_MAX: u64 = 512 << 20;

/// The longest life of a token: ten years.
const TOKEN_LIFETIME_HOURS_MAX: f64 = 87_600.0;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where state lives; made when missing.
    pub data_dir: PathBuf,
    /// The AMQP 0-9-1 listeners.
    pub amqp: Amqp,
    /// Certificates of listeners with TLS.
    pub tls: Tls,
    /// The HTTP listeners.
    pub http: Http,
    /// `/metrics`.
    pub metrics: Metrics,
    /// The administrator.
    pub admin: Admin,
    /// The `guest` account.
    pub guest: Guest,
    /// Bounds on what one peer or all peers together may take.
    pub limits: Limits,
    /// The communications bus.
    pub bus: Bus,
    /// Webhooks.
    pub push: Push,
    /// How safe messages are before their publishers hear that they are.
    pub durability: Durability,
    /// What is there from the start.
    pub definitions: Definitions,
    /// Bearer tokens.
    pub token: Token,
    /// Who did what.
    pub audit: Audit,
    /// The log on standard error.
    pub log: Log,
    /// Threads.
    pub runtime: Runtime,
    /// How the server ends.
    pub shutdown: Shutdown,
}

/// `[http]`: listeners and routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Addresses to listen on, all with the same routes; port 0 takes a free one.
    pub bind: Vec<SocketAddr>,
    /// Addresses to listen on with TLS.
    pub tls_bind: Vec<SocketAddr>,
    /// Path below which all routes live, empty for none.
    pub path_prefix: String,
    /// Whether anybody may register a client; only on loopback listeners.
    pub open_registration: bool,
    /// Whether `client_id` and `secret` are accepted in the query and in the body.
    pub inline_credentials: bool,
    /// Origins of web pages that may call, e.g. `https://example.org`; `*` for all, empty for none.
    pub cors_origins: Vec<String>,
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Whether `/metrics` answers without credentials.
    pub public: bool,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The administrator's name.
    pub id: String,
    /// The administrator's secret; empty: made at the first start and printed once.
    pub secret: Secret,
}

/// `[guest]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guest {
    /// Whether `guest`/`guest` may log in, from loopback peers only.
    pub enabled: bool,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Body of one message or one HTTP request, bytes.
    pub max_body_bytes: u64,
    /// Open AMQP connections.
    pub connections: u32,
    /// Payload bytes in one answer of `/receive`.
    pub receive_max_bytes: u64,
    /// Memory above which publishers are paused, bytes; 0: 60 % of the machine's.
    pub memory_bytes: u64,
    /// Room on the disk of `data_dir` below which publishers are paused, bytes; 0: however little.
    pub disk_free_bytes: u64,
    /// Bytes waiting to be written to one AMQP connection before its deliveries pause.
    pub out_buffer_bytes: u64,
    /// Messages that one channel may hold unacknowledged before deliveries to it pause.
    pub unacked_per_channel: u32,
    /// Milliseconds in which a delivery has to be acknowledged, unless its queue or a policy says otherwise; 0: whenever.
    pub consumer_timeout_ms: u64,
    /// Logins of one user from one address that may fail in a minute before further ones are refused unseen; 0: any number.
    pub failed_logins_per_minute: u32,
}

/// `[bus]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// Whether a client that declares one of the bus's queues or exchanges with other properties gets
    /// declare-ok (the queue stays as it is) instead of PRECONDITION_FAILED.
    pub lenient_declare: bool,
    /// How long the answer to a call with an `Idempotency-Key` is kept, seconds.
    pub idempotency_window_s: u64,
    /// What all such answers take in memory at most, bytes; the oldest are forgotten beyond it.
    pub idempotency_bytes: u64,
}

/// `[durability]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Durability {
    /// Level of persistent messages in durable queues: `memory`, `written` or `synced`.
    pub level: Level,
    /// The level of single vhosts, by name.
    pub vhosts: BTreeMap<String, Level>,
}

impl Durability {
    /// The level of queues in `vhost` that ask for none.
    pub fn of_vhost(&self, vhost: &str) -> Level {
        self.vhosts.get(vhost).copied().unwrap_or(self.level)
    }
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            level: Level::Synced,
            vhosts: BTreeMap::new(),
        }
    }
}

/// `[definitions]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Definitions {
    /// Definitions that are brought in at each start, before anything listens; empty for none.
    pub import_file: PathBuf,
}

/// `[token]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// How long a token lives, hours; fractions are allowed.
    pub lifetime_hours: f64,
    /// The key of tokens; empty: made by the server, once.
    pub secret: Secret,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Level, or directives such as `info,backbone::amqp=debug`.
    pub level: String,
    /// Shape of a line.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[runtime]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Threads that run connections; 0: one for each core.
    pub arbiters: u16,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long open connections may finish after SIGTERM, milliseconds.
    pub drain_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            amqp: Amqp::default(),
            tls: Tls::default(),
            http: Http::default(),
            metrics: Metrics::default(),
            admin: Admin::default(),
            guest: Guest::default(),
            limits: Limits::default(),
            bus: Bus::default(),
            push: Push::default(),
            durability: Durability::default(),
            definitions: Definitions::default(),
            token: Token::default(),
            audit: Audit::default(),
            log: Log::default(),
            runtime: Runtime::default(),
            shutdown: Shutdown::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            bind: vec![loopback(3000), loopback(5000), loopback(15672)],
            tls_bind: Vec::new(),
            path_prefix: String::new(),
            open_registration: false,
            inline_credentials: true,
            cors_origins: Vec::new(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            id: "admin".into(),
            secret: Secret::default(),
        }
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 128 * 1024 * 1024,
            connections: 65_536,
            receive_max_bytes: 16 * 1024 * 1024,
            memory_bytes: 0,
            disk_free_bytes: 128 * 1024 * 1024,
            out_buffer_bytes: 1024 * 1024,
            unacked_per_channel: 1_048_576,
            consumer_timeout_ms: 0,
            failed_logins_per_minute: 30,
        }
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            lenient_declare: true,
            idempotency_window_s: 600,
            idempotency_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Default for Token {
    fn default() -> Self {
        Self {
            lifetime_hours: 24.0,
            secret: Secret::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_ms: 5000 }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Config {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The key to blame and what is wrong with its value.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let amqp = &self.amqp;
        if self.http.bind.is_empty() {
            return Err(("http.bind", "needs at least one address".into()));
        }
        amqp.validate()?;
        if self.uses_tls() {
            self.tls.validate()?;
        }
        self.validate_http()?;
        self.validate_accounts()?;
        self.push.validate()?;
        let limits = &self.limits;
        for (key, value) in [
            ("limits.max_body_bytes", limits.max_body_bytes),
            ("limits.connections", limits.connections.into()),
            ("limits.receive_max_bytes", limits.receive_max_bytes),
            (
                "limits.unacked_per_channel",
                limits.unacked_per_channel.into(),
            ),
        ] {
            if value == 0 {
                return Err((key, "must be at least 1".into()));
            }
        }
        if limits.max_body_bytes > MAX_BODY_BYTES_MAX {
            let want = format!("must be at most {MAX_BODY_BYTES_MAX}");
            return Err(("limits.max_body_bytes", want));
        }
        if limits.out_buffer_bytes < u64::from(amqp.frame_max_bytes) {
            return Err((
                "limits.out_buffer_bytes",
                "must be at least amqp.frame_max_bytes".into(),
            ));
        }
        if !is_log_level(&self.log.level) {
            let want = "must be off, error, warn, info, debug or trace, or directives such as info,backbone::amqp=debug";
            return Err(("log.level", want.into()));
        }
        Ok(())
    }

    /// Whether a listener has TLS.
    pub fn uses_tls(&self) -> bool {
        !self.amqp.tls_bind.is_empty() || !self.http.tls_bind.is_empty()
    }

    fn validate_http(&self) -> Result<(), (&'static str, String)> {
        let prefix = &self.http.path_prefix;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c);
        if !prefix.is_empty()
            && (!prefix.starts_with('/') || prefix.ends_with('/') || !prefix.chars().all(plain))
        {
            let want = "must be empty, or start with `/`, end without one, and hold letters, digits and -_.~ only";
            return Err(("http.path_prefix", want.into()));
        }
        let all = self.http.bind.iter().chain(&self.http.tls_bind);
        let exposed = all.into_iter().find(|address| !address.ip().is_loopback());
        if let (true, Some(address)) = (self.http.open_registration, exposed) {
            let why = format!(
                "is refused because http.bind or http.tls_bind lists {address}, which is not a loopback address"
            );
            return Err(("http.open_registration", why));
        }
        Ok(())
    }

    fn validate_accounts(&self) -> Result<(), (&'static str, String)> {
        if self.admin.id.is_empty() || self.admin.id == "guest" || self.admin.id.contains(':') {
            return Err((
                "admin.id",
                "must not be empty, `guest`, or contain `:`".into(),
            ));
        }
        let hours = self.token.lifetime_hours;
        if !(hours > 0.0 && hours <= TOKEN_LIFETIME_HOURS_MAX) {
            let want = format!("must be above 0, and at most {TOKEN_LIFETIME_HOURS_MAX}");
            return Err(("token.lifetime_hours", want));
        }
        Ok(())
    }
}

/// Whether this is a list of levels and of `target=level`. A bare word that is no level would be taken for a
/// target, so that a misspelt level would log everything of nothing.
fn is_log_level(directives: &str) -> bool {
    let bare_levels = directives
        .split(',')
        .filter(|directive| !directive.contains(['=', '[']))
        .all(|directive| directive.trim().parse::<LevelFilter>().is_ok());
    bare_levels && EnvFilter::try_new(directives).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn open_registration_is_refused_on_a_reachable_address() {
        let mut config = Config::default();
        config.http.open_registration = true;
        assert_eq!(config.validate(), Ok(()));
        config.http.bind.push("0.0.0.0:80".parse().unwrap());
        assert_eq!(config.validate().unwrap_err().0, "http.open_registration");
    }

    #[test]
    fn nonsense_names_its_key() {
        let blamed = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().0
        };
        assert_eq!(blamed(|c| c.http.bind.clear()), "http.bind");
        assert_eq!(
            blamed(|c| c.amqp.tls_bind = vec![loopback(0)]),
            "tls.certificate_file"
        );
        assert_eq!(
            blamed(|c| c.amqp.frame_max_bytes = 4095),
            "amqp.frame_max_bytes"
        );
        assert_eq!(
            blamed(|c| c.http.path_prefix = "api/".into()),
            "http.path_prefix"
        );
        assert_eq!(blamed(|c| c.admin.id = "guest".into()), "admin.id");
        for hours in [0.0, f64::NAN, TOKEN_LIFETIME_HOURS_MAX + 1.0] {
            let mut config = Config::default();
            config.token.lifetime_hours = hours;
            assert_eq!(config.validate().unwrap_err().0, "token.lifetime_hours");
        }
        assert_eq!(blamed(|c| c.log.level = "a=b=c".into()), "log.level");
        assert_eq!(blamed(|c| c.log.level = "inof".into()), "log.level");
        assert_eq!(
            blamed(|c| c.limits.max_body_bytes = MAX_BODY_BYTES_MAX + 1),
            "limits.max_body_bytes"
        );
        assert_eq!(
            blamed(|c| c.limits.out_buffer_bytes = 1),
            "limits.out_buffer_bytes"
        );
    }
}
