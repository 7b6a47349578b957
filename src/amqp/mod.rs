//! AMQP 0-9-1 over TCP, bare or with TLS, and inside of websockets: listeners, and one task a connection on one of the
//! arbiters.
//!
//! Between two turns a connection may move to another arbiter ([`crate::runtime::arbiters`]); what other threads have for
//! it, they leave at its [`Doorbell`]. Which there are is known to [`Connections`].

mod admission;
mod buffers;
mod connection;
mod connections;
mod doorbell;
mod handshake;
mod last_words;
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
use backbone_wire::frame;
use backbone_wire::method::connection::Tune;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::auth::{Authenticator, is_loopback};
use crate::config::Config;
use crate::runtime::arbiters::Arbiters;
use crate::runtime::{Certificates, Lifecycle, OpenFiles};
use crate::telemetry::{Events, Samples};
use admission::{Admission, TooMany, admit};
pub use backbone_broker::queue::Activity;
pub use backbone_broker::session::report::{ChannelReport, ConsumerReport};
pub use connections::{About, Connections, Report};
pub use doorbell::Doorbell;

/// What the doorbell is made of: `tests/loom` puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};

    pub(super) use futures_util::task::AtomicWaker;
    pub(super) use parking_lot::Mutex;
}
use proxy::Speaker;
use stream::Stream;
use tls::Tls;

/// Bytes read at a time; at least one frame fits.
const READ_BYTES: usize = 256 * 1024;

/// What connections are told when the server ends.
const SHUTDOWN: &str = "broker forced connection closure with reason 'shutdown'";

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
    certificates: Option<Arc<Certificates>>,
    proxies: Vec<IpNet>,
    handshake_timeout: Duration,
    message_bytes_max: u64,
    unacked_max: usize,
    timeout_closes_channel: bool,
    out_bytes_max: usize,
    read_bytes: usize,
    admission: Admission,
    connections: Connections,
    arbiters: Arc<Arbiters>,
    /// Whoever comes now is told to go.
    draining: AtomicBool,
    next_id: AtomicU64,
}

/// A connection's place in the registry, given up when it ends, however it ends.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
    peer: SocketAddr,
    /// Where the peer came to; none for websockets.
    local: Option<SocketAddr>,
    bell: Arc<Doorbell>,
    /// Of what there were too many when it came: it is told at `connection.open`.
    too_many: Option<TooMany>,
    user: Mutex<Option<Arc<str>>>,
    /// The peer has proved who it is.
    known: Arc<AtomicBool>,
}

impl Amqp {
    /// The AMQP side, not listening yet. A listener with TLS needs certificates.
    pub fn new(
        config: &Config,
        vhosts: Arc<Vhosts>,
        auth: Arc<Authenticator>,
        events: Arc<Events>,
        gate: Arc<Gate>,
        arbiters: Arc<Arbiters>,
        certificates: Option<Arc<Certificates>>,
    ) -> Self {
        Self(Arc::new(Shared {
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
            read_bytes: READ_BYTES.max(config.amqp.frame_max_bytes as usize + frame::OVERHEAD),
            admission: Admission::new(config.limits.connections as usize, OpenFiles::allowed()),
            connections: Connections::default(),
            arbiters,
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
        }))
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
        let Some(too_many) = admit(peer, &stream, &self.0) else {
            return Arc::default();
        };
        let registered = Registered::new(Arc::clone(&self.0), peer, None, too_many);
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

    /// The connections.
    pub fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Closes all connections and waits until they are gone, `bound` at most. Returns how many
    /// are left.
    pub async fn drain(&self, bound: Duration) -> usize {
        // Before the look at the registry: who is not in it yet will see this.
        self.0.draining.store(true, Ordering::SeqCst);
        let connections = self.connections();
        connections.close_all(SHUTDOWN);
        let all_gone = async {
            while connections.count() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(bound, all_gone).await;
        connections.count()
    }

    /// Numbers for metrics.
    pub fn sample(&self, samples: &mut Samples) {
        let open = self.connections().count() as f64;
        samples.gauge("backbone_connections", "AMQP connections open", &[], open);
    }
}

impl Registered {
    fn new(
        shared: Arc<Shared>,
        peer: SocketAddr,
        local: Option<SocketAddr>,
        too_many: Option<TooMany>,
    ) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let bell = Arc::<Doorbell>::default();
        shared.connections.insert(id, Arc::clone(&bell));
        if shared.draining.load(Ordering::SeqCst) {
            bell.close(SHUTDOWN);
        }
        Self {
            shared,
            id,
            peer,
            local,
            bell,
            too_many,
            user: Mutex::new(None),
            known: Arc::default(),
        }
    }

    /// The handshake is through.
    fn opened(&self, about: About) {
        let user = Arc::clone(&about.user);
        self.shared.connections.opened(about);
        self.shared.events.connection_opened(self.peer, &user);
        *self.user.lock() = Some(user);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.connections.remove(self.id);
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

fn dispatch(stream: TcpStream, peer: SocketAddr, transport: Transport, shared: &Arc<Shared>) {
    let Some(too_many) = admit(peer, &stream, shared) else {
        return;
    };
    let local = stream.local_addr().ok();
    // A batch leaves in one write; waiting for more would only delay it.
    let ready = stream.set_nodelay(true).and_then(|()| stream.into_std());
    let Ok(stream) = ready else { return };
    let registered = Registered::new(Arc::clone(shared), peer, local, too_many);
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
    let mut is_known = true;
    if shared
        .proxies
        .iter()
        .any(|proxies| proxies.contains(&address))
    {
        let header = proxy::read_header(&mut stream);
        match tokio::time::timeout(shared.handshake_timeout, header).await {
            Ok(Ok(Speaker::Peer(peer))) => registered.peer = peer,
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
        let loopback = is_known && is_loopback(registered.peer.ip());
        connection::serve(stream, shared, registered, loopback).await;
    }
}
