//! A disk in memory that fails on demand, for tests. Deterministic: all chance comes from seeds.
//!
//! What was written and not synced is lost at a crash in arbitrary sets of 512-byte sectors;
//! directory changes that were not synced survive up to an arbitrary one of them. A crash is a
//! [`Snapshot`]: while recording, the disk keeps one for each call that changes something, taken in
//! the middle of that call.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Disk, File, Mode};

const SECTOR: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Sim>>);

/// The disk as it is in the middle of a call.
pub struct Snapshot {
    sim: Sim,
    /// The call.
    pub call: &'static str,
    /// What the recording's counter stood at: what the log had promised by then.
    pub promised: u64,
}

#[derive(Clone, Default)]
struct Sim {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_synced: BTreeMap<String, u64>,
    changes: Vec<Change>,
    next_inode: u64,
    locked: bool,
    faults: Faults,
    recording: Option<Arc<AtomicU64>>,
    snapshots: Vec<Arc<Snapshot>>,
    calls: u64,
}

#[derive(Clone)]
struct Faults {
    capacity: u64,
    read_only: bool,
    short_writes: bool,
    fail_writes: u32,
    fail_writes_for_room: u32,
    fail_syncs: u32,
    fail_opens: u32,
    fail_files: u32,
    alignment: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            capacity: u64::MAX,
            read_only: false,
            short_writes: false,
            fail_writes: 0,
            fail_writes_for_room: 0,
            fail_syncs: 0,
            fail_opens: 0,
            fail_files: 0,
            alignment: 1,
        }
    }
}

#[derive(Clone)]
struct Inode {
    current: Arc<Vec<u8>>,
    synced: Arc<Vec<u8>>,
    dirty: BTreeSet<usize>,
    /// A sync failed: some of what the cache believes to be clean is not on the disk.
    unsure: bool,
    /// Sectors that cannot be read until they are written again.
    bad: BTreeSet<usize>,
}

impl Inode {
    /// With this content, synced.
    fn of(content: Vec<u8>) -> Self {
        let content = Arc::new(content);
        Self {
            current: Arc::clone(&content),
            synced: content,
            dirty: BTreeSet::new(),
            unsure: false,
            bad: BTreeSet::new(),
        }
    }
}

#[derive(Clone)]
enum Change {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Sim::default())))
    }

    /// Keeps a snapshot of each call from now on, with what `promised` holds at that moment.
    pub fn record(&self, promised: Arc<AtomicU64>) {
        self.0.lock().recording = Some(promised);
    }

    /// The snapshots since the last time.
    pub fn take_snapshots(&self) -> Vec<Arc<Snapshot>> {
        std::mem::take(&mut self.0.lock().snapshots)
    }

    /// The disk after its process ended and another started: all that was written is there.
    pub fn after_kill(&self) -> Self {
        let mut sim = self.0.lock().clone();
        sim.restart();
        Self(Arc::new(Mutex::new(sim)))
    }

    /// The disk after a power loss now.
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let sim = self.0.lock().clone();
        sim.power_loss(seed)
    }

    /// Bytes that all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().faults.capacity = bytes;
    }

    /// Whether everything that changes something fails.
    pub fn set_read_only(&self, read_only: bool) {
        self.0.lock().faults.read_only = read_only;
    }

    /// Whether each write of more than a sector writes only a part.
    pub fn set_short_writes(&self, short: bool) {
        self.0.lock().faults.short_writes = short;
    }

    /// What writes of appenders have to be aligned to; others panic.
    pub fn set_alignment(&self, alignment: usize) {
        self.0.lock().faults.alignment = alignment;
    }

    /// The next `count` writes fail with EIO after having written a part.
    pub fn fail_writes(&self, count: u32) {
        self.0.lock().faults.fail_writes = count;
    }

    /// The next `count` writes fail with ENOSPC and write nothing.
    pub fn fail_writes_for_room(&self, count: u32) {
        self.0.lock().faults.fail_writes_for_room = count;
    }

    /// The next `count` syncs fail with EIO; what they should have synced stays readable and is
    /// lost at the next power loss although later syncs succeed, as Linux does.
    pub fn fail_syncs(&self, count: u32) {
        self.0.lock().faults.fail_syncs = count;
    }

    /// The next `count` opens of files to be read fail, as when the process has too many open.
    pub fn fail_opens(&self, count: u32) {
        self.0.lock().faults.fail_opens = count;
    }

    /// The next `count` calls that make a file, or open one to append, fail, as when the process has too many open.
    pub fn fail_files(&self, count: u32) {
        self.0.lock().faults.fail_files = count;
    }

    /// Reads of the sector around that place fail with EIO from now on, until it is written.
    pub fn lose_sector(&self, name: &str, offset: usize) {
        let mut sim = self.0.lock();
        let inode = sim.names[name];
        let inode = sim.inodes.get_mut(&inode).expect("names have inodes");
        inode.bad.insert(offset / SECTOR);
    }

    /// Inverts one byte of a file, on the disk itself.
    pub fn damage(&self, name: &str, offset: usize) {
        let mut sim = self.0.lock();
        let inode = sim.names[name];
        let inode = sim.inodes.get_mut(&inode).expect("names have inodes");
        for data in [&mut inode.current, &mut inode.synced] {
            Arc::make_mut(data)[offset] ^= 0xff;
        }
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().used()
    }

    /// Calls so far that changed something.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The content of a file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let sim = self.0.lock();
        let inode = sim.names.get(name)?;
        Some(sim.inodes[inode].current.to_vec())
    }

    /// Makes a file with this content, synced.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        let mut sim = self.0.lock();
        sim.next_inode += 1;
        let inode = sim.next_inode;
        sim.inodes.insert(inode, Inode::of(content));
        sim.names.insert(name.into(), inode);
        sim.names_synced.insert(name.into(), inode);
    }
}

