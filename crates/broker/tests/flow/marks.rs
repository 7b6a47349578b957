//! What the bus adds to a message, against a slow and plain way to add it: whatever came before in the same batch, or
//! with nearly the same properties.

use std::sync::Arc;

use backbone_broker::publisher::Publisher;
use backbone_broker::queue::{Queue, Wakes};
use backbone_broker::record::{self, Content, Entry, Record};
use backbone_wire::ShortStr;
use backbone_wire::properties::{Properties, PropertiesBuilder};
use backbone_wire::table::{ArrayBuf, Table, TableBuf, Value};

use crate::bus::{Bus, NOW_MS, client_id};
use crate::support::Rng;

/// A message as it is sent.
struct Message {
    names: Vec<u8>,
    list: Vec<u8>,
    body: Vec<u8>,
}

fn to(queue: &str, list: Vec<u8>, body: &[u8]) -> Message {
    let mut names = Vec::new();
    record::write_names(&mut names, b"", queue.as_bytes());
    let body = body.to_vec();
    Message { names, list, body }
}

fn list(headers: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut table = TableBuf::new();
    for (name, value) in headers {
        table.put(name, value);
    }
    let headers = Some(table.as_table());
    let builder = PropertiesBuilder {
        headers,
        ..PropertiesBuilder::default()
    };
    builder.build()
}

fn publish(publisher: &mut Publisher, message: &Message) {
    let mut header = Vec::new();
    record::write_header(&mut header, message.body.len(), &message.list);
    let content = Content {
        names: &message.names,
        header: &header,
        body: &message.body,
    };
    publisher.publish(content, NOW_MS).unwrap();
}

/// Names, property list and body of what is in a queue, which is empty after.
fn empty(bus: &Bus, queue: &Queue) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let mut entries: Vec<Entry> = Vec::new();
    queue.take(usize::MAX, usize::MAX, &mut entries);
    let arena = bus.vhost.arena();
    let mut seen = Vec::new();
    for entry in &entries {
        let segment = arena.segment(entry.segment);
        let record = Record::read(&segment, entry.offset);
        let size = &record.header[4..12];
        assert_eq!(size, (record.body.len() as u64).to_be_bytes());
        assert_eq!(record.header[..4], [0, 60, 0, 0]);
        let list = record.header[record::HEADER_FIXED_LEN..].to_vec();
        Properties::from_bytes(&list).expect("what was stored is well-formed");
        seen.push((record.names.to_vec(), list, record.body.to_vec()));
        arena.release(entry.segment, 1);
    }
    queue.settle(None, entries.len() as u32, &mut Wakes::default());
    seen
}

/// The list with topic, sender, id and time, put together value by value.
fn marked(sent: &[u8], topic: &[u8], sender: &str, id: ShortStr<'_>) -> Vec<u8> {
    let sent = Properties::from_bytes(sent).unwrap();
    let mut table = TableBuf::new();
    for entry in sent.headers().unwrap_or(Table::EMPTY) {
        let (name, value) = entry.unwrap();
        if (name != b"topic" || topic.is_empty()) && name != b"sender" {
            table.try_put(name, &value).unwrap();
        }
    }
    if !topic.is_empty() {
        table.put("topic", &Value::LongStr(topic));
    }
    table.put("sender", &Value::LongStr(sender.as_bytes()));
    let builder = PropertiesBuilder {
        headers: Some(table.as_table()),
        message_id: sent.message_id().or(Some(id)),
        timestamp: sent.timestamp().or(Some(NOW_MS / 1000)),
        ..PropertiesBuilder::from(sent)
    };
    builder.build()
}

/// The topic by the rule's words: the first `topic`, else the first `x-topic`, if that is a string with something in it.
fn topic_of(list: &[u8], body: &[u8]) -> Vec<u8> {
    let headers = Properties::from_bytes(list).unwrap().headers();
    for name in ["topic", "x-topic"] {
        match headers.and_then(|headers| headers.get(name)) {
            Some(Value::LongStr(topic)) if !topic.is_empty() => return topic.to_vec(),
            _ => {}
        }
    }
    match body {
        [b'{', ..] => b"in.body".to_vec(),
        _ => Vec::new(),
    }
}

