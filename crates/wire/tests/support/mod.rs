//! What the property tests of this crate share: random values, and another implementation to compare with.
//!
//! Each test binary uses a part of it.
#![allow(dead_code)]

pub mod same;
#[path = "../../generator/spec.rs"]
pub mod spec;

use amq_protocol::frame::WriteContext;
use amq_protocol::types::generation::{SerializeFn, gen_field_table};
use amq_protocol::types::{
    AMQPValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
};
use backbone_wire::table::{ArrayBuf, TableBuf, Value};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use spec::{Argument, Kind};

/// The table of methods that the crate is generated from.
pub fn classes() -> Vec<spec::Class> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    spec::parse(&std::fs::read_to_string(root.join(spec::PATH)).unwrap())
}

/// What `amq-protocol` writes.
pub fn their_bytes(serialize: impl SerializeFn<Vec<u8>>) -> Vec<u8> {
    serialize(WriteContext::from(Vec::new()))
        .unwrap()
        .into_inner()
        .0
}

/// What `amq-protocol` writes for a table, without the 4-byte length.
pub fn their_table_bytes(table: &FieldTable) -> Vec<u8> {
    their_bytes(gen_field_table(table)).split_off(4)
}

/// The same table, written by us.
pub fn our_table(table: &FieldTable) -> TableBuf {
    let mut built = TableBuf::new();
    for (key, value) in table.inner() {
        with_our_value(value, &mut |value| {
            built.put(key.as_str(), &value);
        });
    }
    built
}

fn with_our_value(value: &AMQPValue, then: &mut dyn FnMut(Value<'_>)) {
    match value {
        AMQPValue::Boolean(value) => then(Value::Bool(*value)),
        AMQPValue::ShortShortInt(value) => then(Value::I8(*value)),
        AMQPValue::ShortShortUInt(value) => then(Value::U8(*value)),
        AMQPValue::ShortInt(value) => then(Value::I16(*value)),
        AMQPValue::ShortUInt(value) => then(Value::U16(*value)),
        AMQPValue::LongInt(value) => then(Value::I32(*value)),
        AMQPValue::LongUInt(value) => then(Value::U32(*value)),
        AMQPValue::LongLongInt(value) => then(Value::I64(*value)),
        AMQPValue::Float(value) => then(Value::F32(*value)),
        AMQPValue::Double(value) => then(Value::F64(*value)),
        AMQPValue::DecimalValue(DecimalValue { scale, value }) => {
            then(Value::Decimal {
                scale: *scale,
                value: *value as i32,
            });
        }
        AMQPValue::ShortString(_) => unreachable!("no field value is a short string"),
        AMQPValue::LongString(bytes) => then(Value::LongStr(bytes.as_bytes())),
        AMQPValue::ByteArray(bytes) => then(Value::Bytes(bytes.as_slice())),
        AMQPValue::Timestamp(value) => then(Value::Timestamp(*value)),
        AMQPValue::FieldTable(table) => then(Value::Table(our_table(table).as_table())),
        AMQPValue::FieldArray(array) => {
            let mut built = ArrayBuf::new();
            for value in array.as_slice() {
                with_our_value(value, &mut |value| {
                    built.push(&value);
                });
            }
            then(Value::Array(built.as_array()));
        }
        AMQPValue::Void => then(Value::Void),
    }
}

/// Text of 0 to 255 bytes, both ends included.
pub fn short_text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-z.#*]{0,12}",
        2 => "\\PC{0,60}",
        1 => Just(String::new()),
        1 => Just("x".repeat(255)),
    ]
}

/// A table of all types with distinct names, nested up to four levels.
pub fn field_table() -> impl Strategy<Value = FieldTable> {
    btree_map(short_text(), field_value(), 0..6).prop_map(to_field_table)
}

fn to_field_table(entries: std::collections::BTreeMap<String, AMQPValue>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(ShortString::from(key), value);
    }
    table
}

fn field_value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<(u8, u32)>()
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        vec(any::<u8>(), 0..40).prop_map(|b| AMQPValue::LongString(LongString::from(b))),
        vec(any::<u8>(), 0..40).prop_map(|b| AMQPValue::ByteArray(b.into())),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|v| AMQPValue::FieldArray(FieldArray::from(v))),
            btree_map(short_text(), inner, 0..4)
                .prop_map(|entries| AMQPValue::FieldTable(to_field_table(entries))),
        ]
    })
}

/// A random method of the table: class, method and the payload of its frame as any peer would write it, with
/// reserved arguments and unused bits zero.
pub fn any_method_payload() -> impl Strategy<Value = Vec<u8>> {
    let all = classes().into_iter().flat_map(|class| {
        class
            .methods
            .into_iter()
            .map(move |method| method_payload(class.id, method))
    });
    proptest::strategy::Union::new(all)
}

/// A random payload of a frame of this method.
pub fn method_payload(class_id: u16, method: spec::Method) -> BoxedStrategy<Vec<u8>> {
    let ids = [class_id.to_be_bytes(), method.id.to_be_bytes()].concat();
    let mut payload = Just(ids).boxed();
    let mut rest = method.arguments.as_slice();
    while let Some(first) = rest.first() {
        let bits = rest
            .iter()
            .take_while(|argument| argument.kind == Kind::Bit)
            .count();
        let run = bits.max(1);
        let next = if bits > 0 {
            bits_octet(&rest[..run])
        } else {
            argument(first)
        };
        payload = (payload, next)
            .prop_map(|(front, next)| [front, next].concat())
            .boxed();
        rest = &rest[run..];
    }
    payload
}

fn bits_octet(run: &[Argument]) -> BoxedStrategy<Vec<u8>> {
    let mask: u8 = (0..run.len())
        .filter(|&i| !run[i].is_reserved())
        .map(|i| 1 << i)
        .sum();
    any::<u8>()
        .prop_map(move |octet| vec![octet & mask])
        .boxed()
}

fn argument(argument: &Argument) -> BoxedStrategy<Vec<u8>> {
    let numeric = |length: usize| vec(any::<u8>(), length).boxed();
    let prefixed = |bytes: Vec<u8>| [(bytes.len() as u32).to_be_bytes().to_vec(), bytes].concat();
    let value = match argument.kind {
        Kind::Bit => unreachable!("bits come in runs"),
        Kind::Octet => numeric(1),
        Kind::Short => numeric(2),
        Kind::Long => numeric(4),
        Kind::LongLong | Kind::Timestamp => numeric(8),
        Kind::ShortStr => short_text()
            .prop_map(|text| [vec![text.len() as u8], text.into_bytes()].concat())
            .boxed(),
        Kind::LongStr => vec(any::<u8>(), 0..60).prop_map(prefixed).boxed(),
        Kind::Table => field_table()
            .prop_map(move |t| prefixed(their_table_bytes(&t)))
            .boxed(),
    };
    if argument.is_reserved() {
        value.prop_map(zeroed(argument.kind)).boxed()
    } else {
        value
    }
}

fn zeroed(kind: Kind) -> impl Fn(Vec<u8>) -> Vec<u8> {
    move |value| match kind {
        Kind::ShortStr => vec![0],
        Kind::LongStr | Kind::Table => vec![0; 4],
        _ => vec![0; value.len()],
    }
}
