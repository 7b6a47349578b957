//! `[audit]`.

use serde::{Deserialize, Serialize};

/// `[audit]`: how much of it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How long entries are kept, days; 0: as long as there is room for them.
    pub keep_days: u32,
    /// Entries that are kept at most.
    pub entries_max: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            keep_days: 90,
            entries_max: 1_000_000,
        }
    }
}
