//! Reads incoming frames out of one large buffer without allocating.
//!
//! The scanner owns the read buffer of a connection. `fill` appends what one read brings, `next`
//! takes whole frames off the front, in order; a message is handed out when its last body frame is
//! complete. Octets between `start` and `end` are read but not yet processed. A message that lies
//! whole in the buffer takes a short way of its own, because that is nearly every small message.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::amqp::{
    BODY, FRAME_END, FRAME_HEADER, FRAME_MAX, FRAME_OVERHEAD, HEADER, HEARTBEAT, METHOD, MethodId,
    id,
};

/// Octets asked for in one read.
pub const READ_SIZE: usize = 256 * 1024;
/// Octets at the front of each body that the generator writes.
pub const HEAD: usize = 16;

/// What `next` found.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A delivered or returned message.
    Message(Message<'a>),
    /// A publisher confirm.
    Confirm {
        /// The delivery tag confirmed.
        tag: u64,
        /// Whether all tags before it are meant as well.
        multiple: bool,
        /// Whether the broker refused it.
        nack: bool,
    },
    /// Any other method.
    Method {
        /// Class and method.
        id: MethodId,
        /// The arguments, undecoded.
        args: &'a [u8],
    },
}

/// A whole message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The delivery tag; zero for a returned message.
    pub tag: u64,
    /// Whether the broker says that it has delivered this before.
    pub redelivered: bool,
    /// Whether this came back as unroutable.
    pub returned: bool,
    /// Octets of the body.
    pub size: u64,
    /// The first octets of the body, zero where the body is shorter.
    pub head: [u8; HEAD],
    /// The last body frame.
    pub tail: &'a [u8],
    /// Where in the body `tail` starts.
    pub tail_offset: u64,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// At least one octet.
    Some,
    /// Nothing within the socket's time.
    Nothing,
    /// The peer has closed its side.
    Closed,
}

/// Octets that are not AMQP, or content where none may be.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAmqp(&'static str);

impl fmt::Display for NotAmqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the broker sent {}", self.0)
    }
}

impl std::error::Error for NotAmqp {}

/// The read buffer of a connection and how far it is processed.
#[derive(Debug)]
pub struct Scanner {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    content: Option<Content>,
    /// Octets read so far.
    octets: u64,
}

/// A message of which some frames are still to come.
#[derive(Debug, Clone, Copy)]
struct Content {
    tag: u64,
    redelivered: bool,
    returned: bool,
    size: Option<u64>,
    have: u64,
    head: [u8; HEAD],
}

/// A message whose three frames lie in the buffer, as positions in it.
struct Whole {
    tag: u64,
    redelivered: bool,
    body: usize,
    size: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner {
            buf: vec![0; READ_SIZE + FRAME_MAX],
            start: 0,
            end: 0,
            content: None,
            octets: 0,
        }
    }
}

impl Scanner {
    /// Reads once from `socket` with `flags`.
    ///
    /// # Errors
    /// What the socket reports, other than having nothing to read.
    pub fn fill(&mut self, socket: impl AsFd, flags: RecvFlags) -> io::Result<Fill> {
        self.compact();
        loop {
            return match recv(&socket, &mut self.buf[self.end..], flags) {
                Ok((0, _)) => Ok(Fill::Closed),
                Ok((n, _)) => {
                    self.end += n;
                    self.octets += n as u64;
                    Ok(Fill::Some)
                }
                Err(Errno::AGAIN) => Ok(Fill::Nothing),
                Err(Errno::INTR) => continue,
                Err(e) => Err(e.into()),
            };
        }
    }

