//! The few AMQP 0-9-1 frames that a load generator sends, written by hand.
//!
//! Every function appends one whole frame to `out`. Nothing here is on the hot path: what is sent
//! per message is prepared once as a template (see `slab`) or appended to a reused buffer (acks).
//! Incoming frames are read by `scan`.

/// The eight octets that open a connection.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// The last octet of every frame.
pub const FRAME_END: u8 = 0xCE;
/// Octets of a frame beside its payload: type, channel, size and the end octet.
pub const FRAME_OVERHEAD: usize = 8;
/// Octets in front of a frame's payload.
pub const FRAME_HEADER: usize = 7;
/// Frame types.
pub const METHOD: u8 = 1;
/// A content header frame.
pub const HEADER: u8 = 2;
/// A content body frame.
pub const BODY: u8 = 3;
/// A heartbeat frame.
pub const HEARTBEAT: u8 = 8;
/// The largest frame that the generator negotiates, in octets.
pub const FRAME_MAX: usize = 131_072;
/// The one channel that each connection uses.
pub const CHANNEL: u16 = 1;

/// A class id and a method id.
pub type MethodId = (u16, u16);

/// The methods that are sent or waited for.
pub mod id {
    use super::MethodId;

    pub const CONNECTION_START: MethodId = (10, 10);
    pub const CONNECTION_START_OK: MethodId = (10, 11);
    pub const CONNECTION_TUNE: MethodId = (10, 30);
    pub const CONNECTION_TUNE_OK: MethodId = (10, 31);
    pub const CONNECTION_OPEN: MethodId = (10, 40);
    pub const CONNECTION_OPEN_OK: MethodId = (10, 41);
    pub const CONNECTION_CLOSE: MethodId = (10, 50);
    pub const CONNECTION_CLOSE_OK: MethodId = (10, 51);
    pub const CHANNEL_OPEN: MethodId = (20, 10);
    pub const CHANNEL_OPEN_OK: MethodId = (20, 11);
    pub const CHANNEL_CLOSE: MethodId = (20, 40);
    pub const EXCHANGE_DECLARE: MethodId = (40, 10);
    pub const EXCHANGE_DECLARE_OK: MethodId = (40, 11);
    pub const EXCHANGE_DELETE: MethodId = (40, 20);
    pub const EXCHANGE_DELETE_OK: MethodId = (40, 21);
    pub const QUEUE_DECLARE: MethodId = (50, 10);
    pub const QUEUE_DECLARE_OK: MethodId = (50, 11);
    pub const QUEUE_BIND: MethodId = (50, 20);
    pub const QUEUE_BIND_OK: MethodId = (50, 21);
    pub const QUEUE_DELETE: MethodId = (50, 40);
    pub const QUEUE_DELETE_OK: MethodId = (50, 41);
    pub const BASIC_QOS: MethodId = (60, 10);
    pub const BASIC_QOS_OK: MethodId = (60, 11);
    pub const BASIC_CONSUME: MethodId = (60, 20);
    pub const BASIC_CONSUME_OK: MethodId = (60, 21);
    pub const BASIC_CANCEL: MethodId = (60, 30);
    pub const BASIC_CANCEL_OK: MethodId = (60, 31);
    pub const BASIC_PUBLISH: MethodId = (60, 40);
    pub const BASIC_RETURN: MethodId = (60, 50);
    pub const BASIC_DELIVER: MethodId = (60, 60);
    pub const BASIC_ACK: MethodId = (60, 80);
    pub const BASIC_NACK: MethodId = (60, 120);
    pub const CONFIRM_SELECT: MethodId = (85, 10);
    pub const CONFIRM_SELECT_OK: MethodId = (85, 11);
}

