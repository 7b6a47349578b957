//! What to run: flags over a scenario file over defaults, checked as a whole.
//!
//! Flags and files have the same keys (`--confirm-window` and `confirm_window`). Both are laid over
//! each other as TOML tables and then read into one `Scenario`, so an unknown key, a wrong type and
//! a value out of range are found whichever way they came.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::amqp::FRAME_MAX;

/// The most publishers of a run: their number must fit into the stamp of a message.
pub const PUBLISHERS_MAX: usize = 4096;
/// The most octets of prepared messages that one publisher holds.
const SLAB_MAX: usize = 256 << 20;

/// The flags; each overrides the key of the same name in the scenario file.
#[derive(Debug, Default, clap::Args, Serialize)]
pub struct Flags {
    /// A scenario file with the same keys as these flags, `_` for `-`
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub scenario: Option<PathBuf>,
    /// Name shown in the result [file name of the scenario]
    #[arg(long)]
    name: Option<String>,
    /// amqp://user:password@host:port/vhost, instead of the five flags below
    #[arg(long)]
    uri: Option<String>,
    /// Broker's host [127.0.0.1]
    #[arg(long)]
    host: Option<String>,
    /// Broker's port [5672]
    #[arg(long)]
    port: Option<u16>,
    /// User [guest]
    #[arg(long)]
    user: Option<String>,
    /// Password [guest]
    #[arg(long)]
    password: Option<String>,
    /// Virtual host [/]
    #[arg(long)]
    vhost: Option<String>,
    /// raw or lapin: hand-made frames on threads, or that library on tokio with two workers [raw]
    #[arg(long)]
    client: Option<String>,
    /// Publishers, each with a connection and a thread [1]
    #[arg(long)]
    publishers: Option<usize>,
    /// Consumers, each with a connection and a thread; consumer i reads queue i mod queues, or, where they are fewer
    /// than the queues, all queues whose number mod consumers is i [1]
    #[arg(long)]
    consumers: Option<usize>,
    /// Queues; through the default exchange publisher i writes to queue i mod queues, or, where they are fewer than
    /// the queues, in turn to all whose number mod publishers is i [1]
    #[arg(long)]
    queues: Option<usize>,
    /// Messages to publish by all publishers together [0: by duration]
    #[arg(long)]
    messages: Option<u64>,
    /// Seconds to publish for, when no number of messages is given [5]
    #[arg(long)]
    duration_s: Option<f64>,
    /// Octets of a body, at least 16 [16]
    #[arg(long)]
    size: Option<usize>,
    /// Publishes that may wait for their confirm [0: no confirms]
    #[arg(long)]
    confirm_window: Option<usize>,
    /// Publish with delivery mode 2 [false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    persistent: Option<bool>,
    /// Declare durable queues and exchanges [as persistent]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    durable: Option<bool>,
    /// Publish as mandatory; a returned message fails the run [false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    mandatory: Option<bool>,
    /// Acknowledge: auto, each or multiple:N [auto]
    #[arg(long)]
    ack: Option<String>,
    /// Prefetch per consumer [0: unlimited]
    #[arg(long)]
    prefetch: Option<u16>,
    /// default, direct, fanout, topic or headers [default]
    #[arg(long)]
    exchange: Option<String>,
    /// Bindings of a direct, topic or headers exchange, spread over the queues; each message matches one [queues]
    #[arg(long)]
    bindings: Option<usize>,
    /// Keys of such an exchange that are published to in turn; more than bindings only with one wildcard for all [bindings]
    #[arg(long)]
    keys: Option<usize>,
    /// Messages per second by all publishers together, with latencies [0: as fast as possible]
    #[arg(long)]
    rate: Option<f64>,
    /// The broker's durability level, repeated in the result [unstated]
    #[arg(long)]
    durability: Option<String>,
    /// Through the bus: publishers write to outboxes, consumers read inboxes of clients made for the run [false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    bus: Option<bool>,
    /// With --bus, topics in turn that all match the pattern of the one who reads [1]
    #[arg(long)]
    topics: Option<usize>,
    /// Without the bus, publish with what the bus adds: topic, sender, id and time [false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    marked: Option<bool>,
    /// Connections beside the run that do nothing [0]
    #[arg(long)]
    idle_connections: Option<usize>,
    /// With --bus, registered clients beside the run that do nothing [0]
    #[arg(long)]
    idle_clients: Option<usize>,
    /// With --bus, the server's REST interface [127.0.0.1:3000]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// With --bus, who registers the clients [guest:guest]
    #[arg(long, value_name = "USER:PASSWORD")]
    operator: Option<String>,
    /// Names of queues, exchange and clients begin with it [perf-<process>-<run>]
    #[arg(long)]
    prefix: Option<String>,
    /// Leave the queues and what is in them [false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    keep: Option<bool>,
    /// Seconds for which consumers read nothing, after as many in which they do; until all is published [0: never]
    #[arg(long)]
    rest_s: Option<f64>,
    /// Check that nothing is lost, doubled, reordered or damaged [true]
    #[arg(long)]
    verify: Option<bool>,
    /// Seconds without progress after which a run has failed [10]
    #[arg(long)]
    stall_s: Option<u64>,
    /// Process id of a local broker, to report its cpu time
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Runs; one line of JSON each, and the medians at the end [1]
    #[arg(long)]
    runs: Option<u32>,
}