/// Property lists that differ in one place often, and in many sometimes.
fn random_list(rng: &mut Rng) -> Vec<u8> {
    let mut table = TableBuf::new();
    for _ in 0..rng.below(4) {
        let text = rng.pick(&["a", "a.b", "c", ""]);
        let value = match rng.below(6) {
            0 => Value::I64(7),
            1 => Value::Void,
            _ => Value::from(text),
        };
        let names = [
            "topic", "topic", "x-topic", "sender", "other", "to", "topics", "",
        ];
        table.put(rng.pick(&names), &value);
    }
    let short = |rng: &mut Rng, text| rng.once_in(3).then(|| ShortStr::lit(text));
    let builder = PropertiesBuilder {
        content_type: short(rng, "application/json"),
        headers: (!rng.once_in(4)).then(|| table.as_table()),
        delivery_mode: rng.once_in(2).then_some(2),
        correlation_id: short(rng, "request-1"),
        message_id: short(rng, "own-id"),
        timestamp: rng.once_in(4).then_some(3),
        type_: short(rng, "event"),
        cluster_id: short(rng, ""),
        ..PropertiesBuilder::default()
    };
    builder.build()
}

#[test]
fn a_message_is_marked_by_its_own_properties_whatever_came_before() {
    let mut bus = Bus::new();
    bus.settle_down();
    let mut publisher = bus.publisher(0);
    let mut rng = Rng(4);
    for round in 0..400 {
        // Everything goes to the broadcast, whose flow takes messages without topic too.
        let mut due = Vec::new();
        for _ in 0..1 + rng.below(8) {
            let list = random_list(&mut rng);
            let body: &[u8] = match rng.below(4) {
                0 => b"{\"topic\":\"in.body\"}",
                1 if rng.once_in(20) => &[b'x'; 50_000],
                2 => b"",
                _ => b"plain",
            };
            let way = client_id(rng.below(2));
            let message = to(&format!("{way}-notify"), list, body);
            for _ in 0..1 + rng.below(2) {
                publish(&mut publisher, &message);
                let topic = topic_of(&message.list, body);
                due.push((way.clone(), topic, message.list.clone(), body.to_vec()));
            }
        }
        if round % 3 == 0 {
            // Not fused: the outboxes hold them, and the movers bring them.
            bus.hands.iter_mut().for_each(|hand| hand.pause());
        }
        publisher.commit();
        bus.settle_down();
        let inbox = Arc::clone(&bus.clients[2].inbox);
        let mut got = empty(&bus, &inbox);
        for n in [0, 1] {
            let inbox = Arc::clone(&bus.clients[n].inbox);
            assert_eq!(empty(&bus, &inbox).len(), due.len());
        }
        // Between two senders there is no order.
        let sender = |list: &[u8]| {
            let headers = Properties::from_bytes(list).unwrap().headers().unwrap();
            headers.get("sender").unwrap().as_str().unwrap().to_owned()
        };
        got.sort_by_key(|(_, list, _)| sender(list));
        due.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(got.len(), due.len());
        for ((names, list, body), (way, topic, sent, sent_body)) in got.iter().zip(&due) {
            let id = Properties::from_bytes(list).unwrap().message_id().unwrap();
            assert_eq!(*list, marked(sent, topic, way, id), "{sent:?}");
            let mut expected = Vec::new();
            record::write_names(&mut expected, b"soar-broadcast", topic);
            assert_eq!((names, body), (&expected, sent_body));
        }
    }
    drop(publisher);
    bus.check_empty();
}

#[test]
fn every_message_without_an_id_gets_another_one() {
    let mut bus = Bus::new();
    bus.settle_down();
    let mut publishers = [bus.publisher(0), bus.publisher(0)];
    let message = to("c0-outbox", list(&[("topic", Value::from("a"))]), b"x");
    for _ in 0..300 {
        for publisher in &mut publishers {
            publish(publisher, &message);
        }
    }
    drop(publishers);
    let got = empty(&bus, &Arc::clone(&bus.clients[0].inbox));
    let id = |list: &[u8]| {
        Properties::from_bytes(list)
            .unwrap()
            .message_id()
            .unwrap()
            .as_bytes()
            .to_vec()
    };
    let ids: std::collections::BTreeSet<_> = got.iter().map(|(_, list, _)| id(list)).collect();
    assert_eq!((got.len(), ids.len()), (600, 600));
    bus.settle_down();
    let inbox = Arc::clone(&bus.clients[2].inbox);
    empty(&bus, &inbox);
    bus.check_empty();
}

