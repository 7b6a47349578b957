//! Opening listeners.

use std::fs::{self, Permissions};
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that may wait to be accepted: thousands may come at once, after a restart for one.
const BACKLOG: i32 = 4096;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}")]
pub struct BindError {
    address: String,
    key: &'static str,
    source: Error,
}

/// Opens a listener for every address of the configuration's `key`; port 0 takes a free one.
///
/// # Errors
/// The first address that cannot be listened on.
pub fn bind(key: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let open = |&address: &SocketAddr| {
        listen(address).map_err(|source| BindError {
            address: address.to_string(),
            key,
            source,
        })
    };
    addresses.iter().map(open).collect()
}

/// The file of a UNIX socket; it is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Who removed it before was faster.
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens a listener on the UNIX socket at the `path` of the configuration's `key`, for whom the `mode` of its file lets. A
/// file that was left there is removed first.
///
/// # Errors
/// Somebody listens there, something else is there, or the system does not let us.
pub fn bind_unix(
    key: &'static str,
    path: &Path,
    mode: u32,
) -> Result<(UnixListener, SocketFile), BindError> {
    listen_unix(path, mode).map_err(|source| BindError {
        address: path.display().to_string(),
        key,
        source,
    })
}

fn listen_unix(path: &Path, mode: u32) -> std::io::Result<(UnixListener, SocketFile)> {
    let address = SockAddr::unix(path)?;
    remove_left_over(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    let file = SocketFile(path.to_owned());
    // Nobody can connect before it listens.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

/// Removes the socket that a server has left which did not end in order: nobody listens on it.
fn remove_left_over(path: &Path, address: &SockAddr) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => {
            let what = "there is a file that is no socket";
            return Err(Error::new(ErrorKind::AlreadyExists, what));
        }
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Whoever has many waiting must not keep us waiting.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        _ => Err(Error::new(ErrorKind::AddrInUse, "somebody listens there")),
    }
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
