//! Content: a method, a header frame and body frames as one.
//!
//! [`parse_publish`] is the hot path of a broker: it takes the three frames of an ordinary `basic.publish`
//! in one look. What it does not recognise, it leaves to [`crate::frame::parse`] and the decoders, which
//! know what is wrong with it; what it does recognise, they would decode to the same. [`Delivery`] is the
//! way back out: the pieces of a published message, framed for a consumer.

use crate::ShortStr;
use crate::frame::{self, END, FrameKind, HEADER_LEN, OVERHEAD};
use crate::properties::{BASIC_CLASS_ID, FIXED_LEN, Properties};

/// Class and method of `basic.publish`, as the first four octets of its frame's payload.
const PUBLISH_IDS: [u8; 4] = [0, 60, 0, 40];
/// Class and method of `basic.deliver`.
const DELIVER_IDS: [u8; 4] = [0, 60, 0, 60];
/// Class `basic` and weight 0, as the first four octets of a header frame's payload.
const CONTENT_IDS: [u8; 4] = [0, BASIC_CLASS_ID as u8, 0, 0];

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
///
/// Inlined always: handing the message over through memory costs half as much as finding it.
#[inline(always)]
pub fn parse_publish(buf: &[u8], max_payload: usize) -> Option<(PublishTriple<'_>, usize)> {
    let (head, method) = frame_at(buf, max_payload)?;
    let [kind, c0, c1] = head;
    let (names, bits) = publish_arguments(method)?;
    let (exchange, after_exchange) = short_str(names)?;
    let (routing_key, after_names) = short_str(after_exchange)?;
    if kind != FrameKind::Method as u8 || !after_names.is_empty() {
        return None;
    }
    let mut used = method.len() + OVERHEAD;
    let (head, header) = frame_at(&buf[used..], max_payload)?;
    let (fixed, list) = header.split_first_chunk::<FIXED_LEN>()?;
    let [i0, i1, i2, i3, body_size @ ..] = *fixed;
    if head != [FrameKind::Header as u8, c0, c1] || [i0, i1, i2, i3] != CONTENT_IDS {
        return None;
    }
    let properties = Properties::checked(list).ok()?;
    used += header.len() + OVERHEAD;
    let body_size = u64::from_be_bytes(body_size);
    let mut body: &[u8] = &[];
    if body_size != 0 {
        let head;
        (head, body) = frame_at(&buf[used..], max_payload)?;
        if head != [FrameKind::Body as u8, c0, c1] || body.len() as u64 != body_size {
            return None;
        }
        used += body.len() + OVERHEAD;
    }
    let triple = PublishTriple {
        channel: u16::from_be_bytes([c0, c1]),
        exchange,
        routing_key,
        names,
        mandatory: bits & 1 != 0,
        immediate: bits & 2 != 0,
        header,
        properties,
        body,
    };
    Some((triple, used))
}

/// A message on its way to a consumer, in the pieces in which [`parse_publish`] found it: what was received
/// is copied, nothing of it is encoded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Channel of the consumer.
    pub channel: u16,
    /// The consumer.
    pub consumer_tag: ShortStr<'a>,
    /// Number of the delivery on its channel.
    pub delivery_tag: u64,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// Exchange and routing key with their length octets: [`PublishTriple::names`].
    pub names: &'a [u8],
    /// Payload of the header frame: [`PublishTriple::header`]. It has to name the length of the body.
    pub header: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

