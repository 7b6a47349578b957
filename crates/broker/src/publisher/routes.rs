//! The routes that a publisher used last.

use std::sync::Arc;

use ahash::RandomState;

use super::stamp::Stamp;
use crate::dedup::Dedup;
use crate::durable::Level;
use crate::flow::Flow;
use crate::queue::{Queue, Settings};
use crate::topology::Targets;

/// Routes kept: at some 300 bytes each, 1.2 MB for who publishes with that many keys.
const ROUTES_MAX: usize = 4_096;
/// Messages in a full cache that find no route, before it starts anew: with more keys in turn than fit, those
/// that are here stay of use.
const MISSES_MAX: usize = 2 * ROUTES_MAX;
/// Places of a new index. Their number is a power of two, and at least half of them stay free, so that a
/// search ends soon.
const INDEX_LEN_MIN: usize = 32;
/// A place of the index without a route.
const FREE: u16 = u16::MAX;
const _: () = assert!(ROUTES_MAX < FREE as usize);

/// A queue that a route ends in.
#[derive(Clone)]
pub(super) struct Target {
    pub queue: Arc<Queue>,
    pub flow: Option<Arc<Flow>>,
    /// Persistent messages in it are logged.
    pub logs: bool,
    /// What to ask it with for each message, if it is not plain.
    pub settings: Option<Arc<Settings>>,
    /// It is a priority queue: where a message goes in it depends on the message.
    pub ranked: bool,
}

/// The queues of a route.
pub(super) type TargetList = Vec<Target>;

/// Where messages with some exchange and key go.
pub(super) struct Route {
    /// Exchange and key as two short strings.
    pub names: Vec<u8>,
    /// Of a topic, the flow that its messages come through.
    flow: Option<Arc<Flow>>,
    /// Of a topic, how the record of a message without properties begins: see [`super::stamp`].
    pub stamp: Stamp,
    /// The queues.
    pub targets: Arc<TargetList>,
    /// Not all of them are plain, or the exchange is not.
    pub by_rules: bool,
    /// What the exchange remembers, if it drops repeats.
    pub dedup: Option<Arc<Dedup>>,
    /// The batch in which `pending` is valid.
    pub epoch: u64,
    /// Where in the batch the messages go. Of a published route, for each target: the index of its entries,
    /// or of what its flow accepts. Of a topic, one number: that of the route.
    pub pending: Vec<u32>,
}

/// The last routes by exchange and key, all of one generation of the topology: with the next one they are all
/// forgotten. Their memory stays and is used again, so that another route costs no allocation.
pub(super) struct RouteCache {
    generation: u64,
    /// The first `kept` are valid and in the index; one more may be there for a message that depends on
    /// more than its names.
    routes: Vec<Route>,
    kept: usize,
    /// Messages that found no route since the cache is full.
    misses: usize,
    /// Places by hash, the next free one if that is taken. It grows with `kept`.
    index: Vec<u16>,
    /// The number of the last route that was found or taken in.
    last: usize,
    hasher: RandomState,
}

impl RouteCache {
    pub fn new() -> Self {
        Self {
            generation: 0,
            routes: Vec::new(),
            kept: 0,
            misses: 0,
            index: Vec::new(),
            last: 0,
            hasher: RandomState::new(),
        }
    }

    /// The number of the route for `names`, two short strings, under `generation`, if it is here.
    #[inline]
    pub fn find(&mut self, names: &[u8], generation: u64) -> Option<usize> {
        let fits = |route: &Route| route.names == names;
        if generation == self.generation && self.last < self.kept && fits(&self.routes[self.last]) {
            return Some(self.last);
        }
        self.search(key_in(names), generation, fits)
    }

    /// The number of the route for what comes through `flow` with `topic`.
    #[inline]
    pub fn find_topic(&mut self, flow: &Arc<Flow>, topic: &[u8], generation: u64) -> Option<usize> {
        let fits = |route: &Route| {
            let same = route
                .flow
                .as_ref()
                .is_some_and(|own| Arc::ptr_eq(own, flow));
            same && route.names[2 + flow.exchange.len()..] == *topic
        };
        if generation == self.generation && self.last < self.kept && fits(&self.routes[self.last]) {
            return Some(self.last);
        }
        self.search(topic, generation, fits)
    }

