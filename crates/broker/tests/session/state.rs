//! What the model of a broker keeps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::acts::Publish;

/// Identity of a queue or consumer.
pub type Uid = u64;

#[derive(Debug)]
pub struct Message {
    pub id: String,
    pub exchange: &'static str,
    pub key: String,
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub message: Arc<Message>,
    pub redelivered: bool,
}

pub struct Queue {
    pub name: String,
    pub ready: BTreeMap<u64, Stored>,
    pub published: u64,
    pub auto_delete: bool,
    pub owner: Option<usize>,
    /// It never had a second consumer since all was quiet: deliveries are the lowest there is.
    pub ordered: bool,
}

#[derive(Debug)]
pub struct Consumer {
    pub uid: Uid,
    pub queue: Uid,
    pub prefetch: u32,
    pub no_ack: bool,
    pub shared: bool,
    pub exclusive: bool,
    /// Its queue is gone, its session does not know yet.
    pub gone: bool,
}

pub struct Unacked {
    pub queue: Uid,
    pub seq: u64,
    pub stored: Stored,
    /// The consumer, and whether it counts against the channel's limit.
    pub consumer: Option<Uid>,
    pub in_tx: bool,
}

#[derive(Default)]
pub struct Tx {
    pub publishes: Vec<Publish>,
    pub settles: Vec<(u64, bool)>,
}

#[derive(Default)]
pub struct Channel {
    pub closing: bool,
    /// Both sides have closed it; ours is not answered yet.
    pub crossed: bool,
    pub consumers: BTreeMap<String, Consumer>,
    pub unacked: BTreeMap<u64, Unacked>,
    pub last_tag: u64,
    /// Published and confirmed.
    pub confirm: Option<(u64, u64)>,
    pub tx: Option<Tx>,
    pub prefetch: u32,
    pub limit: Option<u32>,
    /// Consumers that count against the limit, also those that are no more.
    pub sharers: BTreeSet<Uid>,
    /// The limit was changed while messages were on their way.
    pub loose: bool,
    pub last_queue: Option<String>,
}

#[derive(Debug)]
pub enum Expect {
    Method(u16, Vec<u8>),
    Got {
        channel: u16,
        tag: u64,
        left: usize,
        stored: Stored,
    },
    /// With the confirm that must come after it.
    Return(u16, Arc<Message>, Option<u64>),
    /// Code, class and method of a close, of the connection on channel 0.
    Close(u16, u16, (u16, u16)),
}

#[derive(Default)]
pub struct Conn {
    pub channels: BTreeMap<u16, Channel>,
    pub expect: VecDeque<Expect>,
    /// Consumers to be told that their queue is gone.
    pub cancels: Vec<(u16, String)>,
    /// Channels that closed with publishes to be confirmed: published and confirmed.
    pub late: Vec<(u16, (u64, u64))>,
    /// Channels that closed and are to be answered behind the next deliveries.
    pub closed: VecDeque<u16>,
    pub dead: bool,
}
