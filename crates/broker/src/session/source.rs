//! Where a session's deliveries come from: a consumer, or a queue that `basic.get` looks into.

use std::ops::Range;
use std::sync::Arc;

use super::overdue::Deliveries;
use crate::queue::{ConsumerId, Queue};

/// A consumer of the session, or a queue that messages were got from.
pub(super) struct Source {
    pub queue: Arc<Queue>,
    /// `None` for gets, and once the consumer is cancelled.
    pub consumer: Option<ConsumerId>,
    pub channel: u16,
    pub tag: Box<[u8]>,
    pub no_ack: bool,
    /// What else the consumer asked for.
    pub asked: Option<Box<Asked>>,
    /// Its messages count against the channel's shared limit.
    pub shared: bool,
    /// Messages that the channel holds from it.
    pub held: u32,
    /// Of those settled, the ones that the queue does not know of yet.
    pub settled: u32,
    /// The numbers of those that the log has to hear of.
    pub owed: Vec<Range<u64>>,
    /// When it delivered what, if that is limited.
    pub deliveries: Option<Box<Deliveries>>,
    serial: u32,
    /// The channel ended or the consumer was cancelled: goes when nothing is held from it.
    retired: bool,
}

/// What a consumer asked for and only pages show.
pub(super) struct Asked {
    pub prefetch: u32,
    pub exclusive: bool,
    /// A raw field table.
    pub arguments: Vec<u8>,
}

impl Source {
    pub fn new(queue: Arc<Queue>, channel: u16) -> Self {
        Self {
            queue,
            consumer: None,
            channel,
            tag: Box::default(),
            no_ack: false,
            asked: None,
            shared: false,
            held: 0,
            settled: 0,
            owed: Vec::new(),
            deliveries: None,
            serial: 0,
            retired: false,
        }
    }
}

/// All sources of a session. An index is used again once its source is gone; a key never is.
#[derive(Default)]
pub(super) struct Sources {
    slots: Vec<Option<Source>>,
    free: Vec<u32>,
    serial: u32,
}

impl Sources {
    pub fn add(&mut self, mut source: Source) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        source.serial = self.serial;
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(source);
                index
            }
            None => {
                self.slots.push(Some(source));
                self.slots.len() as u32 - 1
            }
        }
    }

    /// The name of a source towards its session's bell.
    pub fn key(&self, index: u32) -> u64 {
        let serial = self.slots[index as usize].as_ref().map_or(0, |s| s.serial);
        (u64::from(serial) << 32) | u64::from(index)
    }

    /// The source that `key` names, if it is still there.
    pub fn find(&self, key: u64) -> Option<u32> {
        let index = key as u32;
        let source = self.slots.get(index as usize)?.as_ref()?;
        (source.serial == (key >> 32) as u32).then_some(index)
    }

    #[inline]
    pub fn get(&mut self, index: u32) -> &mut Source {
        self.slots[index as usize]
            .as_mut()
            .expect("whoever holds the index keeps the source")
    }

    /// The sources whose deliveries may be overdue some time.
    pub fn timed(&self) -> Vec<u32> {
        let all = 0..self.slots.len() as u32;
        all.filter(|index| self.is_timed(*index)).collect()
    }

    /// Whether its deliveries may be overdue some time.
    pub fn is_timed(&self, index: u32) -> bool {
        let source = self.slots.get(index as usize);
        let source = source.and_then(|source| source.as_ref());
        source.is_some_and(|source| source.deliveries.is_some())
    }

    pub fn try_get(&mut self, index: u32) -> Option<&mut Source> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The source at an index, if it is there.
    pub fn look(&self, index: u32) -> Option<&Source> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// The consumers of a channel.
    pub fn of_channel(&self, channel: u16) -> Vec<u32> {
        let slots = self.slots.iter().enumerate();
        let consumers = slots.filter(|(_, slot)| {
            slot.as_ref()
                .is_some_and(|s| s.channel == channel && s.consumer.is_some())
        });
        consumers.map(|(index, _)| index as u32).collect()
    }

    /// Lets a source go once nothing is held from it.
    pub fn retire(&mut self, index: u32) {
        self.get(index).retired = true;
        self.sweep(index);
    }

    /// Frees a retired source that nothing is held from.
    pub fn sweep(&mut self, index: u32) {
        let source = self.get(index);
        if source.retired && source.held == 0 && source.settled == 0 {
            self.slots[index as usize] = None;
            self.free.push(index);
        }
    }
}
