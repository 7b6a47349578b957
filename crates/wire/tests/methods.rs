//! Every method of the table, at its boundaries and with random arguments.
// The helpers of a test are test code too.
#![allow(clippy::unwrap_used)]

mod support;

use backbone_wire::error::{DecodeError, Malformed};
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{self, Method, Sender};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use support::spec;

/// As many as RabbitMQ has.
const METHODS: usize = 66;

/// Runs `check` on a few random payloads of every method of the table.
fn for_every_method(mut check: impl FnMut(&spec::Class, &spec::Method, &[u8])) {
    let mut runner = TestRunner::deterministic();
    let (again, mut count) = (support::classes(), 0);
    for (class, other) in support::classes().into_iter().zip(&again) {
        for (method, facts) in class.methods.into_iter().zip(&other.methods) {
            let payloads = support::method_payload(class.id, method);
            for _ in 0..8 {
                check(
                    other,
                    facts,
                    &payloads.new_tree(&mut runner).unwrap().current(),
                );
            }
            count += 1;
        }
    }
    assert_eq!(count, METHODS);
}

#[test]
fn every_method_decodes_and_is_written_as_it_came() {
    for_every_method(|class, method, payload| {
        let decoded = Method::decode(payload).unwrap();
        assert_eq!(
            (decoded.class_id(), decoded.method_id()),
            (class.id, method.id)
        );
        let mut out = vec![1, 2, 3];
        decoded.write(513, &mut out);
        let (frame, used) = frame::parse(&out[3..], payload.len()).unwrap().unwrap();
        assert_eq!(used, out.len() - 3);
        assert_eq!((frame.kind, frame.channel), (FrameKind::Method, 513));
        assert_eq!(frame.payload, payload, "{}", decoded.name());
    });
}

#[test]
fn every_method_knows_its_name_sender_and_content() {
    for_every_method(|class, method, payload| {
        let decoded = Method::decode(payload).unwrap();
        let full_name = format!("{}.{}", class.name, method.name);
        assert_eq!(decoded.name(), full_name);
        assert_eq!(method::name(class.id, method.id), Some(full_name.as_str()));
        let sender = match method.sender {
            spec::Sender::Client => Sender::Client,
            spec::Sender::Server => Sender::Server,
            spec::Sender::Both => Sender::Both,
        };
        assert_eq!(decoded.sent_by(), sender);
        assert_eq!(decoded.is_from_client(), sender != Sender::Server);
        let with_content = [
            "basic.publish",
            "basic.return",
            "basic.deliver",
            "basic.get-ok",
        ];
        assert_eq!(
            decoded.has_content(),
            with_content.contains(&decoded.name())
        );
    });
}

#[test]
fn every_method_cut_anywhere_is_refused_and_named() {
    for_every_method(|class, method, payload| {
        for cut in 0..payload.len() {
            let expected = match cut {
                0..4 => DecodeError::Malformed(Malformed::Truncated),
                _ => DecodeError::Arguments {
                    class_id: class.id,
                    method_id: method.id,
                    malformed: Malformed::Truncated,
                },
            };
            assert_eq!(
                Method::decode(&payload[..cut]),
                Err(expected),
                "cut at {cut}"
            );
        }
    });
}

#[test]
fn every_method_with_a_byte_too_many_is_refused_and_named() {
    for_every_method(|class, method, payload| {
        let expected = DecodeError::Arguments {
            class_id: class.id,
            method_id: method.id,
            malformed: Malformed::Trailing,
        };
        assert_eq!(Method::decode(&[payload, &[0]].concat()), Err(expected));
    });
}

#[test]
fn all_other_numbers_are_unknown_methods() {
    let mut known = 0;
    for class_id in 0..=255u16 {
        for method_id in 0..=255u16 {
            let payload = [class_id.to_be_bytes(), method_id.to_be_bytes()].concat();
            let unknown = Err(DecodeError::UnknownMethod {
                class_id,
                method_id,
            });
            match method::name(class_id, method_id) {
                Some(_) => known += 1,
                None => assert_eq!(Method::decode(&payload), unknown),
            }
        }
    }
    assert_eq!(known, METHODS);
    assert!(Method::decode(&[0xFF; 4]).is_err());
}

#[test]
fn reserved_arguments_are_skipped_whatever_they_hold() {
    // basic.get with ticket 7; connection.open with capabilities and insist; channel.open with a name.
    for payload in [
        &b"\0\x3c\0\x46\0\x07\x01q\x01"[..],
        b"\0\x0a\0\x28\x01/\x03abc\x01",
        b"\0\x14\0\x0a\x02ab",
    ] {
        let decoded = Method::decode(payload).unwrap();
        let mut out = Vec::new();
        decoded.write(1, &mut out);
        let (frame, _) = frame::parse(&out, 4096).unwrap().unwrap();
        assert_ne!(frame.payload, payload);
        assert_eq!(Method::decode(frame.payload), Ok(decoded));
    }
}

#[test]
fn a_table_past_the_end_or_malformed_is_refused_in_a_method() {
    // queue.declare of "" with a table that announces a byte more than there is, then one with an unknown type.
    let past = b"\0\x32\0\x0a\0\0\0\0\0\0\0\x01";
    assert!(matches!(
        Method::decode(past),
        Err(DecodeError::Arguments {
            class_id: 50,
            method_id: 10,
            malformed: Malformed::Truncated
        })
    ));
    let unknown = b"\0\x32\0\x0a\0\0\0\0\0\0\0\x03\x01kZ";
    assert!(matches!(
        Method::decode(unknown),
        Err(DecodeError::Arguments {
            malformed: Malformed::UnknownTag(b'Z'),
            ..
        })
    ));
}

proptest! {
    #[test]
    fn random_arguments_survive_decode_and_write(payload in support::any_method_payload()) {
        let decoded = Method::decode(&payload).unwrap();
        let mut out = Vec::new();
        decoded.write(0, &mut out);
        let (frame, _) = frame::parse(&out, payload.len()).unwrap().unwrap();
        prop_assert_eq!(frame.payload, &payload[..]);
    }

    #[test]
    fn what_decodes_from_garbage_is_written_to_the_same_value(
        payload in support::any_method_payload(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut payload = payload;
        for (at, octet) in edits {
            let at = at.index(payload.len());
            payload[at] = octet;
        }
        if let Ok(decoded) = Method::decode(&payload) {
            let mut out = Vec::new();
            decoded.write(0, &mut out);
            let (frame, _) = frame::parse(&out, usize::MAX).unwrap().unwrap();
            prop_assert_eq!(Method::decode(frame.payload), Ok(decoded));
        }
    }
}
