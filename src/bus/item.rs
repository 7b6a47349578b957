//! A message as readers over HTTP get it: a JSON object, written without a tree of values in between.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::AckId;
use super::envelope::{Content, write_text};

/// One message as `/receive` hands it out.
#[derive(Debug)]
pub struct Item<'a> {
    /// What it is about.
    pub topic: Option<&'a str>,
    /// The payload; written twice, as `message` and as `body`.
    pub content: Content<'a>,
    /// The client that sent it.
    pub sender: Option<&'a str>,
    /// The message's id.
    pub id: Option<&'a str>,
    /// When it was accepted, seconds since 1970.
    pub timestamp_s: Option<u64>,
    /// Whether it was for everybody.
    pub is_broadcast: bool,
    /// What whoever acknowledges it gets beside it.
    pub receipt: Option<Receipt>,
}

/// What comes with a message that is to be acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    /// Names it.
    pub ack: AckId,
    /// Whether it was handed out before and came back.
    pub redelivered: bool,
}

impl Item<'_> {
    /// Appends the item as a JSON object.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"topic\":");
        write_optional(self.topic, out);
        out.extend_from_slice(b",\"message\":");
        self.content.write(out);
        out.extend_from_slice(b",\"body\":");
        self.content.write(out);
        if matches!(self.content, Content::Bytes(_)) {
            out.extend_from_slice(b",\"encoding\":\"base64\"");
        }
        out.extend_from_slice(b",\"sender\":");
        write_optional(self.sender, out);
        out.extend_from_slice(b",\"id\":");
        write_optional(self.id, out);
        out.extend_from_slice(b",\"timestamp\":");
        write_optional(self.timestamp_s.and_then(iso_time).as_deref(), out);
        let kind = if self.is_broadcast {
            "broadcast"
        } else {
            "publish"
        };
        out.extend_from_slice(b",\"delivery_type\":");
        write_text(kind, out);
        if let Some(receipt) = self.receipt {
            let (ack, redelivered) = (receipt.ack, receipt.redelivered);
            let written = write!(out, ",\"ack\":\"{ack}\",\"redelivered\":{redelivered}");
            written.expect("a vector takes all");
        }
        out.push(b'}');
    }
}

impl Content<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Json(value) => out.extend_from_slice(value.get().as_bytes()),
            Self::Text(text) => write_text(text, out),
            Self::Bytes(bytes) => write_text(&STANDARD.encode(bytes), out),
        }
    }
}

/// ISO 8601 with an offset: Python's parser refuses a `Z`. `None` for times that no calendar has.
fn iso_time(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string())
}

fn write_optional(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => write_text(text, out),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_item_has_the_union_of_fields() {
        let item = Item {
            topic: Some("soar.\"x\""),
            content: Content::Json(raw("1.00")),
            sender: Some("noc-c2"),
            id: Some("7f0c"),
            timestamp_s: Some(1_767_323_045),
            is_broadcast: false,
            receipt: None,
        };
        let mut out = Vec::new();
        item.write(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"topic\":\"soar.\\\"x\\\"\",\"message\":1.00,\"body\":1.00,\"sender\":\"noc-c2\",\
             \"id\":\"7f0c\",\"timestamp\":\"2026-01-02T03:04:05+00:00\",\"delivery_type\":\"publish\"}"
        );
        let bytes = Item {
            topic: None,
            content: Content::Bytes(b"\xff\x00"),
            sender: None,
            id: None,
            timestamp_s: Some(u64::MAX),
            is_broadcast: true,
            receipt: Some(Receipt {
                ack: "00000000000000ff-7".parse().unwrap(),
                redelivered: true,
            }),
        };
        let mut out = Vec::new();
        bytes.write(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"topic\":null,\"message\":\"/wA=\",\"body\":\"/wA=\",\"encoding\":\"base64\",\
             \"sender\":null,\"id\":null,\"timestamp\":null,\"delivery_type\":\"broadcast\",\
             \"ack\":\"00000000000000ff-7\",\"redelivered\":true}"
        );
    }
}
