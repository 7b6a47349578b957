//! How many of something there are, and how many there may be: connections of a vhost or a user, channels of a user.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A count with a limit that can be changed. A lower limit takes nothing away from those that are there.
#[derive(Debug)]
pub struct Quota {
    used: AtomicU64,
    /// Negative: none.
    max: AtomicI64,
}

/// One of what a [`Quota`] counts, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Quota>);

/// There are as many as there may be: so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub i64);

impl Default for Quota {
    fn default() -> Self {
        Self {
            used: AtomicU64::new(0),
            max: AtomicI64::new(-1),
        }
    }
}

impl Quota {
    /// Sets how many there may be; none or a negative number: any number.
    pub fn limit(&self, max: Option<i64>) {
        self.max.store(max.unwrap_or(-1), Ordering::Relaxed);
    }

    /// How many there are.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes one if there may be one more.
    ///
    /// # Errors
    /// [`Full`] with the limit.
    pub fn take(self: &Arc<Self>) -> Result<Place, Full> {
        let before = self.used.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        let max = self.max.load(Ordering::Relaxed);
        match u64::try_from(max) {
            Ok(allowed) if before >= allowed => Err(Full(max)),
            _ => Ok(place),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_taken_and_places_come_back() {
        let quota = Arc::<Quota>::default();
        let first = quota.take().expect("no limit");
        quota.limit(Some(2));
        let second = quota.take().expect("one is left");
        assert_eq!(quota.take().err(), Some(Full(2)));
        assert_eq!(quota.used(), 2, "who was refused takes no place");
        quota.limit(Some(0));
        drop((first, second));
        assert_eq!(quota.take().err(), Some(Full(0)));
        quota.limit(Some(-1));
        assert!(quota.take().is_ok());
        assert_eq!(quota.used(), 0);
    }
}
