//! What the bus adds to a message, put into its record: the headers `topic` and `sender`, and message-id and
//! timestamp if it has none.
//!
//! All that is the same for each message of a flow and topic is made once, with the topic's route. A record begins
//! with a copy of it, in which lengths and flags are set; what the message brought goes in between as it is, and
//! nothing of it is decoded.

use backbone_wire::properties::{Cut, Properties};
use backbone_wire::table::{TableBuf, Value};

use super::ids::MessageIds;
use crate::record::{self, HEADER_FIXED_LEN, PREFIX_LEN, Sizes};

const TOPIC: &str = "topic";
const SENDER: &str = "sender";
/// Octets of the property flags.
const FLAGS_LEN: usize = 2;
/// Octets of a table's length.
const TABLE_LEN_LEN: usize = 4;

/// The beginning of a record with no other properties than what the bus adds.
#[derive(Default)]
pub(super) struct Stamp {
    /// Prefix, names, fixed part of the content header, flags, the table's length, `topic` and `sender`.
    bytes: Vec<u8>,
    /// Offset of the content header.
    header_at: usize,
    /// The headers that are added, and take the place of others of the same name.
    adds: &'static [&'static str],
}

/// A message on the bus, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct Marked<'a> {
    pub properties: Properties<'a>,
    /// It has other headers than `topic` and `sender`.
    pub others: bool,
    pub body: &'a [u8],
    /// Flags of the record.
    pub flags: u16,
    /// Unix time for messages without a timestamp.
    pub seconds: u64,
}

impl Stamp {
    /// Makes the stamp anew, in the memory that it has.
    pub fn make(&mut self, names: &[u8], topic: &[u8], sender: Option<&str>) {
        let mut added = TableBuf::new();
        if !topic.is_empty() {
            added.put(TOPIC, &Value::LongStr(topic));
        }
        if let Some(sender) = sender {
            added.put(SENDER, &Value::LongStr(sender.as_bytes()));
        }
        self.adds = match (topic, sender) {
            ([_, ..], Some(_)) => &[TOPIC, SENDER],
            ([_, ..], None) => &[TOPIC],
            ([], Some(_)) => &[SENDER],
            ([], None) => &[],
        };
        self.header_at = PREFIX_LEN + names.len();
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; PREFIX_LEN]);
        self.bytes.extend_from_slice(names);
        self.bytes
            .extend_from_slice(&[0; HEADER_FIXED_LEN + FLAGS_LEN + TABLE_LEN_LEN]);
        self.bytes.extend_from_slice(added.as_table().as_bytes());
    }

    /// More bytes than the record of `message` can have.
    #[inline]
    pub fn bound(&self, message: &Marked<'_>) -> usize {
        const ID_AND_TIMESTAMP_MAX: usize = 256 + 8;
        let brought = message.properties.as_bytes().len() + message.body.len();
        self.bytes.len() + brought + ID_AND_TIMESTAMP_MAX
    }

    /// Appends the record of `message`; returns its offset and length in bytes.
    #[inline]
    pub fn write(
        &self,
        message: &Marked<'_>,
        ids: &mut MessageIds,
        out: &mut Vec<u8>,
    ) -> (u32, u32) {
        let cut = Cut::of(message.properties).expect("the properties were checked");
        let start = out.len();
        let table_at = if cut.before.is_empty() && self.adds.len() == 2 && !message.others {
            out.extend_from_slice(&self.bytes);
            Some(start + self.header_at + HEADER_FIXED_LEN + FLAGS_LEN)
        } else {
            self.write_between(&cut, out)
        };
        let table_end = out.len();
        append_rare(out, cut.between);
        if !cut.has_message_id() {
            out.extend_from_slice(ids.next_encoded());
        }
        if !cut.has_timestamp() {
            out.extend_from_slice(&message.seconds.to_be_bytes());
        }
        append_rare(out, cut.rest);
        let header_at = start + self.header_at;
        let sizes = Sizes {
            names: self.header_at - PREFIX_LEN,
            header: out.len() - header_at,
            body: message.body.len(),
        };
        set(out, start, record::prefix(message.flags, sizes));
        set(out, header_at, record::header_fixed(sizes.body));
        let flags = cut.flags_of_copy(table_at.is_some());
        set(out, header_at + HEADER_FIXED_LEN, flags);
        if let Some(at) = table_at {
            let len = (table_end - at - TABLE_LEN_LEN) as u32;
            set(out, at, len.to_be_bytes());
        }
        out.extend_from_slice(message.body);
        (start as u32, (out.len() - start) as u32)
    }

    /// Appends the stamp with what stays of the properties up to the headers' end; returns where the table's
    /// length is, if there is a table.
    fn write_between(&self, cut: &Cut<'_>, out: &mut Vec<u8>) -> Option<usize> {
        let flags_end = self.header_at + HEADER_FIXED_LEN + FLAGS_LEN;
        let (head, table) = self.bytes.split_at(flags_end);
        out.extend_from_slice(head);
        out.extend_from_slice(cut.before);
        let added = &table[TABLE_LEN_LEN..];
        if added.is_empty() && !cut.has_headers() {
            return None;
        }
        let table_at = out.len();
        out.extend_from_slice(&[0; TABLE_LEN_LEN]);
        cut.write_headers_without(self.adds, out);
        out.extend_from_slice(added);
        Some(table_at)
    }
}

#[inline]
fn append_rare(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.extend_from_slice(bytes);
    }
}

#[inline]
fn set<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}