/// Appends a frame whose payload `fill` writes.
pub fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let size = (out.len() - size_at - 4) as u32;
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a method frame whose arguments `fill` writes.
pub fn method(out: &mut Vec<u8>, channel: u16, id: MethodId, fill: impl FnOnce(&mut Vec<u8>)) {
    frame(out, METHOD, channel, |out| {
        u16(out, id.0);
        u16(out, id.1);
        fill(out);
    });
}

/// Appends `connection.start-ok` with the PLAIN mechanism.
pub fn start_ok(out: &mut Vec<u8>, user: &str, password: &str) {
    method(out, 0, id::CONNECTION_START_OK, |out| {
        long_bytes(out, |out| {
            string_field(out, "product", "backbone-perf");
            short_str(out, "capabilities");
            out.push(b'F');
            // `authentication_failure_close` makes the broker say why it refuses a login.
            // Without `connection.blocked` a full broker simply stops reading, which is what is measured.
            long_bytes(out, |out| {
                for name in [
                    "publisher_confirms",
                    "basic.nack",
                    "consumer_cancel_notify",
                    "authentication_failure_close",
                ] {
                    short_str(out, name);
                    out.extend_from_slice(&[b't', 1]);
                }
            });
        });
        short_str(out, "PLAIN");
        long_bytes(out, |out| {
            out.push(0);
            out.extend_from_slice(user.as_bytes());
            out.push(0);
            out.extend_from_slice(password.as_bytes());
        });
        short_str(out, "en_US");
    });
}

/// Appends `connection.tune-ok` without heartbeats.
pub fn tune_ok(out: &mut Vec<u8>, channel_max: u16, frame_max: u32) {
    method(out, 0, id::CONNECTION_TUNE_OK, |out| {
        u16(out, channel_max);
        u32(out, frame_max);
        u16(out, 0);
    });
}

/// Appends `connection.open`.
pub fn connection_open(out: &mut Vec<u8>, vhost: &str) {
    method(out, 0, id::CONNECTION_OPEN, |out| {
        short_str(out, vhost);
        out.extend_from_slice(&[0, 0]);
    });
}

/// Appends `connection.close` with code 200.
pub fn connection_close(out: &mut Vec<u8>) {
    method(out, 0, id::CONNECTION_CLOSE, |out| {
        u16(out, 200);
        short_str(out, "done");
        u32(out, 0);
    });
}

/// Appends `channel.open`.
pub fn channel_open(out: &mut Vec<u8>) {
    method(out, CHANNEL, id::CHANNEL_OPEN, |out| out.push(0));
}

/// Appends `queue.declare`; `passive` only asks for the counts.
pub fn queue_declare(out: &mut Vec<u8>, name: &str, durable: bool, passive: bool) {
    method(out, CHANNEL, id::QUEUE_DECLARE, |out| {
        u16(out, 0);
        short_str(out, name);
        out.push(u8::from(passive) | u8::from(durable) << 1);
        u32(out, 0);
    });
}

/// Appends `queue.delete`.
pub fn queue_delete(out: &mut Vec<u8>, name: &str) {
    method(out, CHANNEL, id::QUEUE_DELETE, |out| {
        u16(out, 0);
        short_str(out, name);
        out.push(0);
    });
}

/// Appends `exchange.declare`.
pub fn exchange_declare(out: &mut Vec<u8>, name: &str, kind: &str, durable: bool) {
    method(out, CHANNEL, id::EXCHANGE_DECLARE, |out| {
        u16(out, 0);
        short_str(out, name);
        short_str(out, kind);
        out.push(u8::from(durable) << 1);
        u32(out, 0);
    });
}

/// Appends `exchange.delete`.
pub fn exchange_delete(out: &mut Vec<u8>, name: &str) {
    method(out, CHANNEL, id::EXCHANGE_DELETE, |out| {
        u16(out, 0);
        short_str(out, name);
        out.push(0);
    });
}

