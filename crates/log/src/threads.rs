//! The threads of a log: one writes what others did not, and syncs; one applies; one keeps house. They only call the
//! steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{LogError, Result};
use crate::log::{APPLY_BYTES, Log};

/// How long housekeeping rests when there is nothing to do; while copying, between two portions.
const REST: Duration = Duration::from_millis(100);
const REST_COPYING: Duration = Duration::from_millis(10);
/// How old the numbers of [`Log::observe`] become.
const NUMBERS: Duration = Duration::from_secs(1);
/// How long the writer waits before it tries a full disk again.
const RETRY: Duration = Duration::from_millis(100);

/// The running threads of a log. [`Running::stop`] ends them cleanly; dropped, they end at once.
pub struct Running {
    log: Log,
    stop: Arc<(Mutex<bool>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Log {
    /// Starts the threads that write, sync, apply and keep house. `trouble` hears of what housekeeping could
    /// not do; it tries again.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(&self, trouble: impl Fn(LogError) + Send + 'static) -> Result<Running> {
        self.shared.front.lock().stopping = false;
        self.shared.inline.threads.store(true, Ordering::Release);
        let mut running = Running {
            log: self.clone(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let log = self.clone();
        running.spawn("log-writer", move || log.write_until_stopped())?;
        let log = self.clone();
        running.spawn("log-applier", move || log.apply_until_stopped())?;
        let (log, stop) = (self.clone(), Arc::clone(&running.stop));
        running.spawn("log-keeper", move || log.keep_until_stopped(&stop, trouble))?;
        Ok(running)
    }

    fn write_until_stopped(&self) {
        let shared = &*self.shared;
        loop {
            {
                let mut front = shared.front.lock();
                while !shared.has_work(&front) && !front.stopping {
                    front.writer_sleeps = true;
                    shared.wake.wait(&mut front);
                }
                front.writer_sleeps = false;
                if front.stopping {
                    return;
                }
            }
            match self.write_step().and_then(|_| self.sync_if_due()) {
                Ok(_) if shared.applying_lags() => shared.apply(),
                Ok(_) => {}
                Err(LogError::Full) => {
                    let mut front = shared.front.lock();
                    if !front.stopping {
                        shared.wake.wait_for(&mut front, RETRY);
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn apply_until_stopped(&self) {
        let shared = &*self.shared;
        let runs = || shared.inline.threads.load(Ordering::Acquire);
        while runs() {
            let mut unapplied = shared.unapplied.lock();
            if unapplied.bytes < APPLY_BYTES && runs() {
                unapplied.sleeps = true;
                shared.apply_due.wait(&mut unapplied);
            }
            unapplied.sleeps = false;
            drop(unapplied);
            shared.apply();
        }
    }

    /// Syncs if anything was written that somebody waits for.
    fn sync_if_due(&self) -> Result<bool> {
        if self.shared.sync_due.load(Ordering::Acquire) {
            return self.sync_step();
        }
        Ok(false)
    }

    fn keep_until_stopped(&self, stop: &(Mutex<bool>, Condvar), trouble: impl Fn(LogError)) {
        let mut counted = Instant::now();
        loop {
            // If whoever appended quietly did not live to see it written.
            self.shared.wake_writer();
            // What nobody waits for.
            let lazy = self.written() != self.synced();
            let synced = if lazy { self.sync_step() } else { Ok(false) };
            let rest = match synced.and_then(|_| self.maintain()) {
                Ok(true) => REST_COPYING,
                Ok(false) => REST,
                Err(LogError::Failed(_)) => return,
                Err(error) => {
                    trouble(error);
                    REST
                }
            };
            if counted.elapsed() >= NUMBERS {
                self.leave_numbers();
                counted = Instant::now();
            }
            let mut stopped = stop.0.lock();
            if !*stopped {
                stop.1.wait_for(&mut stopped, rest);
            }
            if *stopped {
                return;
            }
        }
    }
}

impl Running {
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let (log, what) = (self.log.clone(), name.to_owned());
        let thread = Builder::new().name(name.into()).spawn(move || {
            // Without one of its threads the log would promise nothing any more, and say nothing.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                log.shared.fail(&LogError::Io {
                    what,
                    source: std::io::Error::other("the thread panicked"),
                });
            }
        });
        let thread = thread.map_err(|e| LogError::io(format!("start the thread {name}"), e))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Ends the threads, makes everything durable and writes a checkpoint.
    ///
    /// # Errors
    /// As [`Log::checkpoint`]; the threads have ended all the same.
    pub fn stop(mut self) -> Result<()> {
        self.end();
        self.log.checkpoint()
    }

    fn end(&mut self) {
        let shared = &*self.log.shared;
        shared.front.lock().stopping = true;
        shared.wake.notify_all();
        {
            let _sleeper = shared.unapplied.lock();
            shared.inline.threads.store(false, Ordering::Release);
            shared.apply_due.notify_all();
        }
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
