//! `[push]`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `[push]`: how messages go to clients' webhooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// How long one call may take until its answer begins, milliseconds.
    pub timeout_ms: u64,
    /// The pause after a first failure, milliseconds; it doubles with each further one.
    pub retry_min_ms: u64,
    /// The longest pause, milliseconds.
    pub retry_max_ms: u64,
    /// Attempts after which a message is a dead letter; 0: any number.
    pub attempts_max: u32,
    /// Seconds after its first attempt after which a message is a dead letter; 0: any.
    pub age_max_s: u64,
    /// Calls to one host at the same time.
    pub calls_per_host: u32,
    /// Networks, addresses and hosts that may be called although they are not public.
    pub allowed: Vec<PushTarget>,
    /// Certificates (PEM) of those who sign webhooks' certificates; empty: the system's.
    pub ca_file: PathBuf,
}

/// A network, or the name of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PushTarget {
    /// Addresses.
    Network(IpNet),
    /// A name, whatever it is resolved to.
    Host(String),
}

impl Default for Push {
    fn default() -> Self {
        Self {
            timeout_ms: 10_000,
            retry_min_ms: 500,
            retry_max_ms: 60_000,
            attempts_max: 100,
            age_max_s: 24 * 3600,
            calls_per_host: 8,
            allowed: Vec::new(),
            ca_file: PathBuf::new(),
        }
    }
}

impl Push {
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        let least_one = [
            ("push.timeout_ms", self.timeout_ms),
            ("push.retry_min_ms", self.retry_min_ms),
            ("push.calls_per_host", self.calls_per_host.into()),
        ];
        if let Some((key, _)) = least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err((key, "must be at least 1".into()));
        }
        if self.retry_max_ms < self.retry_min_ms {
            let want = "must be at least push.retry_min_ms";
            return Err(("push.retry_max_ms", want.into()));
        }
        Ok(())
    }
}

impl TryFrom<String> for PushTarget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        // A last word of digits is an address that was misspelt.
        let last = text.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
        match text.chars().all(fits) && !is_number {
            true => Ok(Self::Host(text)),
            false => Err(format!(
                "push.allowed: '{text}' is no network, address or host name"
            )),
        }
    }
}

impl From<PushTarget> for String {
    fn from(target: PushTarget) -> Self {
        match target {
            PushTarget::Network(network) => network.to_string(),
            PushTarget::Host(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_networks_addresses_or_names() {
        let network = |text: &str| {
            let target = PushTarget::try_from(text.to_owned());
            matches!(target, Ok(PushTarget::Network(_)))
        };
        assert!(network("127.0.0.0/8") && network("::1") && network("10.0.0.1"));
        let host = PushTarget::try_from("receiver.local".to_owned());
        assert_eq!(host, Ok(PushTarget::Host("receiver.local".into())));
        for wrong in ["", "10.0.0.0/33", "10.0.0", "http://x", "a b", "x:80"] {
            assert!(PushTarget::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nonsense_names_its_key() {
        let blamed = |change: fn(&mut Push)| {
            let mut push = Push::default();
            change(&mut push);
            push.validate().unwrap_err().0
        };
        assert_eq!(blamed(|p| p.timeout_ms = 0), "push.timeout_ms");
        assert_eq!(blamed(|p| p.retry_min_ms = 0), "push.retry_min_ms");
        assert_eq!(blamed(|p| p.retry_max_ms = 499), "push.retry_max_ms");
        assert_eq!(blamed(|p| p.calls_per_host = 0), "push.calls_per_host");
        assert_eq!(Push::default().validate(), Ok(()));
    }
}
