//! `GET /receive`: a client's inbox.
//!
//! The answer is assembled in chunks while it is written, so one call holds no more than a chunk and one
//! message beside what is in the broker anyway. The messages are settled once the connection has taken
//! everything but the end of the answer; if it breaks or stalls before that, they go back in order.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::Version;
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::body::parse_query;
use super::handed::{Handed, STALL_MAX, Stalled};
use super::{ApiError, ClientIdentity, ErrorBody, Services};
use crate::bus::{Lease, Received};

/// A chunk of the answer is handed over from this size on, bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// The longest that a call may wait for a message, seconds.
const WAIT_MAX_S: f64 = 60.0;

/// How long a reader has its messages if it does not say, and how long it may, seconds.
const LEASE_S: f64 = 30.0;
const LEASE_MIN_S: f64 = 0.1;
const LEASE_MAX_S: f64 = 3600.0;

/// How much to hand out.
#[derive(Deserialize)]
struct ReceiveQuery {
    limit: Option<u64>,
    max_bytes: Option<u64>,
    wait: Option<f64>,
    ack: Option<String>,
    lease: Option<f64>,
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
    /// With `ack=explicit`: the id for `/ack` and `/nack`.
    ack: Option<String>,
    /// With `ack=explicit`: whether the message was handed out before and came back.
    redelivered: Option<bool>,
}

/// Registers the route.
pub fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/receive").route(web::get().to(receive)));
}

/// Hands out the messages of the client's inbox, oldest first; an empty inbox is an empty list. They are
/// gone from the inbox once the answer has been written; if the connection breaks before, they come again.
/// Two calls at the same time never get the same message.
///
/// With `ack=explicit` the caller has the messages for `lease` seconds from the end of the answer on. What it does not acknowledge
/// in that time with `/ack` comes again, in its old place.
#[utoipa::path(get, path = "/receive", tag = "messages", security(("basic" = ["client"])), 
    params(("limit" = Option<u64>, Query, description = "Messages at most; without it, all"),
        ("max_bytes" = Option<u64>, Query,
            description = "Bytes of messages at most, within the server's limit; one message always passes"),
        ("wait" = Option<f64>, Query,
            description = "Seconds to wait for a message if there is none, 60 at most; without it, none"),
        ("ack" = Option<String>, Query,
            description = "`write`, the default: messages are gone once the answer has been written; `explicit`: once they are acknowledged"),
        ("lease" = Option<f64>, Query,
            description = "With `ack=explicit`: seconds in which to acknowledge, 0.1 to 3600; without it, 30")),
    responses((status = 200, body = Vec<ReceivedItem>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 429, body = ErrorBody)))]
async fn receive(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let query: ReceiveQuery = parse_query(&request)?;
    let client = &caller.identity.name;
    let patience = patience(query.wait)?;
    let mut bounds = Bounds {
        messages: within(query.limit, u64::MAX),
        bytes: within(query.max_bytes, services.config.limits.receive_max_bytes),
    };
    let lease = match lease_time(query.ack.as_deref(), query.lease)? {
        Some(time) => Some(bounds.within(services.bus.lease(client, time)?)),
        None => None,
    };
    let take = || services.bus.receive(client, bounds.messages, bounds.bytes);
    let deadline = Instant::now() + patience;
    let mut received = take()?;
    while received.is_empty() && bounds.messages > 0 && Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        services.bus.wait_for_message(client, left).await?;
        received = take()?;
    }
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-store"));
    if received.is_empty() {
        return Ok(answer.body("[]"));
    }
    // A reader of HTTP/1.0 knows no chunks: it reads until the connection ends.
    let knows_chunks = request.version() >= Version::HTTP_11;
    if !knows_chunks {
        answer.force_close();
    }
    let mut answer = answer.body(ReceiveBody::new(received, lease, STALL_MAX));
    answer.head_mut().no_chunking(!knows_chunks);
    Ok(answer)
}

