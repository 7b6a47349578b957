//! Websockets of the bus's clients, on `/`, `/ws` and `/websocket`: what the client sends goes to its outbox, and what comes to its inbox
//! is sent to it, one JSON object a frame.
//!
//! The client proves who it is with the request or with its first frame ([`super::socket_login`]). Frames are taken one after the
//! other, each when the one before is safe; so order is kept and a client that sends faster is not read. Behind a few messages of the
//! inbox goes a ping: they are settled when its pong is back, since then the other side has them. Whatever ends first ends all.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::web::{self, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse, guard};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::amqp_socket::bounded;
use super::handed::{Handed, STALL_MAX};
use super::send::{Way, accept_frame};
use super::{ApiError, Services, socket_login};
use crate::bus::ClientRecord;

/// How long a client may take to prove who it is.
const LOGIN_MAX: Duration = Duration::from_secs(10);
/// How often a client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// A client that says nothing for this long, not even a pong, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Messages and bytes that are taken from the inbox at once.
const PIECE_MESSAGES_MAX: usize = 64;
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What a frame may have beside the payload, bytes.
const OVERHEAD_BYTES_MAX: u64 = 64 * 1024;

/// Registers the routes.
pub fn configure(config: &mut ServiceConfig) {
    let upgrades = guard::fn_guard(|context| {
        let upgrade = context.head().headers().get(header::UPGRADE);
        upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    });
    config
        .service(
            web::resource(["", "/"])
                .guard(upgrades)
                .route(web::get().to(open)),
        )
        .service(web::resource(["/ws", "/websocket"]).route(web::get().to(open)));
}

/// A websocket for a client's outbox and inbox: see docs/BUS.md.
#[utoipa::path(get, path = "/ws", tag = "messages", security((), ("basic" = ["client"])),
    responses((status = 101, description = "the connection is a websocket from now on"),
        (status = 426, body = super::ErrorBody)))]
async fn open(
    services: web::Data<Services>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, Error> {
    if !request.headers().contains_key(header::UPGRADE) {
        let message = "this is for websockets: send an upgrade";
        return Err(
            ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message).into(),
        );
    }
    let known = Arc::new(AtomicBool::new(false));
    let body = bounded(&request, body, Arc::new(Arc::clone(&known).into())).await?;
    let (response, session, frames) = actix_ws::handle(&request, body)?;
    let bytes_max = services.config.limits.max_body_bytes + OVERHEAD_BYTES_MAX;
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let frames = frames
        .max_frame_size(bytes_max)
        .aggregate_continuations()
        .max_continuation_size(bytes_max);
    actix_web::rt::spawn(serve(services, request, session, frames, known));
    Ok(response)
}

/// What is known of the other side.
struct Peer {
    /// When it last said something.
    heard: Cell<Instant>,
    /// Up to which piece it has everything.
    pongs: watch::Sender<u64>,
}

impl Peer {
    fn heard(&self) {
        self.heard.set(Instant::now());
    }

    /// A pong that names a piece says that everything before it has arrived.
    fn pong(&self, payload: &[u8]) {
        if let Ok(number) = payload.try_into().map(u64::from_be_bytes) {
            self.pongs.send_if_modified(|seen| {
                let is_news = number > *seen;
                *seen = number.max(*seen);
                is_news
            });
        }
    }

    /// Returns when it has piece `number`.
    async fn has(&self, number: u64) {
        let mut pongs = self.pongs.subscribe();
        // The sender is ours.
        let _ = pongs.wait_for(|seen| *seen >= number).await;
    }
}

/// One connection, from its handshake to its end.
async fn serve(
    services: web::Data<Services>,
    request: HttpRequest,
    mut session: Session,
    mut frames: AggregatedMessageStream,
    known: Arc<AtomicBool>,
) {
    let login = login(&services, &request, &mut session, &mut frames);
    let record = match tokio::time::timeout(LOGIN_MAX, login).await {
        Ok(Some(Ok(record))) => record,
        Ok(Some(Err(error))) => return refuse(session, &error).await,
        Ok(None) => return,
        Err(_) => {
            let message = "no credentials came in time";
            return refuse(
                session,
                &ApiError::unauthorized("missing_credentials", message),
            )
            .await;
        }
    };
    known.store(true, Ordering::Release);
    let reply = json!({"type": "handshake", "authenticated": true, "client_id": record.client_id});
    if session.text(reply.to_string()).await.is_err() {
        return;
    }
    let peer = Peer {
        heard: Cell::new(Instant::now()),
        pongs: watch::Sender::new(0),
    };
    let reason = tokio::select! {
        reason = carry_in(&services, &record, session.clone(), frames, &peer) => reason,
        reason = carry_out(&services, &record, session.clone(), &peer) => reason,
        reason = keep_alive(session.clone(), &peer) => reason,
        () = services.lifecycle.draining() => Some(CloseCode::Away.into()),
    };
    // The peer may be gone already.
    let _ = session.close(reason).await;
}

