//! Changes and publishers at the same time: generations, compiled routes, handles.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_long_chain_of_exchanges_neither_recurses_nor_stays() {
    let topology = topology(&["q"], &[]);
    const LENGTH: usize = 20_000;
    for n in 0..LENGTH {
        let name = format!("x{n}");
        topology
            .declare_exchange(&ExchangeSpec {
                auto_delete: true,
                ..spec(&name, "fanout")
            })
            .unwrap();
        if n > 0 {
            topology.link(&name, &format!("x{}", n - 1), "");
        }
    }
    topology.bind("q", &format!("x{}", LENGTH - 1), "");
    assert_eq!(topology.to("x0", "k"), ["q"]);
    topology.remove_queue("q");
    assert_eq!(
        topology.counts(),
        Counts {
            compilations: LENGTH as u64,
            ..Names::new("/").counts()
        }
    );
}

#[test]
fn ten_thousand_binds_compile_nothing_and_one_message_compiles_once() {
    let topology = topology(&["q", "r"], &[("busy", "topic"), ("other", "direct")]);
    topology.bind("r", "other", "k");
    assert_eq!(topology.to("other", "k"), ["r"]);
    let before = topology.counts().compilations;
    for n in 0..10_000 {
        topology.bind("q", "busy", &format!("w{n}.*"));
    }
    assert_eq!(topology.counts().compilations, before);
    for n in 0..100 {
        assert_eq!(topology.to("busy", &format!("w{n}.x")), ["q"]);
        assert_eq!(topology.to("other", "k"), ["r"], "is not compiled again");
    }
    assert_eq!(topology.counts().compilations, before + 1);
    topology.remove_queue("q");
    assert!(topology.to("busy", "w1.x").is_empty());
    assert_eq!(topology.counts().compilations, before + 2);
}

#[test]
fn generation_grows_with_every_change_that_may_alter_a_route() {
    let topology = Names::new("/");
    let mut last = topology.generation();
    let mut grew = |what: &str| {
        let now = topology.generation();
        assert!(now > last, "{what}");
        last = now;
    };
    topology.add_queue("q", 1, "q");
    grew("a queue added");
    topology.alias_queue("p", "q");
    grew("an alias");
    topology.declare_exchange(&spec("x", "fanout")).unwrap();
    grew("an exchange declared");
    topology.bind("q", "x", "");
    grew("a binding");
    topology.unbind("q", "x", "");
    grew("an unbinding");
    topology.link("x", "amq.fanout", "");
    grew("a binding between exchanges");
    topology.delete_exchange("x", false).unwrap();
    grew("an exchange deleted");
    topology.remove_queue("q");
    grew("a queue removed");
    topology.remove_queue("q");
    topology.delete_exchange("x", false).unwrap();
    topology.unbind("q", "amq.fanout", "");
    assert_eq!(topology.generation(), last, "nothing was there");
}

#[test]
fn queue_handles_are_let_go_at_once() {
    let topology: Topology<Arc<()>> = Topology::new("/");
    let handle = Arc::new(());
    topology.add_queue("q", 1, handle.clone());
    topology
        .bind_queue("q", "amq.fanout", b"", NO_ARGUMENTS)
        .unwrap();
    topology
        .bind_exchange("amq.fanout", "amq.topic", b"#", NO_ARGUMENTS)
        .unwrap();
    let mut out = Targets::new();
    topology.route(b"amq.topic", b"k", None, &mut out).unwrap();
    assert_eq!(out.len(), 1);
    drop(out);
    topology.remove_queue("q");
    assert_eq!(Arc::strong_count(&handle), 1, "no compiled route holds it");
}

#[test]
fn publishers_see_whole_changes_while_others_bind() {
    let topology = topology(&["fixed"], &[("x", "topic")]);
    topology.bind("fixed", "x", "fixed.*");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                // What a connection does: keep the answer while the generation is the same.
                let mut kept: Option<(Route, usize)> = None;
                while !done.load(Ordering::Acquire) {
                    assert_eq!(topology.to("x", "fixed.1"), ["fixed"]);
                    let valid = kept.filter(|(route, _)| route.generation == topology.generation());
                    let count = valid.map_or_else(
                        || {
                            let mut out = Targets::new();
                            let route = topology.route(b"x", b"new", None, &mut out).unwrap();
                            kept = Some((route, out.len()));
                            out.len()
                        },
                        |(_, count)| count,
                    );
                    assert!(count >= seen, "bindings are only added");
                    seen = count;
                }
            });
        }
        let _stop = Stop(&done);
        let mut ids = BTreeSet::new();
        for n in 0..300u64 {
            let name = format!("q{n}");
            topology.add_queue(&name, 100 + n, "new");
            topology.bind(&name, "x", "new");
            ids.insert(100 + n);
            let mut out = Targets::new();
            topology.route(b"x", b"new", None, &mut out).unwrap();
            let found: BTreeSet<u64> = out.iter().map(|(id, _)| *id).collect();
            assert_eq!(found, ids, "a change is seen as soon as it returns");
        }
    });
}

/// Ends the other threads, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