    fn search(
        &mut self,
        key: &[u8],
        generation: u64,
        fits: impl Fn(&Route) -> bool,
    ) -> Option<usize> {
        if generation != self.generation || self.kept == 0 {
            return None;
        }
        let mut place = self.place(key);
        while self.index[place] != FREE {
            let number = usize::from(self.index[place]);
            if fits(&self.routes[number]) {
                self.last = number;
                return Some(number);
            }
            place = self.next(place);
        }
        None
    }

    /// Takes a route in that was found under `generation`, and returns its number; `keep`: it will be found again.
    pub fn insert(
        &mut self,
        exchange: &[u8],
        key: &[u8],
        generation: u64,
        keep: bool,
        targets: &Targets<Arc<Queue>>,
    ) -> usize {
        if generation != self.generation {
            self.forget();
            self.generation = generation;
        }
        let keep = keep && self.has_room();
        let number = self.kept;
        if number == self.routes.len() {
            self.routes.push(Route::empty());
        }
        self.routes[number].fill(exchange, key, targets);
        self.last = number;
        if keep {
            self.kept += 1;
            if self.index.len() < 2 * self.kept {
                self.grow();
            } else {
                self.enter(number);
            }
        }
        number
    }

    /// Whether one more route can be kept.
    fn has_room(&mut self) -> bool {
        if self.kept == ROUTES_MAX {
            self.misses += 1;
            if self.misses > MISSES_MAX {
                self.forget();
            }
        }
        self.kept < ROUTES_MAX
    }

    /// Makes the index larger.
    #[cold]
    fn grow(&mut self) {
        let len = (2 * self.index.len()).max(INDEX_LEN_MIN);
        self.index.clear();
        self.index.resize(len, FREE);
        for number in 0..self.kept {
            self.enter(number);
        }
    }

    /// Enters a route into the index.
    fn enter(&mut self, number: usize) {
        let mut place = self.place(key_in(&self.routes[number].names));
        while self.index[place] != FREE {
            place = self.next(place);
        }
        self.index[place] = number as u16;
    }

    /// Makes the route `number` one of what comes through `flow` with `topic`.
    pub fn come_through(&mut self, number: usize, flow: &Arc<Flow>, topic: &[u8]) {
        let route = &mut self.routes[number];
        route.flow = Some(Arc::clone(flow));
        route
            .stamp
            .make(&route.names, topic, flow.sender.as_deref());
    }

    /// The route that [`RouteCache::find`] or [`RouteCache::insert`] just named.
    #[inline]
    pub fn get(&mut self, number: usize) -> &mut Route {
        &mut self.routes[number]
    }

    /// The route that was found or taken in last.
    pub fn last(&self) -> Option<&Route> {
        self.routes.get(self.last)
    }

    fn forget(&mut self) {
        self.kept = 0;
        self.misses = 0;
        self.index.fill(FREE);
    }

    fn place(&self, key: &[u8]) -> usize {
        self.hasher.hash_one(key) as usize & (self.index.len() - 1)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.index.len() - 1)
    }
}

/// The key of two short strings, the exchange and the key.
fn key_in(names: &[u8]) -> &[u8] {
    &names[usize::from(names[0]) + 2..]
}

impl Route {
    fn empty() -> Self {
        Self {
            names: Vec::new(),
            flow: None,
            stamp: Stamp::default(),
            targets: Arc::default(),
            by_rules: false,
            dedup: None,
            epoch: 0,
            pending: Vec::new(),
        }
    }

    /// Whether an exchange on the way keeps the message.
    pub fn is_kept(&self) -> bool {
        self.targets.iter().any(|it| it.queue.is_history())
    }

    fn fill(&mut self, exchange: &[u8], key: &[u8], targets: &Targets<Arc<Queue>>) {
        self.epoch = 0;
        self.flow = None;
        self.names.clear();
        crate::record::write_names(&mut self.names, exchange, key);
        let targets = targets.iter().map(|(_, queue)| Target {
            queue: Arc::clone(queue),
            flow: queue.flow(),
            logs: queue.level() != Level::Memory,
            settings: queue.settings_for_publishers(),
            ranked: queue.is_ranked(),
        });
        match Arc::get_mut(&mut self.targets) {
            Some(list) => {
                list.clear();
                list.extend(targets);
            }
            // The batch still needs the old ones.
            None => self.targets = Arc::new(targets.collect()),
        }
        self.by_rules = self.targets.iter().any(|it| it.settings.is_some());
        self.dedup = None;
    }

