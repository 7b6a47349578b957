//! What is reserved, pushed, given up, paged in and paged out in an unlucky order.

use std::ops::Range;

use super::*;

/// A queue whose messages are in the log, of which the test plays the pager.
struct Spilled {
    arena: Arena,
    queue: Queue,
    asked: Arc<Bells>,
    bell: Arc<Bells>,
    /// What the log would have.
    logged: BTreeSet<u64>,
    dropped: Vec<Entry>,
    wakes: Wakes,
}

/// Two messages of ten bytes.
const TWO: Room = Room {
    messages: 2,
    bytes: usize::MAX,
};

impl Spilled {
    fn new() -> Self {
        let options = QueueOptions {
            level: Level::Synced,
            ..QueueOptions::default()
        };
        let queue = Queue::new("q", 1, options);
        let asked = Arc::<Bells>::default();
        queue.set_page_bell(Arc::clone(&asked) as Arc<dyn Bell>);
        Self {
            arena: Arena::new(),
            queue,
            asked,
            bell: Arc::default(),
            logged: BTreeSet::new(),
            dropped: Vec::new(),
            wakes: Wakes::default(),
        }
    }

    fn reserve(&self, count: u64) -> Range<u64> {
        self.queue.reserve(count, &mut Vec::new()).unwrap()
    }

    fn entries(&self, numbers: Range<u64>, flags: u32) -> Vec<Entry> {
        let count = numbers.end - numbers.start;
        let segment = self.arena.commit(&mut vec![0; 10 * count as usize], count);
        let entry = |seq| Entry {
            seq,
            segment: segment.id(),
            offset: 10 * (seq - numbers.start) as u32,
            len: 10,
            flags,
        };
        numbers.clone().map(entry).collect()
    }

    fn push(&mut self, numbers: Range<u64>, keep: Room) -> Pushed {
        let entries = self.entries(numbers.clone(), Entry::LOGGED);
        let before = self.dropped.len();
        let (dropped, wakes) = (&mut self.dropped, &mut self.wakes);
        let pushed = self.queue.push_reserved(&entries, keep, dropped, wakes);
        match pushed {
            Pushed::Taken => crate::flow::release(&self.arena, &self.dropped[before..]),
            Pushed::Deleted { .. } => crate::flow::release(&self.arena, &entries),
        }
        self.logged.extend(numbers);
        self.wakes.ring();
        pushed
    }

    /// What the pager does up to the moment in which it hands in.
    fn read(&self, page: Page) -> (u64, Vec<Entry>) {
        let there: Vec<u64> = self.logged.range(page.from..page.limit).copied().collect();
        let taken = &there[..there.len().min(page.room.messages)];
        let until = there.get(taken.len()).copied().unwrap_or(page.limit);
        let read = taken
            .iter()
            .flat_map(|seq| self.entries(*seq..*seq + 1, Entry::LOGGED));
        (until, read.collect())
    }

    fn hand_in(&mut self, page: Page, (until, read): (u64, Vec<Entry>)) -> bool {
        let (found, wakes) = (read.len() as u64, &mut self.wakes);
        let taken = self.queue.page_in(page, until, found, &read, wakes);
        if !taken {
            crate::flow::release(&self.arena, &read);
        }
        self.wakes.ring();
        taken
    }

    fn page(&mut self, keep: Room) -> bool {
        let Some(page) = self.queue.page_wanted(keep) else {
            return false;
        };
        let read = self.read(page);
        self.hand_in(page, read)
    }

    fn page_out(&mut self, keep: Room) -> u64 {
        let before = self.dropped.len();
        self.queue.page_out(keep, &mut self.dropped);
        crate::flow::release(&self.arena, &self.dropped[before..]);
        (self.dropped.len() - before) as u64
    }

    fn consume(&mut self, prefetch: u32) -> ConsumerId {
        let spec = ConsumerSpec {
            bell: Arc::clone(&self.bell) as Arc<dyn Bell>,
            key: 1,
            prefetch,
            shared: None,
            no_ack: false,
            exclusive: false,
            priority: 0,
        };
        let id = self.queue.consume(spec, &mut self.wakes).unwrap();
        self.wakes.ring();
        id
    }

