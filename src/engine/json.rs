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

/// A JSON object as a field table, with the types that RabbitMQ gives its values: numbers are signed 64-bit integers or
/// doubles.
///
/// # Errors
/// What cannot be in one, in RabbitMQ's words.
pub(super) fn table(object: &Map<String, Json>) -> Result<TableBuf, String> {
    let table = table_unchecked(object)?;
    // The codec has a bound of its own to how deep they nest.
    match Table::from_bytes(table.as_table().as_bytes()) {
        Ok(_) => Ok(table),
        Err(error) => Err(error.to_string()),
    }
}

fn table_unchecked(object: &Map<String, Json>) -> Result<TableBuf, String> {
    let mut table = TableBuf::new();
    for (name, json) in object {
        let mut fits = true;
        with_value(json, &mut |value| {
            fits = table.try_put(name.as_bytes(), value).is_ok();
        })?;
        if !fits {
            return Err(format!("the name '{name}' is longer than 255 bytes"));
        }
    }
    Ok(table)
}

/// Calls `take` with what `json` is in a table.
fn with_value(json: &Json, take: &mut dyn FnMut(&Value<'_>)) -> Result<(), String> {
    match json {
        Json::Null => return Err("null_not_allowed".into()),
        Json::Bool(value) => take(&Value::Bool(*value)),
        Json::String(text) => take(&Value::LongStr(text.as_bytes())),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => take(&Value::I64(integer)),
            None => take(&Value::F64(number.as_f64().unwrap_or_default())),
        },
        Json::Array(items) => {
            let mut array = ArrayBuf::new();
            for item in items {
                with_value(item, &mut |value| {
                    array.push(value);
                })?;
            }
            take(&Value::Array(array.as_array()));
        }
        Json::Object(inner) => take(&Value::Table(table_unchecked(inner)?.as_table())),
    }
    Ok(())
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

    #[test]
    fn an_object_becomes_a_table_and_is_the_same_again() {
        let given = json!({
            "b": true, "n": -5_000_000_000_i64, "f": 1.5, "s": "é", "l": [1, "a", [{}]], "t": {"u": {"v": 1}},
        });
        let given = given.as_object().unwrap();
        let made = table(given).unwrap();
        assert_eq!(object(made.as_table()), *given);
        assert!(matches!(made.as_table().get("n"), Some(Value::I64(_))));
        let refused = |value: Json| table(value.as_object().unwrap()).unwrap_err();
        assert_eq!(refused(json!({"l": [null]})), "null_not_allowed");
        assert!(refused(json!({"k".repeat(256): 1})).ends_with("is longer than 255 bytes"));
    }
}
