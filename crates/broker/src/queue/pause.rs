//! Pausing a queue: it hands out nothing, to nobody, until it is resumed.
//!
//! Everything else goes on: messages come in, expire, are pushed out by limits, are acknowledged and put back; consumers
//! come, go, and keep their places in the rotation. For deliveries a paused queue is one that serves a single active
//! consumer and has none ([`State::serves_one`]), so that a queue that is not paused pays nothing for it.

use super::{Queue, State, Wakes};

impl State {
    /// Keeps in step who is served; called after each change of the active consumer, or of the pause.
    pub(super) fn look_who_is_served(&mut self) {
        self.serves_one = self.single_active || self.paused;
        self.served = if self.paused { None } else { self.active };
    }

    /// Whether somebody consumes who would get messages.
    pub(super) fn has_takers(&self) -> bool {
        self.consumer_count > 0 && !self.paused
    }

    /// Takes back what consumers were assigned and have not fetched. They keep their room for it, and their turn.
    fn take_back_assigned(&mut self) {
        for slot in 0..self.consumers.len() {
            let Some(consumer) = &mut self.consumers[slot] else {
                continue;
            };
            let assigned = std::mem::take(&mut consumer.assigned);
            consumer.give_unused(assigned.len() as u32);
            for entry in assigned {
                self.assigned -= 1;
                self.put_back(entry);
            }
        }
        // Afterwards: what one gave back may be room that it shares with another.
        (0..self.consumers.len()).for_each(|slot| self.enter_turn(slot as u32));
    }
}

impl Queue {
    /// Pauses the queue: from now on nothing is fetched from it or taken out of it. What was fetched before is on its way.
    /// Or has it go on. [`crate::vhost::Vhost::pause_queue`] also has that outlive a restart.
    pub fn set_paused(&self, paused: bool, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        if state.paused == paused || state.deleted {
            return;
        }
        state.paused = paused;
        state.look_who_is_served();
        if paused {
            state.take_back_assigned();
        }
        state.dispatch(wakes);
        if state.is_watched() {
            // What consumers had room for counted as delivered.
            self.book(&state, 0, wakes);
        }
        self.after(&mut state, wakes);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.state.lock().paused
    }
}
