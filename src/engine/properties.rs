//! The properties of a message as JSON, and back: under the names that AMQP gives them, with `_`.

use backbone_wire::ShortStr;
use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::TableBuf;
use serde_json::{Map, Value as Json};

use super::json::{object, table};

/// What is set, as a JSON object.
pub(super) fn to_json(properties: Properties<'_>) -> Map<String, Json> {
    let mut object_of = Map::new();
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            object_of.insert(name.to_owned(), value);
        }
    };
    for (name, value) in texts(&PropertiesBuilder::from(properties)) {
        put(name, value.map(text));
    }
    put("headers", properties.headers().map(|it| object(it).into()));
    put("delivery_mode", properties.delivery_mode().map(Json::from));
    put("priority", properties.priority().map(Json::from));
    put("timestamp", properties.timestamp().map(Json::from));
    object_of
}

/// The property list that a JSON object says; what is no property is passed over.
///
/// # Errors
/// A value of another type, in RabbitMQ's words.
pub(super) fn from_json(given: &Map<String, Json>) -> Result<Vec<u8>, String> {
    let headers = match given.get("headers") {
        Some(Json::Object(headers)) => Some(table(headers).map_err(|error| error.to_string())?),
        // How RabbitMQ writes an empty one.
        Some(Json::Array(items)) if items.is_empty() => Some(TableBuf::new()),
        Some(_) => return Err("not_object: headers".into()),
        None => None,
    };
    let octet = |name| {
        let number = integer(given, name)?;
        let octet = number.map(u8::try_from).transpose();
        octet.map_err(|_| format!("not_int: {name}"))
    };
    let short = |name| short(given, name);
    let properties = PropertiesBuilder {
        content_type: short("content_type")?,
        content_encoding: short("content_encoding")?,
        headers: headers.as_ref().map(|it| it.as_table()),
        delivery_mode: octet("delivery_mode")?,
        priority: octet("priority")?,
        correlation_id: short("correlation_id")?,
        reply_to: short("reply_to")?,
        expiration: short("expiration")?,
        message_id: short("message_id")?,
        timestamp: integer(given, "timestamp")?,
        type_: short("type")?,
        user_id: short("user_id")?,
        app_id: short("app_id")?,
        cluster_id: short("cluster_id")?,
    };
    Ok(properties.build())
}

fn texts<'a>(list: &PropertiesBuilder<'a>) -> [(&'static str, Option<ShortStr<'a>>); 10] {
    [
        ("content_type", list.content_type),
        ("content_encoding", list.content_encoding),
        ("correlation_id", list.correlation_id),
        ("reply_to", list.reply_to),
        ("expiration", list.expiration),
        ("message_id", list.message_id),
        ("type", list.type_),
        ("user_id", list.user_id),
        ("app_id", list.app_id),
        ("cluster_id", list.cluster_id),
    ]
}

fn text(value: ShortStr<'_>) -> Json {
    String::from_utf8_lossy(value.as_bytes()).into()
}

fn integer(given: &Map<String, Json>, name: &str) -> Result<Option<u64>, String> {
    let value = given.get(name);
    let number = value.map(|value| value.as_u64().ok_or_else(|| format!("not_int: {name}")));
    number.transpose()
}

fn short<'a>(given: &'a Map<String, Json>, name: &str) -> Result<Option<ShortStr<'a>>, String> {
    let Some(value) = given.get(name) else {
        return Ok(None);
    };
    let text = value
        .as_str()
        .ok_or_else(|| format!("not_string: {name}"))?;
    let short = ShortStr::new(text.as_bytes());
    short
        .map(Some)
        .map_err(|_| format!("{name} is longer than 255 bytes"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: &Json) -> Result<Vec<u8>, String> {
        from_json(value.as_object().unwrap())
    }

    #[test]
    fn properties_are_the_same_again() {
        let given = json!({
            "content_type": "text/plain", "content_encoding": "ce", "headers": {"a": 1, "l": ["x"]}, "delivery_mode": 2,
            "priority": 3, "correlation_id": "c", "reply_to": "r", "expiration": "60000", "message_id": "m",
            "timestamp": 1_500_000_000, "type": "t", "user_id": "u", "app_id": "ap", "cluster_id": "cl",
        });
        let bytes = of(&given).unwrap();
        let list = Properties::from_bytes(&bytes).unwrap();
        assert_eq!(Json::from(to_json(list)), given);
        assert_eq!(to_json(Properties::EMPTY), Map::new());
        assert_eq!(of(&json!({"other": 1})).unwrap(), [0, 0]);
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for (given, why) in [
            (json!({"priority": "a"}), "not_int: priority"),
            (json!({"delivery_mode": 256}), "not_int: delivery_mode"),
            (json!({"expiration": 60}), "not_string: expiration"),
            (json!({"headers": "x"}), "not_object: headers"),
            (
                json!({"headers": {"a": null}}),
                "null_not_allowed: the argument 'a' is null",
            ),
        ] {
            assert_eq!(of(&given).unwrap_err(), why);
        }
    }
}
