//! What queues there are, as pages show them: each is looked at once, none together with another.

use std::sync::Arc;

use backbone_broker::policy::{Policy, effective};
use backbone_broker::queue::QueueStats;
use backbone_broker::vhost::Vhost;
use backbone_wire::table::{Table, Value};
use serde_json::{Map, Value as Json};

use super::{Engine, Queue};

/// A queue at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueInfo {
    /// The vhost that it is in.
    pub vhost: Arc<str>,
    /// Its name; an alias is none.
    pub name: Arc<str>,
    /// Survives a restart.
    pub durable: bool,
    /// Goes when its last consumer goes.
    pub auto_delete: bool,
    /// Belongs to one connection.
    pub exclusive: bool,
    /// The declare's arguments; see [`object`].
    pub arguments: Map<String, Json>,
    /// The policy that counts for it.
    pub policy: Option<String>,
    /// The operators' policy that counts for it.
    pub operator_policy: Option<String>,
    /// What these two say together; of limits the smaller one.
    pub effective_policy: Map<String, Json>,
    /// The declare's arguments, with what policies lay over them: what holds for it.
    pub effective_arguments: Map<String, Json>,
    /// How safe a persistent message in it is before it is confirmed: a level's name.
    pub durability: &'static str,
    /// What is in it.
    pub stats: QueueStats,
}

impl Engine {
    /// The queues of a vhost, or of all, by vhost and name; `None` when there is no such vhost.
    pub fn queue_infos(&self, vhost: Option<&str>) -> Option<Vec<QueueInfo>> {
        let vhosts = match vhost {
            Some(name) => vec![self.0.vhosts.get(name)?],
            None => self.0.vhosts.list(),
        };
        let mut all = Vec::new();
        for vhost in vhosts {
            let queues = vhost.topology().queues();
            let mut infos: Vec<_> = queues.iter().map(|it| describe(&vhost, it)).collect();
            infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            all.append(&mut infos);
        }
        Some(all)
    }

    /// The queue of a name or an alias; `None` when there is no such queue or vhost.
    pub fn queue_info(&self, vhost: &str, name: &str) -> Option<QueueInfo> {
        let vhost = self.0.vhosts.get(vhost)?;
        let queue = vhost.topology().queue(name)?;
        Some(describe(&vhost, &queue))
    }
}

fn describe(vhost: &Vhost, queue: &Queue) -> QueueInfo {
    let options = queue.options();
    // They were checked when they came.
    let arguments = Table::from_bytes(&options.arguments).unwrap_or(Table::EMPTY);
    let chosen = vhost.policies_of(queue);
    let by_policy = effective(Table::EMPTY, &chosen);
    let by_policy = object(by_policy.as_table()).into_iter();
    let setting = |name: String| name.strip_prefix("x-").map_or(name.clone(), Into::into);
    let name = |policy: Option<Arc<Policy>>| policy.map(|it| it.definition.name.clone());
    QueueInfo {
        effective_policy: by_policy.map(|(name, it)| (setting(name), it)).collect(),
        effective_arguments: object(vhost.effective_arguments(queue).as_table()),
        policy: name(chosen.user),
        operator_policy: name(chosen.operator),
        vhost: Arc::clone(vhost.name()),
        name: Arc::clone(queue.name()),
        durable: options.durable,
        auto_delete: options.auto_delete,
        exclusive: options.owner.is_some(),
        arguments: object(arguments),
        durability: queue.level().name(),
        stats: queue.stats(),
    }
}

/// A field table as a JSON object. Of a name that is there twice the first value counts, as it does for the broker.
/// Bytes that are no UTF-8 are replaced, numbers that JSON has not are null. Tables nest as deep as the codec lets them.
fn object(table: Table<'_>) -> Map<String, Json> {
    let mut object = Map::new();
    for (key, value) in table.iter().flatten() {
        let key = String::from_utf8_lossy(key).into_owned();
        object.entry(key).or_insert_with(|| json(value));
    }
    object
}

fn json(value: Value<'_>) -> Json {
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

#[cfg(test)]
mod tests {
    use backbone_wire::table::{ArrayBuf, TableBuf};
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
    fn queues_are_listed_by_name_and_aliases_lead_to_them() {
        let engine = Engine::for_tests(1 << 30);
        for name in ["b", "a"] {
            engine.declare_queue(name, true).unwrap();
        }
        assert!(engine.alias_queue("c", &engine.queue("b").unwrap()));
        let names = |vhost| {
            let infos = engine.queue_infos(vhost)?;
            Some(infos.iter().map(|it| it.name.to_string()).collect())
        };
        let both: Option<Vec<_>> = Some(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!((names(None), names(Some("/"))), (both.clone(), both));
        assert_eq!(names(Some("none")), None);
        let by_alias = engine.queue_info("/", "c");
        assert_eq!(by_alias.as_ref(), engine.queue_info("/", "b").as_ref());
        assert!(by_alias.is_some());
        assert_eq!(engine.queue_info("none", "b"), None);
        assert_eq!(engine.queue_info("/", "none"), None);
    }
}