    /// Takes what is there, and settles it.
    fn fetch(&mut self, id: ConsumerId) -> Vec<u64> {
        let mut got = Vec::new();
        let (queue, wakes) = (&self.queue, &mut self.wakes);
        queue.fetch(id, usize::MAX, usize::MAX, &mut got, wakes);
        queue.settle(Some(id), got.len() as u32, wakes);
        self.wakes.ring();
        crate::flow::release(&self.arena, &got);
        let logged = got.iter().filter(|entry| entry.is_logged());
        logged.for_each(|entry| assert!(self.logged.remove(&entry.seq)));
        numbers(&got)
    }

    fn asked(&self) -> bool {
        !std::mem::take(&mut *self.asked.rung.lock()).is_empty()
    }

    fn ready(&self) -> u64 {
        self.queue.stats().ready
    }

    /// Everything comes, in order, and nothing stays.
    fn drain(&mut self) -> Vec<u64> {
        let id = self.consume(0);
        let mut all = Vec::new();
        loop {
            all.extend(self.fetch(id));
            if !self.page(TWO) {
                break;
            }
        }
        assert_eq!((self.ready(), self.arena.segments()), (0, 0));
        all
    }
}

#[test]
fn a_number_that_comes_late_joins_those_that_are_in_the_log_alone() {
    let mut world = Spilled::new();
    let [first, late, other] = [2, 3, 4].map(|count| world.reserve(count));
    world.push(first, TWO);
    world.push(other, TWO);
    assert_eq!(world.ready(), 6);
    // It has to stay below what was spilled, and nothing of that may be forgotten.
    world.push(late, TWO);
    assert_eq!(world.ready(), 9);
    assert_eq!(world.drain(), (0..9).collect::<Vec<_>>());
}

#[test]
fn a_page_stops_at_what_is_on_its_way() {
    let mut world = Spilled::new();
    let id = world.consume(0);
    let [first, late, other] = [4, 1, 4].map(|count| world.reserve(count));
    world.push(first, TWO);
    world.push(other, TWO);
    assert_eq!(world.fetch(id), [0, 1]);
    assert!(world.asked());
    while world.page(TWO) {}
    assert_eq!(world.fetch(id), [2, 3]);
    assert!(!world.asked(), "there is nothing to be brought yet");
    world.push(late, TWO);
    assert!(world.asked());
    while world.page(TWO) {}
    assert_eq!(world.fetch(id), [4, 5, 6, 7, 8]);
}

#[test]
fn numbers_that_are_given_up_let_those_behind_come() {
    let mut world = Spilled::new();
    let id = world.consume(0);
    let [first, never, other] = [3, 1, 4].map(|count| world.reserve(count));
    world.push(first, TWO);
    world.push(other, TWO);
    assert_eq!(world.fetch(id), [0, 1]);
    assert!(world.page(TWO) && !world.page(TWO));
    assert_eq!(world.fetch(id), [2]);
    world.asked();
    let given_up = world.queue.give_up(&never, Vec::new(), &mut world.wakes);
    assert!(!given_up);
    world.wakes.ring();
    assert!(world.asked());
    while world.page(TWO) {}
    assert_eq!(world.fetch(id), [4, 5, 6, 7]);
    let mut gaps = Vec::new();
    world.queue.reserve(1, &mut gaps).unwrap();
    let told = (gaps.len(), gaps.first());
    assert_eq!(told, (1, Some(&(3..4))), "with the next batch");
}

