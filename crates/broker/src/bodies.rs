//! Room for large bodies on their way in. A body is put together in memory before it is a message, and counts as one only
//! then: without a bound for that, publishers of large messages would take as much as there are of them.
//!
//! One a node. Whoever begins a large body takes a [`Place`] of its size, and gives it back when the message is stored or
//! given up. Who finds no room waits, in order, without being read.
//!
//! Invariant: nobody waits who has a place, so those who have one get to their end and make room.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::queue::Bell;
use crate::vhost::Vhost;

/// The room.
pub struct Bodies {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of all places.
    held: u64,
    /// Connections that found no room, the first to have it in front.
    waiting: VecDeque<(u64, Arc<dyn Bell>)>,
}

/// Room for one body, given back when it is dropped.
pub(crate) struct Place {
    bodies: Arc<Bodies>,
    bytes: u64,
}

impl Default for Bodies {
    /// With room for everything.
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl Bodies {
    /// Room for `bytes_max` in all; one body always fits.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
        }
    }

    /// A place for connection `conn`, which has none, if it is its turn and there is room. If not, `bell` is told
    /// ([`Bell::progressed`]) when to ask again; whoever does not want to any more says so with [`Bodies::leave`].
    pub(crate) fn take(
        self: &Arc<Self>,
        bytes: u64,
        conn: u64,
        bell: &Arc<dyn Bell>,
    ) -> Option<Place> {
        let mut state = self.state.lock();
        let front = state.waiting.front().map(|(first, _)| *first);
        let is_next = front.is_none_or(|first| first == conn);
        let fits = state.held == 0 || state.held.saturating_add(bytes) <= self.bytes_max;
        if !(is_next && fits) {
            if !state.waiting.iter().any(|(other, _)| *other == conn) {
                state.waiting.push_back((conn, Arc::clone(bell)));
            }
            return None;
        }
        state.held += bytes;
        if front.is_some() {
            state.waiting.pop_front();
        }
        drop(state);
        // There may be room for the next one too.
        self.call_next();
        Some(self.place(bytes))
    }

    /// A place for who has one already, whether there is room or not.
    pub(crate) fn take_more(self: &Arc<Self>, bytes: u64) -> Place {
        self.state.lock().held += bytes;
        self.place(bytes)
    }

    /// Connection `conn` does not wait any more.
    pub(crate) fn leave(&self, conn: u64) {
        self.state
            .lock()
            .waiting
            .retain(|(other, _)| *other != conn);
        self.call_next();
    }

    fn place(self: &Arc<Self>, bytes: u64) -> Place {
        Place {
            bodies: Arc::clone(self),
            bytes,
        }
    }

    fn call_next(&self) {
        let next = self.state.lock().waiting.front().cloned();
        if let Some((_, bell)) = next {
            bell.progressed();
        }
    }
}

impl Vhost {
    /// The same with room for so many bytes of large bodies that are on their way in.
    pub fn with_bodies(mut self, bytes_max: u64) -> Self {
        self.bodies = Arc::new(Bodies::new(bytes_max));
        self
    }

    /// Room for large bodies on their way in.
    pub(crate) fn bodies(&self) -> &Arc<Bodies> {
        &self.bodies
    }
}

impl Place {
    /// What it is for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bodies.state.lock().held -= self.bytes;
        self.bodies.call_next();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Told(AtomicU32);

    impl Bell for Told {
        fn ring(&self, _key: u64) {}
        fn cancelled(&self, _key: u64) {}
        fn progressed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn bells() -> (Vec<Arc<Told>>, Vec<Arc<dyn Bell>>) {
        let told: Vec<_> = (0..4).map(|_| Arc::<Told>::default()).collect();
        let bells = told
            .iter()
            .map(|bell| Arc::<Told>::clone(bell) as Arc<dyn Bell>);
        let bells = bells.collect();
        (told, bells)
    }

    #[test]
    fn who_finds_no_room_waits_and_comes_in_order() {
        let bodies = Arc::new(Bodies::new(100));
        let (told, bells) = bells();
        let first = bodies.take(60, 0, &bells[0]).expect("there is room");
        assert!(bodies.take(60, 1, &bells[1]).is_none());
        assert!(bodies.take(60, 1, &bells[1]).is_none(), "it asks twice");
        assert!(
            bodies.take(10, 2, &bells[2]).is_none(),
            "it is not its turn"
        );
        drop(first);
        assert_eq!(told[1].0.load(Ordering::Relaxed), 1);
        assert!(bodies.take(10, 2, &bells[2]).is_none(), "nor now");
        let second = bodies.take(60, 1, &bells[1]).expect("it is its turn");
        assert_eq!(
            told[2].0.load(Ordering::Relaxed),
            1,
            "there is room for it too"
        );
        let third = bodies.take(10, 2, &bells[2]).expect("it fits");
        drop((second, third));
        assert!(bodies.state.lock().waiting.is_empty());
        assert_eq!(bodies.state.lock().held, 0);
    }

    #[test]
    fn one_always_fits_and_who_has_a_place_gets_more() {
        let bodies = Arc::new(Bodies::new(100));
        let (told, bells) = bells();
        let huge = bodies
            .take(500, 0, &bells[0])
            .expect("nobody else is there");
        let more = bodies.take_more(500);
        assert!(bodies.take(1, 1, &bells[1]).is_none());
        assert!(bodies.take(1, 2, &bells[2]).is_none());
        // The first of them gives up.
        drop((huge, more));
        bodies.leave(1);
        assert_eq!(told[2].0.load(Ordering::Relaxed), 1);
        assert!(bodies.take(1, 2, &bells[2]).is_some());
    }
}
