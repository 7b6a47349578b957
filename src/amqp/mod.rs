//! AMQP 0-9-1 over TCP: listeners, and one task a connection on one of the arbiters.
//!
//! Owns the registry of connections. A connection's task never moves to another thread; what
//! other threads have for it, they leave at its [`Doorbell`].

mod buffers;
mod connection;
mod doorbell;
mod handshake;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use actix_rt::ArbiterHandle;
use backbone_broker::memory::MemoryGate;
use backbone_broker::vhost::Vhost;
use backbone_wire::method::connection::Tune;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::runtime::Lifecycle;
use crate::telemetry::{Events, Samples};
pub use doorbell::Doorbell;

/// Messages that a channel may hold unsettled; delivery to it pauses there.
const UNACKED_PER_CHANNEL_MAX: usize = 1_048_576;
/// Bytes read at a time; at least one frame fits.
const READ_BYTES: usize = 256 * 1024;

/// The AMQP side of the server.
#[derive(Clone)]
pub struct Amqp(Arc<Shared>);

/// What all connections share.
struct Shared {
    vhost: Arc<Vhost>,
    auth: Arc<Authenticator>,
    events: Arc<Events>,
    memory: Arc<MemoryGate>,
    tune: Tune,
    handshake_timeout: Duration,
    message_bytes_max: u64,
    unacked_max: usize,
    out_bytes_max: usize,
    read_bytes: usize,
    connections_max: usize,
    connections: DashMap<u64, Entry>,
    next_id: AtomicU64,
    next_arbiter: AtomicUsize,
}

struct Entry {
    bell: Arc<Doorbell>,
    user: Option<Arc<str>>,
}

/// A connection's place in the registry, given up when it ends, however it ends.
struct Registered {
    shared: Arc<Shared>,
    id: u64,
    peer: SocketAddr,
    bell: Arc<Doorbell>,
    user: Mutex<Option<Arc<str>>>,
}

impl Amqp {
    /// The AMQP side, not listening yet.
    pub fn new(
        config: &Config,
        vhost: Arc<Vhost>,
        auth: Arc<Authenticator>,
        events: Arc<Events>,
        memory: Arc<MemoryGate>,
    ) -> Self {
        Self(Arc::new(Shared {
            vhost,
            auth,
            events,
            memory,
            tune: Tune {
                channel_max: config.amqp.channel_max,
                frame_max: config.amqp.frame_max_bytes,
                heartbeat: config.amqp.heartbeat_s,
            },
            handshake_timeout: Duration::from_millis(config.amqp.handshake_timeout_ms),
            message_bytes_max: config.limits.max_body_bytes,
            unacked_max: UNACKED_PER_CHANNEL_MAX,
            out_bytes_max: config.limits.out_buffer_bytes as usize,
            read_bytes: READ_BYTES.max(config.amqp.frame_max_bytes as usize),
            connections_max: config.limits.connections as usize,
            connections: DashMap::new(),
            next_id: AtomicU64::new(1),
            next_arbiter: AtomicUsize::new(0),
        }))
    }

    /// Serves the connections that come to `listener` on `arbiters` in turn, until the process drains.
    pub fn listen(&self, listener: TcpListener, arbiters: &[ArbiterHandle], lifecycle: &Lifecycle) {
        let (shared, lifecycle) = (Arc::clone(&self.0), lifecycle.clone());
        let arbiters = arbiters.to_vec();
        let first = arbiters[0].clone();
        first.spawn_fn(move || {
            actix_rt::spawn(async move {
                tokio::select! {
                    () = accept(listener, &shared, &arbiters) => {}
                    () = lifecycle.draining() => {}
                }
            });
        });
    }

    /// Closes all connections of `user`, telling them why.
    pub fn close_user(&self, user: &str, reason: &str) {
        for entry in &self.0.connections {
            if entry.user.as_deref() == Some(user) {
                entry.bell.close(reason);
            }
        }
    }

    /// Closes all connections and waits until they are gone, `bound` at most. Returns how many
    /// are left.
    pub async fn drain(&self, bound: Duration) -> usize {
        for entry in &self.0.connections {
            entry.bell.close("shutdown");
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
    fn new(shared: Arc<Shared>, peer: SocketAddr) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let bell = Arc::<Doorbell>::default();
        let entry = Entry {
            bell: Arc::clone(&bell),
            user: None,
        };
        shared.connections.insert(id, entry);
        Self {
            shared,
            id,
            peer,
            bell,
            user: Mutex::new(None),
        }
    }

    /// The peer says that it is `user`. Noted before its secret is checked: if the user is deleted
    /// at that moment, either the check fails or the connection hears of it.
    fn claim(&self, user: &str) {
        if let Some(mut entry) = self.shared.connections.get_mut(&self.id) {
            entry.user = Some(user.into());
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

async fn accept(listener: TcpListener, shared: &Arc<Shared>, arbiters: &[ArbiterHandle]) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return shared.events.accept_failed(&error),
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => dispatch(stream, peer, shared, arbiters),
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                shared.events.accept_failed(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn dispatch(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, arbiters: &[ArbiterHandle]) {
    if shared.connections.len() >= shared.connections_max {
        return shared.events.connection_refused(peer);
    }
    // A batch leaves in one write; waiting for more would only delay it.
    let ready = stream.set_nodelay(true).and_then(|()| stream.into_std());
    let Ok(stream) = ready else { return };
    let registered = Registered::new(Arc::clone(shared), peer);
    let shared = Arc::clone(shared);
    let turn = shared.next_arbiter.fetch_add(1, Ordering::Relaxed);
    arbiters[turn % arbiters.len()].spawn_fn(move || {
        let Ok(stream) = TcpStream::from_std(stream) else {
            return;
        };
        actix_rt::spawn(connection::serve(stream, shared, registered));
    });
}
