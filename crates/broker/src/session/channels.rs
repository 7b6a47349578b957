//! The channels of a connection, by number.

use super::channel::Channel;

/// Channels in the order of their numbers, with the place of the last one that was asked for: frames come
/// in runs of one channel, and a run looks its channel up once.
#[derive(Default)]
pub(super) struct Channels {
    numbers: Vec<u16>,
    /// The channel with each of `numbers`.
    list: Vec<Channel>,
    last: usize,
}

impl Channels {
    /// The channel `id`, if it is there.
    #[inline(always)]
    pub fn get_mut(&mut self, id: u16) -> Option<&mut Channel> {
        if self.numbers.get(self.last) != Some(&id) {
            self.last = self.find(id).ok()?;
        }
        self.list.get_mut(self.last)
    }

    pub fn contains(&self, id: u16) -> bool {
        self.find(id).is_ok()
    }

    /// Adds a channel whose number is free.
    pub fn insert(&mut self, channel: Channel) {
        let place = self.find(channel.id);
        let place = place.expect_err("a channel is opened once");
        self.numbers.insert(place, channel.id);
        self.list.insert(place, channel);
        self.last = place;
    }

    pub fn remove(&mut self, id: u16) -> Option<Channel> {
        let place = self.find(id).ok()?;
        self.numbers.remove(place);
        Some(self.list.remove(place))
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All channels, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.list.iter()
    }

    /// The numbers of all channels, in their order.
    pub fn numbers(&self) -> &[u16] {
        &self.numbers
    }

    /// The place of the channel `id`, or the one for it.
    #[inline(never)]
    fn find(&self, id: u16) -> Result<usize, usize> {
        self.numbers.binary_search(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_found_by_its_number_whatever_was_asked_for_before() {
        let mut channels = Channels::default();
        assert!(channels.get_mut(0).is_none());
        let numbers = [7, 1, u16::MAX, 3, 2];
        for id in numbers {
            channels.insert(Channel::new(id));
        }
        assert_eq!(channels.numbers(), [1, 2, 3, 7, u16::MAX]);
        for first in numbers {
            for second in numbers {
                assert_eq!(channels.get_mut(first).expect("open").id, first);
                assert_eq!(channels.get_mut(second).expect("open").id, second);
            }
        }
        // The last one that was asked for goes, and so does one before it.
        for gone in [2, 1] {
            assert_eq!(channels.remove(gone).expect("open").id, gone);
            assert!(channels.get_mut(gone).is_none() && !channels.contains(gone));
            assert!(channels.remove(gone).is_none());
        }
        for id in [3, 7, u16::MAX] {
            assert_eq!(channels.get_mut(id).expect("open").id, id);
        }
        assert_eq!(channels.len(), 3);
    }
}