    /// Octets read so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// The next whole message or method, or `None` when the rest of the buffer is incomplete.
    ///
    /// # Errors
    /// When the octets are not AMQP or a frame is larger than negotiated.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Incoming<'_>>, NotAmqp> {
        if self.content.is_none()
            && let Some(whole) = whole_message(&self.buf[self.start..self.end])
        {
            let body = self.start + whole.body;
            let tail = &self.buf[body..body + whole.size];
            self.start = body + whole.size + 1;
            return Ok(Some(Incoming::Message(Message {
                tag: whole.tag,
                redelivered: whole.redelivered,
                returned: false,
                size: whole.size as u64,
                head: head_of(tail),
                tail,
                tail_offset: 0,
            })));
        }
        self.next_by_frames()
    }

    /// Moves what is not yet processed to the front, so that a read finds room.
    fn compact(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    fn next_by_frames(&mut self) -> Result<Option<Incoming<'_>>, NotAmqp> {
        while let Some((kind, size)) = first_frame(&self.buf[self.start..self.end])? {
            let at = self.start + FRAME_HEADER;
            self.start += size + FRAME_OVERHEAD;
            let payload = at..at + size;
            let done = match kind {
                METHOD if self.content.is_some() => {
                    return Err(NotAmqp("a method inside a message"));
                }
                METHOD => match parse_method(&self.buf[payload.clone()])? {
                    Parsed::Content(content) => {
                        self.content = Some(content);
                        None
                    }
                    Parsed::Confirm(tag, multiple, nack) => {
                        return Ok(Some(Incoming::Confirm {
                            tag,
                            multiple,
                            nack,
                        }));
                    }
                    Parsed::Other(id) => {
                        let args = &self.buf[payload.start + 4..payload.end];
                        return Ok(Some(Incoming::Method { id, args }));
                    }
                },
                HEADER => self.take_header(payload.clone())?,
                BODY => self.take_body(payload.clone())?,
                _ => None,
            };
            if let Some(content) = done {
                self.content = None;
                let tail = if kind == BODY { payload } else { 0..0 };
                return Ok(Some(Incoming::Message(Message {
                    tag: content.tag,
                    redelivered: content.redelivered,
                    returned: content.returned,
                    size: content.have,
                    head: content.head,
                    tail_offset: content.have - tail.len() as u64,
                    tail: &self.buf[tail],
                })));
            }
        }
        Ok(None)
    }

    /// Takes the content header; the message is complete if its body is empty.
    fn take_header(&mut self, at: std::ops::Range<usize>) -> Result<Option<Content>, NotAmqp> {
        let size = self.buf[at].get(4..12).and_then(|b| b.try_into().ok());
        let (Some(content), Some(size)) = (&mut self.content, size) else {
            return Err(NotAmqp("a content header where none may be"));
        };
        let size = u64::from_be_bytes(size);
        content.size = Some(size);
        Ok((size == 0).then_some(*content))
    }

    /// Takes a body frame; the message is complete if it was the last one.
    fn take_body(&mut self, at: std::ops::Range<usize>) -> Result<Option<Content>, NotAmqp> {
        let chunk = &self.buf[at];
        let Some(content) = &mut self.content else {
            return Err(NotAmqp("a body without a message"));
        };
        let Some(size) = content.size else {
            return Err(NotAmqp("a body without a content header"));
        };
        let have = content.have as usize;
        if have < HEAD {
            let n = chunk.len().min(HEAD - have);
            content.head[have..have + n].copy_from_slice(&chunk[..n]);
        }
        content.have += chunk.len() as u64;
        if content.have > size {
            return Err(NotAmqp("more body than the content header announces"));
        }
        Ok((content.have == size).then_some(*content))
    }
}

enum Parsed {
    Content(Content),
    Confirm(u64, bool, bool),
    Other(MethodId),
}

fn parse_method(payload: &[u8]) -> Result<Parsed, NotAmqp> {
    const SHORT: NotAmqp = NotAmqp("a method that is too short");
    let word = be32(payload, 0).ok_or(SHORT)?;
    let id = ((word >> 16) as u16, word as u16);
    let content = |tag, redelivered, returned| {
        Parsed::Content(Content {
            tag,
            redelivered,
            returned,
            size: None,
            have: 0,
            head: [0; HEAD],
        })
    };
    Ok(match id {
        id::BASIC_DELIVER => {
            let at = 5 + usize::from(*payload.get(4).ok_or(SHORT)?);
            let tag = be64(payload, at).ok_or(SHORT)?;
            let redelivered = *payload.get(at + 8).ok_or(SHORT)?;
            content(tag, redelivered & 1 != 0, false)
        }
        id::BASIC_RETURN => content(0, false, true),
        id::BASIC_ACK | id::BASIC_NACK => {
            let tag = be64(payload, 4).ok_or(SHORT)?;
            let bits = *payload.get(12).ok_or(SHORT)?;
            Parsed::Confirm(tag, bits & 1 != 0, id == id::BASIC_NACK)
        }
        other => Parsed::Other(other),
    })
}

