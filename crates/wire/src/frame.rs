//! Frames: `type(1) channel(2) size(4) payload END`.
//!
//! Parsing borrows from the receive buffer and says how many bytes it used; it keeps no state, so a frame
//! may arrive in any number of pieces. Whether a frame makes sense where it came is not decided here.

use crate::error::FrameError;

/// Octets before the payload: type, channel, size.
pub const HEADER_LEN: usize = 7;
/// Octets of a frame that are not payload: header and end octet.
pub const OVERHEAD: usize = 8;
/// The octet after the payload.
pub const END: u8 = 0xCE;
/// The smallest frame-max (bytes, overhead included) that a peer may ask for.
pub const FRAME_MAX_MIN: u32 = 4096;
/// A whole heartbeat frame.
pub const HEARTBEAT: [u8; OVERHEAD] = [FrameKind::Heartbeat as u8, 0, 0, 0, 0, 0, 0, END];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A method: [`crate::method::Method::decode`].
    Method = 1,
    /// A content header: [`crate::properties::ContentHeader::decode`].
    Header = 2,
    /// A piece of a message's body.
    Body = 3,
    /// Sign of life, on channel 0 and without payload.
    Heartbeat = 8,
}

impl FrameKind {
    /// The kind with this type octet, if there is one.
    #[inline]
    pub fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// One frame in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// Channel number, 0 for the connection itself.
    pub channel: u16,
    /// The bytes between header and end octet.
    pub payload: &'a [u8],
}

/// Finds the frame at the start of `buf`.
///
/// `max_payload` is the largest payload allowed, in bytes. `Ok(None)` means that more bytes are needed;
/// `Ok(Some((frame, consumed)))` that the frame occupies the first `consumed` bytes.
///
/// # Errors
/// As soon as they can be known: an unknown type from the first octet, a payload over `max_payload` from the
/// seven header octets, a wrong end octet when it is there.
#[inline]
pub fn parse(buf: &[u8], max_payload: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((&octet, _)) = buf.split_first() else {
        return Ok(None);
    };
    let Some(kind) = FrameKind::from_octet(octet) else {
        return Err(FrameError::UnknownType(octet));
    };
    let Some((header, rest)) = buf.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([header[1], header[2]]);
    let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    if size > max_payload {
        return Err(FrameError::TooLarge {
            size,
            max: max_payload,
        });
    }
    let Some((payload, after)) = rest.split_at_checked(size) else {
        return Ok(None);
    };
    match after.first() {
        None => Ok(None),
        Some(&END) => Ok(Some((
            Frame {
                kind,
                channel,
                payload,
            },
            size + OVERHEAD,
        ))),
        Some(&other) => Err(FrameError::BadEnd(other)),
    }
}

/// Starts a frame at the end of `out`; what is appended until [`finish`] is its payload.
#[inline]
pub fn begin(out: &mut Vec<u8>, kind: FrameKind, channel: u16) -> usize {
    let mark = out.len();
    out.extend_from_slice(&header(kind, channel, 0));
    mark
}

/// Ends the frame that [`begin`] started at `mark`: sets its size and appends the end octet.
///
/// # Panics
/// If `mark` does not come from [`begin`] on the same buffer, or the payload exceeds `u32::MAX` bytes.
#[inline]
pub fn finish(out: &mut Vec<u8>, mark: usize) {
    let size = out.len() - mark - HEADER_LEN;
    let size = u32::try_from(size).expect("a frame's payload fits 32 bits");
    out[mark + 3..mark + HEADER_LEN].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

/// The seven octets before a payload of `size` bytes, for those who send the payload from elsewhere.
#[inline]
pub fn header(kind: FrameKind, channel: u16, size: u32) -> [u8; HEADER_LEN] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = size.to_be_bytes();
    [kind as u8, c0, c1, s0, s1, s2, s3]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 131_064;

    fn method_frame(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0xAA];
        let mark = begin(&mut out, FrameKind::Method, 0x0102);
        out.extend_from_slice(payload);
        finish(&mut out, mark);
        out.split_off(1)
    }

    #[test]
    fn a_frame_is_found_only_when_whole() {
        let bytes = method_frame(b"hello");
        assert_eq!(bytes, b"\x01\x01\x02\x00\x00\x00\x05hello\xCE");
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut], MAX), Ok(None), "cut at {cut}");
        }
        let mut more = bytes.clone();
        more.push(77);
        let (frame, used) = parse(&more, MAX).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        assert_eq!(
            frame,
            Frame {
                kind: FrameKind::Method,
                channel: 0x0102,
                payload: b"hello"
            }
        );
    }

    #[test]
    fn empty_payload_and_heartbeat_parse() {
        let bytes = method_frame(b"");
        assert_eq!(parse(&bytes, 0).unwrap().unwrap().1, OVERHEAD);
        let (frame, used) = parse(&HEARTBEAT, 0).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                kind: FrameKind::Heartbeat,
                channel: 0,
                payload: b""
            }
        );
        assert_eq!(used, 8);
    }

    #[test]
    fn unknown_types_fail_at_their_first_octet() {
        for octet in 0..=255u8 {
            let known = matches!(octet, 1 | 2 | 3 | 8);
            assert_eq!(FrameKind::from_octet(octet).is_some(), known);
            if let Some(kind) = FrameKind::from_octet(octet) {
                assert_eq!(kind as u8, octet);
            }
            let expected = if known {
                Ok(None)
            } else {
                Err(FrameError::UnknownType(octet))
            };
            assert_eq!(parse(&[octet], MAX), expected);
        }
    }

    #[test]
    fn size_over_the_limit_fails_at_the_seventh_octet() {
        let at_limit = header(FrameKind::Body, 1, MAX as u32);
        assert_eq!(parse(&at_limit, MAX), Ok(None));
        let over = header(FrameKind::Body, 1, MAX as u32 + 1);
        assert_eq!(parse(&over[..6], MAX), Ok(None));
        let expected = Err(FrameError::TooLarge {
            size: MAX + 1,
            max: MAX,
        });
        assert_eq!(parse(&over, MAX), expected);
        let largest = header(FrameKind::Body, 1, u32::MAX);
        assert_eq!(parse(&largest, usize::MAX), Ok(None));
    }

    #[test]
    fn a_wrong_end_octet_fails() {
        let mut bytes = method_frame(b"hello");
        *bytes.last_mut().unwrap() = 0xCD;
        assert_eq!(parse(&bytes, MAX), Err(FrameError::BadEnd(0xCD)));
        assert_eq!(FrameError::BadEnd(0xCD).reply_code().code(), 501);
    }
}
