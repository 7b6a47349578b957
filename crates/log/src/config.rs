//! Limits of a log.

/// Limits and sizes. All have defaults that suit a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of a segment's file. A batch that needs more gets a segment of its own size.
    pub segment_bytes: u32,
    /// Bytes of recent batches kept in memory for readers, besides what waits to be written.
    pub tail_bytes: usize,
    /// Bytes that may wait to be written before [`Appended::over`](crate::Appended::over) asks publishers to pause.
    pub waiting_bytes_max: usize,
    /// Blocks of older segments kept in memory for readers.
    pub cached_blocks_max: usize,
    /// Bytes of such a block.
    pub block_bytes: usize,
    /// Spare segments that only settlements, definitions and copies may use when the disk is full.
    pub reserve_segments: usize,
    /// Spare segments kept at most; more are removed.
    pub spare_segments_max: usize,
    /// A sealed segment with less than this part of its file alive, in percent, is copied forward.
    pub copy_below_percent: u32,
    /// Bytes copied forward in one [`Log::maintain`](crate::Log::maintain).
    pub copy_bytes_a_step: usize,
    /// Bytes of a batch at most.
    pub batch_bytes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes: 4 << 20,
            waiting_bytes_max: 8 << 20,
            cached_blocks_max: 32,
            block_bytes: 256 << 10,
            reserve_segments: 2,
            spare_segments_max: 4,
            copy_below_percent: 50,
            copy_bytes_a_step: 1 << 20,
            batch_bytes_max: 256 << 20,
        }
    }
}
