//! Agreement with `amq-protocol`, an independent implementation, in both directions.
// The helpers of a test are test code too.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::BasicProperties;
use amq_protocol::types::parsing::parse_field_table;
use amq_protocol::types::{FieldTable, ShortString};
use backbone_wire::ShortStr;
use backbone_wire::content::write_body;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::Method;
use backbone_wire::properties::{ContentHeader, Properties, PropertiesBuilder};
use backbone_wire::table::{Table, Value};
use proptest::option;
use proptest::prelude::*;
use support::same::Same;
use support::{field_table, short_text, their_bytes};

/// Their reading of a whole frame of ours.
fn their_frame(bytes: &[u8]) -> AMQPFrame {
    let (rest, frame) = parse_frame(bytes).unwrap();
    assert!(rest.is_empty());
    frame
}

/// All properties, in their order: texts but for the headers, the numbers and the time.
#[derive(Clone, Debug)]
struct Model {
    texts: [Option<String>; 10],
    headers: Option<FieldTable>,
    delivery_mode: Option<u8>,
    priority: Option<u8>,
    timestamp: Option<u64>,
}

fn model() -> impl Strategy<Value = Model> {
    let texts = proptest::array::uniform10(option::of(short_text()));
    let numbers = (
        option::of(any::<u8>()),
        option::of(any::<u8>()),
        option::of(any::<u64>()),
    );
    (texts, option::of(field_table()), numbers).prop_map(|(texts, headers, numbers)| Model {
        texts,
        headers,
        delivery_mode: numbers.0,
        priority: numbers.1,
        timestamp: numbers.2,
    })
}

fn our_properties(model: &Model) -> Vec<u8> {
    let headers = model.headers.as_ref().map(support::our_table);
    let [ct, ce, ci, rt, ex, mi, ty, ui, ai, cl] = model
        .texts
        .each_ref()
        .map(|text| text.as_deref().map(|t| ShortStr::try_from(t).unwrap()));
    PropertiesBuilder {
        content_type: ct,
        content_encoding: ce,
        headers: headers.as_ref().map(|headers| headers.as_table()),
        delivery_mode: model.delivery_mode,
        priority: model.priority,
        correlation_id: ci,
        reply_to: rt,
        expiration: ex,
        message_id: mi,
        timestamp: model.timestamp,
        type_: ty,
        user_id: ui,
        app_id: ai,
        cluster_id: cl,
    }
    .build()
}

fn their_properties(model: &Model) -> BasicProperties {
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    let withs: [With; 10] = [
        BasicProperties::with_content_type,
        BasicProperties::with_content_encoding,
        BasicProperties::with_correlation_id,
        BasicProperties::with_reply_to,
        BasicProperties::with_expiration,
        BasicProperties::with_message_id,
        BasicProperties::with_type,
        BasicProperties::with_user_id,
        BasicProperties::with_app_id,
        BasicProperties::with_cluster_id,
    ];
    let mut theirs = BasicProperties::default();
    for (with, text) in withs.into_iter().zip(model.texts.clone()) {
        if let Some(text) = text {
            theirs = with(theirs, ShortString::from(text));
        }
    }
    if let Some(headers) = model.headers.clone() {
        theirs = theirs.with_headers(headers);
    }
    if let Some(mode) = model.delivery_mode {
        theirs = theirs.with_delivery_mode(mode);
    }
    if let Some(priority) = model.priority {
        theirs = theirs.with_priority(priority);
    }
    if let Some(seconds) = model.timestamp {
        theirs = theirs.with_timestamp(seconds);
    }
    theirs
}