/// Appends `queue.bind`; `header` is the one header that a headers exchange shall match.
pub fn queue_bind(
    out: &mut Vec<u8>,
    queue: &str,
    exchange: &str,
    key: &str,
    header: Option<(&str, &str)>,
) {
    method(out, CHANNEL, id::QUEUE_BIND, |out| {
        u16(out, 0);
        short_str(out, queue);
        short_str(out, exchange);
        short_str(out, key);
        out.push(0);
        long_bytes(out, |out| {
            if let Some((name, value)) = header {
                string_field(out, "x-match", "all");
                string_field(out, name, value);
            }
        });
    });
}

/// Appends `basic.qos` with a limit per consumer.
pub fn qos(out: &mut Vec<u8>, prefetch: u16) {
    method(out, CHANNEL, id::BASIC_QOS, |out| {
        u32(out, 0);
        u16(out, prefetch);
        out.push(0);
    });
}

/// Appends `basic.consume`.
pub fn consume(out: &mut Vec<u8>, queue: &str, tag: &str, no_ack: bool) {
    method(out, CHANNEL, id::BASIC_CONSUME, |out| {
        u16(out, 0);
        short_str(out, queue);
        short_str(out, tag);
        out.push(u8::from(no_ack) << 1);
        u32(out, 0);
    });
}

/// Appends `basic.cancel`.
pub fn cancel(out: &mut Vec<u8>, tag: &str) {
    method(out, CHANNEL, id::BASIC_CANCEL, |out| {
        short_str(out, tag);
        out.push(0);
    });
}

/// Appends `confirm.select`.
pub fn confirm_select(out: &mut Vec<u8>) {
    method(out, CHANNEL, id::CONFIRM_SELECT, |out| out.push(0));
}

/// Appends `basic.ack`.
pub fn ack(out: &mut Vec<u8>, tag: u64, multiple: bool) {
    method(out, CHANNEL, id::BASIC_ACK, |out| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(u8::from(multiple));
    });
}

/// Appends `basic.publish`.
pub fn publish(out: &mut Vec<u8>, exchange: &str, key: &str, mandatory: bool) {
    method(out, CHANNEL, id::BASIC_PUBLISH, |out| {
        u16(out, 0);
        short_str(out, exchange);
        short_str(out, key);
        out.push(u8::from(mandatory));
    });
}

/// The properties that a published message carries.
#[derive(Debug, Default)]
pub struct Properties<'a> {
    /// Delivery mode 2.
    pub persistent: bool,
    /// Headers, all of them strings.
    pub headers: &'a [(&'a str, &'a str)],
    /// A message id, and a timestamp in seconds.
    pub id_and_time: Option<(&'a str, u64)>,
}

/// Appends a content header for a body of `size` octets.
pub fn content_header(out: &mut Vec<u8>, size: u64, properties: &Properties<'_>) {
    const HAS_HEADERS: u16 = 1 << 13;
    const HAS_DELIVERY_MODE: u16 = 1 << 12;
    const HAS_ID_AND_TIME: u16 = 1 << 7 | 1 << 6;
    let Properties {
        persistent,
        headers,
        id_and_time,
    } = *properties;
    let flag = |is_there, flag| if is_there { flag } else { 0 };
    frame(out, HEADER, CHANNEL, |out| {
        u16(out, 60);
        u16(out, 0);
        out.extend_from_slice(&size.to_be_bytes());
        u16(
            out,
            flag(!headers.is_empty(), HAS_HEADERS)
                | flag(persistent, HAS_DELIVERY_MODE)
                | flag(id_and_time.is_some(), HAS_ID_AND_TIME),
        );
        if !headers.is_empty() {
            long_bytes(out, |out| {
                for (name, value) in headers {
                    string_field(out, name, value);
                }
            });
        }
        if persistent {
            out.push(2);
        }
        if let Some((id, time_s)) = id_and_time {
            short_str(out, id);
            out.extend_from_slice(&time_s.to_be_bytes());
        }
    });
}

