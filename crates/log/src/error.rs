//! The one error type of the crate.

use std::io;

/// What can go wrong with the log. Nothing of it loses what was reported as synced.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process uses the directory.
    #[error("the log's directory is in use by another process")]
    Locked,
    /// No room on the disk for more messages, or no file can be opened for them. Settlements still go as long
    /// as they find room; appending works again by itself when there is some.
    #[error("there is no room for more: the disk is full, or too many files are open")]
    Full,
    /// A write or a sync failed. The log can be read, and is writable again after it was opened
    /// anew, which verifies it.
    #[error("the log takes nothing after a failure: {0}")]
    Failed(String),
    /// The bytes are not in that segment any more: the message was settled, or copied. Ask
    /// [`Log::resolve`](crate::Log::resolve).
    #[error("segment {0} is gone")]
    Moved(u32),
    /// The bytes on the disk are not what was written.
    #[error("damaged bytes at segment {segment}, offset {offset}")]
    Damaged {
        /// Serial number of the segment.
        segment: u32,
        /// Offset in bytes.
        offset: u32,
    },
    /// A batch is larger than a segment may be.
    #[error("a batch of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Size of the batch.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The files were written by a version that this one cannot read.
    #[error("{file} has format version {version}, this is version {supported}")]
    Version {
        /// Name of the file.
        file: String,
        /// Its version.
        version: u32,
        /// What this version can read.
        supported: u32,
    },
    /// The disk refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl LogError {
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Full)
    }

    /// Whether the process or the system has too many files open: it passes.
    pub(crate) fn is_out_of_files(&self) -> bool {
        matches!(self, Self::Io { source, .. } if crate::disk::is_out_of_files(source))
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        // A quota is as full as a disk.
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if full.contains(&source.kind()) {
            return Self::Full;
        }
        let what = what.into();
        Self::Io { what, source }
    }
}

/// Result of what can fail with a [`LogError`].
pub type Result<T> = std::result::Result<T, LogError>;
