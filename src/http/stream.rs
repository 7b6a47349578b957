//! `GET /receive/stream`: a client's inbox as server-sent events, as long as the connection lasts.
//!
//! The connection's writer asks for the next piece when it has room; only then something is taken from the inbox, and it is settled
//! when the writer asks again, which it does after it has set out to write the piece. So a reader that does not read holds one piece.
//! Leases begin before the reader can see their ids, and end at once if the piece is not written.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::time::Instant;

use super::handed::{Handed, STALL_MAX, Stalled};
use super::receive::{Bounds, lease_time};
use super::{ApiError, ClientIdentity, ErrorBody, Services};
use crate::bus::{AckId, ClientRecord, Lease, Received};

/// Messages of one piece at most, and bytes of messages, unless one alone is larger.
const PIECE_MESSAGES_MAX: usize = 256;
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// How often something is written when there are no messages, so that nobody in between takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long to leave an inbox alone whose reader has to acknowledge first.
const FULL_PAUSE: Duration = Duration::from_millis(250);
/// The first that a reader gets: the answer has begun; and how soon to come again, ms.
const GREETING: &[u8] = b"retry: 1000\n\n";
const HEARTBEAT_COMMENT: &[u8] = b": nothing yet\n\n";

/// How messages are acknowledged.
#[derive(Deserialize)]
struct StreamQuery {
    ack: Option<String>,
    lease: Option<f64>,
}

/// Registers the route.
pub fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/receive/stream").route(web::get().to(open)));
}

/// The client's inbox as server-sent events (`text/event-stream`): one event for each message, oldest first, with the message's id as
/// `id` and the item of `/receive` as `data`. A message is gone from the inbox when it has been written; with `ack=explicit` when it is
/// acknowledged with `/ack`. Messages that the connection did not take come again. Comments keep an idle connection alive. The stream
/// ends when the client's record is changed or removed, and when the server does; connect again then.
#[utoipa::path(get, path = "/receive/stream", tag = "messages", security(("basic" = ["client"])),
    params(("ack" = Option<String>, Query,
            description = "`write`, the default: messages are gone once they have been written; `explicit`: once they are acknowledged"),
        ("lease" = Option<f64>, Query,
            description = "With `ack=explicit`: seconds in which to acknowledge, 0.1 to 3600; without it, 30")),
    responses((status = 200, body = String, content_type = "text/event-stream"), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn open(
    services: web::Data<Services>,
    request: HttpRequest,
    ClientIdentity(caller): ClientIdentity,
) -> Result<HttpResponse, ApiError> {
    let query: StreamQuery = super::parse_query(&request)?;
    let lease_time = lease_time(query.ack.as_deref(), query.lease)?;
    let record = services.bus.client(&caller.identity.name)?;
    let feed = Feed {
        services,
        record,
        lease_time,
        greeted: false,
        written: None,
    };
    let pieces = stream::unfold(feed, async |mut feed| {
        let piece = feed.next().await?;
        Some((piece, feed))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Proxies that collect answers must not collect this one.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(Box::pin(pieces)))
}

/// What one connection gets.
struct Feed {
    services: web::Data<Services>,
    record: Arc<ClientRecord>,
    lease_time: Option<Duration>,
    greeted: bool,
    /// The messages of the last piece.
    written: Option<Written>,
}

enum Written {
    /// They are gone when it has been written.
    Handed(Handed),
    /// They are the reader's for a while already.
    Lent(Vec<AckId>),
}

impl Feed {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Stalled>> {
        if !self.greeted {
            self.greeted = true;
            return Some(Ok(Bytes::from_static(GREETING)));
        }
        if self.written.is_some() {
            // A connection writes when its body has nothing more for now.
            tokio::task::yield_now().await;
        }
        if let Some(Written::Handed(mut handed)) = self.written.take()
            && let Err(stalled) = handed.done()
        {
            return Some(Err(stalled));
        }
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            if !self.is_entitled() {
                return None;
            }
            if let Some(handed) = self.take()? {
                return self.write(handed).map(Ok);
            }
            let left = heartbeat.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Ok(Bytes::from_static(HEARTBEAT_COMMENT)));
            }
            self.wait(left).await?;
        }
    }

    /// Makes a piece of messages.
    fn write(&mut self, mut handed: Handed) -> Option<Bytes> {
        let ids = |received: &Received, lease: &Lease| {
            let ids = (0..received.len()).map(|index| lease.ack_id(index));
            ids.collect::<Vec<_>>()
        };
        let written = handed.with(|received, lease| {
            (
                events(received, lease),
                lease.map(|lease| ids(received, lease)),
            )
        });
        let (piece, lent) = written.ok()?;
        self.written = Some(match lent {
            Some(ids) => {
                handed.done().ok()?;
                Written::Lent(ids)
            }
            None => Written::Handed(handed),
        });
        Some(piece)
    }

    /// Whether everything is still as when the client proved who it is. Any change may be one of what it may do.
    fn is_entitled(&self) -> bool {
        let now = self.services.bus.client(&self.record.client_id);
        now.is_ok_and(|now| Arc::ptr_eq(&now, &self.record))
    }

    /// What is there, as much as fits into a piece. `None` ends the stream.
    fn take(&self) -> Option<Option<Handed>> {
        let bus = &self.services.bus;
        let client = &self.record.client_id;
        let mut bounds = Bounds {
            messages: PIECE_MESSAGES_MAX,
            bytes: PIECE_BYTES_MAX,
        };
        let lease = match self.lease_time {
            Some(time) => match bus.lease(client, time) {
                Ok(prepared) => Some(bounds.within(prepared)),
                Err(_) => return Some(None),
            },
            None => None,
        };
        let received = bus.receive(client, bounds.messages, bounds.bytes).ok()?;
        if received.is_empty() {
            return Some(None);
        }
        let mut handed = Handed::new(received, lease);
        handed.watch(STALL_MAX);
        Some(Some(handed))
    }

    /// Waits for a message, or until something else is to be done. `None` ends the stream.
    async fn wait(&self, patience: Duration) -> Option<()> {
        let bus = &self.services.bus;
        let client = &self.record.client_id;
        let is_full = self
            .lease_time
            .is_some_and(|time| bus.lease(client, time).is_err());
        let message = async {
            match is_full {
                true => tokio::time::sleep(patience.min(FULL_PAUSE)).await,
                // Whatever it says, the next look tells.
                false => drop(bus.wait_for_message(client, patience).await),
            }
        };
        tokio::select! {
            () = message => Some(()),
            () = self.services.lifecycle.draining() => None,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(Written::Lent(ids)) = self.written.take() {
            let client = &self.record.client_id;
            self.services.bus.reject(client, ids, true);
        }
    }
}

