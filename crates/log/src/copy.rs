//! Copying forward: what is alive in a mostly dead segment is appended again, so that the segment can go.
//!
//! A copy has the identity of its original, so order and settlements are untouched; whoever finds a message
//! twice takes the later one. The walk reads the segment itself, not its index: a body with many places is
//! copied once. The original goes only after its copies are synced ([`maintain`](crate::maintain) sees to it).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use crate::batch::Batch;
use crate::error::{LogError, Result};
use crate::format::{SEGMENT_HEADER_BYTES, segment_name};
use crate::index::GroupKey;
use crate::log::{Log, Shared};
use crate::maintain::Maintenance;
use crate::record::{self, Body, Record, Target, Targets};
use crate::scan::Scan;
use crate::state::PLACED_BYTES;

/// A segment that is being emptied.
pub(crate) struct Job {
    serial: u32,
    /// The segment itself, then those whose transfers refer to it.
    walks: VecDeque<Walk>,
    /// Everything up to this batch has to be written before the walk.
    written: u64,
}

struct Walk {
    serial: u32,
    at: u32,
    number: u64,
    /// The number behind its last batch.
    until: u64,
}

/// Where the payload of a live message is.
enum Payload<'a> {
    Here(&'a [u8]),
    There(crate::arena::Position, u32),
}

impl Log {
    /// Copies the next portion; says whether there is more.
    pub(crate) fn copy_forward(&self, maintenance: &mut Maintenance) -> Result<bool> {
        let shared = &*self.shared;
        let job = match maintenance.job.take() {
            Some(job) => Some(job),
            None => shared.find_job(maintenance)?,
        };
        let Some(mut job) = job else {
            return Ok(!maintenance.seen.is_empty());
        };
        if job.written > shared.written.load(Ordering::Acquire) {
            maintenance.job = Some(job);
            return Ok(false);
        }
        match self.copy_portion(&mut job) {
            Ok(bytes) => maintenance.counts.copied_bytes += bytes,
            Err(LogError::Damaged { .. }) => {
                maintenance.quarantined.insert(job.serial);
                shared.front.lock().closing.remove(&job.serial);
                return Ok(false);
            }
            Err(error) => {
                maintenance.job = Some(job);
                return if error.is_full() {
                    Ok(false)
                } else {
                    Err(error)
                };
            }
        }
        if job.walks.is_empty() {
            shared.finish_job(&job);
            maintenance.counts.copied_segments += 1;
        } else {
            maintenance.job = Some(job);
        }
        Ok(true)
    }

    /// Walks a portion and appends what is alive; gives the bytes copied.
    fn copy_portion(&self, job: &mut Job) -> Result<u64> {
        let shared = &*self.shared;
        let Some(walk) = job.walks.front() else {
            return Ok(0);
        };
        let (home, mut number) = (walk.serial, walk.number);
        let Some(file) = shared.files.open_if_there(&segment_name(home))? else {
            // Deleted meanwhile: nothing in it was alive.
            job.walks.pop_front();
            return Ok(0);
        };
        let mut scan = Scan::new(&*file, home, shared.identity)?;
        scan.seek(walk.at);
        let limit = shared.config.copy_bytes_a_step as u64;
        let (mut copies, mut bytes) = (Batch::with_buffer(self.buffer()), 0);
        while number < walk.until && bytes + (copies.len() as u64) < limit {
            let Some((at, header)) = scan.next(number)? else {
                shared.note_damage(home, scan.at(), 0);
                return Err(LogError::Damaged {
                    segment: home,
                    offset: scan.at(),
                });
            };
            for (_, record) in record::records(scan.bytes(at, &header)?) {
                bytes += self.copy_record(job.serial, home, record, &mut copies)?;
            }
            number += 1;
        }
        bytes += self.append_copies(&mut copies)?;
        let finished = number == walk.until;
        let at = scan.at();
        if let Some(walk) = job.walks.front_mut() {
            (walk.at, walk.number) = (at, number);
        }
        if finished {
            job.walks.pop_front();
        }
        Ok(bytes)
    }

    /// Appends the copies so far; gives their bytes.
    fn append_copies(&self, copies: &mut Batch) -> Result<u64> {
        if copies.is_empty() {
            return Ok(0);
        }
        let bytes = copies.len() as u64;
        self.append_whatever_size(copies)?;
        self.shared.wake_writer();
        Ok(bytes)
    }

    /// Adds what is alive of a record in segment `home` to the copies, if its body is in segment `emptied`.
    /// Appends the copies first where they would become too many: a few references may name much.
    fn copy_record(
        &self,
        emptied: u32,
        home: u32,
        record: Record<'_>,
        copies: &mut Batch,
    ) -> Result<u64> {
        let (targets, transient, payload) = match record {
            Record::Publish {
                payload,
                targets,
                transient,
                ..
            } => (targets, transient, Payload::Here(payload)),
            Record::Transfer { body, targets, .. } => match body {
                Body::Here(payload, _) => (targets, false, Payload::Here(payload)),
                Body::At(position, len) => (targets, false, Payload::There(position, len)),
            },
            _ => return Ok(0),
        };
        let segment = match payload {
            Payload::Here(_) => home,
            Payload::There(position, _) => position.segment,
        };
        // When the segment itself is emptied, what it borrows elsewhere goes with it.
        if segment != emptied && home != emptied {
            return Ok(0);
        }
        let live = self.shared.live_targets(home, targets, transient);
        if live.is_empty() {
            return Ok(0);
        }
        let chunk;
        let payload = match payload {
            Payload::Here(payload) => payload,
            Payload::There(position, len) => {
                chunk = match self.read(position, len) {
                    // The body was copied with these targets before its segment went.
                    Err(LogError::Moved(_)) => return Ok(0),
                    other => other?,
                };
                chunk.get(position, len).ok_or(LogError::Damaged {
                    segment: position.segment,
                    offset: position.offset,
                })?
            }
        };
        let mut appended = 0;
        if copies.len() + payload.len() > self.shared.config.copy_bytes_a_step {
            appended = self.append_copies(copies)?;
        }
        copies.copy(&live, transient, payload);
        Ok(appended)
    }
}

