//! What a message says of when it wants to be delivered, to an exchange of the type `x-delayed-message`.
//!
//! Header `x-delay`: so many ms after it was accepted. Header `x-deliver-at`: at that time, in ms of Unix time (or as an AMQP
//! timestamp, which has seconds); it counts if both are there. Names, types and limits of the former are the RabbitMQ plugin's:
//! what is no delay, or none that it takes, is delivered at once.

use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{Table, TableBuf, Value};

use crate::record::{self, Record};

/// For so long.
const DELAY: &str = "x-delay";
/// Until then.
const DELIVER_AT: &str = "x-deliver-at";
/// The longest `x-delay`, in ms.
const DELAY_MAX_MS: u64 = u32::MAX as u64;

/// When a message is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// So many ms after it was accepted.
    After(u64),
    /// At this time, in ms.
    At(u64),
}

fn when(headers: Table<'_>) -> Option<When> {
    let at = headers.get(DELIVER_AT).and_then(|value| match value {
        Value::Timestamp(seconds) => Some(seconds.saturating_mul(1000)),
        other => u64::try_from(other.as_i64()?).ok(),
    });
    if let Some(at) = at {
        return Some(When::At(at));
    }
    let delay = u64::try_from(number(headers.get(DELAY)?)?).ok()?;
    (1..=DELAY_MAX_MS)
        .contains(&delay)
        .then_some(When::After(delay))
}

/// A number, as the plugin reads it.
fn number(value: Value<'_>) -> Option<i64> {
    match value {
        Value::LongStr(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Value::F32(number) => Some(number as i64),
        Value::F64(number) => Some(number as i64),
        other => other.as_i64(),
    }
}

/// Whether a message with these headers wants to wait.
pub(crate) fn is_wanted(headers: Option<Table<'_>>) -> bool {
    headers.is_some_and(|headers| when(headers).is_some())
}

/// When the stored message at `offset` is due, in ms of Unix time: 0 if it does not say it. Panics as [`Record::read`].
pub(crate) fn due(segment: &[u8], offset: u32) -> u64 {
    let record = Record::read(segment, offset);
    match record.properties().headers().and_then(when) {
        None => 0,
        Some(When::At(at)) => at,
        Some(When::After(ms)) => {
            let accepted = record::accepted_at(segment, offset);
            accepted.unwrap_or(0).saturating_add(ms)
        }
    }
}

/// The routing keys of a message besides its own: those in `CC` and `BCC`.
pub(crate) fn further_keys(headers: Table<'_>) -> Vec<&[u8]> {
    let mut keys = Vec::new();
    for name in ["CC", "BCC"] {
        if let Some(Value::Array(array)) = headers.get(name) {
            keys.extend(array.iter().flatten().filter_map(|key| match key {
                Value::LongStr(key) => Some(key),
                _ => None,
            }));
        }
    }
    keys
}

/// The content header of a message that has waited: its delay is negative, so that it does not wait a second time, and nobody
/// gets to see `BCC`.
pub(crate) fn header_after(properties: Properties<'_>, body_len: usize) -> Vec<u8> {
    let before = properties.headers().unwrap_or(Table::EMPTY);
    let mut after = TableBuf::new();
    for (name, value) in before.iter().flatten().filter(|(name, _)| *name != b"BCC") {
        let delay = (name == DELAY.as_bytes()).then(|| number(value)).flatten();
        let value = match delay.map(i64::wrapping_neg) {
            None => value,
            Some(delay) => match i32::try_from(delay) {
                Ok(delay) => Value::I32(delay),
                Err(_) => Value::I64(delay),
            },
        };
        let put = after.try_put(name, &value);
        put.expect("the name came from a table");
    }
    let builder = PropertiesBuilder {
        headers: Some(after.as_table()),
        ..PropertiesBuilder::from(properties)
    };
    let mut header = Vec::new();
    record::write_header(&mut header, body_len, &builder.build());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when_with(headers: &[(&str, Value<'_>)]) -> Option<When> {
        let mut table = TableBuf::new();
        for (name, value) in headers {
            table.put(name, value);
        }
        when(table.as_table())
    }

    #[test]
    fn a_delay_is_a_positive_number_of_ms_below_the_plugins_limit() {
        let max = DELAY_MAX_MS as i64;
        for (value, expected) in [
            (Value::I32(5), Some(5)),
            (Value::I64(max), Some(DELAY_MAX_MS)),
            (Value::U8(255), Some(255)),
            (Value::from("70"), Some(70)),
            (Value::F64(2.9), Some(2)),
            (Value::I64(max + 1), None),
            (Value::I32(0), None),
            (Value::I32(-5), None),
            (Value::from("soon"), None),
            (Value::Void, None),
        ] {
            let found = when_with(&[(DELAY, value)]);
            assert_eq!(found, expected.map(When::After), "{value:?}");
        }
    }

    #[test]
    fn a_time_counts_before_a_delay_and_may_be_far_off() {
        let both = [(DELAY, Value::I32(5)), (DELIVER_AT, Value::I64(1 << 50))];
        assert_eq!(when_with(&both), Some(When::At(1 << 50)));
        let timestamp = [(DELIVER_AT, Value::Timestamp(7))];
        assert_eq!(when_with(&timestamp), Some(When::At(7000)));
        let negative = [(DELAY, Value::I32(5)), (DELIVER_AT, Value::I64(-1))];
        assert_eq!(when_with(&negative), Some(When::After(5)));
    }
}
