//! Copies of a property list with something added.

use super::list::{HEADERS, MESSAGE_ID, TIMESTAMP};
use super::{Properties, above, skip};
use crate::codec::{Reader, put_long_long, put_short, put_short_str};
use crate::error::Malformed;
use crate::short_str::ShortStr;
use crate::table::{Table, Value};

/// Appends to `out` a copy of `props` in which the headers `add_headers` are set, in that order and behind
/// the others, in the place of any of the same names; and in which message-id and timestamp (seconds since
/// 1970) are set if they were absent and a value is given. All else stays byte for byte. A list that is malformed,
/// which takes [`Properties::assume_checked`] to be possible, is copied as it is.
///
/// # Panics
/// If a header's name or the message-id has more than 255 bytes.
pub fn with_additions(
    props: Properties<'_>,
    add_headers: &[(&str, Value<'_>)],
    message_id_if_absent: Option<&str>,
    timestamp_if_absent: Option<u64>,
    out: &mut Vec<u8>,
) {
    let flags = props.flags();
    let Ok(parts) = Parts::cut(props) else {
        out.extend_from_slice(props.as_bytes());
        return;
    };
    let message_id = message_id_if_absent.filter(|_| flags & MESSAGE_ID == 0);
    let timestamp = timestamp_if_absent.filter(|_| flags & TIMESTAMP == 0);
    let mut new_flags = flags;
    for (set, flag) in [
        (!add_headers.is_empty(), HEADERS),
        (message_id.is_some(), MESSAGE_ID),
        (timestamp.is_some(), TIMESTAMP),
    ] {
        new_flags |= if set { flag } else { 0 };
    }
    put_short(out, new_flags);
    out.extend_from_slice(parts.before_headers);
    if new_flags & HEADERS != 0 {
        put_headers(out, parts.headers, add_headers);
    }
    out.extend_from_slice(parts.up_to_message_id);
    if let Some(id) = message_id {
        put_short_str(
            out,
            ShortStr::try_from(id).expect("a message-id fits 255 bytes"),
        );
    }
    out.extend_from_slice(parts.message_id);
    if let Some(seconds) = timestamp {
        put_long_long(out, seconds);
    }
    out.extend_from_slice(parts.rest);
}

/// The values of a list, cut where something can be added.
struct Parts<'a> {
    before_headers: &'a [u8],
    headers: Table<'a>,
    up_to_message_id: &'a [u8],
    message_id: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn cut(props: Properties<'a>) -> Result<Self, Malformed> {
        let flags = props.flags();
        let mut reader = Reader::new(props.as_bytes().get(2..).ok_or(Malformed::Truncated)?);
        let before_headers = take(&mut reader, flags & above(HEADERS))?;
        let headers = match flags & HEADERS {
            0 => Table::EMPTY,
            _ => Table::assume_checked(reader.long_str()?),
        };
        let between = flags & above(MESSAGE_ID) & (HEADERS - 1);
        let up_to_message_id = take(&mut reader, between)?;
        let message_id = take(&mut reader, flags & MESSAGE_ID)?;
        Ok(Self {
            before_headers,
            headers,
            up_to_message_id,
            message_id,
            rest: reader.rest(),
        })
    }
}

fn take<'a>(reader: &mut Reader<'a>, flags: u16) -> Result<&'a [u8], Malformed> {
    let all = reader.rest();
    skip(reader, flags)?;
    Ok(&all[..all.len() - reader.rest().len()])
}

/// Appends the table, length included, without the entries that `add` names and with those of `add`.
fn put_headers(out: &mut Vec<u8>, old: Table<'_>, add: &[(&str, Value<'_>)]) {
    let mark = out.len();
    out.extend_from_slice(&[0; 4]);
    let bytes = old.as_bytes();
    let mut entries = old.iter();
    let mut start = 0;
    while let Some(Ok((key, _))) = entries.next() {
        let end = bytes.len() - entries.rest().len();
        if !add.iter().any(|(added, _)| added.as_bytes() == key) {
            out.extend_from_slice(&bytes[start..end]);
        }
        start = end;
    }
    for (key, value) in add {
        put_short_str(
            out,
            ShortStr::try_from(*key).expect("a header's name fits 255 bytes"),
        );
        value.write(out);
    }
    let length = u32::try_from(out.len() - mark - 4).expect("a table fits 32 bits");
    out[mark..mark + 4].copy_from_slice(&length.to_be_bytes());
}
