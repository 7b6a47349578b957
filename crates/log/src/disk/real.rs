//! The disk of an operating system.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, FlockOperation, Mode as Permissions, OFlags};
use rustix::io::Errno;

use super::{Disk, File, Mode};

/// Offsets and lengths of direct writes are multiples of this.
const DIRECT_ALIGNMENT: usize = 4096;
const LOCK_NAME: &str = "lock";

/// A directory. Made on first use.
pub struct RealDisk {
    path: PathBuf,
    direct: bool,
    read_only: bool,
    /// Kept open: making a change durable must not fail because the process has too many open files.
    directory: OwnedFd,
    held: Mutex<Option<OwnedFd>>,
}

impl RealDisk {
    /// The directory at `path`, made if need be. With `direct` the writer goes past the page cache
    /// (`O_DIRECT`), if the file system can.
    pub fn new(path: impl Into<PathBuf>, direct: bool) -> io::Result<Self> {
        let path = path.into();
        std::fs::create_dir_all(&path)?;
        let mut disk = Self::at(path)?;
        disk.direct = direct && disk.can_write_direct()?;
        Ok(disk)
    }

    /// The directory at `path`, which has to exist, for looking: nothing in it is ever changed. It can be locked
    /// against a writer, if one ever used it.
    pub fn read_only(path: impl Into<PathBuf>) -> io::Result<Self> {
        let mut disk = Self::at(path.into())?;
        disk.read_only = true;
        Ok(disk)
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Permissions::empty())?;
        Ok(Self {
            path,
            direct: false,
            read_only: false,
            directory,
            held: Mutex::new(None),
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn can_write_direct(&self) -> io::Result<bool> {
        let name = "direct.probe";
        let flags = OFlags::RDWR | OFlags::CREATE;
        drop(self.open_with(name, flags)?);
        let direct = self.open_with(name, OFlags::RDWR | OFlags::DIRECT);
        self.remove(name)?;
        Ok(direct.is_ok())
    }

    fn open_with(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let permissions = Permissions::RUSR | Permissions::WUSR;
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.path.join(name), flags, permissions)?)
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<()> {
        let mut held = self.held.lock();
        if held.is_some() {
            return Ok(());
        }
        let flags = match self.read_only {
            true => OFlags::RDONLY,
            false => OFlags::RDWR | OFlags::CREATE,
        };
        let file = match self.open_with(LOCK_NAME, flags) {
            // Nobody ever wrote here, or it is a copy: nothing to be locked out of.
            Err(error) if self.read_only && error.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            other => other?,
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        *held = Some(file);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK_NAME
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_with(name, flags)?;
        if bytes == 0 {
            return Ok(());
        }
        let made = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can: then room is found, or not, at the first write.
            Err(Errno::OPNOTSUPP) => rustix::fs::ftruncate(&file, bytes),
            other => other,
        };
        made.map_err(|error| {
            let _ = self.remove(name);
            error.into()
        })
    }

    fn open(&self, name: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut flags = match self.read_only {
            true => OFlags::RDONLY,
            false => OFlags::RDWR,
        };
        if mode == Mode::Append && self.direct {
            flags |= OFlags::DIRECT;
        }
        Ok(Arc::new(RealFile(self.open_with(name, flags)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.directory)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn alignment(&self) -> usize {
        if self.direct { DIRECT_ALIGNMENT } else { 1 }
    }
}

struct RealFile(OwnedFd);

impl File for RealFile {
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::pwrite(&self.0, data, offset)
        })?)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pread(&self.0, &mut *into, offset) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not repeated when interrupted: the first answer is the only one that can be trusted.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.0)?.st_size as u64)
    }
}