/// A checked scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "the flags of the same name are documented above"
)]
pub struct Scenario {
    pub name: String,
    #[serde(skip_serializing)]
    uri: Option<String>,
    pub host: String,
    pub port: u16,
    #[serde(skip_serializing)]
    pub user: String,
    #[serde(skip_serializing)]
    pub password: String,
    pub vhost: String,
    pub client: Client,
    pub publishers: usize,
    pub consumers: usize,
    pub queues: usize,
    pub messages: u64,
    pub duration_s: f64,
    pub size: usize,
    pub confirm_window: usize,
    pub persistent: bool,
    #[serde(rename = "durable")]
    durable_asked: Option<bool>,
    pub mandatory: bool,
    pub ack: Ack,
    pub prefetch: u16,
    pub exchange: Exchange,
    pub bindings: usize,
    pub keys: usize,
    pub rate: f64,
    pub durability: String,
    pub bus: bool,
    pub topics: usize,
    pub marked: bool,
    pub idle_connections: usize,
    pub idle_clients: usize,
    #[serde(skip_serializing)]
    pub http: String,
    #[serde(skip_serializing)]
    pub operator: String,
    #[serde(skip_serializing)]
    pub prefix: String,
    pub keep: bool,
    pub rest_s: f64,
    pub verify: bool,
    pub stall_s: u64,
    #[serde(skip_serializing)]
    pub broker_pid: Option<u32>,
    #[serde(skip_serializing)]
    pub runs: u32,
}

/// What publishes and consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Prepared frames on blocking sockets.
    Raw,
    /// lapin on tokio.
    Lapin,
}

/// How a consumer acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Ack {
    /// The broker forgets a message when it has sent it.
    Auto,
    /// One `basic.ack` a message.
    Each,
    /// One `basic.ack` with `multiple` for so many messages.
    Multiple(u32),
}

/// The kind of exchange published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are AMQP's own")]
pub enum Exchange {
    Default,
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            name: String::new(),
            uri: None,
            host: "127.0.0.1".into(),
            port: 5672,
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            client: Client::Raw,
            publishers: 1,
            consumers: 1,
            queues: 1,
            messages: 0,
            duration_s: 5.0,
            size: 16,
            confirm_window: 0,
            persistent: false,
            durable_asked: None,
            mandatory: false,
            ack: Ack::Auto,
            prefetch: 0,
            exchange: Exchange::Default,
            bindings: 0,
            keys: 0,
            rate: 0.0,
            durability: "unstated".into(),
            bus: false,
            topics: 1,
            marked: false,
            idle_connections: 0,
            idle_clients: 0,
            http: "127.0.0.1:3000".into(),
            operator: "guest:guest".into(),
            prefix: String::new(),
            keep: false,
            rest_s: 0.0,
            verify: true,
            stall_s: 10,
            broker_pid: None,
            runs: 1,
        }
    }
}

impl Flags {
    /// Lays the flags over the scenario file, if one is named, and checks the result.
    ///
    /// # Errors
    /// When the file cannot be read, or a key or a value is wrong.
    pub fn resolve(&self) -> Result<Scenario> {
        let mut table = match &self.scenario {
            None => toml::Table::new(),
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?
                .parse()
                .with_context(|| format!("in {}", path.display()))?,
        };
        table.extend(toml::Table::try_from(self).context("reading the flags")?);
        if let Some(stem) = self.scenario.as_ref().and_then(|p| p.file_stem()) {
            let name = toml::Value::String(stem.to_string_lossy().into_owned());
            table.entry("name").or_insert(name);
        }
        let scenario: Scenario = table.try_into().context("in the scenario")?;
        scenario.checked()
    }
}

