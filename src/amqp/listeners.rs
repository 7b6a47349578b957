//! From a listener to the task of a connection: who may come, and what comes before AMQP (for whom a proxy speaks, and TLS).

use std::io::Result;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::net::TcpStream;

use super::admission::admit;
use super::proxy::{self, Speaker};
use super::stream::Stream;
use super::tls::Tls;
use super::{Amqp, Ends, Registered, Shared, connection};
use crate::auth::is_loopback;
use crate::runtime::Lifecycle;

/// How peers speak at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over TCP.
    Tcp,
    /// Over TCP with TLS.
    Tls,
}

impl Amqp {
    /// Serves the connections that come to `listener`, until the process drains.
    pub fn listen(&self, listener: TcpListener, transport: Transport, lifecycle: &Lifecycle) {
        let amqp = self.clone();
        self.until_draining(lifecycle, async move || {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let next = async || listener.accept().await;
            let serve = |(stream, peer)| dispatch(stream, peer, transport, &amqp.0);
            accept(next, serve, &amqp.0).await
        });
    }

    /// The same for the UNIX socket at `path`.
    pub fn listen_unix(&self, listener: UnixListener, path: Arc<str>, lifecycle: &Lifecycle) {
        let amqp = self.clone();
        self.until_draining(lifecycle, async move || {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            let next = async || listener.accept().await?.0.into_std();
            let ends = || Ends::Unix(Arc::clone(&path));
            let serve = |stream| drop(amqp.serve_local(stream, ends(), true));
            accept(next, serve, &amqp.0).await
        });
    }

    fn until_draining<F>(&self, lifecycle: &Lifecycle, accept: F)
    where
        F: AsyncFnOnce() -> Result<()> + Send + 'static,
    {
        let (shared, lifecycle) = (Arc::clone(&self.0), lifecycle.clone());
        self.0.arbiters.handle(0).spawn_fn(move || {
            actix_rt::spawn(async move {
                tokio::select! {
                    ended = accept() => if let Err(error) = ended {
                        shared.events.accept_failed(&error);
                    },
                    () = lifecycle.draining() => {}
                }
            });
        });
    }

    /// Serves whoever speaks AMQP at the other end of `stream`. `guest` may only log in if the peer is `local`. What is
    /// returned becomes true when the peer has proved who it is.
    pub fn serve_local(&self, stream: UnixStream, ends: Ends, local: bool) -> Arc<AtomicBool> {
        let Some(too_many) = admit(&ends, &stream, &self.0) else {
            return Arc::default();
        };
        let registered = Registered::new(Arc::clone(&self.0), ends, too_many);
        let known = Arc::clone(&registered.known);
        self.0.arbiters.for_newcomer().spawn_fn(move || {
            let ready = stream.set_nonblocking(true);
            let stream = ready.and_then(|()| tokio::net::UnixStream::from_std(stream));
            if let Ok(stream) = stream {
                let stream = Stream::Local(stream);
                let shared = Arc::clone(&registered.shared);
                actix_rt::spawn(connection::serve(stream, shared, registered, local));
            }
        });
        known
    }
}

/// Hands on who comes, for ever.
async fn accept<S>(
    next: impl AsyncFn() -> Result<S>,
    serve: impl Fn(S),
    shared: &Shared,
) -> Result<()> {
    loop {
        match next().await {
            Ok(socket) => serve(socket),
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                shared.events.accept_failed(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn dispatch(stream: TcpStream, peer: SocketAddr, transport: Transport, shared: &Arc<Shared>) {
    // It has gone already if it has no address.
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let ends = Ends::Tcp { peer, local };
    let Some(too_many) = admit(&ends, &stream, shared) else {
        return;
    };
    // A batch leaves in one write; waiting for more would only delay it.
    let ready = stream.set_nodelay(true).and_then(|()| stream.into_std());
    let Ok(stream) = ready else { return };
    let registered = Registered::new(Arc::clone(shared), ends, too_many);
    let arbiter = shared.arbiters.for_newcomer();
    arbiter.spawn_fn(move || {
        if let Ok(stream) = TcpStream::from_std(stream) {
            actix_rt::spawn(serve(stream, transport, registered));
        }
    });
}

/// What comes before AMQP over TCP.
async fn serve(mut stream: TcpStream, transport: Transport, mut registered: Registered) {
    let shared = Arc::clone(&registered.shared);
    let mut is_known = true;
    if is_proxy(&registered, &shared) {
        let header = proxy::read_header(&mut stream);
        match tokio::time::timeout(shared.handshake_timeout, header).await {
            Ok(Ok(Speaker::Peer(named))) => {
                if let Ends::Tcp { peer, .. } = &mut registered.ends {
                    *peer = named;
                }
            }
            Ok(Ok(Speaker::Itself)) => {}
            Ok(Ok(Speaker::Unknown)) => is_known = false,
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let stream = match (transport, &shared.certificates) {
        (Transport::Tcp, _) => Ok(Stream::Tcp(stream)),
        (Transport::Tls, Some(certificates)) => {
            Tls::new(stream, certificates).map(|tls| Stream::Tls(Box::new(tls)))
        }
        (Transport::Tls, None) => unreachable!("a listener with TLS has certificates"),
    };
    if let Ok(stream) = stream {
        let loopback = is_known && is_loopback(registered.ends.peer_address());
        connection::serve(stream, shared, registered, loopback).await;
    }
}

/// Whether the peer is one of those who have to say for whom they speak.
fn is_proxy(registered: &Registered, shared: &Shared) -> bool {
    let address = registered.ends.peer_address().to_canonical();
    let mut proxies = shared.proxies.iter();
    proxies.any(|proxies| proxies.contains(&address))
}