    /// Makes it one from an exchange that drops repeats.
    pub fn drop_repeats(&mut self, dedup: Option<Arc<Dedup>>) {
        self.by_rules |= dedup.is_some();
        self.dedup = dedup;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(exchange: &str, key: &str) -> Vec<u8> {
        let mut names = Vec::new();
        crate::record::write_names(&mut names, exchange.as_bytes(), key.as_bytes());
        names
    }

    fn insert(cache: &mut RouteCache, key: &str, generation: u64, keep: bool) -> usize {
        cache.insert(b"ex", key.as_bytes(), generation, keep, &Targets::new())
    }

    #[test]
    fn a_route_is_found_by_all_of_its_names_and_under_its_generation_only() {
        let mut cache = RouteCache::new();
        assert_eq!(cache.find(&names("ex", "a"), 0), None);
        let number = insert(&mut cache, "a", 5, true);
        for _ in 0..2 {
            assert_eq!(cache.find(&names("ex", "a"), 5), Some(number));
            for (exchange, key) in [
                ("ex", "b"),
                ("ey", "a"),
                ("e", "xa"),
                ("exa", ""),
                ("", "a"),
            ] {
                assert_eq!(cache.find(&names(exchange, key), 5), None);
            }
            assert_eq!(cache.find(&names("ex", "a"), 6), None);
            // Others, so that it is not the last one any more.
            insert(&mut cache, "b2", 5, true);
        }
        insert(&mut cache, "b", 6, true);
        assert_eq!(cache.find(&names("ex", "a"), 5), None);
        assert_eq!(cache.find(&names("ex", "a"), 6), None);
    }

    #[test]
    fn what_is_not_to_be_kept_is_never_found() {
        let mut cache = RouteCache::new();
        let number = insert(&mut cache, "a", 1, false);
        assert_eq!(cache.get(number).names, names("ex", "a"));
        assert_eq!(cache.find(&names("ex", "a"), 1), None);
        let kept = insert(&mut cache, "b", 1, true);
        let number = insert(&mut cache, "a", 1, false);
        assert_ne!(kept, number);
        assert_eq!(cache.find(&names("ex", "a"), 1), None);
        assert_eq!(cache.find(&names("ex", "b"), 1), Some(kept));
    }

    #[test]
    fn as_many_routes_as_fit_are_found_and_they_stay_until_too_many_others_are_not() {
        let mut cache = RouteCache::new();
        let key = |n: usize| format!("key-{n}");
        for n in 0..ROUTES_MAX {
            assert_eq!(insert(&mut cache, &key(n), 1, true), n);
            assert!(cache.index.len() >= 2 * cache.kept);
        }
        assert_eq!(cache.index.len(), 2 * ROUTES_MAX);
        for n in 0..MISSES_MAX {
            let number = insert(&mut cache, "one too many", 1, true);
            assert_eq!(number, ROUTES_MAX);
            assert_eq!(cache.get(number).names, names("ex", "one too many"));
            assert_eq!(cache.find(&names("ex", "one too many"), 1), None);
            let kept = n % ROUTES_MAX;
            assert_eq!(cache.find(&names("ex", &key(kept)), 1), Some(kept));
        }
        assert_eq!(insert(&mut cache, "last", 1, true), 0);
        for n in 0..ROUTES_MAX {
            assert_eq!(cache.find(&names("ex", &key(n)), 1), None);
        }
        assert_eq!(cache.find(&names("ex", "last"), 1), Some(0));
    }

    #[test]
    fn few_routes_take_a_small_index() {
        let mut cache = RouteCache::new();
        assert_eq!(cache.index.capacity(), 0);
        for n in 0..INDEX_LEN_MIN / 2 {
            insert(&mut cache, &format!("key-{n}"), 1, true);
        }
        assert_eq!(cache.index.len(), INDEX_LEN_MIN);
    }
}
