//! The envelope that REST puts around a payload, and what a reader gets out of a message again.
//!
//! On a queue a REST message is `{"topic":…,"message":<payload>}` with the payload's bytes exactly as
//! they were sent, or the raw bytes when they are not JSON. A header says which, so that a payload
//! that itself looks like an envelope comes back intact. Messages that came over AMQP carry no such
//! mark and are unwrapped only if they are an envelope and nothing else. Pure; JSON values are never
//! parsed into numbers or maps on the way, so nothing about them can change.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::nesting::{NESTING_MAX, is_too_deep};

/// The names under which a payload is accepted.
pub const PAYLOAD_KEYS: [&str; 4] = ["body", "message", "payload", "data"];

/// What a reader gets as payload.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A JSON value, byte for byte.
    Json(&'a RawValue),
    /// Text that is not JSON, or must not be read as JSON.
    Text(&'a str),
    /// Bytes that are not text.
    Bytes(&'a [u8]),
}

/// A message's payload and the topic that its envelope names.
#[derive(Debug)]
pub struct Unwrapped<'a> {
    /// The envelope's topic, if there was an envelope with one.
    pub topic: Option<String>,
    /// The payload.
    pub content: Content<'a>,
}

/// Appends the envelope of a JSON payload; broadcasts may have no topic.
pub fn wrap(topic: Option<&str>, payload: &RawValue, out: &mut Vec<u8>) {
    out.push(b'{');
    if let Some(topic) = topic {
        out.extend_from_slice(b"\"topic\":");
        write_text(topic, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"message\":");
    out.extend_from_slice(payload.get().as_bytes());
    out.push(b'}');
}

/// Takes off one envelope, if there is one. `mark`: true, the body is
/// an envelope; false, it is the payload; `None`, whoever wrote it did not say.
pub fn unwrap<'a>(body: &'a [u8], mark: Option<bool>, content_type: Option<&str>) -> Unwrapped<'a> {
    let whole = |content| Unwrapped {
        topic: None,
        content,
    };
    let Ok(text) = std::str::from_utf8(body) else {
        return whole(Content::Bytes(body));
    };
    if !content_type.is_none_or(is_json) {
        return whole(Content::Text(text));
    }
    let Ok(value) = serde_json::from_str::<&RawValue>(text) else {
        return whole(Content::Text(text));
    };
    let envelope = match mark {
        Some(false) => None,
        Some(true) => Fields::parse(text.as_bytes()).ok(),
        None => Fields::parse(text.as_bytes())
            .ok()
            .filter(Fields::is_only_an_envelope),
    };
    match envelope.map(|fields| (fields.topic(), fields.payload())) {
        Some((Ok(topic), Ok(payload))) => Unwrapped {
            topic,
            content: readable(payload),
        },
        _ => whole(readable(value)),
    }
}

/// JSON, or its text where readers could not parse it as JSON: over AMQP anything can come.
fn readable(value: &RawValue) -> Content<'_> {
    match is_too_deep(value.get()) {
        true => Content::Text(value.get()),
        false => Content::Json(value),
    }
}

/// Whether a content type says JSON, as `application/json` or with the suffix `+json`.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || essence.eq_ignore_ascii_case("text/json")
        || essence.to_ascii_lowercase().ends_with("+json")
}

/// The topic that a SoAR domain message names in `header.destination`; the message may be an object or
/// a JSON text that holds one.
pub fn destination(payload: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Domain {
        header: Header,
    }
    #[derive(Deserialize)]
    struct Header {
        destination: String,
    }
    let json = payload.get();
    let inner = match json.as_bytes().first() {
        Some(b'"') => Cow::Owned(serde_json::from_str::<String>(json).ok()?),
        _ => Cow::Borrowed(json),
    };
    let domain: Domain = serde_json::from_str(&inner).ok()?;
    Some(domain.header.destination).filter(|topic| !topic.is_empty())
}

