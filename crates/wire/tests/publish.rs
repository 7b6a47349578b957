//! The fast way through a publish agrees with frames and decoders taken one by one.
// The helpers of a test are test code too.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/entries/wire.rs"]
mod entry;
mod support;

use backbone_wire::ShortStr;
use backbone_wire::content::{parse_publish, write_body};
use backbone_wire::method::{Method, basic};
use backbone_wire::properties::{ContentHeader, Properties, PropertiesBuilder};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

const PAYLOAD_MAX: usize = 131_064;

/// One message as a client writes it. Bytes of the routing key need not be text.
#[derive(Clone, Debug)]
struct Message {
    channel: u16,
    exchange: String,
    routing_key: Vec<u8>,
    mandatory: bool,
    immediate: bool,
    properties: Vec<u8>,
    body: Vec<u8>,
    frame_max: u32,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let publish = basic::Publish {
            exchange: ShortStr::try_from(self.exchange.as_str()).unwrap(),
            routing_key: ShortStr::new(&self.routing_key).unwrap(),
            mandatory: self.mandatory,
            immediate: self.immediate,
        };
        Method::BasicPublish(publish).write(self.channel, &mut out);
        let properties = Properties::from_bytes(&self.properties).unwrap();
        let body_size = self.body.len() as u64;
        let header = ContentHeader {
            class_id: 60,
            weight: 0,
            body_size,
            properties,
        };
        header.write(self.channel, &mut out);
        write_body(self.channel, &self.body, self.frame_max, &mut out);
        out
    }
}

fn properties() -> impl Strategy<Value = Vec<u8>> {
    let some = (
        option::of(support::short_text()),
        option::of(support::field_table()),
        option::of(any::<u8>()),
        option::of(any::<u64>()),
    );
    let some = some.prop_map(|(message_id, headers, delivery_mode, timestamp)| {
        let headers = headers.as_ref().map(support::our_table);
        PropertiesBuilder {
            headers: headers.as_ref().map(|headers| headers.as_table()),
            delivery_mode,
            message_id: message_id
                .as_deref()
                .map(|id| ShortStr::try_from(id).unwrap()),
            timestamp,
            ..Default::default()
        }
        .build()
    });
    prop_oneof![
        Just(vec![0, 0]),
        any::<u8>().prop_map(|mode| vec![0x10, 0, mode]),
        some
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let names = (support::short_text(), vec(any::<u8>(), 0..=255));
    let flags = (any::<u16>(), any::<bool>(), any::<bool>());
    let body = prop_oneof![Just(Vec::new()), vec(any::<u8>(), 1..100)];
    (
        names,
        flags,
        properties(),
        body,
        prop_oneof![3 => Just(4096u32), 1 => 20u32..60],
    )
        .prop_map(
            |(
                (exchange, routing_key),
                (channel, mandatory, immediate),
                properties,
                body,
                frame_max,
            )| Message {
                channel,
                exchange,
                routing_key,
                mandatory,
                immediate,
                properties,
                body,
                frame_max,
            },
        )
}

proptest! {
    #[test]
    fn a_message_in_three_frames_is_taken_whole(message in message(), after in vec(any::<u8>(), 0..9)) {
        let mut bytes = message.bytes();
        let length = bytes.len();
        bytes.extend_from_slice(&after);
        let whole = message.body.len() + 8 <= message.frame_max as usize;
        let taken = parse_publish(&bytes, PAYLOAD_MAX);
        prop_assert_eq!(taken.is_some(), whole);
        if let Some((triple, used)) = taken {
            prop_assert_eq!(used, length);
            prop_assert_eq!(triple.channel, message.channel);
            prop_assert_eq!(triple.exchange.as_bytes(), message.exchange.as_bytes());
            prop_assert_eq!(triple.routing_key.as_bytes(), &message.routing_key[..]);
            prop_assert_eq!((triple.mandatory, triple.immediate), (message.mandatory, message.immediate));
            prop_assert_eq!(triple.properties.as_bytes(), &message.properties[..]);
            prop_assert_eq!(triple.body, &message.body[..]);
        }
        entry::publish_agrees(&bytes, PAYLOAD_MAX);
    }

    #[test]
    fn both_ways_agree_on_every_prefix(message in message()) {
        let bytes = message.bytes();
        for end in 0..=bytes.len() {
            entry::publish_agrees(&bytes[..end], PAYLOAD_MAX);
        }
    }

    #[test]
    fn both_ways_agree_on_damage(
        messages in (message(), message()),
        edits in vec((any::<Index>(), any::<u8>()), 1..4),
        max_payload in prop_oneof![Just(PAYLOAD_MAX), 0usize..200],
    ) {
        let mut bytes = [messages.0.bytes(), messages.1.bytes()].concat();
        for (at, octet) in edits {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        entry::publish_agrees(&bytes, max_payload);
    }

    #[test]
    fn both_ways_agree_on_every_single_bit_flip_of_the_frame_heads(message in message(), at in 0usize..64, bit in 0u8..8) {
        let mut bytes = message.bytes();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1 << bit;
        entry::publish_agrees(&bytes, PAYLOAD_MAX);
        entry::wire_decode(&bytes);
    }
}