/// How much to take.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub messages: usize,
    pub bytes: usize,
}

impl Bounds {
    /// Keeps within the room of a lease.
    pub fn within(&mut self, prepared: (Lease, usize, usize)) -> Lease {
        let (lease, messages, bytes) = prepared;
        self.messages = self.messages.min(messages);
        self.bytes = self.bytes.min(bytes);
        lease
    }
}

/// A bound that a query asks for, within ours.
fn within(asked: Option<u64>, max: u64) -> usize {
    let bound = asked.unwrap_or(u64::MAX).min(max);
    usize::try_from(bound).unwrap_or(usize::MAX)
}

/// How long the reader has the messages; `None` if they are its own at once.
pub(super) fn lease_time(
    ack: Option<&str>,
    lease: Option<f64>,
) -> Result<Option<Duration>, ApiError> {
    match (ack, lease) {
        (None | Some("write"), None) => Ok(None),
        (None | Some("write"), Some(_)) => Err(ApiError::invalid_field(
            "lease",
            "lease is for ack=explicit: otherwise messages are gone once the answer has been written",
        )),
        (Some("explicit"), lease) => {
            let seconds = lease.unwrap_or(LEASE_S);
            match (LEASE_MIN_S..=LEASE_MAX_S).contains(&seconds) {
                true => Ok(Some(Duration::from_secs_f64(seconds))),
                false => {
                    let message = format!("lease must be {LEASE_MIN_S} to {LEASE_MAX_S} seconds");
                    Err(ApiError::invalid_field("lease", message))
                }
            }
        }
        // Taking messages out for somebody who counts on getting them again would lose them.
        (Some(_), _) => Err(ApiError::invalid_field(
            "ack",
            "ack must be 'write', when messages are gone once the answer has been written, or 'explicit'",
        )),
    }
}

/// How long to wait for a message.
fn patience(wait_s: Option<f64>) -> Result<Duration, ApiError> {
    // `f64::min` would take a NaN for the maximum.
    let seconds = wait_s.unwrap_or(0.0).clamp(-1.0, WAIT_MAX_S);
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| ApiError::invalid_field("wait", "wait must be a number of seconds, 0 or more"))
}

/// The answer's body, which settles the messages.
struct ReceiveBody {
    handed: Handed,
    next: usize,
    stage: Stage,
    stall_max: Duration,
}

enum Stage {
    /// Some of the list is still to be handed over.
    List,
    /// Everything was handed over; the connection has not been asked to write it yet.
    Written,
    /// The connection was asked to write what it has.
    Flushed,
    /// The messages are settled, or the reader's for a while.
    Settled,
}

impl ReceiveBody {
    fn new(received: Received, lease: Option<Lease>, stall_max: Duration) -> Self {
        Self {
            handed: Handed::new(received, lease),
            next: 0,
            stage: Stage::List,
            stall_max,
        }
    }

    fn chunk(&mut self) -> Result<Bytes, Stalled> {
        let next = &mut self.next;
        let (chunk, is_all) = self.handed.with(|received, lease| {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES.min(1024 * received.len()));
            while *next < received.len() && chunk.len() < CHUNK_BYTES {
                chunk.push(if *next == 0 { b'[' } else { b',' });
                received.write_item(*next, lease, &mut chunk);
                *next += 1;
            }
            let is_all = *next == received.len();
            if is_all {
                chunk.push(b']');
            }
            (chunk, is_all)
        })?;
        if is_all {
            self.stage = Stage::Written;
        }
        if chunk.len() >= CHUNK_BYTES {
            self.handed.watch(self.stall_max);
        }
        Ok(chunk.into())
    }
}

impl MessageBody for ReceiveBody {
    type Error = Box<dyn std::error::Error>;

