//! The two ends of a connection, as operators see them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Who is at the other end, and where it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Over TCP; a proxy may have named the peer.
    Tcp {
        /// Who calls.
        peer: SocketAddr,
        /// Where it came to.
        local: SocketAddr,
    },
    /// In a websocket.
    Websocket {
        /// Who calls.
        peer: SocketAddr,
    },
    /// Over the UNIX socket at this path: somebody on this machine.
    Unix(Arc<str>),
}

impl Ends {
    /// The address of the peer, by which failed logins are counted.
    pub fn peer_address(&self) -> IpAddr {
        match self {
            Self::Tcp { peer, .. } | Self::Websocket { peer } => peer.ip(),
            Self::Unix(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Where the peer is; the path of a UNIX socket.
    pub fn peer_host(&self) -> String {
        match self {
            Self::Tcp { peer, .. } | Self::Websocket { peer } => peer.ip().to_string(),
            Self::Unix(path) => path.to_string(),
        }
    }

    /// The port of the peer; 0 where there are none.
    pub fn peer_port(&self) -> u16 {
        match self {
            Self::Tcp { peer, .. } | Self::Websocket { peer } => peer.port(),
            Self::Unix(_) => 0,
        }
    }

    /// Where it came to, and the port; none for websockets.
    pub fn local(&self) -> Option<(String, u16)> {
        match self {
            Self::Tcp { local, .. } => Some((local.ip().to_string(), local.port())),
            Self::Websocket { .. } => None,
            Self::Unix(path) => Some((path.to_string(), 0)),
        }
    }

    /// RabbitMQ's name for the connection with this number: both ends. Of a UNIX socket only the number tells them apart.
    pub fn name(&self, number: u64) -> String {
        match self {
            Self::Unix(path) => format!("unix:{number} -> {path}"),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { peer, local } => write!(f, "{peer} -> {local}"),
            Self::Websocket { peer } => write!(f, "{peer} -> websocket"),
            Self::Unix(path) => write!(f, "unix -> {path}"),
        }
    }
}
