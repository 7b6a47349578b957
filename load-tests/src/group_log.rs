//! The log of the stand-in broker: one file that is overwritten from its start when it is full, and one thread that
//! writes what has come since, syncs it, and then confirms it. The least that a durable broker can do.
//!
//! Nothing is ever read back. Messages are copied once, into a buffer of fixed size whose writer waits when it is
//! full; there is no timer, what comes during one sync goes with the next.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::io::pwrite;

use crate::amqp;

/// Octets of the file.
const FILE_SIZE: usize = 256 << 20;
/// Octets that wait to be written at most; no message may be larger.
const BUFFER_SIZE: usize = 16 << 20;
/// Direct writes start at, and have, multiples of it.
const BLOCK: usize = 4096;
/// The name of the file in its folder.
const NAME: &str = "sink.log";

type Writer = Arc<Mutex<TcpStream>>;

/// How far a message is before it is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Given to the system.
    Written,
    /// On the disk, as `fdatasync` says.
    Synced,
}

/// A log with a thread of its own, for as long as the process lives.
#[derive(Debug)]
pub struct GroupLog {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    taken: Condvar,
}

#[derive(Debug)]
struct Waiting {
    buffer: Buffer,
    /// Who is told that everything up to a delivery tag is safe.
    promises: Vec<(Writer, u64)>,
}

/// Octets that start at a multiple of `BLOCK` in memory, as direct writes need.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl GroupLog {
    /// A log in `folder`, whose file is made and written once, so that it never grows.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn start(folder: &Path, level: Level) -> io::Result<Arc<Self>> {
        let path = folder.join(NAME);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..FILE_SIZE / zeros.len() {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        let file = match level {
            // Past the page cache, where the file system can.
            Level::Synced => open_direct(&path).unwrap_or(file),
            Level::Written => file,
        };
        let log = Arc::new(GroupLog {
            waiting: Mutex::new(Waiting {
                buffer: Buffer::new(),
                promises: Vec::new(),
            }),
            arrived: Condvar::new(),
            taken: Condvar::new(),
        });
        let own = Arc::clone(&log);
        thread::spawn(move || {
            if let Err(error) = own.work(&file, level) {
                eprintln!("sink: the log failed: {error}");
            }
        });
        Ok(log)
    }

    /// Appends a message.
    pub fn append(&self, address: &[u8], content: &[u8]) {
        let size = address.len() + content.len();
        let mut waiting = self.waiting.lock();
        while waiting.buffer.len() + size > BUFFER_SIZE && waiting.buffer.len() > 0 {
            self.arrived.notify_one();
            self.taken.wait(&mut waiting);
        }
        waiting.buffer.bytes.extend_from_slice(address);
        waiting.buffer.bytes.extend_from_slice(content);
    }

    /// Confirms everything up to `tag` to `writer` when all that was appended before is safe.
    pub fn promise(&self, writer: &Writer, tag: u64) {
        let mut waiting = self.waiting.lock();
        match waiting.promises.last_mut() {
            Some((last, so_far)) if Arc::ptr_eq(last, writer) => *so_far = tag,
            _ => waiting.promises.push((Arc::clone(writer), tag)),
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    fn work(&self, file: &File, level: Level) -> io::Result<()> {
        let mut buffer = Buffer::new();
        let mut offset = 0;
        let mut out = Vec::new();
        loop {
            let mut waiting = self.waiting.lock();
            while waiting.promises.is_empty() && waiting.buffer.len() < BUFFER_SIZE / 2 {
                self.arrived.wait(&mut waiting);
            }
            mem::swap(&mut buffer, &mut waiting.buffer);
            let promises = mem::take(&mut waiting.promises);
            drop(waiting);
            self.taken.notify_all();
            offset = buffer.write_to(file, offset)?;
            if level == Level::Synced {
                file.sync_data()?;
            }
            for (writer, tag) in promises {
                out.clear();
                amqp::ack(&mut out, tag, true);
                // Who has gone needs no confirm.
                let _ = writer.lock().write_all(&out);
            }
        }
    }
}

impl Buffer {
    fn new() -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(BUFFER_SIZE + 2 * BLOCK);
        let start = bytes.as_ptr().align_offset(BLOCK);
        bytes.resize(start, 0);
        Buffer { bytes, start }
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Writes all of it in whole blocks at `offset`, or at the start where it does not fit, and empties it; gives
    /// the offset behind it.
    fn write_to(&mut self, file: &File, offset: usize) -> io::Result<usize> {
        let size = self.len().next_multiple_of(BLOCK);
        self.bytes.resize(self.start + size, 0);
        let offset = if offset + size > FILE_SIZE { 0 } else { offset };
        let mut written = 0;
        while written < size {
            let rest = &self.bytes[self.start + written..];
            written += pwrite(file, rest, (offset + written) as u64)?;
        }
        self.bytes.truncate(self.start);
        Ok(offset + size)
    }
}

/// The file at `path`, written past the page cache, if the file system can.
///
/// # Errors
/// When it cannot, or the file is not there.
pub fn open_direct(path: &Path) -> io::Result<File> {
    let fd: OwnedFd = rustix::fs::open(path, OFlags::WRONLY | OFlags::DIRECT, Mode::empty())?;
    Ok(File::from(fd))
}
