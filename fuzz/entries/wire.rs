//! What the fuzz targets of `crates/wire` run; its tests run the same on the checked-in corpus, on a stable
//! compiler. Not only does nothing panic: what is accepted has to survive being written and read again, and
//! the fast way through a publish has to agree with the general one.
#![allow(dead_code)]

use backbone_wire::ShortStr;
use backbone_wire::content::{self, PublishTriple};
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::Method;
use backbone_wire::properties::{ContentHeader, Properties, PropertiesBuilder, with_additions};
use backbone_wire::table::{ArrayBuf, Table, TableBuf, Value};

/// Largest payload accepted, in bytes; small, so that a fuzzer finds the limit.
const PAYLOAD_MAX: usize = 2048;

/// Takes `data` for a stream of frames, and for the payload of a method and of a header frame.
pub fn wire_decode(data: &[u8]) {
    let mut rest = data;
    loop {
        publish_agrees(rest, PAYLOAD_MAX);
        let Ok(Some((frame, used))) = frame::parse(rest, PAYLOAD_MAX) else {
            break;
        };
        assert_eq!(used, frame.payload.len() + frame::OVERHEAD);
        match frame.kind {
            FrameKind::Method => method(frame.payload),
            FrameKind::Header => header(frame.payload),
            FrameKind::Body | FrameKind::Heartbeat => {}
        }
        rest = &rest[used..];
    }
    method(data);
    header(data);
}

/// Takes `data` for a table without its length.
pub fn field_table(data: &[u8]) {
    let unchecked = Table::assume_checked(data);
    assert!(unchecked.iter().count() <= data.len());
    let Ok(table) = Table::from_bytes(data) else {
        return;
    };
    let built = rebuild(table);
    let again =
        Table::from_bytes(built.as_table().as_bytes()).expect("what was built is well-formed");
    assert_eq!(again.as_bytes().len(), data.len());
    // Any octet but 0 is true, so a second time nothing may change, and the first time only that.
    assert_eq!(rebuild(again), built);
    for entry in table {
        let (name, _) = entry.expect("a checked table has no errors");
        if let Ok(name) = std::str::from_utf8(name) {
            let mut entries = table.iter().flatten();
            let first = entries.find(|(other, _)| *other == name.as_bytes());
            let found = table.get(name).expect("a name that is there is found");
            assert_eq!(bytes_of(found), bytes_of(first.expect("it is there").1));
        }
    }
}

/// [`content::parse_publish`] yields a message exactly when the general path does, and the same one.
pub fn publish_agrees(buf: &[u8], max_payload: usize) {
    let fast = content::parse_publish(buf, max_payload);
    let general = general_publish(buf, max_payload);
    match (&fast, &general) {
        (None, None) => {}
        (Some((ours, used)), Some((theirs, expected))) => {
            assert_eq!(used, expected);
            assert_eq!(ours, theirs);
        }
        _ => panic!("fast: {fast:?}, general: {general:?}"),
    }
}

fn general_publish(buf: &[u8], max_payload: usize) -> Option<(PublishTriple<'_>, usize)> {
    let next = |buf| frame::parse(buf, max_payload).ok().flatten();
    let (first, mut used) = next(buf)?;
    if first.kind != FrameKind::Method {
        return None;
    }
    let Ok(Method::BasicPublish(publish)) = Method::decode(first.payload) else {
        return None;
    };
    let (second, more) = next(&buf[used..])?;
    used += more;
    if (second.kind, second.channel) != (FrameKind::Header, first.channel) {
        return None;
    }
    let header = ContentHeader::decode(second.payload).ok()?;
    if (header.class_id, header.weight) != (60, 0) {
        return None;
    }
    let mut body: &[u8] = &[];
    if header.body_size > 0 {
        let (third, more) = next(&buf[used..])?;
        used += more;
        let in_place = (third.kind, third.channel) == (FrameKind::Body, first.channel);
        if !in_place || third.payload.len() as u64 != header.body_size {
            return None;
        }
        body = third.payload;
    }
    let names_len = publish.exchange.len() + publish.routing_key.len() + 2;
    let triple = PublishTriple {
        channel: first.channel,
        exchange: publish.exchange,
        routing_key: publish.routing_key,
        names: &first.payload[6..6 + names_len],
        mandatory: publish.mandatory,
        immediate: publish.immediate,
        header: second.payload,
        properties: header.properties,
        body,
    };
    Some((triple, used))
}

