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
        let Some(mut job) = maintenance.job.take().or_else(|| shared.find_job(maintenance)) else {
            return Ok(false);
        };
        if job.written > shared.written.load(Ordering::Acquire) {
            maintenance.job = Some(job);
            return Ok(false);
        }
        match self.copy_portion(&mut job) {
            Ok(()) => {}
            Err(LogError::Damaged { .. }) => {
                maintenance.quarantined.insert(job.serial);
                shared.front.lock().closing.remove(&job.serial);
                return Ok(false);
            }
            Err(error) => {
                maintenance.job = Some(job);
                return if error.is_full() { Ok(false) } else { Err(error) };
            }
        }
        if job.walks.is_empty() {
            shared.finish_job(&job);
        } else {
            maintenance.job = Some(job);
        }
        Ok(true)
    }

    fn copy_portion(&self, job: &mut Job) -> Result<()> {
        let shared = &*self.shared;
        let Some(walk) = job.walks.front() else {
            return Ok(());
        };
        let (home, mut number) = (walk.serial, walk.number);
        let Ok(file) = shared.files.open(&segment_name(home)) else {
            // Deleted meanwhile: nothing in it was alive.
            job.walks.pop_front();
            return Ok(());
        };
        let mut scan = Scan::new(&*file, home, shared.identity)?;
        scan.seek(walk.at);
        let mut copies = Batch::with_buffer(self.buffer());
        while number < walk.until && copies.len() < shared.config.copy_bytes_a_step {
            let Some((at, header)) = scan.next(number)? else {
                shared.note_damage(home, scan.at(), 0);
                return Err(LogError::Damaged {
                    segment: home,
                    offset: scan.at(),
                });
            };
            for (_, record) in record::records(scan.bytes(at, &header)?) {
                self.copy_record(job.serial, home, record, &mut copies)?;
            }
            number += 1;
        }
        if !copies.is_empty() {
            self.append(&mut copies)?;
        }
        let finished = number == walk.until;
        let at = scan.at();
        if let Some(walk) = job.walks.front_mut() {
            (walk.at, walk.number) = (at, number);
        }
        if finished {
            job.walks.pop_front();
        }
        Ok(())
    }

    /// Adds what is alive of a record in segment `home` to the copies, if its body is in segment `emptied`.
    fn copy_record(
        &self,
        emptied: u32,
        home: u32,
        record: Record<'_>,
        copies: &mut Batch,
    ) -> Result<()> {
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
            _ => return Ok(()),
        };
        let segment = match payload {
            Payload::Here(_) => home,
            Payload::There(position, _) => position.segment,
        };
        // When the segment itself is emptied, what it borrows elsewhere goes with it.
        if segment != emptied && home != emptied {
            return Ok(());
        }
        let live = self.shared.live_targets(home, targets, transient);
        if live.is_empty() {
            return Ok(());
        }
        match payload {
            Payload::Here(payload) => {
                copies.copy(&live, transient, payload);
            }
            Payload::There(position, len) => match self.read(position, len) {
                Ok(chunk) => {
                    let payload = chunk.get(position, len).ok_or(LogError::Damaged {
                        segment: position.segment,
                        offset: position.offset,
                    })?;
                    copies.copy(&live, transient, payload);
                }
                // The body was copied with these targets before its segment went.
                Err(LogError::Moved(_)) => {}
                Err(error) => return Err(error),
            },
        }
        Ok(())
    }
}

impl Shared {
    /// The segment that is worth copying most, if one is.
    fn find_job(&self, maintenance: &Maintenance) -> Option<Job> {
        let serial = {
            let state = self.state.lock();
            let below = u64::from(self.config.copy_below_percent);
            let live = state.live_bytes();
            let worth = live.iter().filter_map(|(serial, live)| {
                let segment = &state.segments[serial];
                let covered = segment.sealed && *serial < maintenance.replay_from;
                let percent = live * 100 / u64::from(segment.size.max(1));
                let fit = covered && percent < below && !maintenance.quarantined.contains(serial);
                fit.then_some((percent, *serial))
            });
            let dead = state.dead_segments(maintenance.replay_from);
            let mut worth: Vec<_> = worth.filter(|(_, s)| !dead.contains(s)).collect();
            worth.sort_unstable();
            worth.first()?.1
        };
        // No transfer refers to it from here on; those that do are applied.
        self.front.lock().closing.insert(serial);
        self.apply();
        let state = self.state.lock();
        let segments = state.segments.iter().collect::<Vec<_>>();
        let walk = |at: usize| {
            let next = segments.get(at + 1).map(|(_, next)| next.first_batch);
            Walk {
                serial: *segments[at].0,
                at: SEGMENT_HEADER_BYTES,
                number: segments[at].1.first_batch,
                until: next.unwrap_or(state.applied + 1),
            }
        };
        let own = segments.iter().position(|(s, _)| **s == serial)?;
        let borrowers = (0..segments.len()).filter(|at| {
            *at != own && segments[*at].1.references.contains_key(&serial)
        });
        let walks = std::iter::once(own).chain(borrowers).map(walk).collect();
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
