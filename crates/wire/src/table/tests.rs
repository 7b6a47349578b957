use super::*;

fn one_of_each() -> TableBuf {
    let mut inner = TableBuf::new();
    inner.put("k", &Value::U8(255));
    let mut array = ArrayBuf::new();
    array
        .push(&Value::Void)
        .push(&Value::from("x"))
        .push(&Value::Array(Array::EMPTY));
    let mut table = TableBuf::new();
    table
        .put("t", &Value::Bool(true))
        .put("b", &Value::I8(-128))
        .put("B", &Value::U8(255))
        .put("s", &Value::I16(i16::MIN))
        .put("u", &Value::U16(u16::MAX))
        .put("I", &Value::I32(i32::MIN))
        .put("i", &Value::U32(u32::MAX))
        .put("l", &Value::I64(i64::MIN))
        .put("f", &Value::F32(1.5))
        .put("d", &Value::F64(-2.25))
        .put(
            "D",
            &Value::Decimal {
                scale: 2,
                value: -314,
            },
        )
        .put("S", &Value::LongStr(b"text"))
        .put("x", &Value::Bytes(b"\x00\xFF"))
        .put("A", &Value::Array(array.as_array()))
        .put("T", &Value::Timestamp(u64::MAX))
        .put("F", &Value::Table(inner.as_table()))
        .put("V", &Value::Void);
    table
}

/// A table of `levels` levels, itself counted; every second one is an array when `arrays` is set.
fn nested(levels: usize, arrays: bool) -> Vec<u8> {
    let is_array = |level: usize| arrays && level.is_multiple_of(2);
    let mut bytes = Vec::new();
    for level in (1..levels).rev() {
        let mut outer = if is_array(level) {
            Vec::new()
        } else {
            vec![1, b'n']
        };
        outer.push(if is_array(level + 1) { b'A' } else { b'F' });
        outer.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        outer.append(&mut bytes);
        bytes = outer;
    }
    bytes
}

#[test]
fn what_is_written_in_its_place_is_as_if_it_had_been_built_before() {
    let mut keys = ArrayBuf::new();
    keys.push(&Value::from("a")).push(&Value::I32(1));
    let mut inner = TableBuf::new();
    inner
        .put("count", &Value::I64(1))
        .put("keys", &Value::Array(keys.as_array()));
    let mut array = ArrayBuf::new();
    array
        .push(&Value::Table(inner.as_table()))
        .push(&Value::Bool(true));
    let mut before = TableBuf::new();
    before
        .put("first", &Value::from("1"))
        .put("array", &Value::Array(array.as_array()))
        .put("last", &Value::Void);
    let mut after = TableBuf::with_capacity(64);
    after.put("first", &Value::from("1"));
    after.put_array("array", |array| {
        array.push_table(|inner| {
            inner.put("count", &Value::I64(1));
            inner.put_array("keys", |keys| {
                keys.push(&Value::from("a")).push(&Value::I32(1));
            });
        });
        array.push(&Value::Bool(true));
    });
    after.put("last", &Value::Void);
    assert_eq!(after, before);
    let mut some = TableBuf::new();
    some.put_some(before.as_table(), |name| name != b"array");
    let mut rest = TableBuf::new();
    rest.put("first", &Value::from("1"))
        .put("last", &Value::Void);
    assert_eq!(some, rest);
}

#[test]
fn every_type_keeps_value_and_tag() {
    let built = one_of_each();
    let table = Table::from_bytes(built.as_table().as_bytes()).unwrap();
    let mut count = 0;
    for entry in table {
        let (key, value) = entry.unwrap();
        assert_eq!(key, [value.tag()], "the key is the tag");
        let mut again = Vec::new();
        value.write(&mut again);
        assert_eq!(Value::read(&mut Reader::new(&again)).unwrap(), value);
        count += 1;
    }
    assert_eq!(count, 17);
    assert_eq!(table.get("l").unwrap().as_i64(), Some(i64::MIN));
    assert_eq!(table.get("i").unwrap().as_i64(), Some(i64::from(u32::MAX)));
    assert_eq!(table.get("T").unwrap().as_i64(), None);
    assert_eq!(table.get("S").unwrap().as_str(), Some("text"));
    assert_eq!(table.get("x").unwrap().as_str(), None);
    assert_eq!(table.get("t").unwrap().as_bool(), Some(true));
    assert_eq!(
        table.get("F").unwrap().as_table().unwrap().get("k"),
        Some(Value::U8(255))
    );
    let values: Vec<_> = table
        .get("A")
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .flatten()
        .collect();
    assert_eq!(
        values,
        [Value::Void, Value::from("x"), Value::Array(Array::EMPTY)]
    );
    assert_eq!(table.get("missing"), None);
}

