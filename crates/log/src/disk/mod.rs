//! All file access of the log, behind two traits.
//!
//! [`RealDisk`] is a directory; [`SimDisk`] is in memory, crashes, tears and lies on demand, and is
//! what the tests run on. Names are plain file names in one directory. Nothing else in this crate
//! touches a file.

mod measure;
mod real;
mod sim;

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

pub use measure::measure_sync;
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

/// What is read at once around places that cannot be read.
const SALVAGE_BYTES: usize = 4096;

/// As [`read_full`], with zeros for the blocks that the medium does not give back: no checksum holds over them, so
/// that they are damage like any other and cost what they held, not what stands around them. Gives the bytes
/// read and the offsets of those blocks.
pub(crate) fn read_salvaging(
    file: &dyn File,
    into: &mut [u8],
    offset: u64,
) -> io::Result<(usize, Vec<u64>)> {
    match read_full(file, into, offset) {
        Err(error) if is_unreadable(&error) => {}
        other => return other.map(|read| (read, Vec::new())),
    }
    let (mut done, mut lost) = (0, Vec::new());
    while done < into.len() {
        let at = offset + done as u64;
        let block = SALVAGE_BYTES - (at % SALVAGE_BYTES as u64) as usize;
        let until = into.len().min(done + block);
        let part = &mut into[done..until];
        let read = match read_full(file, part, at) {
            Err(error) if is_unreadable(&error) => {
                part.fill(0);
                lost.push(at);
                part.len()
            }
            other => other?,
        };
        done += read;
        if done < until {
            break;
        }
    }
    Ok((done, lost))
}

/// Whether the bytes are lost, rather than that something is missing to read them now.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| lost.contains(&code))
}

/// Whether the process or the system has too many files open: it passes.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    let out = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| out.contains(&code))
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