/// Why a `/send` body is refused.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not JSON; the message says where.
    #[error("the body is not JSON: {0}")]
    Syntax(serde_json::Error),
    /// JSON, but not an object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// None of [`PAYLOAD_KEYS`] is there.
    #[error("a payload is needed under one of 'body', 'message', 'payload', 'data'")]
    NoPayload,
    /// More than one of [`PAYLOAD_KEYS`] is there.
    #[error("exactly one of 'body', 'message', 'payload', 'data' may be given")]
    ManyPayloads,
    /// The topic is there and no text.
    #[error("the topic must be a text")]
    Topic,
    /// A field is there twice, so that readers could disagree on which one counts.
    #[error("the field '{0}' is there more than once")]
    Repeated(&'static str),
    /// Readers could not parse the payload.
    #[error("the payload is nested deeper than {NESTING_MAX} levels")]
    TooDeep,
}

/// What a JSON body of `/send` or `/notify` says.
#[derive(Debug)]
pub struct SendBody<'a> {
    /// The topic, if the body names one.
    pub topic: Option<String>,
    /// The payload, byte for byte.
    pub payload: &'a RawValue,
    /// The client that the body names, if it names one; whoever sends it has to be that one.
    pub client_id: Option<&'a RawValue>,
}

impl<'a> SendBody<'a> {
    /// Reads a body. A domain message that was posted as it is (`header` and `payload`, no `topic`) is
    /// itself the payload.
    ///
    /// # Errors
    /// [`BodyError`] tells what is wrong.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let fields = Fields::parse(body)?;
        if let Some(field) = fields.repeated {
            return Err(BodyError::Repeated(field));
        }
        let topic = fields.topic()?;
        let payload = if topic.is_none() && fields.is_domain_message() {
            serde_json::from_slice(body).map_err(BodyError::Syntax)?
        } else {
            fields.payload()?
        };
        if is_too_deep(payload.get()) {
            return Err(BodyError::TooDeep);
        }
        Ok(Self {
            topic,
            payload,
            client_id: fields.client_id,
        })
    }
}

pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text always encodes, and a vector takes all");
}

/// The fields of an object that matter to envelopes. A repeated key counts with its last value, where it is not refused.
#[derive(Debug, Default)]
struct Fields<'a> {
    topic: Option<&'a RawValue>,
    header: Option<&'a RawValue>,
    client_id: Option<&'a RawValue>,
    payloads: [Option<&'a RawValue>; PAYLOAD_KEYS.len()],
    /// A key that is there more than once.
    repeated: Option<&'static str>,
    /// Whether there are keys that no envelope has.
    has_others: bool,
}

/// Index of the key `payload` in [`PAYLOAD_KEYS`].
const DOMAIN_PAYLOAD: usize = 2;

