//! Taking messages out of a queue without being a consumer.

use parking_lot::MutexGuard;

use super::{Queue, State};
use crate::record::Entry;

impl Queue {
    /// Takes messages at the front until `out` has `count_max`, or `bytes_max` bytes but always one if
    /// there is any, without being a consumer. They are unsettled until [`Queue::settle`] or
    /// [`Queue::requeue`]. Returns how many are left; if it stopped because those wait in the log alone, see
    /// [`crate::vhost::Vhost::take`]. A paused queue has nothing.
    pub fn take(&self, count_max: usize, bytes_max: usize, out: &mut Vec<Entry>) -> u64 {
        let state = self.state.lock();
        match state.paused {
            true => 0,
            false => self.take_locked(state, count_max, bytes_max, out),
        }
    }

    /// As [`Queue::take`], also of a paused queue: for operators, who want to see what is in it.
    pub fn take_even_paused(
        &self,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> u64 {
        self.take_locked(self.state.lock(), count_max, bytes_max, out)
    }

    fn take_locked(
        &self,
        mut state: MutexGuard<'_, State>,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> u64 {
        let mut bytes: usize = out.iter().map(|entry| entry.len as usize).sum();
        let before = out.len();
        while out.len() < count_max {
            let Some(entry) = state.peek() else { break };
            if bytes > 0 && bytes + entry.len as usize > bytes_max {
                break;
            }
            bytes += entry.len as usize;
            state.pop();
            out.push(entry);
            state.unsettled += 1;
        }
        if let Some(rules) = &mut state.rules {
            rules.went(&out[before..]);
        }
        self.note(&state);
        let left = state.ready_len();
        let mut late = std::mem::take(&mut state.late);
        drop(state);
        late.ring();
        left
    }
}