#[test]
fn a_page_that_comes_too_late_is_asked_for_again() {
    let mut world = Spilled::new();
    let id = world.consume(1);
    let numbers = world.reserve(12);
    world.push(numbers, Room { messages: 8, ..TWO });
    assert!(!world.asked());
    let page = world.queue.page_wanted(TWO).unwrap();
    let read = world.read(page);
    // Meanwhile more is given up.
    assert_eq!(world.page_out(TWO), 6);
    assert!(!world.hand_in(page, read));
    assert!(!world.asked(), "two are there");
    let mut all: Vec<u64> = Vec::new();
    loop {
        let got = world.fetch(id);
        all.extend(&got);
        if got.is_empty() && !world.page(TWO) {
            break;
        }
    }
    assert_eq!(all, (0..12).collect::<Vec<_>>());
}

#[test]
fn who_is_told_that_there_is_nothing_is_asked_again() {
    let mut world = Spilled::new();
    let id = world.consume(0);
    let numbers = world.reserve(4);
    world.push(numbers, TWO);
    assert_eq!(world.fetch(id), [0, 1]);
    assert!(world.asked());
    world.queue.purge();
    world.logged.clear();
    assert!(world.queue.page_wanted(TWO).is_none());
    let numbers = world.reserve(4);
    world.push(numbers, TWO);
    assert_eq!(world.fetch(id), [4, 5]);
    assert!(world.asked());
}

#[test]
fn two_that_bring_the_same_page_bring_it_once() {
    let mut world = Spilled::new();
    let numbers = world.reserve(8);
    world.push(numbers, TWO);
    let page = world.queue.page_wanted(TWO).unwrap();
    let (one, other) = (world.read(page), world.read(page));
    assert!(world.hand_in(page, one));
    assert!(!world.hand_in(page, other));
    assert_eq!(world.ready(), 8);
    assert_eq!(world.drain(), (0..8).collect::<Vec<_>>());
}

#[test]
fn consumers_keep_one_message_and_queues_without_them_none() {
    let none = Room {
        messages: 0,
        bytes: 0,
    };
    let mut world = Spilled::new();
    let numbers = world.reserve(5);
    world.push(numbers, Room::ALL);
    let id = world.consume(1);
    assert_eq!(world.page_out(none), 4);
    world.queue.cancel(id, &mut world.wakes);
    assert_eq!(world.page_out(none), 1);
    assert_eq!((world.ready(), world.arena.segments()), (5, 0));
    assert_eq!(world.drain(), (0..5).collect::<Vec<_>>());
}

#[test]
fn what_was_handed_out_once_stays_in_memory() {
    let mut world = Spilled::new();
    let numbers = world.reserve(6);
    world.push(numbers, Room::ALL);
    let mut taken = Vec::new();
    world.queue.take(3, usize::MAX, &mut taken);
    assert!(world.queue.requeue(None, &taken, &mut world.wakes));
    assert_eq!(world.page_out(Room { messages: 0, ..TWO }), 3);
    assert_eq!(world.drain(), (0..6).collect::<Vec<_>>());
}

#[test]
fn messages_of_memory_alone_keep_their_places_between_pages() {
    let mut world = Spilled::new();
    let numbers = world.reserve(3);
    world.push(numbers, TWO);
    for seq in [3, 5] {
        let unlogged = world.entries(seq..seq + 1, 0);
        assert!(world.queue.push(&unlogged, &mut world.wakes));
        world.logged.insert(seq);
        let numbers = world.reserve(1);
        world.push(numbers, TWO);
    }
    assert_eq!(world.ready(), 7);
    // Of the five that are not at hand, two are in memory.
    assert_eq!(world.queue.stats().paged_out, 3);
    world.logged.retain(|seq| ![3, 5].contains(seq));
    let mut all = Vec::new();
    let mut got = Vec::new();
    while world.page(TWO) || world.queue.take(usize::MAX, usize::MAX, &mut got) > 0 {}
    world.queue.take(usize::MAX, usize::MAX, &mut got);
    all.extend(got.iter().map(|entry| entry.seq));
    crate::flow::release(&world.arena, &got);
    assert_eq!(all, (0..7).collect::<Vec<_>>());
    assert_eq!(world.queue.stats().paged_out, 0);
    assert_eq!(world.arena.segments(), 0);
}