#[test]
fn a_binding_counts_from_the_message_on_that_follows_it() {
    let mut bus = Bus::new();
    bus.settle_down();
    let mut publisher = bus.publisher(0);
    let message = to(
        "c0-outbox",
        list(&[("topic", Value::from("new.topic"))]),
        b"x",
    );
    let inboxes = [0, 1, 2].map(|n| Arc::clone(&bus.clients[n].inbox));
    publish(&mut publisher, &message);
    let topology = bus.vhost.topology();
    topology
        .bind_queue(inboxes[0].name(), "soar-publish", b"new.*", Table::EMPTY)
        .unwrap();
    publish(&mut publisher, &message);
    publish(&mut publisher, &message);
    topology
        .unbind_queue(inboxes[0].name(), "soar-publish", b"new.*", Table::EMPTY)
        .unwrap();
    publish(&mut publisher, &message);
    publisher.commit();
    let counts = inboxes.map(|inbox| empty(&bus, &inbox).len());
    // Client 2 has `#`.
    assert_eq!(counts, [2, 0, 4]);
    drop(publisher);
    bus.check_empty();
}

#[test]
fn more_topics_than_a_publisher_remembers_go_where_they_belong() {
    let mut bus = Bus::new();
    bus.settle_down();
    let mut publisher = bus.publisher(0);
    let topic = |n: usize| match n % 3 {
        0 => format!("a.{n}"),
        1 => format!("x{n}.b"),
        _ => format!("other.{n}"),
    };
    // Twice, and from two senders in turn: routes are forgotten and made anew within one batch.
    let order = || (0..300).chain(0..300);
    for n in order() {
        let text = topic(n);
        let list = list(&[("topic", Value::from(text.as_str()))]);
        publish(
            &mut publisher,
            &to(&format!("c{}-outbox", n % 2), list, b"x"),
        );
    }
    publisher.commit();
    let expected = |inbox: usize| {
        order()
            .filter(move |n| inbox == 2 || n % 3 == inbox)
            .map(topic)
    };
    for inbox in 0..3 {
        let queue = Arc::clone(&bus.clients[inbox].inbox);
        let mut got: Vec<String> = Vec::new();
        for (_, list, _) in empty(&bus, &queue) {
            let headers = Properties::from_bytes(&list).unwrap().headers().unwrap();
            let text = |name| headers.get(name).unwrap().as_str().unwrap().to_owned();
            let number: usize = text("topic")
                .replace(|c: char| !c.is_ascii_digit(), "")
                .parse()
                .unwrap();
            assert_eq!(text("sender"), client_id(number % 2));
            got.push(text("topic"));
        }
        let mut due: Vec<String> = expected(inbox).collect();
        got.sort_unstable();
        due.sort_unstable();
        assert_eq!(got, due, "inbox {inbox}");
    }
    drop(publisher);
    bus.check_empty();
}

#[test]
fn further_keys_count_for_the_message_that_has_them_only() {
    let mut bus = Bus::new();
    bus.settle_down();
    let mut publisher = bus.publisher(0);
    let mut keys = ArrayBuf::new();
    keys.push(&Value::from("c1-outbox"));
    let topic = ("topic", Value::from("c"));
    let plain = to("c0-outbox", list(&[topic]), b"x");
    let copied = list(&[topic, ("CC", Value::Array(keys.as_array()))]);
    let blind = list(&[("BCC", Value::Array(keys.as_array())), topic]);
    for message in [
        &plain,
        &to("c0-outbox", copied, b"x"),
        &plain,
        &to("c0-outbox", blind, b"x"),
        &plain,
    ] {
        publish(&mut publisher, message);
    }
    publisher.commit();
    let got = empty(&bus, &Arc::clone(&bus.clients[2].inbox));
    let mut senders = Vec::new();
    for (_, list, _) in &got {
        let headers = Properties::from_bytes(list).unwrap().headers().unwrap();
        assert_eq!(headers.get("BCC"), None);
        senders.push(headers.get("sender").unwrap().as_str().unwrap().to_owned());
    }
    senders.sort_unstable();
    assert_eq!(senders.concat(), "c0".repeat(5) + &"c1".repeat(2));
    drop(publisher);
    bus.check_empty();
}
