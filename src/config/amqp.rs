//! `[amqp]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::loopback;

/// `[amqp]`: listeners and what they offer in `connection.tune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amqp {
    /// Addresses to listen on; port 0 takes a free one.
    pub bind: Vec<SocketAddr>,
    /// Addresses to listen on with TLS.
    pub tls_bind: Vec<SocketAddr>,
    /// A UNIX socket to listen on, without TLS; empty for none.
    pub unix_socket: PathBuf,
    /// Who may connect to it.
    pub unix_socket_mode: FileMode,
    /// Networks of proxies, which have to say for whom they speak (PROXY protocol).
    pub proxies: Vec<IpNet>,
    /// How clients may prove who they are, as offered to them.
    pub mechanisms: Vec<Mechanism>,
    /// Heartbeat interval offered to clients, seconds; 0 offers none.
    pub heartbeat_s: u16,
    /// Channels of one connection, offered to clients.
    pub channel_max: u16,
    /// Size of one frame, offered to clients, bytes.
    pub frame_max_bytes: u32,
    /// How long a peer may take from connecting to `connection.open`, milliseconds.
    pub handshake_timeout_ms: u64,
    /// Whether a delivery that is not acknowledged in time closes its channel, as RabbitMQ does it; otherwise it goes back to its
    /// queue alone.
    pub consumer_timeout_closes_channel: bool,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            bind: vec![loopback(5672)],
            tls_bind: Vec::new(),
            unix_socket: PathBuf::new(),
            unix_socket_mode: FileMode(0o660),
            proxies: Vec::new(),
            mechanisms: vec![Mechanism::Plain, Mechanism::AmqPlain, Mechanism::External],
            heartbeat_s: 60,
            channel_max: 2047,
            frame_max_bytes: 131_072,
            handshake_timeout_ms: 10_000,
            consumer_timeout_closes_channel: false,
        }
    }
}

impl Amqp {
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.mechanisms.is_empty() {
            return Err(("amqp.mechanisms", "needs at least one mechanism".into()));
        }
        if self.channel_max == 0 {
            return Err(("amqp.channel_max", "must be at least 1".into()));
        }
        // 4096 is the frame size that every AMQP peer must accept (AMQP 0-9-1 §4.2.3, frame-min-size).
        if self.frame_max_bytes < 4096 {
            return Err(("amqp.frame_max_bytes", "must be at least 4096".into()));
        }
        if self.handshake_timeout_ms == 0 {
            return Err(("amqp.handshake_timeout_ms", "must be at least 1".into()));
        }
        Ok(())
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// Name and password (RFC 4616).
    #[serde(rename = "PLAIN")]
    Plain,
    /// The same in a field table.
    #[serde(rename = "AMQPLAIN")]
    AmqPlain,
    /// The client's certificate.
    #[serde(rename = "EXTERNAL")]
    External,
    /// The name, and then the password when it is asked for.
    #[serde(rename = "RABBIT-CR-DEMO")]
    RabbitCrDemo,
}

impl Mechanism {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::External => "EXTERNAL",
            Self::RabbitCrDemo => "RABBIT-CR-DEMO",
        }
    }
}

/// The permissions of a file, written as for chmod: `"660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(u32);

impl FileMode {
    /// Its bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl TryFrom<String> for FileMode {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let bits = u32::from_str_radix(&text, 8).ok().filter(|_| digits);
        let bits = bits.filter(|bits| *bits <= 0o777);
        bits.map(Self)
            .ok_or("must be permissions in octal as text, such as \"660\"")
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        format!("{:03o}", mode.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        let read = |text: &str| FileMode::try_from(text.to_owned()).map(FileMode::bits).ok();
        assert_eq!(read("660"), Some(0o660));
        assert_eq!(read("0600"), Some(0o600));
        assert_eq!(read("0"), Some(0));
        for wrong in ["", "888", "1777", "+660", "0o660", "rw-rw----"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(String::from(FileMode(0o66)), "066");
    }
}
