//! Field tables as JSON, and back.

use backbone_wire::table::{ArrayBuf, Table, TableBuf, Value};
use serde_json::{Map, Value as Json};

/// A field table as a JSON object. Of a name that is there twice the first value counts, as it does for the broker.
/// Bytes that are no UTF-8 are replaced, numbers that JSON has not are null. Tables nest as deep as the codec lets them.
pub fn object(table: Table<'_>) -> Map<String, Json> {
    let mut object = Map::new();
    for (key, value) in table.iter().flatten() {
        let key = String::from_utf8_lossy(key).into_owned();
        object.entry(key).or_insert_with(|| json(value));
    }
    object
}

pub(super) fn json(value: Value<'_>) -> Json {
    match value {
        Value::Bool(value) => value.into(),
        Value::F32(value) => value.into(),
        Value::F64(value) => value.into(),
        Value::Decimal { scale, value } => {
            (f64::from(value) / 10_f64.powi(i32::from(scale))).into()
        }
        Value::LongStr(bytes) | Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(array) => array.iter().flatten().map(json).collect(),
        Value::Timestamp(seconds) => seconds.into(),
        Value::Table(table) => object(table).into(),
        // All others are integers, but for the one that has no value.
        other => other.as_i64().into(),
    }
}

/// The raw bytes of a field table as a JSON object; nothing if they are none.
pub fn object_of(raw: &[u8]) -> Map<String, Json> {
    Table::from_bytes(raw).map_or_else(|_| Map::new(), object)
}

/// JSON that no table can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    /// The wire has null, but RabbitMQ takes it from nobody here.
    #[error("null_not_allowed: the argument '{0}' is null")]
    Null(String),
    /// No integer type is so large.
    #[error("the argument '{0}' is larger than an integer of 64 bits")]
    TooLarge(String),
    /// A name that does not fit.
    #[error("the name of the argument '{0}' has more than 255 bytes")]
    Name(String),
    /// The codec has a bound of its own.
    #[error("the arguments nest too deep: {0}")]
    Nested(String),
}

/// The table of a JSON object, as RabbitMQ's management makes it: integers have 64 bits, and fractions are doubles.
///
/// # Errors
/// The first argument that cannot be in a table.
pub fn table(object: &Map<String, Json>) -> Result<TableBuf, BadArgument> {
    let table = table_unchecked(object)?;
    match Table::from_bytes(table.as_table().as_bytes()) {
        Ok(_) => Ok(table),
        Err(error) => Err(BadArgument::Nested(error.to_string())),
    }
}

fn table_unchecked(object: &Map<String, Json>) -> Result<TableBuf, BadArgument> {
    let mut table = TableBuf::new();
    for (name, value) in object {
        with_value(name, value, &mut |value| {
            let put = table.try_put(name.as_bytes(), value).map(drop);
            put.map_err(|_| BadArgument::Name(name.clone()))
        })?;
    }
    Ok(table)
}

fn with_value(
    name: &str,
    json: &Json,
    put: &mut dyn FnMut(&Value<'_>) -> Result<(), BadArgument>,
) -> Result<(), BadArgument> {
    match json {
        Json::Null => Err(BadArgument::Null(name.to_owned())),
        Json::Bool(value) => put(&Value::Bool(*value)),
        Json::String(text) => put(&Value::LongStr(text.as_bytes())),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => put(&Value::I64(integer)),
            (None, Some(fraction)) if number.is_f64() => put(&Value::F64(fraction)),
            _ => Err(BadArgument::TooLarge(name.to_owned())),
        },
        Json::Array(items) => {
            let mut array = ArrayBuf::new();
            for item in items {
                with_value(name, item, &mut |value| {
                    array.push(value);
                    Ok(())
                })?;
            }
            put(&Value::Array(array.as_array()))
        }
        Json::Object(object) => put(&Value::Table(table_unchecked(object)?.as_table())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_type_of_a_table_has_its_json() {
        let mut inner = TableBuf::new();
        inner.put("a", &Value::Void);
        let mut array = ArrayBuf::new();
        array.push(&Value::U8(255)).push(&Value::I64(i64::MIN));
        let mut table = TableBuf::new();
        table
            .put("bool", &Value::Bool(true))
            .put("integer", &Value::I32(-7))
            .put("float", &Value::F32(0.5))
            .put("no number", &Value::F64(f64::NAN))
            .put(
                "decimal",
                &Value::Decimal {
                    scale: 2,
                    value: 1234,
                },
            )
            .put("text", &Value::from("é"))
            .put("bytes", &Value::Bytes(b"a\xff"))
            .put("array", &Value::Array(array.as_array()))
            .put("time", &Value::Timestamp(u64::MAX))
            .put("table", &Value::Table(inner.as_table()))
            .put("text", &Value::from("the second"));
        let expected = json!({
            "bool": true, "integer": -7, "float": 0.5, "no number": null, "decimal": 12.34,
            "text": "é", "bytes": "a\u{fffd}", "array": [255, i64::MIN], "time": u64::MAX,
            "table": {"a": null},
        });
        assert_eq!(Json::from(object(table.as_table())), expected);
    }

    fn of(json: &Json) -> Result<TableBuf, BadArgument> {
        table(json.as_object().unwrap())
    }

    #[test]
    fn what_tables_have_comes_back_as_it_was() {
        let arguments = json!({
            "text": "é", "yes": true, "number": -7, "large": i64::MAX, "half": 0.5, "list": ["a", 1, [], {"b": 2.0}], "none": {},
        });
        let made = of(&arguments).unwrap();
        assert_eq!(Json::from(object(made.as_table())), arguments);
        assert_eq!(made.as_table().get("number"), Some(Value::I64(-7)));
    }

    #[test]
    fn what_tables_have_not_is_named() {
        let named = |json| of(&json).unwrap_err();
        assert_eq!(
            named(json!({"a": {"b": null}})),
            BadArgument::Null("b".into())
        );
        assert_eq!(
            named(json!({"a": [1, u64::MAX]})),
            BadArgument::TooLarge("a".into())
        );
        let long = "x".repeat(256);
        assert_eq!(named(json!({long.as_str(): 1})), BadArgument::Name(long));
    }
}