impl Scenario {
    /// The defaults, against the broker at `uri` with the process id `broker_pid`.
    ///
    /// # Errors
    /// When that is no AMQP address.
    pub fn at(uri: &str, broker_pid: u32) -> Result<Self> {
        let scenario = Scenario {
            uri: Some(uri.to_owned()),
            broker_pid: Some(broker_pid),
            ..Scenario::default()
        };
        scenario.checked()
    }

    /// Whether queues and exchanges are declared durable.
    pub fn durable(&self) -> bool {
        self.durable_asked.unwrap_or(self.persistent)
    }

    /// Fills in what follows from other values, and checks the whole.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn checked(mut self) -> Result<Self> {
        if let Some(uri) = self.uri.take() {
            self.set_uri(&uri).with_context(|| format!("uri {uri:?}"))?;
        }
        if self.name.is_empty() {
            self.name = "unnamed".into();
        }
        self.durable_asked.get_or_insert(self.persistent);
        if self.bindings == 0 {
            self.bindings = self.queues;
        }
        if self.keys == 0 {
            self.keys = self.bindings;
        }
        ensure!(self.size >= 16, "size: a body holds at least 16 octets");
        ensure!(
            self.size <= 1 << 30,
            "size: a body holds at most 1 GiB, not {}",
            self.size
        );
        ensure!(
            (1..=PUBLISHERS_MAX).contains(&self.publishers),
            "publishers: 1 to {PUBLISHERS_MAX}"
        );
        ensure!(self.queues >= 1, "queues: at least 1");
        ensure!(
            self.messages > 0 || self.duration_s > 0.0,
            "messages or duration_s: one must be above 0"
        );
        ensure!(self.rate >= 0.0, "rate: not below 0");
        ensure!(self.rest_s >= 0.0, "rest_s: not below 0");
        ensure!(self.prefix.len() <= 64, "prefix: at most 64 octets");
        ensure!(self.runs >= 1, "runs: at least 1");
        ensure!(
            self.user.len() + self.password.len() < FRAME_MAX / 2 && self.vhost.len() < 256,
            "user, password or vhost: too long"
        );
        if let Ack::Multiple(n) = self.ack {
            ensure!(n >= 1, "ack: multiple:N needs N of at least 1");
            ensure!(
                self.prefetch == 0 || u32::from(self.prefetch) >= n,
                "ack: {n} messages are never unacknowledged at once with prefetch {}",
                self.prefetch
            );
        }
        self.check_routes()?;
        self.check_client()?;
        Ok(self)
    }

    fn check_routes(&self) -> Result<()> {
        ensure!(
            !self.bus || (self.exchange == Exchange::Default && !self.mandatory && !self.marked),
            "bus: neither with an exchange nor mandatory nor marked"
        );
        ensure!(
            self.bus || (self.topics == 1 && self.idle_clients == 0),
            "topics, idle_clients: only with bus"
        );
        ensure!(self.topics >= 1, "topics: at least 1");
        match self.exchange {
            Exchange::Default => ensure!(
                self.publishers >= self.queues || self.queues.is_multiple_of(self.publishers),
                "queues: a multiple of the {} publishers, or not more, and not {}",
                self.publishers,
                self.queues
            ),
            Exchange::Fanout => ensure!(
                self.consumers == 0 || self.consumers >= self.queues,
                "consumers: none, or at least one for each of the {} queues",
                self.queues
            ),
            Exchange::Direct | Exchange::Topic | Exchange::Headers => self.check_bindings()?,
        }
        ensure!(
            self.slab_keys() * (self.size + 256) <= SLAB_MAX || self.slab_keys() == 1,
            "keys: {} prepared messages of {} octets are more than a publisher holds",
            self.slab_keys(),
            self.size
        );
        Ok(())
    }

    fn check_bindings(&self) -> Result<()> {
        let fits = |n: usize| n.is_multiple_of(self.queues) && n < 1_000_000;
        ensure!(
            fits(self.bindings) && fits(self.keys),
            "bindings, keys: multiples of the {} queues below 1,000,000, not {} and {}",
            self.queues,
            self.bindings,
            self.keys
        );
        ensure!(
            self.keys <= self.bindings || self.one_for_all(),
            "keys: more than bindings only with one queue and one topic binding"
        );
        Ok(())
    }

    fn check_client(&self) -> Result<()> {
        let plain = self.exchange == Exchange::Default && self.publishers >= self.queues;
        ensure!(
            self.client == Client::Raw
                || plain
                    && !(self.bus || self.marked || self.mandatory)
                    && self.rate == 0.0
                    && (self.consumers == 0 || self.consumers >= self.queues),
            "client: lapin only publishes as fast as it can through the default exchange, one queue a consumer"
        );
        Ok(())
    }

    fn set_uri(&mut self, uri: &str) -> Result<()> {
        let rest = uri
            .strip_prefix("amqp://")
            .context("only amqp:// is known")?;
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, Some(vhost)),
            None => (rest, None),
        };
        if let Some(vhost) = vhost.filter(|v| !v.is_empty()) {
            self.vhost = percent_decode(vhost)?;
        }
        let address = match authority.rsplit_once('@') {
            None => authority,
            Some((login, address)) => {
                let (user, password) = login.split_once(':').context("no password")?;
                self.user = percent_decode(user)?;
                self.password = percent_decode(password)?;
                address
            }
        };
        match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                self.host = host.into();
                self.port = port.parse().context("the port")?;
            }
            _ => self.host = address.into(),
        }
        Ok(())
    }
}