fn method(payload: &[u8]) {
    let Ok(decoded) = Method::decode(payload) else {
        return;
    };
    let mut out = Vec::new();
    decoded.write(7, &mut out);
    let (frame, used) = frame::parse(&out, usize::MAX)
        .expect("what was written is well-formed")
        .expect("what was written is whole");
    assert_eq!(
        (used, frame.kind, frame.channel),
        (out.len(), FrameKind::Method, 7)
    );
    let again = Method::decode(frame.payload).expect("what was written decodes");
    assert_eq!(
        (again.class_id(), again.method_id()),
        (decoded.class_id(), decoded.method_id())
    );
    assert_eq!(again, decoded);
}

fn header(payload: &[u8]) {
    let Ok(header) = ContentHeader::decode(payload) else {
        return;
    };
    if header.class_id != 60 {
        assert!(header.properties.is_empty());
        return;
    }
    let mut out = Vec::new();
    header.encode_payload(&mut out);
    assert_eq!(out, payload);
    let list = header.properties;
    assert_eq!(PropertiesBuilder::from(list).build(), list.as_bytes());
    if let Some(table) = list.headers() {
        field_table(table.as_bytes());
    }
    additions(list);
}

fn additions(list: Properties<'_>) {
    let mut out = Vec::new();
    with_additions(list, &[], None, None, &mut out);
    assert_eq!(out, list.as_bytes());
    out.clear();
    let id = Some(ShortStr::lit("id"));
    with_additions(list, &[("a", b"5")], id, Some(9), &mut out);
    let edited = Properties::from_bytes(&out).expect("an edited list is well-formed");
    let headers = edited.headers().expect("headers were added");
    assert_eq!(headers.get("a"), Some(Value::LongStr(b"5")));
    let old = list.headers().unwrap_or_default();
    let kept = old
        .iter()
        .flatten()
        .filter(|(name, _)| *name != b"a")
        .count();
    assert_eq!(headers.iter().count(), kept + 1);
    let changed = PropertiesBuilder {
        headers: list.headers(),
        message_id: list.message_id(),
        timestamp: list.timestamp(),
        ..edited.into()
    };
    assert_eq!(changed.build(), list.as_bytes());
    assert!(
        list.message_id()
            .is_none_or(|id| edited.message_id() == Some(id))
    );
    assert!(
        list.timestamp()
            .is_none_or(|seconds| edited.timestamp() == Some(seconds))
    );
}

fn rebuild(table: Table<'_>) -> TableBuf {
    let mut built = TableBuf::new();
    for entry in table {
        let (name, value) = entry.expect("a checked table has no errors");
        rebuild_value(value, &mut |value| {
            built
                .try_put(name, &value)
                .expect("a name that was read fits");
        });
    }
    built
}

fn rebuild_value(value: Value<'_>, then: &mut dyn FnMut(Value<'_>)) {
    match value {
        Value::Table(table) => then(Value::Table(rebuild(table).as_table())),
        Value::Array(array) => {
            let mut built = ArrayBuf::new();
            for value in array {
                let value = value.expect("a checked array has no errors");
                rebuild_value(value, &mut |value| {
                    built.push(&value);
                });
            }
            then(Value::Array(built.as_array()));
        }
        plain => then(plain),
    }
}

/// Floating-point values need not equal themselves, their bytes do.
fn bytes_of(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    value.write(&mut out);
    out
}
