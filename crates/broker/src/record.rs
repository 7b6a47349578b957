//! The stored form of a message: what the wire brought, kept as it came, so that a delivery
//! re-encodes nothing.
//!
//! ```text
//! names_len u16 | flags u16 | header_len u32 | body_len u32 | exchange, routing key (short strings) | content header | body
//! ```
//!
//! With the flag [`TIMED`] eight octets follow: when the message was accepted, in ms of Unix time.
//!
//! Integers are little-endian. The content header is the payload of the header frame (class,
//! weight, body size, property flags and values; AMQP 0-9-1 §4.2.6.1).

use backbone_log::Position;
use backbone_wire::properties::Properties;

/// Bytes before the names.
pub const PREFIX_LEN: usize = 12;
/// Bytes of a content header before its properties: class, weight, body size.
pub const HEADER_FIXED_LEN: usize = 12;

/// A message in a queue: where its record is, and its place in the queue. 24 bytes, because ten
/// million of them may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The message's number in its queue; grows by one a message and is never used again.
    pub seq: u64,
    /// Segment of the record in the arena.
    pub segment: u32,
    /// Offset of the record in the segment.
    pub offset: u32,
    /// Length of the whole record in bytes.
    pub len: u32,
    /// Bit set of [`Entry::REDELIVERED`], [`Entry::LOGGED`] and the others; the upper 24 bits are [`Entry::overhead`], in queues
    /// that want to know.
    pub flags: u32,
}

const _: () = assert!(size_of::<Entry>() == 24);

impl Entry {
    /// The message was handed out before and came back.
    pub const REDELIVERED: u32 = 1;
    /// The message is in the log, or will be with the commit: whoever takes it for good settles it there.
    pub const LOGGED: u32 = 2;

    /// Its record says when the message was accepted: it may expire.
    pub const TIMED: u32 = 4;
    /// It has to be taken at once, or it expires.
    pub const AT_ONCE: u32 = 8;
    /// Its queue has let it in and counts on it.
    pub const ADMITTED: u32 = 16;

    const OVERHEAD_SHIFT: u32 = 8;

    /// The flags that say how many bytes the record has besides the body.
    pub(crate) fn overhead(bytes: usize) -> u32 {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        bytes.min(u32::MAX >> Self::OVERHEAD_SHIFT) << Self::OVERHEAD_SHIFT
    }

    /// Bytes of the body; those of the whole record if the flags do not say it.
    pub(crate) fn body_len(&self) -> u32 {
        self.len.saturating_sub(self.flags >> Self::OVERHEAD_SHIFT)
    }

    /// Has the flags say how long the body of its `record` is, and whether the message may expire.
    pub(crate) fn describe(&mut self, record: &Record<'_>) {
        let overhead = (self.len as usize).saturating_sub(record.body.len());
        let timed = if record.flags & TIMED == 0 {
            0
        } else {
            Self::TIMED
        };
        let low = self.flags & ((1 << Self::OVERHEAD_SHIFT) - 1);
        self.flags = low | timed | Self::overhead(overhead);
    }

    /// An entry that has no place in a queue yet.
    pub fn unplaced(position: Position, len: u32) -> Self {
        Self {
            seq: 0,
            segment: position.segment,
            offset: position.offset,
            len,
            flags: 0,
        }
    }

    /// Whether the message is in the log.
    #[inline]
    pub fn is_logged(&self) -> bool {
        self.flags & Self::LOGGED != 0
    }

    /// Whether the message was handed out before.
    pub fn redelivered(&self) -> bool {
        self.flags & Self::REDELIVERED != 0
    }
}

/// Record flag: the message is not delivered to its own sender's inbox.
pub const EXCLUDE_OWN: u16 = 1;
/// Record flag: the time of acceptance follows the body.
pub const TIMED: u16 = 2;
/// Bytes of that.
pub const TIME_LEN: usize = 8;

/// A message as it is about to be stored, borrowed from the wire or from its sender.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// Exchange and routing key as two short strings, length octets included.
    pub names: &'a [u8],
    /// Content header payload: class, weight, body size, properties.
    pub header: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

impl<'a> Content<'a> {
    /// The exchange that it is published to, and its routing key.
    pub fn exchange_and_key(&self) -> (&'a [u8], &'a [u8]) {
        let exchange_len = usize::from(self.names[0]);
        let exchange = &self.names[1..=exchange_len];
        (exchange, &self.names[exchange_len + 2..])
    }

