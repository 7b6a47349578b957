//! `GET /ws/amqp`: AMQP 0-9-1 inside of a websocket, for clients in browsers (subprotocol `amqp`).
//!
//! The websocket's binary messages are a stream of octets each way; how it is cut into messages means nothing. It is
//! handed on through a pair of sockets to a connection like any other.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::web::{self, ServiceConfig};
use actix_web::{Error, FromRequest, HttpRequest, HttpResponse};
use actix_ws::{CloseCode, CloseReason, Item, Message, MessageStream, Session};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ApiError, Services, local};

/// What a peer may send before it has proved who it is.
const UNKNOWN_BYTES_MAX: usize = 64 * 1024;
/// How much larger than a body the largest websocket message may be: clients send all frames of an AMQP message in one.
const OVERHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The largest message to a peer.
const READ_BYTES: usize = 64 * 1024;

pub(super) fn configure(config: &mut ServiceConfig) {
    config.route("/ws/amqp", web::get().to(open));
}

async fn open(
    services: web::Data<Services>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, Error> {
    let peer = request
        .peer_addr()
        .ok_or_else(|| ApiError::forbidden("the peer has no address"))?;
    let local = local::is_local(&request);
    let known = Arc::new(OnceLock::new());
    let body = bounded(&request, body, Arc::clone(&known)).await?;
    let (response, session, messages) = actix_ws::handle_with_protocols(&request, body, &["amqp"])?;
    let message_bytes_max = services.config.limits.max_body_bytes + OVERHEAD_BYTES_MAX;
    let messages = messages.max_frame_size(message_bytes_max as usize);
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (from_broker, to_broker) = UnixStream::from_std(ours)?.into_split();
    known.get_or_init(|| (services.serve_amqp)(theirs, peer, local));
    actix_web::rt::spawn(carry_out(from_broker, session.clone()));
    actix_web::rt::spawn(carry_in(messages, to_broker, session));
    Ok(response)
}

/// The same octets, but no more than a few from a peer who is not known: a websocket message is kept until it is whole.
pub(super) async fn bounded(
    request: &HttpRequest,
    body: web::Payload,
    known: Arc<OnceLock<Arc<AtomicBool>>>,
) -> Result<web::Payload, Error> {
    let mut seen = 0;
    let stream = body.map(move |octets| {
        let octets = octets?;
        let known = known.get();
        let is_known = known.is_some_and(|known| known.load(Ordering::Acquire));
        if !is_known {
            seen += octets.len();
        }
        match is_known || seen <= UNKNOWN_BYTES_MAX {
            true => Ok(octets),
            false => Err(PayloadError::Overflow),
        }
    });
    let payload = Box::pin(stream);
    let mut payload: Payload = Payload::Stream { payload };
    web::Payload::from_request(request, &mut payload).await
}

/// What the broker says, to the peer.
async fn carry_out(mut broker: OwnedReadHalf, mut session: Session) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = broker.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            // The peer may be gone already.
            let _ = session.close(None).await;
            return;
        }
        let message = buffer[..count].to_vec();
        if session.binary(message).await.is_err() {
            return;
        }
    }
}

/// What the peer says, to the broker.
async fn carry_in(mut messages: MessageStream, mut broker: OwnedWriteHalf, mut session: Session) {
    while let Some(Ok(message)) = messages.next().await {
        let octets = match message {
            Message::Binary(octets) => octets,
            Message::Continuation(
                Item::FirstBinary(octets) | Item::Continue(octets) | Item::Last(octets),
            ) => octets,
            Message::Ping(octets) => match session.pong(&octets).await {
                Ok(()) => continue,
                Err(_) => return,
            },
            Message::Pong(_) | Message::Nop => continue,
            Message::Text(_) | Message::Continuation(Item::FirstText(_)) => {
                let reason = CloseReason {
                    code: CloseCode::Unsupported,
                    description: Some("AMQP comes in binary messages".into()),
                };
                let _ = session.close(Some(reason)).await;
                return;
            }
            Message::Close(_) => return,
        };
        if broker.write_all(&octets).await.is_err() {
            return;
        }
    }
}