impl Snapshot {
    /// What is left of the disk when the power fails in this call.
    pub fn after_power_loss(&self, seed: u64) -> SimDisk {
        self.sim.clone().power_loss(seed)
    }
}

impl Sim {
    fn restart(&mut self) {
        self.locked = false;
        self.recording = None;
        self.snapshots.clear();
    }

    fn power_loss(mut self, seed: u64) -> SimDisk {
        self.restart();
        let mut chance = Chance(seed);
        // Nothing, everything, or something in between.
        let keep_of_four = [0, 1, 2, 3, 4, 4][chance.below(6)];
        let kept_changes = match keep_of_four {
            0 => 0,
            4 => self.changes.len(),
            _ => chance.below(self.changes.len() + 1),
        };
        let mut names = std::mem::take(&mut self.names_synced);
        for change in self.changes.drain(..).take(kept_changes) {
            change.apply(&mut names);
        }
        self.names_synced.clone_from(&names);
        self.names = names;
        for inode in self.inodes.values_mut() {
            let dirty = std::mem::take(&mut inode.dirty);
            let current = Arc::clone(&inode.current);
            inode.current = Arc::clone(&inode.synced);
            for sector in dirty {
                if chance.below(4) < keep_of_four {
                    copy_sector(&current, &mut inode.current, sector);
                }
            }
            inode.synced = Arc::clone(&inode.current);
            inode.unsure = false;
        }
        SimDisk(Arc::new(Mutex::new(self)))
    }

    fn used(&self) -> u64 {
        let inodes = self.names.values();
        inodes.map(|i| self.inodes[i].current.len() as u64).sum()
    }

    /// Begins each call that changes something.
    fn changing(&mut self) -> io::Result<()> {
        if self.faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.calls += 1;
        Ok(())
    }

    /// Begins each call that makes a file or opens one to append.
    fn make_file(&mut self) -> io::Result<()> {
        if self.faults.fail_files > 0 {
            self.faults.fail_files -= 1;
            return Err(io::Error::from_raw_os_error(24));
        }
        Ok(())
    }

    fn snapshot(&mut self, call: &'static str) {
        let Some(promised) = &self.recording else {
            return;
        };
        let promised = promised.load(Ordering::SeqCst);
        let snapshots = std::mem::take(&mut self.snapshots);
        let sim = self.clone();
        self.snapshots = snapshots;
        self.snapshots.push(Arc::new(Snapshot {
            sim,
            call,
            promised,
        }));
    }

