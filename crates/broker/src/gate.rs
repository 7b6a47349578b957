//! The gate of the publishers: when messages take more memory than they may, the disk has too little room, or the log
//! takes none, publishers are told why and not read any more, until enough was consumed or the log goes on. Consumers go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backbone_log::Arena;

use crate::alarm::Alarm;
use crate::durable::{Durable, Trouble};
use crate::pager::Pager;

/// Whether publishers may go on.
pub struct Gate {
    arena: Arc<Arena>,
    durable: Option<Arc<Durable>>,
    /// Called for help before it comes so far.
    pager: Option<Arc<Pager>>,
    memory_bytes_max: usize,
    memory: Alarm,
    disk_bytes_min: u64,
    disk_bytes_free: AtomicU64,
    disk: Alarm,
}

impl Gate {
    /// A gate that closes when messages take more than `memory_bytes_max`, and opens again below
    /// 80 % of that; and when the log takes no messages.
    pub fn new(arena: Arc<Arena>, durable: Option<Arc<Durable>>, memory_bytes_max: usize) -> Self {
        Self {
            arena,
            durable,
            pager: None,
            memory_bytes_max,
            memory: Alarm::default(),
            disk_bytes_min: 0,
            disk_bytes_free: AtomicU64::new(u64::MAX),
            disk: Alarm::default(),
        }
    }

    /// The same with a pager, which hears of it when memory is tight.
    pub fn with_pager(self, pager: Arc<Pager>) -> Self {
        let pager = Some(pager);
        Self { pager, ..self }
    }

    /// The same, closed as well while less than `disk_bytes_min` of the disk is free, as far as it is told
    /// ([`Gate::tell_free_disk`]), and open again from a quarter more on.
    pub fn with_disk(self, disk_bytes_min: u64) -> Self {
        Self {
            disk_bytes_min,
            ..self
        }
    }

    /// Why publishers have to wait, if they have to.
    pub fn trouble(&self) -> Option<Trouble> {
        if let Some(pager) = &self.pager {
            pager.call_if_tight();
        }
        let of_log = self.durable.as_ref().and_then(|durable| durable.trouble());
        let disk = match of_log {
            None => self.disk.is_up(),
            Some(Trouble::Disk) => true,
            other => return other,
        };
        match (self.is_short_of_memory(), disk) {
            (false, false) => None,
            (true, false) => Some(Trouble::Memory),
            (false, true) => Some(Trouble::Disk),
            (true, true) => Some(Trouble::MemoryAndDisk),
        }
    }

    /// Whether messages take more memory than they may.
    pub fn is_short_of_memory(&self) -> bool {
        let (bytes, max) = (self.arena.bytes(), self.memory_bytes_max);
        self.memory.note(bytes > max, bytes <= max / 5 * 4)
    }

    /// Whether the disk has too little room for more, or none.
    pub fn is_short_of_disk(&self) -> bool {
        let full = || self.durable.as_ref()?.trouble();
        self.disk.is_up() || full() == Some(Trouble::Disk)
    }

    /// Takes note of how much of the log's disk is free. Returns whether that is too little.
    pub fn tell_free_disk(&self, bytes: u64) -> bool {
        self.disk_bytes_free.store(bytes, Ordering::Relaxed);
        let min = self.disk_bytes_min;
        let enough = min.saturating_add(min / 4);
        let is_short = self.disk.note(bytes < min, bytes >= enough);
        if let Some(pager) = &self.pager {
            pager.tell_disk(is_short);
        }
        is_short
    }

    /// How much of the disk is free, as far as was told, and how much has to be.
    pub fn disk_bytes(&self) -> (u64, u64) {
        (
            self.disk_bytes_free.load(Ordering::Relaxed),
            self.disk_bytes_min,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_closes_above_the_limit_and_opens_well_below() {
        let arena = Arc::new(Arena::new());
        let gate = Gate::new(Arc::clone(&arena), None, 1000);
        let first = arena.adopt(Vec::with_capacity(900), 1);
        assert!(!gate.is_short_of_memory());
        let second = arena.adopt(Vec::with_capacity(200), 1);
        assert!(gate.is_short_of_memory());
        arena.release_held(second, 1);
        assert!(gate.is_short_of_memory(), "900 is above 80 %");
        arena.release_held(first, 1);
        assert!(!gate.is_short_of_memory());
    }

    #[test]
    fn too_little_room_closes_it_until_there_is_a_quarter_more() {
        let gate = Gate::new(Arc::default(), None, 1000).with_disk(100);
        assert_eq!(gate.trouble(), None, "nothing was told yet");
        let after = |free| {
            gate.tell_free_disk(free);
            gate.trouble()
        };
        let low = Some(Trouble::Disk);
        let told = [100, 99, 100, 124, 125, 100, 0, 124, 1000].map(after);
        assert_eq!(told, [None, low, low, low, None, None, low, low, None]);
        assert_eq!(gate.disk_bytes(), (1000, 100));
    }

    #[test]
    fn it_says_all_that_is_short() {
        let arena = Arc::new(Arena::new());
        let gate = Gate::new(Arc::clone(&arena), None, 1000).with_disk(100);
        let much = arena.adopt(Vec::with_capacity(2000), 1);
        assert_eq!(gate.trouble(), Some(Trouble::Memory));
        gate.tell_free_disk(0);
        let both = gate.trouble();
        assert_eq!(both.map(Trouble::reason), Some("low on disk & memory"));
        arena.release_held(much, 1);
        assert_eq!(gate.trouble().map(Trouble::reason), Some("low on disk"));
    }

    #[test]
    fn without_a_limit_of_the_disk_there_is_no_alarm() {
        let gate = Gate::new(Arc::default(), None, 1000);
        assert!(!gate.tell_free_disk(0));
        assert_eq!(gate.trouble(), None);
    }
}
