//! The message stores: the durable [`Log`], and the [`Arena`] for what lives in memory alone.
//!
//! # The log in ten minutes
//!
//! One log holds everything durable of a node: messages of all queues, their settlements, definitions,
//! events of streams. It is the only authority on them. A message is identified by the id of its queue and
//! its number in it, never by where it stands; a [`Position`] is a remembered place, and may be out of date.
//!
//! **The way of a record.**
//! 1. The broker encodes records into a [`Batch`] (`batch.rs`, layout in `record.rs`): the only copy of a
//!    body in user space until it is written.
//! 2. [`Log::append`] (`log.rs`) gives the batch its place under one short lock, and shares its memory with
//!    the *tail* (`tail.rs`), from which readers are served, and with two lists: to be written, to be applied.
//! 3. [`Log::write_step`] (`writer.rs`) takes all that waits and writes it in large pieces; so does
//!    [`Log::write_soon`] on the thread that appended it, where that is quick.
//!    [`Log::sync_step`] makes it durable. Each then moves its watermark, [`Log::written`] and
//!    [`Log::synced`], and tells the [`Listener`]s, who release confirms. There is no timer: what came
//!    during one sync goes with the next. What nobody waits for (settlements alone, and what is
//!    [relaxed](Batch::relax)) is written at once, and synced with the next batch that somebody waits for,
//!    when there is much of it, or soon by housekeeping.
//! 4. Every record is *applied* (`state.rs`): folded into what is settled of each queue (`settled.rs`), into
//!    the definitions, and into the segment's index of its messages by queue (`index.rs`).
//! 5. A queue that dropped its entries gets them back with [`Log::load`] (`load.rs`), and bytes with
//!    [`Log::read`] (`reader.rs`).
//! 6. [`Log::maintain`] (`maintain.rs`, `copy.rs`, `space.rs`) writes index files of sealed segments and
//!    checkpoints (`checkpoint.rs`), copies forward what is alive in mostly dead segments, and recycles
//!    the dead ones.
//! 7. [`Log::open`] (`recovery.rs`) reads the newest checkpoint and applies the batches behind it, by the
//!    code of step 4 (`scan.rs` finds them; layout in `format.rs`). A [`Survey`] (`survey.rs`) stops before
//!    anything is written, and shows or verifies what is there.
//!
//! [`Log::start`] runs steps 3, 4 and 6 on three threads (`threads.rs`). Without it nothing here has a thread or a
//! clock: tests step the same code on a [`SimDisk`].
//!
//! **Streams** are queues whose messages are settled from the front only: append with
//! [`Batch::publish`], read from a number with [`Log::load`], truncate by settling `0..number`.
//!
//! # What is promised
//!
//! - Batches survive in their order: after any crash the log is a prefix of what was appended, at least up
//!   to what [`Log::synced`] said, and each batch is whole or not there.
//! - After a failed write or sync, nothing more is promised: [`Health::Failed`] until the log is opened again.
//! - A full disk refuses batches with messages ([`LogError::Full`]) and takes settlements, definitions and
//!   copies from a reserve; it takes messages again by itself.
//! - Damaged bytes are reported ([`Damage`]), and cost what they held and nothing else. With one exception:
//!   damage in the batches that were synced last, of which no later batch says so, cannot be told from batches that
//!   were never finished: the log ends there, and this is reported as [`Recovered::torn`].
//!
//! # What the caller promises
//!
//! - A number of a queue is appended once, and settled some day, also if it never was appended (ranges may
//!   span such numbers). Nothing is appended for a queue after its deletion (settling `0..u64::MAX`), and
//!   its id is not used again.
//! - A message's publish record is appended before its settle record.
//! - Listeners may be called by two threads at once, so what one hears may be older than what it heard before:
//!   only the highest numbers count.

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
mod observe;
mod reader;
mod record;
mod recovery;
mod scan;
mod settled;
mod space;
mod state;
mod survey;
mod tail;
mod threads;
mod writer;

pub use arena::{Arena, BUFFER_BYTES, Position, Segment};
pub use batch::{Batch, Placed};
pub use config::Config;
pub use disk::{Disk, RealDisk, SimDisk, measure_sync};
pub use error::{LogError, Result};
pub use load::{Definition, Located, QueueInfo};
pub use log::{Appended, Health, Listener, Log};
pub use maintain::{Counts, Stats};
pub use observe::{Observed, SyncTimes};
pub use reader::Chunk;
pub use record::{Body, Ranges, Reason, Record, Source, Sources, Target, Targets};
pub use recovery::{Damage, Progress, Recovered};
pub use settled::Settled;
pub use survey::{CheckpointInfo, Inspected, SegmentInfo, Survey};
pub use threads::Running;
