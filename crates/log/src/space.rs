//! Files for segments to come: spare ones, preallocated, some of them kept for when the disk is full.
//!
//! A file is *warm* as far as it was written since it was allocated. A sync of what goes to a cold one takes the
//! file system's journal too, and about half as long again: so housekeeping writes zeros over spares while it has
//! nothing better to do ([`Space::warm`]), and warm ones are taken first. Nobody waits for one.
//!
//! What a spare contains is never trusted: it may have been a segment before, or be half written over after a
//! crash, and counts as cold after a restart. So warming changes nothing for recovery.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk::{self, Disk, Mode};
use crate::error::{LogError, Result};
use crate::format::{number_in, segment_name};

/// Bytes of the file with which a run begins, unless segments are smaller.
const FIRST_BYTES: u32 = 4 << 20;
/// What spares are written over with, piece by piece.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Spare files. A spare has the size of a segment, and any content.
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    segment_bytes: u32,
    reserve: usize,
    spares_max: usize,
    pool: Mutex<Pool>,
    /// Rung when a step of warming is over.
    step_over: Condvar,
}

/// A file for a segment.
pub(crate) struct Spare {
    pub name: String,
    pub bytes: u32,
    /// So much of it is warm, from its beginning.
    pub warm_bytes: u32,
    /// The disk is full: it is not for messages.
    pub from_reserve: bool,
}

struct Pool {
    spares: Vec<Idle>,
    /// One is not among them at the moment: zeros are written over it.
    warming: bool,
    next: u64,
}

struct Idle {
    name: String,
    warm_bytes: u32,
}