impl<'a> Fields<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => BodyError::NotAnObject,
            _ => BodyError::Syntax(error),
        })
    }

    fn topic(&self) -> Result<Option<String>, BodyError> {
        let parse = |raw: &RawValue| serde_json::from_str::<Option<String>>(raw.get());
        self.topic
            .map_or(Ok(None), parse)
            .map_err(|_| BodyError::Topic)
    }

    fn payload(&self) -> Result<&'a RawValue, BodyError> {
        let mut given = self.payloads.iter().flatten();
        match (given.next(), given.next()) {
            (Some(payload), None) => Ok(payload),
            (None, _) => Err(BodyError::NoPayload),
            (Some(_), Some(_)) => Err(BodyError::ManyPayloads),
        }
    }

    fn is_only_an_envelope(&self) -> bool {
        let has_topic = matches!(self.topic(), Ok(Some(_)));
        has_topic && !self.has_others && self.header.is_none() && self.payload().is_ok()
    }

    fn is_domain_message(&self) -> bool {
        let has_header = self
            .header
            .is_some_and(|header| header.get().starts_with('{'));
        has_header && self.payloads[DOMAIN_PAYLOAD].is_some() && self.payload().is_ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Topic,
    Header,
    #[serde(rename = "client_id")]
    ClientId,
    Body,
    Message,
    Payload,
    Data,
    #[serde(other)]
    Other,
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key()? {
            let (name, place) = match key {
                Key::Topic => ("topic", &mut fields.topic),
                Key::Header => ("header", &mut fields.header),
                Key::Body => ("body", &mut fields.payloads[0]),
                Key::Message => ("message", &mut fields.payloads[1]),
                Key::Payload => ("payload", &mut fields.payloads[DOMAIN_PAYLOAD]),
                Key::Data => ("data", &mut fields.payloads[3]),
                Key::ClientId => {
                    fields.has_others = true;
                    ("client_id", &mut fields.client_id)
                }
                Key::Other => {
                    fields.has_others = true;
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if place.replace(map.next_value()?).is_some() {
                fields.repeated = Some(name);
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    fn json_of<'a>(content: &Content<'a>) -> &'a str {
        match content {
            Content::Json(value) => value.get(),
            other => panic!("{other:?} is no JSON"),
        }
    }

    fn lists(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    /// What goes in as payload of `/send` and what comes out of `/receive`.
    fn through_the_bus(payload: &str, key: &str) -> String {
        let request = format!("{{\"topic\":\"a.b\",\"{key}\": {payload} }}");
        let body = SendBody::parse(request.as_bytes()).unwrap();
        assert_eq!(body.topic.as_deref(), Some("a.b"));
        let mut stored = Vec::new();
        wrap(body.topic.as_deref(), body.payload, &mut stored);
        let unwrapped = unwrap(&stored, Some(true), Some("application/json"));
        assert_eq!(unwrapped.topic.as_deref(), Some("a.b"));
        json_of(&unwrapped.content).to_owned()
    }

    #[test]
    fn payloads_come_back_byte_for_byte() {
        let deep = lists(NESTING_MAX);
        for payload in [
            "1e400",
            "1.00",
            "-0",
            "12345678901234567890123456789",
            "null",
            "true",
            "\"text\"",
            "\"\\u00e4\\ud83d\"",
            "{\"b\":1,\"a\":2,\"b\":3}",
            "{ \"a\" : [ 1 , 2 ] }",
            "[]",
            "{}",
            "{\"topic\":\"x\",\"message\":1}",
            "{\"topic\":\"x\",\"message\":{\"topic\":\"y\",\"body\":2}}",
            "\"{\\\"header\\\":{}}\"",
            &deep,
        ] {
            for key in PAYLOAD_KEYS {
                assert_eq!(through_the_bus(payload, key), payload);
            }
        }
    }

    #[test]
    fn what_readers_could_not_parse_is_refused_or_handed_out_as_text() {
        let deep = lists(NESTING_MAX + 1);
        let request = format!("{{\"topic\":\"a\",\"body\":{deep}}}");
        assert!(matches!(
            SendBody::parse(request.as_bytes()),
            Err(BodyError::TooDeep)
        ));
        for body in [&deep, &request] {
            let content = unwrap(body.as_bytes(), None, None).content;
            assert!(matches!(content, Content::Text(text) if text == deep));
        }
    }

    #[test]
    fn only_a_pure_envelope_from_amqp_is_unwrapped() {
        let content = |body: &'static str| {
            let unwrapped = unwrap(body.as_bytes(), None, None);
            (unwrapped.topic, json_of(&unwrapped.content).to_owned())
        };
        let kept = |body: &'static str| assert_eq!(content(body), (None, body.to_owned()));
        assert_eq!(
            content("{\"topic\":\"t\",\"message\":[1]}"),
            (Some("t".into()), "[1]".into())
        );
        assert_eq!(
            content(" {\"data\":null,\"topic\":\"t\"} "),
            (Some("t".into()), "null".into())
        );
        kept("{\"topic\":\"t\",\"message\":1,\"body\":2}");
        kept("{\"topic\":\"t\",\"message\":1,\"extra\":2}");
        kept("{\"topic\":5,\"message\":1}");
        kept("{\"message\":1}");
        kept("{\"topic\":\"t\"}");
        kept("{\"header\":{\"destination\":\"t\"},\"payload\":{}}");
        kept("17");
    }

    #[test]
    fn marks_and_content_types_decide() {
        let envelope = b"{\"topic\":\"t\",\"message\":1}";
        let kept = unwrap(envelope, Some(false), None);
        assert_eq!(json_of(&kept.content).as_bytes(), envelope);
        let text = unwrap(envelope, None, Some("text/plain; charset=utf-8"));
        assert!(matches!(text.content, Content::Text(_)));
        assert!(matches!(
            unwrap(b"hello", None, None).content,
            Content::Text("hello")
        ));
        assert!(matches!(
            unwrap(b"\xff", None, None).content,
            Content::Bytes(b"\xff")
        ));
        assert!(matches!(unwrap(b"", None, None).content, Content::Text("")));
        assert!(is_json("application/problem+JSON; charset=utf-8") && !is_json("text/html"));
    }

    #[test]
    fn bad_bodies_are_told_apart() {
        let error = |body: &str| SendBody::parse(body.as_bytes()).unwrap_err();
        let syntax = error("{\"topic\":\"x\",\n  oops}");
        let BodyError::Syntax(at) = &syntax else {
            panic!("{syntax:?}")
        };
        assert_eq!((at.line(), at.column()), (2, 3));
        assert!(matches!(error(""), BodyError::Syntax(_)));
        assert!(matches!(error("{} trailing"), BodyError::Syntax(_)));
        for body in ["[]", "null", "5", "\"x\""] {
            assert!(matches!(error(body), BodyError::NotAnObject), "{body}");
        }
        assert!(matches!(error("{\"topic\":\"x\"}"), BodyError::NoPayload));
        assert!(matches!(
            error("{\"body\":1,\"data\":1}"),
            BodyError::ManyPayloads
        ));
        assert!(matches!(
            error("{\"topic\":1,\"data\":1}"),
            BodyError::Topic
        ));
        assert!(SendBody::parse(b"{\"body\":\"\xff\"}").is_err());
        for (twice, field) in [
            ("{\"body\":1,\"topic\":\"a\",\"topic\":\"b\"}", "topic"),
            ("{\"body\":1,\"b\\u006fdy\":1}", "body"),
            (
                "{\"body\":1,\"client_id\":\"a\",\"client_id\":\"a\"}",
                "client_id",
            ),
        ] {
            assert!(matches!(error(twice), BodyError::Repeated(found) if found == field));
        }
    }

    #[test]
    fn a_domain_message_posted_as_it_is_stays_whole() {
        let message = "{\"header\":{\"destination\":\"soar.x\"},\"payload\":{\"a\":1}}";
        let body = SendBody::parse(message.as_bytes()).unwrap();
        assert_eq!((body.topic, body.payload.get()), (None, message));
        assert_eq!(destination(body.payload).as_deref(), Some("soar.x"));
        let text = serde_json::to_string(message).unwrap();
        assert_eq!(destination(raw(&text)).as_deref(), Some("soar.x"));
        for other in [
            "{}",
            "5",
            "\"x\"",
            "{\"header\":{\"destination\":\"\"}}",
            "{\"header\":1}",
        ] {
            assert_eq!(destination(raw(other)), None, "{other}");
        }
    }

    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
            ".{0,20}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let key = prop_oneof![
                Just("topic"),
                Just("message"),
                Just("body"),
                Just("header"),
                Just("x")
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|v| format!("[{}]", v.join(" ,"))),
                prop::collection::vec((key, inner), 0..4).prop_map(|entries| {
                    let entries: Vec<String> = entries
                        .into_iter()
                        .map(|(k, v)| format!("\"{k}\" :{v}"))
                        .collect();
                    format!("{{{}}}", entries.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_payload_comes_back_byte_for_byte(payload in any_json(), key in 0..4usize) {
            prop_assert_eq!(through_the_bus(&payload, PAYLOAD_KEYS[key]), payload);
        }

        #[test]
        fn any_bytes_are_some_content(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let unwrapped = unwrap(&body, None, None);
            let mut out = Vec::new();
            super::super::item::Item { topic: None, content: unwrapped.content, sender: None, id: None, timestamp_s: None, is_broadcast: false, receipt: None }
                .write(&mut out);
            prop_assert!(serde_json::from_slice::<&RawValue>(&out).is_ok());
        }
    }
}
