//! `GET /receive`: a client's inbox.
//!
//! The answer is assembled in chunks while it is written, so one call holds no more than a chunk and one
//! message beside what is in the broker anyway. The messages are settled once the connection has taken
//! everything but the end of the answer; if it breaks before that, they go back in order.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::body::parse_query;
use super::{ApiError, ClientIdentity, ErrorBody, Services};
use crate::bus::Received;

/// A chunk of the answer is handed over from this size on, bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// How much to hand out.
#[derive(Deserialize)]
struct ReceiveQuery {
    limit: Option<u64>,
    max_bytes: Option<u64>,
}

/// A message from the inbox.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "documentation: items are written without this form in between"
)]
struct ReceivedItem {
    /// What it is about; null for a broadcast without topic.
    topic: Option<String>,
    /// The payload as it was sent, byte for byte if it was JSON.
    message: Value,
    /// The same payload.
    body: Value,
    /// `base64` when the payload is neither JSON nor text.
    encoding: Option<String>,
    /// The client that sent it.
    sender: Option<String>,
    /// Its id.
    id: Option<String>,
    /// When it was accepted: ISO 8601 with offset.
    timestamp: Option<String>,
    /// `publish` or `broadcast`.
    delivery_type: String,
}

/// Registers the route.
pub fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/receive").route(web::get().to(receive)));
}

/// Hands out the messages of the client's inbox, oldest first; an empty inbox is an empty list. They are
/// gone from the inbox once the answer has been written; if the connection breaks before, they come again.
/// Two calls at the same time never get the same message.
#[utoipa::path(get, path = "/receive", tag = "messages", security(("basic" = [])), 
    params(("limit" = Option<u64>, Query, description = "Messages at most; without it, all"),
        ("max_bytes" = Option<u64>, Query,
            description = "Bytes of messages at most, within the server's limit; one message always passes")),
    responses((status = 200, body = Vec<ReceivedItem>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn receive(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let query: ReceiveQuery = parse_query(&request)?;
    let messages_max = query.limit.unwrap_or(u64::MAX);
    let bytes_cap = services.config.limits.receive_max_bytes;
    let bytes_max = query.max_bytes.unwrap_or(u64::MAX).min(bytes_cap);
    let received = services.bus.receive(
        &caller.identity.name,
        usize::try_from(messages_max).unwrap_or(usize::MAX),
        usize::try_from(bytes_max).unwrap_or(usize::MAX),
    )?;
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-store"));
    if received.is_empty() {
        return Ok(answer.body("[]"));
    }
    Ok(answer.body(ReceiveBody::new(received)))
}

/// The answer's body, which settles the messages.
struct ReceiveBody {
    /// `None` once they are settled.
    received: Option<Received>,
    next: usize,
    stage: Stage,
}

enum Stage {
    /// Some of the list is still to be handed over.
    List,
    /// Everything was handed over; the connection has not been asked to write it yet.
    Written,
    /// The connection was asked to write what it has.
    Flushed,
}

impl ReceiveBody {
    fn new(received: Received) -> Self {
        Self {
            received: Some(received),
            next: 0,
            stage: Stage::List,
        }
    }

    fn chunk(&mut self, received: &Received) -> Bytes {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES.min(1024 * received.len()));
        while self.next < received.len() && chunk.len() < CHUNK_BYTES {
            chunk.push(if self.next == 0 { b'[' } else { b',' });
            received.write_item(self.next, &mut chunk);
            self.next += 1;
        }
        if self.next == received.len() {
            chunk.push(b']');
            self.stage = Stage::Written;
        }
        chunk.into()
    }
}

impl MessageBody for ReceiveBody {
    type Error = Infallible;

    /// Without a length, so that the end can only be seen after the messages are settled: a reader that
    /// has the whole answer does not get them again.
    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        let Some(received) = this.received.take() else {
            return Poll::Ready(None);
        };
        match this.stage {
            Stage::List => {
                let chunk = this.chunk(&received);
                this.received = Some(received);
                Poll::Ready(Some(Ok(chunk)))
            }
            Stage::Written => {
                // A connection writes when its body has nothing more for now; so it is asked again at once.
                this.stage = Stage::Flushed;
                this.received = Some(received);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Stage::Flushed => {
                received.settle();
                Poll::Ready(None)
            }
        }
    }
}

/// The route's documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(receive))]
pub(super) struct Api;