/// Messages as events.
fn events(received: &Received, lease: Option<&Lease>) -> Bytes {
    let (mut out, mut item) = (Vec::new(), Vec::new());
    for index in 0..received.len() {
        item.clear();
        received.write_item(index, lease, &mut item);
        let id = received.id(index);
        write_event(id.as_deref(), &item, &mut out);
    }
    out.into()
}

/// Appends an event. Line ends, which JSON has between its tokens only, begin another line of data.
fn write_event(id: Option<&str>, item: &[u8], out: &mut Vec<u8>) {
    // An id from elsewhere must not begin lines of its own.
    if let Some(id) = id.filter(|id| !id.contains(['\n', '\r', '\0'])) {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"event: message\n");
    for line in item.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// The route's documentation.
#[derive(utoipa::OpenApi)]
#[openapi(paths(open))]
pub(super) struct Api;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, item: &str) -> String {
        let mut out = Vec::new();
        write_event(id, item.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_one_whatever_stands_in_it() {
        assert_eq!(
            event(Some("7"), "{\"a\":1}"),
            "id: 7\nevent: message\ndata: {\"a\":1}\n\n"
        );
        assert_eq!(
            event(None, "{\"a\":\r\n\n1}"),
            "event: message\ndata: {\"a\":\ndata: \ndata: \ndata: 1}\n\n"
        );
        for id in ["7\ndata: x", "7\r", "\0"] {
            assert_eq!(event(Some(id), "1"), "event: message\ndata: 1\n\n");
        }
    }
}
