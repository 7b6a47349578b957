//! What a dead letter says of its death: the headers that it gets, and whether it has gone in a circle.
//!
//! Dead letters carry an `x-death` array of tables, the newest death first, one for each queue and reason with a count; and
//! the headers `x-first-death-*` and `x-last-death-*`. Names, types and rules are RabbitMQ's.

use backbone_log::Reason;
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Array, ArrayBuf, Table, TableBuf, Value};
use smallvec::SmallVec;

use crate::queue::DeadLetterTo;
use crate::record::{self, Record};

const DEATHS: &str = "x-death";
/// Bytes of all names of headers, and of the types and lengths of their values, at most.
const FIXED_BYTES_MAX: usize = 384;
/// Headers of the first death, and of the last one: reason, queue, exchange.
const FIRST: [&str; 3] = [
    "x-first-death-reason",
    "x-first-death-queue",
    "x-first-death-exchange",
];
const LAST: [&str; 3] = [
    "x-last-death-reason",
    "x-last-death-queue",
    "x-last-death-exchange",
];

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A consumer rejected it, not to be put back.
    Rejected,
    /// It waited too long.
    Expired,
    /// There was no room for it.
    MaxLen,
    /// It came back too often.
    DeliveryLimit,
}

impl Cause {
    /// As headers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }

    /// As the log has it, if the message goes nowhere.
    pub(crate) fn in_log(self) -> Reason {
        match self {
            Self::Rejected => Reason::Ack,
            Self::Expired => Reason::Expire,
            Self::MaxLen | Self::DeliveryLimit => Reason::Drop,
        }
    }
}

/// Routing keys; mostly one.
type Keys<'a> = SmallVec<[&'a [u8]; 2]>;

/// A message as a dead letter: names and content header for its new record.
pub(crate) struct Letter {
    /// The exchange that it is published to and its routing key, as two short strings.
    pub names: Vec<u8>,
    /// Content header payload.
    pub header: Vec<u8>,
    /// Its headers: a table's bytes.
    pub headers: Vec<u8>,
}

impl Letter {
    /// `message`, which died in `queue` at `now_s` (Unix time), to be published as `to` says.
    pub fn of(
        message: &Record<'_>,
        queue: &str,
        cause: Cause,
        to: &DeadLetterTo,
        now_s: u64,
    ) -> Self {
        let properties = message.properties();
        let before = properties.headers().unwrap_or(Table::EMPTY);
        let death = Death {
            queue,
            cause,
            now_s,
            exchange: message.exchange(),
            keys: keys_of(message.routing_key(), before),
            expiration: properties.expiration().map(|text| text.as_bytes()),
        };
        let headers = death.headers(before, to.key.is_some());
        let key = to.key.as_deref().unwrap_or(message.routing_key());
        let mut names = Vec::with_capacity(2 + to.exchange.len() + key.len());
        record::write_names(&mut names, short(&to.exchange), short(key));
        let builder = PropertiesBuilder {
            headers: Some(Table::assume_checked(&headers)),
            expiration: None,
            ..PropertiesBuilder::from(properties)
        };
        let mut header = Vec::with_capacity(message.header.len() + headers.len() + 16);
        header.extend_from_slice(&record::header_fixed(message.body.len()));
        builder.write(&mut header);
        Self {
            names,
            header,
            headers,
        }
    }

    /// The routing keys that it is published with: its own, and those of the header `CC`.
    pub fn keys(&self) -> Keys<'_> {
        let key = &self.names[usize::from(self.names[0]) + 2..];
        keys_of(key, Table::assume_checked(&self.headers))
    }

    /// Whether it has come back to `queue`, where it died before, without anybody's having rejected it on the way.
    pub fn goes_in_a_circle(&self, queue: &str, cause: Cause) -> bool {
        if cause == Cause::Rejected {
            return false;
        }
        for death in deaths(Table::assume_checked(&self.headers))
            .iter()
            .flatten()
        {
            let Value::Table(death) = death else { continue };
            if death.get("reason") == Some(Value::from(Cause::Rejected.name())) {
                return false;
            }
            if death.get("queue") == Some(Value::from(queue)) {
                return true;
            }
        }
        false
    }
}

/// A death, as it is entered.
struct Death<'a> {
    queue: &'a str,
    cause: Cause,
    now_s: u64,
    /// What it had been published to.
    exchange: &'a [u8],
    keys: Keys<'a>,
    expiration: Option<&'a [u8]>,
}