#[test]
fn a_purge_leaves_what_is_on_its_way() {
    let mut world = Spilled::new();
    let [first, late, other] = [4, 2, 4].map(|count| world.reserve(count));
    world.push(first, TWO);
    world.push(other, TWO);
    let page = world.queue.page_wanted(TWO).unwrap();
    let read = world.read(page);
    let emptied = world.queue.purge();
    crate::flow::release(&world.arena, &emptied.entries);
    assert_eq!((emptied.count, emptied.entries.len()), (8, 2));
    assert_eq!(emptied.spilled, [2..4, 6..10]);
    assert!(!world.hand_in(page, read), "purged meanwhile");
    world.logged.clear();
    world.push(late, TWO);
    assert_eq!(world.drain(), [4, 5]);
}

#[test]
fn the_last_one_on_its_way_has_a_deleted_queue_forgotten() {
    let mut world = Spilled::new();
    let [one, other, third] = [1, 2, 3].map(|count| world.reserve(count));
    let emptied = world.queue.delete(DeleteIf::default()).unwrap().unwrap();
    assert!(emptied.in_flight);
    assert_eq!(world.push(other, TWO), Pushed::Deleted { last: false });
    assert!(!world.queue.give_up(&third, Vec::new(), &mut world.wakes));
    assert!(world.queue.give_up(&one, Vec::new(), &mut world.wakes));
    assert!(world.queue.reserve(1, &mut Vec::new()).is_none());
    assert_eq!(world.arena.segments(), 0);
}

#[test]
fn giving_up_costs_nothing_where_nothing_can_be_given_up() {
    let mut world = Spilled::new();
    let unlogged = world.entries(0..9, 0);
    world.queue.push(&unlogged, &mut world.wakes);
    assert_eq!(world.page_out(TWO), 0);
    assert!(world.queue.lock().futile.is_some());
    assert_eq!(world.page_out(TWO), 0);
    let numbers = world.reserve(2);
    world.push(numbers, Room::ALL);
    assert_eq!(world.page_out(TWO), 2);
    let emptied = world.queue.purge();
    crate::flow::release(&world.arena, &emptied.entries);
    assert_eq!((emptied.count, world.arena.segments()), (11, 0));
}

#[test]
fn the_memory_of_a_long_queue_comes_back() {
    let mut world = Spilled::new();
    let numbers = world.reserve(10_000);
    world.push(numbers, Room::ALL);
    assert_eq!(world.page_out(TWO), 9_998);
    assert!(world.queue.lock().ready.capacity() < 100);
    let emptied = world.queue.purge();
    crate::flow::release(&world.arena, &emptied.entries);
}

impl Spilled {
    /// What the pager does up to the moment in which the messages go to the shadow.
    fn ask_for_load(&mut self, keep: Room, batch: Room) -> Vec<Entry> {
        let before = self.dropped.len();
        let (queue, dropped) = (&self.queue, &mut self.dropped);
        let load = queue.to_unload(keep, batch, &self.arena, dropped);
        assert_eq!(load.messages().count(), load.entries.len());
        crate::flow::release(&self.arena, &self.dropped[before..]);
        load.entries
    }

    fn unload(&mut self, entries: &[Entry]) -> bool {
        let unloaded = self.queue.unload(entries, || Ok::<_, ()>(())).unwrap();
        if unloaded.is_some() {
            crate::flow::release(&self.arena, entries);
            self.logged.extend(entries.iter().map(|entry| entry.seq));
        }
        unloaded.is_some()
    }

