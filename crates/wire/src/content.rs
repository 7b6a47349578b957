//! Content: a method, a header frame and body frames as one.
//!
//! [`parse_publish`] is the hot path of a broker: it takes the three frames of an ordinary `basic.publish`
//! in one look. What it does not recognise, it leaves to [`crate::frame::parse`] and the decoders, which
//! know what is wrong with it; what it does recognise, they would decode to the same.

use crate::ShortStr;
use crate::frame::{self, END, FrameKind, HEADER_LEN, OVERHEAD};
use crate::properties::{BASIC_CLASS_ID, FIXED_LEN, Properties};

/// Class and method of `basic.publish`, as the first four octets of its frame's payload.
const PUBLISH_IDS: [u8; 4] = [0, 60, 0, 40];
/// Octets of a publish frame before the exchange's name: frame header, ids, reserved short.
const NAMES_AT: usize = HEADER_LEN + 4 + 2;

/// A whole published message, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishTriple<'a> {
    /// Channel of all its frames.
    pub channel: u16,
    /// Exchange to publish to.
    pub exchange: ShortStr<'a>,
    /// Routing key, not necessarily UTF-8.
    pub routing_key: ShortStr<'a>,
    /// Exchange and routing key with their length octets, as they stand on the wire: equal bytes, equal route.
    pub names: &'a [u8],
    /// The publisher wants it back if no queue takes it.
    pub mandatory: bool,
    /// The publisher wants it back if no consumer takes it at once, which RabbitMQ refuses to do.
    pub immediate: bool,
    /// Payload of the header frame: class, weight, body size, property list.
    pub header: &'a [u8],
    /// The property list, checked.
    pub properties: Properties<'a>,
    /// The whole body.
    pub body: &'a [u8],
}

/// Takes a whole message from the start of `buf`: a `basic.publish` frame, its header frame and, unless the
/// body is empty, one body frame with all of it, on one channel, each well-formed and with a payload of at
/// most `max_payload` bytes. Yields the message and the bytes that it occupies.
///
/// `None` for anything else, incomplete, malformed or merely unusual.
#[inline]
pub fn parse_publish(buf: &[u8], max_payload: usize) -> Option<(PublishTriple<'_>, usize)> {
    let (method, rest) = publish_frame(buf, max_payload)?;
    let (header, rest) = frame_on(rest, FrameKind::Header, method.channel, max_payload)?;
    let (fixed, list) = header.split_first_chunk::<FIXED_LEN>()?;
    let [c0, c1, w0, w1, size @ ..] = *fixed;
    if u16::from_be_bytes([c0, c1]) != BASIC_CLASS_ID || [w0, w1] != [0, 0] {
        return None;
    }
    let properties = Properties::checked(list).ok()?;
    let (body, rest) = match u64::from_be_bytes(size) {
        0 => (&[][..], rest),
        size => {
            let (body, rest) = frame_on(rest, FrameKind::Body, method.channel, max_payload)?;
            if body.len() as u64 != size {
                return None;
            }
            (body, rest)
        }
    };
    let triple = PublishTriple {
        channel: method.channel,
        exchange: method.exchange,
        routing_key: method.routing_key,
        names: method.names,
        mandatory: method.bits & 1 != 0,
        immediate: method.bits & 2 != 0,
        header,
        properties,
        body,
    };
    Some((triple, buf.len() - rest.len()))
}

/// Appends `body` as body frames for a peer whose frame-max (bytes, overhead included, 0 for no limit) is
/// `frame_max`; nothing for an empty body.
///
/// # Panics
/// If `frame_max` leaves no room for payload; negotiation does not let it below
/// [`frame::FRAME_MAX_MIN`].
pub fn write_body(channel: u16, body: &[u8], frame_max: u32, out: &mut Vec<u8>) {
    for piece in body_pieces(body, frame_max) {
        out.reserve(piece.len() + OVERHEAD);
        out.extend_from_slice(&frame::header(FrameKind::Body, channel, piece.len() as u32));
        out.extend_from_slice(piece);
        out.push(END);
    }
}

/// The payloads of the body frames that [`write_body`] writes, for those who send them from where they are.
///
/// # Panics
/// As [`write_body`].
pub fn body_pieces(body: &[u8], frame_max: u32) -> impl Iterator<Item = &[u8]> {
    let frame_max = if frame_max == 0 { u32::MAX } else { frame_max };
    let piece_max = (frame_max as usize).saturating_sub(OVERHEAD);
    assert!(
        piece_max > 0,
        "frame-max {frame_max} leaves no room for payload"
    );
    body.chunks(piece_max)
}

/// A `basic.publish` method.
struct PublishFrame<'a> {
    channel: u16,
    exchange: ShortStr<'a>,
    routing_key: ShortStr<'a>,
    names: &'a [u8],
    bits: u8,
}

/// Takes a `basic.publish` frame and what follows it.
#[inline]
fn publish_frame(buf: &[u8], max_payload: usize) -> Option<(PublishFrame<'_>, &[u8])> {
    let (fixed, names_on) = buf.split_first_chunk::<NAMES_AT>()?;
    let [kind, c0, c1, s0, s1, s2, s3, i0, i1, i2, i3, _, _] = *fixed;
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    if kind != FrameKind::Method as u8 || [i0, i1, i2, i3] != PUBLISH_IDS || size > max_payload {
        return None;
    }
    let (exchange, after) = short_str(names_on)?;
    let (routing_key, after) = short_str(after)?;
    let [bits, END, rest @ ..] = after else {
        return None;
    };
    let names = &names_on[..exchange.len() + routing_key.len() + 2];
    if size != NAMES_AT - HEADER_LEN + names.len() + 1 {
        return None;
    }
    let channel = u16::from_be_bytes([c0, c1]);
    Some((
        PublishFrame {
            channel,
            exchange,
            routing_key,
            names,
            bits: *bits,
        },
        rest,
    ))
}

