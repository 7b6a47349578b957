//! How long the disk takes to make a small write durable: what a confirm costs at least.

use std::io;
use std::time::{Duration, Instant};

use super::{Disk, Mode, write_all};

/// The file that is written to and removed again.
const NAME: &str = "sync.probe";
const BLOCK_BYTES: usize = 4096;
/// Bytes of that file, which is written over and over as a segment is.
const FILE_BYTES: usize = 64 * BLOCK_BYTES;
const ROUNDS_MAX: usize = 50;
/// After so long it has to do with the rounds so far.
const TIME_MAX: Duration = Duration::from_millis(200);

/// Measures how long a write of 4 KiB into an allocated file takes to be on the disk: the median of up to 50, in
/// 200 ms or little more. `None` when there is a log in the directory already: only a first start is measured.
///
/// At a window of one message a publisher gets about one confirm in that time; at larger windows all that came
/// meanwhile share it.
///
/// # Errors
/// What the disk refuses.
pub fn measure_sync(disk: &dyn Disk) -> io::Result<Option<Duration>> {
    if disk.list()?.iter().any(|name| name != NAME) {
        return Ok(None);
    }
    // Of a first start that was interrupted.
    let _ = disk.remove(NAME);
    let measured = measure(disk);
    disk.remove(NAME)?;
    measured.map(Some)
}

fn measure(disk: &dyn Disk) -> io::Result<Duration> {
    let started = Instant::now();
    disk.create(NAME, FILE_BYTES as u64)?;
    let file = disk.open(NAME, Mode::Append)?;
    let alignment = disk.alignment();
    let memory = vec![0; FILE_BYTES + alignment];
    let start = memory.as_ptr().align_offset(alignment).min(alignment);
    let blocks = &memory[start..start + FILE_BYTES];
    // Writing what was only allocated takes the file system's journal too; segments are written over.
    write_all(&*file, blocks, 0, alignment)?;
    file.sync_data()?;
    let mut times = Vec::with_capacity(ROUNDS_MAX);
    for round in 0..ROUNDS_MAX {
        let at = round * BLOCK_BYTES % FILE_BYTES;
        let began = Instant::now();
        write_all(&*file, &blocks[..BLOCK_BYTES], at as u64, alignment)?;
        file.sync_data()?;
        times.push(began.elapsed());
        if started.elapsed() > TIME_MAX {
            break;
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
