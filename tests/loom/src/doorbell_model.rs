//! A connection's task waits at its door while other threads ring.

use std::future::poll_fn;

use backbone_broker::queue::Bell;
use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

use super::doorbell::{Doorbell, News};

/// Waits until `count` rings came, as a connection does.
fn collect(doorbell: &Doorbell, count: usize) -> Vec<u64> {
    let mut rung = Vec::new();
    while rung.len() < count {
        block_on(poll_fn(|cx| doorbell.poll(cx)));
        let mut news = News::default();
        doorbell.take(&mut news);
        rung.append(&mut news.rung);
    }
    rung.sort_unstable();
    rung
}

#[test]
fn no_ring_is_lost_and_none_wakes_for_nothing_for_ever() {
    super::model(|| {
        let doorbell = Arc::new(Doorbell::default());
        let ringers = [1, 2].map(|key| {
            let doorbell = Arc::clone(&doorbell);
            thread::spawn(move || doorbell.ring(key))
        });
        assert_eq!(collect(&doorbell, 2), [1, 2]);
        for ringer in ringers {
            ringer.join().expect("it rang");
        }
    });
}

#[test]
fn rings_of_one_thread_are_heard_whenever_they_come() {
    super::model(|| {
        let doorbell = Arc::new(Doorbell::default());
        let ringer = {
            let doorbell = Arc::clone(&doorbell);
            thread::spawn(move || {
                doorbell.ring(1);
                doorbell.ring_all(&mut [2, 3].into_iter());
            })
        };
        assert_eq!(collect(&doorbell, 3), [1, 2, 3]);
        ringer.join().expect("it rang");
    });
}