/// Appends `body` as body frames of at most `frame_max` octets each.
pub fn body(out: &mut Vec<u8>, body: &[u8], frame_max: usize) {
    for chunk in body.chunks(frame_max - FRAME_OVERHEAD) {
        frame(out, BODY, CHANNEL, |out| out.extend_from_slice(chunk));
    }
}

/// The value of a string field of a table, searched on the first level only.
pub fn table_string(mut table: &[u8], wanted: &str) -> Option<String> {
    loop {
        let (&len, rest) = table.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(len))?;
        let (&kind, rest) = rest.split_first()?;
        let size = match kind {
            b't' | b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'D' => 5,
            b'S' | b'x' | b'A' | b'F' => {
                4 + u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize
            }
            b'V' => 0,
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(size)?;
        if kind == b'S' && name == wanted.as_bytes() {
            return Some(String::from_utf8_lossy(&value[4..]).into_owned());
        }
        table = rest;
    }
}

/// Splits a short string off the front of `input`.
pub fn take_short_str(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = input.split_first()?;
    rest.split_at_checked(usize::from(len))
}

/// Appends a string field of a table.
pub fn string_field(out: &mut Vec<u8>, name: &str, value: &str) {
    short_str(out, name);
    out.push(b'S');
    long_bytes(out, |out| out.extend_from_slice(value.as_bytes()));
}

/// Appends what `fill` writes with its length in four octets in front: a table or a long string.
pub fn long_bytes(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let size = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends a short string; names are checked by `options` to be short enough.
pub fn short_str(out: &mut Vec<u8>, text: &str) {
    let len = text.len().min(255);
    out.push(len as u8);
    out.extend_from_slice(&text.as_bytes()[..len]);
}

fn u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_have_the_size_on_the_wire_that_the_protocol_gives() {
        let mut out = Vec::new();
        publish(&mut out, "", "q-0", false);
        assert_eq!(out.len(), 20);
        content_header(&mut out, 16, &Properties::default());
        assert_eq!(out.len(), 42);
        body(&mut out, &[7; 16], FRAME_MAX);
        assert_eq!(out.len(), 66);
        assert_eq!(out[65], FRAME_END);
    }

    #[test]
    fn a_content_header_carries_mode_and_headers_in_the_order_of_their_flags() {
        let mut out = Vec::new();
        let properties = Properties {
            persistent: true,
            headers: &[("k", "v")],
            id_and_time: Some(("i", 7)),
        };
        content_header(&mut out, 5, &properties);
        let payload = &out[FRAME_HEADER..out.len() - 1];
        assert_eq!(payload[4..12], 5u64.to_be_bytes());
        assert_eq!(payload[12..14], 0b0011_0000_1100_0000u16.to_be_bytes());
        assert_eq!(payload[14..18], 8u32.to_be_bytes());
        assert_eq!(&payload[18..26], b"\x01kS\x00\x00\x00\x01v");
        assert_eq!(payload[26..], [2, 1, b'i', 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_long_body_is_cut_into_frames() {
        let mut out = Vec::new();
        body(&mut out, &[1; 100], 48);
        assert_eq!(out.len(), 100 + 3 * FRAME_OVERHEAD);
        assert_eq!(out[3..7], 40u32.to_be_bytes());
        assert_eq!(out[2 * 48 + 3..2 * 48 + 7], 20u32.to_be_bytes());
    }

    #[test]
    fn a_string_is_found_behind_fields_of_other_types() {
        let mut table = Vec::new();
        short_str(&mut table, "capabilities");
        table.push(b'F');
        long_bytes(&mut table, |out| string_field(out, "product", "inner"));
        short_str(&mut table, "flag");
        table.extend_from_slice(&[b't', 1]);
        string_field(&mut table, "product", "RabbitMQ");
        assert_eq!(table_string(&table, "product").as_deref(), Some("RabbitMQ"));
        assert_eq!(table_string(&table, "version"), None);
        assert_eq!(table_string(&table[..5], "product"), None);
    }
}
