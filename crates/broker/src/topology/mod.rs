//! x
#[allow(dead_code)]
mod trie;
