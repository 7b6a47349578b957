//! The fuzz targets' corpus, and random neighbours of it, through the targets' own entry functions.
// The helpers of a test are test code too.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/entries/wire.rs"]
mod entry;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.display().to_string(), std::fs::read(path).unwrap()));
    }
    assert!(files.len() >= 5, "the corpus of {target} is gone");
    files.sort();
    files
}

fn bytes_of(target: &str) -> Vec<Vec<u8>> {
    corpus(target).into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn every_prefix_of_the_corpus_passes() {
    for (name, bytes) in corpus("wire_decode") {
        println!("{name}");
        (0..=bytes.len()).for_each(|end| entry::wire_decode(&bytes[..end]));
    }
    for (name, bytes) in corpus("field_table") {
        println!("{name}");
        (0..=bytes.len()).for_each(|end| entry::field_table(&bytes[..end]));
    }
}

fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    (proptest::sample::select(bytes_of(target)), edits).prop_map(|(mut bytes, edits)| {
        for (at, octet) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = octet;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn damaged_frames_pass(data in damaged("wire_decode")) {
        entry::wire_decode(&data);
    }

    #[test]
    fn damaged_tables_pass(data in damaged("field_table")) {
        entry::field_table(&data);
    }

    #[test]
    fn garbage_passes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        entry::wire_decode(&data);
        entry::field_table(&data);
    }
}
