//! An alarm with two marks: it rises at one and falls at another, well away from it, so that it does not flap.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether something is short.
#[derive(Debug, Default)]
pub struct Alarm(AtomicBool);

impl Alarm {
    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes note of where things stand: whether they are so bad that it rises, and whether they are so good that
    /// it falls. Between the two it stays as it is. Returns whether it is up.
    pub fn note(&self, rises: bool, falls: bool) -> bool {
        debug_assert!(!(rises && falls), "the marks are apart");
        let up = rises || (self.is_up() && !falls);
        if up != self.is_up() {
            self.0.store(up, Ordering::Relaxed);
        }
        up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_its_marks_it_stays_as_it_is() {
        let alarm = Alarm::default();
        // Rises above 100, falls below 80.
        let at = |level: u32| alarm.note(level > 100, level < 80);
        let levels = [0, 99, 100, 101, 100, 90, 80, 79, 90, 100, 101, 500, 81, 0];
        let up = levels.map(at);
        let (t, f) = (true, false);
        assert_eq!(up, [f, f, f, t, t, t, t, f, f, f, t, t, t, f]);
        assert!(!alarm.is_up());
    }
}