impl Death<'_> {
    /// The headers with this death added. `new_key`: the message gets another routing key, and `CC` is taken out.
    fn headers(&self, before: Table<'_>, new_key: bool) -> Vec<u8> {
        let values = [
            self.cause.name().as_bytes(),
            self.queue.as_bytes(),
            self.exchange,
        ];
        let is_first = before.get(DEATHS).is_none();
        let is_kept = |name: &[u8]| {
            let is = |one: &&str| one.as_bytes() == name;
            !(is(&DEATHS)
                || LAST.iter().any(is)
                || (is_first && FIRST.iter().any(is))
                || (new_key && is(&"CC")))
        };
        let mut after = TableBuf::with_capacity(before.as_bytes().len() + self.bytes_max());
        after.put_some(before, is_kept);
        after.put_array(DEATHS, |array| self.write_deaths(deaths(before), array));
        let first = FIRST.iter().take(if is_first { FIRST.len() } else { 0 });
        for (name, value) in first.zip(values).chain(LAST.iter().zip(values)) {
            after.put(name, &Value::LongStr(value));
        }
        after.into_bytes()
    }

    /// Bytes that it adds to the headers at most: queue, exchange and reason stand there three times.
    fn bytes_max(&self) -> usize {
        let names = self.queue.len() + self.exchange.len() + self.cause.name().len();
        let keys: usize = self.keys.iter().map(|key| key.len() + 5).sum();
        3 * names + keys + self.expiration.map_or(0, <[u8]>::len) + FIXED_BYTES_MAX
    }

    /// The deaths with this one: counted if there was one like it, and in front.
    fn write_deaths(&self, before: Array<'_>, after: &mut ArrayBuf) {
        let is_same = |death: &Value<'_>| match death {
            Value::Table(death) => {
                death.get("queue") == Some(Value::from(self.queue))
                    && death.get("reason") == Some(Value::from(self.cause.name()))
            }
            _ => false,
        };
        let same = before.iter().flatten().position(|death| is_same(&death));
        after.push_table(
            |entry| match same.and_then(|at| before.iter().flatten().nth(at)) {
                Some(Value::Table(same)) => write_counted(same, entry),
                _ => self.write_entry(entry),
            },
        );
        for (at, death) in before.iter().flatten().enumerate() {
            if Some(at) != same {
                after.push(&death);
            }
        }
    }

    fn write_entry(&self, entry: &mut TableBuf) {
        entry
            .put("count", &Value::I64(1))
            .put("reason", &Value::from(self.cause.name()))
            .put("queue", &Value::from(self.queue))
            .put("time", &Value::Timestamp(self.now_s))
            .put("exchange", &Value::LongStr(self.exchange))
            .put_array("routing-keys", |keys| {
                for key in &self.keys {
                    keys.push(&Value::LongStr(key));
                }
            });
        if let Some(expiration) = self.expiration {
            entry.put("original-expiration", &Value::LongStr(expiration));
        }
    }
}

/// The same death once more: only the count differs.
fn write_counted(death: Table<'_>, entry: &mut TableBuf) {
    let count = death.get("count").and_then(|count| count.as_i64());
    entry.put("count", &Value::I64(count.unwrap_or(0).saturating_add(1)));
    entry.put_some(death, |name| name != b"count");
}