impl TryFrom<String> for Ack {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        Ok(match text.as_str() {
            "auto" => Ack::Auto,
            "each" => Ack::Each,
            other => match other.strip_prefix("multiple:") {
                Some(n) => Ack::Multiple(n.parse().context("ack: multiple:N needs a number")?),
                None => bail!("ack: auto, each or multiple:N, not {other:?}"),
            },
        })
    }
}

impl From<Ack> for String {
    fn from(ack: Ack) -> String {
        match ack {
            Ack::Auto => "auto".into(),
            Ack::Each => "each".into(),
            Ack::Multiple(n) => format!("multiple:{n}"),
        }
    }
}

fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).context("a lone %")?;
        let digits = std::str::from_utf8(digits)?;
        bytes.push(u8::from_str_radix(digits, 16).context("a % without two hex digits")?);
        rest = after;
    }
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.checked()
    }

    #[test]
    fn a_uri_gives_all_five_parts() {
        let s = parse(r#"uri = "amqp://a%40b:p%2Fw@[::1]:5699/%2fv""#).unwrap();
        assert_eq!((s.user.as_str(), s.password.as_str()), ("a@b", "p/w"));
        assert_eq!(
            (s.host.as_str(), s.port, s.vhost.as_str()),
            ("[::1]", 5699, "/v")
        );
        let s = parse(r#"uri = "amqp://localhost""#).unwrap();
        assert_eq!(
            (s.host.as_str(), s.port, s.vhost.as_str()),
            ("localhost", 5672, "/")
        );
        assert!(parse(r#"uri = "http://localhost""#).is_err());
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (text, word) in [
            ("size = 8", "size"),
            ("exchange = \"fanout\"\nqueues = 2", "consumers"),
            ("queues = 3\npublishers = 2", "queues"),
            ("exchange = \"topic\"\nbindings = 2\nkeys = 4", "keys"),
            ("topics = 2", "topics"),
            ("client = \"lapin\"\nrate = 5", "client"),
            ("ack = \"multiple:100\"\nprefetch = 10", "ack"),
            ("ack = \"never\"", "ack"),
            (
                "exchange = \"topic\"\nqueues = 2\nconsumers = 2\nbindings = 3",
                "bindings",
            ),
            ("bus = true\nexchange = \"fanout\"", "bus"),
            ("colour = 1", "colour"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn flags_override_the_file_and_every_scenario_file_is_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let flags = Flags {
                scenario: Some(entry.unwrap().path()),
                size: Some(77),
                ..Flags::default()
            };
            let scenario = flags.resolve().unwrap();
            assert_eq!(scenario.size, 77);
            assert_ne!(scenario.name, "unnamed");
            count += 1;
        }
        assert!(count >= 8, "{count} scenarios");
    }
}