/// Theirs keeps the last of equal names, ours all.
fn repeats_a_name(value: Value<'_>) -> bool {
    match value {
        Value::Array(array) => array.iter().any(|value| repeats_a_name(value.unwrap())),
        Value::Table(table) => {
            let mut names = BTreeSet::new();
            table.iter().any(|entry| {
                let (name, value) = entry.unwrap();
                !names.insert(name) || repeats_a_name(value)
            })
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn methods_mean_the_same_to_both(payload in support::any_method_payload(), channel: u16) {
        let ours = Method::decode(&payload).unwrap();
        let mut written = Vec::new();
        ours.write(channel, &mut written);
        let theirs = their_frame(&written);
        let AMQPFrame::Method(their_channel, class) = &theirs else {
            panic!("{theirs:?}");
        };
        prop_assert_eq!(*their_channel, channel);
        prop_assert!(ours.same(class), "{:?} and {:?}", ours, class);

        let back = their_bytes(gen_frame(&theirs));
        let (frame, used) = frame::parse(&back, back.len()).unwrap().unwrap();
        prop_assert_eq!((used, frame.kind, frame.channel), (back.len(), FrameKind::Method, channel));
        let again = Method::decode(frame.payload).unwrap();
        prop_assert!(again.same(class), "{:?} and {:?}", again, class);
    }

    #[test]
    fn tables_are_written_and_read_the_same_by_both(table in field_table()) {
        let theirs = support::their_table_bytes(&table);
        let ours = support::our_table(&table);
        prop_assert_eq!(ours.as_table().as_bytes(), &theirs[..]);
        let read = Table::from_bytes(&theirs).unwrap();
        prop_assert!(read.same(&table), "{:?} and {:?}", read, table);
        let prefixed = [&(theirs.len() as u32).to_be_bytes()[..], ours.as_table().as_bytes()].concat();
        let (rest, back) = parse_field_table(&prefixed[..]).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert!(read.same(&back));
    }

    #[test]
    fn content_headers_are_written_and_read_the_same_by_both(
        model in model(),
        body_size: u64,
        channel: u16,
    ) {
        let properties = their_properties(&model);
        let theirs = AMQPFrame::Header(channel, AMQPContentHeader { class_id: 60, body_size, properties });
        let their_octets = their_bytes(gen_frame(&theirs));
        let list = our_properties(&model);
        let properties = Properties::from_bytes(&list).unwrap();
        let ours = ContentHeader { class_id: 60, weight: 0, body_size, properties };
        let mut written = Vec::new();
        ours.write(channel, &mut written);
        prop_assert_eq!(&written, &their_octets);

        let (frame, _) = frame::parse(&their_octets, their_octets.len()).unwrap().unwrap();
        let read = ContentHeader::decode(frame.payload).unwrap();
        prop_assert_eq!((read.body_size, frame.channel), (body_size, channel));
        prop_assert!(read.properties.same(&their_properties(&model)), "{:?}", read.properties);
        let AMQPFrame::Header(_, header) = their_frame(&written) else {
            panic!("not a header");
        };
        prop_assert!(read.properties.same(&header.properties));
    }

    #[test]
    fn bodies_are_cut_into_frames_that_they_read(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        frame_max in 9u32..200,
    ) {
        let mut written = Vec::new();
        write_body(5, &body, frame_max, &mut written);
        let (mut rest, mut back) = (&written[..], Vec::new());
        while !rest.is_empty() {
            let (after, frame) = parse_frame(rest).unwrap();
            let AMQPFrame::Body(5, piece) = frame else { panic!("{frame:?}") };
            prop_assert!((rest.len() - after.len()) as u32 <= frame_max);
            back.extend(piece);
            rest = after;
        }
        prop_assert_eq!(back, body);
    }

    /// They take a few things more than we do (type octets `L` and `U`, unknown property flags), and less
    /// (text has to be UTF-8); where both read a table, they read the same.
    #[test]
    fn damaged_tables_read_by_both_are_read_the_same(
        table in field_table(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut bytes = support::their_table_bytes(&table);
        prop_assume!(!bytes.is_empty());
        for (at, octet) in edits {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        let prefixed = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        if let (Ok(ours), Ok((rest, theirs))) = (Table::from_bytes(&bytes), parse_field_table(&prefixed[..])) {
            prop_assert!(rest.is_empty());
            if !repeats_a_name(Value::Table(ours)) {
                prop_assert!(ours.same(&theirs), "{:?} and {:?}", ours, theirs);
            }
        }
    }
}