impl Delivery<'_> {
    /// Appends `basic.deliver`, header frame and body frames, as [`write_body`] cuts them.
    ///
    /// # Panics
    /// As [`write_body`].
    #[inline]
    pub fn write(&self, frame_max: u32, out: &mut Vec<u8>) {
        let size = self.body.len() + OVERHEAD;
        if self.body.is_empty() || (frame_max != 0 && size > frame_max as usize) {
            self.write_head(size, out);
            return write_body(self.channel, self.body, frame_max, out);
        }
        self.write_unended_head(size, out);
        let [k, c0, c1, s0, s1, s2, s3] =
            frame::header(FrameKind::Body, self.channel, self.body.len() as u32);
        out.extend_from_slice(&[END, k, c0, c1, s0, s1, s2, s3]);
        out.extend_from_slice(self.body);
        out.push(END);
    }

    /// Appends `basic.deliver` and the header frame only, for those who send the body from where it is, and
    /// makes room for `more` bytes behind them.
    #[inline]
    pub fn write_head(&self, more: usize, out: &mut Vec<u8>) {
        self.write_unended_head(more, out);
        out.push(END);
    }

    /// As [`Delivery::write_head`], without the last end octet.
    #[inline]
    fn write_unended_head(&self, more: usize, out: &mut Vec<u8>) {
        debug_assert!(
            is_two_short_strs(self.names),
            "not two short strings: {:?}",
            self.names
        );
        let tag = self.consumer_tag.as_bytes();
        let size = 4 + 1 + tag.len() + 8 + 1 + self.names.len();
        out.reserve(size + self.header.len() + 2 * OVERHEAD + more);
        let [c0, c1] = self.channel.to_be_bytes();
        let [s0, s1, s2, s3] = (size as u32).to_be_bytes();
        let [i0, i1, i2, i3] = DELIVER_IDS;
        const METHOD: u8 = FrameKind::Method as u8;
        let head = [
            METHOD,
            c0,
            c1,
            s0,
            s1,
            s2,
            s3,
            i0,
            i1,
            i2,
            i3,
            tag.len() as u8,
        ];
        out.extend_from_slice(&head);
        out.extend_from_slice(tag);
        let [d0, d1, d2, d3, d4, d5, d6, d7] = self.delivery_tag.to_be_bytes();
        out.extend_from_slice(&[d0, d1, d2, d3, d4, d5, d6, d7, u8::from(self.redelivered)]);
        out.extend_from_slice(self.names);
        let [s0, s1, s2, s3] = (self.header.len() as u32).to_be_bytes();
        const HEADER: u8 = FrameKind::Header as u8;
        out.extend_from_slice(&[END, HEADER, c0, c1, s0, s1, s2, s3]);
        out.extend_from_slice(self.header);
    }
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

/// The frame at the start of `buf`: the octets of its type and channel, and its payload.
#[inline]
fn frame_at(buf: &[u8], max_payload: usize) -> Option<([u8; 3], &[u8])> {
    let ([k, c0, c1, s0, s1, s2, s3], rest) = buf.split_first_chunk::<HEADER_LEN>()?;
    let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize;
    if size > max_payload || *rest.get(size)? != END {
        return None;
    }
    Some(([*k, *c0, *c1], &rest[..size]))
}

/// The two names and the octet of bits in the payload of a `basic.publish` frame.
#[inline]
fn publish_arguments(payload: &[u8]) -> Option<(&[u8], u8)> {
    let (ids, arguments) = payload.split_first_chunk::<4>()?;
    match arguments {
        [_, _, names @ .., bits] if *ids == PUBLISH_IDS => Some((names, *bits)),
        _ => None,
    }
}

#[inline]
fn short_str(bytes: &[u8]) -> Option<(ShortStr<'_>, &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (bytes, rest) = rest.split_at_checked(usize::from(length))?;
    Some((ShortStr::new(bytes).ok()?, rest))
}

fn is_two_short_strs(bytes: &[u8]) -> bool {
    let after = short_str(bytes).and_then(|(_, after)| short_str(after));
    after.is_some_and(|(_, after)| after.is_empty())
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
    fn a_delivery_is_the_publish_in_other_frames() {
        for (body, frame_max) in [
            (&b""[..], 4096),
            (b"body", 4096),
            (&[7; 9000], 4096),
            (b"body", 0),
        ] {
            let published = message(&[0x10, 0, 2], body);
            let (triple, _) = parse_publish(&published, MAX).unwrap();
            let tag = ShortStr::lit("ctag");
            let delivery = Delivery {
                channel: 4,
                consumer_tag: tag,
                delivery_tag: u64::MAX - 1,
                redelivered: true,
                names: triple.names,
                header: triple.header,
                body: triple.body,
            };
            let mut written = vec![1, 2];
            delivery.write(frame_max, &mut written);
            let mut expected = vec![1, 2];
            let deliver = basic::Deliver {
                consumer_tag: tag,
                delivery_tag: u64::MAX - 1,
                redelivered: true,
                exchange: triple.exchange,
                routing_key: triple.routing_key,
            };
            deliver.write(4, &mut expected);
            ContentHeader::decode(triple.header)
                .unwrap()
                .write(4, &mut expected);
            write_body(4, body, frame_max, &mut expected);
            assert_eq!(written, expected);
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