/// Who the client is; `None` when it went away.
async fn login(
    services: &Services,
    request: &HttpRequest,
    session: &mut Session,
    frames: &mut AggregatedMessageStream,
) -> Option<Result<Arc<ClientRecord>, ApiError>> {
    let at_once = socket_login::by_request(request).await.transpose();
    let identity = match at_once {
        Some(identity) => identity,
        None => loop {
            match frames.next().await?.ok()? {
                AggregatedMessage::Text(text) => {
                    break socket_login::by_frame(request, &text).await;
                }
                AggregatedMessage::Binary(bytes) => {
                    let text = std::str::from_utf8(&bytes).unwrap_or_default();
                    break socket_login::by_frame(request, text).await;
                }
                AggregatedMessage::Ping(bytes) => session.pong(&bytes).await.ok()?,
                AggregatedMessage::Pong(_) => {}
                AggregatedMessage::Close(_) => return None,
            }
        },
    };
    let client = |identity| socket_login::client(services, identity);
    Some(identity.and_then(client))
}

async fn refuse(mut session: Session, error: &ApiError) {
    let mut reply = error.as_json();
    reply["type"] = "handshake".into();
    reply["authenticated"] = false.into();
    if session.text(reply.to_string()).await.is_ok() {
        let _ = session.close(Some(CloseCode::Policy.into())).await;
    }
}

/// What the client sends, to its outbox or notify queue. Returns why it ends.
async fn carry_in(
    services: &Services,
    record: &Arc<ClientRecord>,
    mut session: Session,
    mut frames: AggregatedMessageStream,
    peer: &Peer,
) -> Option<CloseReason> {
    while let Some(Ok(frame)) = frames.next().await {
        peer.heard();
        let text = match frame {
            AggregatedMessage::Text(text) => text.into_bytes(),
            AggregatedMessage::Binary(bytes) => bytes,
            AggregatedMessage::Ping(bytes) => {
                session.pong(&bytes).await.ok()?;
                continue;
            }
            AggregatedMessage::Pong(payload) => {
                peer.pong(&payload);
                // What it says has arrived is settled before a close behind it is seen.
                tokio::task::yield_now().await;
                continue;
            }
            AggregatedMessage::Close(reason) => return reason,
        };
        if !is_entitled(services, record) {
            return Some(over());
        }
        let reply = match taken(services, &record.client_id, &text).await {
            Ok(reply) => reply,
            Err(error) => {
                let mut reply = error.as_json();
                reply["type"] = "error".into();
                reply
            }
        };
        session.text(reply.to_string()).await.ok()?;
        // Long work of the broker must not be taken for silence.
        peer.heard();
    }
    None
}

/// What says which way a frame takes.
#[derive(Deserialize)]
struct Direction<'a> {
    #[serde(borrow)]
    delivery_type: Option<Cow<'a, str>>,
}

/// Sends a message; returns the reply.
async fn taken(services: &Services, client_id: &str, frame: &[u8]) -> Result<Value, ApiError> {
    // What is no object says so below.
    let direction = serde_json::from_slice(frame).unwrap_or(Direction {
        delivery_type: None,
    });
    let way = match direction.delivery_type.as_deref() {
        None | Some("publish") => Way::Publish,
        Some("broadcast") => Way::Broadcast,
        Some(_) => {
            let message = "delivery_type must be publish or broadcast";
            return Err(ApiError::invalid_field("delivery_type", message));
        }
    };
    let (id, topic) = accept_frame(services, client_id, way, frame).await?;
    Ok(json!({"type": "accepted", "message": "accepted", "id": id, "topic": topic}))
}

/// What comes to the inbox, to the client. Returns why it ends.
async fn carry_out(
    services: &Services,
    record: &Arc<ClientRecord>,
    mut session: Session,
    peer: &Peer,
) -> Option<CloseReason> {
    let (bus, client) = (&services.bus, &record.client_id);
    let mut number = 0_u64;
    loop {
        if !is_entitled(services, record) {
            return Some(over());
        }
        let received = bus.receive(client, PIECE_MESSAGES_MAX, PIECE_BYTES_MAX);
        let received = received.ok()?;
        if received.is_empty() {
            // Whatever it says, the next look tells.
            let _ = bus.wait_for_message(client, PING).await;
            continue;
        }
        let count = received.len();
        let mut handed = Handed::new(received, None);
        handed.watch(STALL_MAX);
        for index in 0..count {
            let mut frame = Vec::new();
            let written =
                handed.with(|received, lease| received.write_item(index, lease, &mut frame));
            written.ok()?;
            session.text(String::from_utf8(frame).ok()?).await.ok()?;
            handed.asked();
        }
        number += 1;
        session.ping(&number.to_be_bytes()).await.ok()?;
        let has_it = tokio::time::timeout(STALL_MAX, peer.has(number));
        has_it.await.ok()?;
        handed.done().ok()?;
    }
}

/// Asks now and then whether the client is there. Returns when it is not.
async fn keep_alive(mut session: Session, peer: &Peer) -> Option<CloseReason> {
    while peer.heard.get().elapsed() < SILENCE_MAX {
        tokio::time::sleep(PING).await;
        session.ping(b"").await.ok()?;
    }
    None
}

/// Whether everything is still as when the client proved who it is. Any change may be one of what it may do.
fn is_entitled(services: &Services, record: &Arc<ClientRecord>) -> bool {
    let now = services.bus.client(&record.client_id);
    now.is_ok_and(|now| Arc::ptr_eq(&now, record))
}

fn over() -> CloseReason {
    CloseReason {
        code: CloseCode::Policy,
        description: Some("the client was changed: connect again".into()),
    }
}

/// The route's documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(open))]
pub(super) struct Api;
