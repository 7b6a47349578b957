//! The corpus of the fuzz target `session`, and random input, through the target's own entry function.
// The helpers of a test are test code too.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/entries/session.rs"]
mod entry;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/session");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.display().to_string(), std::fs::read(path).unwrap()));
    }
    assert!(files.len() >= 5, "the corpus is gone");
    files.sort();
    files
}

#[test]
fn every_prefix_of_the_corpus_passes() {
    for (name, bytes) in corpus() {
        println!("{name}");
        (0..=bytes.len()).for_each(|end| entry::session(&bytes[..end]));
    }
}

fn cases() -> u32 {
    std::env::var("BACKBONE_FUZZ_CASES").map_or(300, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn changed_corpora_pass(
        from in proptest::sample::select(corpus()),
        more in proptest::sample::select(corpus()),
        edits in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = [from.1, more.1].concat();
        for (at, octet) in edits {
            let at = at.index(bytes.len());
            bytes[at] = octet;
        }
        entry::session(&bytes);
    }

    #[test]
    fn anything_passes(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        entry::session(&bytes);
    }
}
