use super::*;
use crate::table::{TableBuf, Value};

fn full() -> (TableBuf, Vec<u8>) {
    let mut headers = TableBuf::new();
    headers
        .put("a", &Value::I64(1))
        .put("topic", &Value::from("old"))
        .put("b", &Value::Void);
    let bytes = PropertiesBuilder {
        content_type: Some(ShortStr::lit("text/plain")),
        content_encoding: Some(ShortStr::EMPTY),
        headers: Some(headers.as_table()),
        delivery_mode: Some(2),
        priority: Some(0),
        correlation_id: Some(ShortStr::lit("c")),
        reply_to: Some(ShortStr::lit("r")),
        expiration: Some(ShortStr::lit("1000")),
        message_id: Some(ShortStr::lit("m")),
        timestamp: Some(u64::MAX),
        type_: Some(ShortStr::lit("t")),
        user_id: Some(ShortStr::lit("guest")),
        app_id: Some(ShortStr::lit("app")),
        cluster_id: Some(ShortStr::lit("cl")),
    }
    .build();
    (headers, bytes)
}

#[test]
fn all_properties_are_found() {
    let (headers, bytes) = full();
    assert_eq!(bytes[..2], [0xFF, 0xFC]);
    let list = Properties::from_bytes(&bytes).unwrap();
    assert_eq!(list.content_type(), Some(ShortStr::lit("text/plain")));
    assert_eq!(list.content_encoding(), Some(ShortStr::EMPTY));
    assert_eq!(list.headers(), Some(headers.as_table()));
    assert_eq!(list.delivery_mode(), Some(2));
    assert_eq!(list.priority(), Some(0));
    assert_eq!(list.correlation_id(), Some(ShortStr::lit("c")));
    assert_eq!(list.reply_to(), Some(ShortStr::lit("r")));
    assert_eq!(list.expiration(), Some(ShortStr::lit("1000")));
    assert_eq!(list.message_id(), Some(ShortStr::lit("m")));
    assert_eq!(list.timestamp(), Some(u64::MAX));
    assert_eq!(list.type_(), Some(ShortStr::lit("t")));
    assert_eq!(list.user_id(), Some(ShortStr::lit("guest")));
    assert_eq!(list.app_id(), Some(ShortStr::lit("app")));
    assert_eq!(list.cluster_id(), Some(ShortStr::lit("cl")));
    assert_eq!(PropertiesBuilder::from(list).build(), bytes);
}

#[test]
fn every_set_of_flags_is_kept_apart() {
    let (_, bytes) = full();
    let all = PropertiesBuilder::from(Properties::from_bytes(&bytes).unwrap());
    for set in 0u16..1 << 14 {
        let some = PropertiesBuilder {
            content_type: all.content_type.filter(|_| set & 1 != 0),
            content_encoding: all.content_encoding.filter(|_| set & 2 != 0),
            headers: all.headers.filter(|_| set & 4 != 0),
            delivery_mode: all.delivery_mode.filter(|_| set & 8 != 0),
            priority: all.priority.filter(|_| set & 16 != 0),
            correlation_id: all.correlation_id.filter(|_| set & 32 != 0),
            reply_to: all.reply_to.filter(|_| set & 64 != 0),
            expiration: all.expiration.filter(|_| set & 128 != 0),
            message_id: all.message_id.filter(|_| set & 256 != 0),
            timestamp: all.timestamp.filter(|_| set & 512 != 0),
            type_: all.type_.filter(|_| set & 1024 != 0),
            user_id: all.user_id.filter(|_| set & 2048 != 0),
            app_id: all.app_id.filter(|_| set & 4096 != 0),
            cluster_id: all.cluster_id.filter(|_| set & 8192 != 0),
        };
        let bytes = some.build();
        let list = Properties::from_bytes(&bytes).unwrap();
        assert_eq!(PropertiesBuilder::from(list), some);
        assert_eq!(list.is_empty(), set == 0);
    }
}