/// The type and payload size of the frame at the front, once it is complete.
fn first_frame(buf: &[u8]) -> Result<Option<(u8, usize)>, NotAmqp> {
    if buf.len() < FRAME_HEADER {
        return Ok(None);
    }
    let kind = buf[0];
    if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
        return Err(NotAmqp("a frame of unknown type"));
    }
    let size = be32(buf, 3).unwrap_or(0) as usize;
    if size + FRAME_OVERHEAD > FRAME_MAX {
        return Err(NotAmqp("a frame larger than negotiated"));
    }
    match buf.get(FRAME_HEADER + size) {
        None => Ok(None),
        Some(&FRAME_END) => Ok(Some((kind, size))),
        Some(_) => Err(NotAmqp("a frame without its end octet")),
    }
}

/// A delivery with one body frame at the front of `buf`; anything else is left to the frame path,
/// which also finds the errors.
#[inline]
fn whole_message(buf: &[u8]) -> Option<Whole> {
    const DELIVER: u32 = 60 << 16 | 60;
    if *buf.first()? != METHOD || be32(buf, FRAME_HEADER)? != DELIVER {
        return None;
    }
    let method_end = FRAME_HEADER + be32(buf, 3)? as usize;
    let tag_at = FRAME_HEADER + 5 + usize::from(*buf.get(FRAME_HEADER + 4)?);
    let tag = be64(buf, tag_at)?;
    let redelivered = buf.get(tag_at + 8)? & 1 != 0;
    if tag_at + 8 >= method_end || *buf.get(method_end)? != FRAME_END {
        return None;
    }
    let header = buf.get(method_end + 1..)?;
    let header_end = FRAME_HEADER + be32(header, 3)? as usize;
    let size = be64(header, FRAME_HEADER + 4)?;
    if header[0] != HEADER
        || header_end < FRAME_HEADER + 12
        || *header.get(header_end)? != FRAME_END
    {
        return None;
    }
    let body = header.get(header_end + 1..)?;
    if u64::from(be32(body, 3)?) != size
        || body[0] != BODY
        || *body.get(FRAME_HEADER + size as usize)? != FRAME_END
    {
        return None;
    }
    Some(Whole {
        tag,
        redelivered,
        body: method_end + 1 + header_end + 1 + FRAME_HEADER,
        size: size as usize,
    })
}

#[inline]
fn head_of(body: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    match body.first_chunk::<HEAD>() {
        Some(first) => head = *first,
        None => head[..body.len()].copy_from_slice(body),
    }
    head
}

