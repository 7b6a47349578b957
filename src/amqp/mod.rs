//! AMQP 0-9-1 over TCP, bare or with TLS, over a UNIX socket, and inside of websockets: listeners, and one task a connection
//! on one of the arbiters.
//!
//! Between two turns a connection may move to another arbiter ([`crate::runtime::arbiters`]); what other threads have for
//! it, they leave at its [`Doorbell`]. Which there are is known to [`Connections`].

mod admission;
mod buffers;
mod connection;
mod connections;
mod doorbell;
mod ends;
mod handshake;
mod last_words;
mod listeners;
mod mechanism;
mod proxy;
mod stream;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backbone_broker::gate::Gate;
use backbone_broker::vhosts::Vhosts;
use backbone_wire::frame;
use backbone_wire::method::connection::Tune;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::auth::Authenticator;
use crate::config::{Config, Mechanism};
use crate::runtime::arbiters::Arbiters;
use crate::runtime::{Certificates, OpenFiles};
use crate::telemetry::{Events, Samples};
use admission::{Admission, TooMany};
pub use backbone_broker::queue::Activity;
pub use backbone_broker::session::report::{ChannelReport, ConsumerReport};
pub use connections::{About, Connections, Report};
pub use doorbell::Doorbell;
pub use ends::Ends;
pub use listeners::Transport;

/// What the doorbell is made of: `tests/loom` puts loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};

    pub(super) use futures_util::task::AtomicWaker;
    pub(super) use parking_lot::Mutex;
}

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
    mechanisms: Vec<Mechanism>,
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
    ends: Ends,
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
            mechanisms: config.amqp.mechanisms.clone(),
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
    fn new(shared: Arc<Shared>, ends: Ends, too_many: Option<TooMany>) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let bell = Arc::<Doorbell>::default();
        shared.connections.insert(id, Arc::clone(&bell));
        if shared.draining.load(Ordering::SeqCst) {
            bell.close(SHUTDOWN);
        }
        Self {
            shared,
            id,
            ends,
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
        self.shared.events.connection_opened(&self.ends, &user);
        *self.user.lock() = Some(user);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.connections.remove(self.id);
        match self.user.lock().take() {
            Some(user) => self.shared.events.connection_closed(&self.ends, &user),
            None => self.shared.events.handshake_failed(&self.ends),
        }
    }
}