impl Space {
    /// Takes the spares among `names`.
    pub fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u32,
        reserve: usize,
        spares_max: usize,
        names: &[String],
    ) -> Self {
        let spares = names
            .iter()
            .filter(|name| number_in(name, "spare").is_some());
        let numbers = spares.clone().filter_map(|name| number_in(name, "spare"));
        let next = numbers.max().map_or(0, |highest| highest + 1);
        let spares = spares.cloned().map(Idle::cold).collect();
        Self {
            disk,
            segment_bytes,
            reserve,
            spares_max: spares_max.max(reserve),
            pool: Mutex::new(Pool {
                spares,
                warming: false,
                next,
            }),
            step_over: Condvar::new(),
        }
    }

    /// A file for a segment of at least `bytes`, the warmest there is. `privileged` takes from the reserve when no file
    /// can be made; others get [`LogError::Full`] when that is for want of room.
    pub fn take(&self, bytes: u32, privileged: bool) -> Result<Spare> {
        let mut pool = self.pool.lock();
        if bytes > self.segment_bytes {
            return Ok(Spare::new(self.create(&mut pool, bytes)?, bytes));
        }
        let mut from_reserve = false;
        if pool.count() <= self.reserve || pool.spares.is_empty() {
            match self.create(&mut pool, self.segment_bytes) {
                // The reserve stays complete, and may give a warmer one for it.
                Ok(name) => pool.spares.push(Idle::cold(name)),
                Err(error) if privileged && (error.is_full() || error.is_out_of_files()) => {
                    from_reserve = true;
                }
                Err(error) => return Err(error),
            }
        }
        // Only where there is nothing else, on a full disk.
        while pool.spares.is_empty() && pool.warming {
            self.step_over.wait(&mut pool);
        }
        let idle = pool.take_warmest(u32::MAX).ok_or(LogError::Full)?;
        Ok(Spare {
            warm_bytes: idle.warm_bytes,
            from_reserve,
            ..Spare::new(idle.name, self.segment_bytes)
        })
    }

    /// The file with which a run begins: small, and warm from its beginning, so that what comes right after the
    /// start is synced fast, and the next segment can be warm. Where a small one cannot be made, as
    /// [`Space::take`], privileged.
    pub fn take_first(&self) -> Result<Spare> {
        let small = FIRST_BYTES < self.segment_bytes;
        let created = small.then(|| self.create(&mut self.pool.lock(), FIRST_BYTES));
        let mut spare = match created {
            Some(Ok(name)) => Spare::new(name, FIRST_BYTES),
            _ => self.take(1, true)?,
        };
        let warm_bytes = spare.bytes.min(FIRST_BYTES);
        // If it cannot be, it is a cold one; whether it can be written to at all is for the writer to find out.
        if self.write_zeros(&spare.name, 0..warm_bytes).is_ok() {
            spare.warm_bytes = warm_bytes;
        }
        Ok(spare)
    }

    /// Writes the next `step` bytes of zeros over a spare that is not warm, and syncs them, so that the log's own
    /// syncs never wait for much; says whether there is more to do.
    ///
    /// # Errors
    /// What the disk refuses but for room: the spare is given up.
    pub fn warm(&self, step: u32) -> Result<bool> {
        let mut idle = {
            let mut pool = self.pool.lock();
            let Some(idle) = pool.take_warmest(self.segment_bytes) else {
                return Ok(false);
            };
            pool.warming = true;
            idle
        };
        let until = idle.warm_bytes.saturating_add(step).min(self.segment_bytes);
        let written = self.write_zeros(&idle.name, idle.warm_bytes..until);
        let written = written.map_err(|e| LogError::io(format!("write over {}", idle.name), e));
        let mut pool = self.pool.lock();
        pool.warming = false;
        self.step_over.notify_all();
        match written {
            Ok(()) => {
                idle.warm_bytes = until;
                pool.spares.push(idle);
                Ok(pool
                    .spares
                    .iter()
                    .any(|s| s.warm_bytes < self.segment_bytes))
            }
            Err(error) if error.is_full() || error.is_out_of_files() => {
                pool.spares.push(idle);
                Ok(false)
            }
            Err(error) => {
                // If it cannot be removed, it stays and takes room; nothing reads it.
                let _ = self.disk.remove(&idle.name);
                Err(error)
            }
        }
    }

    /// A spare that is warm to its end, if there is one, for a file of `bytes` that is less warm and is given back for
    /// it: also one of the reserve.
    pub fn take_warmer(&self, bytes: u32, warm_bytes: u32) -> Option<Spare> {
        if bytes != self.segment_bytes || warm_bytes >= bytes {
            return None;
        }
        let mut pool = self.pool.lock();
        let warm = |idle: &Idle| idle.warm_bytes >= self.segment_bytes;
        let at = pool.spares.iter().position(warm)?;
        let idle = pool.spares.swap_remove(at);
        Some(Spare {
            warm_bytes: idle.warm_bytes,
            ..Spare::new(idle.name, bytes)
        })
    }

    /// How many spares there are.
    pub fn spares(&self) -> usize {
        self.pool.lock().count()
    }

    /// Makes spares until the reserve is complete; `Full` when it cannot be.
    pub fn fill_reserve(&self) -> Result<()> {
        let mut pool = self.pool.lock();
        while pool.count() < self.reserve {
            let spare = self.create(&mut pool, self.segment_bytes)?;
            pool.spares.push(Idle::cold(spare));
        }
        Ok(())
    }

    /// Whether a segment for messages can be had without touching the reserve; tries to make room
    /// for one.
    pub fn has_room(&self) -> Result<bool> {
        match self.fill_reserve() {
            Err(LogError::Full) => return Ok(false),
            other => other?,
        }
        let mut pool = self.pool.lock();
        if pool.count() > self.reserve {
            return Ok(true);
        }
        match self.create(&mut pool, self.segment_bytes) {
            Err(LogError::Full) => Ok(false),
            Ok(spare) => {
                pool.spares.push(Idle::cold(spare));
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes back the file `name` of `bytes`, of which so many at its beginning are warm: as a spare, or for good.
    pub fn give(&self, name: &str, bytes: u32, warm_bytes: u32) -> Result<()> {
        let mut pool = self.pool.lock();
        if bytes != self.segment_bytes || pool.count() >= self.spares_max {
            let removed = self.disk.remove(name);
            return removed.map_err(|e| LogError::io(format!("remove {name}"), e));
        }
        let spare = pool.new_name();
        let renamed = self.disk.rename(name, &spare);
        renamed.map_err(|e| LogError::io(format!("rename {name}"), e))?;
        pool.spares.push(Idle {
            name: spare,
            warm_bytes,
        });
        Ok(())
    }

    /// Gives up one spare, so that something else can be written on a full disk.
    pub fn sacrifice(&self) -> bool {
        let mut pool = self.pool.lock();
        let spare = pool.spares.pop();
        spare.is_some_and(|spare| self.disk.remove(&spare.name).is_ok())
    }

    /// Makes the file `spare` the file of segment `serial`. When this returns, it is that after a
    /// power loss too, with whatever it contained.
    pub fn activate(&self, spare: &str, serial: u32) -> Result<()> {
        let name = segment_name(serial);
        let renamed = self.disk.rename(spare, &name);
        let synced = renamed.and_then(|()| self.disk.sync_dir());
        synced.map_err(|e| LogError::io(format!("make {name} of {spare}"), e))
    }

    fn create(&self, pool: &mut Pool, bytes: u32) -> Result<String> {
        loop {
            let name = pool.new_name();
            match self.disk.create(&name, u64::from(bytes)) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(LogError::io(format!("create {name}"), error)),
            }
        }
    }

    /// Writes zeros there, so that they are on the disk.
    fn write_zeros(&self, name: &str, range: Range<u32>) -> io::Result<()> {
        let file = self.disk.open(name, Mode::Buffered)?;
        for at in range.clone().step_by(ZEROS.len()) {
            let bytes = ZEROS.len().min((range.end - at) as usize);
            disk::write_all(&*file, &ZEROS[..bytes], u64::from(at), 1)?;
        }
        file.sync_data()
    }
}

impl Spare {
    fn new(name: String, bytes: u32) -> Self {
        Self {
            name,
            bytes,
            warm_bytes: 0,
            from_reserve: false,
        }
    }
}

impl Idle {
    fn cold(name: String) -> Self {
        Self {
            name,
            warm_bytes: 0,
        }
    }
}

impl Pool {
    fn count(&self) -> usize {
        self.spares.len() + usize::from(self.warming)
    }

    /// Takes the spare out of which most is warm, but less than `below`.
    fn take_warmest(&mut self, below: u32) -> Option<Idle> {
        let spares = self.spares.iter().enumerate();
        let fit = spares.filter(|(_, spare)| spare.warm_bytes < below);
        let (at, _) = fit.max_by_key(|(_, spare)| spare.warm_bytes)?;
        Some(self.spares.swap_remove(at))
    }

    fn new_name(&mut self) -> String {
        self.next += 1;
        format!("{:016x}.spare", self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::disk::{File, SimDisk};

    const BYTES: u32 = 16 << 10;
    const STEP: u32 = 4 << 10;

    fn space(disk: &SimDisk, reserve: usize) -> Space {
        Space::new(Arc::new(disk.clone()), BYTES, reserve, 4, &[])
    }

    fn warm_bytes(space: &Space) -> Vec<u32> {
        let pool = space.pool.lock();
        pool.spares.iter().map(|spare| spare.warm_bytes).collect()
    }

    fn has_warm(space: &Space) -> bool {
        warm_bytes(space).contains(&BYTES)
    }

    #[test]
    fn spares_are_warmed_step_by_step_and_what_was_said_to_be_is_on_the_disk() {
        let disk = SimDisk::new();
        let old = format!("{:016x}.spare", 7);
        disk.put(&old, vec![9; BYTES as usize]);
        let space = Space::new(Arc::new(disk.clone()), BYTES, 1, 4, &[old.clone()]);
        for warm in [STEP, 2 * STEP, 3 * STEP, 4 * STEP] {
            assert!(!has_warm(&space));
            let more = space.warm(STEP).expect("warms");
            assert_eq!((warm_bytes(&space), more), (vec![warm], warm < BYTES));
            let content = disk.after_power_loss(0).content(&old).expect("is there");
            let (zeros, rest) = content.split_at(warm as usize);
            assert!(zeros.iter().all(|byte| *byte == 0) && rest.iter().all(|byte| *byte == 9));
        }
        assert!(has_warm(&space));
        let calls = disk.calls();
        assert!(!space.warm(STEP).expect("has nothing to do"));
        assert_eq!(disk.calls(), calls);
    }

    #[test]
    fn a_burst_takes_the_warm_ones_and_then_cold_ones_without_waiting() {
        let disk = SimDisk::new();
        let space = space(&disk, 2);
        space.fill_reserve().expect("fills");
        while space.warm(STEP).expect("warms") {}
        let writes = disk.calls();
        let taken: Vec<u32> = (0..5)
            .map(|_| {
                let spare = space.take(1, false).expect("takes");
                assert!(!spare.from_reserve && spare.bytes == BYTES);
                spare.warm_bytes
            })
            .collect();
        assert_eq!(taken, [BYTES, BYTES, 0, 0, 0]);
        assert_eq!(disk.calls() - writes, 5, "a file is made for each, no more");
        assert_eq!(warm_bytes(&space), [0, 0], "the reserve is complete");
    }

    #[test]
    fn what_comes_back_is_warm_as_far_as_it_was_written() {
        let disk = SimDisk::new();
        let space = space(&disk, 0);
        let spare = space.take(1, false).expect("takes");
        space.give(&spare.name, BYTES, BYTES - 10).expect("gives");
        assert!(!has_warm(&space));
        assert!(!space.warm(STEP).expect("warms the last bytes"));
        assert!(has_warm(&space));
    }

    #[test]
    fn a_cold_file_is_changed_for_a_warm_one_on_a_full_disk_too() {
        let disk = SimDisk::new();
        let space = space(&disk, 1);
        let cold = space.take(1, false).expect("takes");
        space.fill_reserve().expect("fills");
        assert!(space.take_warmer(BYTES, cold.warm_bytes).is_none());
        while space.warm(STEP).expect("warms") {}
        disk.set_capacity(disk.used_bytes());
        assert!(space.take_warmer(BYTES, BYTES).is_none(), "as warm");
        assert!(space.take_warmer(2 * BYTES, 0).is_none(), "of its own size");
        let warm = space.take_warmer(BYTES, cold.warm_bytes).expect("takes");
        assert_eq!((warm.warm_bytes, warm.from_reserve), (BYTES, false));
        space.give(&cold.name, BYTES, 0).expect("gives");
        assert_eq!(warm_bytes(&space), [0]);
    }

    #[test]
    fn the_first_file_is_small_and_warm() {
        let disk = SimDisk::new();
        let large = 4 * FIRST_BYTES;
        let space = Space::new(Arc::new(disk.clone()), large, 1, 4, &[]);
        let first = space.take_first().expect("takes");
        assert_eq!((first.bytes, first.warm_bytes), (FIRST_BYTES, FIRST_BYTES));
        let name = &first.name;
        let size = disk.content(name).map(|content| content.len());
        assert_eq!(size, Some(FIRST_BYTES as usize));
        // It is no spare of later.
        space
            .give(name, first.bytes, first.warm_bytes)
            .expect("gives");
        assert_eq!((space.spares(), disk.content(name)), (0, None));
        // No room for it: the reserve.
        space.fill_reserve().expect("fills");
        disk.set_capacity(disk.used_bytes());
        let first = space.take_first().expect("takes");
        assert_eq!((first.bytes, first.warm_bytes), (large, FIRST_BYTES));
        assert!(first.from_reserve);
    }

    #[test]
    fn a_spare_that_cannot_be_warmed_stays_cold_or_goes() {
        let disk = SimDisk::new();
        let space = space(&disk, 2);
        space.fill_reserve().expect("fills");
        disk.fail_writes_for_room(1);
        assert!(!space.warm(STEP).expect("no room is no failure"));
        disk.fail_opens(1);
        assert!(!space.warm(STEP).expect("nor are too many open files"));
        assert_eq!(warm_bytes(&space), [0, 0]);
        for fail in [SimDisk::fail_writes, SimDisk::fail_syncs] {
            fail(&disk, 1);
            assert!(matches!(space.warm(STEP), Err(LogError::Io { .. })));
            assert_eq!((space.spares(), disk.used_bytes()), (1, u64::from(BYTES)));
            space.fill_reserve().expect("fills");
        }
        while space.warm(STEP).expect("warms") {}
        assert_eq!(warm_bytes(&space), [BYTES, BYTES]);
        disk.fail_syncs(1);
        let first = space.take_first().expect("a cold one, then");
        assert_eq!(first.bytes, BYTES);
    }

    /// Calls back in the middle of each write.
    struct Hooked(SimDisk, Arc<dyn Fn() + Send + Sync>);
    struct HookedFile(Arc<dyn File>, Arc<dyn Fn() + Send + Sync>);

    impl File for HookedFile {
        fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
            (self.1)();
            self.0.write_at(data, offset)
        }
        fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(into, offset)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn size(&self) -> io::Result<u64> {
            self.0.size()
        }
    }

    impl Disk for Hooked {
        fn lock(&self) -> io::Result<()> {
            self.0.lock()
        }
        fn list(&self) -> io::Result<Vec<String>> {
            self.0.list()
        }
        fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
            self.0.create(name, bytes)
        }
        fn open(&self, name: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
            let file = self.0.open(name, mode)?;
            Ok(Arc::new(HookedFile(file, Arc::clone(&self.1))))
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
        fn sync_dir(&self) -> io::Result<()> {
            self.0.sync_dir()
        }
        fn free_bytes(&self) -> io::Result<u64> {
            self.0.free_bytes()
        }
        fn alignment(&self) -> usize {
            self.0.alignment()
        }
    }

    /// Takes a spare in the middle of the warming of the only one; gives what was taken, and the one that was warmed.
    fn take_while_warming(capacity: u64) -> (Spare, String) {
        let sim = SimDisk::new();
        let (ask, asked) = mpsc::channel();
        let hook = Arc::new(move || ask.send(()).expect("somebody listens"));
        let disk = Arc::new(Hooked(sim.clone(), hook));
        let space = Space::new(disk, BYTES, 1, 4, &[]);
        space.fill_reserve().expect("fills");
        sim.set_capacity(capacity);
        let warmed = space.pool.lock().spares[0].name.clone();
        let space = &space;
        let taken = std::thread::scope(|scope| {
            let taking = scope.spawn(move || {
                asked.recv().expect("a write begins");
                space.take(1, true).expect("takes")
            });
            // One write is one step.
            space.warm(STEP).expect("warms");
            taking.join().expect("ends")
        });
        (taken, warmed)
    }

    #[test]
    fn what_is_being_warmed_is_taken_only_where_there_is_nothing_else_and_after_the_step() {
        let (taken, warmed) = take_while_warming(u64::from(BYTES));
        assert_eq!((taken.name, taken.warm_bytes), (warmed, STEP));
        assert!(taken.from_reserve);
        let (taken, _) = take_while_warming(u64::MAX);
        assert!(!taken.from_reserve);
    }
}
