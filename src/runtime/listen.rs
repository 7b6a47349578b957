//! Opening listeners.

use std::net::{SocketAddr, TcpListener};

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
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map_err(|source| BindError {
            address,
            key,
            source,
        })
    };
    addresses.iter().map(open).collect()
}
