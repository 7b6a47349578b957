//! The HTTP face: actix-web on every address of `http.bind`, all with the same routes.
//!
//! Owns routes, error bodies and how a caller proves itself; each handler calls one service. A feature is a
//! module here with its own `configure`, listed in [`configure`], and, when its handlers are annotated,
//! its `Api` in `docs.rs`. Paths are repaired (doubled slashes, one at the end), never redirected, since
//! clients turn a redirected POST into a GET. There is no access log: queries may hold secrets.

mod acks;
mod amqp_socket;
mod audit;
mod bindings;
mod body;
mod bus_errors;
mod bus_socket;
mod channels;
mod checks;
mod clients;
mod connections;
mod cors;
mod credentials;
mod definitions;
mod docs;
mod error;
mod exchanges;
mod handed;
mod health;
mod limits;
mod listing;
mod local;
mod management;
mod messages;
mod metrics;
mod multipart;
mod overview;
mod parameters;
mod permissions;
mod policies;
mod queues;
mod receive;
mod send;
mod server;
mod several;
mod socket_login;
mod stream;
#[cfg(test)]
mod testing;
mod token;
mod topic_permissions;
mod users;
mod vhosts;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_web::web::ServiceConfig;

pub use body::{BodyKind, body_kind, parse_json, parse_query};
pub use credentials::{Caller, ClientIdentity, Monitor, Operator, Registrar};
pub use error::{ApiError, ErrorBody};
pub use overview::Listener;
pub use server::start;

use crate::amqp::Connections;
use crate::audit::Audit;
use crate::auth::Authenticator;
use crate::bus::Bus;
use crate::config::Config;
use crate::definitions::Definitions;
use crate::engine::Engine;
use crate::runtime::Lifecycle;
use crate::telemetry::Telemetry;

/// Serves whoever speaks AMQP at the other end, for the peer at this address, which may be on this machine. What is returned
/// becomes true when the peer has proved who it is.
pub type ServeAmqp = dyn Fn(UnixStream, SocketAddr, bool) -> Arc<AtomicBool> + Send + Sync;

/// What handlers call; they take it as `web::Data<Services>`.
pub struct Services {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Serves whoever speaks AMQP at the other end.
    pub serve_amqp: Box<ServeAmqp>,
    /// Names and secrets.
    pub auth: Arc<Authenticator>,
    /// Where the server listens.
    pub listeners: Vec<Listener>,
    /// The AMQP connections.
    pub connections: Connections,
    /// Who did what.
    pub audit: Arc<Audit>,
    /// The communications bus.
    pub bus: Bus,
    /// Everything but messages, out and in.
    pub definitions: Definitions,
    /// The broker.
    pub engine: Engine,
    /// Metrics.
    pub telemetry: Telemetry,
    /// The phase of the process.
    pub lifecycle: Lifecycle,
}

/// Registers the routes of every module: a new feature adds its line here.
fn configure(config: &mut ServiceConfig) {
    amqp_socket::configure(config);
    audit::configure(config);
    health::configure(config);
    metrics::configure(config);
    docs::configure(config);
    token::configure(config);
    clients::configure(config);
    exchanges::configure(config);
    queues::configure(config);
    bindings::configure(config);
    messages::configure(config);
    connections::configure(config);
    channels::configure(config);
    overview::configure(config);
    checks::configure(config);
    vhosts::configure(config);
    users::configure(config);
    permissions::configure(config);
    topic_permissions::configure(config);
    limits::configure(config);
    policies::configure(config);
    definitions::configure(config);
    parameters::configure(config);
    send::configure(config);
    receive::configure(config);
    acks::configure(config);
    stream::configure(config);
    bus_socket::configure(config);
}