    fn change(&mut self, call: &'static str, change: Change) -> io::Result<()> {
        self.changing()?;
        change.apply(&mut self.names);
        self.changes.push(change);
        self.snapshot(call);
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        let inode = self.names.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<()> {
        let mut sim = self.0.lock();
        if sim.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        sim.locked = true;
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.make_file()?;
        if sim.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if sim.used() + bytes > sim.faults.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        sim.next_inode += 1;
        let inode = sim.next_inode;
        sim.inodes.insert(inode, Inode::of(vec![0; bytes as usize]));
        sim.change("create", Change::Set(name.into(), inode))
    }

    fn open(&self, name: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut sim = self.0.lock();
        if mode == Mode::Buffered && sim.faults.fail_opens > 0 {
            sim.faults.fail_opens -= 1;
            return Err(io::Error::from_raw_os_error(24));
        }
        if mode == Mode::Append {
            sim.make_file()?;
        }
        let inode = sim.find(name)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            inode,
            mode,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.find(from)?;
        sim.change("rename", Change::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.find(name)?;
        sim.change("remove", Change::Remove(name.into()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut sim = self.0.lock();
        sim.changing()?;
        sim.snapshot("sync_dir");
        sim.changes.clear();
        sim.names_synced = sim.names.clone();
        let named: BTreeSet<u64> = sim.names.values().copied().collect();
        sim.inodes.retain(|inode, _| named.contains(inode));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let sim = self.0.lock();
        Ok(sim.faults.capacity.saturating_sub(sim.used()))
    }

    fn alignment(&self) -> usize {
        self.0.lock().faults.alignment
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    mode: Mode,
}

impl SimFile {
    fn gone() -> io::Error {
        io::Error::other("the file was removed")
    }
}

impl File for SimFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut sim = self.disk.0.lock();
        sim.changing()?;
        let alignment = sim.faults.alignment as u64;
        if self.mode == Mode::Append {
            let length = data.len() as u64;
            assert!(offset.is_multiple_of(alignment) && length.is_multiple_of(alignment));
        }
        if sim.faults.fail_writes_for_room > 0 {
            sim.faults.fail_writes_for_room -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fails = sim.faults.fail_writes > 0;
        sim.faults.fail_writes = sim.faults.fail_writes.saturating_sub(1);
        let part = (data.len() / 2 / SECTOR * SECTOR).max(SECTOR.min(data.len()));
        let short = fails || (sim.faults.short_writes && part.is_multiple_of(alignment as usize));
        let length = if short { part } else { data.len() };
        let inode = sim.inodes.get_mut(&self.inode).ok_or_else(Self::gone)?;
        let (from, until) = (offset as usize, offset as usize + length);
        if inode.current.len() < until {
            Arc::make_mut(&mut inode.current).resize(until, 0);
            Arc::make_mut(&mut inode.synced).resize(until, 0);
        }
        Arc::make_mut(&mut inode.current)[from..until].copy_from_slice(&data[..length]);
        let sectors = from / SECTOR..until.div_ceil(SECTOR);
        inode.bad.retain(|sector| !sectors.contains(sector));
        inode.dirty.extend(sectors);
        sim.snapshot("write");
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(length)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let sim = self.disk.0.lock();
        let inode = sim.inodes.get(&self.inode).ok_or_else(Self::gone)?;
        let from = (offset as usize).min(inode.current.len());
        let length = into.len().min(inode.current.len() - from);
        let sectors = from / SECTOR..(from + length).div_ceil(SECTOR);
        if inode.bad.range(sectors).next().is_some() {
            return Err(io::Error::from_raw_os_error(5));
        }
        into[..length].copy_from_slice(&inode.current[from..from + length]);
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.disk.0.lock();
        sim.changing()?;
        sim.snapshot("sync");
        let fails = sim.faults.fail_syncs > 0;
        sim.faults.fail_syncs = sim.faults.fail_syncs.saturating_sub(1);
        let inode = sim.inodes.get_mut(&self.inode).ok_or_else(Self::gone)?;
        let dirty = std::mem::take(&mut inode.dirty);
        if fails {
            // The cache has it, believes that it is clean, and the disk does not have it.
            inode.unsure = true;
            return Err(io::Error::from_raw_os_error(5));
        }
        if inode.unsure {
            for sector in dirty {
                copy_sector(&inode.current, &mut inode.synced, sector);
            }
        } else {
            inode.synced = Arc::clone(&inode.current);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let sim = self.disk.0.lock();
        let inode = sim.inodes.get(&self.inode).ok_or_else(Self::gone)?;
        Ok(inode.current.len() as u64)
    }
}

fn copy_sector(from: &[u8], to: &mut Arc<Vec<u8>>, sector: usize) {
    let start = sector * SECTOR;
    let range = start..(start + SECTOR).min(from.len());
    Arc::make_mut(to)[range.clone()].copy_from_slice(&from[range]);
}

/// Splitmix64: small, and enough for tests.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}