#[inline]
fn be32(buf: &[u8], at: usize) -> Option<u32> {
    let bytes = buf.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[inline]
fn be64(buf: &[u8], at: usize) -> Option<u64> {
    let bytes = buf.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp;

    impl Scanner {
        /// Appends octets as a read would.
        fn feed(&mut self, bytes: &[u8]) {
            self.compact();
            self.buf[self.end..self.end + bytes.len()].copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    fn deliver(out: &mut Vec<u8>, tag: u64, redelivered: bool, body: &[u8], frame_max: usize) {
        amqp::method(out, 1, id::BASIC_DELIVER, |out| {
            amqp::short_str(out, "ctag");
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(u8::from(redelivered));
            amqp::short_str(out, "");
            amqp::short_str(out, "key");
        });
        let properties = amqp::Properties {
            persistent: true,
            ..Default::default()
        };
        amqp::content_header(out, body.len() as u64, &properties);
        amqp::body(out, body, frame_max);
    }

    /// One of everything, as the broker would send it.
    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        deliver(&mut out, 1, false, &[1; 16], 4096);
        amqp::ack(&mut out, 9, true);
        deliver(&mut out, 2, true, &(0..100).collect::<Vec<u8>>(), 18);
        amqp::frame(&mut out, HEARTBEAT, 0, |_| {});
        deliver(&mut out, 3, false, b"", 4096);
        amqp::method(&mut out, 1, id::BASIC_RETURN, |out| {
            out.extend_from_slice(&312u16.to_be_bytes());
            amqp::short_str(out, "NO_ROUTE");
            amqp::short_str(out, "x");
            amqp::short_str(out, "k");
        });
        amqp::content_header(&mut out, 3, &amqp::Properties::default());
        amqp::body(&mut out, b"abc", 4096);
        amqp::method(&mut out, 1, id::BASIC_NACK, |out| {
            out.extend_from_slice(&10u64.to_be_bytes());
            out.push(0);
        });
        amqp::cancel(&mut out, "t");
        out
    }

    fn drain(scanner: &mut Scanner, seen: &mut Vec<String>) {
        while let Some(item) = scanner.next().unwrap() {
            seen.push(match item {
                Incoming::Message(m) => format!(
                    "message {} {} {} {} {:?} {:?}@{}",
                    m.tag, m.redelivered, m.returned, m.size, m.head, m.tail, m.tail_offset
                ),
                other => format!("{other:?}"),
            });
        }
    }

    #[test]
    fn all_kinds_of_frames_are_recognised() {
        let mut scanner = Scanner::default();
        scanner.feed(&stream());
        let mut seen = Vec::new();
        drain(&mut scanner, &mut seen);
        assert_eq!(seen.len(), 7, "{seen:#?}");
        let ones = [1u8; 16];
        assert_eq!(
            seen[0],
            format!("message 1 false false 16 {ones:?} {ones:?}@0")
        );
        assert_eq!(seen[1], "Confirm { tag: 9, multiple: true, nack: false }");
        let head: Vec<u8> = (0..16).collect();
        let tail: Vec<u8> = (90..100).collect();
        assert_eq!(
            seen[2],
            format!("message 2 true false 100 {head:?} {tail:?}@90")
        );
        assert_eq!(
            seen[3],
            format!("message 3 false false 0 {:?} []@0", [0u8; 16])
        );
        assert!(seen[4].starts_with("message 0 false true 3 [97, 98, 99, 0"));
        assert_eq!(seen[5], "Confirm { tag: 10, multiple: false, nack: true }");
        assert!(seen[6].contains("(60, 30)"));
    }

    #[test]
    fn a_split_at_any_octet_changes_nothing() {
        let bytes = stream();
        let mut whole = Vec::new();
        let mut scanner = Scanner::default();
        scanner.feed(&bytes);
        drain(&mut scanner, &mut whole);
        for cut in 0..=bytes.len() {
            let mut scanner = Scanner::default();
            let mut seen = Vec::new();
            scanner.feed(&bytes[..cut]);
            drain(&mut scanner, &mut seen);
            scanner.feed(&bytes[cut..]);
            drain(&mut scanner, &mut seen);
            assert_eq!(seen, whole, "cut at {cut}");
        }
        let mut scanner = Scanner::default();
        let mut seen = Vec::new();
        for byte in &bytes {
            scanner.feed(&[*byte]);
            drain(&mut scanner, &mut seen);
        }
        assert_eq!(seen, whole, "octet by octet");
    }

    #[test]
    fn what_is_not_amqp_is_an_error() {
        let error_of = |bytes: &[u8]| {
            let mut scanner = Scanner::default();
            scanner.feed(bytes);
            loop {
                match scanner.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => return String::new(),
                    Err(e) => return e.to_string(),
                }
            }
        };
        assert!(error_of(b"AMQP\x00\x00\x09\x01").contains("unknown type"));
        assert!(error_of(&[3, 0, 1, 0, 2, 0, 0]).contains("larger than negotiated"));
        assert!(error_of(&[8, 0, 0, 0, 0, 0, 0, 0]).contains("end octet"));
        let mut body_first = Vec::new();
        amqp::body(&mut body_first, b"x", 4096);
        assert!(error_of(&body_first).contains("without a message"));
        let mut short = Vec::new();
        amqp::frame(&mut short, METHOD, 1, |out| out.push(0));
        assert!(error_of(&short).contains("too short"));
    }
}
