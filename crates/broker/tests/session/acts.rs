//! What clients do, and how it looks on the wire.

use std::sync::Arc;

use backbone_wire::ShortStr;
use backbone_wire::frame::{self, FrameKind, OVERHEAD};
use backbone_wire::method::{basic, channel, confirm, queue, tx};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{ArrayBuf, Table, TableBuf, Value};

use super::model::Model;
use super::state::{Channel, Message};
use crate::support::Rng;

/// Queues; `auto` is auto-delete, `own` exclusive.
const QUEUES: [&str; 8] = ["q0", "q0", "q0", "q1", "q1", "q2", "auto", "own"];
const EXCHANGES: [&str; 3] = ["amq.direct", "amq.fanout", "amq.topic"];
const KEYS: [&str; 5] = ["a", "a.b", "b.c", "x", "a.b.c"];
const PATTERNS: [&str; 6] = ["a.*", "#", "*.c", "a", "a.#", "x"];
const TAGS: [&str; 3] = ["t0", "t1", "t2"];

#[derive(Clone, Debug)]
pub struct Publish {
    pub message: Arc<Message>,
    pub mandatory: bool,
    pub immediate: bool,
    /// Further keys, in the header `CC`.
    pub carbon: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Act {
    Open,
    Close,
    CloseOk,
    Publish(Publish),
    Confirm,
    Consume {
        queue: &'static str,
        tag: &'static str,
        no_ack: bool,
        exclusive: bool,
    },
    Cancel(&'static str),
    Settle {
        tag: u64,
        multiple: bool,
        requeue: bool,
        /// With reject, not ack or nack.
        reject: bool,
    },
    Recover(bool),
    Qos {
        count: u16,
        global: bool,
        size: u32,
        /// Nothing is on its way to a consumer.
        quiet: bool,
    },
    Get {
        queue: &'static str,
        no_ack: bool,
    },
    Declare {
        queue: &'static str,
        passive: bool,
    },
    Purge(&'static str),
    Delete {
        queue: &'static str,
        unused: bool,
        empty: bool,
    },
    Bind(&'static str, &'static str, &'static str),
    Unbind(&'static str, &'static str, &'static str),
    TxSelect,
    TxCommit,
    TxRollback,
}

fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text.as_bytes()).unwrap()
}

impl Act {
    /// Class and method, as a close names them.
    pub fn ids(&self) -> (u16, u16) {
        match self {
            Self::Open => (20, 10),
            Self::Close => (20, 40),
            Self::CloseOk => (20, 41),
            Self::Publish(_) => (60, 40),
            Self::Confirm => (85, 10),
            Self::Consume { .. } => (60, 20),
            Self::Cancel(_) => (60, 30),
            Self::Settle { reject: true, .. } => (60, 90),
            Self::Settle { requeue: true, .. } => (60, 120),
            Self::Settle { .. } => (60, 80),
            Self::Recover(_) => (60, 110),
            Self::Qos { .. } => (60, 10),
            Self::Get { .. } => (60, 70),
            Self::Declare { .. } => (50, 10),
            Self::Purge(_) => (50, 30),
            Self::Delete { .. } => (50, 40),
            Self::Bind(..) => (50, 20),
            Self::Unbind(..) => (50, 50),
            Self::TxSelect => (90, 10),
            Self::TxCommit => (90, 20),
            Self::TxRollback => (90, 30),
        }
    }

    /// Appends its frames.
    pub fn write(&self, ch: u16, frame_max: usize, rng: &mut Rng, out: &mut Vec<u8>) {
        let arguments = Table::EMPTY;
        match self {
            Self::Open => channel::Open {}.write(ch, out),
            Self::Close => channel::Close {
                reply_code: 200,
                reply_text: short("bye"),
                class_id: 0,
                method_id: 0,
            }
            .write(ch, out),
            Self::CloseOk => channel::CloseOk {}.write(ch, out),
            Self::Publish(publish) => publish.write(ch, frame_max, rng, out),
            Self::Confirm => confirm::Select { no_wait: false }.write(ch, out),
            Self::Consume {
                queue,
                tag,
                no_ack,
                exclusive,
            } => basic::Consume {
                queue: short(queue),
                consumer_tag: short(tag),
                no_local: false,
                no_ack: *no_ack,
                exclusive: *exclusive,
                no_wait: false,
                arguments,
            }
            .write(ch, out),
            Self::Cancel(tag) => basic::Cancel {
                consumer_tag: short(tag),
                no_wait: false,
            }
            .write(ch, out),
            Self::Settle {
                tag,
                multiple,
                requeue,
                reject,
            } => write_settle(*tag, *multiple, *requeue, *reject, ch, out),
            Self::Recover(requeue) => basic::Recover { requeue: *requeue }.write(ch, out),
            Self::Qos {
                count,
                global,
                size,
                ..
            } => basic::Qos {
                prefetch_size: *size,
                prefetch_count: *count,
                global: *global,
            }
            .write(ch, out),
            Self::Get { queue, no_ack } => basic::Get {
                queue: short(queue),
                no_ack: *no_ack,
            }
            .write(ch, out),
            Self::Declare { queue, passive } => queue::Declare {
                queue: short(queue),
                passive: *passive,
                durable: false,
                exclusive: queue.starts_with("own"),
                auto_delete: queue.starts_with("auto"),
                no_wait: false,
                arguments,
            }
            .write(ch, out),
            Self::Purge(queue) => queue::Purge {
                queue: short(queue),
                no_wait: false,
            }
            .write(ch, out),
            Self::Delete {
                queue,
                unused,
                empty,
            } => queue::Delete {
                queue: short(queue),
                if_unused: *unused,
                if_empty: *empty,
                no_wait: false,
            }
            .write(ch, out),
            Self::Bind(queue, exchange, key) => queue::Bind {
                queue: short(queue),
                exchange: short(exchange),
                routing_key: short(key),
                no_wait: false,
                arguments,
            }
            .write(ch, out),
            Self::Unbind(queue, exchange, key) => queue::Unbind {
                queue: short(queue),
                exchange: short(exchange),
                routing_key: short(key),
                arguments,
            }
            .write(ch, out),
            Self::TxSelect => tx::Select {}.write(ch, out),
            Self::TxCommit => tx::Commit {}.write(ch, out),
            Self::TxRollback => tx::Rollback {}.write(ch, out),
        }
    }
}

fn write_settle(
    delivery_tag: u64,
    multiple: bool,
    requeue: bool,
    reject: bool,
    ch: u16,
    out: &mut Vec<u8>,
) {
    if reject {
        return basic::Reject {
            delivery_tag,
            requeue,
        }
        .write(ch, out);
    }
    if requeue {
        return basic::Nack {
            delivery_tag,
            multiple,
            requeue,
        }
        .write(ch, out);
    }
    basic::Ack {
        delivery_tag,
        multiple,
    }
    .write(ch, out);
}

impl Publish {
    fn write(&self, ch: u16, frame_max: usize, rng: &mut Rng, out: &mut Vec<u8>) {
        let message = &self.message;
        basic::Publish {
            exchange: short(message.exchange),
            routing_key: short(&message.key),
            mandatory: self.mandatory,
            immediate: self.immediate,
        }
        .write(ch, out);
        let mark = frame::begin(out, FrameKind::Header, ch);
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(message.body.len() as u64).to_be_bytes());
        out.extend_from_slice(&message.properties);
        frame::finish(out, mark);
        let mut rest = &message.body[..];
        let whole = rng.once_in(2);
        while !rest.is_empty() {
            let max = rest.len().min(frame_max);
            let take = if whole {
                max
            } else {
                max.min(rng.below(2 * max))
            };
            let mark = frame::begin(out, FrameKind::Body, ch);
            out.extend_from_slice(&rest[..take]);
            frame::finish(out, mark);
            rest = &rest[take..];
        }
    }

    fn random(id: u64, frame_max: usize, message_bytes_max: usize, rng: &mut Rng) -> Self {
        let exchange = match rng.below(100) {
            0 => "missing",
            1..=60 => "",
            _ => rng.pick(&EXCHANGES),
        };
        let key = |rng: &mut Rng| match exchange {
            "" => rng.pick(&QUEUES).to_owned(),
            _ => rng.pick(&KEYS).to_owned(),
        };
        let size = match rng.below(60) {
            0..=9 => 0,
            10..=19 => 1,
            20..=39 => rng.below(200),
            40..=42 => frame_max - OVERHEAD,
            43..=45 => frame_max - OVERHEAD + 1,
            46..=48 => 3 * (frame_max - OVERHEAD),
            49..=52 => 5_000,
            53..=56 => 48 * 1024 + rng.below(300) - 150,
            57 => message_bytes_max,
            58 => message_bytes_max + 1,
            _ => 300_000,
        };
        let carbon: Vec<String> = (0..rng.below(12).saturating_sub(8))
            .map(|_| key(rng))
            .collect();
        let id = format!("m{id}");
        let message = Message {
            exchange,
            key: key(rng),
            properties: properties(&id, &carbon, rng),
            body: (0..size.min(message_bytes_max + 1))
                .map(|i| (i as u8) ^ (id.len() as u8))
                .collect(),
            id,
        };
        Self {
            message: Arc::new(message),
            mandatory: rng.once_in(3),
            immediate: rng.once_in(300),
            carbon,
        }
    }
}

fn properties(id: &str, carbon: &[String], rng: &mut Rng) -> Vec<u8> {
    let mut headers = TableBuf::new();
    if !carbon.is_empty() {
        let mut keys = ArrayBuf::new();
        for key in carbon {
            keys.push(&Value::LongStr(key.as_bytes()));
        }
        headers.put("CC", &Value::Array(keys.as_array()));
    }
    headers.put("n", &Value::I16(-3));
    let with_headers = !carbon.is_empty() || rng.once_in(3);
    PropertiesBuilder {
        message_id: Some(short(id)),
        headers: with_headers.then(|| headers.as_table()),
        content_type: rng.once_in(2).then(|| short("text/plain")),
        delivery_mode: rng.once_in(2).then_some(2),
        timestamp: rng.once_in(3).then_some(7),
        correlation_id: rng.once_in(3).then(|| short("")),
        ..PropertiesBuilder::default()
    }
    .build()
}

/// What the next act is made from.
pub struct Scene<'a> {
    pub model: &'a Model,
    pub channel: Option<&'a Channel>,
    /// Everything that could be delivered was, and nothing happened since.
    pub quiet: bool,
    pub frame_max: usize,
    /// Number for the next message.
    pub id: u64,
    /// Mostly consumers and their limits.
    pub focus: bool,
}

/// A random act, likely to mean something.
pub fn random(scene: &Scene<'_>, rng: &mut Rng) -> Act {
    let Some(channel) = scene.channel else {
        return match rng.below(60) {
            0 => Act::TxCommit,
            1 => Act::Close,
            _ => Act::Open,
        };
    };
    if channel.closing {
        return match rng.below(16) {
            0..3 => Act::Close,
            3 => Act::TxSelect,
            4..6 => Act::Open,
            _ => Act::CloseOk,
        };
    }
    let queue = likely_queue(scene, rng);
    let fresh = |tag: &&&str| !channel.consumers.contains_key(**tag);
    let free = TAGS.iter().find(fresh).filter(|_| !rng.once_in(20));
    let dice = if scene.focus {
        rng.pick(&[0, 1, 2, 30, 31, 32, 45, 46, 55, 59, 76, 84, 84])
    } else {
        rng.below(100)
    };
    match dice {
        0..=29 => Act::Publish(Publish::random(
            scene.id,
            scene.frame_max,
            scene.model.message_bytes_max,
            rng,
        )),
        30..=44 => settle(channel, rng),
        45..=54 if free.is_some() || rng.once_in(20) => Act::Consume {
            queue,
            tag: free.unwrap_or(&TAGS[0]),
            no_ack: rng.once_in(4),
            exclusive: rng.once_in(60),
        },
        55..=58 => Act::Cancel(rng.pick(&TAGS)),
        59..=68 => Act::Declare {
            queue: any_queue(rng),
            passive: rng.once_in(30),
        },
        69..=74 if takes_are_certain(scene, queue) => Act::Get {
            queue,
            no_ack: rng.once_in(3),
        },
        75 if takes_are_certain(scene, queue) => Act::Purge(queue),
        76 if rng.once_in(2) => Act::Delete {
            queue,
            unused: rng.once_in(3),
            empty: rng.once_in(3),
        },
        77..=82 => Act::Bind(queue, rng.pick(&EXCHANGES), rng.pick(&PATTERNS)),
        83 => Act::Unbind(queue, rng.pick(&EXCHANGES), rng.pick(&PATTERNS)),
        84..=87 => Act::Qos {
            count: rng.below(5) as u16,
            global: rng.once_in(2),
            size: u32::from(rng.once_in(60)),
            quiet: scene.quiet,
        },
        88 | 89 if channel.tx.is_none() => Act::Confirm,
        90 | 91 if channel.confirm.is_none() => Act::TxSelect,
        92 | 93 if channel.tx.is_some() => Act::TxCommit,
        94 if channel.tx.is_some() => Act::TxRollback,
        95 => Act::Recover(!rng.once_in(30)),
        96 if rng.once_in(3) => Act::Close,
        97 if rng.once_in(4) => misplaced(rng),
        _ => Act::Publish(Publish::random(
            scene.id,
            scene.frame_max,
            scene.model.message_bytes_max,
            rng,
        )),
    }
}

/// Most often one that is there and may be used.
fn likely_queue(scene: &Scene<'_>, rng: &mut Rng) -> &'static str {
    for _ in 0..rng.below(12) {
        let queue = rng.pick(&QUEUES);
        if queue != "own" && scene.model.named(queue).is_some() {
            return queue;
        }
    }
    any_queue(rng)
}

fn any_queue(rng: &mut Rng) -> &'static str {
    let known = rng.pick(&[6, 6, 7, 8]);
    rng.pick(&QUEUES[..known])
}

/// Acts out of place.
fn misplaced(rng: &mut Rng) -> Act {
    match rng.below(8) {
        0 => Act::Open,
        1 => Act::CloseOk,
        2 => Act::TxCommit,
        3 => Act::TxRollback,
        _ => Act::Confirm,
    }
}

fn settle(channel: &Channel, rng: &mut Rng) -> Act {
    let tags: Vec<u64> = channel.unacked.keys().copied().collect();
    let tag = match rng.below(40) {
        0 if rng.once_in(4) => rng.below(5) as u64,
        1 if rng.once_in(4) => channel.last_tag + 1,
        _ if tags.is_empty() => 0,
        _ => rng.pick(&tags),
    };
    let reject = rng.once_in(4) && !tags.is_empty();
    Act::Settle {
        tag,
        multiple: !reject && (tags.is_empty() || rng.once_in(3)),
        requeue: rng.once_in(3),
        reject,
    }
}

/// Whether it is known which messages are free to be taken, and not on their way to one of
/// several consumers.
fn takes_are_certain(scene: &Scene<'_>, queue: &str) -> bool {
    let Some(uid) = scene.model.named(queue) else {
        return true;
    };
    let several = scene.model.consumers_of(uid).len() > 1 || !scene.model.queues[&uid].ordered;
    !several || scene.quiet || scene.model.queues[&uid].ready.is_empty()
}
