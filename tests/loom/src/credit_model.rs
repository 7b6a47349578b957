//! Queues on several threads take room of a channel's one limit while the channel gives room back.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use super::credit::SharedCredit;

#[test]
fn no_more_is_taken_than_the_limit_allows() {
    super::model(|| {
        let credit = Arc::new(SharedCredit::default());
        credit.set_limit(2);
        let out = Arc::new(AtomicU32::new(0));
        let takers = [(); 2].map(|()| {
            let (credit, out) = (Arc::clone(&credit), Arc::clone(&out));
            thread::spawn(move || {
                for _ in 0..2 {
                    if credit.take() {
                        assert!(out.fetch_add(1, Ordering::SeqCst) < 2);
                    }
                }
            })
        });
        for taker in takers {
            taker.join().expect("it took");
        }
        assert_eq!(out.load(Ordering::SeqCst), 2);
        assert!(!credit.has_room());
    });
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    super::model(|| {
        let credit = Arc::new(SharedCredit::default());
        credit.set_limit(1);
        assert!(credit.take());
        let giver = {
            let credit = Arc::clone(&credit);
            thread::spawn(move || credit.give(1))
        };
        let taker = {
            let credit = Arc::clone(&credit);
            thread::spawn(move || credit.take())
        };
        giver.join().expect("it gave");
        let taken = taker.join().expect("it tried");
        assert_eq!(credit.has_room(), !taken);
        assert_eq!(credit.take(), !taken);
    });
}
