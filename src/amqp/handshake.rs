//! From the first byte to `connection.open-ok` (AMQP 0-9-1 §2.2.4, §4.2.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backbone_broker::Error;
use backbone_broker::access::Access;
use backbone_broker::quota::{Full, Place};
use backbone_broker::vhost::Vhost;
use backbone_wire::error::ReplyCode;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, connection};
use backbone_wire::table::{Table, TableBuf, Value};
use backbone_wire::{PROTOCOL_HEADER, ShortStr};

use super::buffers::ReadBuffer;
use super::connections::About;
use super::stream::Stream;
use super::{Registered, Shared, mechanism};
use crate::auth::{Identity, Peer};
use crate::config::Mechanism;

/// AMQP 0-9, whose frames and methods are those of 0-9-1.
const HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\0\x09";
/// Smallest frame-max that a peer may ask for (AMQP 0-9-1 §4.2.3).
const FRAME_MAX_MIN: u32 = 4096;
/// Largest frame before the connection is open: whoever has no credentials holds no more memory.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// How long a login that was refused is left without an answer, so that guessing is slow.
const REFUSED_DELAY: Duration = Duration::from_millis(1000);

/// What was agreed.
pub(super) struct Opened {
    pub user: Arc<str>,
    pub vhost: Arc<Vhost>,
    /// Its places among the connections to the vhost and of the user.
    pub places: Places,
    pub access: Access,
    pub channel_max: u16,
    pub frame_max: u32,
    /// Seconds; 0 = none.
    pub heartbeat_s: u16,
    pub cancel_notify: bool,
    pub blocked_notify: bool,
    mechanism: Vec<u8>,
    /// A raw field table.
    client_properties: Vec<u8>,
}

impl Opened {
    /// What is said of the connection from now on.
    pub fn about(&self, registered: &Registered, stream: &Stream) -> About {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        About {
            id: registered.id,
            ends: registered.ends.clone(),
            user: Arc::clone(&self.user),
            vhost: Arc::clone(self.vhost.name()),
            mechanism: String::from_utf8_lossy(&self.mechanism).into_owned(),
            client_properties: self.client_properties.clone(),
            channel_max: self.channel_max,
            frame_max: self.frame_max,
            heartbeat_s: self.heartbeat_s,
            connected_at_ms: since_1970.unwrap_or_default().as_millis() as u64,
            tls: stream.protection(),
        }
    }
}

/// What limits of connections count.
pub(super) type Places = [Option<Place>; 2];

/// What a `connection.open` led to.
struct Entered {
    vhost: Arc<Vhost>,
    places: Places,
    access: Access,
}

/// Why a handshake ended without a connection.
pub(super) enum Failed {
    /// The peer went away, or is dropped without a word.
    Dropped,
    /// The peer speaks something else: it is told what we speak (§4.2.2).
    OtherProtocol,
    /// The peer is told.
    Refused {
        error: Error,
        class: u16,
        method: u16,
    },
}

impl From<std::io::Error> for Failed {
    fn from(_: std::io::Error) -> Self {
        Self::Dropped
    }
}

struct Handshake<'a> {
    stream: &'a mut Stream,
    shared: &'a Shared,
    input: &'a mut ReadBuffer,
    consumed: usize,
}

/// Agrees with the peer on a connection. What it sent beyond stays in `input`.
pub(super) async fn run(
    stream: &mut Stream,
    registered: &Registered,
    loopback: bool,
    input: &mut ReadBuffer,
) -> Result<Opened, Failed> {
    let mut handshake = Handshake {
        stream,
        shared: &registered.shared,
        input,
        consumed: 0,
    };
    handshake.protocol_header().await?;
    handshake.write_start().await?;
    let login = handshake.start_ok().await?;
    let identity = handshake.login(&login, registered, loopback).await?;
    let agreed = handshake.tune().await?;
    let entered = handshake.open(registered, &identity).await?;
    handshake.input.consume(handshake.consumed);
    Ok(Opened {
        user: identity.name,
        vhost: entered.vhost,
        places: entered.places,
        access: entered.access,
        channel_max: agreed.channel_max,
        frame_max: agreed.frame_max,
        heartbeat_s: agreed.heartbeat,
        cancel_notify: login.cancel_notify,
        blocked_notify: login.blocked_notify,
        mechanism: login.mechanism,
        client_properties: login.client_properties,
    })
}