fn deaths(headers: Table<'_>) -> Array<'_> {
    match headers.get(DEATHS) {
        Some(Value::Array(deaths)) => deaths,
        _ => Array::EMPTY,
    }
}

/// A routing key, and those of the header `CC`.
fn keys_of<'a>(key: &'a [u8], headers: Table<'a>) -> Keys<'a> {
    let mut keys = Keys::new();
    keys.push(key);
    if let Some(Value::Array(more)) = headers.get("CC") {
        keys.extend(more.iter().flatten().filter_map(|key| match key {
            Value::LongStr(key) => Some(key),
            _ => None,
        }));
    }
    keys
}

/// What of a name from a queue's arguments fits: longer ones are nobody's.
fn short(name: &[u8]) -> &[u8] {
    &name[..name.len().min(255)]
}

#[cfg(test)]
mod tests {
    use backbone_wire::ShortStr;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    /// The record of a message with these names and properties.
    fn stored(exchange: &str, key: &str, properties: &PropertiesBuilder<'_>) -> Vec<u8> {
        let (mut names, mut header, mut out) = (Vec::new(), Vec::new(), Vec::new());
        record::write_names(&mut names, exchange.as_bytes(), key.as_bytes());
        record::write_header(&mut header, 4, &properties.build());
        let content = record::Content {
            names: &names,
            header: &header,
            body: b"body",
        };
        record::write(&mut out, 0, content);
        out
    }

    fn to(exchange: &str, key: Option<&str>) -> DeadLetterTo {
        DeadLetterTo {
            exchange: exchange.as_bytes().into(),
            key: key.map(|key| key.as_bytes().into()),
        }
    }

    fn die(stored: &[u8], queue: &str, cause: Cause, to: &DeadLetterTo) -> (Vec<u8>, Letter) {
        let message = Record::read(stored, 0);
        let letter = Letter::of(&message, queue, cause, to, NOW_S);
        let mut out = Vec::new();
        let content = record::Content {
            names: &letter.names,
            header: &letter.header,
            body: message.body,
        };
        record::write(&mut out, 0, content);
        (out, letter)
    }

    /// Queue, reason and count of each death, the newest first.
    fn history(stored: &[u8]) -> Vec<(String, String, i64)> {
        let message = Record::read(stored, 0);
        let headers = message.properties().headers().unwrap();
        let text = |table: Table<'_>, name| table.get(name).unwrap().as_str().unwrap().to_owned();
        let all = deaths(headers);
        let all = all.iter().map(|death| death.unwrap().as_table().unwrap());
        all.map(|death| {
            let count = death.get("count").unwrap();
            assert_eq!(count.tag(), b'l');
            (
                text(death, "queue"),
                text(death, "reason"),
                count.as_i64().unwrap(),
            )
        })
        .collect()
    }

    #[test]
    fn a_first_death_is_told_with_all_that_the_message_was_published_with() {
        let mut cc = ArrayBuf::new();
        cc.push(&Value::from("copy"));
        let mut headers = TableBuf::new();
        headers
            .put("h", &Value::I32(1))
            .put("CC", &Value::Array(cc.as_array()));
        let properties = PropertiesBuilder {
            headers: Some(headers.as_table()),
            expiration: Some(ShortStr::lit("60000")),
            delivery_mode: Some(2),
            ..PropertiesBuilder::default()
        };
        let message = stored("ex", "key", &properties);
        let (dead, letter) = die(&message, "q", Cause::Expired, &to("dlx", None));
        let dead = Record::read(&dead, 0);
        assert_eq!(
            (dead.exchange(), dead.routing_key()),
            (&b"dlx"[..], &b"key"[..])
        );
        assert_eq!(letter.keys()[..], [&b"key"[..], b"copy"]);
        assert_eq!(dead.properties().expiration(), None);
        assert_eq!(dead.properties().delivery_mode(), Some(2));
        let headers = dead.properties().headers().unwrap();
        assert_eq!(headers.get("h"), Some(Value::I32(1)));
        for (name, value) in [
            ("x-first-death-reason", "expired"),
            ("x-first-death-queue", "q"),
            ("x-first-death-exchange", "ex"),
            ("x-last-death-reason", "expired"),
        ] {
            assert_eq!(headers.get(name), Some(Value::from(value)), "{name}");
        }
        let death = deaths(headers).iter().next().unwrap().unwrap();
        let shown = format!("{:?}", death.as_table().unwrap());
        let names = [
            "count",
            "reason",
            "queue",
            "time",
            "exchange",
            "routing-keys",
        ];
        assert!(
            names
                .iter()
                .all(|name| shown.contains(&format!("\"{name}\""))),
            "{shown}"
        );
        let death = death.as_table().unwrap();
        assert_eq!(death.get("time"), Some(Value::Timestamp(NOW_S)));
        assert_eq!(death.get("original-expiration"), Some(Value::from("60000")));
        let keys = death.get("routing-keys").unwrap().as_array().unwrap();
        let keys: Vec<_> = keys
            .iter()
            .flatten()
            .filter_map(|key| key.as_str())
            .collect();
        assert_eq!(keys, ["key", "copy"]);
    }

    #[test]
    fn another_routing_key_takes_the_copies_keys_out() {
        let mut cc = ArrayBuf::new();
        cc.push(&Value::from("copy"));
        let mut headers = TableBuf::new();
        headers.put("CC", &Value::Array(cc.as_array()));
        let properties = PropertiesBuilder {
            headers: Some(headers.as_table()),
            ..PropertiesBuilder::default()
        };
        let message = stored("", "key", &properties);
        let (dead, letter) = die(&message, "q", Cause::MaxLen, &to("", Some("other")));
        assert_eq!(letter.keys()[..], [b"other"]);
        assert!(
            Record::read(&dead, 0)
                .properties()
                .headers()
                .unwrap()
                .get("CC")
                .is_none()
        );
    }

    #[test]
    fn deaths_are_counted_by_queue_and_reason_and_the_newest_stands_in_front() {
        let message = stored("ex", "k", &PropertiesBuilder::default());
        let dlx = to("", Some("b"));
        let (once, _) = die(&message, "a", Cause::Rejected, &dlx);
        let (twice, _) = die(&once, "b", Cause::Expired, &dlx);
        let (again, _) = die(&twice, "a", Cause::Rejected, &dlx);
        let entry = |queue: &str, reason: &str, count| (queue.into(), reason.into(), count);
        let expected = [entry("a", "rejected", 2), entry("b", "expired", 1)];
        assert_eq!(history(&again), expected);
        let (other, _) = die(&again, "a", Cause::MaxLen, &dlx);
        assert_eq!(
            history(&other)[..2],
            [entry("a", "maxlen", 1), entry("a", "rejected", 2)]
        );
        let headers = Record::read(&other, 0).properties().headers().unwrap();
        assert_eq!(
            headers.get("x-first-death-exchange"),
            Some(Value::from("ex"))
        );
        assert_eq!(
            headers.get("x-last-death-reason"),
            Some(Value::from("maxlen"))
        );
        assert_eq!(headers.get("x-last-death-exchange"), Some(Value::from("")));
    }

    #[test]
    fn a_clients_own_deaths_are_continued_and_anything_else_of_that_name_is_replaced() {
        let mut own = TableBuf::new();
        own.put("queue", &Value::from("a"))
            .put("reason", &Value::from("rejected"))
            .put("count", &Value::I32(5));
        let mut array = ArrayBuf::new();
        array
            .push(&Value::Table(own.as_table()))
            .push(&Value::I32(1));
        let sent = |value: &Value<'_>| {
            let mut headers = TableBuf::new();
            headers.put(DEATHS, value);
            let properties = PropertiesBuilder {
                headers: Some(headers.as_table()),
                ..PropertiesBuilder::default()
            };
            stored("", "a", &properties)
        };
        let message = sent(&Value::Array(array.as_array()));
        let (dead, _) = die(&message, "a", Cause::Rejected, &to("", None));
        let headers = Record::read(&dead, 0).properties().headers().unwrap();
        let first = deaths(headers).iter().next().unwrap().unwrap();
        assert_eq!(first.as_table().unwrap().get("count"), Some(Value::I64(6)));
        assert_eq!(
            headers.get("x-first-death-queue"),
            None,
            "it is not the first"
        );
        let (dead, _) = die(
            &sent(&Value::from("junk")),
            "a",
            Cause::Rejected,
            &to("", None),
        );
        assert_eq!(history(&dead), [("a".into(), "rejected".into(), 1)]);
    }

    #[test]
    fn a_circle_is_one_in_which_nobody_rejected() {
        let message = stored("", "k", &PropertiesBuilder::default());
        let dlx = to("", None);
        let (once, letter) = die(&message, "a", Cause::Expired, &dlx);
        assert!(letter.goes_in_a_circle("a", Cause::Expired), "to itself");
        assert!(!letter.goes_in_a_circle("b", Cause::Expired));
        let (twice, letter) = die(&once, "b", Cause::MaxLen, &dlx);
        assert!(letter.goes_in_a_circle("a", Cause::MaxLen));
        assert!(!letter.goes_in_a_circle("a", Cause::Rejected));
        let (_, letter) = die(&twice, "c", Cause::Rejected, &dlx);
        assert!(!letter.goes_in_a_circle("a", Cause::Rejected));
        let (rejected, _) = die(&once, "b", Cause::Rejected, &dlx);
        let (_, letter) = die(&rejected, "c", Cause::Expired, &dlx);
        assert!(
            !letter.goes_in_a_circle("a", Cause::Expired),
            "b's reject is on the way"
        );
        assert!(letter.goes_in_a_circle("c", Cause::Expired));
    }
}
