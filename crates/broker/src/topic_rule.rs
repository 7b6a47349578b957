//! Where a message on the bus says what it is about.
//!
//! The first of: AMQP header `topic` or `x-topic`; the JSON body's string `topic`; its
//! `header.destination`, also below `message`, `body`, `payload` or `data`, there as an object
//! or as a JSON string. This module reads bodies; the headers are looked at with everything else in
//! them, by the publisher.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The topic that a message's body names, for those whose headers name none.
pub fn in_body(body: &[u8]) -> Option<Cow<'_, [u8]>> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace())?;
    if *first != b'{' {
        return None;
    }
    let document: Document<'_> = serde_json::from_slice(body).ok()?;
    let topic = document
        .topic
        .and_then(string)
        .or_else(|| destination(&document))?;
    let bytes = match topic {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    (!bytes.is_empty()).then_some(bytes)
}

fn destination<'a>(document: &Document<'a>) -> Option<Cow<'a, str>> {
    if let Some(found) = document.header.and_then(header_destination) {
        return Some(found);
    }
    let payload = document.payload?;
    if let Some(inner) = string(payload) {
        let inner: Document<'_> = serde_json::from_str(&inner).ok()?;
        let found = inner.header.and_then(header_destination)?;
        return Some(Cow::Owned(found.into_owned()));
    }
    let inner: Document<'a> = serde_json::from_str(payload.get()).ok()?;
    inner.header.and_then(header_destination)
}

fn header_destination(header: &RawValue) -> Option<Cow<'_, str>> {
    let header: Header<'_> = serde_json::from_str(header.get()).ok()?;
    header.destination.and_then(string)
}

fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get();
    if !text.starts_with('"') {
        return None;
    }
    if let Ok(plain) = serde_json::from_str::<&str>(text) {
        return Some(Cow::Borrowed(plain));
    }
    serde_json::from_str::<String>(text).ok().map(Cow::Owned)
}

/// The members of a JSON object that matter here; of repeated ones the last counts.
#[derive(Default)]
struct Document<'a> {
    topic: Option<&'a RawValue>,
    header: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
}

#[derive(Default)]
struct Header<'a> {
    destination: Option<&'a RawValue>,
}

trait Members<'a>: Default {
    const EXPECTING: &'static str;
    fn member(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>>;
}

impl<'a> Members<'a> for Document<'a> {
    const EXPECTING: &'static str = "a message object";

    fn member(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        match name {
            "topic" => Some(&mut self.topic),
            "header" => Some(&mut self.header),
            "message" | "body" | "payload" | "data" => Some(&mut self.payload),
            _ => None,
        }
    }
}

impl<'a> Members<'a> for Header<'a> {
    const EXPECTING: &'static str = "a message header";

    fn member(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        (name == "destination").then_some(&mut self.destination)
    }
}

struct MembersVisitor<T>(T);

impl<'de, T: Members<'de>> Visitor<'de> for MembersVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<T, A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match self.0.member(&name) {
                Some(member) => *member = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(self.0)
    }
}

impl<'de> Deserialize<'de> for Document<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(Self::default()))
    }
}

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(Self::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Option<String> {
        in_body(body.as_bytes()).map(|t| String::from_utf8(t.into_owned()).unwrap())
    }

    #[test]
    fn the_topic_is_found_in_the_order_of_the_specification() {
        let cases = [
            (r#"{"topic":"a.b","message":1}"#, Some("a.b")),
            (
                r#" {"topic":"\u0061","header":{"destination":"x"}}"#,
                Some("a"),
            ),
            (r#"{"topic":7,"header":{"destination":"x"}}"#, Some("x")),
            (r#"{"header":{"destination":"x"},"payload":{}}"#, Some("x")),
            (r#"{"message":{"header":{"destination":"y"}}}"#, Some("y")),
            (
                r#"{"body":"{\"header\":{\"destination\":\"z\"}}"}"#,
                Some("z"),
            ),
            (r#"{"topic":"","message":1}"#, None),
            (r#"{"message":{"topic":"no"}}"#, None),
            (r#"{"topic":"first","topic":"last"}"#, Some("last")),
            (r#"["topic"]"#, None),
            (r#"{"topic":"cut"#, None),
            ("plain text", None),
            ("", None),
        ];
        for (body, expected) in cases {
            assert_eq!(found(body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!(
            "{{\"x\":{}{},\"topic\":\"t\"}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(found(&deep).as_deref(), Some("t"));
    }
}
