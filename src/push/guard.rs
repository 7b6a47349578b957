//! Which addresses may be called. Without it, whoever may set a webhook could have the server call what only the server
//! reaches: itself, its neighbours, the cloud's metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::PushTarget;

/// What of IPv4 is not public: RFC 6890 and its followers.
const CLOSED_V4: [([u8; 4], u8); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];

/// What of IPv6 is public, but for [`CLOSED_V6`].
const OPEN_V6: ([u16; 2], u8) = ([0x2000, 0], 3);
/// Protocol assignments (Teredo among them), documentation, 6to4, documentation.
const CLOSED_V6: [([u16; 2], u8); 4] = [
    ([0x2001, 0], 23),
    ([0x2001, 0x0db8], 32),
    ([0x2002, 0], 16),
    ([0x3fff, 0], 20),
];

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Vec<PushTarget>,
}

impl Guard {
    /// Public addresses, and what is allowed beside them.
    pub fn new(allowed: &[PushTarget]) -> Self {
        Self {
            allowed: allowed.to_vec(),
        }
    }

    /// Whether `address`, to which `host` was resolved, may be called.
    pub fn permits(&self, host: &str, address: IpAddr) -> bool {
        // `::ffff:127.0.0.1` is 127.0.0.1.
        let address = address.to_canonical();
        let is_allowed = |target: &PushTarget| match target {
            PushTarget::Network(network) => network.contains(&address),
            PushTarget::Host(name) => name.eq_ignore_ascii_case(host),
        };
        is_public(address) || self.allowed.iter().any(is_allowed)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let closed = CLOSED_V4.iter().map(|(begin, bits)| {
                let begin = Ipv4Addr::from(*begin);
                Ipv4Net::new_assert(begin, *bits)
            });
            !closed.into_iter().any(|it| it.contains(&address))
        }
        IpAddr::V6(address) => {
            let closed = CLOSED_V6.into_iter().map(v6);
            v6(OPEN_V6).contains(&address) && !closed.into_iter().any(|it| it.contains(&address))
        }
    }
}

fn v6(([a, b], bits): ([u16; 2], u8)) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(guard: &Guard, address: &str) -> bool {
        guard.permits("host.example", address.parse().unwrap())
    }

    #[test]
    fn public_addresses_only() {
        let guard = Guard::default();
        for address in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(permits(&guard, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!permits(&guard, address), "{address}");
        }
    }

    #[test]
    fn networks_and_hosts_can_be_allowed() {
        let target = |text: &str| PushTarget::try_from(text.to_owned()).unwrap();
        let networks = Guard::new(&[target("10.0.0.0/24"), target("::1")]);
        assert!(permits(&networks, "10.0.0.7") && permits(&networks, "::ffff:10.0.0.7"));
        assert!(permits(&networks, "::1"));
        assert!(!permits(&networks, "10.0.1.7") && !permits(&networks, "127.0.0.1"));
        let host = Guard::new(&[target("Host.example")]);
        assert!(permits(&host, "10.0.0.7"));
        assert!(!host.permits("other.example", "10.0.0.7".parse().unwrap()));
    }
}
