//! Arguments of declares and bindings, from JSON to tables as they are on the wire.

use backbone_wire::table::{ArrayBuf, TableBuf, Value};
use serde_json::{Map, Value as Json};

/// JSON that no table can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    /// The wire has null, but RabbitMQ takes it from nobody here.
    #[error("the argument '{0}' is null")]
    Null(String),
    /// No integer type is so large.
    #[error("the argument '{0}' is larger than an integer of 64 bits")]
    TooLarge(String),
    /// A name that does not fit.
    #[error("the name of the argument '{0}' has more than 255 bytes")]
    Name(String),
}

/// The table of a JSON object, as RabbitMQ's management makes it: integers have 64 bits, and fractions are doubles.
///
/// # Errors
/// The first argument that cannot be in a table.
pub fn table(object: &Map<String, Json>) -> Result<TableBuf, BadArgument> {
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
        Json::Object(object) => put(&Value::Table(table(object)?.as_table())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::queues::object;

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