#[inline]
fn short_str(bytes: &[u8]) -> Option<(ShortStr<'_>, &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (bytes, rest) = rest.split_at_checked(usize::from(length))?;
    Some((ShortStr::new(bytes).ok()?, rest))
}

/// Takes the payload of a frame of this kind on this channel, and what follows the frame.
#[inline]
fn frame_on(
    buf: &[u8],
    kind: FrameKind,
    channel: u16,
    max_payload: usize,
) -> Option<(&[u8], &[u8])> {
    let (header, rest) = buf.split_first_chunk::<HEADER_LEN>()?;
    let [k, c0, c1, s0, s1, s2, s3] = *header;
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    if k != kind as u8 || u16::from_be_bytes([c0, c1]) != channel || size > max_payload {
        return None;
    }
    let (payload, after) = rest.split_at_checked(size)?;
    match after {
        [END, rest @ ..] => Some((payload, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::basic;
    use crate::properties::{ContentHeader, PropertiesBuilder};

    const MAX: usize = 131_064;

    fn message(properties: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let publish = basic::Publish {
            exchange: ShortStr::lit("ex"),
            routing_key: ShortStr::lit("key"),
            mandatory: true,
            immediate: false,
        };
        publish.write(3, &mut out);
        let properties = Properties::assume_checked(properties);
        let body_size = body.len() as u64;
        ContentHeader {
            class_id: 60,
            weight: 0,
            body_size,
            properties,
        }
        .write(3, &mut out);
        write_body(3, body, 0, &mut out);
        out
    }

    #[test]
    fn a_whole_message_is_taken() {
        let list = PropertiesBuilder {
            delivery_mode: Some(2),
            ..Default::default()
        }
        .build();
        let mut bytes = message(&list, b"body");
        let length = bytes.len();
        bytes.extend_from_slice(b"what follows");
        let (triple, used) = parse_publish(&bytes, MAX).unwrap();
        assert_eq!(used, length);
        assert_eq!(triple.channel, 3);
        assert_eq!(triple.exchange, "ex");
        assert_eq!(triple.routing_key, "key");
        assert_eq!(triple.names, b"\x02ex\x03key");
        assert!(triple.mandatory && !triple.immediate);
        assert_eq!(triple.header, b"\0\x3c\0\0\0\0\0\0\0\0\0\x04\x10\0\x02");
        assert_eq!(triple.properties.delivery_mode(), Some(2));
        assert_eq!(triple.body, b"body");
    }

    #[test]
    fn an_empty_body_has_no_frame() {
        let bytes = message(&[0, 0], b"");
        let (triple, used) = parse_publish(&bytes, MAX).unwrap();
        assert_eq!((triple.body, used), (&b""[..], bytes.len()));
    }

    #[test]
    fn half_messages_are_left_alone() {
        let bytes = message(&[0x10, 0, 1], b"body");
        for cut in 0..bytes.len() {
            assert_eq!(parse_publish(&bytes[..cut], MAX), None, "cut at {cut}");
        }
    }

    #[test]
    fn payloads_over_the_limit_are_left_alone() {
        let bytes = message(&[0, 0], &[7; 100]);
        assert!(parse_publish(&bytes, 100).is_some());
        assert!(parse_publish(&bytes, 99).is_none());
    }

    #[test]
    fn malformed_properties_are_left_alone() {
        for list in [
            &[0x10, 0][..],
            &[0, 0, 0],
            &[0x80, 0, 5],
            &[0, 1],
            &[0x20, 0, 0, 0, 0, 1, 0],
        ] {
            assert_eq!(parse_publish(&message(list, b"x"), MAX), None, "{list:?}");
        }
    }

    #[test]
    fn bodies_are_cut_to_frame_max() {
        for (length, frames) in [(0, 0), (1, 1), (4088, 1), (4089, 2), (8176, 2), (8177, 3)] {
            let body = vec![7; length];
            let mut out = Vec::new();
            write_body(9, &body, 4096, &mut out);
            let mut rest = &out[..];
            let mut back = Vec::new();
            let mut count = 0;
            while let Some((frame, used)) = frame::parse(rest, 4088).unwrap() {
                assert_eq!((frame.kind, frame.channel), (FrameKind::Body, 9));
                back.extend_from_slice(frame.payload);
                rest = &rest[used..];
                count += 1;
            }
            assert_eq!((count, rest.len(), back), (frames, 0, body));
        }
    }

    #[test]
    fn without_frame_max_a_body_is_one_frame() {
        let mut out = Vec::new();
        write_body(1, &[1; 300_000], 0, &mut out);
        assert_eq!(out.len(), 300_008);
    }

    #[test]
    #[should_panic(expected = "leaves no room")]
    fn a_frame_max_without_room_is_a_bug() {
        write_body(1, b"x", 8, &mut Vec::new());
    }
}