#[test]
fn types_have_rabbitmqs_names() {
    let table = one_of_each();
    let names: Vec<_> = table
        .as_table()
        .iter()
        .map(|entry| entry.unwrap().1.type_name())
        .collect();
    let expected = "bool byte unsignedbyte short unsignedshort signedint unsignedint long float double \
                    decimal longstr binary array timestamp table void";
    assert_eq!(names.join(" "), expected);
}

#[test]
fn every_cut_is_malformed_or_ends_between_entries() {
    let built = one_of_each();
    let bytes = built.as_table().as_bytes();
    let mut ends = vec![0];
    let mut entries = built.as_table().raw_entries();
    while entries.next().is_some() {
        ends.push(entries.offset());
    }
    for cut in 0..=bytes.len() {
        let checked = Table::from_bytes(&bytes[..cut]);
        assert_eq!(checked.is_ok(), ends.contains(&cut), "cut at {cut}");
    }
}

#[test]
fn all_other_tags_are_refused() {
    for tag in 0..=255u8 {
        let mut bytes = vec![1, b'k', tag];
        bytes.extend_from_slice(&[0; 8]);
        let refused = Table::from_bytes(&bytes) == Err(Malformed::UnknownTag(tag).into());
        assert_eq!(refused, !b"tbBsuIilfdDSxATFV".contains(&tag), "tag {tag}");
    }
    assert!(Table::from_bytes(b"\x01kL\0\0\0\0\0\0\0\0").is_err());
}

#[test]
fn a_length_past_the_end_is_refused_at_any_level() {
    assert!(Table::from_bytes(b"\x01kS\xFF\xFF\xFF\xFF").is_err());
    assert!(Table::from_bytes(b"\x01kF\0\0\0\x08\x01jF\0\0\0\x02\x01").is_err());
    assert!(Table::from_bytes(b"\x01kA\0\0\0\x05S\0\0\0\x01x").is_err());
}

#[test]
fn nesting_is_limited_to_128_levels() {
    for arrays in [false, true] {
        assert!(Table::from_bytes(&nested(1, arrays)).is_ok());
        assert!(Table::from_bytes(&nested(100, arrays)).is_ok());
        assert!(Table::from_bytes(&nested(128, arrays)).is_ok());
        let too_deep = nested(129, arrays);
        assert_eq!(Table::from_bytes(&too_deep), Err(Malformed::TooDeep.into()));
        let far_too_deep = nested(20_000, arrays);
        assert_eq!(
            Table::from_bytes(&far_too_deep),
            Err(Malformed::TooDeep.into())
        );
    }
}

#[test]
fn the_first_of_equal_names_is_found() {
    let mut table = TableBuf::new();
    table.put("k", &Value::I64(1)).put("k", &Value::I64(2));
    assert_eq!(table.as_table().get("k"), Some(Value::I64(1)));
    assert_eq!(table.as_table().iter().count(), 2);
}

#[test]
fn names_are_limited_to_255_bytes() {
    let mut table = TableBuf::new();
    assert!(table.try_put(&[b'k'; 255], &Value::Void).is_ok());
    let before = table.clone();
    assert!(table.try_put(&[b'k'; 256], &Value::Void).is_err());
    assert_eq!(table, before);
    assert!(Table::from_bytes(table.as_table().as_bytes()).is_ok());
}

#[test]
fn unchecked_garbage_yields_one_error_and_ends() {
    let table = Table::assume_checked(b"\x01kZ????");
    let mut iter = table.iter();
    assert_eq!(iter.next(), Some(Err(Malformed::UnknownTag(b'Z').into())));
    assert_eq!(iter.next(), None);
    assert_eq!(table.get("k"), None);
    let mut values = Array::assume_checked(b"S\0\0").iter();
    assert!(values.next().unwrap().is_err());
    assert_eq!(values.next(), None);
}

#[test]
fn debug_shows_names_and_values() {
    let mut table = TableBuf::new();
    table.put("a", &Value::I64(7));
    assert_eq!(format!("{:?}", table.as_table()), r#"{"a": I64(7)}"#);
}
