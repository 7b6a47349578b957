//! AMQP 0-9-1 over TCP, bare or with TLS, and inside of websockets: listeners, and one task a connection on one of the
//! arbiters.
//!
//! Owns the registry of connections. Between two turns a connection may move to another arbiter
//! ([`crate::runtime::arbiters`]); what other threads have for it, they leave at its [`Doorbell`].

mod buffers;
mod connection;
mod doorbell;
mod handshake;
mod proxy;
mod stream;
mod tls;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backbone_broker::gate::Gate;
use backbone_broker::vhosts::Vhosts;
use backbone_wire::method::connection::Tune;
use dashmap::DashMap;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::auth::{Authenticator, is_loopback};
use crate::config::Config;
use crate::runtime::Lifecycle;
use crate::runtime::arbiters::Arbiters;
use crate::telemetry::{Events, Samples};
pub use doorbell::Doorbell;

/// What the doorbell is made of: `tests/loom` puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};

    pub(super) use futures_util::task::AtomicWaker;
    pub(super) use parking_lot::Mutex;
}
use stream::Stream;
use tls::Certificates;
pub use tls::TlsError;

/// Bytes read at a time; at least one frame fits.
const READ_BYTES: usize = 256 * 1024;

/// What connections are told when the server ends.
const SHUTDOWN: &str = "broker forced connection closure with reason 'shutdown'";
/// Peers beyond `limits.connections` who are told so at a time; others are dropped without a word.
const REFUSALS_MAX: usize = 64;

/// The AMQP side of the server.
#[derive(Clone)]
pub struct Amqp(Arc<Shared>);

/// What all connections share.
struct Shared {
    vhosts: Arc<Vhosts>,
    auth: Arc<Authenticator>,
    events: Arc<Events>,
    gate: Arc<Gate>,
    tune: Tune,
    /// Where there is a listener with TLS.
    certificates: Option<Certificates>,
    proxies: Vec<IpNet>,
    handshake_timeout: Duration,
    message_bytes_max: u64,
    unacked_max: usize,
    timeout_closes_channel: bool,
    out_bytes_max: usize,
    read_bytes: usize,
    connections_max: usize,
    connections: DashMap<u64, Entry>,
    arbiters: Arc<Arbiters>,
    /// Whoever comes now is told to go.
    draining: AtomicBool,
    next_id: AtomicU64,
}

struct Entry {
    bell: Arc<Doorbell>,
    user: Option<Arc<str>>,
    vhost: Option<Arc<str>>,
}

/// A connection's place in the registry, given up when it ends, however it ends.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
    peer: SocketAddr,
    bell: Arc<Doorbell>,
    /// There were too many when it came: it is told at `connection.open`.
    beyond_limit: bool,
    user: Mutex<Option<Arc<str>>>,
    /// The peer has proved who it is.
    known: Arc<AtomicBool>,
}