    fn push_unlogged(&mut self, numbers: Range<u64>) {
        let entries = self.entries(numbers, 0);
        assert!(self.queue.push(&entries, &mut self.wakes));
        self.wakes.ring();
    }
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn the_back_goes_to_the_shadow_first_and_comes_back_in_its_place() {
    let mut world = Spilled::new();
    world.push_unlogged(0..9);
    let load = world.ask_for_load(TWO, Room { messages: 3, ..TWO });
    assert_eq!(numbers(&load), [6, 7, 8]);
    assert!(world.unload(&load));
    assert!(!world.unload(&load), "they are there already");
    world.push_unlogged(9..11);
    let load = world.ask_for_load(TWO, TWO);
    assert_eq!(numbers(&load), [9, 10]);
    assert!(world.unload(&load));
    let stats = world.queue.stats();
    assert_eq!((stats.ready, stats.paged_out), (11, 5));
    assert_eq!(world.drain(), (0..11).collect::<Vec<_>>());
}

#[test]
fn a_large_message_goes_to_the_shadow_alone() {
    let mut world = Spilled::new();
    world.push_unlogged(0..4);
    let bytes = Room {
        messages: 9,
        bytes: 5,
    };
    let load = world.ask_for_load(Room { messages: 0, ..TWO }, bytes);
    assert_eq!(numbers(&load), [3]);
    let bytes = Room { bytes: 25, ..bytes };
    let load = world.ask_for_load(Room { messages: 0, ..TWO }, bytes);
    assert_eq!(numbers(&load), [2, 3]);
    let emptied = world.queue.purge();
    crate::flow::release(&world.arena, &emptied.entries);
    assert!(!world.unload(&load), "purged meanwhile");
}

#[test]
fn a_page_that_knows_nothing_of_the_shadow_comes_too_late() {
    let mut world = Spilled::new();
    let logged = world.reserve(4);
    world.push(logged, TWO);
    world.push_unlogged(4..6);
    let page = world.queue.page_wanted(TWO).unwrap();
    let read = world.read(page);
    let load = world.ask_for_load(TWO, TWO);
    assert_eq!(numbers(&load), [4, 5]);
    assert!(world.unload(&load));
    assert!(!world.hand_in(page, read), "4 and 5 are not in it");
    assert_eq!(world.drain(), (0..6).collect::<Vec<_>>());
}

#[test]
fn what_came_back_from_the_shadow_does_not_go_there_again() {
    let mut world = Spilled::new();
    let none = Room { messages: 0, ..TWO };
    world.push_unlogged(0..4);
    let load = world.ask_for_load(none, Room::ALL);
    assert!(world.unload(&load));
    assert!(world.page(Room::ALL));
    assert_eq!(world.queue.stats().paged_out, 0);
    assert!(world.ask_for_load(none, Room::ALL).is_empty());
    world.push_unlogged(4..6);
    let load = world.ask_for_load(none, Room::ALL);
    assert_eq!(numbers(&load), [4, 5]);
    assert!(world.unload(&load));
    assert_eq!(world.drain(), (0..6).collect::<Vec<_>>());
}

#[test]
fn neither_what_a_consumer_is_about_to_get_nor_what_it_had_goes_to_the_shadow() {
    let mut world = Spilled::new();
    let none = Room { messages: 0, ..TWO };
    world.push_unlogged(0..6);
    let id = world.consume(1);
    assert_eq!(world.fetch(id), [0]);
    let mut taken = Vec::new();
    world.queue.take(1, usize::MAX, &mut taken);
    assert!(world.queue.requeue(None, &taken, &mut world.wakes));
    let load = world.ask_for_load(none, Room::ALL);
    assert_eq!(numbers(&load), [3, 4, 5]);
    assert!(world.unload(&load));
    world.queue.cancel(id, &mut world.wakes);
    assert_eq!(world.drain(), (1..6).collect::<Vec<_>>());
}

#[test]
fn nothing_of_a_deleted_queue_goes_to_its_shadow() {
    let mut world = Spilled::new();
    world.push_unlogged(0..4);
    let load = world.ask_for_load(TWO, TWO);
    let emptied = world.queue.delete(DeleteIf::default()).unwrap().unwrap();
    crate::flow::release(&world.arena, &emptied.entries);
    assert!(!world.unload(&load) && !world.queue.has_shadow());
    assert!(world.ask_for_load(TWO, TWO).is_empty());
    assert_eq!(world.arena.segments(), 0);
}