#[test]
fn every_cut_and_every_extra_byte_is_malformed() {
    let (_, mut bytes) = full();
    for cut in 0..bytes.len() {
        assert!(
            Properties::from_bytes(&bytes[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    bytes.push(0);
    assert_eq!(
        Properties::from_bytes(&bytes),
        Err(Malformed::Trailing.into())
    );
    assert!(Properties::from_bytes(&[0, 0, 0]).is_err());
    assert!(Properties::from_bytes(&[0x10, 0]).is_err());
    assert!(Properties::from_bytes(&[0x10, 0, 1]).is_ok());
    assert!(Properties::from_bytes(&[0x10, 0, 1, 2]).is_err());
}

#[test]
fn flags_that_basic_does_not_have_are_refused() {
    for flags in [1u16, 2, 3, 0x8001] {
        let mut bytes = flags.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0]);
        let expected = Err(Malformed::UnknownPropertyFlags(flags).into());
        assert_eq!(Properties::from_bytes(&bytes), expected);
    }
}

#[test]
fn unchecked_garbage_yields_nothing() {
    let list = Properties::assume_checked(&[0xFF, 0xFC, 200, 1]);
    assert_eq!(PropertiesBuilder::from(list), PropertiesBuilder::default());
    assert_eq!(Properties::assume_checked(&[]).delivery_mode(), None);
    let mut copy = Vec::new();
    with_additions(list, &[("a", b"v")], None, None, &mut copy);
    assert_eq!(copy, list.as_bytes());
}

#[test]
fn content_headers_round_trip() {
    let (_, bytes) = full();
    let properties = Properties::from_bytes(&bytes).unwrap();
    let header = ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: u64::MAX,
        properties,
    };
    let mut payload = Vec::new();
    header.encode_payload(&mut payload);
    assert_eq!(ContentHeader::decode(&payload), Ok(header));
    for cut in 0..payload.len() {
        assert!(
            ContentHeader::decode(&payload[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    let mut whole = Vec::new();
    header.write(7, &mut whole);
    let (frame, used) = frame::parse(&whole, 4096).unwrap().unwrap();
    assert_eq!(used, whole.len());
    assert_eq!(
        (frame.kind, frame.channel, frame.payload),
        (FrameKind::Header, 7, &payload[..])
    );
}

#[test]
fn another_class_keeps_its_properties_unread() {
    let payload = [0, 50, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0xFF, 0xFF, 3];
    let header = ContentHeader::decode(&payload).unwrap();
    assert_eq!(
        (header.class_id, header.weight, header.body_size),
        (50, 1, 9)
    );
    assert!(header.properties.is_empty());
    assert!(ContentHeader::decode(&payload[..13]).is_err());
}

#[test]
fn additions_go_where_they_belong() {
    let mut out = Vec::new();
    let headers: [(&str, &[u8]); 2] = [("topic", b"new"), ("n", b"")];
    with_additions(
        Properties::EMPTY,
        &headers,
        Some(ShortStr::lit("id-1")),
        Some(77),
        &mut out,
    );
    let list = Properties::from_bytes(&out).unwrap();
    let table = list.headers().unwrap();
    assert_eq!(table.get("topic").unwrap().as_str(), Some("new"));
    assert_eq!(table.get("n").unwrap().as_str(), Some(""));
    assert_eq!(list.message_id(), Some(ShortStr::lit("id-1")));
    assert_eq!(list.timestamp(), Some(77));
    assert_eq!(list.delivery_mode(), None);
}

#[test]
fn additions_replace_headers_and_keep_the_rest() {
    let (_, bytes) = full();
    let list = Properties::from_bytes(&bytes).unwrap();
    let mut out = vec![9];
    with_additions(
        list,
        &[("topic", b"new")],
        Some(ShortStr::lit("id-1")),
        Some(77),
        &mut out,
    );
    let edited = Properties::from_bytes(&out[1..]).unwrap();
    let mut expected = TableBuf::new();
    expected
        .put("a", &Value::I64(1))
        .put("b", &Value::Void)
        .put("topic", &Value::from("new"));
    assert_eq!(edited.headers(), Some(expected.as_table()));
    let same = PropertiesBuilder {
        headers: list.headers(),
        ..edited.into()
    };
    assert_eq!(same.build(), bytes);
}

#[test]
fn no_additions_copy_the_list() {
    let (_, bytes) = full();
    for bytes in [&bytes[..], &[0, 0], &[0x10, 0, 2]] {
        let mut out = Vec::new();
        with_additions(
            Properties::from_bytes(bytes).unwrap(),
            &[],
            None,
            None,
            &mut out,
        );
        assert_eq!(out, bytes);
    }
}