impl Amqp {
    /// The AMQP side, not listening yet.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn new(
        config: &Config,
        vhosts: Arc<Vhosts>,
        auth: Arc<Authenticator>,
        events: Arc<Events>,
        gate: Arc<Gate>,
        arbiters: Arc<Arbiters>,
    ) -> Result<Self, TlsError> {
        let certificates = match config.amqp.tls_bind.is_empty() {
            true => None,
            false => Some(Certificates::read(&config.tls)?),
        };
        Ok(Self(Arc::new(Shared {
            vhosts,
            auth,
            events,
            gate,
            tune: Tune {
                channel_max: config.amqp.channel_max,
                frame_max: config.amqp.frame_max_bytes,
                heartbeat: config.amqp.heartbeat_s,
            },
            certificates,
            proxies: config.amqp.proxies.clone(),
            handshake_timeout: Duration::from_millis(config.amqp.handshake_timeout_ms),
            message_bytes_max: config.limits.max_body_bytes,
            unacked_max: config.limits.unacked_per_channel as usize,
            timeout_closes_channel: config.amqp.consumer_timeout_closes_channel,
            out_bytes_max: config.limits.out_buffer_bytes as usize,
            read_bytes: READ_BYTES.max(config.amqp.frame_max_bytes as usize),
            connections_max: config.limits.connections as usize,
            connections: DashMap::new(),
            arbiters,
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
        })))
    }

    /// Reads certificates and keys again; connections that come from now on use them.
    ///
    /// # Errors
    /// They cannot be used: those that were in use stay.
    pub fn reload_certificates(&self) -> Result<(), TlsError> {
        let certificates = self.0.certificates.as_ref();
        certificates.map_or(Ok(()), Certificates::reload)
    }

    /// Serves the connections that come to `listener`, until the process drains.
    pub fn listen(&self, listener: TcpListener, transport: Transport, lifecycle: &Lifecycle) {
        let (shared, lifecycle) = (Arc::clone(&self.0), lifecycle.clone());
        let first = self.0.arbiters.handle(0);
        first.spawn_fn(move || {
            actix_rt::spawn(async move {
                tokio::select! {
                    () = accept(listener, transport, &shared) => {}
                    () = lifecycle.draining() => {}
                }
            });
        });
    }

    /// Serves whoever speaks AMQP at the other end of `stream`, for a peer at `peer`. `guest` may only log in if the peer
    /// is `local`. What is returned becomes true when the peer has proved who it is.
    pub fn serve_local(
        &self,
        stream: UnixStream,
        peer: SocketAddr,
        local: bool,
    ) -> Arc<AtomicBool> {
        let Some(beyond_limit) = admit(peer, &self.0) else {
            return Arc::default();
        };
        let registered = Registered::new(Arc::clone(&self.0), peer, beyond_limit);
        let known = Arc::clone(&registered.known);
        let shared = Arc::clone(&self.0);
        shared.arbiters.for_newcomer().spawn_fn(move || {
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

    /// Closes all connections of `user`, telling them why.
    pub fn close_user(&self, user: &str, reason: &str) {
        for entry in &self.0.connections {
            if entry.user.as_deref() == Some(user) {
                entry.bell.close(reason);
            }
        }
    }

    /// Closes all connections to a vhost that is gone.
    pub fn close_vhost(&self, vhost: &str) {
        for entry in &self.0.connections {
            if entry.vhost.as_deref() == Some(vhost) {
                entry.bell.close(&format!("vhost '{vhost}' is deleted"));
            }
        }
    }

    /// Closes all connections and waits until they are gone, `bound` at most. Returns how many
    /// are left.
    pub async fn drain(&self, bound: Duration) -> usize {
        // Before the look at the registry: who is not in it yet will see this.
        self.0.draining.store(true, Ordering::SeqCst);
        for entry in &self.0.connections {
            entry.bell.close(SHUTDOWN);
        }
        let all_gone = async {
            while !self.0.connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(bound, all_gone).await;
        self.0.connections.len()
    }

    /// Numbers for metrics.
    pub fn sample(&self, samples: &mut Samples) {
        let open = self.0.connections.len() as f64;
        samples.gauge("backbone_connections", "AMQP connections open", &[], open);
    }
}

impl Registered {
    fn new(shared: Arc<Shared>, peer: SocketAddr, beyond_limit: bool) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let bell = Arc::<Doorbell>::default();
        let entry = Entry {
            bell: Arc::clone(&bell),
            user: None,
            vhost: None,
        };
        shared.connections.insert(id, entry);
        if shared.draining.load(Ordering::SeqCst) {
            bell.close(SHUTDOWN);
        }
        Self {
            shared,
            id,
            peer,
            bell,
            beyond_limit,
            user: Mutex::new(None),
            known: Arc::default(),
        }
    }

    /// The peer says that it is `user`. Noted before its secret is checked: if the user is deleted
    /// at that moment, either the check fails or the connection hears of it.
    fn claim(&self, user: &str) {
        if let Some(mut entry) = self.shared.connections.get_mut(&self.id) {
            entry.user = Some(user.into());
        }
    }

    /// The peer wants to `vhost`. Noted before that is looked for, for the same reason.
    fn claim_vhost(&self, vhost: &str) {
        if let Some(mut entry) = self.shared.connections.get_mut(&self.id) {
            entry.vhost = Some(vhost.into());
        }
    }

    /// The handshake is through.
    fn opened(&self, user: &Arc<str>) {
        *self.user.lock() = Some(Arc::clone(user));
        self.shared.events.connection_opened(self.peer, user);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.connections.remove(&self.id);
        match self.user.lock().take() {
            Some(user) => self.shared.events.connection_closed(self.peer, &user),
            None => self.shared.events.handshake_failed(self.peer),
        }
    }
}

/// How peers speak at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over TCP.
    Tcp,
    /// Over TCP with TLS.
    Tls,
}

async fn accept(listener: TcpListener, transport: Transport, shared: &Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return shared.events.accept_failed(&error),
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => dispatch(stream, peer, transport, shared),
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                shared.events.accept_failed(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whether one more may come: `None` if it is dropped without a word, `Some(true)` if it is told that it may not.
fn admit(peer: SocketAddr, shared: &Shared) -> Option<bool> {
    let excess = (shared.connections.len() + 1).saturating_sub(shared.connections_max);
    if excess > 0 {
        shared.events.connection_refused(peer);
    }
    (excess <= REFUSALS_MAX).then_some(excess > 0)
}

fn dispatch(stream: TcpStream, peer: SocketAddr, transport: Transport, shared: &Arc<Shared>) {
    let Some(beyond_limit) = admit(peer, shared) else {
        return;
    };
    // A batch leaves in one write; waiting for more would only delay it.
    let ready = stream.set_nodelay(true).and_then(|()| stream.into_std());
    let Ok(stream) = ready else { return };
    let registered = Registered::new(Arc::clone(shared), peer, beyond_limit);
    let arbiter = shared.arbiters.for_newcomer();
    arbiter.spawn_fn(move || {
        if let Ok(stream) = TcpStream::from_std(stream) {
            actix_rt::spawn(serve(stream, transport, registered));
        }
    });
}

/// What comes before AMQP: for whom a proxy speaks, and TLS.
async fn serve(mut stream: TcpStream, transport: Transport, mut registered: Registered) {
    let shared = Arc::clone(&registered.shared);
    let address = registered.peer.ip().to_canonical();
    if shared
        .proxies
        .iter()
        .any(|proxies| proxies.contains(&address))
    {
        let header = proxy::read_header(&mut stream);
        match tokio::time::timeout(shared.handshake_timeout, header).await {
            Ok(Ok(Some(peer))) => registered.peer = peer,
            Ok(Ok(None)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let stream = match (transport, &shared.certificates) {
        (Transport::Tcp, _) => Ok(Stream::Tcp(stream)),
        (Transport::Tls, Some(certificates)) => certificates
            .wrap(stream)
            .map(|tls| Stream::Tls(Box::new(tls))),
        (Transport::Tls, None) => unreachable!("a listener with TLS has certificates"),
    };
    if let Ok(stream) = stream {
        let loopback = is_loopback(registered.peer.ip());
        connection::serve(stream, shared, registered, loopback).await;
    }
}
