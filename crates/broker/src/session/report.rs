//! What a connection has, as pages show it. Made when somebody asks: nothing is counted for it on the way of a message.

use std::sync::Arc;

use super::channel::Channel;
use super::{Core, Session};
use crate::queue::Activity;

/// A channel at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelReport {
    /// Its number on its connection.
    pub number: u16,
    /// It has publisher confirms.
    pub confirm: bool,
    /// It is in transactions.
    pub transactional: bool,
    /// Prefetch of consumers that it starts from now on; 0 = no limit.
    pub prefetch: u32,
    /// The limit that its consumers share; 0 = none.
    pub global_prefetch: u32,
    /// Messages that it holds unsettled.
    pub unacked: u64,
    /// Publishes that are not confirmed yet.
    pub unconfirmed: u64,
    /// Publishes that wait for the commit.
    pub uncommitted: u64,
    /// Settlements that wait for the commit.
    pub acks_uncommitted: u64,
    /// Its consumers.
    pub consumers: Vec<ConsumerReport>,
}

/// A consumer at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerReport {
    /// Its tag.
    pub tag: String,
    /// The queue that it consumes from.
    pub queue: Arc<str>,
    /// It settles what it gets.
    pub ack_required: bool,
    /// It is the only one.
    pub exclusive: bool,
    /// Messages that it may hold unsettled; 0 = no limit.
    pub prefetch: u32,
    /// What it came with, a raw field table.
    pub arguments: Vec<u8>,
    /// Whether it gets messages now.
    pub activity: Activity,
}

impl Session {
    /// Its channels, in the order of their numbers.
    pub fn report(&self) -> Vec<ChannelReport> {
        let open = self.channels.iter().filter(|channel| !channel.closing);
        open.map(|channel| self.core.report(channel)).collect()
    }
}

impl Core {
    fn report(&self, channel: &Channel) -> ChannelReport {
        let owed = self.owed.iter().filter(|owed| owed.is_of(channel.id));
        let owed: u64 = owed.map(|owed| owed.count()).sum();
        let confirm = channel.confirm.as_ref();
        let tx = channel.tx.as_ref();
        let (publishes, settles) = tx.map_or((0, 0), |tx| tx.waiting());
        ChannelReport {
            number: channel.id,
            confirm: confirm.is_some(),
            transactional: tx.is_some(),
            prefetch: channel.prefetch,
            global_prefetch: channel.shared.as_ref().map_or(0, |shared| shared.limit()),
            unacked: channel.unacked.len() as u64,
            unconfirmed: owed + confirm.map_or(0, |it| it.published - it.noted),
            uncommitted: publishes as u64,
            acks_uncommitted: settles as u64,
            consumers: self.consumers(channel),
        }
    }

    fn consumers(&self, channel: &Channel) -> Vec<ConsumerReport> {
        let sources = channel.sources.iter();
        let there = sources.filter_map(|index| self.sources.look(*index));
        let consumers = there.filter_map(|source| {
            let id = source.consumer?;
            // Without it, it waits for answers: its queue is nobody else's affair.
            let asked = source.asked.as_ref()?;
            Some(ConsumerReport {
                tag: String::from_utf8_lossy(&source.tag).into_owned(),
                queue: Arc::clone(source.queue.name()),
                ack_required: !source.no_ack,
                exclusive: asked.exclusive,
                prefetch: asked.prefetch,
                arguments: asked.arguments.clone(),
                activity: source.queue.activity(id),
            })
        });
        consumers.collect()
    }
}
