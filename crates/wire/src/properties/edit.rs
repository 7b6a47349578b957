//! Copies of a property list with something added.

use super::list::{HEADERS, MESSAGE_ID, TIMESTAMP};
use super::{Properties, above, skip};
use crate::codec::{Reader, put_long_long, put_long_str, put_short, put_short_str};
use crate::short_str::ShortStr;
use crate::table::{Table, TableBuf, Value};

/// The values of a property list, cut where a copy can have something more: headers behind those in `headers`,
/// message-id and timestamp behind `between`.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// What is set.
    flags: u16,
    /// Values before the headers.
    pub before: &'a [u8],
    /// The headers' bytes, without their length; empty if they are not set.
    pub headers: &'a [u8],
    /// Values from the headers to the place of the timestamp, the message-id among them if it is set.
    pub between: &'a [u8],
    /// The others, the timestamp among them if it is set.
    pub rest: &'a [u8],
}

impl<'a> Cut<'a> {
    /// Cuts a list. `None`: it is malformed, which takes [`Properties::assume_checked`].
    #[inline]
    pub fn of(props: Properties<'a>) -> Option<Self> {
        let flags = props.flags();
        let mut rest = props.as_bytes().get(2..)?;
        let before = take(&mut rest, flags & above(HEADERS))?;
        let mut headers: &[u8] = &[];
        if flags & HEADERS != 0 {
            let (len, behind) = rest.split_first_chunk()?;
            (headers, rest) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        }
        let between = take(&mut rest, flags & above(TIMESTAMP) & (HEADERS - 1))?;
        Some(Self {
            flags,
            before,
            headers,
            between,
            rest,
        })
    }

    /// Whether headers are set.
    #[inline]
    pub fn has_headers(&self) -> bool {
        self.flags & HEADERS != 0
    }

    /// Whether a message-id is set.
    #[inline]
    pub fn has_message_id(&self) -> bool {
        self.flags & MESSAGE_ID != 0
    }

    /// Whether a timestamp is set.
    #[inline]
    pub fn has_timestamp(&self) -> bool {
        self.flags & TIMESTAMP != 0
    }

    /// The flag word of a copy in which message-id and timestamp are set, and `headers` says whether headers are.
    #[inline]
    pub fn flags_of_copy(&self, headers: bool) -> [u8; 2] {
        let headers = if headers { HEADERS } else { 0 };
        (self.flags & !HEADERS | headers | MESSAGE_ID | TIMESTAMP).to_be_bytes()
    }

    /// Appends the headers' bytes without the entries of these names, which a peer may repeat.
    pub fn write_headers_without(&self, names: &[&str], out: &mut Vec<u8>) {
        let mut entries = Table::assume_checked(self.headers).raw_entries();
        let (mut from, mut start) = (0, 0);
        while let Some(entry) = entries.next() {
            let end = entries.offset();
            if names.iter().any(|name| name.as_bytes() == entry.name) {
                out.extend_from_slice(&self.headers[from..start]);
                from = end;
            }
            start = end;
        }
        out.extend_from_slice(&self.headers[from..]);
    }
}

/// Takes the values of the properties in `flags` off the front of `rest`.
#[inline]
fn take<'a>(rest: &mut &'a [u8], flags: u16) -> Option<&'a [u8]> {
    if flags == 0 {
        return Some(&[]);
    }
    let all = *rest;
    let mut reader = Reader::new(all);
    skip(&mut reader, flags).ok()?;
    *rest = reader.rest();
    Some(&all[..all.len() - rest.len()])
}

/// Appends to `out` a copy of `props` in which the headers `add_headers` are set to long strings, in that order and
/// behind the others, in the place of any of the same names; and in which message-id and timestamp (seconds
/// since 1970) are set if they were absent and a value is given. All else stays byte for byte. A list that is malformed,
/// which takes [`Properties::assume_checked`] to be possible, is copied as it is.
///
/// # Panics
/// If a header's name has more than 255 bytes.
pub fn with_additions(
    props: Properties<'_>,
    add_headers: &[(&str, &[u8])],
    message_id_if_absent: Option<ShortStr<'_>>,
    timestamp_if_absent: Option<u64>,
    out: &mut Vec<u8>,
) {
    let Some(cut) = Cut::of(props) else {
        out.extend_from_slice(props.as_bytes());
        return;
    };
    let message_id = message_id_if_absent.filter(|_| !cut.has_message_id());
    let timestamp = timestamp_if_absent.filter(|_| !cut.has_timestamp());
    let mut flags = cut.flags;
    for (set, flag) in [
        (!add_headers.is_empty(), HEADERS),
        (message_id.is_some(), MESSAGE_ID),
        (timestamp.is_some(), TIMESTAMP),
    ] {
        flags |= if set { flag } else { 0 };
    }
    put_short(out, flags);
    out.extend_from_slice(cut.before);
    if flags & HEADERS != 0 {
        let names: Vec<&str> = add_headers.iter().map(|(name, _)| *name).collect();
        let mut headers = Vec::new();
        cut.write_headers_without(&names, &mut headers);
        let mut added = TableBuf::new();
        for (name, value) in add_headers {
            added.put(name, &Value::LongStr(value));
        }
        headers.extend_from_slice(added.as_table().as_bytes());
        put_long_str(out, &headers);
    }
    out.extend_from_slice(cut.between);
    if let Some(id) = message_id {
        put_short_str(out, id);
    }
    if let Some(seconds) = timestamp {
        put_long_long(out, seconds);
    }
    out.extend_from_slice(cut.rest);
}
