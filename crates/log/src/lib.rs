//! The message store behind all queues.
#![allow(missing_docs)]

mod arena;
mod batch;
mod checkpoint;
mod config;
mod copy;
pub mod disk;
mod error;
mod format;
mod index;
mod load;
mod log;
mod maintain;
mod reader;
mod record;
mod recovery;
mod scan;
mod settled;
mod space;
mod state;
mod tail;
mod threads;
mod writer;

pub use arena::{Arena, BUFFER_BYTES, Position, Segment};
pub use batch::{Batch, Placed};
pub use config::Config;
pub use disk::{Disk, RealDisk, SimDisk};
pub use error::{LogError, Result};
pub use load::{Located, QueueInfo};
pub use log::{Appended, Health, Listener, Log};
pub use reader::Chunk;
pub use record::{Reason, Source, Target};
pub use recovery::{Damage, Progress, Recovered};
pub use settled::Settled;
pub use threads::Running;
