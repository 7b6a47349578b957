//! Who writes to which queue, who reads it, and which numbers are due there.
//!
//! A publisher numbers its messages from 0. The queue of a message follows from the publisher and
//! the number, so a consumer that reads many queues knows from which one a message came.

use crate::options::{Exchange, Scenario};

/// How messages, queues and consumers are spread.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    exchange: Exchange,
    publishers: usize,
    queues: usize,
    groups: usize,
}

impl Scenario {
    /// How this run spreads its messages.
    pub fn share(&self) -> Share {
        let readers = if self.consumers == 0 {
            self.queues
        } else {
            self.consumers
        };
        Share {
            exchange: self.exchange,
            publishers: self.publishers,
            queues: self.queues,
            groups: readers.min(self.queues),
        }
    }

    /// Whether each publisher has several queues of its own, instead of one.
    pub fn queues_in_turn(&self) -> bool {
        self.publishers < self.queues
    }

    /// Whether a single binding takes every key.
    pub fn one_for_all(&self) -> bool {
        self.exchange == Exchange::Topic && self.bindings == 1 && self.queues == 1 && self.keys > 1
    }

    /// Different prepared messages of a publisher, used in turn.
    pub fn slab_keys(&self) -> usize {
        match self.exchange {
            Exchange::Default => self.share().queues_each() * self.topics,
            Exchange::Fanout => 1,
            Exchange::Direct | Exchange::Topic | Exchange::Headers => self.keys,
        }
    }
}

impl Share {
    /// Sets of queues that are read together; queue `q` is in set `q mod groups`.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The queues of a set.
    pub fn queues_of(&self, group: usize) -> impl Iterator<Item = usize> + use<> {
        (group..self.queues).step_by(self.groups)
    }

    /// The place of a queue within its set.
    #[inline]
    pub fn place(&self, queue: usize) -> usize {
        queue / self.groups
    }

    /// Queues that one publisher writes to in turn, through the default exchange.
    fn queues_each(&self) -> usize {
        (self.queues / self.publishers).max(1)
    }

    /// Where message `number` of `publisher` goes; meaningless for a fanout exchange.
    #[inline]
    pub fn queue(&self, publisher: usize, number: u64) -> usize {
        match self.exchange {
            Exchange::Default if self.publishers < self.queues => {
                publisher + self.publishers * (number % self.queues_each() as u64) as usize
            }
            Exchange::Default | Exchange::Fanout => publisher % self.queues,
            // Key i is bound to queue i mod queues, and the keys are a multiple of the queues.
            Exchange::Direct | Exchange::Topic | Exchange::Headers => {
                (number % self.queues as u64) as usize
            }
        }
    }

    /// The first number of `publisher` on `queue` and the step to the next; `None` if it sends
    /// nothing there.
    pub fn numbers(&self, publisher: usize, queue: usize) -> Option<(u64, u64)> {
        match self.exchange {
            Exchange::Default if self.publishers < self.queues => {
                let first = queue / self.publishers;
                (queue % self.publishers == publisher)
                    .then_some((first as u64, self.queues_each() as u64))
            }
            Exchange::Default => (publisher % self.queues == queue).then_some((0, 1)),
            Exchange::Fanout => Some((0, 1)),
            Exchange::Direct | Exchange::Topic | Exchange::Headers => {
                Some((queue as u64, self.queues as u64))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> Share {
        toml::from_str::<Scenario>(text).unwrap().share()
    }

    #[test]
    fn numbers_follow_the_kind_of_exchange() {
        let s = share("queues = 2\npublishers = 4");
        assert_eq!(s.numbers(3, 1), Some((0, 1)));
        assert_eq!(s.numbers(3, 0), None);
        let s = share("queues = 5\nexchange = \"topic\"");
        assert_eq!(s.numbers(0, 3), Some((3, 5)));
    }

    #[test]
    fn a_number_belongs_to_the_queue_that_it_is_due_on() {
        for text in [
            "queues = 12\npublishers = 4\nconsumers = 5",
            "queues = 12\npublishers = 1\nconsumers = 0",
            "queues = 3\npublishers = 7\nconsumers = 3",
            "queues = 4\nconsumers = 2\nexchange = \"direct\"",
        ] {
            let scenario: Scenario = toml::from_str(text).unwrap();
            let share = scenario.share();
            for publisher in 0..scenario.publishers {
                for number in 0..50 {
                    let owners: Vec<usize> = (0..scenario.queues)
                        .filter(|&queue| {
                            share
                                .numbers(publisher, queue)
                                .is_some_and(|(first, step)| {
                                    number >= first && (number - first).is_multiple_of(step)
                                })
                        })
                        .collect();
                    assert_eq!(owners, [share.queue(publisher, number)], "{text}");
                }
            }
        }
    }

    #[test]
    fn each_queue_is_in_one_set_at_its_place() {
        let s = share("queues = 7\npublishers = 7\nconsumers = 3");
        assert_eq!(s.groups(), 3);
        assert_eq!(s.queues_of(1).collect::<Vec<_>>(), [1, 4]);
        for (place, queue) in s.queues_of(0).enumerate() {
            assert_eq!(s.place(queue), place);
        }
        assert_eq!(share("queues = 2\nconsumers = 9").groups(), 2);
    }
}