impl Shared {
    /// A segment that is worth copying, if there is one.
    fn find_job(&self, maintenance: &mut Maintenance) -> Result<Option<Job>> {
        let before = std::mem::take(&mut maintenance.seen);
        for (serial, estimate, limit) in self.candidates_for_copying(maintenance) {
            // A segment that is being drained is soon dead without this.
            if before.get(&serial) != Some(&estimate) {
                maintenance.seen.insert(serial, estimate);
                continue;
            }
            // The estimate takes settlements to be spread evenly. Copies of stuck messages are not:
            // believing it, these would be copied again and again.
            let live = self.count_live(serial)?;
            if live <= limit {
                maintenance.counted.remove(&serial);
                return Ok(self.begin_job(serial));
            }
            maintenance.counted.insert(serial, estimate);
        }
        Ok(None)
    }

    /// Segments of which little seems to be alive, with the bytes that do and the bytes that may; least first.
    fn candidates_for_copying(&self, maintenance: &mut Maintenance) -> Vec<(u32, u64, u64)> {
        let state = self.state.lock();
        let counted = &mut maintenance.counted;
        counted.retain(|serial, _| state.segments.contains_key(serial));
        let dead = state.dead_segments(maintenance.replay_from);
        let live = state.live_bytes();
        let fit = live.into_iter().filter_map(|(serial, live)| {
            let segment = &state.segments[&serial];
            let room = u64::from(segment.size.saturating_sub(SEGMENT_HEADER_BYTES));
            let limit = room * u64::from(self.config.copy_below_percent) / 100;
            let known = counted.get(&serial);
            let fit = segment.sealed
                && serial < maintenance.replay_from
                && live < limit
                && known.is_none_or(|known| live < known - known / 4)
                && !maintenance.quarantined.contains(&serial)
                && !dead.contains(&serial);
            fit.then_some((serial, live, limit))
        });
        let mut fit: Vec<_> = fit.collect();
        fit.sort_unstable_by_key(|(_, live, _)| *live);
        fit
    }

    /// Bytes of records that are alive in a segment, counted. Groups without any are forgotten.
    fn count_live(&self, serial: u32) -> Result<u64> {
        let keys: Vec<GroupKey> = {
            let state = self.state.lock();
            let segment = state.segments.get(&serial);
            let keys = segment
                .into_iter()
                .flat_map(|segment| segment.groups.keys());
            keys.copied().collect()
        };
        let mut bytes = 0;
        for key in keys {
            let Some(entries) = self.entries(serial, key)? else {
                // The index was made again: count another time.
                return Ok(u64::MAX);
            };
            let mut state = self.state.lock();
            let live = entries.iter().filter(|entry| {
                entry.position.segment == serial && !state.is_settled(key.queue, entry.seq)
            });
            bytes += live
                .map(|entry| u64::from(entry.len) + PLACED_BYTES)
                .sum::<u64>();
            let any = entries
                .iter()
                .any(|entry| !state.is_settled(key.queue, entry.seq));
            if !any && let Some(segment) = state.segments.get_mut(&serial) {
                segment.groups.remove(&key);
            }
        }
        Ok(bytes)
    }

    fn begin_job(&self, serial: u32) -> Option<Job> {
        // No transfer refers to it from here on; those that do are applied.
        self.front.lock().closing.insert(serial);
        self.apply();
        let state = self.state.lock();
        let own = state
            .segments
            .get(&serial)
            .map(|segment| (&serial, segment));
        let borrowers = state.segments.iter().filter(|(other, segment)| {
            **other != serial && segment.references.contains_key(&serial)
        });
        let walks = own
            .into_iter()
            .chain(borrowers)
            .map(|(serial, segment)| Walk {
                serial: *serial,
                at: SEGMENT_HEADER_BYTES,
                number: segment.first_batch,
                until: segment.next_batch,
            });
        let walks = walks.collect();
        Some(Job {
            serial,
            walks,
            written: state.applied,
        })
    }

    /// Everything alive was appended again: nothing is in the segment any more.
    fn finish_job(&self, job: &Job) {
        self.apply();
        let mut state = self.state.lock();
        for segment in state.segments.values_mut() {
            segment.references.remove(&job.serial);
        }
        if let Some(segment) = state.segments.get_mut(&job.serial) {
            segment.groups.clear();
            segment.references.clear();
        }
    }

    fn live_targets(&self, home: u32, targets: Targets<'_>, transient: bool) -> Vec<Target> {
        let state = self.state.lock();
        let Some(segment) = state.segments.get(&home) else {
            return Vec::new();
        };
        let live = targets.iter().filter(|target| {
            let queue = target.queue;
            let group = segment.groups.get(&GroupKey { queue, transient });
            group.is_some_and(|g| g.min <= target.seq && target.seq <= g.max)
                && !state.is_settled(queue, target.seq)
        });
        live.collect()
    }
}
