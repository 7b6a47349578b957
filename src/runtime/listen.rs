//! Opening listeners.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted: thousands may come at once, after a restart for one.
const BACKLOG: i32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}")]
pub struct BindError {
    address: SocketAddr,
    key: &'static str,
    source: std::io::Error,
}

/// Opens a listener for every address of the configuration's `key`; port 0 takes a free one.
///
/// # Errors
/// The first address that cannot be listened on.
pub fn bind(key: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let open = |&address: &SocketAddr| {
        listen(address).map_err(|source| BindError {
            address,
            key,
            source,
        })
    };
    addresses.iter().map(open).collect()
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
