//! `GET /ws/amqp`: AMQP 0-9-1 inside of a websocket, for clients in browsers (subprotocol `amqp`).
//!
//! The websocket's binary messages are a stream of octets each way; how it is cut into messages means nothing. It is
//! handed on through a pair of sockets to a connection like any other.

use std::os::unix::net::UnixStream as StdUnixStream;

use actix_web::web::{self, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse};
use actix_ws::{CloseCode, CloseReason, Item, Message, MessageStream, Session};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ApiError, Services, local};

/// The largest message of a peer; clients send about a frame at a time.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
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
    let (response, session, messages) = actix_ws::handle_with_protocols(&request, body, &["amqp"])?;
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (from_broker, to_broker) = UnixStream::from_std(ours)?.into_split();
    (services.serve_amqp)(theirs, peer, local);
    actix_web::rt::spawn(carry_out(from_broker, session.clone()));
    actix_web::rt::spawn(carry_in(messages, to_broker, session));
    Ok(response)
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
async fn carry_in(messages: MessageStream, mut broker: OwnedWriteHalf, mut session: Session) {
    let mut messages = messages.max_frame_size(MESSAGE_BYTES_MAX);
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
