//! All file access of the log, behind two traits.
//!
//! [`RealDisk`] is a directory; [`SimDisk`] is in memory, crashes, tears and lies on demand, and is
//! what the tests run on. Names are plain file names in one directory. Nothing else in this crate
//! touches a file.

mod real;
mod sim;

use std::io;
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::{SimDisk, Snapshot};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads, and writes that need no speed, through the page cache.
    Buffered,
    /// The writer's: past the page cache where the disk was told so and can.
    Append,
}

/// A directory of files.
pub trait Disk: Send + Sync {
    /// Takes the directory for this process until the disk is dropped; `WouldBlock` when another has it.
    fn lock(&self) -> io::Result<()>;
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a new file of `bytes` zeros with its room allocated; nothing is left after a failure.
    fn create(&self, name: &str, bytes: u64) -> io::Result<()>;
    /// Opens an existing file.
    fn open(&self, name: &str, mode: Mode) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, over a file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when all creations, renames and removals so far survive a power loss.
    fn sync_dir(&self) -> io::Result<()>;
    /// Bytes that can still be allocated.
    fn free_bytes(&self) -> io::Result<u64>;
    /// What offsets and lengths of writes to [`Mode::Append`] files are multiples of; 1 if free.
    fn alignment(&self) -> usize;
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes at an offset; may write less than asked.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;
    /// Reads at an offset; less than asked only at the end of the file or by chance, 0 at the end.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Returns when all written bytes survive a power loss. After a failure nothing is known about
    /// what was written since the last success, whatever a later call says.
    fn sync_data(&self) -> io::Result<()>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// Writes all of `data`. After a short write it goes on at a multiple of `alignment`.
pub(crate) fn write_all(
    file: &dyn File,
    data: &[u8],
    offset: u64,
    alignment: usize,
) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        let written = file.write_at(&data[done..], offset + done as u64)?;
        let sure = (done + written) / alignment * alignment;
        if written == 0 || (sure <= done && done + written < data.len()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done = if done + written == data.len() {
            data.len()
        } else {
            sure
        };
    }
    Ok(())
}

/// Reads until `into` is full or the file ends; gives the bytes read.
pub(crate) fn read_full(file: &dyn File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}