    /// Lengths of its parts.
    #[inline]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            names: self.names.len(),
            header: self.header.len(),
            body: self.body.len(),
        }
    }
}

/// Lengths in bytes of what a record is made of.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Exchange and routing key as two short strings.
    pub names: usize,
    /// Content header payload.
    pub header: usize,
    /// The body.
    pub body: usize,
}

impl Sizes {
    /// Length of the whole record.
    #[inline]
    pub fn record(&self) -> usize {
        PREFIX_LEN + self.names + self.header + self.body
    }
}

/// Whether a content header asks for its message to outlive a restart (delivery-mode 2; AMQP 0-9-1 §4.2.6.1, class
/// basic). The flags before it say whether something stands before the mode.
#[inline]
pub fn is_persistent(header: &[u8]) -> bool {
    const DELIVERY_MODE: u8 = 1 << 4;
    const BEFORE: u8 = 0b1110_0000;
    let flags = header[HEADER_FIXED_LEN];
    if flags & DELIVERY_MODE == 0 {
        return false;
    }
    if flags & BEFORE == 0 {
        return header[HEADER_FIXED_LEN + 2] == 2;
    }
    Properties::assume_checked(&header[HEADER_FIXED_LEN..]).delivery_mode() == Some(2)
}

/// Appends the record of `content` and returns its offset and length in bytes.
#[inline]
pub fn write(out: &mut Vec<u8>, flags: u16, content: Content<'_>) -> (u32, u32) {
    let start = begin(
        out,
        flags,
        content.names,
        content.header,
        content.body.len(),
    );
    out.extend_from_slice(content.body);
    (start, (out.len() - start as usize) as u32)
}

/// Has the record that begins at `start` and ends with `out` say when its message was accepted.
pub(crate) fn stamp_time(out: &mut Vec<u8>, start: u32, accepted_ms: u64) {
    let at = start as usize + 2;
    let flags = u16::from_le_bytes([out[at], out[at + 1]]) | TIMED;
    out[at..at + 2].copy_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&accepted_ms.to_le_bytes());
}

/// When the record at `offset` says that its message was accepted, if it does. Panics as [`Record::read`].
pub(crate) fn accepted_at(segment: &[u8], offset: u32) -> Option<u64> {
    let record = Record::read(segment, offset);
    if record.flags & TIMED == 0 {
        return None;
    }
    let at = record.body_offset + record.body.len();
    let time = segment[at..]
        .first_chunk()
        .expect("the time follows the body");
    Some(u64::from_le_bytes(*time))
}

/// When a message expires that may wait for `ttl` ms, and for no longer than its own property says; `u64::MAX`: never. Panics
/// as [`Record::read`].
pub(crate) fn expires_at(segment: &[u8], offset: u32, ttl: Option<u64>) -> u64 {
    let Some(accepted) = accepted_at(segment, offset) else {
        return u64::MAX;
    };
    let own = Record::read(segment, offset);
    let own = own.properties().expiration();
    let own = own.and_then(|text| crate::queue::arguments::expiration(text.as_bytes()).ok());
    let Some(ttl) = own.into_iter().chain(ttl).min() else {
        return u64::MAX;
    };
    accepted.saturating_add(ttl)
}

/// Appends a record up to its body, which the caller appends; returns the record's offset.
#[inline]
pub fn begin(out: &mut Vec<u8>, flags: u16, names: &[u8], header: &[u8], body_len: usize) -> u32 {
    let start = out.len() as u32;
    let sizes = Sizes {
        names: names.len(),
        header: header.len(),
        body: body_len,
    };
    out.extend_from_slice(&prefix(flags, sizes));
    out.extend_from_slice(names);
    out.extend_from_slice(header);
    start
}

/// What a record begins with.
#[inline]
pub fn prefix(flags: u16, sizes: Sizes) -> [u8; PREFIX_LEN] {
    let mut prefix = [0; PREFIX_LEN];
    prefix[0..2].copy_from_slice(&(sizes.names as u16).to_le_bytes());
    prefix[2..4].copy_from_slice(&flags.to_le_bytes());
    prefix[4..8].copy_from_slice(&(sizes.header as u32).to_le_bytes());
    prefix[8..12].copy_from_slice(&(sizes.body as u32).to_le_bytes());
    prefix
}

