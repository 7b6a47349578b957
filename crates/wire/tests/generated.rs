//! The checked-in sources are what the generator makes of the checked-in table.
// The helpers of a test are test code too.
#![allow(clippy::unwrap_used)]

#[path = "../generator/emit.rs"]
mod emit;
#[path = "../generator/spec.rs"]
mod spec;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn checked_in_sources_are_what_the_generator_makes() {
    for (path, text) in emit::files(&spec::parse(&read(spec::PATH))) {
        let same = read(&path) == text;
        assert!(
            same,
            "{path} differs: run `cargo run -p backbone-wire --example generate`"
        );
    }
}

#[test]
fn no_source_of_the_method_module_is_left_over() {
    let mut expected = BTreeSet::from(["src/method/mod.rs".to_string()]);
    for (path, _) in emit::files(&spec::parse(&read(spec::PATH))) {
        if path.starts_with("src/method/") {
            expected.insert(path);
        }
    }
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("src/method")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        found.insert(format!("src/method/{name}"));
    }
    assert_eq!(found, expected);
}
