//! What a connection reads from and writes to: a TCP socket, bare or with TLS, or the near end of a websocket.
//!
//! All have the socket's readiness: a call does what it can at once, or says `WouldBlock`.

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, Result};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use bytes::BufMut;
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::tls::Tls;

/// The way to a peer.
pub(super) enum Stream {
    /// A bare socket.
    Tcp(TcpStream),
    /// A socket with TLS.
    Tls(Box<Tls>),
    /// Whoever holds the other end speaks for the peer.
    Local(UnixStream),
}

/// Does the same with each kind of socket.
macro_rules! socket {
    ($stream:expr, $socket:ident => $what:expr) => {
        match $stream {
            Self::Tcp($socket) => $what,
            Self::Tls(tls) => {
                let $socket = tls.socket();
                $what
            }
            Self::Local($socket) => $what,
        }
    };
}

impl Stream {
    /// Version of TLS and cipher, if there are any.
    pub fn protection(&self) -> Option<[String; 2]> {
        match self {
            Self::Tls(tls) => tls.protection(),
            Self::Tcp(_) | Self::Local(_) => None,
        }
    }

    /// Reads into `room`; 0 is the end.
    pub fn try_read(&mut self, room: &mut [u8]) -> Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(room),
            Self::Tls(tls) => tls.try_read(room),
            Self::Local(socket) => socket.try_read(room),
        }
    }

    /// Reads into the room of `buffer`; 0 is the end.
    pub fn try_read_buf(&mut self, mut buffer: impl BufMut) -> Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read_buf(&mut buffer),
            Self::Tls(tls) => tls.try_read_buf(&mut buffer),
            Self::Local(socket) => socket.try_read_buf(&mut buffer),
        }
    }

    /// Writes some of `slices`, which are not empty, and says how many bytes.
    pub fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write_vectored(slices),
            Self::Tls(tls) => tls.try_write_vectored(slices),
            Self::Local(socket) => socket.try_write_vectored(slices),
        }
    }

    /// Hands to the system what was written and is still here.
    pub fn flush(&mut self) -> Result<()> {
        match self {
            Self::Tls(tls) => tls.flush(),
            Self::Tcp(_) | Self::Local(_) => Ok(()),
        }
    }

    /// Whether something that was written is still here.
    pub fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.has_unsent())
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.try_write_vectored(&[IoSlice::new(bytes)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        loop {
            match self.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await?,
                flushed => return flushed,
            }
        }
    }

    /// Waits until something can be read, writing meanwhile what is still here.
    pub async fn readable(&mut self) -> Result<()> {
        poll_fn(|cx| {
            while self.has_unsent() && self.poll_write_ready(cx).is_ready() {
                match self.flush() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => {
                        return Poll::Ready(Err(error));
                    }
                    // If the socket takes no more, the next look says so and sees to it that we are woken.
                    _ => {}
                }
            }
            self.poll_read_ready(cx)
        })
        .await
    }

    async fn writable(&self) -> Result<()> {
        poll_fn(|cx| self.poll_write_ready(cx)).await
    }

    /// Whether a read may bring something.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if matches!(self, Self::Tls(tls) if tls.has_received()) {
            return Poll::Ready(Ok(()));
        }
        socket!(self, socket => socket.poll_read_ready(cx))
    }

    /// Whether the system takes something.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        socket!(self, socket => socket.poll_write_ready(cx))
    }

    /// Takes note that the system has nothing more for us, which a read that was not filled says: another read
    /// would only be told so. What comes from now on raises a new event.
    pub fn nothing_left(&self) {
        let nothing = || Err::<(), _>(ErrorKind::WouldBlock.into());
        match self {
            Self::Tcp(socket) => _ = socket.try_io(Interest::READABLE, nothing),
            // It reads until the socket says so.
            Self::Tls(_) => {}
            Self::Local(socket) => _ = socket.try_io(Interest::READABLE, nothing),
        }
    }

    /// Whether the peer's last octet is in the system's buffer already.
    pub fn has_hung_up(&self) -> bool {
        let ready = socket!(self, socket => socket.ready(Interest::READABLE).now_or_never());
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    /// Says that nothing more comes from us.
    pub fn shut_down_writing(&mut self) -> Result<()> {
        if let Self::Tls(tls) = self {
            // Without room for it, the end of the stream has to do.
            let _ = tls.say_goodbye();
        }
        SockRef::from(&*self).shutdown(Shutdown::Write)
    }

    /// The same stream for the thread that calls this.
    pub fn moved_here(self) -> Result<Self> {
        match self {
            Self::Tcp(socket) => here(socket).map(Self::Tcp),
            Self::Tls(tls) => tls.map_socket(here).map(|tls| Self::Tls(Box::new(tls))),
            Self::Local(socket) => {
                let socket = UnixStream::from_std(socket.into_std()?)?;
                Ok(Self::Local(socket))
            }
        }
    }

    /// The name in the peer's certificate, if it had to show one and that one is good.
    pub fn certified_name(&self) -> Option<String> {
        match self {
            Self::Tls(tls) => tls.certified_name(),
            Self::Tcp(_) | Self::Local(_) => None,
        }
    }

    /// Gives up buffers that hold nothing, before a wait.
    pub fn rest(&mut self) {
        if let Self::Tls(tls) = self {
            tls.rest();
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        socket!(self, socket => socket.as_fd())
    }
}

fn here(socket: TcpStream) -> Result<TcpStream> {
    socket.into_std().and_then(TcpStream::from_std)
}