/// A start-ok, kept beyond its frame.
struct Login {
    mechanism: Vec<u8>,
    response: Vec<u8>,
    client_properties: Vec<u8>,
    failure_close: bool,
    cancel_notify: bool,
    blocked_notify: bool,
}

impl Handshake<'_> {
    async fn protocol_header(&mut self) -> Result<(), Failed> {
        loop {
            let got = self.input.filled();
            let prefix = got.len().min(8);
            let is_ours = |header: [u8; 8]| header[..prefix] == got[..prefix];
            if !is_ours(PROTOCOL_HEADER) && !is_ours(HEADER_0_9) {
                return Err(Failed::OtherProtocol);
            }
            if prefix == 8 {
                self.consumed = 8;
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn write_start(&mut self) -> Result<(), Failed> {
        let properties = server_properties();
        let certified = self.stream.certified_name().is_some();
        let offered = self.shared.mechanisms.iter();
        let offered = offered.filter(|it| certified || **it != Mechanism::External);
        let offered: Vec<_> = offered.map(|it| it.name()).collect();
        let mechanisms = offered.join(" ");
        let mut out = Vec::new();
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties.as_table(),
            mechanisms: mechanisms.as_bytes(),
            locales: b"en_US",
        };
        start.write(0, &mut out);
        self.write(&out).await
    }

    async fn start_ok(&mut self) -> Result<Login, Failed> {
        self.method(|method| match method {
            Method::ConnectionStartOk(ok) => {
                let capabilities = match ok.client_properties.get("capabilities") {
                    Some(Value::Table(capabilities)) => capabilities,
                    _ => Table::EMPTY,
                };
                let can = |name| capabilities.get(name).and_then(|v| v.as_bool()) == Some(true);
                Some(Login {
                    mechanism: ok.mechanism.as_bytes().to_vec(),
                    response: ok.response.to_vec(),
                    client_properties: ok.client_properties.as_bytes().to_vec(),
                    failure_close: can("authentication_failure_close"),
                    cancel_notify: can("consumer_cancel_notify"),
                    blocked_notify: can("connection.blocked"),
                })
            }
            _ => None,
        })
        .await
    }

    async fn login(
        &mut self,
        login: &Login,
        registered: &Registered,
        loopback: bool,
    ) -> Result<Identity, Failed> {
        let peer = Peer {
            address: registered.ends.peer_address(),
            is_local: loopback,
        };
        let mut offered = self.shared.mechanisms.iter();
        let mechanism = offered.find(|it| it.name().as_bytes() == login.mechanism);
        let certified = match mechanism {
            Some(Mechanism::External) => self.stream.certified_name(),
            _ => None,
        };
        let credentials = match mechanism {
            Some(Mechanism::Plain) => mechanism::plain(&login.response),
            Some(Mechanism::AmqPlain) => mechanism::amqplain(&login.response),
            Some(Mechanism::RabbitCrDemo) => {
                mechanism::answered(&login.response, &self.password().await?)
            }
            Some(Mechanism::External) | None => None,
        };
        let auth = &self.shared.auth;
        let mut identity = None;
        if let Some((user, password)) = credentials {
            self.shared.connections.claim(registered.id, &user);
            identity = auth.login(&user, &password, peer).await.ok();
        } else if let Some(user) = certified {
            self.shared.connections.claim(registered.id, &user);
            identity = auth.login_certified(&user, peer).ok();
        }
        if let Some(identity) = identity {
            self.shared.connections.proved(registered.id, &identity);
            registered.known.store(true, Ordering::Release);
            return Ok(identity);
        }
        if !login.failure_close {
            tokio::time::sleep(REFUSED_DELAY).await;
            return Err(Failed::Dropped);
        }
        let mechanism = String::from_utf8_lossy(&login.mechanism).into_owned();
        Err(Failed::Refused {
            error: Error::access_refused(format!(
                "Login was refused using authentication mechanism {mechanism}. \
                 For details see the broker logfile."
            )),
            class: 0,
            method: 0,
        })
    }

    /// The answer to who is asked for its password.
    async fn password(&mut self) -> Result<Vec<u8>, Failed> {
        let mut out = Vec::new();
        let challenge = mechanism::CHALLENGE;
        connection::Secure { challenge }.write(0, &mut out);
        self.write(&out).await?;
        self.method(|method| match method {
            Method::ConnectionSecureOk(ok) => Some(ok.response.to_vec()),
            _ => None,
        })
        .await
    }

    /// What both sides can do: no more than the lower of both limits.
    async fn tune(&mut self) -> Result<connection::TuneOk, Failed> {
        let ours = self.shared.tune;
        let mut out = Vec::new();
        ours.write(0, &mut out);
        self.write(&out).await?;
        let theirs = self
            .method(|method| match method {
                Method::ConnectionTuneOk(ok) => Some(ok),
                _ => None,
            })
            .await?;
        let frame_max = agreed("frame_max", theirs.frame_max, ours.frame_max)?;
        if frame_max < FRAME_MAX_MIN {
            return Err(not_allowed(format!(
                "negotiated frame_max = {frame_max} is lower than the minimum allowed value ({FRAME_MAX_MIN})"
            )));
        }
        let channel_max = agreed(
            "channel_max",
            theirs.channel_max.into(),
            ours.channel_max.into(),
        )?;
        Ok(connection::TuneOk {
            channel_max: channel_max as u16,
            frame_max,
            heartbeat: theirs.heartbeat,
        })
    }

    /// Lets `identity` into the vhost that it asks for.
    async fn open(
        &mut self,
        registered: &Registered,
        identity: &Identity,
    ) -> Result<Entered, Failed> {
        let name = self
            .method(|method| match method {
                Method::ConnectionOpen(open) => Some(open.virtual_host.as_bytes().to_vec()),
                _ => None,
            })
            .await?;
        let name = String::from_utf8_lossy(&name);
        self.shared.connections.claim_vhost(registered.id, &name);
        let entered = self.enter(&name, identity).map_err(refused_to_open)?;
        if let Some(too_many) = registered.too_many {
            return Err(refused_to_open(too_many.reason()));
        }
        let mut out = Vec::new();
        connection::OpenOk {}.write(0, &mut out);
        self.write(&out).await?;
        Ok(entered)
    }

    /// The vhost `name`, if there is one and `identity` may have a connection to it; else why not.
    fn enter(&self, name: &str, identity: &Identity) -> Result<Entered, String> {
        let user = &identity.name;
        let Some(vhost) = self.shared.vhosts.get(name) else {
            return Err(format!("vhost {name} not found"));
        };
        let refused = format!("access to vhost '{name}' refused for user '{user}'");
        let of_vhost = vhost.connections().take();
        let of_vhost = of_vhost
            .map_err(|Full(max)| format!("{refused}: connection limit ({max}) is reached"))?;
        let auth = &self.shared.auth;
        let of_user = auth.connection(identity).map_err(|Full(max)| {
            format!(
                "connection refused for user '{user}': user connection limit ({max}) is reached"
            )
        })?;
        let access = auth.access(identity, name).ok_or(refused)?;
        Ok(Entered {
            vhost,
            places: [Some(of_vhost), of_user],
            access,
        })
    }

    /// The next method, of which `take` keeps what it needs; `None` from it means that this
    /// method was not due. Heartbeats are passed over; a close is answered.
    async fn method<T>(&mut self, take: impl Fn(Method<'_>) -> Option<T>) -> Result<T, Failed> {
        let max_payload = FRAME_BYTES_MAX - frame::OVERHEAD;
        loop {
            let bytes = &self.input.filled()[self.consumed..];
            let parsed = frame::parse(bytes, max_payload).map_err(|error| Failed::Refused {
                error: Error::new(error.reply_code(), error.to_string()),
                class: 0,
                method: 0,
            })?;
            let Some((frame, used)) = parsed else {
                self.read().await?;
                continue;
            };
            self.consumed += used;
            match frame.kind {
                FrameKind::Heartbeat => continue,
                FrameKind::Method if frame.channel == 0 => {}
                _ => return Err(unexpected(0, 0)),
            }
            let method = Method::decode(frame.payload).map_err(|error| Failed::Refused {
                error: Error::new(error.reply_code(), error.to_string()),
                class: error.class_id(),
                method: error.method_id(),
            })?;
            if let Method::ConnectionClose(_) = method {
                let mut out = Vec::new();
                connection::CloseOk {}.write(0, &mut out);
                self.write(&out).await?;
                return Err(Failed::Dropped);
            }
            let ids = (method.class_id(), method.method_id());
            return take(method).ok_or_else(|| unexpected(ids.0, ids.1));
        }
    }

    async fn read(&mut self) -> Result<(), Failed> {
        self.input.consume(self.consumed);
        self.consumed = 0;
        loop {
            // Nobody who says nothing, or stops half way, holds a buffer.
            self.input.rest();
            self.stream.rest();
            self.stream.readable().await?;
            match self.stream.try_read(self.input.room(FRAME_BYTES_MAX)) {
                Ok(0) => return Err(Failed::Dropped),
                Ok(count) => {
                    self.input.grow(count);
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.stream.write_all(bytes).await.map_err(Failed::from)
    }
}

/// The lower of both limits; a peer may not ask for more than ours, and 0 is more.
fn agreed(what: &str, theirs: u32, ours: u32) -> Result<u32, Failed> {
    if ours != 0 && (theirs == 0 || theirs > ours) {
        return Err(not_allowed(format!(
            "negotiated {what} = {theirs} is higher than the maximum allowed value ({ours})"
        )));
    }
    Ok(theirs)
}

fn not_allowed(text: String) -> Failed {
    Failed::Refused {
        error: Error::not_allowed(text),
        class: 10,
        method: 31,
    }
}

/// A `connection.open` that leads nowhere.
fn refused_to_open(text: String) -> Failed {
    Failed::Refused {
        error: Error::not_allowed(text),
        class: 10,
        method: 40,
    }
}

fn unexpected(class: u16, method: u16) -> Failed {
    let text = "unexpected frame before the connection is open";
    Failed::Refused {
        error: Error::new(ReplyCode::ChannelError, text),
        class,
        method,
    }
}

fn server_properties() -> TableBuf {
    let mut capabilities = TableBuf::new();
    for capability in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.put(capability, &Value::Bool(true));
    }
    let mut properties = TableBuf::new();
    properties.put("capabilities", &Value::Table(capabilities.as_table()));
    for (key, text) in [
        ("cluster_name", "backbone"),
        ("copyright", "Copyright the Backbone authors"),
        ("information", "Licensed under the Apache License 2.0"),
        ("platform", "Rust"),
        ("product", "Backbone"),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        properties.put(key, &Value::LongStr(text.as_bytes()));
    }
    properties
}

/// A refusal as a frame for the peer.
pub(super) fn close_frame(error: &Error, class: u16, method: u16) -> Vec<u8> {
    let text = error.code.reply_text(&error.text);
    let mut out = Vec::new();
    let close = connection::Close {
        reply_code: error.code.code(),
        reply_text: ShortStr::new(text.as_bytes()).unwrap_or_default(),
        class_id: class,
        method_id: method,
    };
    close.write(0, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_lower_limits_and_not_raise_them() {
        assert!(matches!(agreed("x", 5, 10), Ok(5)));
        assert!(matches!(agreed("x", 10, 10), Ok(10)));
        assert!(agreed("x", 11, 10).is_err() && agreed("x", 0, 10).is_err());
        assert!(matches!(agreed("x", 0, 0), Ok(0)));
    }
}