/// A stored message, in place.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Bit set of [`EXCLUDE_OWN`] and [`TIMED`].
    pub flags: u16,
    /// Exchange and routing key as two short strings, length octets included.
    pub names: &'a [u8],
    /// Content header payload.
    pub header: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// Offset of the body from the beginning of the segment.
    pub body_offset: usize,
}

impl<'a> Record<'a> {
    /// Reads the record at `offset`. Panics on bytes that [`write`] did not write.
    #[inline]
    pub fn read(segment: &'a [u8], offset: u32) -> Self {
        let start = offset as usize;
        let prefix: &[u8; PREFIX_LEN] = segment[start..start + PREFIX_LEN]
            .try_into()
            .expect("the slice has the array's length");
        let names_len = usize::from(u16::from_le_bytes([prefix[0], prefix[1]]));
        let header_len = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
        let body_len = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]) as usize;
        let names_at = start + PREFIX_LEN;
        let header_at = names_at + names_len;
        let body_offset = header_at + header_len;
        Self {
            flags: u16::from_le_bytes([prefix[2], prefix[3]]),
            names: &segment[names_at..header_at],
            header: &segment[header_at..body_offset],
            body: &segment[body_offset..body_offset + body_len],
            body_offset,
        }
    }

    /// All bytes of the record at `offset`. Panics as [`Record::read`].
    #[inline]
    pub fn bytes(segment: &'a [u8], offset: u32) -> &'a [u8] {
        let record = Self::read(segment, offset);
        let time = if record.flags & TIMED == 0 {
            0
        } else {
            TIME_LEN
        };
        &segment[offset as usize..record.body_offset + record.body.len() + time]
    }

    /// The message as it was published.
    #[inline]
    pub fn content(&self) -> Content<'a> {
        Content {
            names: self.names,
            header: self.header,
            body: self.body,
        }
    }

    /// The exchange that the message was published to.
    pub fn exchange(&self) -> &'a [u8] {
        let len = usize::from(self.names[0]);
        &self.names[1..=len]
    }

    /// The routing key that the message was published with.
    pub fn routing_key(&self) -> &'a [u8] {
        &self.names[usize::from(self.names[0]) + 2..]
    }

    /// The properties, which were checked when the message came in.
    pub fn properties(&self) -> Properties<'a> {
        Properties::assume_checked(&self.header[HEADER_FIXED_LEN..])
    }
}

/// Writes `exchange` and `key` (255 bytes at most each) as the two short strings of
/// [`Content::names`].
pub fn write_names(out: &mut Vec<u8>, exchange: &[u8], key: &[u8]) {
    for name in [exchange, key] {
        let len = u8::try_from(name.len()).expect("names are at most 255 bytes");
        out.push(len);
        out.extend_from_slice(name);
    }
}

/// Writes a content header payload of class basic around raw `properties`.
pub fn write_header(out: &mut Vec<u8>, body_len: usize, properties: &[u8]) {
    out.extend_from_slice(&header_fixed(body_len));
    out.extend_from_slice(properties);
}

/// What a content header payload of class basic begins with: class, weight, body size.
#[inline]
pub fn header_fixed(body_len: usize) -> [u8; HEADER_FIXED_LEN] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = (body_len as u64).to_be_bytes();
    [0, 60, 0, 0, s0, s1, s2, s3, s4, s5, s6, s7]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut names = Vec::new();
        write_names(&mut names, b"amq.topic", b"a.b");
        let mut header = Vec::new();
        write_header(&mut header, 5, &[0, 0]);
        let mut out = b"before".to_vec();
        let content = Content {
            names: &names,
            header: &header,
            body: b"hello",
        };
        let (offset, len) = write(&mut out, EXCLUDE_OWN, content);
        assert_eq!((offset, offset + len), (6, out.len() as u32));
        let record = Record::read(&out, offset);
        assert_eq!(record.flags, EXCLUDE_OWN);
        assert_eq!(record.exchange(), b"amq.topic");
        assert_eq!(record.routing_key(), b"a.b");
        assert_eq!(record.header, &header[..]);
        assert_eq!(record.body, b"hello");
        assert_eq!(&out[record.body_offset..], b"hello");
    }
}
