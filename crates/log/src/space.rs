//! Files for segments to come: spare ones, preallocated, some of them kept for when the disk is full.

use std::io::ErrorKind;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::Disk;
use crate::error::{LogError, Result};
use crate::format::{number_in, segment_name};
use crate::log::Health;

/// Spare files. A spare has the size of a segment, and any content.
pub(crate) struct Space {
    disk: Arc<dyn Disk>,
    segment_bytes: u32,
    reserve: usize,
    spares_max: usize,
    pool: Mutex<Pool>,
}

/// A file for a segment.
pub(crate) struct Spare {
    pub name: String,
    pub bytes: u32,
    /// Why it came from the reserve, and is not for messages, if so.
    pub lack: Option<Health>,
}

struct Pool {
    spares: Vec<String>,
    next: u64,
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
        let spares: Vec<String> = names
            .iter()
            .filter(|name| number_in(name, "spare").is_some())
            .cloned()
            .collect();
        let numbers = spares.iter().filter_map(|name| number_in(name, "spare"));
        let next = numbers.max().map_or(0, |highest| highest + 1);
        Self {
            disk,
            segment_bytes,
            reserve,
            spares_max: spares_max.max(reserve),
            pool: Mutex::new(Pool { spares, next }),
        }
    }

    /// A file for a segment of at least `bytes`. `privileged` takes from the reserve when no file can be made;
    /// others get [`LogError::Full`] when that is for want of room.
    pub fn take(&self, bytes: u32, privileged: bool) -> Result<Spare> {
        let mut pool = self.pool.lock();
        let spare = |name, bytes| Spare {
            name,
            bytes,
            lack: None,
        };
        if bytes > self.segment_bytes {
            return Ok(spare(self.create(&mut pool, bytes)?, bytes));
        }
        let bytes = self.segment_bytes;
        if pool.spares.len() > self.reserve
            && let Some(name) = pool.spares.pop()
        {
            return Ok(spare(name, bytes));
        }
        match self.create(&mut pool, bytes) {
            Err(error) if privileged && (error.is_full() || error.is_out_of_files()) => Ok(Spare {
                name: pool.spares.pop().ok_or(LogError::Full)?,
                bytes,
                lack: Some(match error.is_full() {
                    true => Health::Full,
                    false => Health::NoFiles,
                }),
            }),
            created => Ok(spare(created?, bytes)),
        }
    }

    /// How many spares there are.
    pub fn spares(&self) -> usize {
        self.pool.lock().spares.len()
    }

    /// Makes spares until the reserve is complete; `Full` when it cannot be.
    pub fn fill_reserve(&self) -> Result<()> {
        let mut pool = self.pool.lock();
        while pool.spares.len() < self.reserve {
            let spare = self.create(&mut pool, self.segment_bytes)?;
            pool.spares.push(spare);
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
        if pool.spares.len() > self.reserve {
            return Ok(true);
        }
        match self.create(&mut pool, self.segment_bytes) {
            Err(LogError::Full) => Ok(false),
            Ok(spare) => {
                pool.spares.push(spare);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes back the file `name` of `bytes`: as a spare, or for good.
    pub fn give(&self, name: &str, bytes: u32) -> Result<()> {
        let mut pool = self.pool.lock();
        if bytes != self.segment_bytes || pool.spares.len() >= self.spares_max {
            let removed = self.disk.remove(name);
            return removed.map_err(|e| LogError::io(format!("remove {name}"), e));
        }
        let spare = pool.new_name();
        let renamed = self.disk.rename(name, &spare);
        renamed.map_err(|e| LogError::io(format!("rename {name}"), e))?;
        pool.spares.push(spare);
        Ok(())
    }

    /// Gives up one spare, so that something else can be written on a full disk.
    pub fn sacrifice(&self) -> bool {
        let mut pool = self.pool.lock();
        let spare = pool.spares.pop();
        spare.is_some_and(|spare| self.disk.remove(&spare).is_ok())
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
}

impl Pool {
    fn new_name(&mut self) -> String {
        self.next += 1;
        format!("{:016x}.spare", self.next - 1)
    }
}