    /// Without a length, so that the end can only be seen after the messages are settled: a reader that
    /// has the whole answer does not get them again.
    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        this.handed.asked();
        match this.stage {
            Stage::List => {
                let chunk = this.chunk();
                Poll::Ready(Some(chunk.map_err(Into::into)))
            }
            Stage::Written => {
                // A connection writes when its body has nothing more for now; so it is asked again at once.
                this.stage = Stage::Flushed;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Stage::Flushed => {
                this.stage = Stage::Settled;
                match this.handed.done() {
                    Ok(()) => Poll::Ready(None),
                    Err(stalled) => Poll::Ready(Some(Err(stalled.into()))),
                }
            }
            Stage::Settled => Poll::Ready(None),
        }
    }
}

/// The route's documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(receive))]
pub(super) struct Api;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use serde_json::value::RawValue;

    use super::super::testing::services;
    use super::*;
    use crate::bus::{Bus, NewClient, Payload};

    /// A bus with `count` messages of 100 kB each in the inbox of `a`.
    async fn bus_with(count: usize) -> Bus {
        let bus = services(|_| {}).await.bus.clone();
        let new = NewClient {
            client_id: Some("a".into()),
            ..NewClient::default()
        };
        bus.create_client(new).await.unwrap();
        let json = format!("\"{}\"", "x".repeat(100_000));
        let payload: &RawValue = serde_json::from_str(&json).unwrap();
        for _ in 0..count {
            let sent = bus.notify("a", None, Payload::Json(payload)).await;
            sent.unwrap();
        }
        let begin = Instant::now();
        while bus.receive("a", usize::MAX, usize::MAX).unwrap().len() < count {
            assert!(begin.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bus
    }

    fn take(bus: &Bus) -> Received {
        bus.receive("a", usize::MAX, usize::MAX).unwrap()
    }

    async fn next(body: &mut ReceiveBody) -> Option<Result<Bytes, Box<dyn std::error::Error>>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await
    }

    #[test]
    fn patience_is_bounded_and_is_a_number() {
        assert_eq!(patience(None).unwrap(), Duration::ZERO);
        assert_eq!(patience(Some(0.5)).unwrap(), Duration::from_millis(500));
        assert_eq!(patience(Some(1e9)).unwrap(), Duration::from_secs(60));
        for nonsense in [-0.1, f64::NAN, f64::NEG_INFINITY] {
            assert!(patience(Some(nonsense)).is_err(), "{nonsense}");
        }
    }

    #[actix_web::test]
    async fn messages_are_settled_with_the_end_of_the_answer() {
        let bus = bus_with(3).await;
        let mut body = ReceiveBody::new(take(&bus), None, STALL_MAX);
        let mut answer = Vec::new();
        for _ in 0..3 {
            answer.extend(next(&mut body).await.unwrap().unwrap());
        }
        let items: Vec<Value> = serde_json::from_slice(&answer).unwrap();
        assert_eq!(items.len(), 3);
        assert!(next(&mut body).await.is_none());
        assert!(next(&mut body).await.is_none());
        drop(body);
        assert!(take(&bus).is_empty());
    }

    #[actix_web::test]
    async fn an_answer_that_is_dropped_before_its_end_gives_everything_back_at_once() {
        let bus = bus_with(3).await;
        let mut body = ReceiveBody::new(take(&bus), None, STALL_MAX);
        for _ in 0..3 {
            next(&mut body).await.unwrap().unwrap();
        }
        drop(body);
        assert_eq!(take(&bus).len(), 3);
    }

    #[actix_web::test]
    async fn a_reader_that_stalls_is_given_up() {
        let bus = bus_with(3).await;
        let mut body = ReceiveBody::new(take(&bus), None, Duration::from_millis(30));
        next(&mut body).await.unwrap().unwrap();
        assert!(take(&bus).is_empty(), "they are handed out");
        let begin = Instant::now();
        loop {
            let again = take(&bus);
            if again.len() == 3 {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(next(&mut body).await.unwrap().is_err());
    }
}
